//! Evaluators: from probes to loss differences. All give the same numbers at different cost.

mod difference;
mod full;
mod reuse;

pub use difference::DifferencePropagation;
pub use full::Full;
pub use reuse::Reuse;

use super::Probe;
use crate::{Error, Result};

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

/// The base loss if training can go on from it.
fn finite_base(loss: f64) -> Result<f64> {
    if loss.is_finite() {
        Ok(loss)
    } else {
        Err(Error::Diverged { loss, at: "the current parameters".to_owned() })
    }
}

/// A difference, or NaN for a probe that is to be left out.
fn difference(loss: f64, base: f64) -> f64 {
    if loss.is_finite() { loss - base } else { f64::NAN }
}
