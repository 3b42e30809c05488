//! What becomes of the outputs of a convolution before they are written, so that they need not be read again: a batch norm
//! with running statistics, an addition, a ReLU. The same operations in the same order as in passes of their own.

use pulp::Simd;

use crate::kernels::Element;

/// y = scale · (x + bias − mean) + shift, for one channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelMap<T> {
    /// Bias of the convolution.
    pub bias: T,
    /// γ / sqrt(v + ε).
    pub scale: T,
    /// Mean.
    pub mean: T,
    /// β.
    pub shift: T,
}

impl<T: Element> ChannelMap<T> {
    /// That leaves everything as it is.
    #[must_use]
    pub fn identity() -> Self {
        Self { bias: T::ZERO, scale: T::of(1.0), mean: T::ZERO, shift: T::ZERO }
    }
}

/// Of all channels of one block.
#[derive(Debug, Clone, Copy)]
pub struct Finish<'a, T> {
    /// By output channel.
    pub maps: &'a [ChannelMap<T>],
    /// Added to y (C, H, W, lane).
    pub other: Option<&'a [T]>,
    /// Whether negative results become zero.
    pub is_relu: bool,
    /// Whether NaN does too, as in a ReLU on its own; that of a batch norm keeps it.
    pub clears_nan: bool,
}

/// Of one channel, in registers.
#[derive(Clone, Copy)]
pub(super) struct Finisher<'a, V> {
    map: [V; 4],
    zero: V,
    /// What is added, from the first output on.
    other: Option<&'a [V]>,
    is_relu: bool,
    clears_nan: bool,
}

impl<'a, V: Copy> Finisher<'a, V> {
    /// For outputs from position `start` on of a channel whose planes have `plane` registers.
    #[inline(always)]
    pub(super) fn new<S: Simd, T: Element<Vector<S> = V>>(
        simd: S,
        finish: &Finish<'a, T>,
        channel: usize,
        plane: usize,
        start: usize,
    ) -> Self {
        let ChannelMap { bias, scale, mean, shift } = finish.maps[channel];
        let splat = |value| T::splat(simd, value);
        let other = finish.other.map(|other| &T::vectors::<S>(other)[channel * plane + start..]);
        let map = [splat(bias), splat(scale), splat(mean), splat(shift)];
        let Finish { is_relu, clears_nan, .. } = *finish;
        Self { map, zero: splat(T::ZERO), other, is_relu, clears_nan }
    }

    /// Output number `at` from the first.
    #[inline(always)]
    pub(super) fn apply<S: Simd, T: Element<Vector<S> = V>>(&self, simd: S, value: V, at: usize) -> V {
        let [bias, scale, mean, shift] = self.map;
        let x = T::vsub(simd, T::vadd(simd, value, bias), mean);
        let mut y = T::mul_add(simd, scale, x, shift);
        if let Some(other) = self.other {
            y = T::vadd(simd, y, other[at]);
        }
        match (self.is_relu, self.clears_nan) {
            (false, _) => y,
            (true, false) => T::vmax(simd, self.zero, y),
            (true, true) => T::vmax(simd, y, self.zero),
        }
    }
}
