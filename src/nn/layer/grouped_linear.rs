//! Grouped linear layer.

use candle_core::{Result, Tensor};

use super::channel_mixing::{mixer_start, mixing_params};
use super::{ActivationShape, Layer, LayerPass};
use crate::params::ParamSpec;

/// y = x Wᵀ + b for every token and group of channels of x (B, T, D, 1) alone, W (G, D/G out, D/G in), b (G, D/G). It
/// has no difference rule: `full` and `reuse` serve.
#[derive(Debug, Clone)]
pub struct GroupedLinear {
    /// Channels D.
    pub channels: usize,
    /// Groups G.
    pub groups: usize,
}

impl GroupedLinear {
    /// x Wᵀ group by group: (B, T, D) of x (B, T, D), W (G, D/G, D/G).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (batch, tokens, channels) = x.dims3()?;
        let product = Self::by_group(x, weight.dim(0)?)?.matmul(&weight.t()?)?;
        product.transpose(0, 1)?.reshape((batch, tokens, channels))
    }

    /// (B, T, D) as (G, B · T, D/G).
    ///
    /// # Errors
    /// If the groups do not divide the channels, or the device fails.
    pub(crate) fn by_group(x: &Tensor, groups: usize) -> Result<Tensor> {
        let (batch, tokens, channels) = x.dims3()?;
        x.reshape((batch * tokens, groups, channels / groups))?.transpose(0, 1)?.contiguous()
    }
}

impl Layer for GroupedLinear {
    fn params(&self) -> Vec<ParamSpec> {
        let channels = self.channels / self.groups;
        mixing_params(vec![self.groups, channels, channels], mixer_start(channels))
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        2 * (inputs[0][0] * self.channels * self.channels / self.groups) as u64
    }

    fn forward(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let product = Self::product(&inputs[0].squeeze(3)?, &params[0])?;
        product.broadcast_add(&params[1].flatten_all()?)?.unsqueeze(3)
    }
}
