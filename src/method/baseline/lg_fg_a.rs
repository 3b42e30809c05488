//! LG-FG-A: local greedy forward gradients by activity perturbation (Ren et al., ICLR 2023, arXiv 2210.03310).
//!
//! Every block k has a loss L_k of its own, the mean cross-entropy of a linear head on its output, normalized by groups
//! and averaged over the T tokens. Blocks take their input for a constant. Within a block standard normal noise u_l
//! moves z_l, what stands behind the layer norm of linear layer l. The block's output h moves along dh, and what image n,
//! token p and group g alone add to the derivative of the loss is
//!
//! ```text
//! g_npg = ⟨∂L_k/∂f_npg, df_npg⟩,        f = the normalized output, ∂L_k/∂f_np = Wᵀ (softmax − onehot)_n / (B T)
//! ```
//!
//! with the head's weight W. Noise at (n, p) of a channel in group g reaches the loss through h_npg alone, and noise
//! behind a token layer, which channels mix afterwards, through all groups:
//!
//! ```text
//! error at z_l = g_npg u_l (where the ReLU lets it through),     token layers: Σ_g g_npg u_l
//! ```
//!
//! From there as in FG-A ([`super::fg_a`]): through the layer's own layer norm to its weight and bias. Heads and
//! classifier have their exact gradients. The estimate is unbiased for the gradients of the local losses, those of
//! [`super::lg_bp`].

use std::sync::Arc;

use super::Rule;
use super::forward_gradient::{Config, Source, activity_noise};
use super::mixer::{Estimate, Mixer, Moving, Noise};
use super::tangent::Dual;
use crate::Result;
use crate::method::GradientSource;
use crate::nn;
use crate::nn::model::Family;
use crate::nn::model::local_mixer::{self, Mixing};
use crate::params::Layout;
use crate::rng::Stream;
use crate::setting::{Entry, Section, Settings};

/// `method = lg-fg-a`.
#[derive(Debug)]
pub struct LgFgA;

/// The estimate with this noise.
///
/// # Errors
/// If shapes do not fit or the device fails.
pub fn lg_fg_a(mixer: &Mixer, noise: &Noise) -> Result<Estimate> {
    let mut h = Dual::constant(mixer.tokens().clone());
    let (mut gradients, mut local_losses, mut scalars) = (Vec::new(), Vec::new(), Vec::new());
    for block in 0..mixer.n_blocks() {
        let (output, passed) = mixer.block(block, &h, Moving::Activities(noise))?;
        let local = mixer.local_loss(block, &output)?;
        let of_group = local.scalars()?;
        let of_token = of_group.sum_keepdim(2)?;
        for layer in &passed {
            let Some(noise) = layer.noise() else { continue };
            let error = if layer.mixing() == Mixing::Tokens {
                noise.broadcast_mul(&of_token)?
            } else {
                let (batch, tokens, channels) = noise.dims3()?;
                let groups = of_group.dim(2)?;
                let grouped = noise.reshape((batch, tokens, groups, channels / groups))?;
                grouped.broadcast_mul(&of_group.unsqueeze(3)?)?.reshape((batch, tokens, channels))?
            };
            gradients.extend(mixer.gradients(layer, &error)?);
        }
        gradients.extend(local.params.into_iter().zip(local.gradients));
        local_losses.push(local.readout.entropy.loss);
        scalars.push(of_group);
        h = Dual::constant(output.value);
    }
    let (readout, of_classifier) = mixer.classify(&h)?;
    let mut estimate = Estimate { local_losses, scalars, ..Estimate::new(mixer.layout(), readout) };
    estimate.set(gradients);
    estimate.set(mixer.classifier().into_iter().zip(of_classifier));
    Ok(estimate)
}

/// In the released code a bias b that is counted twice gets the sum of errors for its gradient, which is that of the
/// sum s = 2 b. Networks keep s: a step of b is two of s.
fn estimate(mixer: &Mixer, config: &Config, stream: Stream) -> Result<Estimate> {
    let mut estimate = lg_fg_a(mixer, &activity_noise(mixer, stream))?;
    if config.bias_twice {
        estimate.scale(mixer.twofold_biases(), 2.0)?;
    }
    Ok(estimate)
}

impl Rule for LgFgA {
    fn name(&self) -> &'static str {
        "lg-fg-a"
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
        0.75
    }
}
