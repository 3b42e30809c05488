//! How good an estimate of the gradient is: its angle to back-propagation and its error.

use std::time::Instant;

use candle_core::DType;

use super::images;
use super::{Outcome, Session, Task};
use crate::cost::{Cost, Planner, Subject};
use crate::method::descent::{self, Descent};
use crate::method::first_order::Exact;
use crate::method::{self, Active, Asked};
use crate::metric::{self, Row};
use crate::nn::loss::Loss;
use crate::nn::{self, Network, backprop};
use crate::problem::{Classify, Minibatch, Problem, State};
use crate::setting::{Entry, Section, Settings};
use crate::train::Status;
use crate::train::{self, Quiet, Run};
use crate::zo::sparsity::within;
use crate::zo::{QueryCount, optimizer};
use crate::{Error, Result};

crate::section! {
    /// Where estimates are compared.
    pub struct Config {
        /// Epochs of first-order training before an estimate's quality is measured (task = quality).
        pub pretrain_epochs: usize = 0,
    }
}

/// `task = quality`: one estimate per epoch, each on another batch of training images, compared with back-propagation
/// in f64 on that batch. The parameters are the initial ones, or those after `pretrain-epochs` epochs of first-order
/// training, and do not move.
#[derive(Debug)]
pub struct Quality;

impl Task for Quality {
    fn name(&self) -> &'static str {
        "quality"
    }

    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        let own = vec![Config::ENTRIES, optimizer::Config::ENTRIES];
        Ok([images::sections(), method.gradient_sections()?, own].concat())
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        images::check(settings)
    }

    fn run(&self, settings: &Settings, seed: u64, session: &Session) -> Result<Outcome> {
        let started = Instant::now();
        let images = session.images()?;
        let network = images::network(settings, images)?;
        let count = QueryCount::default();
        let resources = session.resources(&count);
        let problem = images::problem(settings, seed, &network, images, resources)?;
        let at = place(settings, seed, session, &network)?;
        let method::Config { method } = settings.read()?;
        let (mut source, mut active) = method.gradients(settings, seed, network.layout())?;
        active.score(&problem, &at.params, &resources)?;
        let (train::Config { epochs, batch_size }, nn::Goal { loss }) = (settings.read()?, settings.read()?);
        let loss = loss.loss();
        let layout = network.layout();
        let mut sums = vec![Closeness::default(); layout.specs().len()];
        let mut rows: Vec<Row> = Vec::new();
        for epoch in 1..=epochs {
            session.check_interrupt()?;
            active.refresh(epoch, &problem, &at.params, &resources)?;
            let coords = active.in_epoch(epoch, layout);
            let batch = first_batch(&problem, epoch, batch_size)?;
            let asked = Asked { step: (epoch - 1) as u32, active: &coords, draw: active.draw(epoch) };
            let found = source.gradient(&*batch, &at.params, &asked, &resources)?;
            let exact = exact(loss, &at, &*batch)?;
            let all = Closeness::of(&coords, &found.values, &exact);
            for (param_idx, sum) in sums.iter_mut().enumerate() {
                let here = within(&coords, &layout.range(param_idx));
                *sum += Closeness::of(here, &found.values, &exact);
            }
            let mut row = Row::new(epoch as u32);
            row.set(&metric::TRAIN_LOSS, found.at.loss);
            if let Some(n_correct) = batch.n_correct(&found.at)? {
                row.set(&metric::TRAIN_ACCURACY, n_correct as f64 / batch.n_items() as f64);
            }
            row.set(&metric::N_ACTIVE, coords.len() as f64);
            row.set(&metric::QUERIES, count.queries() as f64);
            row.set(&metric::QUERIES_NON_FINITE, count.non_finite() as f64);
            row.set(&metric::GRADIENT_NORM, norm(found.values.iter().copied()));
            row.set(&metric::WALL_S, started.elapsed().as_secs_f64());
            row.set(&metric::COSINE, all.cosine);
            row.set(&metric::RELATIVE_ERROR, all.relative_error);
            let share = norm(coords.iter().map(|&coord| exact[coord])) / norm(exact.iter().copied());
            row.set(&metric::GRADIENT_SHARE, share);
            session.observer.epoch(&row);
            rows.push(row);
        }
        let profile = descent::sparsity_profile(layout, &active.in_epoch(epochs, layout));
        let n = epochs as f64;
        let mean = |of: fn(&Closeness) -> f64| sums.iter().map(|sum| of(sum) / n).collect::<Vec<f64>>();
        let profile = profile
            .with(metric::COSINE.column, mean(|sum| sum.cosine))
            .with(metric::RELATIVE_ERROR.column, mean(|sum| sum.relative_error));
        Ok(Outcome { profiles: vec![profile], ..Outcome::measured(layout.n_coords(), rows) })
    }

    fn cost(&self, settings: &Settings, planner: &mut Planner) -> Result<Cost> {
        let (Config { pretrain_epochs }, train::Config { epochs, .. }) = (settings.read()?, settings.read()?);
        let estimates = images::cost(settings, planner, |_| images::batches(settings, epochs), None)?;
        let subject = Subject::of(settings)?;
        let speed = planner.speed(settings, &subject.network, None)?;
        let batches = images::batches(settings, epochs)?.items;
        let first_order = (subject.n_train * pretrain_epochs) as f64 + batches;
        let exact = Cost {
            queries: 0.0,
            flops: 3.0 * first_order * speed.full_flops,
            wall_s: first_order * speed.backprop_s,
        };
        Ok(estimates + exact)
    }
}

/// Where estimates are compared.
fn place(settings: &Settings, seed: u64, session: &Session, network: &Network) -> Result<State> {
    let count = QueryCount::default();
    let resources = session.resources(&count);
    let problem = images::problem(settings, seed, network, session.images()?, resources)?;
    let Config { pretrain_epochs } = settings.read()?;
    if pretrain_epochs == 0 {
        return Ok(problem.start(seed));
    }
    let recipe: optimizer::Config = settings.read()?;
    let warmup_epochs = recipe.warmup_epochs.min(pretrain_epochs);
    let recipe = optimizer::Config { warmup_epochs, ..recipe };
    let mut method = Descent::new(recipe, Box::new(Exact), Active::all(), network.layout());
    let config = train::Config { epochs: pretrain_epochs, ..settings.read()? };
    let began = Instant::now();
    let run = Run { config, most_steps: None, seed, resources, checkpoint: None, observer: &Quiet, began };
    let trained = run.train(&problem, &mut method)?;
    match trained.status {
        Status::Done => Ok(trained.state),
        _ => Err(Error::Objective(format!("first-order training before the estimates: {}", trained.error))),
    }
}

/// The first batch of an epoch.
pub(super) fn first_batch<'p>(
    problem: &'p Classify,
    epoch: usize,
    batch_size: usize,
) -> Result<Box<dyn Minibatch + 'p>> {
    let order = problem.order(epoch as u32);
    problem.batch(epoch as u32, &order[..batch_size.min(order.len())])
}

/// Back-propagation of the loss in f64.
fn exact(loss: Loss, at: &State, batch: &dyn Minibatch) -> Result<Vec<f64>> {
    let (network, images, labels) = batch
        .graph()
        .ok_or_else(|| Error::Objective("a black box has no exact gradient to compare with".to_owned()))?;
    let images = images.to_dtype(DType::F64)?;
    Ok(backprop::gradient_of(loss, network, &at.params, &images, labels, 1.0)?.gradient)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Cosine and relative error on some coordinates; NaN where a norm is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Closeness {
    cosine: f64,
    relative_error: f64,
}

impl std::ops::AddAssign for Closeness {
    fn add_assign(&mut self, other: Self) {
        self.cosine += other.cosine;
        self.relative_error += other.relative_error;
    }
}

impl Closeness {
    fn of(coords: &[usize], found: &[f64], exact: &[f64]) -> Self {
        let of = |values: &[f64]| norm(coords.iter().map(|&coord| values[coord]));
        let product: f64 = coords.iter().map(|&coord| found[coord] * exact[coord]).sum();
        let error = norm(coords.iter().map(|&coord| found[coord] - exact[coord]));
        Self { cosine: product / (of(found) * of(exact)), relative_error: error / of(exact) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the definitions, by hand: (3, 4) against (4, 3), and a third number that is left out.
    #[test]
    fn closeness_by_hand() {
        let found = Closeness::of(&[0, 2], &[3.0, 100.0, 4.0], &[4.0, -7.0, 3.0]);
        assert!((found.cosine - 24.0 / 25.0).abs() < 1e-15);
        assert!((found.relative_error - 2f64.sqrt() / 5.0).abs() < 1e-15);
    }
}
