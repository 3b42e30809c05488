//! Element by element: ReLU, addition, bias and per-channel affine maps on the CPU, with backward.
//!
//! candle's own versions hand every large tensor to a pool of spinning threads, which stalls when
//! several probes run at once; these stay on the calling thread unless told otherwise. Each is the
//! same function as the candle expression that its test compares it with, bit for bit.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType,
};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Element, Isa, Split};

/// Elements per task where there are no planes to go by.
const BLOCK: usize = 8192;

/// Runs `body(block number, input block, output block)` over blocks of `len` elements.
fn for_blocks<T: Element>(
    split: Split,
    len: usize,
    input: &[T],
    out: &mut [T],
    body: impl Fn(usize, &[T], &mut [T]) + Sync,
) {
    let len = len.max(1);
    match split {
        Split::Serial => {
            for (idx, (input, out)) in input.chunks(len).zip(out.chunks_mut(len)).enumerate() {
                body(idx, input, out);
            }
        }
        Split::Threads => input
            .par_chunks(len)
            .zip(out.par_chunks_mut(len))
            .enumerate()
            .for_each(|(idx, (input, out))| body(idx, input, out)),
    }
}

/// Wraps a loop over slices so that it is compiled for every instruction set.
macro_rules! vectorized {
    ($name:ident { $($field:ident: $ty:ty),* } |$out:ident, $i:ident, $this:ident| $value:expr) => {
        struct $name<'a, T> {
            $($field: $ty,)*
            out: &'a mut [T],
        }

        impl<T: Element> WithSimd for $name<'_, T> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) {
                let $this = self;
                let $out = $this.out;
                // An index loop: iterator adapters are not always inlined here, and outside they
                // are compiled without the instruction set.
                for $i in 0..$out.len() {
                    $out[$i] = $value;
                }
            }
        }
    };
}

vectorized!(ReluBlock { x: &'a [T] } |out, i, this| if this.x[i] > T::ZERO { this.x[i] } else { T::ZERO });
vectorized!(ReluGradBlock { y: &'a [T], grad: &'a [T] } |out, i, this| if this.y[i] > T::ZERO { this.grad[i] } else { T::ZERO });
vectorized!(AddBlock { a: &'a [T], b: &'a [T] } |out, i, this| this.a[i] + this.b[i]);
vectorized!(AffineBlock { x: &'a [T], factor: T, offset: T } |out, i, this| this.x[i] * this.factor + this.offset);
vectorized!(OffsetBlock { x: &'a [T], offset: T } |out, i, this| this.x[i] + this.offset);

/// Calls `run::<f32>` or `run::<f64>` by the type of a storage.
macro_rules! by_type {
    ($storage:expr, $what:literal, $t:ident => $body:expr) => {
        match $storage.dtype() {
            DType::F32 => {
                type $t = f32;
                $t::to_cpu_storage_owned($body)
            }
            DType::F64 => {
                type $t = f64;
                $t::to_cpu_storage_owned($body)
            }
            other => candle_core::bail!("{} of {other:?}: only f32 and f64 are supported", $what),
        }
    };
}

/// max(x, 0).
///
/// # Errors
/// If the data type is not f32 or f64.
pub fn relu(x: &Tensor, split: Split) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Relu { split })
}

struct Relu {
    split: Split,
}

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let isa = Isa::current();
        let out = by_type!(s, "ReLU", T => {
            let x = T::slice(s, l)?;
            let mut out = vec![T::ZERO; x.len()];
            for_blocks(self.split, BLOCK, x, &mut out, |_, x, out| isa.dispatch(ReluBlock { x: &x[..out.len()], out }));
            out
        });
        Ok((out, l.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(y.apply_op2_no_bwd(&grad.contiguous()?, &ReluGrad { split: self.split })?))
    }
}

/// Of (relu(x), output gradient).
struct ReluGrad {
    split: Split,
}

impl CustomOp2 for ReluGrad {
    fn name(&self) -> &'static str {
        "relu-grad"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let isa = Isa::current();
        let out = by_type!(s1, "ReLU gradient", T => {
            let (y, grad) = (T::slice(s1, l1)?, T::slice(s2, l2)?);
            let mut out = vec![T::ZERO; y.len()];
            for_blocks(self.split, BLOCK, y, &mut out, |idx, y, out| {
                let grad = &grad[idx * BLOCK..][..out.len()];
                isa.dispatch(ReluGradBlock { y: &y[..out.len()], grad, out });
            });
            out
        });
        Ok((out, l1.shape().clone()))
    }
}

/// a + b for equal shapes.
///
/// # Errors
/// If shapes differ or the data type is not f32 or f64.
pub fn add(a: &Tensor, b: &Tensor, split: Split) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, Add { split })
}

struct Add {
    split: Split,
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if l1.dims() != l2.dims() {
            candle_core::bail!("addition of {:?} and {:?}", l1.dims(), l2.dims());
        }
        let isa = Isa::current();
        let out = by_type!(s1, "addition", T => {
            let (a, b) = (T::slice(s1, l1)?, T::slice(s2, l2)?);
            let mut out = vec![T::ZERO; a.len()];
            for_blocks(self.split, BLOCK, a, &mut out, |idx, a, out| {
                let b = &b[idx * BLOCK..][..out.len()];
                isa.dispatch(AddBlock { a: &a[..out.len()], b, out });
            });
            out
        });
        Ok((out, l1.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}

/// x (B, C, H, W) plus a bias per channel (C).
///
/// # Errors
/// If shapes do not fit or the data type is not f32 or f64.
pub fn add_bias(x: &Tensor, bias: &Tensor, split: Split) -> Result<Tensor> {
    x.contiguous()?.apply_op2(bias, AddBias { split })
}

struct AddBias {
    split: Split,
}

/// Channels and plane size of (B, C, H, W), with `n` values per channel expected.
fn planes(l: &Layout, n: usize) -> Result<(usize, usize)> {
    match *l.dims() {
        [_, channels, height, width] if channels == n => Ok((channels, height * width)),
        ref dims => candle_core::bail!("{n} values per channel for {dims:?}"),
    }
}

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let isa = Isa::current();
        let out = by_type!(s1, "bias", T => {
            let (x, bias) = (T::slice(s1, l1)?, T::slice(s2, l2)?);
            let (channels, plane) = planes(l1, bias.len())?;
            let mut out = vec![T::ZERO; x.len()];
            for_blocks(self.split, plane, x, &mut out, |idx, x, out| {
                isa.dispatch(OffsetBlock { x: &x[..out.len()], offset: bias[idx % channels], out });
            });
            out
        });
        Ok((out, l1.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.flatten_from(2)?.sum(2)?.sum(0)?)))
    }
}

/// factor · x + offset per channel of x (B, C, H, W), factor and offset (C), without backward.
///
/// # Errors
/// If shapes do not fit or the data type is not f32 or f64.
pub fn channel_affine(x: &Tensor, factor: &Tensor, offset: &Tensor, split: Split) -> Result<Tensor> {
    x.contiguous()?.apply_op3_no_bwd(factor, offset, &ChannelAffine { split })
}

struct ChannelAffine {
    split: Split,
}

impl CustomOp3 for ChannelAffine {
    fn name(&self) -> &'static str {
        "channel-affine"
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
        let out = by_type!(s1, "affine map", T => {
            let (x, factor, offset) = (T::slice(s1, l1)?, T::slice(s2, l2)?, T::slice(s3, l3)?);
            let (_, plane) = planes(l1, factor.len())?;
            planes(l1, offset.len())?;
            let mut out = vec![T::ZERO; x.len()];
            affine_planes(self.split, plane, x, factor, offset, &mut out);
            out
        });
        Ok((out, l1.shape().clone()))
    }
}

/// out = factor[c] · x + offset[c] for planes of `plane` elements, channel after channel.
pub(super) fn affine_planes<T: Element>(
    split: Split,
    plane: usize,
    x: &[T],
    factor: &[T],
    offset: &[T],
    out: &mut [T],
) {
    let isa = Isa::current();
    for_blocks(split, plane, x, out, |idx, x, out| {
        let channel = idx % factor.len();
        isa.dispatch(AffineBlock {
            x: &x[..out.len()],
            factor: factor[channel],
            offset: offset[channel],
            out,
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};
    use candle_core::{Device, Var};

    fn random(dims: &[usize], lane: u32) -> Result<Var> {
        let mut draws = vec![0.0; dims.iter().product()];
        Stream::new(6, Purpose::Test, 0).lane(lane).fill_normal(&mut draws);
        Var::from_vec(draws, dims, &Device::Cpu)
    }

    fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
        tensor.flatten_all()?.to_vec1()
    }

    /// Oracle: candle's expressions and their autograd, equal bit for bit (the bias gradient, a
    /// sum, to rounding).
    #[test]
    fn ops_agree_with_candle() -> Result<()> {
        for dims in [[2, 3, 5, 7], [40, 2, 16, 16]] {
            let (x, y, bias) = (random(&dims, 0)?, random(&dims, 1)?, random(&dims[1..2], 2)?);
            let weights = random(&dims, 3)?;
            let wide = bias.reshape((1, dims[1], 1, 1))?;
            for split in [Split::Serial, Split::Threads] {
                let pairs = [
                    (relu(&x, split)?, x.relu()?),
                    (add(&x, &y, split)?, (x.as_tensor() + y.as_tensor())?),
                    (add_bias(&x, &bias, split)?, x.broadcast_add(&wide)?),
                ];
                for (ours, theirs) in pairs {
                    assert_eq!(flat(&ours)?, flat(&theirs)?);
                    let grads = [ours, theirs].map(|out| (out * weights.as_tensor())?.sum_all()?.backward());
                    let [ours, theirs] = grads;
                    let (ours, theirs) = (ours?, theirs?);
                    for var in [&x, &y, &bias] {
                        let (Some(ours), Some(theirs)) = (ours.get(var), theirs.get(var)) else {
                            assert!(ours.get(var).is_none() && theirs.get(var).is_none());
                            continue;
                        };
                        for (a, b) in flat(ours)?.iter().zip(flat(theirs)?) {
                            assert!((a - b).abs() < 1e-11, "{a} {b}");
                        }
                    }
                }
                let ours = channel_affine(&x, &bias, &bias, split)?;
                let theirs = x.broadcast_mul(&wide)?.broadcast_add(&wide)?;
                assert_eq!(flat(&ours)?, flat(&theirs)?);
            }
        }
        Ok(())
    }
}
