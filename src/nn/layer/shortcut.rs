//! The parameter-free shortcut of CIFAR ResNets (He et al. 2015, option A).

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, Scaling};
use crate::kernels::batched::Change;
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::pointwise;
use crate::kernels::ops::Execution;
use crate::kernels::{Element, ops};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Delta, Place, Propagate, PropagateBatched, Rule, RuleSetup,
    StreamSetup, Streamed, Support, only,
};
use crate::nn::layer::{Epilogue, Mode};

/// Takes every second row and column and pads the channels with zeros on both sides.
#[derive(Debug, Clone)]
pub struct ShortcutA {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
}

impl Layer for ShortcutA {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        [self.c_out, inputs[0][1].div_ceil(2), inputs[0][2].div_ceil(2)]
    }

    fn flops(&self, _: &[ActivationShape]) -> u64 {
        0
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        let (batch, channels, height, width) = x.dims4()?;
        // Rows and columns 0, 2, 4, …: pad to even sizes, then keep the first of each pair.
        let x = x.pad_with_zeros(2, 0, height % 2)?.pad_with_zeros(3, 0, width % 2)?;
        let (half_h, half_w) = (height.div_ceil(2), width.div_ceil(2));
        let x = x
            .reshape((batch, channels, half_h, 2, half_w, 2))?
            .narrow(3, 0, 1)?
            .narrow(5, 0, 1)?
            .contiguous()?
            .reshape((batch, channels, half_h, half_w))?;
        x.pad_with_zeros(1, self.before(), self.after())
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::pointwise::shortcut(execution, inputs[0], self.before(), self.after())
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn scaling(&self) -> Scaling {
        Scaling::Follows
    }
}

impl PropagateBatched for ShortcutA {
    fn batched_rule(&self, _: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        Ok(Box::new(BatchedShortcut { layer: self.clone() }))
    }
}

/// As [`ShortcutRule`], for batched probes.
#[derive(Debug)]
struct BatchedShortcut {
    layer: ShortcutA,
}

impl BatchedRule for BatchedShortcut {
    fn support(&self, inputs: &[Support]) -> Support {
        moved(inputs[0], self.layer.before())
    }

    fn apply(&self, inputs: &[Option<&Change>], channels: Option<&Tensor>) -> Result<Tensor> {
        let pass = LayerPass { mode: Mode::Train, epilogue: Epilogue::None, moments: None };
        // The one channel that is stored stays one.
        let alone = ShortcutA { c_in: 1, c_out: 1 };
        let layer = if channels.is_some() { &alone } else { &self.layer };
        layer.forward_batched(&pass, &[], &[&only(inputs)?.data])
    }

    fn flops(&self, _: &[Support]) -> u64 {
        0
    }
}

impl ShortcutA {
    /// Channels of zeros before those of the input.
    fn before(&self) -> usize {
        (self.c_out - self.c_in) / 2
    }

    /// And after them.
    fn after(&self) -> usize {
        self.c_out - self.c_in - self.before()
    }
}

/// Support after `before` channels were put in front.
fn moved(support: Support, before: usize) -> Support {
    match support {
        Support::Channels { first, count } => Support::Channels { first: first + before, count },
        other => other,
    }
}

/// The same map applied to δ: some channels stay so many.
#[derive(Debug)]
struct ShortcutRule {
    before: usize,
    shape: ActivationShape,
    lanes: usize,
}

impl ShortcutRule {
    /// All channels: the map itself.
    fn run_dense<T: Element>(&self, input: &[T], out: &mut [T]) {
        let [channels, height, width] = self.shape;
        let len = height.div_ceil(2) * width.div_ceil(2) * self.lanes;
        let (from, to) = (self.before * len, (self.before + channels) * len);
        out[..from].fill(T::ZERO);
        out[to..].fill(T::ZERO);
        pointwise::every_second([height, width], self.lanes, input, &mut out[from..to]);
    }
}

impl<T: Element> Propagate<T> for ShortcutA {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        let (shape, lanes) = (setup.shapes[0], setup.blocks.lanes);
        Ok(Box::new(ShortcutRule { before: self.before(), shape, lanes }))
    }
}

impl<T: Element> Rule<T> for ShortcutRule {
    fn support(&self, inputs: &[Support]) -> Support {
        moved(inputs[0], self.before)
    }

    fn apply(&self, _: Place<T>, inputs: &[Delta<T>], _: &[Affine<T>], out: &mut [T], _: &mut Scratch<T>) {
        if inputs[0].support == Support::Dense {
            self.run_dense(inputs[0].data, out);
        } else {
            let [_, height, width] = self.shape;
            pointwise::every_second([height, width], self.lanes, inputs[0].data, out);
        }
    }

    fn flops(&self, _: &[Support]) -> u64 {
        0
    }
}

impl<T: Element> Blockwise<T> for ShortcutA {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        let (shape, lanes) = (setup.shapes[0], setup.blocks.lanes);
        Ok(Box::new(ShortcutRule { before: self.before(), shape, lanes }))
    }
}

impl<T: Element> Streamed<T> for ShortcutRule {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        self.run_dense(inputs[0], out);
    }
}
