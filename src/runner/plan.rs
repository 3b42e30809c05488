//! What a trial will cost: queries, floating-point operations, seconds on this machine.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::baseline::pattern_search::Search;
use crate::experiment::{Method, Settings, Task};
use crate::kernels::Precision;
use crate::nn::backprop;
use crate::nn::model::ModelKind;
use crate::nn::objective::NetworkObjective;
use crate::nn::{Network, model};
use crate::task::{WORKER_STEPS, population};
use crate::zo::Scheme;
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::sparsity::LayerRatios;
use crate::zo::sparsity::{KeepCounts, predicted_keep};
use crate::zo::{Objective, Probe};

/// Expected cost of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Evaluations of the objective.
    pub queries: f64,
    /// Floating-point operations of all forward (and backward) passes.
    pub flops: f64,
    /// Seconds on this machine with the threads in use.
    pub wall_s: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.queries += other.queries;
        self.flops += other.flops;
        self.wall_s += other.wall_s;
    }
}

/// Cost of one probe per image, with all threads at work.
#[derive(Debug, Clone, Copy)]
struct ProbeCost {
    flops: f64,
    wall_s: f64,
}

/// Measured seconds per image of one network on this machine.
#[derive(Debug)]
struct Speed {
    /// One complete forward pass on one thread.
    full_s: f64,
    /// A probe of each node with parameters, by the evaluator of the settings.
    probes: HashMap<usize, ProbeCost>,
    /// One training step of back-propagation on all threads.
    backprop_s: f64,
}

/// Estimates costs on one device, measuring each kind of network once.
#[derive(Debug)]
pub struct Planner {
    device: Device,
    memory: usize,
    speeds: HashMap<(ModelKind, usize, usize, Precision, Option<EvaluatorKind>), Speed>,
}

/// Images in a calibration batch: enough that per-batch costs are small, and whole registers.
const CALIBRATION_BATCH: usize = 64;
/// Probes per layer and thread in a calibration.
const CALIBRATION_PROBES: usize = 2;
/// Probes per layer on a GPU, which needs many to be busy.
const GPU_PROBES: usize = 64;

impl Planner {
    /// A planner for `device`, where changes in flight may occupy `memory` bytes.
    #[must_use]
    pub fn new(device: Device, memory: usize) -> Self {
        Self { device, memory, speeds: HashMap::new() }
    }

    /// Expected cost of a trial. Layer ratios are predicted where the law of ZO-GraSP allows it and
    /// taken as uniform otherwise.
    ///
    /// # Errors
    /// If the network cannot be built or run.
    pub fn cost(&mut self, settings: &Settings) -> Result<Cost> {
        let network = model::from_settings(settings)?;
        let source = settings.data.source();
        let n_train = source.n_train(settings.n_train, settings.n_val);
        let n_test = if settings.n_test == 0 { source.n_test } else { settings.n_test };
        // What is timed stage by stage are complete forward passes.
        let in_full = Settings { evaluator: EvaluatorKind::Full, ..settings.clone() };
        let settings = if settings.task == Task::Stages { &in_full } else { settings };
        let (steps, images, measured) = match settings.task {
            Task::Train => (
                (n_train.div_ceil(settings.batch_size) * settings.epochs) as f64,
                (n_train * settings.epochs) as f64,
                ((n_test + settings.n_val) * settings.epochs) as f64,
            ),
            // One estimate per epoch, and one to warm up.
            Task::Stages => one_batch_each(settings, settings.epochs + 1),
            Task::Quality => one_batch_each(settings, settings.epochs),
            // A model runs no steps.
            Task::Workers if settings.modeled => one_batch_each(settings, 0),
            // Steps of a job, and of one process beside it, each with one to warm up.
            Task::Workers => one_batch_each(settings, settings.epochs * 2 * (WORKER_STEPS + 1)),
        };
        let threads = rayon::current_num_threads() as f64;
        let full_flops = network.flops() as f64;
        let speed = self.speed(settings, &network)?;
        let (full_s, backprop_s) = (speed.full_s / threads, speed.backprop_s);
        let mut cost = Cost { queries: 0.0, flops: measured * full_flops, wall_s: measured * full_s };
        let per_slope = if settings.difference == Scheme::Central { 2.0 } else { 1.0 };
        let active = active_counts(settings, &network);
        let n_active: f64 = active.iter().map(|&(_, n)| n as f64).sum();
        match settings.method {
            Method::Fo => {
                // A backward pass costs about two forward ones.
                cost.flops += 3.0 * images * full_flops;
                cost.wall_s += images * speed.backprop_s;
            }
            Method::PatternSearch => {
                let (moves, bases) = moves_per_batch(settings, n_train);
                let tries = moves / network.layout().n_coords() as f64;
                cost.queries += steps * (bases + moves);
                cost.flops += bases * images * full_flops;
                cost.wall_s += bases * images * full_s;
                for (param_idx, n) in active {
                    let probes = tries * n as f64 * images;
                    let probe = speed.probes[&network.node_of(param_idx)];
                    cost.flops += probes * probe.flops;
                    cost.wall_s += probes * probe.wall_s;
                }
            }
            Method::Cge | Method::Cocd => {
                // CoCD refreshes a part of every layer.
                let share = match settings.queries {
                    n if settings.method == Method::Cocd && n > 0 => (n as f64 / n_active).min(1.0),
                    _ => 1.0,
                };
                cost.queries += steps * (1.0 + per_slope * share * n_active);
                cost.flops += images * full_flops;
                cost.wall_s += images * full_s;
                for (param_idx, n) in active {
                    let probes = per_slope * share * n as f64 * images;
                    let probe = speed.probes[&network.node_of(param_idx)];
                    cost.flops += probes * probe.flops;
                    cost.wall_s += probes * probe.wall_s;
                }
            }
            Method::Rge => {
                let n_dirs = if settings.queries == 0 { n_active } else { settings.queries as f64 };
                cost.queries += steps * (1.0 + per_slope * n_dirs);
                let forwards = images * (1.0 + per_slope * n_dirs);
                cost.flops += forwards * full_flops;
                // Directions are drawn twice, at about 15 ns a number.
                cost.wall_s += forwards * full_s + 2.0 * 15e-9 * steps * n_dirs * n_active / threads;
            }
        }
        if settings.task == Task::Quality {
            let first_order = (n_train * settings.pretrain_epochs) as f64 + images;
            cost.flops += 3.0 * first_order * full_flops;
            cost.wall_s += first_order * backprop_s;
        }
        let uses_zo_grasp =
            matches!(settings.layer_ratios, LayerRatios::ZoGrasp | LayerRatios::ZoGraspReleased);
        if settings.sparsity > 0.0 && uses_zo_grasp {
            let queries = 2.0 * (settings.grasp_queries as f64 + 1.0);
            let forwards = queries * (settings.grasp_images_per_class * source.n_classes) as f64;
            cost += Cost { queries, flops: forwards * full_flops, wall_s: forwards * full_s };
        }
        Ok(cost)
    }

    fn speed(&mut self, settings: &Settings, network: &Network) -> Result<&Speed> {
        // Only coordinate probes are timed, for the evaluator in use.
        let evaluator = asks_coordinates(settings.method).then_some(settings.evaluator);
        let key = (settings.model, settings.depth, settings.width, settings.precision, evaluator);
        Ok(match self.speeds.entry(key) {
            Entry::Occupied(measured) => measured.into_mut(),
            Entry::Vacant(empty) => empty.insert(measure(network, settings, &self.device, self.memory)?),
        })
    }
}

/// Steps, images of all steps and images that are only measured, for an estimate on one batch each.
fn one_batch_each(settings: &Settings, n: usize) -> (f64, f64, f64) {
    (n as f64, (n * settings.batch_size) as f64, 0.0)
}

/// Moves that Pattern Search tries on a batch, and evaluations of the points that it comes through. How
/// many fail is not known beforehand: half of those tried are taken to be kept.
fn moves_per_batch(settings: &Settings, n_train: usize) -> (f64, f64) {
    let steps = settings.search_steps as f64;
    match (settings.search, settings.queries) {
        (Search::First, 0) => (2.0 * steps, steps),
        (Search::First, moves) => (moves as f64, 0.5 * moves as f64),
        (Search::Best, _) => (steps * (population(settings, n_train) - 1) as f64, steps),
    }
}

/// Whether the method's probes move single coordinates.
fn asks_coordinates(method: Method) -> bool {
    matches!(method, Method::Cge | Method::Cocd | Method::PatternSearch)
}

fn active_counts(settings: &Settings, network: &Network) -> Vec<(usize, usize)> {
    let layout = network.layout();
    let keep = if settings.sparsity > 0.0 {
        predicted_keep(layout, settings.layer_ratios, settings.sparsity)
            .unwrap_or_else(|| KeepCounts::uniform(layout, settings.sparsity))
    } else {
        KeepCounts::uniform(layout, 0.0)
    };
    let mut counts = keep.layers;
    for (param_idx, spec) in layout.specs().iter().enumerate().filter(|(_, spec)| !spec.kind.is_prunable()) {
        let share = if settings.always_active { 1.0 } else { 1.0 - settings.sparsity };
        counts.push((param_idx, (share * spec.len() as f64).round() as usize));
    }
    counts
}

/// Runs of everything before and while timing; the median counts.
const WARM_UP_RUNS: usize = 2;
const TIMED_RUNS: usize = 5;

fn measure(network: &Network, settings: &Settings, device: &Device, memory: usize) -> Result<Speed> {
    let io = settings.io();
    let images =
        calibration_images(CALIBRATION_BATCH, io.input, settings.precision.dtype())?.to_device(device)?;
    let labels: Vec<u32> = (0..CALIBRATION_BATCH as u32).map(|n| n % io.n_outputs as u32).collect();
    let params = network.layout().initial_values(0);
    let objective = NetworkObjective {
        memory,
        rounding: settings.precision.rounding(),
        ..NetworkObjective::new(network, &images, &labels)
    };
    let per_image = |run: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        (0..WARM_UP_RUNS).try_for_each(|_| run())?;
        let mut seconds = [0.0; TIMED_RUNS];
        for seconds in &mut seconds {
            let start = Instant::now();
            run()?;
            *seconds = start.elapsed().as_secs_f64();
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[TIMED_RUNS / 2] / CALIBRATION_BATCH as f64)
    };
    let threads = rayon::current_num_threads();
    // One evaluation per thread on the CPU; on a GPU as many at a time as it needs, as if each thread had one of
    // them after the other.
    let full_s = if device.is_cpu() {
        per_image(&mut || objective.loss(&params).map(|_| ()))?
    } else {
        let probes: Vec<Probe> =
            (0..GPU_PROBES).map(|coord| Probe::Coordinate { coord, step: settings.mu }).collect();
        let all = per_image(&mut || objective.losses(&params, &probes).map(|_| ()))?;
        all * threads as f64 / GPU_PROBES as f64
    };
    let backprop_s =
        per_image(&mut || backprop::gradient(network, &params, &images, &labels, 1.0).map(|_| ()))?;
    let full = ProbeCost { flops: network.flops() as f64, wall_s: full_s / threads as f64 };
    let mut probes = HashMap::new();
    let nodes =
        (0..network.layout().specs().len()).map(|idx| (network.node_of(idx), network.layout().range(idx)));
    let nodes = nodes.filter(|_| asks_coordinates(settings.method));
    let n = if device.is_cpu() { CALIBRATION_PROBES * threads } else { GPU_PROBES };
    let some_of = |range: &Range<usize>| -> Vec<(usize, f64)> {
        let step = (range.len() / n).max(1);
        (0..n).map(|k| (range.start + k * step % range.len(), settings.mu)).collect()
    };
    if settings.evaluator == EvaluatorKind::Full {
        probes.extend(nodes.map(|(node, _)| (node, full)));
    } else {
        let base = objective.base(settings.evaluator, &params)?;
        for (node, range) in nodes {
            if let Entry::Vacant(empty) = probes.entry(node) {
                let moves = some_of(&range);
                let mut run = || objective.differences_from(&base, &params, &moves).map(|_| ());
                let wall_s = per_image(&mut run)? / n as f64;
                let flops = objective.probe_flops(&base, range.start) as f64;
                empty.insert(ProbeCost { flops, wall_s });
            }
        }
    }
    Ok(Speed { full_s, probes, backprop_s })
}

/// Images (N, C, H, W) of size `input` for timing only.
pub(crate) fn calibration_images(n: usize, input: [usize; 3], dtype: DType) -> Result<Tensor> {
    let [channels, height, width] = input;
    let len = n * channels * height * width;
    let values: Vec<f32> = (0..len).map(|idx| (idx % 97) as f32 / 48.0 - 1.0).collect();
    Ok(Tensor::from_vec(values, (n, channels, height, width), &Device::Cpu)?.to_dtype(dtype)?)
}
