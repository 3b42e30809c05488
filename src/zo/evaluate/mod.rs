//! Evaluators: from probes to loss differences. All give the same numbers at different cost.

mod point;
mod shared;

pub use super::objective::EvaluatorKind;
pub use point::{HERE, PointEvaluator, at};
pub use shared::Shared;

use super::Probe;
use crate::Result;

crate::section! {
    /// How loss differences are computed.
    pub struct Config {
        /// How loss differences are computed (ZO).
        pub evaluator: EvaluatorKind = EvaluatorKind::Difference,
    }
}

/// Turns probes into loss differences around one point θ.
pub trait Evaluator: Sync {
    /// Loss at θ.
    fn base_loss(&self) -> f64;

    /// l(θ + probe) − l(θ) for every probe, in order. A probe whose loss is NaN or infinite gives
    /// NaN. The result does not depend on the number of threads.
    ///
    /// # Errors
    /// If a query fails.
    fn differences(&self, probes: &[Probe]) -> Result<Vec<f64>>;
}
