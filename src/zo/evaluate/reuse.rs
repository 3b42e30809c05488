//! The paper's feature reuse (Sec. 5): a probe of a layer starts from that layer's stored input.

use super::{Evaluator, by_kind, difference, finite_base};
use crate::Result;
use crate::zo::{LayeredObjective, Metered, Probe};

/// Evaluates coordinate probes from the perturbed layer on. A random direction moves every layer,
/// so that nothing of the base can be reused and the probe is a complete evaluation. Queries are
/// counted as in [`super::Full`]: each is cheaper, not fewer.
#[derive(Debug)]
pub struct Reuse<'a, O: LayeredObjective> {
    objective: &'a Metered<'a, O>,
    params: &'a [f64],
    loss: f64,
    base: O::Base,
}

impl<'a, O: LayeredObjective> Reuse<'a, O> {
    /// Evaluates the base loss at `params` (d) and keeps every layer's output.
    ///
    /// # Errors
    /// If the query fails, or its loss is NaN or infinite.
    pub fn new(objective: &'a Metered<'a, O>, params: &'a [f64]) -> Result<Self> {
        let (loss, base) = objective.base(params)?;
        Ok(Self { objective, params, loss: finite_base(loss)?, base })
    }

    /// What the base evaluation left.
    pub fn base(&self) -> &O::Base {
        &self.base
    }
}

impl<O: LayeredObjective> Evaluator for Reuse<'_, O> {
    fn base_loss(&self) -> f64 {
        self.loss
    }

    fn differences(&self, probes: &[Probe]) -> Result<Vec<f64>> {
        let losses = by_kind(
            probes,
            |coordinates| self.objective.losses_from(&self.base, self.params, coordinates),
            |directions| self.objective.losses(self.params, directions),
        )?;
        Ok(losses.into_iter().map(|loss| difference(loss, self.loss)).collect())
    }
}
