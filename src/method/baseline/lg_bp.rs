//! LG-BP: local greedy back-propagation (Ren et al., ICLR 2023, arXiv 2210.03310).
//!
//! Every block has the local loss of [`super::lg_fg_a`] and takes its input for a constant; within the block the gradient
//! of that loss is exact, by back-propagation:
//!
//! ```text
//! error behind the block = J (Wᵀ (softmax − onehot) / (B T)),    J the layer norm before the head
//! ```
//!
//! then layer by layer through ReLU, layer norm, weight and layer norm. It is what LG-FG-A estimates: the bound of what
//! that rule can reach.

use std::sync::Arc;

use super::Rule;
use super::forward_gradient::{Config, Source};
use super::mixer::{Estimate, Mixer, Moving};
use super::tangent::Dual;
use crate::Result;
use crate::method::GradientSource;
use crate::nn;
use crate::nn::model::{Family, local_mixer};
use crate::params::Layout;
use crate::rng::Stream;
use crate::setting::{Entry, Section, Settings};

/// `method = lg-bp`.
#[derive(Debug)]
pub struct LgBp;

/// The gradient of the local losses, and of the classifier.
///
/// # Errors
/// If shapes do not fit or the device fails.
pub fn lg_bp(mixer: &Mixer) -> Result<Estimate> {
    let mut h = Dual::constant(mixer.tokens().clone());
    let (mut gradients, mut local_losses) = (Vec::new(), Vec::new());
    for block in 0..mixer.n_blocks() {
        let (output, passed) = mixer.block(block, &h, Moving::Nothing)?;
        let local = mixer.local_loss(block, &output)?;
        let mut error = local.error()?;
        for layer in passed.iter().rev() {
            let of_layer;
            (of_layer, error) = mixer.backward(layer, &layer.through_relu(&error)?)?;
            gradients.extend(of_layer);
        }
        gradients.extend(local.params.into_iter().zip(local.gradients));
        local_losses.push(local.readout.entropy.loss);
        h = Dual::constant(output.value);
    }
    let (readout, of_classifier) = mixer.classify(&h)?;
    let mut estimate = Estimate { local_losses, ..Estimate::new(mixer.layout(), readout) };
    estimate.set(gradients);
    estimate.set(mixer.classifier().into_iter().zip(of_classifier));
    Ok(estimate)
}

/// The derivative by a bias b that is counted twice is twice that by the sum s = 2 b. Networks keep s, whose step is
/// two of b.
fn estimate(mixer: &Mixer, config: &Config, _: Stream) -> Result<Estimate> {
    let mut estimate = lg_bp(mixer)?;
    if config.bias_twice {
        estimate.scale(mixer.twofold_biases(), 4.0)?;
    }
    Ok(estimate)
}

impl Rule for LgBp {
    fn name(&self) -> &'static str {
        "lg-bp"
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
