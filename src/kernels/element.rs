//! The two number types of the kernels, f32 and f64, and their vectors.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Layout, WithDType};
use pulp::Simd;

/// A floating-point type that the kernels are compiled for.
pub trait Element: WithDType + Copy + Default + Send + Sync + PartialOrd + std::fmt::Debug + 'static {
    /// A register of lanes under the instruction set `S`.
    type Vector<S: Simd>: Copy;
    /// Additive identity.
    const ZERO: Self;

    /// Lanes per register.
    fn lanes<S: Simd>() -> usize;
    /// All lanes equal to `value`.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    /// The slice as registers; a remainder shorter than a register is left out.
    fn vectors<S: Simd>(slice: &[Self]) -> &[Self::Vector<S>];
    /// The slice as registers to write to; a remainder is left out.
    fn vectors_mut<S: Simd>(slice: &mut [Self]) -> &mut [Self::Vector<S>];
    /// The same of memory that may hold nothing yet.
    fn vectors_fresh<S: Simd>(slice: &mut [MaybeUninit<Self>]) -> &mut [MaybeUninit<Self::Vector<S>>];
    /// The numbers in registers.
    fn numbers<S: Simd>(vectors: &[Self::Vector<S>]) -> &[Self];
    /// a · b + c, fused where the instruction set can.
    fn mul_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// a + b.
    fn vadd<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// a − b.
    fn vsub<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// a · b.
    fn vmul<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// Smaller of a and b; which of them is taken when one is NaN depends on the instruction set.
    fn vmin<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// Larger of a and b; with NaN as [`Element::vmin`].
    fn vmax<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// x in lanes where a > b, y in others.
    fn where_greater<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        x: Self::Vector<S>,
        y: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// Sum of the lanes.
    fn reduce_sum<S: Simd>(simd: S, a: Self::Vector<S>) -> Self;
    /// Nearest value of this type.
    fn of(value: f64) -> Self;
    /// Exact value.
    fn wide(self) -> f64;
    /// The numbers of a contiguous tensor on the CPU.
    fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [Self]> {
        let data = storage.as_slice::<Self>()?;
        match layout.contiguous_offsets() {
            Some((start, end)) => Ok(&data[start..end]),
            None => candle_core::bail!("kernel input must be contiguous, got strides {:?}", layout.stride()),
        }
    }
}

macro_rules! element {
    ($t:ty, $vector:ident, $lanes:ident, $splat:ident, $slices:ident, $slices_mut:ident, $slices_fresh:ident,
     $fma:ident, $sum:ident, $add:ident, $sub:ident, $mul:ident, $min:ident, $max:ident, $greater:ident, $select:ident) => {
        impl Element for $t {
            type Vector<S: Simd> = S::$vector;
            const ZERO: Self = 0.0;

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S> {
                simd.$splat(value)
            }
            #[inline(always)]
            fn vectors<S: Simd>(slice: &[Self]) -> &[Self::Vector<S>] {
                S::$slices(slice).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(slice: &mut [Self]) -> &mut [Self::Vector<S>] {
                S::$slices_mut(slice).0
            }
            #[inline(always)]
            fn vectors_fresh<S: Simd>(
                slice: &mut [MaybeUninit<Self>],
            ) -> &mut [MaybeUninit<Self::Vector<S>>] {
                S::$slices_fresh(slice).0
            }
            #[inline(always)]
            fn numbers<S: Simd>(vectors: &[Self::Vector<S>]) -> &[Self] {
                pulp::bytemuck::cast_slice(vectors)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(
                simd: S,
                a: Self::Vector<S>,
                b: Self::Vector<S>,
                c: Self::Vector<S>,
            ) -> Self::Vector<S> {
                simd.$fma(a, b, c)
            }
            element!(@binary $add vadd, $sub vsub, $mul vmul, $min vmin, $max vmax);
            #[inline(always)]
            fn where_greater<S: Simd>(
                simd: S,
                a: Self::Vector<S>,
                b: Self::Vector<S>,
                x: Self::Vector<S>,
                y: Self::Vector<S>,
            ) -> Self::Vector<S> {
                simd.$select(simd.$greater(a, b), x, y)
            }
            #[inline(always)]
            fn reduce_sum<S: Simd>(simd: S, a: Self::Vector<S>) -> Self {
                simd.$sum(a)
            }
            #[inline(always)]
            fn of(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                f64::from(self)
            }
        }
    };
    (@binary $($method:ident $name:ident),*) => {
        $(
            #[inline(always)]
            fn $name<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S> {
                simd.$method(a, b)
            }
        )*
    };
}

element!(
    f32,
    f32s,
    F32_LANES,
    splat_f32s,
    as_simd_f32s,
    as_mut_simd_f32s,
    as_uninit_mut_simd_f32s,
    mul_add_e_f32s,
    reduce_sum_f32s,
    add_f32s,
    sub_f32s,
    mul_f32s,
    min_f32s,
    max_f32s,
    greater_than_f32s,
    select_f32s
);
element!(
    f64,
    f64s,
    F64_LANES,
    splat_f64s,
    as_simd_f64s,
    as_mut_simd_f64s,
    as_uninit_mut_simd_f64s,
    mul_add_e_f64s,
    reduce_sum_f64s,
    add_f64s,
    sub_f64s,
    mul_f64s,
    min_f64s,
    max_f64s,
    greater_than_f64s,
    select_f64s
);
