//! Logistic function. It has no difference rule: `evaluator = full` or `reuse` serves networks with it.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, elements};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::norm::Moments;
use crate::kernels::lanes::pointwise::Elementwise;
use crate::kernels::ops::Execution;
use crate::kernels::{Element, Isa, ops};
use crate::nn::form::{Blockwise, StreamSetup, Streamed};

/// 1 / (1 + exp(−x)).
#[derive(Debug, Clone)]
pub struct Sigmoid;

impl Layer for Sigmoid {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        4 * elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        candle_nn::ops::sigmoid(inputs[0])
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::pointwise::sigmoid(execution, inputs[0])
    }

    fn forms(&self) -> Forms<'_> {
        Forms { is_taped: true, streamed: Some(self), ..Forms::default() }
    }
}

impl<T: Element> Blockwise<T> for Sigmoid {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        Ok(Box::new(StreamedSigmoid { isa: setup.isa }))
    }
}

struct StreamedSigmoid {
    isa: Isa,
}

impl<T: Element> Streamed<T> for StreamedSigmoid {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        Elementwise::Sigmoid.run(self.isa, inputs[0], &[], out);
    }
}
