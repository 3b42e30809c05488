//! Evaluators: from probes to loss differences. All give the same numbers at different cost.

mod difference;
mod full;
mod reuse;
mod shared;

pub use difference::DifferencePropagation;
pub use full::Full;
pub use reuse::Reuse;
pub use shared::Shared;

use super::Probe;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How loss differences are computed; all give the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EvaluatorKind {
    /// One complete forward pass per query.
    Full,
    /// Forward from the perturbed layer on (the paper's feature reuse).
    Reuse,
    /// The change of every activation, propagated exactly to the loss.
    Difference,
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

/// Results of `coordinates` (coordinate, step) and `directions` in the order of the probes they are for.
fn by_kind(
    probes: &[Probe],
    coordinates: impl FnOnce(&[(usize, f64)]) -> Result<Vec<f64>>,
    directions: impl FnOnce(&[Probe]) -> Result<Vec<f64>>,
) -> Result<Vec<f64>> {
    let (mut moves, mut others) = (Vec::new(), Vec::new());
    for probe in probes {
        match probe {
            Probe::Coordinate { coord, step } => moves.push((*coord, *step)),
            Probe::Direction { .. } => others.push(probe.clone()),
        }
    }
    let of_moves = if moves.is_empty() { Vec::new() } else { coordinates(&moves)? };
    let of_others = if others.is_empty() { Vec::new() } else { directions(&others)? };
    let (mut of_moves, mut of_others) = (of_moves.into_iter(), of_others.into_iter());
    let result = |probe: &Probe| match probe {
        Probe::Coordinate { .. } => of_moves.next(),
        Probe::Direction { .. } => of_others.next(),
    };
    let results: Vec<f64> = probes.iter().map_while(result).collect();
    if results.len() == probes.len() {
        Ok(results)
    } else {
        Err(Error::Objective(format!("{} losses for {} points", results.len(), probes.len())))
    }
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
