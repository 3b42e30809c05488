//! Rectified linear unit.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, Role, elements};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::pointwise;
use crate::kernels::ops::Schedule;
use crate::kernels::stack::{self, Change};
use crate::kernels::{Element, Isa, ops};
use crate::nn::form::{
    Blockwise, Delta, Place, Propagate, PropagateStacked, Rule, RuleSetup, StackedRule, StackedSetup,
    StreamSetup, Streamed, Support, only,
};

/// max(x, 0).
#[derive(Debug, Clone)]
pub struct Relu;

impl Layer for Relu {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].relu()
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        schedule: Schedule,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::pointwise::relu(schedule, inputs[0])
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn role(&self) -> Role {
        Role::Relu
    }

    fn reads_base(&self) -> bool {
        true
    }
}

impl PropagateStacked for Relu {
    fn stacked_rule(&self, setup: &StackedSetup) -> crate::Result<Box<dyn StackedRule>> {
        Ok(Box::new(StackedRelu { base: setup.base()?, shape: setup.shapes[0] }))
    }
}

/// δ where the input stays positive, what is cut off or uncovered where its sign changes, else 0.
#[derive(Debug)]
struct ReluRule {
    isa: Isa,
    input: usize,
    shape: ActivationShape,
    lanes: usize,
}

impl<T: Element> Propagate<T> for Relu {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        let (input, shape, lanes) = (setup.inputs[0], setup.shapes[0], setup.blocks.lanes);
        Ok(Box::new(ReluRule { isa: setup.isa, input, shape, lanes }))
    }
}

impl<T: Element> Rule<T> for ReluRule {
    fn apply(
        &self,
        place: Place<T>,
        inputs: &[Delta<T>],
        _: &[Affine<T>],
        out: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let [_, height, width] = self.shape;
        let len = height * width * self.lanes;
        out.copy_from_slice(inputs[0].data);
        for (idx, out) in out.chunks_exact_mut(len).enumerate() {
            pointwise::relu(self.isa, place.plane(self.input, inputs[0].support.channel(idx), len), out);
        }
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        change_flops(self.shape, inputs[0])
    }
}

/// As [`ReluRule`], for stacked probes.
#[derive(Debug)]
struct StackedRelu {
    /// Input at the base point.
    base: Tensor,
    shape: ActivationShape,
}

impl StackedRule for StackedRelu {
    fn apply(&self, inputs: &[Option<&Change>], _: Option<&Tensor>) -> Result<Tensor> {
        stack::relu_change(only(inputs)?, &self.base)
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        change_flops(self.shape, inputs[0])
    }
}

/// Addition, two comparisons and a choice per number.
fn change_flops([channels, height, width]: ActivationShape, support: Support) -> u64 {
    (4 * support.planes(channels) * height * width) as u64
}

impl<T: Element> Blockwise<T> for Relu {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        Ok(Box::new(StreamedRelu { isa: setup.isa }))
    }
}

struct StreamedRelu {
    isa: Isa,
}

impl<T: Element> Streamed<T> for StreamedRelu {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        pointwise::Elementwise::Relu.run(self.isa, inputs[0], &[], out);
    }
}
