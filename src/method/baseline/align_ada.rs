//! Align-ada (Boopathy and Fiete, ICML 2022): the error travels back through a frozen copy of the initial network, and
//! meets the activities of the trained one.
//!
//! x_l are the normalized values before the ReLU of layer l in the trained network, z_l those of the frozen one with
//! weights W_l(0), L the last hidden layer, and e the error at the trained network's outputs. In the frozen network
//! q_L = poolᵀ W(0)ᵀ e, f_l = q_l where z_l > 0 and 0 elsewhere, q_{l-1} = W_l(0)ᵀ norm'(z)ᵀ f_l. The error at x_l is
//! d_L = q_L where x_L > 0 and d_l = f_l below, as the released code has it; from there it goes back through the trained
//! network's own normalization to its weights. The last layer has its exact gradient.

use std::sync::Arc;

use super::super::{Asked, Gradient, GradientSource};
use super::{Rule, row};
use crate::nn;
use crate::nn::chain::Wanted;
use crate::nn::model::{Family, ntk_cnn};
use crate::params::Layout;
use crate::problem::{Minibatch, Resources};
use crate::setting::Settings;
use crate::{Error, Result};

/// `method = align-ada`.
#[derive(Debug)]
pub struct AlignAda;

/// Networks whose values before a ReLU are there on their own.
pub(super) static FAMILIES: &[&Family] = &[&ntk_cnn::FAMILY];

impl Rule for AlignAda {
    fn name(&self) -> &'static str {
        "align-ada"
    }

    fn families(&self) -> &'static [&'static Family] {
        FAMILIES
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn GradientSource>> {
        let nn::Config { init, .. } = settings.read()?;
        Ok(Box::new(Adapted { frozen: layout.initial(init, seed) }))
    }
}

/// Errors of a frozen network for the activities of the trained one.
#[derive(Debug)]
pub struct Adapted {
    /// Parameters (d) of the frozen network.
    pub frozen: Vec<f64>,
}

impl GradientSource for Adapted {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        _: &Asked,
        _: &Resources,
    ) -> Result<Gradient> {
        let (network, ..) = super::network_of(batch)?;
        let mut trained = row::pass(batch, params, Wanted { weights: true, through: false })?;
        let mut frozen = row::pass(batch, &self.frozen, Wanted { weights: false, through: true })?;
        let (loss, error) = batch.slope(&trained.outputs()?)?;
        let mut found = row::Found::new(network);
        let last = trained.len() - 1;
        let at_last = trained.place(last, &error)?;
        found.back(&mut trained, last, &at_last)?;
        let relus = trained.relus();
        let mut grad = Some(at_last);
        for link in (0..=last).rev() {
            let Some(of_output) = grad else { break };
            grad = frozen.back(link, &of_output)?.input;
            if let Some(layer) = relus.iter().position(|&relu| relu == link) {
                // From the ReLU's input back to the weights: here the trained network takes over.
                let is_top = layer + 1 == relus.len();
                let at_input = if is_top { trained.back(link, &of_output)?.input } else { grad.clone() };
                let at_input = at_input.ok_or_else(|| {
                    Error::Objective("a ReLU of the inputs hides no layer that could learn".to_owned())
                })?;
                found.back_from(&mut trained, link - 1, at_input)?;
            }
        }
        found.finish(network, &trained, loss)
    }
}
