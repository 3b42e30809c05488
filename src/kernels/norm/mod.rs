//! Batch normalization with the statistics of the batch (Ioffe and Szegedy, 2015), with backward.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::elementwise::affine_planes;
use super::{Element, Isa, Split};

/// Mean and variance of one channel over batch, rows and columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: f64,
    /// Biased variance (divided by n).
    pub variance: f64,
}

/// A (B, C, H, W) tensor seen channel by channel.
#[derive(Clone, Copy)]
struct Channels {
    batch: usize,
    channels: usize,
    plane: usize,
}

impl Channels {
    fn of(dims: &[usize]) -> Result<Self> {
        let &[batch, channels, height, width] = dims else {
            candle_core::bail!("batch normalization needs (B, C, H, W), got {dims:?}");
        };
        Ok(Self { batch, channels, plane: height * width })
    }

    #[inline(always)]
    fn plane_of<'a, T>(&self, data: &'a [T], image: usize, channel: usize) -> &'a [T] {
        &data[(image * self.channels + channel) * self.plane..][..self.plane]
    }

    fn count(&self) -> f64 {
        (self.batch * self.plane) as f64
    }
}

/// Independent partial sums: enough for the widest register, so that the compiler can use one.
const PARTIAL: usize = 16;

/// Sum of f(x, y) over a plane, in [`PARTIAL`] interleaved partial sums of the element type.
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "iterator adapters are not always inlined into vectorized code"
)]
fn plane_sum<T: Element>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> f64 {
    let mut sums = [T::ZERO; PARTIAL];
    let whole = a.len() / PARTIAL * PARTIAL;
    let b = &b[..a.len()];
    let mut start = 0;
    while start < whole {
        let (a, b) = (&a[start..start + PARTIAL], &b[start..start + PARTIAL]);
        for lane in 0..PARTIAL {
            sums[lane] += f(a[lane], b[lane]);
        }
        start += PARTIAL;
    }
    let mut total = 0.0;
    for idx in whole..a.len() {
        total += f(a[idx], b[idx]).wide();
    }
    for lane in 0..PARTIAL {
        total += sums[lane].wide();
    }
    total
}

struct ChannelMoments<'a, T> {
    shape: Channels,
    data: &'a [T],
    channel: usize,
}

impl<T: Element> WithSimd for ChannelMoments<'_, T> {
    type Output = Moments;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Moments {
        let shape = self.shape;
        let mut total = 0.0;
        for image in 0..shape.batch {
            let x = shape.plane_of(self.data, image, self.channel);
            total += plane_sum(x, x, |x, _| x);
        }
        let mean = total / shape.count();
        let center = T::of(mean);
        let mut squares = 0.0;
        for image in 0..shape.batch {
            let x = shape.plane_of(self.data, image, self.channel);
            squares += plane_sum(x, x, |x, _| (x - center) * (x - center));
        }
        // The rounded center is off by mean - center; the variance about the mean follows exactly.
        let shift = mean - center.wide();
        Moments { mean, variance: squares / shape.count() - shift * shift }
    }
}

/// Mean and variance of every channel of `x` (B, C, H, W), f32 or f64 on the CPU.
///
/// # Errors
/// If the tensor has another shape or type.
pub fn moments(x: &Tensor, split: Split) -> Result<Vec<Moments>> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("channel moments are computed on the CPU");
    };
    let shape = Channels::of(layout.dims())?;
    match storage.dtype() {
        DType::F32 => Ok(all_moments(shape, f32::slice(storage, layout)?, split)),
        DType::F64 => Ok(all_moments(shape, f64::slice(storage, layout)?, split)),
        other => candle_core::bail!("channel moments of {other:?}: only f32 and f64 are supported"),
    }
}

fn all_moments<T: Element>(shape: Channels, data: &[T], split: Split) -> Vec<Moments> {
    let isa = Isa::current();
    let of = |channel| isa.dispatch(ChannelMoments { shape, data, channel });
    match split {
        Split::Serial => (0..shape.channels).map(of).collect(),
        Split::Threads => (0..shape.channels).into_par_iter().map(of).collect(),
    }
}

/// y = scale · (x − mean) / sqrt(variance + epsilon) + shift with the moments of the batch, for
/// `x` (B, C, H, W), `scale` and `shift` (C), on the CPU, with backward through candle's autograd.
///
/// # Errors
/// If the shapes do not fit or the data type is not f32 or f64.
pub fn batch_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, epsilon: f64, split: Split) -> Result<Tensor> {
    x.contiguous()?.apply_op3(scale, shift, BatchNorm { epsilon, split })
}

#[derive(Debug, Clone, Copy)]
struct BatchNorm {
    epsilon: f64,
    split: Split,
}

impl BatchNorm {
    fn forward<T: Element>(&self, x: &[T], scale: &[T], shift: &[T], dims: &[usize]) -> Result<Vec<T>> {
        let shape = Channels::of(dims)?;
        if scale.len() != shape.channels || shift.len() != shape.channels {
            candle_core::bail!("batch normalization of {dims:?} with {} scales", scale.len());
        }
        let (mut factor, mut offset) = (Vec::new(), Vec::new());
        for (m, (scale, shift)) in all_moments(shape, x, self.split).iter().zip(scale.iter().zip(shift)) {
            let of_x = scale.wide() / (m.variance + self.epsilon).sqrt();
            factor.push(T::of(of_x));
            offset.push(T::of(shift.wide() - m.mean * of_x));
        }
        let mut y = vec![T::ZERO; x.len()];
        affine_planes(self.split, shape.plane, x, &factor, &offset, &mut y);
        Ok(y)
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let storage = match s1.dtype() {
            DType::F32 => f32::to_cpu_storage_owned(self.forward(
                f32::slice(s1, l1)?,
                f32::slice(s2, l2)?,
                f32::slice(s3, l3)?,
                l1.dims(),
            )?),
            DType::F64 => f64::to_cpu_storage_owned(self.forward(
                f64::slice(s1, l1)?,
                f64::slice(s2, l2)?,
                f64::slice(s3, l3)?,
                l1.dims(),
            )?),
            other => candle_core::bail!("batch normalization of {other:?}: only f32 and f64 are supported"),
        };
        Ok((storage, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        // Rows: gradient of x, then of scale and shift at the end of one flat vector.
        let packed = x.apply_op3_no_bwd(&grad, scale, &BatchNormGrad { op: *self })?;
        let (n, channels) = (x.elem_count(), scale.elem_count());
        let grad_x = packed.narrow(0, 0, n)?.reshape(x.shape())?;
        Ok((
            Some(grad_x),
            Some(packed.narrow(0, n, channels)?),
            Some(packed.narrow(0, n + channels, channels)?),
        ))
    }
}

/// Gradients of batch normalization: of (x, output gradient, scale), as one flat vector
/// [grad x, grad scale, grad shift].
struct BatchNormGrad {
    op: BatchNorm,
}

struct ChannelGrad<'a, T> {
    shape: Channels,
    x: &'a [T],
    grad: &'a [T],
    channel: usize,
    mean: T,
}

impl<T: Element> WithSimd for ChannelGrad<'_, T> {
    /// Sums of the gradient and of gradient · (x − mean).
    type Output = (f64, f64);
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (f64, f64) {
        let mean = self.mean;
        let (mut sum, mut sum_x) = (0.0, 0.0);
        for image in 0..self.shape.batch {
            let grad = self.shape.plane_of(self.grad, image, self.channel);
            let x = self.shape.plane_of(self.x, image, self.channel);
            sum += plane_sum(grad, grad, |g, _| g);
            sum_x += plane_sum(grad, x, |g, x| g * (x - mean));
        }
        (sum, sum_x)
    }
}

struct GradPlane<'a, T> {
    x: &'a [T],
    grad: &'a [T],
    out: &'a mut [T],
    /// out = of_grad · grad + of_x · x + constant
    of_grad: T,
    of_x: T,
    constant: T,
}

impl<T: Element> WithSimd for GradPlane<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (x, grad, out) = (&self.x[..self.out.len()], &self.grad[..self.out.len()], self.out);
        for i in 0..out.len() {
            out[i] = self.of_grad * grad[i] + (self.of_x * x[i] + self.constant);
        }
    }
}

impl BatchNormGrad {
    fn run<T: Element>(&self, x: &[T], grad: &[T], scale: &[T], dims: &[usize]) -> Result<Vec<T>> {
        let shape = Channels::of(dims)?;
        let (isa, split) = (Isa::current(), self.op.split);
        let moments = all_moments(shape, x, split);
        let sums_of = |channel: usize| {
            isa.dispatch(ChannelGrad { shape, x, grad, channel, mean: T::of(moments[channel].mean) })
        };
        let sums: Vec<(f64, f64)> = match split {
            Split::Serial => (0..shape.channels).map(sums_of).collect(),
            Split::Threads => (0..shape.channels).into_par_iter().map(sums_of).collect(),
        };
        let n = shape.count();
        let mut out = vec![T::ZERO; x.len() + 2 * shape.channels];
        let (out_x, out_params) = out.split_at_mut(x.len());
        let mut factors = Vec::with_capacity(shape.channels);
        for (channel, (m, &(sum, sum_x))) in moments.iter().zip(&sums).enumerate() {
            let inverse_std = (m.variance + self.op.epsilon).sqrt().recip();
            out_params[channel] = T::of(sum_x * inverse_std);
            out_params[shape.channels + channel] = T::of(sum);
            let of_grad = scale[channel].wide() * inverse_std;
            let of_x = -of_grad * inverse_std * inverse_std * sum_x / n;
            factors.push([of_grad, of_x, -of_grad * sum / n - of_x * m.mean].map(T::of));
        }
        let plane = |idx: usize, x: &[T], grad: &[T], out: &mut [T]| {
            let [of_grad, of_x, constant] = factors[idx % shape.channels];
            isa.dispatch(GradPlane { x, grad, out, of_grad, of_x, constant });
        };
        let (xs, grads, outs) = (
            x.par_chunks_exact(shape.plane),
            grad.par_chunks_exact(shape.plane),
            out_x.par_chunks_exact_mut(shape.plane),
        );
        match split {
            Split::Serial => {
                let planes = x.chunks_exact(shape.plane).zip(grad.chunks_exact(shape.plane));
                for (idx, ((x, grad), out)) in planes.zip(out_x.chunks_exact_mut(shape.plane)).enumerate() {
                    plane(idx, x, grad, out);
                }
            }
            Split::Threads => {
                xs.zip(grads)
                    .zip(outs)
                    .enumerate()
                    .for_each(|(idx, ((x, grad), out))| plane(idx, x, grad, out));
            }
        }
        Ok(out)
    }
}

impl CustomOp3 for BatchNormGrad {
    fn name(&self) -> &'static str {
        "batch-norm-grad"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let storage = match s1.dtype() {
            DType::F32 => f32::to_cpu_storage_owned(self.run(
                f32::slice(s1, l1)?,
                f32::slice(s2, l2)?,
                f32::slice(s3, l3)?,
                l1.dims(),
            )?),
            _ => f64::to_cpu_storage_owned(self.run(
                f64::slice(s1, l1)?,
                f64::slice(s2, l2)?,
                f64::slice(s3, l3)?,
                l1.dims(),
            )?),
        };
        Ok((storage, Shape::from(l1.shape().elem_count() + 2 * l3.shape().elem_count())))
    }
}

/// The same function from candle's elementary operations: the reference on the CPU and the path
/// on other devices.
///
/// # Errors
/// If the shapes do not fit.
pub fn batch_norm_composed(x: &Tensor, scale: &Tensor, shift: &Tensor, epsilon: f64) -> Result<Tensor> {
    let mean = x.mean_keepdim((0, 2, 3))?;
    let centered = x.broadcast_sub(&mean)?;
    let variance = centered.sqr()?.mean_keepdim((0, 2, 3))?;
    let normalized = centered.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    affine(&normalized, scale, shift)
}

/// scale · x + shift per channel of `x` (B, C, H, W).
///
/// # Errors
/// If the shapes do not fit.
pub fn affine(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let channels = scale.elem_count();
    let (scale, shift) = (scale.reshape((1, channels, 1, 1))?, shift.reshape((1, channels, 1, 1))?);
    x.broadcast_mul(&scale)?.broadcast_add(&shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};
    use candle_core::{Device, Var};

    /// Oracle: the composition of candle's operations and its autograd, in f64; the difference is
    /// rounding only.
    #[test]
    fn op_agrees_with_composition() -> Result<()> {
        for dims in [[3, 4, 5, 7], [1, 2, 8, 8], [6, 18, 4, 4]] {
            let random = |n: usize, lane| {
                let mut draws = vec![0.0; n];
                Stream::new(2, Purpose::Test, 0).lane(lane).fill_normal(&mut draws);
                draws
            };
            let n = dims.iter().product();
            let x = Var::from_vec(random(n, 0), &dims, &Device::Cpu)?;
            let scale = Var::from_vec(random(dims[1], 1), dims[1], &Device::Cpu)?;
            let shift = Var::from_vec(random(dims[1], 2), dims[1], &Device::Cpu)?;
            let weights = Tensor::from_vec(random(n, 3), &dims, &Device::Cpu)?;
            for split in [Split::Serial, Split::Threads] {
                let ours = batch_norm(&x, &scale, &shift, 1e-5, split)?;
                let theirs = batch_norm_composed(&x, &scale, &shift, 1e-5)?;
                let close = |a: &Tensor, b: &Tensor| -> Result<()> {
                    let error = (a - b)?.abs()?.max_all()?.to_scalar::<f64>()?;
                    assert!(error < 1e-11, "{error}");
                    Ok(())
                };
                close(&ours, &theirs)?;
                let ours = (ours * &weights)?.sum_all()?.backward()?;
                let theirs = (theirs * &weights)?.sum_all()?.backward()?;
                for var in [&x, &scale, &shift] {
                    close(ours.get(var).expect("leaf"), theirs.get(var).expect("leaf"))?;
                }
            }
        }
        Ok(())
    }
}
