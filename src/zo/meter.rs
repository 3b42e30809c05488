//! The one gate through which objectives are called, so that queries are counted and not derived.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Probe;
use super::objective::{LayeredObjective, Objective, PropagatingObjective};
use crate::Result;

/// Queries so far. Shared by all objectives of a run.
#[derive(Debug, Default)]
pub struct QueryCount {
    queries: AtomicU64,
    non_finite: AtomicU64,
}

impl QueryCount {
    /// A count that goes on from earlier values, for a resumed run.
    #[must_use]
    pub fn resumed(queries: u64, non_finite: u64) -> Self {
        Self { queries: queries.into(), non_finite: non_finite.into() }
    }

    /// Evaluations of the objective.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    /// Evaluations that gave NaN or infinity.
    #[must_use]
    pub fn non_finite(&self) -> u64 {
        self.non_finite.load(Ordering::Relaxed)
    }

    pub(super) fn record(&self, loss: f64) {
        self.queries.fetch_add(1, Ordering::Relaxed);
        if !loss.is_finite() {
            self.non_finite.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An objective that can only be called counted: the objective itself is private.
#[derive(Debug)]
pub struct Metered<'c, O> {
    objective: O,
    count: &'c QueryCount,
}

impl<'c, O: Objective> Metered<'c, O> {
    /// Puts `objective` behind the meter.
    pub fn new(objective: O, count: &'c QueryCount) -> Self {
        Self { objective, count }
    }

    /// Number of parameters d.
    pub fn n_coords(&self) -> usize {
        self.objective.n_coords()
    }

    /// One query.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub fn loss(&self, params: &[f64]) -> Result<f64> {
        let loss = self.objective.loss(params)?;
        self.count.record(loss);
        Ok(loss)
    }

    /// One query per probe.
    ///
    /// # Errors
    /// As [`Objective::losses`].
    pub fn losses(&self, params: &[f64], probes: &[Probe]) -> Result<Vec<f64>> {
        Ok(self.counted(self.objective.losses(params, probes)?))
    }

    fn counted(&self, losses: Vec<f64>) -> Vec<f64> {
        losses.iter().for_each(|&loss| self.count.record(loss));
        losses
    }

    /// One query, while there are no others.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        let loss = self.objective.loss_alone(params)?;
        self.count.record(loss);
        Ok(loss)
    }
}

impl<O: LayeredObjective> Metered<'_, O> {
    /// One query that keeps what is reusable.
    ///
    /// # Errors
    /// As [`LayeredObjective::base`].
    pub fn base(&self, params: &[f64]) -> Result<(f64, O::Base)> {
        let (loss, base) = self.objective.base(params)?;
        self.count.record(loss);
        Ok((loss, base))
    }

    /// One query per (coordinate, step) that starts from a base.
    ///
    /// # Errors
    /// As [`LayeredObjective::losses_from`].
    pub fn losses_from(&self, base: &O::Base, params: &[f64], probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        Ok(self.counted(self.objective.losses_from(base, params, probes)?))
    }
}

impl<O: PropagatingObjective> Metered<'_, O> {
    /// One query that keeps what changes start from.
    ///
    /// # Errors
    /// As [`PropagatingObjective::propagator`].
    pub fn propagator(&self, params: &[f64], memory: usize) -> Result<(f64, O::Propagator)> {
        let (loss, propagator) = self.objective.propagator(params, memory)?;
        self.count.record(loss);
        Ok((loss, propagator))
    }

    /// One query per probe.
    ///
    /// # Errors
    /// As [`PropagatingObjective::propagate`].
    pub fn propagate(&self, from: &O::Propagator, probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        Ok(self.counted(self.objective.propagate(from, probes)?))
    }
}
