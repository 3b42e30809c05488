//! `method = cma-es`: a covariance matrix that adapts ([`crate::zo::cma_es`]), one generation a batch.

use std::sync::Arc;

use super::{Kind, Method, Step};
use crate::cost::{Cost, Steps};
use crate::metric::{self, Row};
use crate::nn::objective::{BasePass, check_rounding};
use crate::params::Layout;
use crate::problem::{Minibatch, Problem, Resources, State, explore};
use crate::saved::Saved;
use crate::setting::Domain::Above;
use crate::setting::{Entry, Plain, Section, Settings};
use crate::zo::cma_es::{CmaEs, MOST_COORDS, default_population};
use crate::zo::estimator::Budget;
use crate::zo::evaluate::EvaluatorKind;
use crate::{Error, Result, nn};

crate::section! {
    /// CMA-ES.
    pub struct Config {
        /// Initial standard deviation of the population (CMA-ES).
        pub step_size: f64 = 0.3 => Above(0.0, f64::INFINITY),
    }
}

/// The kind of method.
#[derive(Debug)]
pub struct Adapting;

impl Kind for Adapting {
    fn name(&self) -> &'static str {
        "cma-es"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, Config::ENTRIES]
    }

    fn implies(&self) -> Vec<(&'static str, toml::Value)> {
        // It moves every coordinate.
        vec![("sparsity", 0.0.into_value())]
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        if settings.read::<Budget>()?.queries == 1 {
            return Err(Error::setting("queries", "a population of cma-es has at least 2 points; got 1"));
        }
        let nn::Config { precision, .. } = settings.read()?;
        check_rounding(precision, EvaluatorKind::Full, false)
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>> {
        let (Config { step_size }, Budget { queries }) = (settings.read()?, settings.read()?);
        let n_coords = layout.n_coords();
        if n_coords > MOST_COORDS {
            let reason = format!(
                "cma-es keeps a number for every pair of parameters, of which it takes at most {MOST_COORDS}; here are \
                 {n_coords}: take an estimator, such as rge, or a smaller model"
            );
            return Err(Error::setting("method", reason));
        }
        let population = (queries > 0).then_some(queries);
        Ok(Box::new(Run { search: CmaEs::new(n_coords, step_size, population, seed), n_coords }))
    }

    fn cost(&self, settings: &Settings, steps: &Steps) -> Result<Cost> {
        let Budget { queries } = settings.read()?;
        let population = if queries == 0 { default_population(steps.layout.n_coords()) } else { queries };
        let evaluations = population as f64 + 1.0;
        Ok(Cost {
            queries: steps.n * evaluations,
            flops: steps.items * evaluations * steps.speed.full_flops,
            wall_s: steps.items * evaluations * steps.speed.full_s,
        })
    }
}

/// A search through a run of training.
struct Run {
    search: CmaEs,
    n_coords: usize,
}

impl Method for Run {
    fn begin_epoch(&mut self, _: &dyn Problem, _: &State, _: usize, _: &Resources) -> Result<()> {
        Ok(())
    }

    fn step(
        &mut self,
        batch: &dyn Minibatch,
        at: &mut State,
        _: &Step,
        resources: &Resources,
    ) -> Result<BasePass> {
        let points = self.search.ask();
        let visit = |evaluator: &dyn crate::zo::Evaluator| evaluator.differences(&points);
        let (pass, differences) = explore(batch, EvaluatorKind::Full, &at.params, resources, visit)?;
        at.stats.update(&pass.stats);
        self.search.tell(&differences, &mut at.params);
        if !self.search.sigma().is_finite() {
            let place = format!("where the standard deviation of the population is {}", self.search.sigma());
            return Err(Error::Diverged { loss: pass.loss, at: place });
        }
        Ok(pass)
    }

    fn record(&self, row: &mut Row) {
        row.set(&metric::N_ACTIVE, self.n_coords as f64);
        row.set(&metric::RADIUS, self.search.sigma());
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        self.search.state()
    }

    fn restore(&mut self, saved: &mut Saved) -> std::result::Result<(), String> {
        self.search.restore(|name, len| saved.take(name, Some(len)))
    }
}
