//! First-order training: exact gradients by back-propagation, on an active set or on all coordinates.

use std::sync::Arc;

use super::descent::{self, Asked, Descent, Gradient, GradientSource};
use super::{Active, Kind, Method};
use crate::cost::{Cost, Steps};
use crate::nn;
use crate::nn::objective::check_rounding;
use crate::params::Layout;
use crate::problem::{Minibatch, Resources};
use crate::setting::{Entry, Section, Settings};
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::{Smoothing, optimizer, sparsity};
use crate::{Error, Result};

/// `method = fo`.
#[derive(Debug)]
pub struct FirstOrder;

impl Kind for FirstOrder {
    fn name(&self) -> &'static str {
        "fo"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Smoothing::ENTRIES, sparsity::Config::ENTRIES, optimizer::Config::ENTRIES]
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        let sparsity: sparsity::Config = settings.read()?;
        sparsity.check()?;
        let nn::Config { precision, .. } = settings.read()?;
        check_rounding(precision, EvaluatorKind::Full, self.moves_coordinates())
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>> {
        let active = Active::new(settings, seed)?;
        Ok(Box::new(Descent::new(settings.read()?, Box::new(Exact), active, layout)))
    }

    fn has_probes(&self) -> bool {
        false
    }

    fn cost(&self, settings: &Settings, steps: &Steps) -> Result<Cost> {
        cost(settings, steps)
    }
}

/// What steps along exact gradients on an active set cost.
pub(super) fn cost(settings: &Settings, steps: &Steps) -> Result<Cost> {
    // A backward pass costs about two forward ones.
    let own = Cost {
        queries: 0.0,
        flops: 3.0 * steps.items * steps.speed.full_flops,
        wall_s: steps.items * steps.speed.backprop_s,
    };
    Ok(own + descent::scoring_cost(settings, steps)?)
}

/// Exact gradients.
#[derive(Debug)]
pub struct Exact;

impl GradientSource for Exact {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        asked: &Asked,
        _: &Resources,
    ) -> Result<Gradient> {
        let exact = batch.backprop(params)?;
        if !exact.loss.is_finite() {
            return Err(Error::Diverged { loss: exact.loss, at: String::new() });
        }
        let mut values = vec![0.0; exact.gradient.len()];
        asked.active.iter().for_each(|&coord| values[coord] = exact.gradient[coord]);
        Ok(Gradient { values, at: batch.pass_of(&exact)?, doubt: None })
    }
}
