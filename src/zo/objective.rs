//! What is minimized: a function of a flat parameter vector.

use std::any::Any;

use rayon::prelude::*;

use super::Probe;
use crate::{Error, Result};

crate::choice! {
    /// How loss differences are computed; all give the same numbers.
    pub enum EvaluatorKind {
        /// One complete forward pass per query.
        Full = "full",
        /// Forward from the perturbed layer on (the paper's feature reuse).
        Reuse = "reuse",
        /// The change of every activation, propagated exactly to the loss.
        Difference = "difference",
    }
}

/// A function of parameters whose value is all that is known: a simulator, a remote model, a
/// network.
///
/// Implement [`Objective::n_coords`] and [`Objective::loss`] for your own black box; see
/// `examples/black_box.rs`. Probes are evaluated on several threads at once. An objective that knows more
/// of itself than its value may answer probes of single coordinates at less cost: [`Objective::base`] and
/// [`Objective::differences_from`].
pub trait Objective: Sync {
    /// Number of parameters d.
    fn n_coords(&self) -> usize;

    /// Loss at `params` (d). NaN or infinity is allowed: it is counted, and the probe is left out.
    ///
    /// # Errors
    /// If the value cannot be had at all, such as [`crate::Error::Objective`]; training stops.
    fn loss(&self, params: &[f64]) -> Result<f64>;

    /// The same number while nothing else is evaluated, so that one evaluation may use all threads.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        self.loss(params)
    }

    /// Losses at `params` (d) moved by each probe, in order. By default one call of [`Objective::loss`] for each,
    /// spread over the threads; another way is worth it where many points cost less together: on a GPU, or with a
    /// service that takes batches.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn losses(&self, params: &[f64], probes: &[Probe]) -> Result<Vec<f64>> {
        one_by_one(params, probes, |point| self.loss(point))
    }

    /// One evaluation at `params` (d), while there are no others, that keeps what single-coordinate probes of this
    /// `kind` start from. By default complete evaluations are all there is, and nothing is kept.
    ///
    /// # Errors
    /// [`Error::Setting`] for a kind that the objective has no answer to; else as [`Objective::loss`].
    fn base(&self, kind: EvaluatorKind, params: &[f64]) -> Result<Base> {
        match kind {
            EvaluatorKind::Full => Ok(Base::new(self.loss_alone(params)?)),
            EvaluatorKind::Reuse | EvaluatorKind::Difference => Err(Error::setting(
                "evaluator",
                format!(
                    "{} is no way to evaluate this objective, which knows only its value: use full",
                    kind.name()
                ),
            )),
        }
    }

    /// l(`params` with a shift added to a coordinate) − l(`params`) for every (coordinate, shift) of `moves`, in order,
    /// given the `base` at `params` (d). NaN where the loss is NaN or infinite. By default complete evaluations.
    ///
    /// # Errors
    /// As [`Objective::loss`], and if a coordinate is not below d.
    fn differences_from(&self, base: &Base, params: &[f64], moves: &[(usize, f64)]) -> Result<Vec<f64>> {
        by_losses(self, base, params, moves)
    }
}

/// What it refers to.
impl<O: Objective + ?Sized> Objective for &O {
    fn n_coords(&self) -> usize {
        (**self).n_coords()
    }

    fn loss(&self, params: &[f64]) -> Result<f64> {
        (**self).loss(params)
    }

    fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        (**self).loss_alone(params)
    }

    fn losses(&self, params: &[f64], probes: &[Probe]) -> Result<Vec<f64>> {
        (**self).losses(params, probes)
    }

    fn base(&self, kind: EvaluatorKind, params: &[f64]) -> Result<Base> {
        (**self).base(kind, params)
    }

    fn differences_from(&self, base: &Base, params: &[f64], moves: &[(usize, f64)]) -> Result<Vec<f64>> {
        (**self).differences_from(base, params, moves)
    }
}

/// One evaluation, and what the objective that made it keeps of it for probes to start from.
pub struct Base {
    loss: f64,
    kept: Option<Box<dyn Any + Send + Sync>>,
}

impl Base {
    /// A loss of which nothing is kept.
    #[must_use]
    pub fn new(loss: f64) -> Self {
        Self { loss, kept: None }
    }

    /// A loss, and what the objective keeps: of a type of its own, which only it knows.
    #[must_use]
    pub fn keeping(loss: f64, kept: impl Any + Send + Sync) -> Self {
        Self { loss, kept: Some(Box::new(kept)) }
    }

    /// Loss at the point.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// What is kept, if it is a `T`.
    #[must_use]
    pub fn kept<T: Any>(&self) -> Option<&T> {
        self.kept.as_ref()?.downcast_ref()
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("loss", &self.loss).finish_non_exhaustive()
    }
}

/// `loss` at `params` (d) moved by each probe, spread over the threads.
pub(crate) fn one_by_one(
    params: &[f64],
    probes: &[Probe],
    loss: impl Fn(&[f64]) -> Result<f64> + Sync,
) -> Result<Vec<f64>> {
    let loss = |point: &mut Vec<f64>, probe: &Probe| {
        probe.apply(params, point);
        loss(point)
    };
    probes.par_iter().map_init(|| params.to_vec(), loss).collect()
}

/// Differences of single coordinates by complete evaluations.
pub(crate) fn by_losses<O: Objective + ?Sized>(
    objective: &O,
    base: &Base,
    params: &[f64],
    moves: &[(usize, f64)],
) -> Result<Vec<f64>> {
    let n_coords = objective.n_coords();
    if let Some((coord, _)) = moves.iter().find(|&&(coord, _)| coord >= n_coords) {
        return Err(Error::Objective(format!("coordinate {coord} of {n_coords}")));
    }
    let probes: Vec<Probe> = moves.iter().map(|&(coord, shift)| Probe::Coordinate { coord, shift }).collect();
    let losses = objective.losses(params, &probes)?;
    Ok(losses.into_iter().map(|loss| difference(loss, base.loss)).collect())
}

/// A difference, or NaN for a probe that is to be left out.
pub(crate) fn difference(loss: f64, base: f64) -> f64 {
    if loss.is_finite() { loss - base } else { f64::NAN }
}
