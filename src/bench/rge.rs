//! Speed of randomized gradient estimates (RGE) with Gaussian directions over all parameters.

use std::sync::Arc;

use candle_core::DType;
use serde::Serialize;

use super::machine::peak_memory_bytes;
use super::{GIGA, MICRO, Machine, Seconds, Workload};
use crate::Result;
use crate::nn::objective::NetworkObjective;
use crate::rng::Purpose;
use crate::zo::Scheme;
use crate::zo::estimator::Rge;
use crate::zo::evaluate::{self, EvaluatorKind};
use crate::zo::probe::Directions;
use crate::zo::{self, DirectionSource, Metered, QueryCount};

/// Smoothing parameter: the paper's. Timings do not depend on it.
const MU: f64 = 5e-3;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// How loss differences are computed.
    pub evaluator: EvaluatorKind,
    /// Random directions q, at least 1; one query each.
    pub n_dirs: u32,
    /// Estimates of which the median counts, at least 1.
    pub repeats: usize,
    /// Bytes that points evaluated together on a GPU may occupy.
    pub memory: usize,
}

/// A measurement of RGE.
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
    /// How loss differences were computed.
    pub evaluator: EvaluatorKind,
    /// Random directions q.
    pub n_dirs: u32,
    /// Seed of everything random.
    pub seed: u64,
    /// Estimates of which medians are given.
    pub repeats: usize,
    /// Evaluations of the objective in an estimate, with the base.
    pub queries: u64,
    /// Median seconds of an estimate: base, directions, differences and their sum.
    pub estimate_s: f64,
    /// Seconds of the fastest estimate.
    pub estimate_min_s: f64,
    /// Seconds of the slowest estimate.
    pub estimate_max_s: f64,
    /// Microseconds of an estimate per direction and image, on all threads.
    pub us_per_query_image: f64,
    /// Operations of the forward passes, 10⁹ per second. A direction moves every layer, so that no
    /// evaluator saves any.
    pub gflops: f64,
    /// Part of the machine's peak that these are.
    pub peak_share: f64,
    /// The most memory held until the end of the timed runs, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// Measures RGE on `work`, after one estimate to warm up.
///
/// # Errors
/// If a query fails.
///
/// # Panics
/// If `repeats` is 0.
pub fn measure(work: &Workload, config: &Config) -> Result<Measurement> {
    let layout = work.network.layout();
    let batch = work.batch(DType::F32)?;
    let coords: Arc<[usize]> = (0..layout.n_coords()).collect();
    let law = Directions::Gaussian;
    let source = DirectionSource::new(law, work.seed, Purpose::Direction, 0, coords, Some(layout));
    let rge = Rge::new(layout.n_coords(), Arc::new(source), config.n_dirs, MU, Scheme::Forward);
    let mut queries = 0;
    let seconds = Seconds::of_repeated(config.repeats, || {
        let count = QueryCount::default();
        let objective = NetworkObjective { memory: config.memory, ..work.objective(&batch) };
        let metered = Metered::new(&objective, &count);
        zo::estimate(&rge, &evaluate::at(&metered, config.evaluator, &work.params)?)?;
        queries = count.queries();
        Ok(())
    })?;
    let peak_memory_bytes = peak_memory_bytes();
    let machine = Machine::measure(&work.device)?;
    let gflops = queries as f64 * work.forward_flops() / seconds.median / GIGA;
    Ok(Measurement {
        peak_share: machine.share_of_peak(gflops),
        machine,
        model: work.model.clone(),
        n_params: layout.n_coords(),
        batch_size: work.batch_size(),
        evaluator: config.evaluator,
        n_dirs: config.n_dirs,
        seed: work.seed,
        repeats: config.repeats,
        queries,
        estimate_s: seconds.median,
        estimate_min_s: seconds.min,
        estimate_max_s: seconds.max,
        us_per_query_image: MICRO * seconds.median / (f64::from(config.n_dirs) * work.batch_size() as f64),
        gflops,
        peak_memory_bytes,
    })
}
