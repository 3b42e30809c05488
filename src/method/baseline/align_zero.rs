//! Align-zero (Boopathy and Fiete, ICML 2022): the trained weights follow the gradient of the frozen initial network.
//!
//! With e the error at the trained network's outputs, W_l −= η ∂(outputs of the frozen network)/∂W_l(0) ᵀ e: activities,
//! masks, normalizations and weights are all those of the frozen network.

use std::sync::Arc;

use super::super::{Asked, Gradient, GradientSource};
use super::{Rule, row};
use crate::Result;
use crate::nn;
use crate::nn::chain::Wanted;
use crate::nn::model::Family;
use crate::params::Layout;
use crate::problem::{Minibatch, Resources};
use crate::setting::Settings;

/// `method = align-zero`.
#[derive(Debug)]
pub struct AlignZero;

impl Rule for AlignZero {
    fn name(&self) -> &'static str {
        "align-zero"
    }

    fn families(&self) -> &'static [&'static Family] {
        row::ROWS
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn GradientSource>> {
        let nn::Config { init, .. } = settings.read()?;
        Ok(Box::new(Frozen { params: layout.initial(init, seed) }))
    }
}

/// Gradients of a frozen network.
#[derive(Debug)]
pub struct Frozen {
    params: Vec<f64>,
}

impl GradientSource for Frozen {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        _: &Asked,
        _: &Resources,
    ) -> Result<Gradient> {
        let (network, ..) = super::network_of(batch)?;
        let trained = row::pass(batch, params, Wanted { weights: false, through: false })?;
        let (loss, error) = batch.slope(&trained.outputs()?)?;
        let mut frozen = row::pass(batch, &self.params, Wanted { weights: true, through: true })?;
        let mut found = row::Found::new(network);
        let last = frozen.len() - 1;
        let at_last = frozen.place(last, &error)?;
        found.back_from(&mut frozen, last, at_last)?;
        found.finish(network, &trained, loss)
    }
}
