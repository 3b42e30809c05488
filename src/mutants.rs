//! Damaged versions of files, for the tests of everything that reads one.

use crate::rng::{Purpose, Stream};

/// `n` mutants of `bytes`, by `seed`: bits flipped, bytes replaced, removed, doubled and inserted, ends cut off, lengths
/// made huge.
pub(crate) fn of(bytes: &[u8], seed: u64, n: usize) -> impl Iterator<Item = Vec<u8>> {
    let stream = Stream::new(seed, Purpose::Subset, 0);
    (0..n).map(move |idx| {
        let lane = stream.lane(idx as u32);
        let below = |position: u64, most: usize| (lane.uniform_at(position) * most as f64) as usize;
        let mut mutant = bytes.to_vec();
        let (at, len) = (below(0, bytes.len().max(1)), 1 + below(1, 16));
        let end = (at + len).min(mutant.len());
        match idx % 7 {
            _ if mutant.is_empty() => mutant.push(0),
            0 => mutant[at] ^= 1 << below(2, 8),
            1 => mutant[at] = below(2, 256) as u8,
            2 => drop(mutant.drain(at..end)),
            3 => {
                let part = mutant[at..end].to_vec();
                mutant.splice(at..at, part);
            }
            4 => drop(mutant.splice(at..at, (0..len).map(|k| below(2 + k as u64, 256) as u8))),
            5 => mutant.truncate(at),
            _ => mutant[at..end].fill(0xff),
        }
        mutant
    })
}
