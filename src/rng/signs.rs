//! Random signs, many at a time.

use pulp::{Simd, WithSimd};

use super::{SIGNS_PER_BLOCK, Stream};

/// Blocks of random words worked on together.
const BATCH: usize = 8;
/// 1.0 as bits; the highest bit is the sign.
const ONE: u64 = 0x3FF0_0000_0000_0000;

/// Fills `out` with 1 or -1: bit i % 128 of block `first_block` + i / 128 of `stream` says which.
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
        for (batch, out) in out.chunks_mut(BATCH * SIGNS_PER_BLOCK).enumerate() {
            let first = first_block + (batch * BATCH) as u64;
            let mut words = [[0_u32; 4]; BATCH];
            for (block, words) in words.iter_mut().enumerate() {
                *words = stream.block(first + block as u64);
            }
            for (&word, out) in words.as_flattened().iter().zip(out.chunks_mut(32)) {
                let mut signs = [0.0; 32];
                for (i, sign) in signs.iter_mut().enumerate() {
                    *sign = f64::from_bits(ONE | u64::from(word >> i) << 63);
                }
                out.copy_from_slice(&signs[..out.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::rng::{Purpose, Stream};

    /// Oracle: the definition, bit by bit.
    #[test]
    fn signs_are_bits() {
        let stream = Stream::new(5, Purpose::Test, 3).lane(9);
        for n in [0, 1, 31, 32, 127, 128, 129, 1023, 1024, 3000] {
            let mut signs = vec![0.0; n];
            stream.fill_signs_from(17, &mut signs);
            for (i, &sign) in signs.iter().enumerate() {
                let words = stream.block(17 + i as u64 / 128);
                let bit = words[i % 128 / 32] >> (i % 32) & 1;
                assert_eq!(sign.to_bits(), (1.0 - 2.0 * f64::from(bit)).to_bits(), "{i} of {n}");
            }
        }
    }
}
