//! Layer norm.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Layer, LayerPass, elements};

/// Added to variances.
pub const LAYER_NORM_EPSILON: f64 = 1e-5;

/// Layer norm (Ba et al. 2016) without scale and shift, of the channels of each group of each token: x (B, T, D, 1)
/// becomes (x − mean) / sqrt(variance + ε). Unlike batch norm it sees one image at a time. It has no difference
/// rule: `full` and `reuse` serve.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Groups of channels; 1 for all together.
    pub groups: usize,
}

/// x (B, T, D) normalized over the channels of each of `groups` groups, and what it was multiplied with,
/// 1 / sqrt(variance + ε) (B, T, groups, 1). The variance comes from the centered values: the mean of squares less
/// the square of the mean would lose its digits on flat patches.
///
/// # Errors
/// If the groups do not divide the channels, or the device fails.
pub(crate) fn normalize(x: &Tensor, groups: usize) -> Result<(Tensor, Tensor)> {
    let (batch, tokens, channels) = x.dims3()?;
    let x = x.reshape((batch, tokens, groups, channels / groups))?;
    let centered = x.broadcast_sub(&x.mean_keepdim(3)?)?;
    let inverse = (centered.sqr()?.mean_keepdim(3)? + LAYER_NORM_EPSILON)?.sqrt()?.recip()?;
    let value = centered.broadcast_mul(&inverse)?.reshape((batch, tokens, channels))?;
    Ok((value, inverse))
}

impl Layer for LayerNorm {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        // Mean, centering, variance and scale.
        5 * elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        normalize(&inputs[0].squeeze(3)?, self.groups)?.0.unsqueeze(3)
    }
}
