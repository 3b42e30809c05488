//! Token mixing: one linear layer over the tokens for every channel.

use candle_core::{Result, Tensor};

use super::channel_mixing::{mixer_start, mixing_params};
use super::{ActivationShape, Layer, LayerPass};
use crate::params::ParamSpec;

/// y = W x + b for every channel of x (B, T, D, 1), W (T, T), b (T). It has no difference rule: `full` and `reuse`
/// serve.
#[derive(Debug, Clone)]
pub struct TokenMixing {
    /// Tokens T.
    pub tokens: usize,
}

impl TokenMixing {
    /// W x (B, T, D) of x (B, T, D), W (T, T).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        weight.broadcast_left(x.dim(0)?)?.contiguous()?.matmul(x)
    }
}

impl Layer for TokenMixing {
    fn params(&self) -> Vec<ParamSpec> {
        mixing_params(vec![self.tokens, self.tokens], mixer_start(self.tokens))
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        2 * (inputs[0][1] * self.tokens * self.tokens) as u64
    }

    fn forward(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let product = Self::product(&inputs[0].squeeze(3)?, &params[0])?;
        product.broadcast_add(&params[1].unsqueeze(1)?)?.unsqueeze(3)
    }
}
