//! A model of the useful number of workers, made of measured parts.

use std::time::Instant;

use candle_core::Device;

use super::workers::{self, Config, check_can_start, implied, job, network};
use super::{Outcome, Session, Task};
use crate::cost::{Cost, Planner, calibration_images, calibration_labels};
use crate::kernels::Split;
use crate::metric::{self, Row};
use crate::nn;
use crate::nn::difference::DEFAULT_MEMORY;
use crate::nn::objective::NetworkObjective;
use crate::setting::{Entry, Plain, Settings};
use crate::zo::Objective;
use crate::{Result, method, train};

/// `task = workers-model`: steps per hour of many workers, from parts measured here: what the probes cost one thread,
/// what every worker does alone (the base pass), and an exchange between two processes. An exchange takes its latency
/// once per doubling of the workers, and the time of the bytes that each receives.
#[derive(Debug)]
pub struct WorkersModel;

impl Task for WorkersModel {
    fn name(&self) -> &'static str {
        "workers-model"
    }

    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        workers::sections(method)
    }

    fn implies(&self) -> Vec<(&'static str, toml::Value)> {
        implied()
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        workers::check(settings)
    }

    fn has_images(&self) -> bool {
        false
    }

    fn needs_mpi(&self) -> bool {
        true
    }

    fn run(&self, settings: &Settings, seed: u64, session: &Session) -> Result<Outcome> {
        let started = Instant::now();
        check_can_start()?;
        let train::Config { epochs, .. } = settings.read()?;
        let mut rows: Vec<Row> = Vec::new();
        for epoch in 1..=epochs {
            session.check_interrupt()?;
            let mut row = Row::new(epoch as u32);
            model(settings, seed, &mut row)?;
            // What is modeled is not run.
            row.set(&metric::QUERIES, 0.0);
            row.set(&metric::WALL_S, started.elapsed().as_secs_f64());
            session.observer.epoch(&row);
            rows.push(row);
        }
        Ok(Outcome::measured(network(settings)?.layout().n_coords(), rows))
    }

    /// A model runs no steps, and what it measures takes seconds.
    fn cost(&self, _: &Settings, _: &mut Planner) -> Result<Cost> {
        Ok(Cost::default())
    }
}

/// Images of a batch that times the base pass.
const BASE_IMAGES: usize = 64;

/// Writes what the model says into `row`.
fn model(settings: &Settings, seed: u64, row: &mut Row) -> Result<()> {
    let (train::Config { batch_size, .. }, Config { workers }) = (settings.read()?, settings.read()?);
    let nn::Config { init, precision, .. } = settings.read()?;
    let mut planner = Planner::new(Device::Cpu, DEFAULT_MEMORY);
    // One step, and as little as possible of the scores before it, which belong to no step.
    let scored = settings.with("grasp-queries", 1usize.into_value());
    let cost = workers::cost(&scored, &mut planner, 1)?;
    // The plan is for all threads.
    let all_s = cost.wall_s * rayon::current_num_threads() as f64;
    let network = network(settings)?;
    let params = network.layout().initial(init, seed);
    let images = calibration_images(&network, BASE_IMAGES)?.to_dtype(precision.dtype())?;
    let labels = calibration_labels(&network, BASE_IMAGES);
    let objective =
        NetworkObjective { split: Split::Serial, ..NetworkObjective::new(&network, &images, &labels) };
    objective.loss(&params)?;
    let started = Instant::now();
    objective.loss(&params)?;
    let base_s = started.elapsed().as_secs_f64() * batch_size as f64 / BASE_IMAGES as f64;
    let two = job(&exchange_settings(settings), seed, 2)?;
    let workers = workers as f64;
    let bytes = 8.0 * cost.queries * (workers - 1.0) / workers;
    let exchange_s = two.latency_s * workers.log2().ceil() + two.s_per_byte * bytes;
    let probes_s = (all_s - base_s).max(0.0);
    let step_s = probes_s / workers + base_s + exchange_s;
    row.set(&metric::STEPS_PER_HOUR, 3600.0 / step_s);
    row.set(&metric::SPEED_UP, (probes_s + base_s) / step_s);
    row.set(&metric::EXCHANGE_S, exchange_s);
    row.set(&metric::EXCHANGE_BYTES, bytes);
    Ok(())
}

/// A job that takes no time but for its exchanges.
fn exchange_settings(settings: &Settings) -> Settings {
    settings
        .with("model", "cnn".into())
        .with("depth", 1usize.into_value())
        .with("width", 1usize.into_value())
        .with("batch-size", 10usize.into_value())
        .with("sparsity", 0.0.into_value())
}
