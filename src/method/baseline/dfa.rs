//! Direct feedback alignment (Nøkland, NeurIPS 2016): every hidden layer hears of the error at the outputs directly,
//! through fixed random weights.
//!
//! With e = ∂loss/∂outputs (B, K), a hidden layer l whose ReLU puts out (C_l, H_l, W_l) numbers, and B_l
//! (K, C_l · H_l · W_l) normal with variance 1 / (C_l H_l W_l): the error at that ReLU's output is e B_l. From there it
//! goes back through the ReLU and the normalization to the weights of layer l, and no further. The last layer has its
//! exact gradient.

use std::sync::Arc;

use candle_core::Tensor;

use super::super::{Asked, Gradient, GradientSource};
use super::{Rule, row};
use crate::Result;
use crate::nn::Chain;
use crate::nn::chain::Wanted;
use crate::nn::model::Family;
use crate::params::Layout;
use crate::problem::{Minibatch, Resources};
use crate::rng::{Purpose, Stream};
use crate::setting::Settings;

/// `method = dfa`.
#[derive(Debug)]
pub struct Dfa;

impl Rule for Dfa {
    fn name(&self) -> &'static str {
        "dfa"
    }

    fn families(&self) -> &'static [&'static Family] {
        row::ROWS
    }

    fn relative_time(&self) -> f64 {
        // Of an epoch of `ntk-cnn` at widths 16 and 64, with its evaluation.
        0.6
    }

    fn start(&self, _: &Settings, seed: u64, _: &Arc<Layout>) -> Result<Box<dyn GradientSource>> {
        Ok(Box::new(DirectFeedback { seed, weights: Vec::new() }))
    }
}

/// Errors that reach every hidden layer directly.
#[derive(Debug)]
pub struct DirectFeedback {
    seed: u64,
    /// By hidden layer (K, C · H · W); empty until shapes are known.
    weights: Vec<Tensor>,
}

impl DirectFeedback {
    /// With these feedback weights.
    #[must_use]
    pub fn given(weights: Vec<Tensor>) -> Self {
        Self { seed: 0, weights }
    }

    /// Feedback weights for errors like `error` (B, K).
    fn draw(&self, chain: &Chain, error: &Tensor) -> Result<Vec<Tensor>> {
        let stream = Stream::new(self.seed, Purpose::Feedback, 0);
        let draw = |(lane, relu): (u32, usize)| {
            let (n_outputs, n) = (error.dim(1)?, chain.shape(relu).iter().product::<usize>());
            let mut values = vec![0.0; n_outputs * n];
            stream.lane(lane).fill_normal(&mut values);
            let std = (n as f64).sqrt().recip();
            values.iter_mut().for_each(|value| *value *= std);
            Ok(Tensor::from_vec(values, (n_outputs, n), error.device())?.to_dtype(error.dtype())?)
        };
        (0..).zip(chain.relus()).map(draw).collect()
    }
}

impl GradientSource for DirectFeedback {
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
        if self.weights.is_empty() {
            self.weights = self.draw(&chain, &error)?;
        }
        let mut found = row::Found::new(network);
        let last = chain.len() - 1;
        let at_last = chain.place(last, &error)?;
        found.back_from(&mut chain, last, at_last)?;
        for (relu, weights) in chain.relus().into_iter().zip(&self.weights) {
            let grad = chain.place(relu, &error.matmul(weights)?)?;
            found.back_from(&mut chain, relu, grad)?;
        }
        found.finish(network, &chain, loss)
    }
}
