//! Batch normalization: sums over the batch, and the difference rule fused with what follows it.

use pulp::{Simd, WithSimd};

use super::pointwise::relu_change;
use crate::kernels::{Element, Isa};

/// Terms of single precision added up before they join the total.
const SEGMENT: usize = 16;

/// One plane (plane, lane) of the input of a batch norm, and its change.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a, T> {
    /// Values before.
    pub z: &'a [T],
    /// Their mean over the batch.
    pub mean: T,
    /// Their change.
    pub delta: &'a [T],
}

/// Adds to `sums` (2, lane) the sums of δ and of δ (2 (z − m) + δ) over one plane; lanes from
/// `n_images` on are left out.
pub fn add_sums<T: Element>(isa: Isa, change: Change<'_, T>, n_images: usize, sums: &mut [T]) {
    isa.dispatch(Sums { change, n_images, sums });
}

#[inline(always)]
fn sum_of<S: Simd, T: Element>(simd: S, v: [T::Vector<S>; 4]) -> T::Vector<S> {
    T::vadd(simd, T::vadd(simd, v[0], v[1]), T::vadd(simd, v[2], v[3]))
}

struct Sums<'a, T> {
    change: Change<'a, T>,
    n_images: usize,
    sums: &'a mut [T],
}

impl<T: Element> WithSimd for Sums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let zero = T::splat(simd, T::ZERO);
        let two = T::splat(simd, T::of(2.0));
        let mean = T::splat(simd, self.change.mean);
        let delta = T::vectors::<S>(self.change.delta);
        let z = &T::vectors::<S>(self.change.z)[..delta.len()];
        let (mut total, mut total_square) = (zero, zero);
        let mut start = 0;
        while start < delta.len() {
            let end = (start + SEGMENT).min(delta.len());
            let (z, delta) = (&z[start..end], &delta[start..end]);
            let (mut sums, mut squares) = ([zero; 4], [zero; 4]);
            let mut i = 0;
            while i + 4 <= delta.len() {
                for j in 0..4 {
                    let d = delta[i + j];
                    let term = T::mul_add(simd, two, T::vsub(simd, z[i + j], mean), d);
                    sums[j] = T::vadd(simd, sums[j], d);
                    squares[j] = T::mul_add(simd, d, term, squares[j]);
                }
                i += 4;
            }
            while i < delta.len() {
                let d = delta[i];
                let term = T::mul_add(simd, two, T::vsub(simd, z[i], mean), d);
                sums[0] = T::vadd(simd, sums[0], d);
                squares[0] = T::mul_add(simd, d, term, squares[0]);
                i += 1;
            }
            total = T::vadd(simd, total, sum_of::<S, T>(simd, sums));
            total_square = T::vadd(simd, total_square, sum_of::<S, T>(simd, squares));
            start = end;
        }
        let lanes = T::lanes::<S>();
        if self.n_images < lanes {
            // Only the last block of a batch comes here.
            for (total, sums) in [total, total_square].into_iter().zip(self.sums.chunks_exact_mut(lanes)) {
                let total = [total];
                let total = T::numbers::<S>(&total);
                for lane in 0..self.n_images {
                    sums[lane] += total[lane];
                }
            }
            return;
        }
        let sums = T::vectors_mut::<S>(self.sums);
        sums[0] = T::vadd(simd, sums[0], total);
        sums[1] = T::vadd(simd, sums[1], total_square);
    }
}

/// Change of a channel's output: delta · δz + base · (z − mean) + constant.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Affine<T> {
    /// Factor of the input's change.
    pub delta: T,
    /// Factor of the centered input.
    pub base: T,
    /// Constant.
    pub constant: T,
}

/// What a ReLU after the batch norm compares with.
#[derive(Debug, Clone, Copy)]
pub enum Relu<'a, T> {
    /// There is none.
    No,
    /// scale · (z − mean) + shift: the output of the batch norm itself.
    OfNorm {
        /// γ / sqrt(v + ε).
        scale: T,
        /// β.
        shift: T,
    },
    /// These values: the sum of the batch norm and a shortcut.
    Of(&'a [T]),
}

/// One plane of a batch norm, of the addition after it and of the ReLU after that.
#[derive(Debug)]
pub struct Plane<'a, T> {
    /// Input of the batch norm before the change.
    pub z: &'a [T],
    /// Its mean over the batch.
    pub mean: T,
    /// Change of a channel.
    pub affine: Affine<T>,
    /// Change of the input; zero if there is none.
    pub delta: Option<&'a [T]>,
    /// Change of the other term of the addition; zero if there is none.
    pub added: Option<&'a [T]>,
    /// The ReLU.
    pub relu: Relu<'a, T>,
}

impl<T: Element> Plane<'_, T> {
    /// Writes the change of the output.
    pub fn run(&self, isa: Isa, out: &mut [T]) {
        match (self.delta.is_some(), self.added.is_some()) {
            (true, true) => self.run_with::<true, true>(isa, out),
            (true, false) => self.run_with::<true, false>(isa, out),
            (false, true) => self.run_with::<false, true>(isa, out),
            (false, false) => self.run_with::<false, false>(isa, out),
        }
    }

    fn run_with<const DELTA: bool, const ADDED: bool>(&self, isa: Isa, out: &mut [T]) {
        match self.relu {
            Relu::No => isa.dispatch(Run::<T, DELTA, ADDED, 0> { plane: self, out }),
            Relu::OfNorm { .. } => isa.dispatch(Run::<T, DELTA, ADDED, 1> { plane: self, out }),
            Relu::Of(_) => isa.dispatch(Run::<T, DELTA, ADDED, 2> { plane: self, out }),
        }
    }
}

struct Run<'a, T, const DELTA: bool, const ADDED: bool, const RELU: u8> {
    plane: &'a Plane<'a, T>,
    out: &'a mut [T],
}

impl<T: Element, const DELTA: bool, const ADDED: bool, const RELU: u8> WithSimd
    for Run<'_, T, DELTA, ADDED, RELU>
{
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let plane = self.plane;
        let out = T::vectors_mut::<S>(self.out);
        let n = out.len();
        let z = &T::vectors::<S>(plane.z)[..n];
        let delta = if DELTA { &T::vectors::<S>(plane.delta.unwrap_or_default())[..n] } else { z };
        let added = if ADDED { &T::vectors::<S>(plane.added.unwrap_or_default())[..n] } else { z };
        let (sum, scale, shift) = match plane.relu {
            Relu::No => (z, T::ZERO, T::ZERO),
            Relu::OfNorm { scale, shift } => (z, scale, shift),
            Relu::Of(sum) => (&T::vectors::<S>(sum)[..n], T::ZERO, T::ZERO),
        };
        let Affine { delta: of_delta, base, constant } = plane.affine;
        let (mean, of_delta) = (T::splat(simd, plane.mean), T::splat(simd, of_delta));
        let (base, constant) = (T::splat(simd, base), T::splat(simd, constant));
        let (scale, shift) = (T::splat(simd, scale), T::splat(simd, shift));
        for i in 0..n {
            let centered = T::vsub(simd, z[i], mean);
            let mut change = T::mul_add(simd, base, centered, constant);
            if DELTA {
                change = T::mul_add(simd, of_delta, delta[i], change);
            }
            if ADDED {
                change = T::vadd(simd, change, added[i]);
            }
            out[i] = match RELU {
                0 => change,
                1 => relu_change::<S, T>(simd, T::mul_add(simd, scale, centered, shift), change),
                _ => relu_change::<S, T>(simd, sum[i], change),
            };
        }
    }
}
