//! The head of a local loss.

use candle_core::{Result, Tensor};

use super::channel_mixing::{mixer_start, mixing_params};
use super::{ActivationShape, Layer, LayerPass};
use crate::params::ParamSpec;

/// Passes its input on unchanged, and owns the linear layer W (classes, D), b (classes) of a local loss at this place.
/// Rules with local losses read and train it. The network's own output does not depend on it: back-propagation gives
/// it a gradient of zero, and probes of it change nothing. It has no difference rule: `full` and `reuse` serve.
#[derive(Debug, Clone)]
pub struct LocalHead {
    /// Channels D.
    pub n_in: usize,
    /// Classes.
    pub n_out: usize,
}

impl Layer for LocalHead {
    fn params(&self) -> Vec<ParamSpec> {
        mixing_params(vec![self.n_out, self.n_in], mixer_start(self.n_in))
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, _: &[ActivationShape]) -> u64 {
        0
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }

    fn forward_batched(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
}
