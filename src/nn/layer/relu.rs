//! Rectified linear unit.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, Role, Scaling, elements};
use crate::kernels::batched::{self, Change};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::finish::ChannelMap;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::pointwise;
use crate::kernels::ops::Execution;
use crate::kernels::{Element, Isa, ops};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Delta, Place, Propagate, PropagateBatched, Rows, Rule, RuleSetup,
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
        execution: Execution,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::pointwise::relu(execution, inputs[0])
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

    fn scaling(&self) -> Scaling {
        Scaling::Follows
    }
}

impl PropagateBatched for Relu {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        Ok(Box::new(BatchedRelu { base: setup.base()?, shape: setup.shapes[0] }))
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
        let (row, rows) = (width * self.lanes, place.rows());
        let Delta { support, data } = inputs[0];
        let base = &place.value(self.input)[support.first() * height * row..][..data.len()];
        if rows == Rows::all(height) {
            pointwise::relu(self.isa, base, data, out);
            return;
        }
        let len = height * row;
        let planes = base.chunks_exact(len).zip(data.chunks_exact(len)).zip(out.chunks_exact_mut(len));
        for ((base, delta), out) in planes {
            pointwise::relu(self.isa, rows.of(base, row), rows.of(delta, row), rows.of_mut(out, row));
        }
    }

    fn rows_read(&self, rows: Rows) -> Option<Rows> {
        Some(rows)
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        change_flops(self.shape, inputs[0])
    }
}

/// As [`ReluRule`], for batched probes.
#[derive(Debug)]
struct BatchedRelu {
    /// Input at the base point.
    base: Tensor,
    shape: ActivationShape,
}

impl BatchedRule for BatchedRelu {
    fn apply(&self, inputs: &[Option<&Change>], _: Option<&Tensor>) -> Result<Tensor> {
        batched::relu_change(only(inputs)?, &self.base)
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

    fn maps(&self) -> Option<(Option<Vec<ChannelMap<T>>>, bool)> {
        Some((None, true))
    }
}
