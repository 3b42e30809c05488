//! Feedback alignment (Lillicrap et al., Nature Communications 2016): back-propagation whose errors travel back through
//! fixed random weights.
//!
//! With the error d_l at the output of layer l, W_l its weights and B_l random ones of the same shape and law:
//! ∇W_l = ∂(layer)/∂W_l ᵀ d_l as in back-propagation, and d_{l-1} = B_lᵀ d_l where back-propagation has W_lᵀ d_l. Masks
//! of ReLUs and normalizations are those of the network.

use std::sync::Arc;

use super::super::{Asked, Gradient, GradientSource};
use super::{Rule, row};
use crate::Result;
use crate::nn;
use crate::nn::chain::Wanted;
use crate::nn::model::Family;
use crate::params::Layout;
use crate::problem::{Minibatch, Resources};
use crate::rng::Purpose;
use crate::setting::Settings;

/// `method = fa`.
#[derive(Debug)]
pub struct Fa;

impl Rule for Fa {
    fn name(&self) -> &'static str {
        "fa"
    }

    fn families(&self) -> &'static [&'static Family] {
        row::ROWS
    }

    fn relative_time(&self) -> f64 {
        // Of an epoch of `ntk-cnn` at widths 16 and 64, with its evaluation.
        0.8
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn GradientSource>> {
        let nn::Config { init, .. } = settings.read()?;
        Ok(Box::new(Feedback { weights: layout.drawn(init, seed, Purpose::Feedback) }))
    }
}

/// Errors that travel back through given weights.
#[derive(Debug)]
pub struct Feedback {
    /// In place of the parameters (d), of which biases play no part.
    pub weights: Vec<f64>,
}

impl GradientSource for Feedback {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        _: &Asked,
        _: &Resources,
    ) -> Result<Gradient> {
        let (network, ..) = super::network_of(batch)?;
        let feedback = row::tensors(batch, &self.weights)?;
        let mut chain = row::pass(batch, params, Wanted { weights: true, through: false })?;
        let (loss, error) = batch.slope(&chain.outputs()?)?;
        let mut found = row::Found::new(network);
        let mut grad = Some(chain.place(chain.len() - 1, &error)?);
        for link in (0..chain.len()).rev() {
            let Some(of_output) = grad else { break };
            let own = chain.params_of(link);
            let of_input = found.back(&mut chain, link, &of_output)?;
            grad = if chain.has_weights(link) {
                chain.transport(link, &feedback[own], &of_output)?
            } else {
                of_input
            };
        }
        found.finish(network, &chain, loss)
    }
}
