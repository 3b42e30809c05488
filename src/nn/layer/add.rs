//! Residual addition.

use candle_core::{Result, Tensor};

use crate::kernels::elementwise;

use super::{ActivationShape, Context, Layer, elements};

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

    fn forward(&self, context: &Context, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let (a, b) = (inputs[0], inputs[1]);
        if a.device().is_cpu() { elementwise::add(a, b, context.split) } else { a + b }
    }
}
