//! Batch normalization (Ioffe and Szegedy, 2015).

use candle_core::{Result, Tensor};

use super::{ActivationShape, Context, Layer, Mode, elements};
use crate::kernels::{elementwise, norm};
use crate::nn::params::{ParamKind, ParamSpec};

/// Added to the variance, as in PyTorch.
pub const EPSILON: f64 = 1e-5;
/// Weight of a new batch in the running statistics, as in PyTorch.
pub const MOMENTUM: f64 = 0.1;

/// Batch normalization of (B, C, H, W) per channel.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// Channels.
    pub channels: usize,
    /// Number of this layer among the network's batch norms.
    pub norm_idx: usize,
}

impl Layer for BatchNorm {
    fn params(&self) -> Vec<ParamSpec> {
        [("weight", ParamKind::NormScale), ("bias", ParamKind::NormShift)]
            .map(|(name, kind)| ParamSpec {
                name: name.to_owned(),
                kind,
                shape: vec![self.channels],
                fan_in: 1,
            })
            .into()
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        // Mean, centered square, scale and shift.
        6 * elements(inputs[0])
    }

    fn forward(&self, context: &Context, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, scale, shift) = (inputs[0], &params[0], &params[1]);
        match context.mode {
            Mode::Train if x.device().is_cpu() => norm::batch_norm(x, scale, shift, EPSILON, context.split),
            Mode::Train => norm::batch_norm_composed(x, scale, shift, EPSILON),
            Mode::Eval(running) => {
                // scale · (x − m) / sqrt(v + ε) + shift as one factor and one offset per channel.
                let stats = running.layer(self.norm_idx);
                let inverse_std: Vec<f64> =
                    stats.variance.iter().map(|v| (v + EPSILON).sqrt().recip()).collect();
                let tensor = |values: &[f64]| {
                    Tensor::from_slice(values, self.channels, x.device())?.to_dtype(x.dtype())
                };
                let factor = (scale * tensor(&inverse_std)?)?;
                let offset = (shift - (tensor(&stats.mean)? * &factor)?)?;
                if x.device().is_cpu() {
                    elementwise::channel_affine(x, &factor, &offset, context.split)
                } else {
                    norm::affine(x, &factor, &offset)
                }
            }
        }
    }

    fn norm_idx(&self) -> Option<usize> {
        Some(self.norm_idx)
    }
}
