//! Speed and accuracy of coordinate-wise gradient estimates (CGE) with one evaluator.

use std::sync::Arc;

use candle_core::DType;
use serde::Serialize;

use super::coords::stratified;
use super::machine::peak_memory_bytes;
use super::{Distribution, GIGA, MICRO, Machine, Seconds, Workload};
use crate::Result;
use crate::data::Batch;
use crate::kernels::Precision;
use crate::nn::objective::NetworkObjective;
use crate::nn::objective::check_rounding;
use crate::rng::{Purpose, Stream};
use crate::timing::timed;
use crate::zo::Scheme;
use crate::zo::estimator::Cge;
use crate::zo::evaluate::{self, Evaluator, EvaluatorKind};
use crate::zo::{self, Estimator, Metered, Probe, QueryCount};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// How loss differences are computed.
    pub evaluator: EvaluatorKind,
    /// Where coordinates come from.
    pub distribution: Distribution,
    /// Coordinates estimated, at least 1.
    pub n_coords: usize,
    /// Coordinates whose estimates are compared with those in f64; no more than there are count.
    pub n_error_coords: usize,
    /// Smoothing parameter μ.
    pub mu: f64,
    /// Finite-difference scheme.
    pub scheme: Scheme,
    /// Arithmetic of the forward passes.
    pub precision: Precision,
    /// Bytes that changes in flight may occupy, for the evaluator that propagates them, and points evaluated
    /// together on a GPU.
    pub memory: usize,
    /// Runs of which the median counts, at least 1.
    pub repeats: usize,
}

/// A measurement of CGE.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Where it was taken.
    #[serde(flatten)]
    pub machine: Machine,
    /// Network.
    pub model: String,
    /// Parameters of the network d.
    pub n_params: usize,
    /// Images in the batch B.
    pub batch_size: usize,
    /// Name of the set that coordinates were sampled from.
    pub distribution: &'static str,
    /// Its sparsity, if it has one.
    pub sparsity: Option<f64>,
    /// Its size.
    pub n_population: usize,
    /// Coordinates estimated.
    pub n_coords: usize,
    /// How loss differences were computed.
    pub evaluator: EvaluatorKind,
    /// Arithmetic of the forward passes.
    pub precision: Precision,
    /// Finite-difference scheme.
    pub difference: Scheme,
    /// Smoothing parameter μ.
    pub mu: f64,
    /// Seed of everything random.
    pub seed: u64,
    /// Runs of which medians are given.
    pub repeats: usize,
    /// Evaluations of the objective in a run, with the base.
    pub queries: u64,
    /// Those that gave NaN or infinity.
    pub queries_non_finite: u64,
    /// Median seconds of the base query, with whatever the evaluator prepares there.
    pub base_s: f64,
    /// Median seconds of all differences.
    pub differences_s: f64,
    /// Seconds of the fastest run's differences.
    pub differences_min_s: f64,
    /// Seconds of the slowest run's differences.
    pub differences_max_s: f64,
    /// Microseconds per probe and image: base and differences over probes · B. On all threads, so
    /// more of them make it smaller.
    pub us_per_query_image: f64,
    /// Operations that complete forward passes would need for these queries, 10⁹ per second.
    pub effective_gflops: f64,
    /// Operations that the evaluator executes, 10⁹ per second.
    pub executed_gflops: f64,
    /// Part of the machine's peak that the executed ones are.
    pub peak_share: f64,
    /// Bytes that the evaluator keeps of the base pass.
    pub base_bytes: usize,
    /// The most memory held until the end of the timed runs, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// Coordinates compared with complete forward passes in f64.
    pub n_error_coords: usize,
    /// Relative l2 error of their estimates; none without coordinates to compare.
    pub relative_error: Option<f64>,
}

/// Measures CGE on `work`: once to warm up with a few coordinates, then `repeats` times.
///
/// # Errors
/// If there are too few coordinates to choose from, or a query fails.
///
/// # Panics
/// If `repeats` is 0.
pub fn measure(work: &Workload, config: &Config) -> Result<Measurement> {
    check_rounding(config.precision, config.evaluator, true)?;
    let layout = work.network.layout();
    let sample = config.distribution.sample(layout, config.n_coords, work.seed)?;
    let stream = |step| Stream::new(work.seed, Purpose::Subset, step);
    let cge = |coords: &[usize]| Cge::new(layout.n_coords(), Arc::from(coords), config.mu, config.scheme);
    let batch = work.batch(config.precision.dtype())?;
    let run = |probes: &[Probe]| run(work, config, &batch, probes);

    // Two coordinates per thread touch all code and most memory.
    let n_warm_up = config.n_coords.min(2 * rayon::current_num_threads());
    run(&cge(&stratified(&sample.coords, n_warm_up, stream(1))).ask())?;
    let estimator = cge(&sample.coords);
    let probes = estimator.ask();
    let runs: Vec<Run> = (0..config.repeats).map(|_| run(&probes)).collect::<Result<_>>()?;
    // Before the comparison and the measurement of the machine take more.
    let peak_memory_bytes = peak_memory_bytes();
    let last = runs.last().expect("there is at least one repeat");

    let error_coords = stratified(&sample.coords, config.n_error_coords.min(config.n_coords), stream(2));
    let relative_error = if error_coords.is_empty() {
        None
    } else {
        let found = estimator.tell(&last.differences).gradient;
        Some(relative_error(&found, &exact(work, &cge(&error_coords))?, &error_coords))
    };

    let machine = Machine::measure(&work.device)?;
    let base = Seconds::of(runs.iter().map(|run| run.base_s).collect());
    let differences = Seconds::of(runs.iter().map(|run| run.differences_s).collect());
    let wall_s = base.median + differences.median;
    let batch_size = work.batch_size() as f64;
    // The base is a complete forward pass with every evaluator.
    let executed_gflops = (work.forward_flops() + last.flops) / wall_s / GIGA;
    Ok(Measurement {
        peak_share: machine.share_of_peak(executed_gflops),
        machine,
        model: work.model.clone(),
        n_params: layout.n_coords(),
        batch_size: work.batch_size(),
        distribution: config.distribution.name(),
        sparsity: config.distribution.sparsity(),
        n_population: sample.n_population,
        n_coords: config.n_coords,
        evaluator: config.evaluator,
        precision: config.precision,
        difference: config.scheme,
        mu: config.mu,
        seed: work.seed,
        repeats: config.repeats,
        queries: last.queries,
        queries_non_finite: last.queries_non_finite,
        base_s: base.median,
        differences_s: differences.median,
        differences_min_s: differences.min,
        differences_max_s: differences.max,
        us_per_query_image: MICRO * wall_s / (probes.len() as f64 * batch_size),
        effective_gflops: last.queries as f64 * work.forward_flops() / wall_s / GIGA,
        executed_gflops,
        base_bytes: last.base_bytes,
        peak_memory_bytes,
        n_error_coords: error_coords.len(),
        relative_error,
    })
}

/// What one run took and gave.
struct Run {
    base_s: f64,
    differences_s: f64,
    differences: Vec<f64>,
    base_bytes: usize,
    /// Operations executed for the probes.
    flops: f64,
    queries: u64,
    queries_non_finite: u64,
}

fn run(work: &Workload, config: &Config, batch: &Batch, probes: &[Probe]) -> Result<Run> {
    let count = QueryCount::default();
    let objective = NetworkObjective {
        memory: config.memory,
        rounding: config.precision.rounding(),
        ..work.objective(batch)
    };
    let metered = Metered::new(&objective, &count);
    let (evaluator, base_s) = timed(|| evaluate::at(&metered, config.evaluator, &work.params))?;
    let (differences, differences_s) = timed(|| evaluator.differences(probes))?;
    let base = evaluator.base();
    let flops = |probe: &Probe| match probe {
        Probe::Coordinate { coord, .. } => objective.probe_flops(base, *coord),
        Probe::Direction { .. } => work.network.flops(),
    };
    Ok(Run {
        base_s,
        differences_s,
        differences,
        base_bytes: objective.bytes_kept(base),
        flops: work.batch_size() as f64 * probes.iter().map(flops).sum::<u64>() as f64,
        queries: count.queries(),
        queries_non_finite: count.non_finite(),
    })
}

/// The estimate (d) by complete forward passes in f64.
fn exact(work: &Workload, estimator: &Cge) -> Result<Vec<f64>> {
    let batch = work.batch(DType::F64)?;
    let count = QueryCount::default();
    let objective = work.objective(&batch);
    let metered = Metered::new(&objective, &count);
    Ok(zo::estimate(estimator, &evaluate::at(&metered, EvaluatorKind::Full, &work.params)?)?.gradient)
}

/// ‖found − exact‖ / ‖exact‖ over `coords`.
fn relative_error(found: &[f64], exact: &[f64], coords: &[usize]) -> f64 {
    let norm = |of: &dyn Fn(usize) -> f64| coords.iter().map(|&c| of(c).powi(2)).sum::<f64>().sqrt();
    norm(&|c| found[c] - exact[c]) / norm(&|c| exact[c])
}
