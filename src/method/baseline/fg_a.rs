//! FG-A: forward gradients by activity perturbation (Ren et al., ICLR 2023, arXiv 2210.03310).
//!
//! Standard normal noise u_l moves z_l, what stands behind the layer norm of linear layer l, in all layers at once. The
//! forward pass carries the tangent to the loss of every image n:
//!
//! ```text
//! g_n = dL_n along all u        error at z_l = g_n u_l (where the ReLU lets it through)
//! ```
//!
//! The error goes back through the layer's own layer norm, J_l, to the output of the linear layer, whose weight gets
//! the gradient Σ J_l(error) aᵀ with its input a, summed over images and tokens, and whose bias Σ J_l(error). Images are
//! independent, so each has a g of its own; the estimate is unbiased with a variance that knows the number of
//! activities, not of weights. The loss is the mean over the batch: the released code leaves 1/B out for this rule
//! alone, so that its learning rates are B times smaller for the same steps. The classifier has its exact gradient; the
//! local heads, which influence nothing here, have none.

use std::sync::Arc;

use super::Rule;
use super::forward_gradient::{Config, Source, activity_noise};
use super::mixer::{Estimate, Mixer, Moving, Noise};
use crate::method::GradientSource;
use crate::nn;
use crate::nn::model::{Family, local_mixer};
use crate::params::Layout;
use crate::rng::Stream;
use crate::setting::{Entry, Section, Settings};
use crate::{Error, Result};

/// `method = fg-a`.
#[derive(Debug)]
pub struct FgA;

/// The estimate with this noise.
///
/// # Errors
/// If shapes do not fit or the device fails.
pub fn fg_a(mixer: &Mixer, noise: &Noise) -> Result<Estimate> {
    let (passed, readout, of_classifier) = mixer.forward(Moving::Activities(noise))?;
    let Some(slopes) = readout.entropy.slopes.clone() else {
        return Err(Error::Objective("nothing moves along a tangent".to_owned()));
    };
    let mut estimate = Estimate::new(mixer.layout(), readout);
    estimate.set(mixer.classifier().into_iter().zip(of_classifier));
    let of_image = slopes.unsqueeze(1)?.unsqueeze(2)?;
    for layer in &passed {
        if let Some(noise) = layer.noise() {
            estimate.set(mixer.gradients(layer, &noise.broadcast_mul(&of_image)?)?);
        }
    }
    estimate.scalars.push(slopes);
    Ok(estimate)
}

fn estimate(mixer: &Mixer, config: &Config, stream: Stream) -> Result<Estimate> {
    let mut estimate = fg_a(mixer, &activity_noise(mixer, stream))?;
    if config.bias_twice {
        // As for LG-FG-A.
        estimate.scale(mixer.twofold_biases(), 2.0)?;
    }
    Ok(estimate)
}

impl Rule for FgA {
    fn name(&self) -> &'static str {
        "fg-a"
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
        0.7
    }
}
