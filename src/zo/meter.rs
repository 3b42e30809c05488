//! The one gate through which objectives are called, so that queries are counted and not derived.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Probe;
use super::objective::{Base, EvaluatorKind, Objective};
use crate::Result;

/// Queries so far. Shared by all objectives of a run.
#[derive(Debug, Default)]
pub struct QueryCount {
    queries: AtomicU64,
    non_finite: AtomicU64,
}

impl QueryCount {
    /// Goes on from earlier values, for a resumed run.
    pub fn resume(&self, queries: u64, non_finite: u64) {
        self.queries.store(queries, Ordering::Relaxed);
        self.non_finite.store(non_finite, Ordering::Relaxed);
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

    /// Counts one evaluation that gave `loss`, for who evaluates without a [`Metered`].
    pub(crate) fn record(&self, loss: f64) {
        self.queries.fetch_add(1, Ordering::Relaxed);
        if !loss.is_finite() {
            self.non_finite.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An objective that can only be called counted: the objective itself is private.
#[derive(Clone, Copy)]
pub struct Metered<'a> {
    objective: &'a dyn Objective,
    count: &'a QueryCount,
}

impl std::fmt::Debug for Metered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metered").field("count", self.count).finish_non_exhaustive()
    }
}

impl<'a> Metered<'a> {
    /// Puts `objective` behind the meter.
    pub fn new(objective: &'a dyn Objective, count: &'a QueryCount) -> Self {
        Self { objective, count }
    }

    /// Number of parameters d.
    #[must_use]
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

    /// One query, while there are no others.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        let loss = self.objective.loss_alone(params)?;
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

    /// One query that keeps what probes start from.
    ///
    /// # Errors
    /// As [`Objective::base`].
    pub fn base(&self, kind: EvaluatorKind, params: &[f64]) -> Result<Base> {
        let base = self.objective.base(kind, params)?;
        self.count.record(base.loss());
        Ok(base)
    }

    /// One query per move.
    ///
    /// # Errors
    /// As [`Objective::differences_from`].
    pub fn differences_from(&self, base: &Base, params: &[f64], moves: &[(usize, f64)]) -> Result<Vec<f64>> {
        Ok(self.counted(self.objective.differences_from(base, params, moves)?))
    }

    fn counted(&self, numbers: Vec<f64>) -> Vec<f64> {
        numbers.iter().for_each(|&number| self.count.record(number));
        numbers
    }
}
