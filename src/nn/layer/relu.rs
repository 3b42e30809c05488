//! Rectified linear unit.

use candle_core::{Result, Tensor};

use crate::kernels::elementwise;

use super::{ActivationShape, Context, Layer, elements};

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

    fn forward(&self, context: &Context, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        if x.device().is_cpu() { elementwise::relu(x, context.split) } else { x.relu() }
    }
}
