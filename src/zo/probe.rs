//! Probes: the points around θ at which an estimator wants the loss.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::params::Layout;
use crate::rng::{Purpose, SIGNS_PER_BLOCK, Stream};

crate::choice! {
    /// Law of the random directions of RGE.
    pub enum Directions {
        /// u ~ N(0, I), as in Eq. (1) of the paper.
        Gaussian = "gaussian",
        /// u uniform on the unit sphere, estimate times d.
        Sphere = "sphere",
        /// One unit direction per parameter tensor, no dimension factor, as in the released code.
        PerTensor = "per-tensor",
        /// u of independent random signs.
        Rademacher = "rademacher",
    }
}

/// A point θ + shift · v.
#[derive(Debug, Clone)]
pub enum Probe {
    /// v is the coordinate vector e_coord.
    Coordinate {
        /// Position in the flat parameter vector.
        coord: usize,
        /// Signed length, usually ± μ.
        shift: f64,
    },
    /// v is a random direction, regenerated from its number wherever it is needed.
    Direction {
        /// Where directions come from.
        source: Arc<dyn Family>,
        /// Which of them.
        idx: u32,
        /// Signed length, usually ± μ.
        shift: f64,
    },
}

impl Probe {
    /// Writes θ + shift · v into `point` (d), given θ in `params` (d).
    pub fn apply(&self, params: &[f64], point: &mut [f64]) {
        point.copy_from_slice(params);
        match self {
            Self::Coordinate { coord, shift } => point[*coord] += shift,
            Self::Direction { source, idx, shift } => source.add_to(*idx, *shift, point),
        }
    }
}

/// Directions over an active set, each made from its number wherever it is needed.
pub trait Family: std::fmt::Debug + Send + Sync {
    /// Active coordinates, sorted.
    fn coords(&self) -> &Arc<[usize]>;

    /// Values of direction `idx` at the active coordinates, in their order.
    fn values(&self, idx: u32) -> Vec<f64>;

    /// Values of direction `idx` at the active positions of `range` alone.
    ///
    /// # Panics
    /// If the range ends beyond the active coordinates.
    fn values_in(&self, idx: u32, range: Range<usize>) -> Vec<f64> {
        self.values(idx)[range].to_vec()
    }

    /// Adds `shift` times direction `idx` to `point` (d).
    fn add_to(&self, idx: u32, shift: f64, point: &mut [f64]) {
        for (&coord, value) in self.coords().iter().zip(self.values(idx)) {
            point[coord] += shift * value;
        }
    }

    /// The factor c of the estimate (c/q) Σ slope · u along directions of this family.
    fn factor(&self, _mu: f64) -> f64 {
        1.0
    }

    /// Sum of weight times direction over (number of the direction, weight), at the active coordinates in
    /// their order. Every sum is taken in the order given.
    fn weighted_sum(&self, weights: &[(u32, f64)]) -> Vec<f64> {
        let mut total = vec![0.0; self.coords().len()];
        for some in weights.chunks(DIRECTIONS_AT_ONCE) {
            let directions: Vec<Vec<f64>> = some.par_iter().map(|&(idx, _)| self.values(idx)).collect();
            for ((_, weight), values) in some.iter().zip(directions) {
                total.iter_mut().zip(values).for_each(|(total, value)| *total += weight * value);
            }
        }
        total
    }
}

/// Directions that a sum holds at a time.
const DIRECTIONS_AT_ONCE: usize = 16;

/// Directions of independent numbers over an active set, normalized or not: direction `idx` is a pure function of the
/// seed, the step and `idx`.
#[derive(Debug)]
pub struct DirectionSource {
    law: Directions,
    stream: Stream,
    coords: Arc<[usize]>,
    /// Ranges of `coords` that are normalized together: all of it, or one per tensor.
    groups: Vec<Range<usize>>,
}

impl DirectionSource {
    /// Directions over `coords` (sorted) of a network with this `layout`, for one `step` of a run.
    /// Without a layout (a black box) there are no tensors, and [`Directions::PerTensor`] treats
    /// the whole vector as one.
    #[must_use]
    pub fn new(
        law: Directions,
        seed: u64,
        purpose: Purpose,
        step: u32,
        coords: Arc<[usize]>,
        layout: Option<&Layout>,
    ) -> Self {
        let groups = match (law, layout) {
            (Directions::Gaussian | Directions::Rademacher, _) => Vec::new(),
            (Directions::PerTensor, Some(layout)) => (0..layout.specs().len())
                .map(|param_idx| {
                    let range = layout.range(param_idx);
                    let at = |bound| coords.partition_point(|&coord| coord < bound);
                    at(range.start)..at(range.end)
                })
                .filter(|group| !group.is_empty())
                .collect(),
            // One group: all of it.
            _ => std::iter::once(0..coords.len()).collect(),
        };
        Self { law, stream: Stream::new(seed, purpose, step), coords, groups }
    }

    /// Law of the directions.
    #[must_use]
    pub fn law(&self) -> Directions {
        self.law
    }

    /// The numbers of direction `idx`, before normalization, at active positions `first` on; `first` is a
    /// multiple of [`CHUNK`].
    fn fill(&self, idx: u32, first: usize, out: &mut [f64]) {
        debug_assert!(first.is_multiple_of(CHUNK));
        let stream = self.stream.lane(idx);
        match self.law {
            Directions::Rademacher => stream.fill_signs_from((first / SIGNS_PER_BLOCK) as u64, out),
            Directions::Gaussian | Directions::Sphere | Directions::PerTensor => {
                // Normal numbers come in pairs.
                stream.fill_normal_from((first / 2) as u64, out);
            }
        }
    }

    /// Lengths of the groups of a direction before normalization.
    fn norms(&self, values: &[f64]) -> Vec<f64> {
        let norm = |group: &Range<usize>| values[group.clone()].iter().map(|v| v * v).sum::<f64>().sqrt();
        self.groups.iter().map(norm).collect()
    }
}

impl Family for DirectionSource {
    fn coords(&self) -> &Arc<[usize]> {
        &self.coords
    }

    /// 1 for u with covariance I, their number d for the unit sphere, μ per tensor as in the released code.
    fn factor(&self, mu: f64) -> f64 {
        match self.law {
            Directions::Gaussian | Directions::Rademacher => 1.0,
            Directions::Sphere => self.coords.len() as f64,
            Directions::PerTensor => mu,
        }
    }

    fn values(&self, idx: u32) -> Vec<f64> {
        let mut values = vec![0.0; self.coords.len()];
        self.fill(idx, 0, &mut values);
        for (group, norm) in self.groups.iter().zip(self.norms(&values)) {
            values[group.clone()].iter_mut().for_each(|v| *v /= norm);
        }
        values
    }

    /// Chunk by chunk, unless a direction has to be known as a whole for its length.
    fn add_to(&self, idx: u32, shift: f64, point: &mut [f64]) {
        if !self.groups.is_empty() {
            for (&coord, value) in self.coords.iter().zip(self.values(idx)) {
                point[coord] += shift * value;
            }
            return;
        }
        let mut values = [0.0; CHUNK];
        for (chunk, coords) in self.coords.chunks(CHUNK).enumerate() {
            let values = &mut values[..coords.len()];
            self.fill(idx, chunk * CHUNK, values);
            match (coords[0], coords[coords.len() - 1]) {
                // Without gaps, which the compiler turns into vector code.
                (first, last) if last - first + 1 == coords.len() => {
                    point[first..=last].iter_mut().zip(values).for_each(|(x, value)| *x += shift * *value);
                }
                _ => coords.iter().zip(values).for_each(|(&coord, value)| point[coord] += shift * *value),
            }
        }
    }

    fn values_in(&self, idx: u32, range: Range<usize>) -> Vec<f64> {
        if !self.groups.is_empty() {
            // The length is that of all of it.
            return self.values(idx)[range].to_vec();
        }
        assert!(range.end <= self.coords.len(), "{} of {} positions", range.end, self.coords.len());
        let first = range.start / CHUNK * CHUNK;
        let mut values = vec![0.0; range.end.max(first) - first];
        self.fill(idx, first, &mut values);
        values.drain(..range.start - first);
        values
    }

    /// Chunk by chunk, so that no direction is held as a whole.
    fn weighted_sum(&self, weights: &[(u32, f64)]) -> Vec<f64> {
        let norms_of = |&(idx, _): &(u32, f64)| {
            let mut values = vec![0.0; if self.groups.is_empty() { 0 } else { self.coords.len() }];
            self.fill(idx, 0, &mut values);
            self.norms(&values)
        };
        let norms: Vec<Vec<f64>> = weights.par_iter().map(norms_of).collect();
        let mut total = vec![0.0; self.coords.len()];
        let sum = |(chunk, total): (usize, &mut [f64])| {
            let first = chunk * CHUNK;
            let mut values = [0.0; CHUNK];
            let values = &mut values[..total.len()];
            let end = first + total.len();
            let at = |position: usize| position.clamp(first, end) - first;
            for (&(idx, weight), norms) in weights.iter().zip(&norms) {
                self.fill(idx, first, values);
                for (group, norm) in self.groups.iter().zip(norms) {
                    values[at(group.start)..at(group.end)].iter_mut().for_each(|v| *v /= norm);
                }
                total.iter_mut().zip(&*values).for_each(|(total, value)| *total += weight * value);
            }
        };
        total.par_chunks_mut(CHUNK).enumerate().for_each(sum);
        total
    }
}

/// Coordinates at a time in a sum of directions: whole blocks of random words.
const CHUNK: usize = 8 * SIGNS_PER_BLOCK;

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the directions one by one, added in the same order: the same bits.
    #[test]
    fn weighted_sums_are_sums_of_directions() {
        let layout = crate::zo::sparsity::layouts::cnn(1, 9);
        let coords: Arc<[usize]> = (0..layout.n_coords()).filter(|coord| coord % 7 != 3).collect();
        for law in [Directions::Gaussian, Directions::Sphere, Directions::PerTensor, Directions::Rademacher] {
            let source = DirectionSource::new(law, 4, Purpose::Test, 2, coords.clone(), Some(&layout));
            let weights = [(0, 0.5), (3, -2.0), (70_000, 1e-3)];
            let mut expected = vec![0.0; coords.len()];
            for (idx, weight) in weights {
                let values = source.values(idx);
                expected.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            }
            assert_eq!(source.weighted_sum(&weights), expected, "{law:?}");
            let (whole, n) = (source.values(70_000), coords.len());
            for range in [0..n, 3..n, 100..101, n..n, n - 1..n] {
                assert_eq!(source.values_in(70_000, range.clone()), whole[range], "{law:?}");
            }
        }
    }
}
