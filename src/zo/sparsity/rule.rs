//! What a sparsity rule is.

use std::fmt::Debug;

use super::{Config, KeepCounts};
use crate::params::Layout;
use crate::zo::evaluate::{self, EvaluatorKind};
use crate::zo::{self, Estimator, Metered};
use crate::{Error, Result};

/// Where the layer-wise pruning ratios of an active set come from.
pub trait Rule: Debug + Sync {
    /// Name in files.
    fn name(&self) -> &'static str;

    /// What it goes by.
    fn basis(&self) -> Basis<'_>;

    /// Weights that every layer will probably keep, before anything was scored; none where that cannot be said.
    fn forecast(&self, layout: &Layout, sparsity: f64) -> Option<KeepCounts> {
        match self.basis() {
            Basis::Layers(rule) => Some(rule.counts(layout, sparsity)),
            Basis::Scores(_) => None,
        }
    }

    /// Whether it looks at gradients, which a black box does not show.
    fn looks_inside(&self) -> bool {
        false
    }

    /// Queries that one scoring takes.
    fn queries(&self, _config: &Config) -> u64 {
        0
    }
}

impl PartialEq for dyn Rule {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// What a rule goes by.
#[derive(Debug)]
pub enum Basis<'a> {
    /// The sizes and places of the layers.
    Layers(&'a dyn ByLayers),
    /// Scores of weights.
    Scores(&'a dyn ByScores),
}

/// A rule that asks for no more than the layers.
pub trait ByLayers: Debug {
    /// Weights that every layer keeps at this sparsity.
    fn counts(&self, layout: &Layout, sparsity: f64) -> KeepCounts;
}

/// A rule that scores weights: those with the largest magnitudes are kept.
pub trait ByScores: Debug {
    /// Whether scores depend on images.
    fn sees_images(&self) -> bool {
        true
    }

    /// Scores (d).
    ///
    /// # Errors
    /// If a query fails, or the rule needs what a black box does not show.
    fn scores(&self, scoring: &Scoring) -> Result<Vec<f64>>;
}

/// What is scored, and with what.
#[derive(Clone, Copy)]
pub struct Scoring<'a> {
    /// Names and shapes of the parameters.
    pub layout: &'a Layout,
    /// The parameters (d).
    pub params: &'a [f64],
    /// The loss that scores look at.
    pub loss: &'a dyn ScoredLoss,
    /// Smoothing parameter μ.
    pub mu: f64,
    /// Random directions q.
    pub n_dirs: u32,
    /// Seed of the directions.
    pub seed: u64,
    /// Number of the scoring in the run, from 0; each has its own directions.
    pub draw: u32,
}

impl Debug for Scoring<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mu, n_dirs, seed, draw, .. } = self;
        f.debug_struct("Scoring")
            .field("mu", mu)
            .field("n_dirs", n_dirs)
            .field("seed", seed)
            .field("draw", draw)
            .finish_non_exhaustive()
    }
}

/// The loss on images of every class, as far as rules look into it.
pub trait ScoredLoss {
    /// What `estimator` makes of it at `params` (d): a gradient (d). Its queries are counted.
    ///
    /// # Errors
    /// If a query fails or the loss is not finite.
    fn estimate(&self, estimator: &dyn Estimator, params: &[f64]) -> Result<Vec<f64>>;

    /// The exact gradient (d) at `params` (d), in double precision, with the logits divided by `temperature`.
    ///
    /// # Errors
    /// If it is a black box, or the device fails.
    fn gradient(&self, params: &[f64], temperature: f64) -> Result<Vec<f64>>;
}

/// A black box: function values and no more.
impl ScoredLoss for Metered<'_> {
    fn estimate(&self, estimator: &dyn Estimator, params: &[f64]) -> Result<Vec<f64>> {
        Ok(zo::estimate(estimator, &evaluate::at(self, EvaluatorKind::Full, params)?)?.gradient)
    }

    fn gradient(&self, _: &[f64], _: f64) -> Result<Vec<f64>> {
        Err(nothing_inside())
    }
}

/// The error of a rule that needs gradients of a black box.
pub(crate) fn nothing_inside() -> Error {
    Error::setting("layer-ratios", "these scores look inside the network, and a black box shows nothing")
}
