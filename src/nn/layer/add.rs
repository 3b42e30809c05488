//! Residual addition.

use candle_core::{Result, Tensor};

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

    fn forward(&self, _: &Context, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0] + inputs[1]
    }
}
