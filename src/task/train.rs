//! Trains a network and tests it.

use std::time::Instant;

use super::images::{self, Amount};
use super::{Outcome, Session, Task};
use crate::cost::{Cost, Planner};
use crate::method;
use crate::problem::Problem;
use crate::setting::{Entry, Settings};
use crate::train::{self, Run};
use crate::zo::{QueryCount, optimizer};
use crate::{Error, Result};

/// `task = train`.
#[derive(Debug)]
pub struct Train;

impl Task for Train {
    fn name(&self) -> &'static str {
        "train"
    }

    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        Ok([images::sections(), method.sections()].concat())
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        images::check(settings)?;
        if !settings.is_read("warmup-epochs") {
            return Ok(());
        }
        let optimizer::Config { warmup_epochs, .. } = settings.read()?;
        let train::Config { epochs, .. } = settings.read()?;
        if warmup_epochs > epochs {
            let reason = format!("at most epochs = {epochs}; got {warmup_epochs}");
            return Err(Error::setting("warmup-epochs", reason));
        }
        Ok(())
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
        let run = Run {
            config: settings.read()?,
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
        let train::Config { epochs, batch_size } = settings.read()?;
        let amount = |subject: &crate::cost::Subject| {
            Ok(Amount {
                steps: (subject.n_train.div_ceil(batch_size) * epochs) as f64,
                items: (subject.n_train * epochs) as f64,
                measured: (subject.n_measured * epochs) as f64,
            })
        };
        images::cost(settings, planner, amount, None)
    }
}
