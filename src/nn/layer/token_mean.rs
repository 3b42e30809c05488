//! Mean over the tokens.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Layer, LayerPass, TokenMixing, elements};

/// (B, T, D, 1) to one token (B, 1, D, 1): the mean of all. It has no difference rule: `full` and `reuse` serve.
#[derive(Debug, Clone)]
pub struct TokenMean;

impl TokenMean {
    /// (B, 1, D) of x (B, T, D). As a product: candle's own sum over a middle axis divides for every number.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn of(x: &Tensor) -> Result<Tensor> {
        let tokens = x.dim(1)?;
        let weight = (Tensor::ones((1, tokens), x.dtype(), x.device())? / tokens as f64)?;
        TokenMixing::product(x, &weight)
    }
}

impl Layer for TokenMean {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        [1, inputs[0][1], 1]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        Self::of(&inputs[0].squeeze(3)?)?.unsqueeze(3)
    }
}
