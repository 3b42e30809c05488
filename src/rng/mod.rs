//! Counter-based random numbers: every draw is a pure function of (seed, stream, step, index).
//!
//! The generator is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
//! SC 2011). Because a draw depends on its position alone, any split of the work over threads,
//! devices or ranks sees the same numbers, and a direction can be regenerated from its index
//! instead of being stored or sent.

mod normal;
mod signs;

use crate::kernels::Isa;

/// What a sequence of numbers is for. Two purposes never share numbers, whatever the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Purpose {
    /// Initial network parameters.
    Init = 1,
    /// Procedural images.
    Synthetic = 2,
    /// Choice of subsets and validation split.
    Subset = 3,
    /// Order of the training images in an epoch.
    Shuffle = 4,
    /// Crop and flip.
    Augment = 5,
    /// Random directions of RGE.
    Direction = 6,
    /// Random sparsity masks.
    Mask = 7,
    /// Directions of ZO-GraSP.
    Grasp = 8,
    /// Anything in tests.
    Test = 9,
    /// Order of the coordinates in CoCD.
    Cycle = 10,
    /// Moves of Pattern Search.
    Moves = 11,
    /// Fixed feedback weights of learning rules.
    Feedback = 12,
    /// Tangents of forward gradients.
    Tangent = 13,
    /// Noise of the copies that certify images.
    Certify = 14,
    /// Noise on images to train on.
    ImageNoise = 16,
    /// Random directions at the outputs of a network.
    OutputDirection = 17,
    /// Subspaces that directions stay in for a while.
    Subspace = 18,
    /// Draws from the law of RGE.
    RgeModel = 19,
    /// Which trials are run again.
    Verification = 30,
}

/// Random signs from one block: one per bit.
pub const SIGNS_PER_BLOCK: usize = 128;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One Philox4x32-10 block: four random words from a 128-bit counter and a 64-bit key.
#[inline(always)]
#[must_use]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key[0] = key[0].wrapping_add(KEY_STEPS[0]);
            key[1] = key[1].wrapping_add(KEY_STEPS[1]);
        }
        let product0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let product1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        let (high0, low0) = ((product0 >> 32) as u32, product0 as u32);
        let (high1, low1) = ((product1 >> 32) as u32, product1 as u32);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

/// An endless random-access sequence: the numbers of one (seed, purpose, step).
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    key: [u32; 2],
    purpose: u16,
    step: u32,
    lane: u32,
}

impl Stream {
    /// The sequence for `seed`, `purpose` and `step` (an epoch, an iteration, a query: whatever
    /// the purpose counts).
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, step: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], purpose: purpose as u16, step, lane: 0 }
    }

    /// The sequence number `lane` inside this one, for a purpose that needs many per step (one
    /// direction per query, say). Lane 0 is the sequence itself.
    #[must_use]
    pub fn lane(self, lane: u32) -> Self {
        Self { lane, ..self }
    }

    /// Four random words at block `idx` (below 2^48).
    #[inline(always)]
    #[must_use]
    pub fn block(&self, idx: u64) -> [u32; 4] {
        debug_assert!(idx < 1 << 48, "block index exceeds 48 bits");
        let high = ((idx >> 32) as u32) << 16 | u32::from(self.purpose);
        philox([idx as u32, high, self.step, self.lane], self.key)
    }

    /// A 64-bit word at position `idx`.
    #[inline]
    #[must_use]
    pub fn u64_at(&self, idx: u64) -> u64 {
        let words = self.block(idx / 2);
        let offset = (idx % 2) as usize * 2;
        u64::from(words[offset]) << 32 | u64::from(words[offset + 1])
    }

    /// A number uniform in [0, 1) at position `idx`, with 53 random bits.
    #[inline]
    #[must_use]
    pub fn uniform_at(&self, idx: u64) -> f64 {
        unit_interval(self.u64_at(idx))
    }

    /// An integer uniform in `0..bound` at position `idx` (multiply-shift on 64 bits: the bias is
    /// below bound / 2^64).
    #[inline]
    #[must_use]
    pub fn below_at(&self, idx: u64, bound: u64) -> u64 {
        ((u128::from(self.u64_at(idx)) * u128::from(bound)) >> 64) as u64
    }

    /// Two independent standard normal numbers from block `idx` (Box and Muller, 1958).
    #[inline]
    #[must_use]
    pub fn normal_pair_at(&self, idx: u64) -> [f64; 2] {
        normal::box_muller(self.block(idx))
    }

    /// A standard normal number at position `idx`.
    #[inline]
    #[must_use]
    pub fn normal_at(&self, idx: u64) -> f64 {
        self.normal_pair_at(idx / 2)[(idx % 2) as usize]
    }

    /// Fills `out` with the standard normal numbers at positions `0..out.len()`.
    pub fn fill_normal(&self, out: &mut [f64]) {
        self.fill_normal_from(0, out);
    }

    /// Fills `out` with the standard normal numbers at positions `2 * first_block..`.
    pub fn fill_normal_from(&self, first_block: u64, out: &mut [f64]) {
        Isa::current().dispatch(normal::Fill { stream: *self, first_block, out });
    }

    /// Fills `out` with random signs, 1 or -1: bit i % 128 of block `first_block` + i / 128 says which.
    pub fn fill_signs_from(&self, first_block: u64, out: &mut [f64]) {
        Isa::current().dispatch(signs::Fill { stream: *self, first_block, out });
    }

    /// A uniformly random order of `0..n` (Fisher and Yates).
    #[must_use]
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below_at(i as u64, i as u64 + 1) as usize);
        }
        order
    }

    /// `k` distinct members of `0..n`, uniformly random, in increasing order.
    ///
    /// # Panics
    /// If `k > n`.
    #[must_use]
    pub fn subset(&self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "a subset of {k} does not fit into {n}");
        // The first k places of a permutation, without making the rest of it.
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..k {
            let other = i + self.below_at(i as u64, (n - i) as u64) as usize;
            order.swap(i, other);
        }
        order.truncate(k);
        order.sort_unstable();
        order
    }
}

#[inline(always)]
fn unit_interval(bits: u64) -> f64 {
    const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
    (bits >> 11) as f64 * SCALE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: known-answer vectors published with Random123 (file `kat_vectors`, philox4x32-10).
    #[test]
    fn philox_matches_published_vectors() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected);
        }
    }

    /// Oracle: mean 0, variance 1, kurtosis 3 of the standard normal law; tolerance five standard
    /// errors of each moment for n = 100,000.
    #[test]
    fn normal_has_the_right_moments() {
        let n = 100_000;
        let mut draws = vec![0.0; n];
        Stream::new(7, Purpose::Test, 0).fill_normal(&mut draws);
        let moment = |p: i32| draws.iter().map(|z| z.powi(p)).sum::<f64>() / n as f64;
        let error = 1.0 / (n as f64).sqrt();
        assert!(moment(1).abs() < 5.0 * error);
        assert!((moment(2) - 1.0).abs() < 5.0 * error * 2f64.sqrt());
        assert!((moment(4) - 3.0).abs() < 5.0 * error * 96f64.sqrt());
    }

    #[test]
    fn streams_do_not_share_numbers() {
        let base = Stream::new(1, Purpose::Test, 0).u64_at(0);
        assert_ne!(base, Stream::new(2, Purpose::Test, 0).u64_at(0));
        assert_ne!(base, Stream::new(1, Purpose::Mask, 0).u64_at(0));
        assert_ne!(base, Stream::new(1, Purpose::Test, 1).u64_at(0));
        assert_ne!(base, Stream::new(1, Purpose::Test, 0).u64_at(1));
        assert_ne!(base, Stream::new(1, Purpose::Test, 0).lane(1).u64_at(0));
    }

    #[test]
    fn single_draws_agree_with_filling() {
        let stream = Stream::new(3, Purpose::Test, 5);
        let mut filled = [0.0; 5];
        stream.fill_normal(&mut filled);
        for (idx, z) in filled.iter().enumerate() {
            assert_eq!(z.to_bits(), stream.normal_at(idx as u64).to_bits());
        }
    }

    #[test]
    fn subset_is_distinct_sorted_and_uniform() {
        // Oracle: each of 10 members is chosen with probability 3/10; 3,000 trials, five standard errors.
        let mut counts = [0u32; 10];
        for step in 0..3000 {
            let chosen = Stream::new(11, Purpose::Test, step).subset(10, 3);
            assert!(chosen.windows(2).all(|w| w[0] < w[1]));
            chosen.iter().for_each(|&i| counts[i] += 1);
        }
        let (mean, sd) = (900.0, (3000.0 * 0.3 * 0.7f64).sqrt());
        assert!(counts.iter().all(|&c| (f64::from(c) - mean).abs() < 5.0 * sd), "{counts:?}");
    }

    #[test]
    fn permutation_is_a_permutation() {
        let mut order = Stream::new(5, Purpose::Test, 0).permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
