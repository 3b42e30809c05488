//! Trains a network and tests it.

use std::time::Instant;

use super::images::{self, Amount};
use super::{Outcome, Session, Task};
use crate::cost::{Cost, Planner, Speed, Steps, Subject};
use crate::method;
use crate::problem::Problem;
use crate::setting::{Entry, Section, Settings};
use crate::train::{self, Run};
use crate::zo::{QueryCount, sparsity};
use crate::{Error, Result};

/// `task = train`.
#[derive(Debug)]
pub struct Train;

impl Task for Train {
    fn name(&self) -> &'static str {
        "train"
    }

    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        let budget = if method.has_steady_queries() { vec![train::Budget::ENTRIES] } else { Vec::new() };
        Ok([images::sections(), budget, method.sections()].concat())
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        images::check(settings)?;
        super::check_warmup(settings, Length::of(settings)?.epochs)
    }

    fn epochs(&self, settings: &Settings) -> Result<usize> {
        Ok(Length::of(settings)?.epochs)
    }

    fn shares_probes(&self) -> bool {
        true
    }

    fn run(&self, settings: &Settings, seed: u64, session: &Session) -> Result<Outcome> {
        let began = Instant::now();
        let network = images::network(settings, session.images()?)?;
        let method::Config { method } = settings.read()?;
        let count = QueryCount::default();
        let resources = session.resources(&count);
        let problem = images::problem(settings, seed, &network, session.images()?, resources)?
            .with_loss(method.loss(settings)?);
        let mut method = method.start(settings, seed, problem.layout())?;
        let Length { epochs, most_steps } = Length::of(settings)?;
        let run = Run {
            config: train::Config { epochs, ..settings.read()? },
            most_steps,
            seed,
            resources,
            checkpoint: session.checkpoint,
            observer: session.observer,
            began,
        };
        let trained = run.train(&problem, method.as_mut())?;
        Ok(Outcome {
            n_params: network.layout().n_coords(),
            rows: trained.rows,
            status: trained.status,
            error: trained.error,
            profiles: trained.profiles,
            mask: trained.mask,
            trained: Some((network, trained.state)),
            data_checksum: None,
        })
    }

    fn cost(&self, settings: &Settings, planner: &mut Planner) -> Result<Cost> {
        let (Length { epochs, most_steps }, train::Config { batch_size, .. }) =
            (Length::of(settings)?, settings.read()?);
        let amount = |subject: &Subject| {
            let of_epochs = subject.n_train.div_ceil(batch_size) * epochs;
            let steps = most_steps.map_or(of_epochs, |most| most.min(of_epochs)) as f64;
            Ok(Amount {
                steps,
                items: (subject.n_train * epochs) as f64 * steps / of_epochs as f64,
                measured: (subject.n_measured * epochs) as f64,
            })
        };
        images::cost(settings, planner, amount, None)
    }
}

/// How long training is.
struct Length {
    epochs: usize,
    /// Where a budget of queries ends it within the last epoch.
    most_steps: Option<usize>,
}

impl Length {
    /// As many epochs as the settings say, or as many steps as their budget of queries pays for.
    fn of(settings: &Settings) -> Result<Self> {
        let train::Config { epochs, batch_size } = settings.read()?;
        let is_read = settings.is_read("query-budget");
        let query_budget = if is_read { settings.read::<train::Budget>()?.query_budget } else { 0.0 };
        if query_budget == 0.0 {
            return Ok(Self { epochs, most_steps: None });
        }
        let sparsity: sparsity::Config = settings.read()?;
        if sparsity.n_scorings(usize::MAX) > 1 && sparsity.layer_ratios.queries(&sparsity) > 0 {
            let reason = "a query-budget does not count the queries of further scorings; use redraw or fixed";
            return Err(Error::setting("mask", reason));
        }
        let subject = Subject::of(settings)?;
        let layout = subject.network.layout();
        let method::Config { method } = settings.read()?;
        let speed = Speed::unknown(layout.specs().len());
        let queries = |n: f64| {
            let steps = Steps {
                n,
                items: n * batch_size as f64,
                n_items: subject.n_train,
                n_classes: subject.n_classes,
                n_outputs: subject.network.n_outputs(),
                layout,
                speed: &speed,
            };
            Ok::<f64, Error>(method.cost(settings, &steps)?.queries)
        };
        let before = queries(0.0)?;
        let per_step = queries(1.0)? - before;
        let all = query_budget * layout.n_coords() as f64;
        let n_steps = ((all - before) / per_step).floor();
        let per_epoch = subject.n_train.div_ceil(batch_size);
        let most = per_epoch.saturating_mul(train::MAX_EPOCHS) as f64;
        if !(1.0..=most).contains(&n_steps) {
            let scores = if before > 0.0 { format!(", after {before:.0} for scores") } else { String::new() };
            let reason = match n_steps < 1.0 {
                true => format!("{all:.0} queries pay for no step, which takes about {per_step:.0}{scores}"),
                false => {
                    format!("{all:.0} queries pay for {n_steps:.0} steps; at most {most:.0} are possible")
                }
            };
            return Err(Error::setting("query-budget", reason));
        }
        let n_steps = n_steps as usize;
        Ok(Self { epochs: n_steps.div_ceil(per_epoch), most_steps: Some(n_steps) })
    }
}
