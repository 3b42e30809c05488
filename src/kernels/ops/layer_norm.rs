//! Layer norm without scale and shift, of any contiguous tensor: groups of `n` neighboring numbers are normalized, each
//! by itself, in one pass over memory.

use candle_core::{Result, Shape, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Input, Op, View, apply, apply_detached};
use crate::kernels::{Element, Isa};

/// y = (x − mean) / sqrt(variance + ε) of every `n` neighboring numbers of x, in the shape of x. The variance comes from
/// the centered values: the mean of squares less the square of the mean would lose its digits where a group is flat.
///
/// # Errors
/// If `n` does not divide the numbers of x, or the data type does not fit.
pub fn layer_norm(x: &Tensor, n: usize, epsilon: f64) -> Result<Tensor> {
    apply(LayerNorm { n, epsilon }, &[x])
}

/// The Jacobian of that layer norm at x, times t of the same shape: s (t − mean(t) − y mean(y t)) with
/// s = 1 / sqrt(variance + ε). It is symmetric, so that this is the gradient too. No graph follows it.
///
/// # Errors
/// As [`layer_norm`], or if the shapes differ.
pub fn layer_norm_jacobian(x: &Tensor, t: &Tensor, n: usize, epsilon: f64) -> Result<Tensor> {
    apply_detached(Jacobian { n, epsilon }, &[x, t])
}

struct LayerNorm {
    n: usize,
    epsilon: f64,
}

impl Op for LayerNorm {
    const NAME: &'static str = "layer-norm";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let Self { n, epsilon } = *self;
        let View { data: x, dims } = inputs[0];
        let out = in_parts(n, x.len(), |place, out: &mut [T]| {
            Isa::current().dispatch(Forward { x: &x[place..][..out.len()], n, epsilon, out });
        })?;
        Ok((out, Shape::from(dims)))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(layer_norm_jacobian(inputs[0].tensor, grad, self.n, self.epsilon)?)])
    }
}

struct Jacobian {
    n: usize,
    epsilon: f64,
}

impl Op for Jacobian {
    const NAME: &'static str = "layer-norm-jacobian";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let Self { n, epsilon } = *self;
        let [View { data: x, dims }, View { data: t, .. }] = [inputs[0], inputs[1]];
        if x.len() != t.len() {
            bail!("{} of {} and {} numbers", Self::NAME, x.len(), t.len());
        }
        let out = in_parts(n, x.len(), |place, out: &mut [T]| {
            let (x, t) = (&x[place..][..out.len()], &t[place..][..out.len()]);
            Isa::current().dispatch(Product { x, t, n, epsilon, out });
        })?;
        Ok((out, Shape::from(dims)))
    }
}

/// Numbers that one thread writes at a time.
const PART: usize = 1 << 13;

/// An output of `len` numbers, of which `body(place, output)` writes some groups of `n` at a time.
fn in_parts<T: Element>(n: usize, len: usize, body: impl Fn(usize, &mut [T]) + Sync) -> Result<Vec<T>> {
    if n == 0 || !len.is_multiple_of(n) {
        bail!("{len} numbers do not fall into groups of {n}");
    }
    let mut out = vec![T::ZERO; len];
    let per_part = (PART / n).max(1) * n;
    out.par_chunks_mut(per_part).enumerate().for_each(|(part, out)| body(part * per_part, out));
    Ok(out)
}

/// The layer norm of some groups, written as plain loops that the compiler vectorizes for the instruction set.
struct Forward<'a, T> {
    x: &'a [T],
    n: usize,
    epsilon: f64,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { x, n, epsilon, out } = self;
        let mut start = 0;
        while start < out.len() {
            let (x, out) = (&x[start..start + n], &mut out[start..start + n]);
            let (mean, scale) = moments(x, epsilon);
            for i in 0..n {
                out[i] = (x[i] - mean) * scale;
            }
            start += n;
        }
    }
}

/// The Jacobian's product of some groups.
struct Product<'a, T> {
    x: &'a [T],
    t: &'a [T],
    n: usize,
    epsilon: f64,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Product<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { x, t, n, epsilon, out } = self;
        let count = T::of(n as f64);
        let mut start = 0;
        while start < out.len() {
            let (x, t) = (&x[start..start + n], &t[start..start + n]);
            let out = &mut out[start..start + n];
            let (mean, scale) = moments(x, epsilon);
            let mean_t = sum(
                t,
                t,
                #[inline(always)]
                |t, _| t,
            ) / count;
            // y mean(y t) = (x − mean) scale² mean((x − mean) t).
            let along = scale
                * scale
                * (sum(
                    x,
                    t,
                    #[inline(always)]
                    |x, t| (x - mean) * t,
                ) / count);
            for i in 0..n {
                out[i] = scale * (t[i] - mean_t - (x[i] - mean) * along);
            }
            start += n;
        }
    }
}

/// Mean and 1 / sqrt(variance + ε).
#[inline(always)]
fn moments<T: Element>(x: &[T], epsilon: f64) -> (T, T) {
    let count = T::of(x.len() as f64);
    let mean = sum(
        x,
        x,
        #[inline(always)]
        |x, _| x,
    ) / count;
    let variance = sum(
        x,
        x,
        #[inline(always)]
        |x, _| (x - mean) * (x - mean),
    ) / count;
    (mean, T::of((variance.wide() + epsilon).sqrt().recip()))
}

/// Partial sums that are kept side by side, so that they fill registers.
const LANES: usize = 16;

/// The sum of `term` over pairs from two slices of one length, in the same order on every machine.
#[inline(always)]
fn sum<T: Element>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    let (a, b) = (&a[..b.len()], b);
    let mut partial = [T::ZERO; LANES];
    let mut start = 0;
    while start + LANES <= b.len() {
        let (a, b) = (&a[start..start + LANES], &b[start..start + LANES]);
        for lane in 0..LANES {
            partial[lane] += term(a[lane], b[lane]);
        }
        start += LANES;
    }
    for i in start..b.len() {
        partial[i - start] += term(a[i], b[i]);
    }
    let mut total = T::ZERO;
    for partial in partial {
        total += partial;
    }
    total
}
