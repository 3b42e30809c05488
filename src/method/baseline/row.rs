//! What rules share that go back through a row of layers.

use candle_core::Tensor;

use super::super::Gradient;
use super::network_of;
use crate::nn::chain::{Wanted, flat};
use crate::nn::model::{Family, cnn, lenet, ntk_cnn, wide_cnn};
use crate::nn::objective::BasePass;
use crate::nn::{Chain, Network};
use crate::problem::Minibatch;
use crate::{Error, Result};

/// Families whose layers stand in a row.
pub(super) static ROWS: &[&Family] = &[&ntk_cnn::FAMILY, &wide_cnn::FAMILY, &cnn::FAMILY, &lenet::FAMILY];

/// A pass of the network with `params` (d).
pub(super) fn pass<'b>(batch: &'b dyn Minibatch, params: &[f64], wanted: Wanted) -> Result<Chain<'b>> {
    let (network, images, _) = network_of(batch)?;
    Chain::run(network, &tensors(batch, params)?, images, wanted)
}

/// Values (d) as tensors of the network of a batch.
pub(super) fn tensors(batch: &dyn Minibatch, params: &[f64]) -> Result<Vec<Tensor>> {
    let (network, images, _) = network_of(batch)?;
    network.tensors(params, images.dtype(), images.device())
}

/// The gradients of a network's parameter tensors, as they are found.
pub(super) struct Found {
    tensors: Vec<Option<Tensor>>,
}

impl Found {
    pub(super) fn new(network: &Network) -> Self {
        Self { tensors: vec![None; network.layout().specs().len()] }
    }

    /// Goes back through a link, whose output has the gradient `grad`, and takes the gradients of its parameters.
    pub(super) fn back(&mut self, chain: &mut Chain, link: usize, grad: &Tensor) -> Result<Option<Tensor>> {
        let found = chain.back(link, grad)?;
        for (to, gradient) in chain.params_of(link).zip(found.params) {
            self.tensors[to] = Some(gradient);
        }
        Ok(found.input)
    }

    /// Goes back from `link` as far as gradients of inputs are given, which is up to the first layer with weights
    /// unless gradients pass through these.
    pub(super) fn back_from(&mut self, chain: &mut Chain, link: usize, grad: Tensor) -> Result<()> {
        let mut grad = Some(grad);
        for link in (0..=link).rev() {
            let Some(of_output) = grad else { break };
            grad = self.back(chain, link, &of_output)?;
        }
        Ok(())
    }

    /// The gradient, with what the pass of `chain` gave.
    pub(super) fn finish(self, network: &Network, chain: &Chain, loss: f64) -> Result<Gradient> {
        if !loss.is_finite() {
            return Err(Error::Diverged { loss, at: String::new() });
        }
        let at = BasePass::new(network, loss, &chain.activations()?)?;
        Ok(Gradient { values: flat(network, &self.tensors)?, at, doubt: None })
    }
}
