//! Training of the last layer alone: its exact gradient, and zero for all others.

use std::sync::Arc;

use super::super::{Asked, Gradient, GradientSource};
use super::{Rule, row};
use crate::Result;
use crate::nn::chain::Wanted;
use crate::nn::model::Family;
use crate::params::Layout;
use crate::problem::{Minibatch, Resources};
use crate::setting::Settings;

/// `method = last-layer`.
#[derive(Debug)]
pub struct LastLayer;

impl Rule for LastLayer {
    fn name(&self) -> &'static str {
        "last-layer"
    }

    fn families(&self) -> &'static [&'static Family] {
        row::ROWS
    }

    fn relative_time(&self) -> f64 {
        // Of an epoch of `ntk-cnn` at widths 16 and 64, with its evaluation.
        0.3
    }

    fn start(&self, _: &Settings, _: u64, _: &Arc<Layout>) -> Result<Box<dyn GradientSource>> {
        Ok(Box::new(Last))
    }
}

/// Gradients of the last layer.
#[derive(Debug)]
struct Last;

impl GradientSource for Last {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        _: &Asked,
        _: &Resources,
    ) -> Result<Gradient> {
        let (network, ..) = super::network_of(batch)?;
        let mut chain = row::pass(batch, params, Wanted { weights: true, through: false })?;
        let (loss, error) = batch.slope(&chain.outputs()?)?;
        let mut found = row::Found::new(network);
        let last = chain.len() - 1;
        let at_last = chain.place(last, &error)?;
        found.back(&mut chain, last, &at_last)?;
        found.finish(network, &chain, loss)
    }
}
