//! What is minimized: a function of a flat parameter vector.

use rayon::prelude::*;

use super::Probe;
use crate::Result;

/// A function of parameters whose value is all that is known: a simulator, a remote model, a
/// network.
///
/// Implement it for your own black box; see `examples/black_box.rs`. Probes are evaluated on
/// several threads at once.
pub trait Objective: Sync {
    /// Number of parameters d.
    fn n_coords(&self) -> usize;

    /// Loss at `params` (d). NaN or infinity is allowed: it is counted, and the probe is left out.
    ///
    /// # Errors
    /// If the value cannot be had at all, such as [`crate::Error::Objective`]; training stops.
    fn loss(&self, params: &[f64]) -> Result<f64>;

    /// The same number while nothing else is evaluated, so that one evaluation may use all threads.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        self.loss(params)
    }

    /// Losses at `params` (d) moved by each probe, in order. By default one call of [`Objective::loss`] for each,
    /// spread over the threads; another way is worth it where many points cost less together: on a GPU, or with a
    /// service that takes batches.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn losses(&self, params: &[f64], probes: &[Probe]) -> Result<Vec<f64>> {
        one_by_one(self, params, probes)
    }
}

/// One loss per probe, spread over the threads.
pub(crate) fn one_by_one<O: Objective + ?Sized>(
    objective: &O,
    params: &[f64],
    probes: &[Probe],
) -> Result<Vec<f64>> {
    let loss = |point: &mut Vec<f64>, probe: &Probe| {
        probe.apply(params, point);
        objective.loss(point)
    };
    probes.par_iter().map_init(|| params.to_vec(), loss).collect()
}

/// An objective made of layers, of which everything before a perturbed one can be reused.
pub trait LayeredObjective: Objective {
    /// What one evaluation leaves for others to start from.
    type Base: Sync;

    /// Loss at `params` (d), and what is reusable of its computation.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn base(&self, params: &[f64]) -> Result<(f64, Self::Base)>;

    /// Loss at `params` (d) with `step` added to coordinate `coord`, given the base at `params`.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn loss_from(&self, base: &Self::Base, params: &[f64], coord: usize, step: f64) -> Result<f64>;

    /// The same for every (coordinate, step), in order; as [`Objective::losses`].
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn losses_from(&self, base: &Self::Base, params: &[f64], probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        one_by_one_from(self, base, params, probes)
    }
}

/// One loss per (coordinate, step), spread over the threads.
pub(crate) fn one_by_one_from<O: LayeredObjective + ?Sized>(
    objective: &O,
    base: &O::Base,
    params: &[f64],
    probes: &[(usize, f64)],
) -> Result<Vec<f64>> {
    probes.par_iter().map(|&(coord, step)| objective.loss_from(base, params, coord, step)).collect()
}

/// An objective that can carry the change of one coordinate through its parts to the loss, instead of
/// subtracting two losses: the same differences with more digits and less work.
pub trait PropagatingObjective: Objective {
    /// What one evaluation leaves for changes to start from.
    type Propagator: Sync;

    /// Loss at `params` (d), and what changes start from. `memory` bounds the bytes that changes in
    /// flight occupy.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn propagator(&self, params: &[f64], memory: usize) -> Result<(f64, Self::Propagator)>;

    /// Loss at the base point with step added to coordinate coord, minus the loss there, for every
    /// (coord, step) in order. NaN where the loss is NaN or infinite.
    ///
    /// # Errors
    /// If a coordinate is not below d.
    fn propagate(&self, from: &Self::Propagator, probes: &[(usize, f64)]) -> Result<Vec<f64>>;
}
