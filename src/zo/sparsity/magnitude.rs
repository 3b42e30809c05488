//! The largest weights.

use super::{Basis, ByScores, Rule, Scoring};
use crate::Result;

/// Scores |θ|.
#[derive(Debug)]
pub struct Magnitude;

impl Rule for Magnitude {
    fn name(&self) -> &'static str {
        "magnitude"
    }

    fn basis(&self) -> Basis<'_> {
        Basis::Scores(self)
    }
}

impl ByScores for Magnitude {
    fn sees_images(&self) -> bool {
        false
    }

    fn scores(&self, scoring: &Scoring) -> Result<Vec<f64>> {
        Ok(scoring.params.to_vec())
    }
}
