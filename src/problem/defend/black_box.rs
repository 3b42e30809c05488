//! What a defense asks, and knows nothing else of.

use candle_core::Tensor;

use crate::Result;
use crate::kernels::Split;
use crate::nn::backprop;
use crate::nn::loss::{self, Loss};
use crate::nn::{Context, Mode, Network, RunningStats};

/// A classifier that can only be asked: a process, a service, a network.
///
/// Implement [`BlackBox::losses`] and [`BlackBox::classes`] for your own; see `examples/defend.rs`. It is asked on
/// several threads at once.
pub trait BlackBox: Sync {
    /// Cross-entropy of every one of `inputs` (k · B, numbers) with its label; the labels (B) are repeated k times. NaN
    /// and infinity are allowed: they are counted, and the probe is left out.
    ///
    /// # Errors
    /// If there is no answer, such as [`crate::Error::Objective`]; training stops.
    fn losses(&self, inputs: &Tensor, labels: &[u32]) -> Result<Vec<f64>>;

    /// The class of every one of `inputs` (N, numbers).
    ///
    /// # Errors
    /// If there is no answer.
    fn classes(&self, inputs: &Tensor) -> Result<Vec<u32>>;

    /// The same losses while nothing else is asked, so that all threads may be used.
    ///
    /// # Errors
    /// As [`BlackBox::losses`].
    fn losses_alone(&self, inputs: &Tensor, labels: &[u32]) -> Result<Vec<f64>> {
        self.losses(inputs, labels)
    }

    /// What is in the box, where that is known: exact gradients and propagated differences need it.
    fn opened(&self) -> Option<&Opened> {
        None
    }
}

/// A network that is asked, with running statistics.
#[derive(Debug)]
pub struct Opened {
    /// From what stands in front of it to logits.
    pub network: Network,
    /// Its parameters (d).
    pub params: Vec<f64>,
    /// Its running statistics.
    pub stats: RunningStats,
    /// The same parameters where images are, in the precision of their passes.
    tensors: Vec<Tensor>,
}

impl Opened {
    /// `network` at `params` (d) with `stats`, for inputs of the data type and on the device of `like`.
    ///
    /// # Errors
    /// If sizes do not fit or the device fails.
    pub fn new(network: Network, params: Vec<f64>, stats: RunningStats, like: &Tensor) -> Result<Self> {
        let tensors = network.tensors(&params, like.dtype(), like.device())?;
        Ok(Self { network, params, stats, tensors })
    }

    /// A tensor with the data type and on the device of its passes.
    #[must_use]
    pub fn like(&self) -> &Tensor {
        &self.tensors[0]
    }

    /// Logits (N, classes) of `inputs` (N, numbers).
    ///
    /// # Errors
    /// If sizes do not fit or the device fails.
    pub fn logits(&self, inputs: &Tensor, split: Split) -> Result<Tensor> {
        let context = Context { mode: Mode::Eval(&self.stats), split };
        self.network.forward(&context, &self.tensors, &self.shaped(inputs)?)
    }

    /// Mean cross-entropy of `inputs` (B, numbers) with labels (B), and its gradient with respect to the inputs.
    ///
    /// # Errors
    /// If sizes do not fit or the device fails.
    pub fn slope(&self, inputs: &Tensor, labels: &[u32]) -> Result<(f64, Tensor)> {
        let inputs = self.shaped(&inputs.detach())?;
        let outer = |logits: &Tensor| Loss::CrossEntropy.gradient(logits, labels.into(), 1.0, None);
        let mode = Mode::Eval(&self.stats);
        let (value, grad) = backprop::input_gradient(&self.network, mode, &self.params, &inputs, &outer)?;
        Ok((value, grad.flatten_from(1)?))
    }

    fn shaped(&self, inputs: &Tensor) -> Result<Tensor> {
        let [channels, height, width] = self.network.input();
        Ok(inputs.reshape((inputs.dim(0)?, channels, height, width))?)
    }
}

impl BlackBox for Opened {
    fn losses(&self, inputs: &Tensor, labels: &[u32]) -> Result<Vec<f64>> {
        loss::cross_entropies(&self.logits(inputs, Split::Serial)?, labels)
    }

    fn losses_alone(&self, inputs: &Tensor, labels: &[u32]) -> Result<Vec<f64>> {
        loss::cross_entropies(&self.logits(inputs, Split::Threads)?, labels)
    }

    fn classes(&self, inputs: &Tensor) -> Result<Vec<u32>> {
        loss::classes(&self.logits(inputs, Split::Threads)?)
    }

    fn opened(&self) -> Option<&Opened> {
        Some(self)
    }
}
