//! Speed of the flow solver, alone and side by side, and of rollouts with a corrector.

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use rayon::prelude::*;
use serde::Serialize;

use super::{Machine, Seconds};
use crate::Result;
use crate::data::wake::{Simulation, TRAIN_RE, Wake};
use crate::nn::model::{self, Io};
use crate::params::Init;
use crate::pde::{Disc, Flow, Grid, Variant, Velocity, Workspace};
use crate::problem::correct::{self, Correct, lanes_per_block};
use crate::problem::{Problem, Resources};
use crate::ranks;
use crate::zo::{Objective, Probe, QueryCount};

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Cells across.
    pub resolution: usize,
    /// States side by side.
    pub states: usize,
    /// Channels of the corrector's first layer.
    pub width: usize,
    /// Steps that a loss sees.
    pub unroll: usize,
    /// Probes whose losses are timed.
    pub probes: usize,
    /// Repetitions of which the median counts, at least 1.
    pub repeats: usize,
}

/// A measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Where it was taken.
    #[serde(flatten)]
    pub machine: Machine,
    /// Cells across.
    pub resolution: usize,
    /// Microseconds of a step of one state on one thread, in single and in double precision.
    pub alone_f32_us: f64,
    /// See `alone_f32_us`.
    pub alone_f64_us: f64,
    /// States side by side on all threads.
    pub states: usize,
    /// Steps of one state per second of these, in single precision.
    pub steps_per_s: f64,
    /// Operations of the pressure's products among them, 10⁹ per second.
    pub pressure_gflops: f64,
    /// Channels of the corrector's first layer.
    pub width: usize,
    /// Parameters of the corrector.
    pub n_params: usize,
    /// Steps that a loss sees, of three rollouts.
    pub unroll: usize,
    /// Losses of probes per second.
    pub losses_per_s: f64,
    /// Part of their time that as many steps of the solver alone take.
    pub solver_share: f64,
}

/// Steps that one measurement takes.
const STEPS: usize = 20;
/// Rollouts of a loss: the batch of the paper.
const ROLLOUTS: usize = 3;

fn seconds_of_steps<T: crate::pde::Real>(grid: &Grid, lanes: &[usize], repeats: usize) -> Result<f64> {
    let flow = Flow::<T>::new(grid.clone(), Variant::Consistent);
    let mut blocks: Vec<_> = lanes
        .iter()
        .map(|&lanes| (Velocity::<T>::start(grid, lanes), Workspace::<T>::new(grid, lanes)))
        .collect();
    let alpha = T::of(flow.diffusion_number(TRAIN_RE[0]));
    let run = |(state, workspace): &mut (Velocity<T>, Workspace<T>)| {
        let alphas = vec![alpha; state.lanes];
        (0..STEPS).for_each(|_| flow.step(state, &alphas, workspace));
    };
    blocks.iter_mut().for_each(run);
    let seconds = Seconds::of_repeated(repeats, || {
        if blocks.len() == 1 {
            blocks.iter_mut().for_each(run)
        } else {
            blocks.par_iter_mut().for_each(run)
        }
        Ok(())
    })?;
    Ok(seconds.median / STEPS as f64)
}

/// Measures the solver, then the losses of probes of a corrector.
///
/// # Errors
/// [`crate::Error::Setting`] if there is no such grid or corrector.
///
/// # Panics
/// If `repeats` is 0.
pub fn measure(config: &Config) -> Result<Measurement> {
    let grid = Grid::new(config.resolution, Disc::default())?;
    let r = config.resolution;
    let lanes = lanes_per_block::<f32>();
    let blocks = |states: usize| vec![lanes; states.div_ceil(lanes)];
    let alone_f32 = seconds_of_steps::<f32>(&grid, &[1], config.repeats)?;
    let alone_f64 = seconds_of_steps::<f64>(&grid, &[1], config.repeats)?;
    let side_by_side = blocks(config.states);
    let states = side_by_side.len() * lanes;
    let batched = seconds_of_steps::<f32>(&grid, &side_by_side, config.repeats)?;
    let steps_per_s = states as f64 / batched;
    let frames = vec![Velocity::<f32>::start(&grid, 1); config.unroll + 1];
    let simulation = |re: f64| Simulation { re, frames: frames.clone() };
    let train = TRAIN_RE.into_iter().map(simulation).collect();
    let wake = Wake { grid: grid.clone(), train, test: Vec::new(), checksum: String::new() };
    let io = Io { input: [3, 2 * r, r], n_outputs: 4 * r * r };
    let network = model::corrector::FAMILY.build(2, config.width, &io)?;
    let (interrupt, count) = (AtomicBool::new(false), QueryCount::default());
    let resources = Resources {
        device: &Device::Cpu,
        memory: 0,
        ranks: &ranks::ALONE,
        interrupt: &interrupt,
        count: &count,
    };
    let rollouts = correct::Config { unroll: config.unroll, ..correct::Config::default() };
    let (variant, init) = (Variant::Consistent, Init::Glorot);
    let problem = Correct::<f32>::new(&network, &wake, variant, rollouts, init, 0, resources)?;
    let batch = problem.unrolled(problem.samples()[..ROLLOUTS].to_vec());
    let params = problem.start(0).params;
    let stride = (params.len() / config.probes).max(1);
    let probes: Vec<Probe> = (0..config.probes)
        .map(|idx| Probe::Coordinate { coord: idx * stride % params.len(), shift: 5e-3 })
        .collect();
    batch.losses(&params, &probes)?;
    let seconds = Seconds::of_repeated(config.repeats, || batch.losses(&params, &probes).map(|_| ()))?.median;
    // The first step of the solver is made once for all.
    let steps = (config.probes * ROLLOUTS * (config.unroll - 1)) as f64;
    Ok(Measurement {
        machine: Machine::measure(&Device::Cpu)?,
        resolution: r,
        alone_f32_us: 1e6 * alone_f32,
        alone_f64_us: 1e6 * alone_f64,
        states,
        steps_per_s,
        pressure_gflops: steps_per_s * (8 * r * r * r) as f64 / super::GIGA,
        width: config.width,
        n_params: params.len(),
        unroll: config.unroll,
        losses_per_s: config.probes as f64 / seconds,
        solver_share: steps / steps_per_s / seconds,
    })
}
