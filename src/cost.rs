//! What a trial will cost: queries, floating-point operations, seconds on this machine.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::data;
use crate::kernels::Precision;
use crate::nn::difference::MAX_TOGETHER;
use crate::nn::model;
use crate::nn::objective::NetworkObjective;
use crate::nn::{Network, backprop};
use crate::params::{Layout, ParamSpec};
use crate::problem::io_of;
use crate::setting::Settings;
use crate::timing::{Seconds, timed};
use crate::zo::evaluate::EvaluatorKind;
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
        *self = *self + other;
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            queries: self.queries + other.queries,
            flops: self.flops + other.flops,
            wall_s: self.wall_s + other.wall_s,
        }
    }
}

/// Cost of one probe per item, with all threads at work.
#[derive(Debug, Clone, Copy)]
struct ProbeCost {
    flops: f64,
    wall_s: f64,
}

/// Operations and measured seconds per item of one network on this machine, with all threads at work.
#[derive(Debug, Clone)]
pub struct Speed {
    /// Operations of a complete forward pass.
    pub full_flops: f64,
    /// Seconds of one.
    pub full_s: f64,
    /// Seconds of one training step of back-propagation.
    pub backprop_s: f64,
    /// By parameter tensor: a probe of one of its coordinates by the evaluator of the settings.
    probes: Vec<ProbeCost>,
}

/// Steps of a method whose cost is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Steps<'a> {
    /// How many.
    pub n: f64,
    /// Items of all of them together.
    pub items: f64,
    /// Items to train on.
    pub n_items: usize,
    /// Classes of the items.
    pub n_classes: usize,
    /// Numbers that the network in front of the loss gives per item.
    pub n_outputs: usize,
    /// The parameters.
    pub layout: &'a Layout,
    /// What passes and probes cost.
    pub speed: &'a Speed,
}

impl Speed {
    /// No measurement, for a network with so many parameter tensors: everything takes no time.
    #[must_use]
    pub fn unknown(n_tensors: usize) -> Self {
        let nothing = ProbeCost { flops: 0.0, wall_s: 0.0 };
        Self { full_flops: 0.0, full_s: 0.0, backprop_s: 0.0, probes: vec![nothing; n_tensors] }
    }

    /// That of probes of the tensors of `part` alone, which are among those of `whole`.
    #[must_use]
    pub fn of_tensors(&self, whole: &Layout, part: &Layout) -> Self {
        let full = ProbeCost { flops: self.full_flops, wall_s: self.full_s };
        let place = |name: &str| whole.specs().iter().position(|spec| spec.name == name);
        let of = |spec: &ParamSpec| place(&spec.name).map_or(full, |idx| self.probes[idx]);
        Self { probes: part.specs().iter().map(of).collect(), ..self.clone() }
    }
}

impl Steps<'_> {
    /// Cost of `per_coord` probes a step of each of the active coordinates, given by (position of the tensor in the
    /// layout, number).
    #[must_use]
    pub fn coordinate_probes(&self, per_coord: f64, active: &[(usize, usize)]) -> Cost {
        let mut cost = Cost::default();
        for &(param_idx, n) in active {
            let (probes, probe) = (per_coord * n as f64, self.speed.probes[param_idx]);
            cost += Cost {
                queries: self.n * probes,
                flops: self.items * probes * probe.flops,
                wall_s: self.items * probes * probe.wall_s,
            };
        }
        cost
    }
}

/// What a plan needs to know of a trial's network and images.
#[derive(Debug)]
pub struct Subject {
    /// The network.
    pub network: Network,
    /// Images to train on.
    pub n_train: usize,
    /// Images that only measure.
    pub n_measured: usize,
    /// Classes.
    pub n_classes: usize,
}

impl Subject {
    /// That of a trial that reads the sections of the network and the images.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn of(settings: &Settings) -> Result<Self> {
        Self::on(settings, &settings.read()?)
    }

    /// The settings' network on these images.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn on(settings: &Settings, images: &data::Config) -> Result<Self> {
        let network = model::of(settings, &io_of(images.data))?;
        let n_test = if images.n_test == 0 { images.data.n_test } else { images.n_test };
        Ok(Self {
            network,
            n_train: images.data.n_train(images.n_train, images.n_val),
            n_measured: n_test + images.n_val,
            n_classes: images.data.n_classes,
        })
    }
}

/// Estimates costs on one device, measuring each kind of network once.
#[derive(Debug)]
pub struct Planner {
    device: Device,
    memory: usize,
    speeds: HashMap<Key, Speed>,
}

/// What a speed depends on: network, input, arithmetic, and the evaluator if probes move coordinates.
type Key = (String, Precision, Option<EvaluatorKind>);

/// Images in a calibration batch: enough that per-batch costs are small, and whole registers.
const CALIBRATION_BATCH: usize = 64;
/// Fewest probes per layer and thread in a calibration. One thread may take them all, as one chunk of work, while a step has chunks
/// for all threads: so more are run, up to a chunk for every thread, if that does not take long.
const CALIBRATION_PROBES: usize = 2;
/// Seconds after which no more are tried.
const CALIBRATION_S: f64 = 0.025;
/// Probes per layer on a GPU, which needs many to be busy.
const GPU_PROBES: usize = 64;
/// Step of a timed probe: the paper's μ. What a probe costs does not depend on it.
const STEP: f64 = 5e-3;

impl Planner {
    /// A planner for `device`, where changes in flight may occupy `memory` bytes.
    #[must_use]
    pub fn new(device: Device, memory: usize) -> Self {
        Self { device, memory, speeds: HashMap::new() }
    }

    /// How fast the network of these settings is; probes are those of single coordinates by the evaluator `probes`,
    /// none if there are no such.
    ///
    /// # Errors
    /// If the network cannot be run.
    pub fn speed(
        &mut self,
        settings: &Settings,
        network: &Network,
        probes: Option<EvaluatorKind>,
    ) -> Result<&Speed> {
        self.speed_of("", settings, network, probes)
    }

    /// The same of a network that is not the settings' alone, but what `kind` says made of it.
    ///
    /// # Errors
    /// If the network cannot be run.
    pub fn speed_of(
        &mut self,
        kind: &str,
        settings: &Settings,
        network: &Network,
        probes: Option<EvaluatorKind>,
    ) -> Result<&Speed> {
        let crate::nn::Config { model, depth, width, precision, .. } = settings.read()?;
        let name = format!("{kind} {} {depth} {width} {:?}", model.name, network.input());
        Ok(match self.speeds.entry((name, precision, probes)) {
            Entry::Occupied(measured) => measured.into_mut(),
            Entry::Vacant(empty) => {
                empty.insert(measure(network, precision, probes, &self.device, self.memory)?)
            }
        })
    }
}

/// Timed runs of everything, after one that does not count; the median does.
const TIMED_RUNS: usize = 5;
/// A network with more operations than that per image is timed once, on few images.
const LARGE_FLOPS: u64 = 5_000_000_000;
const LARGE_BATCH: usize = 16;

fn measure(
    network: &Network,
    precision: Precision,
    evaluator: Option<EvaluatorKind>,
    device: &Device,
    memory: usize,
) -> Result<Speed> {
    let is_large = network.flops() > LARGE_FLOPS;
    let (n_images, n_timed) = if is_large { (LARGE_BATCH, 1) } else { (CALIBRATION_BATCH, TIMED_RUNS) };
    let images = calibration_images(network, n_images)?.to_dtype(precision.dtype())?.to_device(device)?;
    let labels = calibration_labels(network, n_images);
    let layout = network.layout();
    let params = layout.initial_values(0);
    let objective = NetworkObjective {
        memory,
        rounding: precision.rounding(),
        ..NetworkObjective::new(network, &images, &labels)
    };
    let per_image = |run: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        Ok(Seconds::of_repeated(n_timed, run)?.median / n_images as f64)
    };
    let threads = rayon::current_num_threads();
    // One evaluation per thread on the CPU; on a GPU as many at a time as it needs.
    let full_s = if device.is_cpu() {
        per_image(&mut || objective.loss(&params).map(|_| ()))? / threads as f64
    } else {
        let probes: Vec<Probe> =
            (0..GPU_PROBES).map(|coord| Probe::Coordinate { coord, shift: STEP }).collect();
        per_image(&mut || objective.losses(&params, &probes).map(|_| ()))? / GPU_PROBES as f64
    };
    let backprop_s =
        per_image(&mut || backprop::gradient(network, &params, &images, &labels, 1.0).map(|_| ()))?;
    let full = ProbeCost { flops: network.flops() as f64, wall_s: full_s };
    let mut probes = vec![full; layout.specs().len()];
    if let Some(kind) = evaluator.filter(|&kind| kind != EvaluatorKind::Full) {
        let [fewest, most] = if device.is_cpu() {
            [CALIBRATION_PROBES, MAX_TOGETHER].map(|n| n * threads)
        } else {
            [GPU_PROBES; 2]
        };
        let some_of = |range: &Range<usize>, n: usize| -> Vec<(usize, f64)> {
            let stride = (range.len() / n).max(1);
            (0..n).map(|k| (range.start + k * stride % range.len(), STEP)).collect()
        };
        let base = objective.base(kind, &params)?;
        // Probes of one layer cost the same, whichever of its tensors they move.
        let mut of_node: HashMap<usize, ProbeCost> = HashMap::new();
        for (param_idx, cost) in probes.iter_mut().enumerate() {
            let range = layout.range(param_idx);
            *cost = match of_node.entry(network.node_of(param_idx)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(empty) => {
                    let run = |n| objective.differences_from(&base, &params, &some_of(&range, n)).map(|_| ());
                    let mut n = fewest;
                    while n < most && timed(|| run(n))?.1 < CALIBRATION_S {
                        n = (2 * n).min(most);
                    }
                    let wall_s = per_image(&mut || run(n))? / n as f64;
                    let flops = objective.probe_flops(&base, range.start) as f64;
                    *empty.insert(ProbeCost { flops, wall_s })
                }
            };
        }
    }
    Ok(Speed { full_flops: full.flops, full_s, probes, backprop_s })
}

/// Images (N, C, H, W) for timing only, in f32.
///
/// # Errors
/// If there is no memory for them.
pub fn calibration_images(network: &Network, n: usize) -> Result<Tensor> {
    let [channels, height, width] = network.input();
    let len = n * channels * height * width;
    let values: Vec<f32> = (0..len).map(|idx| (idx % 97) as f32 / 48.0 - 1.0).collect();
    Ok(Tensor::from_vec(values, (n, channels, height, width), &Device::Cpu)?)
}

/// Labels (N) that go with them.
#[must_use]
pub fn calibration_labels(network: &Network, n: usize) -> Vec<u32> {
    (0..n).map(|idx| (idx % network.n_outputs()) as u32).collect()
}
