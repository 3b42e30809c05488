//! FG-W: forward gradients by weight perturbation (Baydin et al. 2022; Ren et al., ICLR 2023, arXiv 2210.03310).
//!
//! All weights and biases of the blocks move along one standard normal direction v at once. The forward pass carries
//! the tangent to the loss L, the mean over the batch:
//!
//! ```text
//! g = ∂L(θ + ε v)/∂ε at ε = 0          estimate = g v
//! ```
//!
//! E[g v] = ∇L. The classifier has its exact gradient (a single linear layer needs no back-propagation). The local
//! heads, which influence nothing here, have none.

use std::sync::Arc;

use candle_core::Tensor;

use super::Rule;
use super::forward_gradient::{Config, Source, normal};
use super::mixer::{Estimate, Mixer, Moving};
use crate::Result;
use crate::method::GradientSource;
use crate::nn;
use crate::nn::model::{Family, local_mixer};
use crate::params::Layout;
use crate::rng::Stream;
use crate::setting::{Entry, Section, Settings};

/// `method = fg-w`.
#[derive(Debug)]
pub struct FgW;

/// The estimate along `tangents`, one for each tensor of the layout.
///
/// # Errors
/// If shapes do not fit or the device fails.
pub fn fg_w(mixer: &Mixer, tangents: &[Option<Tensor>]) -> Result<Estimate> {
    let (_, readout, of_classifier) = mixer.forward(Moving::Weights(tangents))?;
    let slope = readout.entropy.slopes.as_ref().map(Tensor::sum_all).transpose()?;
    let mut estimate = Estimate::new(mixer.layout(), readout);
    estimate.set(mixer.classifier().into_iter().zip(of_classifier));
    if let Some(slope) = slope {
        for idx in mixer.block_params() {
            if let Some(tangent) = &tangents[idx] {
                estimate.set([(idx, tangent.broadcast_mul(&slope)?)]);
            }
        }
        estimate.scalars.push(slope);
    }
    Ok(estimate)
}

/// Counting a bias twice doubles what its perturbation does. Seen from the sum of both, of which networks keep the
/// value, the direction is twice as long there.
fn estimate(mixer: &Mixer, config: &Config, stream: Stream) -> Result<Estimate> {
    let (dtype, device) = mixer.place();
    let mut tangents: Vec<Option<Tensor>> = vec![None; mixer.layout().specs().len()];
    for idx in mixer.block_params() {
        let shape = &mixer.layout().specs()[idx].shape;
        tangents[idx] = Some(normal(stream.lane(idx as u32), shape, dtype, device)?);
    }
    if config.bias_twice {
        for idx in mixer.twofold_biases() {
            tangents[idx] = tangents[idx].take().map(|tangent| tangent * 2.0).transpose()?;
        }
    }
    fg_w(mixer, &tangents)
}

impl Rule for FgW {
    fn name(&self) -> &'static str {
        "fg-w"
    }

    fn families(&self) -> &'static [&'static Family] {
        &[&local_mixer::FAMILY]
    }

    fn only_loss(&self) -> Option<nn::Criterion> {
        Some(nn::Criterion::CrossEntropy)
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Config::ENTRIES]
    }

    fn start(&self, settings: &Settings, seed: u64, _: &Arc<Layout>) -> Result<Box<dyn GradientSource>> {
        Source::start(estimate, settings, seed)
    }

    fn relative_time(&self) -> f64 {
        // Of M/8/16 with batch 100, in time of two processors.
        0.55
    }
}
