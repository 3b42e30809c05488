//! Mean over the tokens.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Layer, LayerPass, elements};

/// (B, T, D, 1) to one token (B, 1, D, 1): the mean of all. It has no difference rule: `full` and `reuse` serve.
#[derive(Debug, Clone)]
pub struct TokenMean;

impl Layer for TokenMean {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        [1, inputs[0][1], 1]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].mean_keepdim(1)
    }
}
