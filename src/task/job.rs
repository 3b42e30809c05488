//! Training steps by a job of processes that share the probes, and what its exchanges cost.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::images;
use crate::nn::{self, model};
use crate::problem::{Classify, Prepared, Problem, Resources};
use crate::ranks::{Ranks, Traffic, launcher};
use crate::setting::Settings;
use crate::timing::Seconds;
use crate::train::{self, Observer, Run};
use crate::zo::QueryCount;
use crate::{Result, method};

/// A measurement of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Processes.
    pub ranks: usize,
    /// Threads of each.
    pub threads: usize,
    /// Cores of the machines that they run on.
    pub cores: f64,
    /// Parameters of the network d.
    pub n_params: usize,
    /// Images of a step.
    pub batch_size: usize,
    /// Queries of a step.
    pub queries: f64,
    /// Steps of which the median is given.
    pub steps: usize,
    /// Median seconds of a step.
    pub step_s: f64,
    /// Seconds of the fastest step.
    pub step_min_s: f64,
    /// Seconds of the slowest step.
    pub step_max_s: f64,
    /// Steps per hour, from the median.
    pub steps_per_hour: f64,
    /// Bytes that the first process receives from others in a step.
    pub exchange_bytes: f64,
    /// Seconds of a step in the exchange, waiting for others included; mean.
    pub exchange_s: f64,
    /// Seconds of an exchange of one number each, with nobody late; zero for one process.
    pub latency_s: f64,
    /// Seconds per byte received in large exchanges; zero for one process.
    pub s_per_byte: f64,
}

/// Notes when steps end, and the traffic until then.
struct Clock<'a> {
    ranks: &'a Ranks,
    ends: Mutex<Vec<(Instant, Traffic)>>,
}

impl Observer for Clock<'_> {
    fn step(&self, _: usize, _: usize, _: f64, _: f64) {
        if let Ok(mut ends) = self.ends.lock() {
            ends.push((Instant::now(), self.ranks.traffic()));
        }
    }
}

/// Exchanges of which the median counts.
const EXCHANGES: usize = 200;
/// Numbers of each rank in a large one.
const LARGE: usize = 100_000;

/// Times `steps` training steps with these settings (of the task `workers`) on procedural images, after one to warm up,
/// on all ranks of a job.
///
/// # Errors
/// If training fails or the exchange does.
pub fn measure(ranks: &Ranks, settings: &Settings, seed: u64, steps: usize) -> Result<Measurement> {
    let began = Instant::now();
    let train::Config { batch_size, .. } = settings.read()?;
    let method::Config { method } = settings.read()?;
    let n_train = batch_size * (steps + 1);
    images::check_scored(settings, images::procedural()?, n_train)?;
    let images = Prepared::procedural(n_train);
    let network = model::of(settings, &images.io())?;
    let clock = Clock { ranks, ends: Mutex::default() };
    let (interrupt, count) = (AtomicBool::new(false), QueryCount::default());
    ranks.start_trial();
    let memory = nn::difference::DEFAULT_MEMORY;
    let resources = Resources { device: &Device::Cpu, memory, ranks, interrupt: &interrupt, count: &count };
    let nn::Goal { loss } = settings.read()?;
    let problem = Classify::new(&network, &images, &settings.read()?, seed, resources).with_loss(loss.loss());
    let (source, active) = method.gradients(settings, seed, network.layout())?;
    let recipe = crate::zo::optimizer::Config { warmup_epochs: 0, ..Default::default() };
    let mut descent = method::descent::Descent::new(recipe, source, active, problem.layout());
    let config = train::Config { epochs: 1, batch_size };
    let run = Run { config, most_steps: None, seed, resources, checkpoint: None, observer: &clock, began };
    run.train(&problem, &mut descent)?;
    let ends = clock.ends.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = ends.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect::<Vec<_>>();
    let (first, last) = match (ends.first(), ends.last()) {
        (Some(first), Some(last)) if ends.len() > 1 => (first.1, last.1),
        _ => return Err(crate::Error::Objective("training ended before its steps were timed".to_owned())),
    };
    // Each process brings its part of its machine's cores.
    let cores = ranks.all_gather(&[launcher::part_of_cores()])?.iter().sum::<f64>().round();
    let n = seconds.len() as f64;
    let step = Seconds::of(seconds);
    let queries = count.queries() as f64;
    let latency_s = exchange_s(ranks, 1)?;
    let large_s = exchange_s(ranks, LARGE)?;
    let received = (8 * LARGE * (ranks.size() - 1)) as f64;
    Ok(Measurement {
        ranks: ranks.size(),
        threads: rayon::current_num_threads(),
        cores,
        n_params: network.layout().n_coords(),
        batch_size,
        queries: queries / ends.len() as f64,
        steps,
        step_s: step.median,
        step_min_s: step.min,
        step_max_s: step.max,
        steps_per_hour: 3600.0 / step.median,
        exchange_bytes: (last.bytes - first.bytes) as f64 / n,
        exchange_s: (last.seconds - first.seconds) / n,
        latency_s,
        s_per_byte: if received > 0.0 { (large_s - latency_s).max(0.0) / received } else { 0.0 },
    })
}

/// Median seconds of an exchange of `n` numbers each.
fn exchange_s(ranks: &Ranks, n: usize) -> Result<f64> {
    if ranks.is_alone() {
        return Ok(0.0);
    }
    let own = vec![1.0; n];
    let run = || ranks.all_gather(&own).map(|_| ());
    Ok(Seconds::of_repeated(EXCHANGES, run)?.median)
}
