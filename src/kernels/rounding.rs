//! Rounding of what a convolution multiplies, as tensor cores round it.

use super::Element;

/// How the two factors of a product are rounded before they are multiplied; sums are of the number type of
/// the activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    /// Not at all.
    #[default]
    None,
    /// To TF32: 10 bits after the leading one, to nearest, ties away from zero.
    Tf32,
    /// To bfloat16: 7 bits after the leading one, to nearest, ties to even.
    Bf16,
}

impl Rounding {
    /// The rounded number; NaN and infinity stay what they are.
    #[must_use]
    pub fn apply(self, value: f32) -> f32 {
        if !value.is_finite() {
            return value;
        }
        let bits = value.to_bits();
        f32::from_bits(match self {
            Self::None => bits,
            Self::Tf32 => (bits + 0x1000) & !0x1FFF,
            Self::Bf16 => (bits + 0x7FFF + (bits >> 16 & 1)) & !0xFFFF,
        })
    }

    /// The same for either number type; doubles go through single precision.
    #[must_use]
    pub fn apply_to<T: Element>(self, value: T) -> T {
        match self {
            Self::None => value,
            _ => T::of(f64::from(self.apply(value.wide() as f32))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: numbers with 7, 8, 10 and 11 bits after the leading one, by hand.
    #[test]
    fn to_nearest() {
        let same =
            |found: f32, expected: f32| assert_eq!(found.to_bits(), expected.to_bits(), "{found} {expected}");
        let bit = |n: i32| 2f32.powi(-n);
        same(Rounding::Bf16.apply(1.0 + bit(7)), 1.0 + bit(7));
        // Half way: to the even neighbor.
        same(Rounding::Bf16.apply(1.0 + bit(8)), 1.0);
        same(Rounding::Bf16.apply(1.0 + bit(7) + bit(8)), 1.0 + 2.0 * bit(7));
        same(Rounding::Bf16.apply(-1.0 - bit(8) - bit(12)), -1.0 - bit(7));
        same(Rounding::Tf32.apply(1.0 + bit(10)), 1.0 + bit(10));
        // Half way: away from zero.
        same(Rounding::Tf32.apply(-1.0 - bit(11)), -1.0 - bit(10));
        same(Rounding::Tf32.apply(1.0 + bit(12)), 1.0);
        same(Rounding::None.apply(1.0 + bit(23)), 1.0 + bit(23));
        assert!(Rounding::Tf32.apply(f32::NAN).is_nan());
        same(Rounding::Bf16.apply(f32::INFINITY), f32::INFINITY);
        same(Rounding::Bf16.apply_to(1.0 + f64::from(bit(9))) as f32, 1.0);
    }
}
