//! Layer norm without scale and shift, of any contiguous tensor: groups of `n` neighboring numbers are normalized, each
//! by itself, in one pass over memory.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Input, Op, View, apply, apply_detached};
use crate::kernels::Element;

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
        let View { data, dims } = inputs[0];
        let out = by_group(self.n, data.len(), |place, out: &mut [T]| {
            let x = &data[place..][..out.len()];
            let (mean, scale) = moments(x, self.epsilon);
            out.iter_mut().zip(x).for_each(|(out, x)| *out = (*x - mean) * scale);
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
        let [View { data, dims }, View { data: moved, .. }] = [inputs[0], inputs[1]];
        if data.len() != moved.len() {
            bail!("{} of {} and {} numbers", Self::NAME, data.len(), moved.len());
        }
        let out = by_group(self.n, data.len(), |place, out: &mut [T]| {
            let (x, t) = (&data[place..][..out.len()], &moved[place..][..out.len()]);
            let (mean, scale) = moments(x, self.epsilon);
            let count = T::of(x.len() as f64);
            let mean_t = sum(t, t, |t, _| t) / count;
            // y mean(y t) = (x − mean) · scale² · mean((x − mean) t).
            let along = scale * scale * (sum(x, t, |x, t| (x - mean) * t) / count);
            for ((out, x), t) in out.iter_mut().zip(x).zip(t) {
                *out = scale * (*t - mean_t - (*x - mean) * along);
            }
        })?;
        Ok((out, Shape::from(dims)))
    }
}

/// Numbers that one thread writes at a time.
const PART: usize = 1 << 13;

/// An output of `len` numbers, of which `body(place, output)` writes `n` at a time.
fn by_group<T: Element>(n: usize, len: usize, body: impl Fn(usize, &mut [T]) + Sync) -> Result<Vec<T>> {
    if n == 0 || !len.is_multiple_of(n) {
        bail!("{len} numbers do not fall into groups of {n}");
    }
    let mut out = vec![T::ZERO; len];
    let per_part = (PART / n).max(1) * n;
    out.par_chunks_mut(per_part).enumerate().for_each(|(part, out)| {
        for (idx, out) in out.chunks_mut(n).enumerate() {
            body(part * per_part + idx * n, out);
        }
    });
    Ok(out)
}

/// Mean and 1 / sqrt(variance + ε).
#[inline(always)]
fn moments<T: Element>(x: &[T], epsilon: f64) -> (T, T) {
    let count = T::of(x.len() as f64);
    let mean = sum(x, x, |x, _| x) / count;
    let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / count;
    (mean, T::of((variance.wide() + epsilon).sqrt().recip()))
}

/// Partial sums that are kept side by side, so that they fill registers.
const LANES: usize = 16;

/// The sum of `term` over pairs from two slices of one length, always in the same order.
#[inline(always)]
fn sum<T: Element>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    let mut partial = [T::ZERO; LANES];
    let (a_whole, b_whole) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_whole.remainder().iter().zip(b_whole.remainder());
    for ((a, b), partial) in rest.zip(&mut partial) {
        *partial += term(*a, *b);
    }
    for (a, b) in a_whole.zip(b_whole) {
        for ((a, b), partial) in a.iter().zip(b).zip(&mut partial) {
            *partial += term(*a, *b);
        }
    }
    partial.iter().fold(T::ZERO, |sum, partial| sum + *partial)
}
