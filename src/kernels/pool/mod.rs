//! Max pooling over windows of 2 x 2 with stride 2, with backward.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Element, Isa, Split};

/// Maximum over 2 x 2 windows of `x` (B, C, H, W); an odd last row or column is left out, as in
/// PyTorch. The gradient goes to the first maximum in row-major order.
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn max_pool2(x: &Tensor, split: Split) -> Result<Tensor> {
    x.contiguous()?.apply_op1(MaxPool { split })
}

#[derive(Debug, Clone, Copy)]
struct MaxPool {
    split: Split,
}

/// Plane sizes before and after.
fn sizes(dims: &[usize]) -> Result<([usize; 2], [usize; 2])> {
    match *dims {
        [_, _, height, width] if height >= 2 && width >= 2 => Ok(([height, width], [height / 2, width / 2])),
        _ => candle_core::bail!("2 x 2 pooling needs (B, C, H >= 2, W >= 2), got {dims:?}"),
    }
}

struct Pool<'a, T> {
    plane: &'a [T],
    width: usize,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Pool<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let larger = |a: T, b: T| if b > a { b } else { a };
        let (half, width) = (self.width / 2, self.width);
        for row in 0..self.out.len() / half {
            let top = &self.plane[2 * row * width..][..2 * half];
            let bottom = &self.plane[(2 * row + 1) * width..][..2 * half];
            let out = &mut self.out[row * half..][..half];
            for i in 0..half {
                out[i] = larger(larger(top[2 * i], top[2 * i + 1]), larger(bottom[2 * i], bottom[2 * i + 1]));
            }
        }
    }
}

impl MaxPool {
    fn forward<T: Element>(self, x: &[T], dims: &[usize]) -> Result<Vec<T>> {
        let ([height, width], [out_h, out_w]) = sizes(dims)?;
        let isa = Isa::current();
        let mut out = vec![T::ZERO; dims[0] * dims[1] * out_h * out_w];
        let one = |(plane, out)| isa.dispatch(Pool { plane, width, out });
        match self.split {
            Split::Serial => {
                x.chunks_exact(height * width).zip(out.chunks_exact_mut(out_h * out_w)).for_each(one)
            }
            Split::Threads => {
                x.par_chunks_exact(height * width).zip(out.par_chunks_exact_mut(out_h * out_w)).for_each(one);
            }
        }
        Ok(out)
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let dims = layout.dims();
        let (_, [out_h, out_w]) = sizes(dims)?;
        let out = match storage.dtype() {
            DType::F32 => f32::to_cpu_storage_owned(self.forward(f32::slice(storage, layout)?, dims)?),
            DType::F64 => f64::to_cpu_storage_owned(self.forward(f64::slice(storage, layout)?, dims)?),
            other => candle_core::bail!("pooling of {other:?}: only f32 and f64 are supported"),
        };
        Ok((out, Shape::from((dims[0], dims[1], out_h, out_w))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &MaxPoolGrad)?))
    }
}

/// Of (x, output gradient).
struct MaxPoolGrad;

fn pool_grad<T: Element>(x: &[T], grad: &[T], dims: &[usize]) -> Result<Vec<T>> {
    let ([height, width], [out_h, out_w]) = sizes(dims)?;
    let mut out = vec![T::ZERO; x.len()];
    let planes = x.par_chunks_exact(height * width).zip(grad.par_chunks_exact(out_h * out_w));
    planes.zip(out.par_chunks_exact_mut(height * width)).for_each(|((x, grad), out)| {
        for (idx, &g) in grad.iter().enumerate() {
            let corner = idx / out_w * 2 * width + idx % out_w * 2;
            let window = [corner, corner + 1, corner + width, corner + width + 1];
            let winner = window.into_iter().reduce(|best, at| if x[at] > x[best] { at } else { best });
            out[winner.expect("a window has four members")] = g;
        }
    });
    Ok(out)
}

impl CustomOp2 for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max-pool-grad"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = l1.dims();
        let out = match s1.dtype() {
            DType::F32 => {
                f32::to_cpu_storage_owned(pool_grad(f32::slice(s1, l1)?, f32::slice(s2, l2)?, dims)?)
            }
            _ => f64::to_cpu_storage_owned(pool_grad(f64::slice(s1, l1)?, f64::slice(s2, l2)?, dims)?),
        };
        Ok((out, l1.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};
    use candle_core::{Device, Var};

    /// Oracle: candle's pooling forward; for the gradient of the sum of squares, 2x at each window's
    /// maximum and 0 elsewhere (candle's own backward is a quarter of that). Odd sizes included.
    #[test]
    fn op_agrees_with_candle() -> Result<()> {
        for dims in [[2, 3, 8, 8], [1, 2, 5, 7], [1, 1, 2, 2]] {
            let mut draws = vec![0.0; dims.iter().product()];
            Stream::new(4, Purpose::Test, 0).fill_normal(&mut draws);
            let x = Var::from_vec(draws.clone(), &dims, &Device::Cpu)?;
            let maxima = x.max_pool2d(2)?.flatten_all()?.to_vec1::<f64>()?;
            for split in [Split::Serial, Split::Threads] {
                let ours = max_pool2(&x, split)?;
                assert_eq!(ours.flatten_all()?.to_vec1::<f64>()?, maxima);
                let grads = ours.sqr()?.sum_all()?.backward()?;
                let grad = grads.get(&x).expect("leaf").flatten_all()?.to_vec1::<f64>()?;
                for (x, grad) in draws.iter().zip(grad) {
                    let expected = if maxima.contains(x) { 2.0 * x } else { 0.0 };
                    assert!((grad - expected).abs() < 1e-15, "{grad} instead of {expected}");
                }
            }
        }
        Ok(())
    }

    /// Oracle: PyTorch's rule that the first maximum of a window takes the gradient.
    #[test]
    fn a_tie_goes_to_the_first() -> Result<()> {
        let x = Var::from_vec(vec![1f32, 1.0, 1.0, 1.0], (1, 1, 2, 2), &Device::Cpu)?;
        let grads = max_pool2(&x, Split::Serial)?.sum_all()?.backward()?;
        let grad = grads.get(&x).expect("leaf").flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(grad, [1.0, 0.0, 0.0, 0.0]);
        Ok(())
    }
}
