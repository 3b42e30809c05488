//! Layers: each knows its parameters, its forward pass (as a graph of tensors, as a stream of blocks, and for
//! stacked points) and its difference rule (for one probe, and for stacked ones), and nothing else knows layer
//! kinds.

mod add;
mod batch_norm;
mod conv2d;
mod flatten;
mod linear;
mod pool;
mod relu;
mod shortcut;

pub use add::Add;
pub use batch_norm::{BatchNorm, EPSILON};
pub use conv2d::Conv2d;
pub use flatten::Flatten;
pub use linear::Linear;
pub use pool::{GlobalAvgPool, MaxPool2};
pub use relu::Relu;
pub use shortcut::ShortcutA;

use candle_core::{Result, Tensor};

pub use super::form::{ActivationShape, Context, Epilogue, Mode, Pass};
use super::form::{Propagate, StackedRule, StackedSetup, Stream};
use crate::params::ParamSpec;

/// Part a layer can have where layers are fused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Can take over what follows.
    Norm,
    /// Addition of two values.
    Add,
    /// ReLU.
    Relu,
    /// None.
    Other,
}

/// One layer. A forward pass is a pure function: it changes no state, so that probes can share a
/// network between threads.
pub trait Layer:
    Propagate<f32> + Propagate<f64> + Stream<f32> + Stream<f64> + Send + Sync + std::fmt::Debug
{
    /// Its parameter tensors, named relative to the layer (`weight`, `bias`), in PyTorch's order.
    fn params(&self) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// Output sizes for these input sizes.
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape;

    /// Floating-point operations for one image of these sizes (multiplications and additions).
    fn flops(&self, inputs: &[ActivationShape]) -> u64;

    /// Output for these inputs, laid out as [`Pass::schedule`] says; `params` in the order of
    /// [`Layer::params`].
    ///
    /// # Errors
    /// If a shape does not fit or the device fails.
    fn forward(&self, pass: &Pass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor>;

    /// The same for stacked points: `params` and `inputs` lead by their number P, or by 1 where all points share
    /// them, and so does the output; features are (P, B, F, 1, 1). By default, for layers without parameters and
    /// with one input, the stack is one large batch.
    ///
    /// # Errors
    /// If a shape does not fit or the device fails.
    fn forward_stacked(&self, pass: &Pass, _params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let (probes, images, channels, height, width) = inputs[0].dims5()?;
        let batch = inputs[0].reshape((probes * images, channels, height, width))?;
        let pass = Pass { schedule: None, ..*pass };
        let output = self.forward(&pass, &[], &[&batch])?;
        let [channels, height, width] = self.output_shape(&[[channels, height, width]]);
        output.reshape((probes, images, channels, height, width))
    }

    /// The layer's difference rule for stacked probes.
    ///
    /// # Errors
    /// If a parameter or statistic is missing, or the device fails.
    fn stacked_rule(&self, setup: &StackedSetup) -> crate::Result<Box<dyn StackedRule>>;

    /// Part that the layer has where layers are fused.
    fn role(&self) -> Role {
        Role::Other
    }

    /// Whether its difference rule reads its first input at the base point.
    fn reads_base(&self) -> bool {
        false
    }

    /// The number of this layer among the batch norms, if it is one.
    fn norm_idx(&self) -> Option<usize> {
        None
    }
}

fn elements(shape: ActivationShape) -> u64 {
    shape.iter().product::<usize>() as u64
}
