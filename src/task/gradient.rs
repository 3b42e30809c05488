//! The gradient of one batch, from whatever source the settings name.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::data::Batch;
use crate::experiment::{Method, Settings};
use crate::nn::loss::Loss;
use crate::nn::objective::{BasePass, NetworkObjective};
use crate::nn::{Network, backprop};
use crate::ranks::Ranks;
use crate::rng::Purpose;
use crate::zo::estimator::{Cge, Cocd, Cycle, Rge};
use crate::zo::evaluate::{self, Evaluator, Shared};
use crate::zo::{self, DirectionSource, Estimator, Metered, QueryCount};
use crate::{Error, Result};

/// A gradient and what came with it.
pub(super) struct Gradient {
    /// One value per parameter (d), zero outside the active set.
    pub(super) values: Vec<f64>,
    /// At the parameters that the gradient is for.
    pub(super) at: BasePass,
}

/// Where in a run a gradient is asked for.
pub(super) struct Asked<'a> {
    /// Steps before this one in the whole run.
    pub(super) step: u32,
    /// Active coordinates, sorted.
    pub(super) active: &'a Arc<[usize]>,
    /// Number of that set, from 0.
    pub(super) draw: u32,
    /// CoCD's estimate of the step before (d); empty for other methods.
    pub(super) stale: &'a [f64],
}

/// Makes gradients of a network as the settings say, counting queries.
pub(super) struct GradientSource<'a> {
    pub(super) settings: &'a Settings,
    pub(super) seed: u64,
    pub(super) network: &'a Network,
    pub(super) count: &'a QueryCount,
    /// Bytes that changes in flight may occupy.
    pub(super) memory: usize,
    /// The processes that share the probes.
    pub(super) ranks: &'a Ranks,
    /// Set when the user wants to stop.
    pub(super) interrupt: &'a AtomicBool,
}

impl GradientSource<'_> {
    /// The gradient, or its estimate, at `params` (d).
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss there is not finite, or if a query fails.
    pub(super) fn gradient(&self, params: &[f64], batch: &Batch, asked: &Asked) -> Result<Gradient> {
        match self.estimator(asked)? {
            Some(estimator) => self.estimate(params, batch, estimator.as_ref()),
            None => self.exact_gradient(params, batch, asked.active),
        }
    }

    /// The settings' estimator; `None` for back-propagation.
    ///
    /// # Errors
    /// If the method makes no gradients.
    pub(super) fn estimator<'s>(&self, asked: &Asked<'s>) -> Result<Option<Box<dyn Estimator + 's>>> {
        let settings = self.settings;
        let d = self.network.layout().n_coords();
        let (mu, scheme, active) = (settings.mu, settings.difference, asked.active.clone());
        Ok(match settings.method {
            Method::Fo => None,
            Method::Cge => Some(Box::new(Cge::new(d, active, mu, scheme))),
            Method::Cocd => {
                let cycle = Cycle::new(&active, self.seed, asked.draw);
                let block = cycle.block(u64::from(asked.step), settings.queries);
                Some(Box::new(Cocd::new(active, block, asked.stale, settings.decay, mu, scheme)))
            }
            Method::Rge => {
                let layout = self.network.layout();
                let n_dirs = if settings.queries == 0 { active.len() } else { settings.queries };
                let source = DirectionSource::new(
                    settings.directions,
                    self.seed,
                    Purpose::Direction,
                    asked.step,
                    active,
                    Some(layout),
                );
                let n_dirs = u32::try_from(n_dirs).unwrap_or(u32::MAX);
                let rge = Rge::new(d, Arc::new(source), n_dirs, mu, scheme);
                Some(Box::new(rge.scaled(settings.step_scale)))
            }
            Method::PatternSearch => {
                return Err(Error::setting("method", "a search makes no gradients"));
            }
        })
    }

    fn exact_gradient(&self, params: &[f64], batch: &Batch, active: &[usize]) -> Result<Gradient> {
        let exact = backprop::gradient(self.network, params, &batch.images, &batch.labels, 1.0)?;
        if !exact.loss.is_finite() {
            return Err(Error::Diverged { loss: exact.loss, at: String::new() });
        }
        let mut values = vec![0.0; exact.gradient.len()];
        active.iter().for_each(|&coord| values[coord] = exact.gradient[coord]);
        Ok(Gradient { values, at: BasePass::new(self.network, exact.loss, &exact.activations)? })
    }

    fn estimate(&self, params: &[f64], batch: &Batch, estimator: &dyn Estimator) -> Result<Gradient> {
        let (at, estimate) =
            self.explore(params, batch, &mut |evaluator| zo::estimate(estimator, evaluator))?;
        Ok(Gradient { values: estimate.gradient, at })
    }

    /// Has `visit` look around `params` (d) through the settings' evaluator: its result, and what the
    /// evaluation there gave.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss there is not finite, or if a query fails.
    pub(super) fn explore<R>(
        &self,
        params: &[f64],
        batch: &Batch,
        visit: &mut dyn FnMut(&dyn Evaluator) -> Result<R>,
    ) -> Result<(BasePass, R)> {
        let objective = self.objective(batch);
        let metered = Metered::new(&objective, self.count);
        let evaluator = evaluate::at(&metered, self.settings.evaluator, params)?;
        let layout = Some(self.network.layout().as_ref());
        let result = visit(&Shared::new(&evaluator, self.ranks, layout, self.count, self.interrupt))?;
        Ok((objective.pass_at(params, evaluator.base())?, result))
    }

    /// The loss on `batch` as an objective, with train-mode batch norm.
    pub(super) fn objective<'b>(&'b self, batch: &'b Batch) -> NetworkObjective<'b> {
        let normalizes = self.settings.normalize_logits;
        NetworkObjective {
            loss: if normalizes { Loss::NormalizedCrossEntropy } else { Loss::CrossEntropy },
            memory: self.memory,
            rounding: self.settings.precision.rounding(),
            ..NetworkObjective::new(self.network, &batch.images, &batch.labels)
        }
    }
}
