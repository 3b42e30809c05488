//! Two-dimensional convolution without bias, square kernels, with backward.

mod fast;
pub(super) mod reference;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};

use super::{Element, Isa, Split};

/// Sizes of one convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Input channels.
    pub c_in: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Output channels.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

impl Geometry {
    /// Output rows.
    #[must_use]
    pub fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Output columns.
    #[must_use]
    pub fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Floating-point operations of a forward pass (a multiplication and an addition each).
    #[must_use]
    pub fn flops(&self) -> u64 {
        let outputs = self.batch * self.c_out * self.out_height() * self.out_width();
        2 * (outputs * self.c_in * self.kernel * self.kernel) as u64
    }

    fn new(input: &[usize], weight: &[usize], stride: usize, padding: usize) -> Result<Self> {
        let (&[batch, c_in, height, width], &[c_out, weight_in, kernel, kernel_w]) = (input, weight) else {
            candle_core::bail!("convolution of {input:?} with {weight:?}: four dimensions each are needed");
        };
        if weight_in != c_in || kernel != kernel_w {
            candle_core::bail!("convolution of {input:?} with {weight:?}: channels or kernel do not fit");
        }
        if height.min(width) + 2 * padding < kernel || kernel == 0 || stride == 0 {
            candle_core::bail!(
                "convolution of {input:?} with {weight:?}: the kernel is larger than the image"
            );
        }
        Ok(Self { batch, c_in, height, width, c_out, kernel, stride, padding })
    }
}

/// Convolution of `input` (B, C_in, H, W) with `weight` (C_out, C_in, K, K) on the CPU, with
/// backward through candle's autograd.
///
/// # Errors
/// If the shapes do not fit or the data type is not f32 or f64.
pub fn conv2d(
    input: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
    split: Split,
) -> Result<Tensor> {
    input.contiguous()?.apply_op2(
        &weight.contiguous()?,
        Conv { stride, padding, split, isa: Isa::current(), pass: Pass::Forward },
    )
}

/// Gradient of [`conv2d`] with respect to its input (B, C_in, H, W), from `grad_out`
/// (B, C_out, H', W') and `weight` (C_out, C_in, K, K); `size` is (H, W).
///
/// # Errors
/// As [`conv2d`].
pub fn grad_input(
    grad_out: &Tensor,
    weight: &Tensor,
    size: (usize, usize),
    stride: usize,
    padding: usize,
    split: Split,
) -> Result<Tensor> {
    let pass = Pass::GradInput(size.0, size.1);
    let op = Conv { stride, padding, split, isa: Isa::current(), pass };
    grad_out.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &op)
}

/// Gradient of [`conv2d`] with respect to its weight (C_out, C_in, K, K), from `grad_out`
/// (B, C_out, H', W') and `input` (B, C_in, H, W); `kernel` is K.
///
/// # Errors
/// As [`conv2d`].
pub fn grad_weight(
    grad_out: &Tensor,
    input: &Tensor,
    kernel: usize,
    stride: usize,
    padding: usize,
    split: Split,
) -> Result<Tensor> {
    let op = Conv { stride, padding, split, isa: Isa::current(), pass: Pass::GradWeight(kernel) };
    grad_out.contiguous()?.apply_op2_no_bwd(&input.contiguous()?, &op)
}

#[derive(Debug, Clone, Copy)]
enum Pass {
    Forward,
    /// Of (output gradient, weight), for inputs of this height and width.
    GradInput(usize, usize),
    /// Of (output gradient, input), for kernels of this size.
    GradWeight(usize),
}

#[derive(Debug, Clone, Copy)]
struct Conv {
    stride: usize,
    padding: usize,
    split: Split,
    isa: Isa,
    pass: Pass,
}

impl Conv {
    fn run<T: Element>(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (T::slice(s1, l1)?, T::slice(s2, l2)?);
        let (dims1, dims2) = (l1.dims(), l2.dims());
        let (isa, split) = (self.isa, self.split);
        match self.pass {
            Pass::Forward => {
                let g = Geometry::new(dims1, dims2, self.stride, self.padding)?;
                let shape = [g.batch, g.c_out, g.out_height(), g.out_width()];
                let mut out = vec![T::ZERO; shape.iter().product()];
                if isa == Isa::Reference {
                    reference::forward(&g, a, b, &mut out);
                } else {
                    fast::forward(isa, split, &g, a, b, &mut out);
                }
                Ok((T::to_cpu_storage_owned(out), Shape::from(&shape[..])))
            }
            Pass::GradInput(height, width) => {
                let shape = [dims1[0], dims2[1], height, width];
                let g = Geometry::new(&shape, dims2, self.stride, self.padding)?;
                let mut grad = vec![T::ZERO; shape.iter().product()];
                if isa == Isa::Reference {
                    reference::grad_input(&g, a, b, &mut grad);
                } else {
                    fast::grad_input(isa, split, &g, a, b, &mut grad);
                }
                Ok((T::to_cpu_storage_owned(grad), Shape::from(&shape[..])))
            }
            Pass::GradWeight(kernel) => {
                let shape = [dims1[1], dims2[1], kernel, kernel];
                let g = Geometry::new(dims2, &shape, self.stride, self.padding)?;
                let mut grad = vec![T::ZERO; shape.iter().product()];
                if isa == Isa::Reference {
                    reference::grad_weight(&g, a, b, &mut grad);
                } else {
                    fast::grad_weight(isa, split, &g, a, b, &mut grad);
                }
                Ok((T::to_cpu_storage_owned(grad), Shape::from(&shape[..])))
            }
        }
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match s1.dtype() {
            DType::F32 => self.run::<f32>(s1, l1, s2, l2),
            DType::F64 => self.run::<f64>(s1, l1, s2, l2),
            other => candle_core::bail!("convolution of {other:?}: only f32 and f64 are supported"),
        }
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad_out = grad_out.contiguous()?;
        let (_, _, height, width) = input.dims4()?;
        // The images themselves need no gradient, and theirs would be the most expensive one.
        let grad_input = if input.track_op() {
            let op = Self { pass: Pass::GradInput(height, width), ..*self };
            Some(grad_out.apply_op2_no_bwd(weight, &op)?)
        } else {
            None
        };
        let op = Self { pass: Pass::GradWeight(weight.dim(2)?), ..*self };
        Ok((grad_input, Some(grad_out.apply_op2_no_bwd(input, &op)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    /// Largest difference relative to the largest reference value. f32 sums of up to 600 products
    /// in another order differ by about sqrt(600) · 6e-8 of the terms.
    const TOLERANCE_F32: f64 = 2e-6;
    const TOLERANCE_F64: f64 = 1e-13;

    fn geometries() -> Vec<Geometry> {
        let mut all = Vec::new();
        for (batch, c_in, height, width, c_out) in [
            (1, 1, 5, 5, 1),
            (3, 3, 9, 7, 5),
            (2, 16, 32, 32, 16),
            (9, 18, 8, 8, 18),
            (2, 8, 16, 16, 20),
            (17, 2, 4, 4, 3),
            (2, 4, 1, 1, 7),
        ] {
            for (kernel, padding) in [(3, 1), (1, 0), (5, 2), (3, 0)] {
                for stride in [1, 2] {
                    if height.min(width) + 2 * padding >= kernel {
                        all.push(Geometry { batch, c_in, height, width, c_out, kernel, stride, padding });
                    }
                }
            }
        }
        all
    }

    fn random<T: Element>(n: usize, lane: u32) -> Vec<T> {
        let mut draws = vec![0.0; n];
        Stream::new(1, Purpose::Test, 0).lane(lane).fill_normal(&mut draws);
        draws.into_iter().map(T::of).collect()
    }

    fn assert_close<T: Element>(fast: &[T], reference: &[T], tolerance: f64, what: &str) {
        let scale = reference.iter().fold(1e-30, |max: f64, r| max.max(r.wide().abs()));
        for (idx, (f, r)) in fast.iter().zip(reference).enumerate() {
            let error = (f.wide() - r.wide()).abs() / scale;
            assert!(error <= tolerance, "{what} at {idx}: {f} instead of {r}");
        }
    }

    /// Oracle: the definition, in `reference`; every instruction set of this machine, all three
    /// passes, bit-equal for any split.
    fn check<T: Element>(tolerance: f64) {
        for g in geometries() {
            let n_out = g.batch * g.c_out * g.out_height() * g.out_width();
            let input: Vec<T> = random(g.batch * g.c_in * g.height * g.width, 0);
            let weight: Vec<T> = random(g.c_out * g.c_in * g.kernel * g.kernel, 1);
            let grad: Vec<T> = random(n_out, 2);
            let mut expected =
                [vec![T::ZERO; n_out], vec![T::ZERO; input.len()], vec![T::ZERO; weight.len()]];
            reference::forward(&g, &input, &weight, &mut expected[0]);
            reference::grad_input(&g, &grad, &weight, &mut expected[1]);
            reference::grad_weight(&g, &grad, &input, &mut expected[2]);
            for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Reference) {
                let mut by_split = Vec::new();
                for split in [Split::Serial, Split::Threads] {
                    let mut found = expected.clone();
                    fast::forward(isa, split, &g, &input, &weight, &mut found[0]);
                    fast::grad_input(isa, split, &g, &grad, &weight, &mut found[1]);
                    fast::grad_weight(isa, split, &g, &grad, &input, &mut found[2]);
                    for (pass, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        assert_close(found, expected, tolerance, &format!("{isa:?} pass {pass} {g:?}"));
                    }
                    by_split.push(found);
                }
                assert!(by_split[0] == by_split[1], "{isa:?} {g:?}: the split changes bits");
            }
        }
    }

    #[test]
    fn fast_equals_reference_in_f32() {
        check::<f32>(TOLERANCE_F32);
    }

    #[test]
    fn fast_equals_reference_in_f64() {
        check::<f64>(TOLERANCE_F64);
    }

    /// Oracle: candle's own convolution and its autograd.
    #[test]
    fn op_agrees_with_candle() -> Result<()> {
        let device = candle_core::Device::Cpu;
        let input = candle_core::Var::from_vec(random::<f64>(2 * 3 * 8 * 8, 0), (2, 3, 8, 8), &device)?;
        let weight = candle_core::Var::from_vec(random::<f64>(4 * 3 * 3 * 3, 1), (4, 3, 3, 3), &device)?;
        let ours = conv2d(&input, &weight, 2, 1, Split::Threads)?;
        let theirs = input.as_tensor().conv2d(&weight, 1, 2, 1, 1)?;
        let (ours_grad, theirs_grad) =
            (ours.sqr()?.sum_all()?.backward()?, theirs.sqr()?.sum_all()?.backward()?);
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f64>();
        assert_close(&flat(&ours)?, &flat(&theirs)?, TOLERANCE_F64, "forward");
        // Of the sum of squares with respect to the output.
        let grad_out = (&ours * 2.0)?;
        let direct = [
            grad_input(&grad_out, &weight, (8, 8), 2, 1, Split::Threads)?,
            grad_weight(&grad_out, &input, 3, 2, 1, Split::Threads)?,
        ];
        for (var, direct) in [&input, &weight].into_iter().zip(&direct) {
            let of = |grads: &candle_core::backprop::GradStore| {
                flat(grads.get(var).expect("a leaf has a gradient"))
            };
            assert_close(&of(&ours_grad)?, &of(&theirs_grad)?, TOLERANCE_F64, "backward");
            assert_close(&flat(direct)?, &of(&theirs_grad)?, TOLERANCE_F64, "gradient alone");
        }
        Ok(())
    }
}
