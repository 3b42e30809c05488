//! What a forward pass leaves for later ones.

use candle_core::Tensor;

use crate::kernels::lanes::norm::Moments;
use crate::kernels::ops::Execution;

/// What a forward pass leaves: the values that later layers read, and the logits.
#[derive(Debug, Clone)]
pub struct Activations {
    /// By value; none where a layer's output was never there on its own.
    pub(super) values: Vec<Option<Tensor>>,
    /// By value, of its channels over the batch; none where nobody asked for them. As long as `values`, or empty.
    pub(super) moments: Vec<Option<Vec<Moments>>>,
    pub(super) logits: Tensor,
    pub(super) kind: Kind,
    pub(super) n_images: usize,
}

/// How activations are laid out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Images in lanes.
    Lanes(Execution),
    /// Stacks of one (1, B, C, H, W).
    Batched,
    /// (B, C, H, W).
    Plain,
}

impl Activations {
    /// Those of no network.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn none() -> crate::Result<Self> {
        let logits = Tensor::zeros((0, 1), candle_core::DType::F32, &candle_core::Device::Cpu)?;
        Ok(Self { values: Vec::new(), moments: Vec::new(), logits, kind: Kind::Plain, n_images: 0 })
    }

    /// Output of the last layer (B, classes).
    #[must_use]
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// By value: stacks of one, where the pass was batched.
    pub(super) fn batched(&self) -> &Vec<Option<Tensor>> {
        &self.values
    }

    /// The values kept, input first: in lanes on the CPU, stacks of one or plain on a GPU.
    pub fn values(&self) -> impl Iterator<Item = &Tensor> {
        self.values.iter().flatten()
    }
}
