//! One complete evaluation per query: the black-box mode, and the reference of all others.

use super::{Evaluator, difference, finite_base};
use crate::Result;
use crate::zo::{Metered, Objective, Probe};

/// Evaluates every probe by a complete call of the objective. Cost: one query per probe, and one
/// for the base.
#[derive(Debug)]
pub struct Full<'a, O> {
    objective: &'a Metered<'a, O>,
    params: &'a [f64],
    base: f64,
}

impl<'a, O: Objective> Full<'a, O> {
    /// Evaluates the base loss at `params` (d).
    ///
    /// # Errors
    /// If the query fails, or its loss is NaN or infinite.
    pub fn new(objective: &'a Metered<'a, O>, params: &'a [f64]) -> Result<Self> {
        let base = finite_base(objective.loss_alone(params)?)?;
        Ok(Self { objective, params, base })
    }
}

impl<O: Objective> Evaluator for Full<'_, O> {
    fn base_loss(&self) -> f64 {
        self.base
    }

    fn differences(&self, probes: &[Probe]) -> Result<Vec<f64>> {
        let losses = self.objective.losses(self.params, probes)?;
        Ok(losses.into_iter().map(|loss| difference(loss, self.base)).collect())
    }
}
