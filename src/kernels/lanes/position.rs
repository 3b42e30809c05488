//! The difference rule of a normalization of every position over the images alone: what [`super::norm`] does with a
//! channel's plane, with one register of images.

use pulp::{Simd, WithSimd};

use super::norm::{Affine, SUMS};
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

/// Writes the change of the output of some positions, each by its own map.
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
