//! From planes to features.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, Scaling};
use crate::kernels::batched::{self, Change};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::ops::Execution;
use crate::kernels::{Element, ops};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Delta, Place, Propagate, PropagateBatched, Rule, RuleSetup,
    StreamSetup, Streamed, Support, only,
};

/// (B, C, H, W) to (B, C · H · W), in PyTorch's order: channel, row, column. With images in lanes that is
/// the order of an activation anyway.
#[derive(Debug, Clone)]
pub struct Flatten;

impl Layer for Flatten {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        [inputs[0].iter().product(), 1, 1]
    }

    fn flops(&self, _: &[ActivationShape]) -> u64 {
        0
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].flatten_from(1)?.unsqueeze(2)?.unsqueeze(3)
    }

    fn forward_lanes(&self, _: &LayerPass, _: Execution, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        ops::as_features(inputs[0])
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn scaling(&self) -> Scaling {
        Scaling::Follows
    }
}

impl PropagateBatched for Flatten {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        Ok(Box::new(BatchedFlatten { shape: setup.shapes[0] }))
    }
}

/// As [`FlattenRule`], for batched probes.
#[derive(Debug)]
struct BatchedFlatten {
    shape: ActivationShape,
}

impl BatchedRule for BatchedFlatten {
    /// One channel of many pixels becomes dense: batched changes have all channels or one.
    fn support(&self, inputs: &[Support]) -> Support {
        match inputs[0] {
            Support::Channels { .. } if self.shape[1] * self.shape[2] > 1 => Support::Dense,
            other => other,
        }
    }

    fn apply(&self, inputs: &[Option<&Change>], channels: Option<&Tensor>) -> Result<Tensor> {
        let change = only(inputs)?;
        let data = match (&change.channels, channels) {
            (Some(_), None) => batched::add_change(change, None, self.shape[0], None)?,
            _ => change.data.clone(),
        };
        let (probes, images, ..) = data.dims5()?;
        let n = data.elem_count() / (probes * images);
        data.reshape((probes, images, n, 1, 1))
    }

    fn flops(&self, _: &[Support]) -> u64 {
        0
    }
}

/// δ itself. One channel becomes as many as it has pixels.
#[derive(Debug)]
struct FlattenRule {
    /// Pixels of a channel.
    plane: usize,
}

impl<T: Element> Propagate<T> for Flatten {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        let [_, height, width] = setup.shapes[0];
        Ok(Box::new(FlattenRule { plane: height * width }))
    }
}

impl<T: Element> Rule<T> for FlattenRule {
    fn support(&self, inputs: &[Support]) -> Support {
        match inputs[0] {
            Support::Channels { first, count } => {
                Support::Channels { first: first * self.plane, count: count * self.plane }
            }
            other => other,
        }
    }

    fn apply(&self, _: Place<T>, inputs: &[Delta<T>], _: &[Affine<T>], out: &mut [T], _: &mut Scratch<T>) {
        out.copy_from_slice(inputs[0].data);
    }

    fn flops(&self, _: &[Support]) -> u64 {
        0
    }
}

impl<T: Element> Blockwise<T> for Flatten {
    fn streamed(&self, _: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        Ok(Box::new(StreamedFlatten))
    }
}

struct StreamedFlatten;

impl<T: Element> Streamed<T> for StreamedFlatten {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        out.copy_from_slice(inputs[0]);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::kernels::lanes::Blocks;
    use crate::kernels::ops::Execution;
    use crate::kernels::{Isa, Split};
    use crate::nn::layer::{Epilogue, Mode};

    /// Oracle: PyTorch's `flatten(1)`, which leaves a contiguous tensor as it lies: feature
    /// (c · H + y) · W + x is pixel (c, y, x), here with three different sizes.
    #[test]
    fn features_are_in_the_order_of_pytorch() -> Result<()> {
        let (batch, sizes) = (5, [2, 3, 4]);
        let n: usize = sizes.iter().product();
        let values: Vec<f64> = (0..batch * n).map(|value| value as f64).collect();
        let images = Tensor::from_vec(values.clone(), (batch, 2, 3, 4), &Device::Cpu)?;
        let isa = Isa::current();
        let blocks = Blocks::new::<f64>(isa, batch);
        let execution = Execution { isa, blocks, split: Split::Serial, is_exact: true };
        let pass = LayerPass { mode: Mode::Train, epilogue: Epilogue::None, moments: None };
        let in_lanes = ops::to_lanes(&images, blocks)?;
        let found = ops::to_rows(&Flatten.forward_lanes(&pass, execution, &[], &[&in_lanes])?, blocks)?;
        assert_eq!(found.dims(), [batch, n]);
        assert_eq!(found.flatten_all()?.to_vec1::<f64>()?, values);
        let found = Flatten.forward(&pass, &[], &[&images])?;
        assert_eq!(found.dims(), [batch, n, 1, 1]);
        assert_eq!(found.flatten_all()?.to_vec1::<f64>()?, values);
        Ok(())
    }
}
