//! Probes: the points around θ at which an estimator wants the loss.

use std::sync::Arc;

use crate::nn::Layout;
use crate::rng::{Purpose, Stream};
use crate::spec::Directions;

/// A point θ + step · v.
#[derive(Debug, Clone)]
pub enum Probe {
    /// v is the coordinate vector e_coord.
    Coordinate {
        /// Position in the flat parameter vector.
        coord: usize,
        /// Signed length, usually ± μ.
        step: f64,
    },
    /// v is a random direction, regenerated from its number wherever it is needed.
    Direction {
        /// Where directions come from.
        source: Arc<DirectionSource>,
        /// Which of them.
        idx: u32,
        /// Signed length, usually ± μ.
        step: f64,
    },
}

impl Probe {
    /// Writes θ + step · v into `point` (d), given θ in `params` (d).
    pub fn apply(&self, params: &[f64], point: &mut [f64]) {
        point.copy_from_slice(params);
        match self {
            Self::Coordinate { coord, step } => point[*coord] += step,
            Self::Direction { source, idx, step } => {
                source.for_each(*idx, |coord, value| point[coord] += step * value);
            }
        }
    }
}

/// A family of random directions over an active set: direction `idx` is a pure function of the
/// seed, the step and `idx`.
#[derive(Debug)]
pub struct DirectionSource {
    law: Directions,
    stream: Stream,
    coords: Arc<[usize]>,
    /// Ranges of `coords` that are normalized together: all of it, or one per tensor.
    groups: Vec<std::ops::Range<usize>>,
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
            (Directions::Gaussian, _) => Vec::new(),
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

    /// Active coordinates, sorted.
    #[must_use]
    pub fn coords(&self) -> &Arc<[usize]> {
        &self.coords
    }

    /// Values of direction `idx` at the active coordinates, in their order.
    #[must_use]
    pub fn values(&self, idx: u32) -> Vec<f64> {
        let mut values = vec![0.0; self.coords.len()];
        self.stream.lane(idx).fill_normal(&mut values);
        for group in &self.groups {
            let group = &mut values[group.clone()];
            let norm = group.iter().map(|v| v * v).sum::<f64>().sqrt();
            group.iter_mut().for_each(|v| *v /= norm);
        }
        values
    }

    /// Calls `visit` with every active coordinate and its value in direction `idx`.
    fn for_each(&self, idx: u32, mut visit: impl FnMut(usize, f64)) {
        for (&coord, value) in self.coords.iter().zip(self.values(idx)) {
            visit(coord, value);
        }
    }
}
