//! Residual addition.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, Role, elements};
use crate::kernels::batched::{self, Change};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::pointwise;
use crate::kernels::ops::Execution;
use crate::kernels::{Element, Isa, ops};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Delta, Place, Propagate, PropagateBatched, Rule, RuleSetup,
    StreamSetup, Streamed, Support,
};

/// Sum of two activations of equal shape.
#[derive(Debug, Clone)]
pub struct Add;

impl Layer for Add {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0] + inputs[1]
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::pointwise::add(execution, inputs[0], inputs[1])
    }

    fn forward_batched(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].broadcast_add(inputs[1])
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn role(&self) -> Role {
        Role::Add
    }
}

impl PropagateBatched for Add {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        Ok(Box::new(BatchedAdd { shape: setup.shapes[0] }))
    }
}

/// δ_out = δ_a + δ_b.
#[derive(Debug)]
struct AddRule {
    isa: Isa,
    shape: ActivationShape,
    lanes: usize,
}

impl<T: Element> Propagate<T> for Add {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        Ok(Box::new(AddRule { isa: setup.isa, shape: setup.shapes[0], lanes: setup.blocks.lanes }))
    }
}

impl<T: Element> Rule<T> for AddRule {
    fn support(&self, inputs: &[Support]) -> Support {
        inputs[0].union(inputs[1])
    }

    fn apply(&self, _: Place<T>, inputs: &[Delta<T>], _: &[Affine<T>], out: &mut [T], _: &mut Scratch<T>) {
        let support = inputs[0].support.union(inputs[1].support);
        let [channels, height, width] = self.shape;
        let len = height * width * self.lanes;
        for (idx, out) in out.chunks_exact_mut(len).enumerate() {
            let channel = support.channel(idx);
            debug_assert!(channel < channels);
            match (inputs[0].plane(channel, len), inputs[1].plane(channel, len)) {
                (Some(a), Some(b)) => pointwise::Elementwise::Add.run(self.isa, a, b, out),
                (Some(a), None) | (None, Some(a)) => out.copy_from_slice(a),
                (None, None) => out.fill(T::ZERO),
            }
        }
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        let [channels, height, width] = self.shape;
        (inputs[0].union(inputs[1]).planes(channels) * height * width) as u64
    }
}

/// As [`AddRule`], for batched probes.
#[derive(Debug)]
struct BatchedAdd {
    shape: ActivationShape,
}

impl BatchedRule for BatchedAdd {
    fn support(&self, inputs: &[Support]) -> Support {
        inputs[0].union(inputs[1])
    }

    fn apply(&self, inputs: &[Option<&Change>], channels: Option<&Tensor>) -> Result<Tensor> {
        let mut terms = inputs.iter().copied().flatten();
        match terms.next() {
            Some(first) => batched::add_change(first, terms.next(), self.shape[0], channels),
            None => candle_core::bail!("a sum of no changes"),
        }
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        let [channels, height, width] = self.shape;
        (self.support(inputs).planes(channels) * height * width) as u64
    }
}

impl<T: Element> Blockwise<T> for Add {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        Ok(Box::new(StreamedAdd { isa: setup.isa }))
    }
}

struct StreamedAdd {
    isa: Isa,
}

impl<T: Element> Streamed<T> for StreamedAdd {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        pointwise::Elementwise::Add.run(self.isa, inputs[0], inputs[1], out);
    }
}
