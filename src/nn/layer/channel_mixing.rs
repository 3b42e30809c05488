//! Channel mixing: one linear layer for every token.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Layer, LayerPass};
use crate::params::{ParamKind, ParamSpec, Start};

/// y = x Wᵀ + b for every token of x (B, T, in, 1), W (out, in), b (out). It has no difference rule: `full` and
/// `reuse` serve.
#[derive(Debug, Clone)]
pub struct ChannelMixing {
    /// Input channels.
    pub n_in: usize,
    /// Output channels.
    pub n_out: usize,
    /// How the weights start; the biases start at zero.
    pub start: Start,
}

impl ChannelMixing {
    /// x Wᵀ (B, T, out) of x (B, T, in), W (out, in).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (batch, tokens, n_in) = x.dims3()?;
        x.reshape((batch * tokens, n_in))?.matmul(&weight.t()?)?.reshape((batch, tokens, weight.dim(0)?))
    }
}

impl Layer for ChannelMixing {
    fn params(&self) -> Vec<ParamSpec> {
        mixing_params(vec![self.n_out, self.n_in], self.start)
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        [inputs[0][0], self.n_out, 1]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        2 * (inputs[0][0] * self.n_in * self.n_out) as u64
    }

    fn forward(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        Self::product(&inputs[0].squeeze(3)?, &params[0])?.broadcast_add(&params[1])?.unsqueeze(3)
    }
}

/// How the weights of a mixer start: normal with standard deviation min(2 / sqrt(fan-in), 0.1), as in the code that Ren
/// et al. (2023) released.
pub(crate) fn mixer_start(fan_in: usize) -> Start {
    Start::Normal((2.0 / (fan_in as f64).sqrt()).min(0.1))
}

/// A weight whose shape ends in (out, in), and its bias, which starts at zero.
pub(super) fn mixing_params(shape: Vec<usize>, start: Start) -> Vec<ParamSpec> {
    let (fan_in, bias) = (shape[shape.len() - 1], shape[..shape.len() - 1].to_vec());
    vec![
        ParamSpec { name: "weight".to_owned(), kind: ParamKind::LinearWeight, shape, fan_in, start },
        ParamSpec { name: "bias".to_owned(), kind: ParamKind::Bias, shape: bias, fan_in, start: Start::Zero },
    ]
}
