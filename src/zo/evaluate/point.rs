//! The evaluator of any objective around one point.

use super::{Evaluator, EvaluatorKind};
use crate::zo::objective::difference;
use crate::zo::{Base, Metered, Probe};
use crate::{Error, Result};

/// Evaluates probes around one point.
///
/// Of which kind it is decides what a probe of one coordinate costs. A random direction moves every layer of a
/// network, so that it is a complete evaluation with all kinds. Every probe is one query, and so is the base: a kind
/// makes queries cheaper, not fewer.
#[derive(Debug)]
pub struct PointEvaluator<'a> {
    objective: Metered<'a>,
    kind: EvaluatorKind,
    params: &'a [f64],
    base: Base,
}

/// Where a loss is not finite, as far as an evaluator knows.
pub const HERE: &str = "the current parameters";

/// The evaluator of `objective` around `params` (d): one query, that of the base.
///
/// # Errors
/// [`Error::Diverged`] if the loss there is NaN or infinite, [`Error::Setting`] if the objective has no answer to
/// the kind, or if the query fails.
pub fn at<'a>(objective: &Metered<'a>, kind: EvaluatorKind, params: &'a [f64]) -> Result<PointEvaluator<'a>> {
    let base = objective.base(kind, params)?;
    if !base.loss().is_finite() {
        return Err(Error::Diverged { loss: base.loss(), at: HERE.to_owned() });
    }
    Ok(PointEvaluator { objective: *objective, kind, params, base })
}

impl PointEvaluator<'_> {
    /// The evaluation at the point, with what the objective kept of it.
    #[must_use]
    pub fn base(&self) -> &Base {
        &self.base
    }

    fn by_losses(&self, probes: &[Probe]) -> Result<Vec<f64>> {
        let losses = self.objective.losses(self.params, probes)?;
        Ok(losses.into_iter().map(|loss| difference(loss, self.base.loss())).collect())
    }
}

impl Evaluator for PointEvaluator<'_> {
    fn base_loss(&self) -> f64 {
        self.base.loss()
    }

    fn differences(&self, probes: &[Probe]) -> Result<Vec<f64>> {
        if self.kind == EvaluatorKind::Full {
            return self.by_losses(probes);
        }
        let (mut moves, mut directions) = (Vec::new(), Vec::new());
        for probe in probes {
            match probe {
                Probe::Coordinate { coord, shift } => moves.push((*coord, *shift)),
                Probe::Direction { .. } => directions.push(probe.clone()),
            }
        }
        let of_moves = if moves.is_empty() {
            Vec::new()
        } else {
            self.objective.differences_from(&self.base, self.params, &moves)?
        };
        let of_directions = if directions.is_empty() { Vec::new() } else { self.by_losses(&directions)? };
        in_order(probes, of_moves, of_directions)
    }
}

/// Results of coordinate probes and of directions in the order of all `probes`.
fn in_order(probes: &[Probe], of_moves: Vec<f64>, of_directions: Vec<f64>) -> Result<Vec<f64>> {
    let (mut of_moves, mut of_directions) = (of_moves.into_iter(), of_directions.into_iter());
    let result = |probe: &Probe| match probe {
        Probe::Coordinate { .. } => of_moves.next(),
        Probe::Direction { .. } => of_directions.next(),
    };
    let results: Vec<f64> = probes.iter().map_while(result).collect();
    if results.len() == probes.len() {
        Ok(results)
    } else {
        Err(Error::Objective(format!("{} losses for {} points", results.len(), probes.len())))
    }
}
