//! Our way: the change of every activation is propagated, exactly, and losses are never subtracted.

use super::{Evaluator, by_kind, difference, finite_base};
use crate::Result;
use crate::zo::{Metered, Probe, PropagatingObjective};

/// Evaluates coordinate probes by propagating differences. A random direction moves every layer, so
/// that the probe is a complete evaluation. Queries are counted as in [`super::Full`]: each is
/// cheaper, not fewer.
#[derive(Debug)]
pub struct DifferencePropagation<'a, O: PropagatingObjective> {
    objective: &'a Metered<'a, O>,
    params: &'a [f64],
    loss: f64,
    propagator: O::Propagator,
}

impl<'a, O: PropagatingObjective> DifferencePropagation<'a, O> {
    /// Evaluates the base loss at `params` (d) and keeps what changes start from; changes in flight
    /// occupy at most `memory` bytes.
    ///
    /// # Errors
    /// If the query fails, or its loss is NaN or infinite.
    pub fn new(objective: &'a Metered<'a, O>, params: &'a [f64], memory: usize) -> Result<Self> {
        let (loss, propagator) = objective.propagator(params, memory)?;
        Ok(Self { objective, params, loss: finite_base(loss)?, propagator })
    }

    /// What the base evaluation left.
    pub fn propagator(&self) -> &O::Propagator {
        &self.propagator
    }
}

impl<O: PropagatingObjective> Evaluator for DifferencePropagation<'_, O> {
    fn base_loss(&self) -> f64 {
        self.loss
    }

    fn differences(&self, probes: &[Probe]) -> Result<Vec<f64>> {
        by_kind(
            probes,
            |coordinates| self.objective.propagate(&self.propagator, coordinates),
            |directions| {
                let losses = self.objective.losses(self.params, directions)?;
                Ok(losses.into_iter().map(|loss| difference(loss, self.loss)).collect())
            },
        )
    }
}
