//! A normalization of every position over the images alone: moments of the batch, the map itself, its gradient, and its
//! difference rule. What [`super::norm`] does with a channel's plane, with one register of images.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Blocks;
use super::norm::{Affine, Moments, SUMS};
use crate::kernels::{Element, Isa};

/// Some positions (position, lane) of the input of such a normalization, and their change.
#[derive(Debug, Clone, Copy)]
pub struct PositionChange<'a, T> {
    /// Values before.
    pub z: &'a [T],
    /// Their means over the batch, one per position.
    pub means: &'a [T],
    /// Their change.
    pub delta: &'a [T],
}

/// As [`super::norm::add_sums`], with `sums` (position, 3, lane).
pub fn add_sums<T: Element>(
    isa: Isa,
    change: PositionChange<'_, T>,
    is_first: bool,
    n_images: usize,
    sums: &mut [T],
) {
    isa.dispatch(Sums { change, is_first, n_images, sums });
}

struct Sums<'a, T> {
    change: PositionChange<'a, T>,
    is_first: bool,
    n_images: usize,
    sums: &'a mut [T],
}

impl<T: Element> WithSimd for Sums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PositionChange { z, means, delta } = self.change;
        let n = means.len();
        let (z, delta) = (&T::vectors::<S>(z)[..n], &T::vectors::<S>(delta)[..n]);
        let two = T::splat(simd, T::of(2.0));
        let lanes = T::lanes::<S>();
        let is_whole = self.n_images >= lanes;
        for i in 0..n {
            let own = &mut self.sums[i * SUMS * lanes..(i + 1) * SUMS * lanes];
            let sums = T::vectors_mut::<S>(own);
            if self.is_first {
                sums[2] = T::splat(simd, self.change.delta[i * lanes]);
            }
            let d = T::vsub(simd, delta[i], sums[2]);
            let term = T::mul_add(simd, two, T::vsub(simd, z[i], T::splat(simd, means[i])), d);
            if is_whole {
                sums[0] = T::vadd(simd, sums[0], d);
                sums[1] = T::mul_add(simd, d, term, sums[1]);
            } else {
                // Only the last block of a batch comes here.
                let squares = T::vmul(simd, d, term);
                for (register, total) in [d, squares].into_iter().enumerate() {
                    let total = [total];
                    let total = T::numbers::<S>(&total);
                    for lane in 0..self.n_images {
                        own[register * lanes + lane] += total[lane];
                    }
                }
            }
        }
    }
}

/// Writes delta · (δ − pivot) + base · (z − mean) + constant for some positions, each by its own map: the change of the
/// output. The map itself and its gradient are of this form too.
pub fn run<T: Element>(isa: Isa, change: PositionChange<'_, T>, maps: &[Affine<T>], out: &mut [T]) {
    isa.dispatch(Run { change, maps, out });
}

struct Run<'a, T> {
    change: PositionChange<'a, T>,
    maps: &'a [Affine<T>],
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Run<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PositionChange { z, means, delta } = self.change;
        let out = T::vectors_mut::<S>(self.out);
        let n = out.len();
        let (z, delta) = (&T::vectors::<S>(z)[..n], &T::vectors::<S>(delta)[..n]);
        let (means, maps) = (&means[..n], &self.maps[..n]);
        for i in 0..n {
            let Affine { delta: of_delta, pivot, base, constant } = maps[i];
            let centered = T::vsub(simd, z[i], T::splat(simd, means[i]));
            let moved = T::mul_add(simd, T::splat(simd, base), centered, T::splat(simd, constant));
            let shifted = T::vsub(simd, delta[i], T::splat(simd, pivot));
            out[i] = T::mul_add(simd, T::splat(simd, of_delta), shifted, moved);
        }
    }
}

/// The blocks of an activation, each (position, lane).
#[derive(Debug, Clone, Copy)]
pub struct BlocksOf<'a, T> {
    /// All of them, one after the other.
    pub values: &'a [T],
    /// How the batch is cut.
    pub blocks: Blocks,
}

impl<'a, T> BlocksOf<'a, T> {
    /// `range` positions of a block.
    #[inline(always)]
    fn part(&self, block: usize, range: &Range<usize>) -> &'a [T] {
        let (len, lanes) = (self.values.len() / self.blocks.count(), self.blocks.lanes);
        &self.values[block * len..][range.start * lanes..range.end * lanes]
    }
}

/// Mean and variance over the batch of some positions.
pub fn moments<T: Element>(isa: Isa, x: BlocksOf<T>, range: Range<usize>, out: &mut [Moments]) {
    isa.dispatch(OverBatch { x, range, out });
}

struct OverBatch<'a, T> {
    x: BlocksOf<'a, T>,
    range: Range<usize>,
    out: &'a mut [Moments],
}

impl<T: Element> WithSimd for OverBatch<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Blocks { images, lanes } = self.x.blocks;
        // Whole blocks, and the images of one that is not.
        let (whole, rest) = (images / lanes, images % lanes);
        let n = images as f64;
        for (idx, out) in self.out.iter_mut().enumerate() {
            let at = self.range.start + idx;
            let at = at..at + 1;
            let mut sum = T::splat(simd, T::ZERO);
            for block in 0..whole {
                sum = T::vadd(simd, sum, T::vectors::<S>(self.x.part(block, &at))[0]);
            }
            let mut total = T::reduce_sum(simd, sum).wide();
            if rest > 0 {
                let last = self.x.part(whole, &at);
                for lane in 0..rest {
                    total += last[lane].wide();
                }
            }
            let mean = total / n;
            // Deviations from the rounded mean; what the rounding moves is put right exactly.
            let center = T::of(mean);
            let splat = T::splat(simd, center);
            let mut sum = T::splat(simd, T::ZERO);
            for block in 0..whole {
                let d = T::vsub(simd, T::vectors::<S>(self.x.part(block, &at))[0], splat);
                sum = T::mul_add(simd, d, d, sum);
            }
            let mut squares = T::reduce_sum(simd, sum).wide();
            if rest > 0 {
                let last = self.x.part(whole, &at);
                for lane in 0..rest {
                    let d = last[lane].wide() - center.wide();
                    squares += d * d;
                }
            }
            let shift = mean - center.wide();
            *out = Moments { mean, variance: (squares / n - shift * shift).max(0.0) };
        }
    }
}

/// Sums over the batch of g and of g · (x − mean) for some positions of a gradient g, which is zero in lanes without an
/// image.
pub fn gradient_sums<T: Element>(
    isa: Isa,
    [x, grad]: [BlocksOf<T>; 2],
    means: &[T],
    range: Range<usize>,
    out: &mut [[f64; 2]],
) {
    isa.dispatch(GradientSums { x, grad, means, range, out });
}

struct GradientSums<'a, T> {
    x: BlocksOf<'a, T>,
    grad: BlocksOf<'a, T>,
    means: &'a [T],
    range: Range<usize>,
    out: &'a mut [[f64; 2]],
}

impl<T: Element> WithSimd for GradientSums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let count = self.x.blocks.count();
        for (idx, out) in self.out.iter_mut().enumerate() {
            let at = self.range.start + idx;
            let mean = T::splat(simd, self.means[at]);
            let at = at..at + 1;
            let (mut sum, mut product) = (T::splat(simd, T::ZERO), T::splat(simd, T::ZERO));
            for block in 0..count {
                let grad = T::vectors::<S>(self.grad.part(block, &at))[0];
                let x = T::vectors::<S>(self.x.part(block, &at))[0];
                sum = T::vadd(simd, sum, grad);
                product = T::mul_add(simd, grad, T::vsub(simd, x, mean), product);
            }
            *out = [T::reduce_sum(simd, sum).wide(), T::reduce_sum(simd, product).wide()];
        }
    }
}
