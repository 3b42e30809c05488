//! Speed of first-order training: what zeroth-order training is up against.

use candle_core::DType;
use serde::Serialize;

use super::machine::peak_memory_bytes;
use super::{GIGA, Machine, Seconds, Workload};
use crate::Result;
use crate::nn::backprop;
use crate::zo::optimizer::{self, Optimizer};

/// Operations of a step per operation of its forward pass: back-propagation through a layer computes
/// two gradients, of its input and of its weights, at the cost of a forward pass each.
const STEP_PER_FORWARD: f64 = 3.0;

/// A measurement of first-order training.
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
    /// Seed of the weights.
    pub seed: u64,
    /// Steps of which the median is given.
    pub steps: usize,
    /// Median seconds of a step: forward pass, back-propagation, update of the parameters.
    pub step_s: f64,
    /// Seconds of the fastest step.
    pub step_min_s: f64,
    /// Seconds of the slowest step.
    pub step_max_s: f64,
    /// Images per second.
    pub images_per_s: f64,
    /// Operations, counted as three forward passes a step, 10⁹ per second.
    pub gflops: f64,
    /// Part of the machine's peak that these are.
    pub peak_share: f64,
    /// The most memory held until the end of the timed steps, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// Measures `n_steps` steps of SGD on `work`, after one to warm up. All steps see the same images.
///
/// # Errors
/// If a step fails.
///
/// # Panics
/// If `n_steps` is 0.
pub fn measure(work: &Workload, n_steps: usize) -> Result<Measurement> {
    let batch = work.batch(DType::F32)?;
    let recipe = optimizer::Config::default();
    let mut params = work.params.clone();
    let mut optimizer = Optimizer::new(recipe.optimizer, recipe.momentum, recipe.weight_decay, params.len());
    let seconds = Seconds::of_repeated(n_steps, || {
        let gradient =
            backprop::gradient(&work.network, &params, &batch.images, &batch.labels, 1.0)?.gradient;
        optimizer.step(&mut params, &gradient, recipe.learning_rate, None);
        Ok(())
    })?;
    let peak_memory_bytes = peak_memory_bytes();
    let machine = Machine::measure(&work.device)?;
    let gflops = STEP_PER_FORWARD * work.forward_flops() / seconds.median / GIGA;
    Ok(Measurement {
        peak_share: machine.share_of_peak(gflops),
        machine,
        model: work.model.clone(),
        n_params: params.len(),
        batch_size: work.batch_size(),
        seed: work.seed,
        steps: n_steps,
        step_s: seconds.median,
        step_min_s: seconds.min,
        step_max_s: seconds.max,
        images_per_s: work.batch_size() as f64 / seconds.median,
        gflops,
        peak_memory_bytes,
    })
}
