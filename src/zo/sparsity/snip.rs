//! SNIP (Lee et al. 2019): how much the loss depends on each weight's presence.

use super::{Basis, ByScores, Rule, Scoring};
use crate::Result;

/// Scores θ ⊙ ∂ℓ/∂θ, by back-propagation with train-mode batch norm.
#[derive(Debug)]
pub struct Snip;

impl Rule for Snip {
    fn name(&self) -> &'static str {
        "snip"
    }

    fn basis(&self) -> Basis<'_> {
        Basis::Scores(self)
    }

    fn looks_inside(&self) -> bool {
        true
    }
}

impl ByScores for Snip {
    fn scores(&self, scoring: &Scoring) -> Result<Vec<f64>> {
        let gradient = scoring.loss.gradient(scoring.params, 1.0)?;
        Ok(scoring.params.iter().zip(&gradient).map(|(p, g)| p * g).collect())
    }
}
