//! Residual subtraction.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, elements};
use crate::kernels::batched::{self, Change};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::pointwise::Elementwise;
use crate::kernels::ops::Execution;
use crate::kernels::{Element, Isa, ops};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Delta, Place, Propagate, PropagateBatched, Rule, RuleSetup,
    StreamSetup, Streamed, Support,
};

/// Difference of two activations of equal shape: the first less the second.
#[derive(Debug, Clone)]
pub struct Subtract;

impl Layer for Subtract {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0] - inputs[1]
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::pointwise::subtract(execution, inputs[0], inputs[1])
    }

    fn forward_batched(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].broadcast_sub(inputs[1])
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }
}

impl PropagateBatched for Subtract {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        Ok(Box::new(BatchedSubtract { shape: setup.shapes[0] }))
    }
}

/// δ_out = δ_a − δ_b.
#[derive(Debug)]
struct SubtractRule {
    isa: Isa,
    shape: ActivationShape,
    lanes: usize,
}

impl<T: Element> Propagate<T> for Subtract {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        Ok(Box::new(SubtractRule { isa: setup.isa, shape: setup.shapes[0], lanes: setup.blocks.lanes }))
    }
}

impl<T: Element> Rule<T> for SubtractRule {
    fn support(&self, inputs: &[Support]) -> Support {
        inputs[0].union(inputs[1])
    }

    fn apply(&self, _: Place<T>, inputs: &[Delta<T>], _: &[Affine<T>], out: &mut [T], _: &mut Scratch<T>) {
        let support = inputs[0].support.union(inputs[1].support);
        let [_, height, width] = self.shape;
        let len = height * width * self.lanes;
        for (idx, out) in out.chunks_exact_mut(len).enumerate() {
            let channel = support.channel(idx);
            match (inputs[0].plane(channel, len), inputs[1].plane(channel, len)) {
                (Some(a), Some(b)) => Elementwise::Subtract.run(self.isa, a, b, out),
                (Some(a), None) => out.copy_from_slice(a),
                (None, Some(b)) => out.iter_mut().zip(b).for_each(|(out, &b)| *out = T::ZERO - b),
                (None, None) => out.fill(T::ZERO),
            }
        }
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        numbers(self.shape, inputs)
    }
}

/// As [`SubtractRule`], for batched probes.
#[derive(Debug)]
struct BatchedSubtract {
    shape: ActivationShape,
}

impl BatchedRule for BatchedSubtract {
    fn support(&self, inputs: &[Support]) -> Support {
        inputs[0].union(inputs[1])
    }

    fn apply(&self, inputs: &[Option<&Change>], channels: Option<&Tensor>) -> Result<Tensor> {
        let negative =
            inputs[1].map(|b| Ok::<_, candle_core::Error>(Change { data: b.data.neg()?, ..b.clone() }));
        let negative = negative.transpose()?;
        let mut terms = [inputs[0], negative.as_ref()].into_iter().flatten();
        match terms.next() {
            Some(first) => batched::add_change(first, terms.next(), self.shape[0], channels),
            None => candle_core::bail!("a difference of no changes"),
        }
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        numbers(self.shape, inputs)
    }
}

fn numbers([channels, height, width]: ActivationShape, inputs: &[Support]) -> u64 {
    (inputs[0].union(inputs[1]).planes(channels) * height * width) as u64
}

impl<T: Element> Blockwise<T> for Subtract {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        Ok(Box::new(StreamedSubtract { isa: setup.isa }))
    }
}

struct StreamedSubtract {
    isa: Isa,
}

impl<T: Element> Streamed<T> for StreamedSubtract {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        Elementwise::Subtract.run(self.isa, inputs[0], inputs[1], out);
    }
}
