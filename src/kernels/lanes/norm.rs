//! Batch normalization: moments of the batch, the map itself with what follows it, its gradient, and
//! its difference rule.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Out;
use super::conv::STRIP;
use super::pointwise::relu_change;
use crate::kernels::memory::prefetch;
use crate::kernels::{Element, Isa};

/// Registers that are asked for ahead of those that are worked on: planes follow one another in memory.
const AHEAD: usize = 32;

/// Mean and variance of one channel over batch, rows and columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: f64,
    /// Biased variance (divided by n).
    pub variance: f64,
}

/// Count, mean and sum of squared deviations of a part of a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Partial {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Partial {
    /// Of both parts together (Chan, Golub and LeVeque, 1983).
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        if self.n < 1.0 {
            return other;
        }
        let n = self.n + other.n;
        let shift = other.mean - self.mean;
        Self {
            n,
            mean: self.mean + shift * other.n / n,
            squares: self.squares + other.squares + shift * shift * self.n * other.n / n,
        }
    }

    /// Mean and variance.
    #[must_use]
    pub fn moments(self) -> Moments {
        Moments { mean: self.mean, variance: self.squares / self.n }
    }
}

/// Moments of rows of one plane (H, W, lane), of which the first `n_images` lanes count, after those `before` them, which
/// end at a multiple of [`STRIP`]. Whatever rows come together, the result is the same, to the last bit.
#[must_use]
pub fn partial<T: Element>(isa: Isa, before: Partial, rows: &[T], width: usize, n_images: usize) -> Partial {
    isa.dispatch(RowMoments { before, rows, strip: STRIP * width, n_images })
}

struct RowMoments<'a, T> {
    before: Partial,
    rows: &'a [T],
    /// Registers whose mean is known before their deviations are summed, few enough to stay in the first-level cache.
    strip: usize,
    n_images: usize,
}

impl<T: Element> WithSimd for RowMoments<'_, T> {
    type Output = Partial;
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Partial {
        let zero = T::splat(simd, T::ZERO);
        let values = T::vectors::<S>(self.rows);
        let mut all = self.before;
        let mut start = 0;
        while start < values.len() {
            let part = &values[start..(start + self.strip).min(values.len())];
            let n = (part.len() * self.n_images) as f64;
            let mean = lane_sum::<S, T>(simd, part, zero, false, self.n_images) / n;
            // Deviations from the rounded mean; what the rounding moves is put right exactly.
            let center = T::of(mean);
            let squares = lane_sum::<S, T>(simd, part, T::splat(simd, center), true, self.n_images);
            let shift = mean - center.wide();
            let squares = squares - n * shift * shift;
            // Where values hardly differ, what was rounded may be more than what is left. NaN stays.
            let squares = if squares < 0.0 { 0.0 } else { squares };
            all = all.join(Partial { n, mean, squares });
            start += part.len();
        }
        all
    }
}

/// Sum over the first `n_images` lanes of x − center, or of its square.
#[inline(always)]
fn lane_sum<S: Simd, T: Element>(
    simd: S,
    values: &[T::Vector<S>],
    center: T::Vector<S>,
    is_square: bool,
    n_images: usize,
) -> f64 {
    let zero = T::splat(simd, T::ZERO);
    let mut total = zero;
    let mut start = 0;
    while start < values.len() {
        let part = &values[start..(start + SEGMENT).min(values.len())];
        let mut sums = [zero; 4];
        for i in 0..part.len() {
            let x = T::vsub(simd, part[i], center);
            let sum = &mut sums[i % 4];
            *sum = if is_square { T::mul_add(simd, x, x, *sum) } else { T::vadd(simd, *sum, x) };
        }
        total = T::vadd(simd, total, sum_of::<S, T>(simd, sums));
        start += part.len();
    }
    let total = [total];
    let lanes = T::numbers::<S>(&total);
    let mut sum = 0.0;
    for lane in 0..n_images {
        sum += lanes[lane].wide();
    }
    sum
}

/// Terms of single precision added up before they join the total.
const SEGMENT: usize = 16;

/// One plane (plane, lane) of the input of a batch norm, and its change.
#[derive(Debug, Clone, Copy)]
pub struct PlaneChange<'a, T> {
    /// Values before.
    pub z: &'a [T],
    /// Their mean over the batch.
    pub mean: T,
    /// Their change.
    pub delta: &'a [T],
}

/// Registers of sums per channel.
pub const SUMS: usize = 3;

/// Adds to `sums` (3, lane) the sums of d = δ − pivot and of d (2 (z − m) + d) over one plane; lanes
/// from `n_images` on are left out. The pivot, in the third place, is any number near δ: the first
/// plane of a channel sets it. It keeps the variance of a nearly uniform change.
pub fn add_sums<T: Element>(
    isa: Isa,
    change: PlaneChange<'_, T>,
    is_first: bool,
    n_images: usize,
    sums: &mut [T],
) {
    if is_first {
        let lanes = sums.len() / SUMS;
        sums[2 * lanes..].fill(change.delta[0]);
    }
    isa.dispatch(Sums { change, n_images, sums });
}

#[inline(always)]
fn sum_of<S: Simd, T: Element>(simd: S, v: [T::Vector<S>; 4]) -> T::Vector<S> {
    T::vadd(simd, T::vadd(simd, v[0], v[1]), T::vadd(simd, v[2], v[3]))
}

struct Sums<'a, T> {
    change: PlaneChange<'a, T>,
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
        let pivot = T::vectors::<S>(self.sums)[2];
        let (mut total, mut total_square) = (zero, zero);
        let mut start = 0;
        while start < delta.len() {
            let end = (start + SEGMENT).min(delta.len());
            let (z, delta) = (&z[start..end], &delta[start..end]);
            let (mut sums, mut squares) = ([zero; 4], [zero; 4]);
            let mut i = 0;
            while i + 4 <= delta.len() {
                for j in 0..4 {
                    prefetch(z, i + j + AHEAD);
                    prefetch(delta, i + j + AHEAD);
                    let d = T::vsub(simd, delta[i + j], pivot);
                    let term = T::mul_add(simd, two, T::vsub(simd, z[i + j], mean), d);
                    sums[j] = T::vadd(simd, sums[j], d);
                    squares[j] = T::mul_add(simd, d, term, squares[j]);
                }
                i += 4;
            }
            while i < delta.len() {
                let d = T::vsub(simd, delta[i], pivot);
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

/// Change of a channel's output: delta · (δz − pivot) + base · (z − mean) + constant.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Affine<T> {
    /// Factor of the input's change.
    pub delta: T,
    /// Subtracted from the input's change first.
    pub pivot: T,
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
    /// The sum of the batch norm's output and these values, a shortcut.
    OfSum {
        /// γ / sqrt(v + ε).
        scale: T,
        /// β.
        shift: T,
        /// Values of the shortcut.
        other: &'a [T],
    },
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
            Relu::OfSum { .. } => isa.dispatch(Run::<T, DELTA, ADDED, 2> { plane: self, out }),
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
        let (other, scale, shift) = match plane.relu {
            Relu::No => (z, T::ZERO, T::ZERO),
            Relu::OfNorm { scale, shift } => (z, scale, shift),
            Relu::OfSum { scale, shift, other } => (&T::vectors::<S>(other)[..n], scale, shift),
        };
        let Affine { delta: of_delta, pivot, base, constant } = plane.affine;
        let (mean, of_delta) = (T::splat(simd, plane.mean), T::splat(simd, of_delta));
        let pivot = T::splat(simd, pivot);
        let (base, constant) = (T::splat(simd, base), T::splat(simd, constant));
        let (scale, shift) = (T::splat(simd, scale), T::splat(simd, shift));
        for i in 0..n {
            prefetch(z, i + AHEAD);
            if DELTA {
                prefetch(delta, i + AHEAD);
            }
            if ADDED {
                prefetch(added, i + AHEAD);
            }
            if RELU == 2 {
                prefetch(other, i + AHEAD);
            }
            let centered = T::vsub(simd, z[i], mean);
            let mut change = T::mul_add(simd, base, centered, constant);
            if DELTA {
                change = T::mul_add(simd, of_delta, T::vsub(simd, delta[i], pivot), change);
            }
            if ADDED {
                change = T::vadd(simd, change, added[i]);
            }
            out[i] = match RELU {
                0 => change,
                1 => relu_change::<S, T>(simd, T::mul_add(simd, scale, centered, shift), change),
                _ => {
                    let base = T::vadd(simd, T::mul_add(simd, scale, centered, shift), other[i]);
                    relu_change::<S, T>(simd, base, change)
                }
            };
        }
    }
}

impl<T: Element> Plane<'_, T> {
    /// Writes the change of the maxima over 2x2 windows of the output, which has rows of `width`; the last row or column of odd
    /// sizes is left out. There is a change of the input, no addition, and a ReLU of the batch norm itself. The same bits as
    /// [`Plane::run`] and [`max_pool2`](super::pointwise::max_pool2) one after the other, the maxima before the change being
    /// those of the ReLU's output as [`Map`] gives it.
    pub fn run_pooled(&self, isa: Isa, width: usize, out: &mut [T]) {
        debug_assert!(self.added.is_none() && matches!(self.relu, Relu::OfNorm { .. }));
        isa.dispatch(RunPooled { plane: self, width, out });
    }
}

struct RunPooled<'a, T> {
    plane: &'a Plane<'a, T>,
    width: usize,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for RunPooled<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plane, width, out } = self;
        let Relu::OfNorm { scale, shift } = plane.relu else { return };
        let half = width / 2;
        let out = T::vectors_mut::<S>(out);
        let z = T::vectors::<S>(plane.z);
        let delta = &T::vectors::<S>(plane.delta.unwrap_or_default())[..z.len()];
        let Affine { delta: of_delta, pivot, base, constant } = plane.affine;
        let (mean, of_delta) = (T::splat(simd, plane.mean), T::splat(simd, of_delta));
        let pivot = T::splat(simd, pivot);
        let (base, constant) = (T::splat(simd, base), T::splat(simd, constant));
        let (scale, shift) = (T::splat(simd, scale), T::splat(simd, shift));
        let zero = T::splat(simd, T::ZERO);
        for (row, out) in out.chunks_exact_mut(half).enumerate() {
            let rows = 2 * row * width..2 * (row + 1) * width;
            let (z, delta) = (&z[rows.clone()], &delta[rows]);
            for x in 0..half {
                let at = [2 * x, 2 * x + 1, width + 2 * x, width + 2 * x + 1];
                let (mut a, mut d) = ([zero; 4], [zero; 4]);
                for i in 0..4 {
                    prefetch(z, at[i] + AHEAD);
                    prefetch(delta, at[i] + AHEAD);
                    let centered = T::vsub(simd, z[at[i]], mean);
                    let change = T::mul_add(simd, base, centered, constant);
                    let change = T::mul_add(simd, of_delta, T::vsub(simd, delta[at[i]], pivot), change);
                    let before = T::mul_add(simd, scale, centered, shift);
                    d[i] = relu_change::<S, T>(simd, before, change);
                    a[i] = T::vmax(simd, before, zero);
                }
                let max = T::vmax(simd, T::vmax(simd, a[0], a[1]), T::vmax(simd, a[2], a[3]));
                for i in 0..4 {
                    d[i] = T::vsub(simd, d[i], T::vsub(simd, max, a[i]));
                }
                out[x] = T::vmax(simd, T::vmax(simd, d[0], d[1]), T::vmax(simd, d[2], d[3]));
            }
        }
    }
}

/// γ / sqrt(v + ε), rounded once.
#[must_use]
pub fn factor<T: Element>(scale: T, variance: f64, epsilon: f64) -> T {
    T::of(scale.wide() / (variance + epsilon).sqrt())
}

/// The map itself for one block (C, plane, lane), with γ and β in `params` (2, C) and one entry of
/// `moments` per channel; `other` and `is_relu` as in [`Map`].
#[derive(Debug)]
pub struct MapBlock<'a, T> {
    /// γ, then β.
    pub params: &'a [T],
    /// Statistics used.
    pub moments: &'a [Moments],
    /// Added to the variance.
    pub epsilon: f64,
    /// Added.
    pub other: Option<&'a [T]>,
    /// Whether negative results become zero.
    pub is_relu: bool,
}

impl<T: Element> MapBlock<'_, T> {
    /// Writes the output for `input`.
    pub fn run<'o>(&self, isa: Isa, input: &[T], out: impl Into<Out<'o, T>>) {
        self.run_part(isa, input, 0..input.len() / self.moments.len(), out);
    }

    /// The same for numbers `part` of every plane.
    pub fn run_part<'o>(&self, isa: Isa, input: &[T], part: Range<usize>, out: impl Into<Out<'o, T>>) {
        let out = out.into();
        let (scales, shifts) = self.params.split_at(self.moments.len());
        let plane = out.len() / self.moments.len();
        for (channel, mut out) in out.chunks_exact(plane).enumerate() {
            let out = out.part(part.clone());
            let at = channel * plane + part.start..channel * plane + part.end;
            let Moments { mean, variance } = self.moments[channel];
            let map = Map {
                scale: factor(scales[channel], variance, self.epsilon),
                mean: T::of(mean),
                shift: shifts[channel],
                other: self.other.map(|other| &other[at.clone()]),
                is_relu: self.is_relu,
            };
            map.run(isa, &input[at], out);
        }
    }
}

/// The map itself for one plane: scale · (x − mean) + shift, plus `other` if there is one, cut off
/// below zero if asked for.
#[derive(Debug)]
pub struct Map<'a, T> {
    /// γ / sqrt(v + ε).
    pub scale: T,
    /// Mean.
    pub mean: T,
    /// β.
    pub shift: T,
    /// Added.
    pub other: Option<&'a [T]>,
    /// Whether negative results become zero.
    pub is_relu: bool,
}

impl<T: Element> Map<'_, T> {
    /// Writes the output for `input` (plane, lane).
    pub fn run<'o>(&self, isa: Isa, input: &[T], out: impl Into<Out<'o, T>>) {
        let out = out.into();
        match (self.other.is_some(), self.is_relu) {
            (true, true) => isa.dispatch(MapPlane::<T, true, true> { map: self, input, out }),
            (true, false) => isa.dispatch(MapPlane::<T, true, false> { map: self, input, out }),
            (false, true) => isa.dispatch(MapPlane::<T, false, true> { map: self, input, out }),
            (false, false) => isa.dispatch(MapPlane::<T, false, false> { map: self, input, out }),
        }
    }
}

struct MapPlane<'a, T, const OTHER: bool, const RELU: bool> {
    map: &'a Map<'a, T>,
    input: &'a [T],
    out: Out<'a, T>,
}

impl<T: Element, const OTHER: bool, const RELU: bool> WithSimd for MapPlane<'_, T, OTHER, RELU> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut out = self.out.vectors::<S>();
        let n = out.len();
        let x = &T::vectors::<S>(self.input)[..n];
        let other = if OTHER { &T::vectors::<S>(self.map.other.unwrap_or_default())[..n] } else { x };
        let (scale, shift) = (T::splat(simd, self.map.scale), T::splat(simd, self.map.shift));
        let (mean, zero) = (T::splat(simd, self.map.mean), T::splat(simd, T::ZERO));
        for i in 0..n {
            prefetch(x, i + AHEAD);
            if OTHER {
                prefetch(other, i + AHEAD);
            }
            out.prefetch(i + AHEAD);
            let mut y = T::mul_add(simd, scale, T::vsub(simd, x[i], mean), shift);
            if OTHER {
                y = T::vadd(simd, y, other[i]);
            }
            out.put(i, if RELU { T::vmax(simd, zero, y) } else { y });
        }
    }
}

/// Where the gradient g of what follows a batch norm is kept; it becomes zero elsewhere.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a, T> {
    /// Everywhere.
    All,
    /// Where the output of a ReLU is positive.
    Output(&'a [T]),
    /// Where scale · (x − mean) + shift is: the same, if nothing was added before the ReLU.
    Input {
        /// γ / sqrt(v + ε).
        scale: T,
        /// β.
        shift: T,
    },
}

/// One plane of a batch norm's input x, and of the gradient g of the output of what follows it, in the parts it comes
/// in. Gradients are zero in lanes without an image.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a, T> {
    /// Input.
    pub x: &'a [T],
    /// Its mean.
    pub mean: T,
    /// The gradient,
    pub grad: &'a [T],
    /// to which this is added
    pub other: Option<&'a [T]>,
    /// before it is masked.
    pub mask: Mask<'a, T>,
}

/// The same in registers.
struct InRegisters<'a, V> {
    x: &'a [V],
    mean: V,
    grad: &'a [V],
    other: Option<&'a [V]>,
    mask: MaskInRegisters<'a, V>,
    zero: V,
}

enum MaskInRegisters<'a, V> {
    All,
    Output(&'a [V]),
    Input { scale: V, shift: V },
}

impl<'a, V: Copy> InRegisters<'a, V> {
    #[inline(always)]
    fn new<S: Simd, T: Element<Vector<S> = V>>(simd: S, from: &Incoming<'a, T>) -> Self {
        let n = T::vectors::<S>(from.grad).len();
        let part = |slice: &'a [T]| &T::vectors::<S>(slice)[..n];
        let mask = match from.mask {
            Mask::All => MaskInRegisters::All,
            Mask::Output(out) => MaskInRegisters::Output(part(out)),
            Mask::Input { scale, shift } => {
                MaskInRegisters::Input { scale: T::splat(simd, scale), shift: T::splat(simd, shift) }
            }
        };
        let (mean, zero) = (T::splat(simd, from.mean), T::splat(simd, T::ZERO));
        Self { x: part(from.x), mean, grad: part(from.grad), other: from.other.map(part), mask, zero }
    }

    /// x − mean, and g.
    #[inline(always)]
    fn at<S: Simd, T: Element<Vector<S> = V>>(&self, simd: S, i: usize) -> (V, V) {
        let centered = T::vsub(simd, self.x[i], self.mean);
        let mut grad = self.grad[i];
        if let Some(other) = self.other {
            grad = T::vadd(simd, grad, other[i]);
        }
        let output = match self.mask {
            MaskInRegisters::All => return (centered, grad),
            MaskInRegisters::Output(out) => out[i],
            MaskInRegisters::Input { scale, shift } => T::mul_add(simd, scale, centered, shift),
        };
        (centered, T::where_greater(simd, output, self.zero, grad, self.zero))
    }
}

/// Sums of g and of g · (x − mean) over one plane; g itself is written to `kept`, if it is wanted.
#[must_use]
pub fn gradient_sums<T: Element>(isa: Isa, incoming: Incoming<T>, kept: Option<Out<T>>) -> [f64; 2] {
    isa.dispatch(GradientSums { incoming, kept })
}

struct GradientSums<'a, 'b, T> {
    incoming: Incoming<'a, T>,
    kept: Option<Out<'b, T>>,
}

impl<T: Element> WithSimd for GradientSums<'_, '_, T> {
    type Output = [f64; 2];
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; 2] {
        let zero = T::splat(simd, T::ZERO);
        let incoming = InRegisters::new(simd, &self.incoming);
        let n = incoming.grad.len();
        let mut kept = self.kept.map(Out::vectors::<S>);
        let (mut sum, mut product) = (0.0, 0.0);
        let mut start = 0;
        while start < n {
            let end = (start + SEGMENT).min(n);
            let (mut sums, mut products) = (zero, zero);
            for i in start..end {
                let (centered, grad) = incoming.at::<S, T>(simd, i);
                if let Some(kept) = &mut kept {
                    kept.put(i, grad);
                }
                sums = T::vadd(simd, sums, grad);
                products = T::mul_add(simd, grad, centered, products);
            }
            sum += T::reduce_sum(simd, sums).wide();
            product += T::reduce_sum(simd, products).wide();
            start = end;
        }
        [sum, product]
    }
}

/// Gradient of the input for one plane: of_grad · g + of_x · (x − mean) + constant.
#[derive(Debug, Clone, Copy)]
pub struct Gradient<T> {
    /// Factor of the gradient of the output.
    pub of_grad: T,
    /// Factor of the centered input.
    pub of_x: T,
    /// Constant.
    pub constant: T,
}

impl<T: Element> Gradient<T> {
    /// Writes the gradient of the input to `out` (plane, lane), with zeros in lanes from `n_images` on.
    pub fn run(self, isa: Isa, lanes: usize, n_images: usize, incoming: Incoming<T>, mut out: Out<T>) {
        isa.dispatch(GradientPlane { gradient: self, incoming, out: out.again() });
        out.fill_lanes(lanes, n_images, T::ZERO);
    }
}

struct GradientPlane<'a, T> {
    gradient: Gradient<T>,
    incoming: Incoming<'a, T>,
    out: Out<'a, T>,
}

impl<T: Element> WithSimd for GradientPlane<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Gradient { of_grad, of_x, constant } = self.gradient;
        let (of_grad, of_x) = (T::splat(simd, of_grad), T::splat(simd, of_x));
        let constant = T::splat(simd, constant);
        let incoming = InRegisters::new(simd, &self.incoming);
        let mut out = self.out.vectors::<S>();
        for i in 0..out.len().min(incoming.grad.len()) {
            let (centered, grad) = incoming.at::<S, T>(simd, i);
            out.put(i, T::mul_add(simd, of_grad, grad, T::mul_add(simd, of_x, centered, constant)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::pointwise::max_pool2;
    use crate::kernels::lanes::{Blocks, Buffer};
    use crate::rng::{Purpose, Stream};

    /// Numbers within ± `scale` / 2.
    fn filled<T: Element>(len: usize, lane: u32, scale: f64) -> Buffer<T> {
        let stream = Stream::new(7, Purpose::Subset, 0).lane(lane);
        let mut buffer = Buffer::zeroed(len);
        for (value, idx) in buffer.iter_mut().zip(0..) {
            *value = T::of(scale * (stream.uniform_at(idx) - 0.5));
        }
        buffer
    }

    fn compare<T: Element>() {
        for isa in Isa::available() {
            let lanes = Blocks::new::<T>(isa, 1).lanes;
            for (height, width, largest) in [(4, 6, 1e-3), (5, 7, 1.0), (2, 2, 0.0), (16, 16, 0.3)] {
                let (len, pooled) = (height * width * lanes, height / 2 * (width / 2) * lanes);
                let (z, delta) = (filled::<T>(len, 0, 4.0), filled::<T>(len, 1, largest));
                let (scale, shift, mean) = (T::of(0.7), T::of(-0.1), T::of(0.2));
                let affine = Affine {
                    delta: T::of(0.69),
                    pivot: T::of(1e-3),
                    base: T::of(-0.02),
                    constant: T::of(4e-3),
                };
                let relu = Relu::OfNorm { scale, shift };
                let plane = Plane { z: &z, mean, affine, delta: Some(&delta), added: None, relu };
                let (mut base, mut change) = (Buffer::zeroed(len), Buffer::zeroed(len));
                Map { scale, mean, shift, other: None, is_relu: true }.run(isa, &z, &mut base[..]);
                plane.run(isa, &mut change);
                let (mut expected, mut found) = (Buffer::zeroed(pooled), Buffer::zeroed(pooled));
                max_pool2(isa, [height, width], &base, &change, &mut expected);
                plane.run_pooled(isa, width, &mut found);
                let bits =
                    |values: &[T]| values.iter().map(|value| value.wide().to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{isa:?}, {height}x{width}");
            }
        }
    }

    /// Oracle: the batch norm's rule, then that of the maxima, around what the map of the forward pass gives.
    #[test]
    fn pooled_changes_are_those_of_one_rule_after_the_other() {
        compare::<f32>();
        compare::<f64>();
    }
}
