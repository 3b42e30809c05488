//! Standard normal numbers, many at a time (Box and Muller, 1958).
//!
//! Logarithm, sine and cosine are our own, free of branches, so that the compiler turns loops over them
//! into vector code. They add and multiply without fusing, in one order: the bits are the same for every
//! instruction set and operating system.

#![expect(
    clippy::needless_range_loop,
    reason = "index loops over constant ranges are what becomes vector code reliably"
)]

use std::f64::consts::{LN_2, TAU};

use pulp::{Simd, WithSimd};

use super::Stream;

/// Blocks of random words worked on together.
const BATCH: usize = 32;

/// Two independent standard normal numbers from four random words.
#[inline(always)]
pub(super) fn box_muller(words: [u32; 4]) -> [f64; 2] {
    let radius_bits = u64::from(words[0]) << 32 | u64::from(words[1]);
    let angle_bits = u64::from(words[2]) << 32 | u64::from(words[3]);
    // 1 - u lies in (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * ln(1.0 - super::unit_interval(radius_bits))).sqrt();
    let [sin, cos] = sin_cos_turns(super::unit_interval(angle_bits));
    [radius * cos, radius * sin]
}

/// Fills `out` with the numbers at positions from 2 `first_block` on of `stream`.
pub(super) struct Fill<'a> {
    pub(super) stream: Stream,
    pub(super) first_block: u64,
    pub(super) out: &'a mut [f64],
}

impl WithSimd for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { stream, first_block, out } = self;
        let mut done = 0;
        while done < out.len() {
            let block = first_block + (done / 2) as u64;
            let mut words = [[0u32; BATCH]; 4];
            for i in 0..BATCH {
                let block = stream.block(block + i as u64);
                words[0][i] = block[0];
                words[1][i] = block[1];
                words[2][i] = block[2];
                words[3][i] = block[3];
            }
            let mut pairs = [0.0; 2 * BATCH];
            for i in 0..BATCH {
                let pair = box_muller([words[0][i], words[1][i], words[2][i], words[3][i]]);
                pairs[2 * i] = pair[0];
                pairs[2 * i + 1] = pair[1];
            }
            let n = (out.len() - done).min(2 * BATCH);
            out[done..done + n].copy_from_slice(&pairs[..n]);
            done += n;
        }
    }
}

/// 1 / (2 k + 1) for k from 1 on: the series of artanh(s) / s in s². With |s| ≤ 0.172 the first term left
/// out is below 1e-18.
const ARTANH: [f64; 11] = [
    1.0 / 3.0,
    1.0 / 5.0,
    1.0 / 7.0,
    1.0 / 9.0,
    1.0 / 11.0,
    1.0 / 13.0,
    1.0 / 15.0,
    1.0 / 17.0,
    1.0 / 19.0,
    1.0 / 21.0,
    1.0 / 23.0,
];

/// Natural logarithm of a positive normal number: of x = 2^k m with m within a factor √2 of 1, it is
/// k ln 2 + 2 artanh((m - 1) / (m + 1)).
#[inline(always)]
fn ln(x: f64) -> f64 {
    const EXPONENT_BITS: u32 = 52;
    const SQRT_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    const ONE: u64 = 1.0f64.to_bits();
    // Adding an integer below 2^52 to these bits adds it to their value, 2^52.
    const INTEGERS: u64 = 4_503_599_627_370_496.0f64.to_bits();
    const BIAS: f64 = 4_503_599_627_370_496.0 + 1023.0;
    // ln 2 in two parts; the first has few enough digits that its multiples up to 2^11 are exact.
    const LN_2_HIGH: f64 = f64::from_bits(LN_2.to_bits() & !0x3FFF);
    const LN_2_LOW: f64 = LN_2 - LN_2_HIGH + 2.319_046_813_846_299_6e-17;

    let shifted = x.to_bits() + (ONE - SQRT_HALF);
    let k = f64::from_bits(INTEGERS | shifted >> EXPONENT_BITS) - BIAS;
    let m = f64::from_bits((shifted & ((1 << EXPONENT_BITS) - 1)) + SQRT_HALF);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut series = ARTANH[ARTANH.len() - 1];
    for k in (0..ARTANH.len() - 1).rev() {
        series = series * z + ARTANH[k];
    }
    let twice = s + s;
    k * LN_2_HIGH + (twice + (twice * (z * series) + k * LN_2_LOW))
}

/// Taylor coefficients of sin(x) / x and cos(x) in x², from the second on. With |x| ≤ π/4 the first terms left
/// out are below 1e-16 of the result.
const SIN: [f64; 8] = [
    -1.0 / 6.0,
    1.0 / 120.0,
    -1.0 / 5_040.0,
    1.0 / 362_880.0,
    -1.0 / 39_916_800.0,
    1.0 / 6_227_020_800.0,
    -1.0 / 1_307_674_368_000.0,
    1.0 / 355_687_428_096_000.0,
];
const COS: [f64; 8] = [
    -1.0 / 2.0,
    1.0 / 24.0,
    -1.0 / 720.0,
    1.0 / 40_320.0,
    -1.0 / 3_628_800.0,
    1.0 / 479_001_600.0,
    -1.0 / 87_178_291_200.0,
    1.0 / 20_922_789_888_000.0,
];

/// Sine and cosine of 2π `turns` for 0 ≤ `turns` < 1.
#[inline(always)]
fn sin_cos_turns(turns: f64) -> [f64; 2] {
    // Adding and subtracting 1.5 · 2^52 rounds to an integer, which the lowest bits then are.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let rounded = 4.0 * turns + ROUND;
    let quarter = rounded.to_bits();
    let x = TAU * (turns - 0.25 * (rounded - ROUND));
    let z = x * x;
    let (mut sin, mut cos) = (SIN[SIN.len() - 1], COS[COS.len() - 1]);
    for k in (0..SIN.len() - 1).rev() {
        sin = sin * z + SIN[k];
        cos = cos * z + COS[k];
    }
    let (sin, cos) = (x + x * (z * sin), 1.0 + z * cos);
    // A quarter turn swaps the two; bits of the quarter say which is negative.
    let swap = quarter & 1 == 1;
    let (sin, cos) = (if swap { cos } else { sin }, if swap { sin } else { cos });
    const SIGN: u32 = 63;
    let sin = f64::from_bits(sin.to_bits() ^ (quarter >> 1 & 1) << SIGN);
    let cos = f64::from_bits(cos.to_bits() ^ ((quarter + 1) >> 1 & 1) << SIGN);
    [sin, cos]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::rng::Purpose;

    /// Oracle: the standard library, whose errors are below a unit in the last place.
    #[test]
    fn functions_agree_with_the_standard_library() {
        let stream = Stream::new(2, Purpose::Test, 0);
        let eighths = (0..8).map(|k| f64::from(k) / 8.0);
        for u in (0..100_000).map(|i| stream.uniform_at(i)).chain(eighths) {
            let x = 1.0 - u;
            for x in [x, x * x * x, x.powi(8).max(1e-300), 2f64.powi(-53)] {
                let (found, expected) = (ln(x), x.ln());
                assert!((found - expected).abs() <= 4e-16 * expected.abs(), "ln {x}: {found} {expected}");
            }
            let [sin, cos] = sin_cos_turns(u);
            let (expected_sin, expected_cos) = (TAU * u).sin_cos();
            // The argument itself is rounded here: up to 2π · 1.1e-16.
            assert!((sin - expected_sin).abs() < 1e-15 && (cos - expected_cos).abs() < 1e-15, "{u}");
        }
    }

    /// Every instruction set gives the bits of one number at a time.
    #[test]
    fn bits_do_not_depend_on_the_instruction_set() {
        let stream = Stream::new(3, Purpose::Test, 5).lane(9);
        for isa in Isa::available() {
            for len in [1, 2, 63, 64, 65, 1000] {
                let mut out = vec![0.0; len];
                isa.dispatch(Fill { stream, first_block: 7, out: &mut out });
                for (idx, z) in out.iter().enumerate() {
                    assert_eq!(z.to_bits(), stream.normal_at(14 + idx as u64).to_bits());
                }
            }
        }
    }
}
