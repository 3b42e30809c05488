//! Difference rules that need no neighbours, and pooling.

use pulp::{Simd, WithSimd};

use super::Out;
use crate::kernels::{Element, Isa};

/// Change of max(base, 0) when `base` changes by `delta`: max(δ, −base) where base > 0, and
/// max(base + δ, 0) elsewhere. Nothing is subtracted from a nearly equal number.
#[inline(always)]
pub(super) fn relu_change<S: Simd, T: Element>(
    simd: S,
    base: T::Vector<S>,
    delta: T::Vector<S>,
) -> T::Vector<S> {
    let zero = T::splat(simd, T::ZERO);
    let floor = T::vsub(simd, zero, T::vmax(simd, zero, base));
    T::vmax(simd, floor, T::vadd(simd, T::vmin(simd, base, zero), delta))
}

/// Writes to `out` the change of max(base, 0) when `base` changes by `delta`.
pub fn relu<T: Element>(isa: Isa, base: &[T], delta: &[T], out: &mut [T]) {
    isa.dispatch(Relu { base, delta, out });
}

struct Relu<'a, T> {
    base: &'a [T],
    delta: &'a [T],
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Relu<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let out = T::vectors_mut::<S>(self.out);
        let (base, delta) = (T::vectors::<S>(self.base), T::vectors::<S>(self.delta));
        let (base, delta) = (&base[..out.len()], &delta[..out.len()]);
        for i in 0..out.len() {
            out[i] = relu_change::<S, T>(simd, base[i], delta[i]);
        }
    }
}

/// out += constant.
pub fn offset<T: Element>(isa: Isa, constant: T, out: &mut [T]) {
    isa.dispatch(Offset { constant, out });
}

struct Offset<'a, T> {
    constant: T,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Offset<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for i in 0..self.out.len() {
            self.out[i] += self.constant;
        }
    }
}

/// Change of the maxima over 2x2 windows of the planes `base` (C, H, W, lane) when they change by
/// `delta`; `out` is (C, H/2, W/2, lane), the last row or column of odd sizes is left out. Where the
/// largest stays the largest, the result is its δ, unrounded.
pub fn max_pool2<T: Element>(isa: Isa, size: [usize; 2], base: &[T], delta: &[T], out: &mut [T]) {
    isa.dispatch(MaxPool { size, base, delta, out });
}

struct MaxPool<'a, T> {
    size: [usize; 2],
    base: &'a [T],
    delta: &'a [T],
    out: &'a mut [T],
}

impl<T: Element> WithSimd for MaxPool<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [height, width] = self.size;
        let (half_h, half_w) = (height / 2, width / 2);
        let (base, delta) = (T::vectors::<S>(self.base), T::vectors::<S>(self.delta));
        let out = T::vectors_mut::<S>(self.out);
        for row in 0..out.len() / half_w {
            let (channel, y) = (row / half_h, row % half_h);
            let start = (channel * height + 2 * y) * width;
            let (base, delta) = (&base[start..start + 2 * width], &delta[start..start + 2 * width]);
            let out = &mut out[row * half_w..][..half_w];
            for x in 0..half_w {
                let at = [2 * x, 2 * x + 1, width + 2 * x, width + 2 * x + 1];
                let a = [base[at[0]], base[at[1]], base[at[2]], base[at[3]]];
                let max = T::vmax(simd, T::vmax(simd, a[0], a[1]), T::vmax(simd, a[2], a[3]));
                // δ less the distance to the old maximum, which is exactly zero for the winner.
                let mut d = a;
                for i in 0..4 {
                    d[i] = T::vsub(simd, delta[at[i]], T::vsub(simd, max, a[i]));
                }
                out[x] = T::vmax(simd, T::vmax(simd, d[0], d[1]), T::vmax(simd, d[2], d[3]));
            }
        }
    }
}

/// Means of planes: `delta` (C, plane, lane) to `out` (C, lane).
pub fn plane_means<T: Element>(isa: Isa, plane: usize, delta: &[T], out: &mut [T]) {
    isa.dispatch(PlaneMeans { plane, delta, out });
}

struct PlaneMeans<'a, T> {
    plane: usize,
    delta: &'a [T],
    out: &'a mut [T],
}

impl<T: Element> WithSimd for PlaneMeans<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let delta = T::vectors::<S>(self.delta);
        let out = T::vectors_mut::<S>(self.out);
        let factor = T::splat(simd, T::of((self.plane as f64).recip()));
        for c in 0..out.len() {
            let values = &delta[c * self.plane..][..self.plane];
            let mut total = T::splat(simd, T::ZERO);
            let mut start = 0;
            while start < values.len() {
                // Short partial sums keep the rounding of single precision small.
                let part = &values[start..(start + 32).min(values.len())];
                let mut sum = T::splat(simd, T::ZERO);
                for i in 0..part.len() {
                    sum = T::vadd(simd, sum, part[i]);
                }
                total = T::vadd(simd, total, sum);
                start += part.len();
            }
            out[c] = T::vmul(simd, total, factor);
        }
    }
}

/// Every second row and column: planes (C, H, W, lane) to (C, H/2, W/2, lane), rounded up.
pub fn every_second<T: Element>([height, width]: [usize; 2], lanes: usize, input: &[T], out: &mut [T]) {
    let (half_h, half_w) = (height.div_ceil(2), width.div_ceil(2));
    for (row, out) in out.chunks_exact_mut(half_w * lanes).enumerate() {
        let start = (row / half_h * height + row % half_h * 2) * width * lanes;
        for (x, out) in out.chunks_exact_mut(lanes).enumerate() {
            out.copy_from_slice(&input[start + 2 * x * lanes..][..lanes]);
        }
    }
}

/// The gradient of [`every_second`]: writes `grad` back to where its numbers came from, zeros elsewhere.
pub fn spread_every_second<T: Element>([height, width]: [usize; 2], lanes: usize, grad: &[T], out: &mut [T]) {
    let (half_h, half_w) = (height.div_ceil(2), width.div_ceil(2));
    out.fill(T::ZERO);
    for (row, grad) in grad.chunks_exact(half_w * lanes).enumerate() {
        let start = (row / half_h * height + row % half_h * 2) * width * lanes;
        for (x, grad) in grad.chunks_exact(lanes).enumerate() {
            out[start + 2 * x * lanes..][..lanes].copy_from_slice(grad);
        }
    }
}

/// A function of each number and one of a second list.
#[derive(Debug, Clone, Copy)]
pub enum Elementwise<T> {
    /// max(a, 0).
    Relu,
    /// b where a > 0, else 0: the gradient b of a ReLU with output a.
    ReluGrad,
    /// a + b.
    Add,
    /// a − b.
    Subtract,
    /// 1 / (1 + exp(−a)).
    Sigmoid,
    /// b · a (1 − a): the gradient b of the logistic function with output a.
    SigmoidGrad,
    /// a + constant.
    Offset(T),
}

impl<T: Element> Elementwise<T> {
    /// Writes the results to `out`; `b` is read where the function needs it.
    pub fn run<'o>(self, isa: Isa, a: &[T], b: &[T], out: impl Into<Out<'o, T>>) {
        isa.dispatch(ElementwiseRun { function: self, a, b, out: out.into() });
    }
}

struct ElementwiseRun<'a, T> {
    function: Elementwise<T>,
    a: &'a [T],
    b: &'a [T],
    out: Out<'a, T>,
}

impl<T: Element> WithSimd for ElementwiseRun<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let n = self.out.len();
        let (a, mut out) = (&self.a[..n], self.out);
        match self.function {
            Elementwise::Relu => {
                for i in 0..n {
                    out.put(i, if a[i] > T::ZERO { a[i] } else { T::ZERO });
                }
            }
            Elementwise::ReluGrad => {
                let b = &self.b[..n];
                for i in 0..n {
                    out.put(i, if a[i] > T::ZERO { b[i] } else { T::ZERO });
                }
            }
            Elementwise::Add => {
                let b = &self.b[..n];
                for i in 0..n {
                    out.put(i, a[i] + b[i]);
                }
            }
            Elementwise::Subtract => {
                let b = &self.b[..n];
                for i in 0..n {
                    out.put(i, a[i] - b[i]);
                }
            }
            Elementwise::Sigmoid => {
                for i in 0..n {
                    out.put(i, T::of((1.0 + (-a[i].wide()).exp()).recip()));
                }
            }
            Elementwise::SigmoidGrad => {
                let b = &self.b[..n];
                for i in 0..n {
                    let y = a[i].wide();
                    out.put(i, T::of(b[i].wide() * y * (1.0 - y)));
                }
            }
            Elementwise::Offset(constant) => {
                for i in 0..n {
                    out.put(i, a[i] + constant);
                }
            }
        }
    }
}

/// Maxima over 2x2 windows: planes (C, H, W, lane) to (C, H/2, W/2, lane), rounded down.
pub fn max_pool2_forward<T: Element>(isa: Isa, size: [usize; 2], input: &[T], out: &mut [T]) {
    isa.dispatch(MaxPoolForward { size, input, out });
}

struct MaxPoolForward<'a, T> {
    size: [usize; 2],
    input: &'a [T],
    out: &'a mut [T],
}

impl<T: Element> WithSimd for MaxPoolForward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [height, width] = self.size;
        let (half_h, half_w) = (height / 2, width / 2);
        let input = T::vectors::<S>(self.input);
        let out = T::vectors_mut::<S>(self.out);
        for row in 0..out.len() / half_w {
            let start = (row / half_h * height + 2 * (row % half_h)) * width;
            let input = &input[start..start + 2 * width];
            let out = &mut out[row * half_w..][..half_w];
            for x in 0..half_w {
                let top = T::vmax(simd, input[2 * x], input[2 * x + 1]);
                let bottom = T::vmax(simd, input[width + 2 * x], input[width + 2 * x + 1]);
                out[x] = T::vmax(simd, top, bottom);
            }
        }
    }
}

/// The gradient of the maxima goes to the first of each window in row-major order that has it.
pub fn max_pool2_grad<T: Element>(isa: Isa, size: [usize; 2], input: &[T], grad: &[T], out: Out<T>) {
    isa.dispatch(MaxPoolGrad { size, input, grad, out });
}

struct MaxPoolGrad<'a, T> {
    size: [usize; 2],
    input: &'a [T],
    grad: &'a [T],
    out: Out<'a, T>,
}

impl<T: Element> WithSimd for MaxPoolGrad<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [height, width] = self.size;
        let (half_h, half_w) = (height / 2, width / 2);
        let zero = T::splat(simd, T::ZERO);
        let (input, grad) = (T::vectors::<S>(self.input), T::vectors::<S>(self.grad));
        let mut out = self.out.vectors::<S>();
        if (height % 2, width % 2) != (0, 0) {
            // The last row or column belongs to no window.
            out.fill(zero);
        }
        for row in 0..grad.len() / half_w {
            let start = (row / half_h * height + 2 * (row % half_h)) * width;
            let input = &input[start..start + 2 * width];
            let mut out = out.part(start..start + 2 * width);
            let grad = &grad[row * half_w..][..half_w];
            for x in 0..half_w {
                let at = [2 * x, 2 * x + 1, width + 2 * x, width + 2 * x + 1];
                let mut most = input[at[0]];
                let mut parts = [grad[x], zero, zero, zero];
                for i in 1..4 {
                    let value = input[at[i]];
                    parts[i] = T::where_greater(simd, value, most, grad[x], zero);
                    for j in 0..i {
                        parts[j] = T::where_greater(simd, value, most, zero, parts[j]);
                    }
                    most = T::where_greater(simd, value, most, value, most);
                }
                for i in 0..4 {
                    out.put(at[i], parts[i]);
                }
            }
        }
    }
}
