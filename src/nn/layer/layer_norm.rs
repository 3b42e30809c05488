//! Layer norm.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Layer, LayerPass, elements};
use crate::kernels::ops::layer_norm::{layer_norm, layer_norm_jacobian};

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

/// x (B, T, D) normalized over the channels of each of `groups` groups, as candle's autograd follows it: on the CPU in one
/// pass, elsewhere in operations of candle.
///
/// # Errors
/// If the groups do not divide the channels, or the device fails.
pub(crate) fn normalize(x: &Tensor, groups: usize) -> Result<Tensor> {
    if x.device().is_cpu() {
        return layer_norm(x, x.dim(2)? / groups, LAYER_NORM_EPSILON);
    }
    composed(x, groups)?.0.reshape(x.shape())
}

/// The Jacobian of [`normalize`] at x (B, T, D), times t (B, T, D); it is symmetric. No graph follows it.
///
/// # Errors
/// As [`normalize`].
pub(crate) fn normalize_jacobian(x: &Tensor, t: &Tensor, groups: usize) -> Result<Tensor> {
    if x.device().is_cpu() {
        return layer_norm_jacobian(x, t, x.dim(2)? / groups, LAYER_NORM_EPSILON);
    }
    composed_jacobian(x, t, groups)
}

/// As [`normalize`], (B, T, G, D/G), and 1 / sqrt(variance + ε) (B, T, G, 1), in operations of candle.
fn composed(x: &Tensor, groups: usize) -> Result<(Tensor, Tensor)> {
    let (batch, tokens, channels) = x.dims3()?;
    let x = x.reshape((batch, tokens, groups, channels / groups))?;
    let centered = x.broadcast_sub(&x.mean_keepdim(3)?)?;
    let scale = (centered.sqr()?.mean_keepdim(3)? + LAYER_NORM_EPSILON)?.sqrt()?.recip()?;
    Ok((centered.broadcast_mul(&scale)?, scale))
}

fn composed_jacobian(x: &Tensor, t: &Tensor, groups: usize) -> Result<Tensor> {
    let (y, scale) = composed(&x.detach(), groups)?;
    let t = t.detach().reshape(y.shape())?;
    let along = y.broadcast_mul(&(&y * &t)?.mean_keepdim(3)?)?;
    let rest = (t.broadcast_sub(&t.mean_keepdim(3)?)? - along)?;
    rest.broadcast_mul(&scale)?.reshape(x.shape())
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
        normalize(&inputs[0].squeeze(3)?, self.groups)?.unsqueeze(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    use crate::rng::{Purpose, Stream};

    /// Oracle: candle's operations and its autograd over them, in both precisions; a group that is nearly flat, one of
    /// an odd length, and more numbers than one thread takes at a time.
    #[test]
    fn both_ways_agree() -> Result<()> {
        for (groups, channels) in [(1, 7), (4, 128), (3, 3 * 37)] {
            let shape = [5, 30, channels];
            let draw = |lane: u32| {
                let mut numbers = vec![0.0; shape.iter().product()];
                Stream::new(3, Purpose::Test, 0).lane(lane).fill_normal(&mut numbers);
                numbers.iter_mut().take(channels).for_each(|number| *number = 0.3 + 1e-3 * *number);
                Tensor::from_vec(numbers, &shape, &Device::Cpu)
            };
            for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-4)] {
                let (x, t) = (Var::from_tensor(&draw(0)?.to_dtype(dtype)?)?, draw(1)?.to_dtype(dtype)?);
                let close = |found: &Tensor, expected: &Tensor| -> Result<()> {
                    let norm = |x: &Tensor| x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>();
                    let error = (norm(&(found - expected)?)? / norm(expected)?).sqrt();
                    assert!(error < tolerance, "{groups} groups, {dtype:?}: {error}");
                    Ok(())
                };
                let (ours, theirs) = (normalize(&x, groups)?, composed(&x, groups)?.0.reshape(&shape)?);
                close(&ours, &theirs)?;
                let expected = composed_jacobian(&x, &t, groups)?;
                close(&normalize_jacobian(&x, &t, groups)?, &expected)?;
                for y in [ours, theirs] {
                    let grads = (y * &t)?.sum_all()?.backward()?;
                    close(grads.get(&x).expect("it depends on x"), &expected)?;
                }
            }
        }
        Ok(())
    }
}
