//! Layers, one a file: nothing else knows layer kinds.
//!
//! A layer must say its parameters, the shape of its output, its operations, and its forward pass in operations of
//! candle. That is enough to train a network with it: all else that a layer can have makes things faster, or makes
//! `evaluator = difference` possible (see [`Forms`]).

mod add;
mod batch_norm;
mod channel_mixing;
mod conv2d;
mod conv_transpose;
mod flatten;
mod grouped_linear;
mod layer_norm;
mod linear;
mod local_head;
mod ntk_conv;
mod ntk_linear;
mod patches;
mod pool;
mod position_norm;
mod relu;
mod shortcut;
mod sigmoid;
mod subtract;
mod token_mean;
mod token_mixing;

pub use add::Add;
pub use batch_norm::{BatchNorm, EPSILON};
pub use channel_mixing::ChannelMixing;
pub(crate) use channel_mixing::mixer_start;
pub use conv_transpose::ConvTranspose2d;
pub use conv2d::Conv2d;
pub use flatten::Flatten;
pub use grouped_linear::GroupedLinear;
pub use layer_norm::{LAYER_NORM_EPSILON, LayerNorm};
pub(crate) use layer_norm::{normalize, normalize_jacobian};
pub use linear::Linear;
pub use local_head::LocalHead;
pub use ntk_conv::NtkConv;
pub use ntk_linear::NtkLinear;
pub use patches::Patches;
pub use pool::{GlobalAvgPool, MaxPool2};
pub use position_norm::PositionNorm;
pub use relu::Relu;
pub use shortcut::ShortcutA;
pub use sigmoid::Sigmoid;
pub use subtract::Subtract;
pub use token_mean::TokenMean;
pub use token_mixing::TokenMixing;

use candle_core::{Result, Tensor};

pub use super::form::{ActivationShape, Context, Epilogue, LayerPass, Mode};
use super::form::{BlockwiseBoth, PropagateBatched, PropagateBoth};
use crate::kernels::ops::{self, Execution, Tape};
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

/// What becomes of a layer's output in training, if its only input is multiplied by a positive factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// It is multiplied by the same factor.
    Follows,
    /// The same, up to a constant for every channel.
    FollowsBesideOffset,
    /// Nothing, nor if a constant is added to every channel: a normalization over the batch, as far as what it adds to
    /// variances is small.
    Forgets,
    /// Something else.
    Other,
}

/// Over what a normalization takes each of its means and variances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// Images, rows and columns: one mean and variance per channel.
    PerChannel,
    /// Images alone: one mean and variance per channel, row and column.
    PerPosition,
}

impl Statistics {
    /// An activation of this shape, seen so that every channel has one mean and variance.
    #[must_use]
    pub fn view(self, shape: ActivationShape) -> ActivationShape {
        match self {
            Self::PerChannel => shape,
            Self::PerPosition => [shape.iter().product(), 1, 1],
        }
    }
}

/// What a normalization is to the network that it stands in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Its number among the network's normalizations.
    pub idx: usize,
    /// The statistics of its input that it uses.
    pub statistics: Statistics,
    /// The running statistics that are kept of it. One without uses those of the batch in evaluation too.
    pub running: Option<Running>,
}

/// How running statistics move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    /// Weight of a new batch, in PyTorch's sense.
    pub momentum: f64,
}

/// The fast forms that a layer has besides its forward pass. What is missing is done without, or refused by name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forms<'a> {
    /// Whether [`Layer::forward_lanes`] consists of operations of [`crate::kernels::ops`] alone, which the tape
    /// follows. Otherwise back-propagation takes candle's autograd over [`Layer::forward`].
    pub is_taped: bool,
    /// A pass block by block. If a layer of a network has none, values are passed on whole, with the same numbers.
    pub streamed: Option<&'a dyn BlockwiseBoth>,
    /// The difference rule. If a layer has none, `evaluator = difference` is refused on the CPU.
    pub rule: Option<&'a dyn PropagateBoth>,
    /// The difference rule for batched probes. If a layer has none, `evaluator = difference` is refused on GPUs.
    pub batched_rule: Option<&'a dyn PropagateBatched>,
}

impl<'a> Forms<'a> {
    /// All forms of a layer that has them all.
    pub fn all<L: BlockwiseBoth + PropagateBoth + PropagateBatched>(layer: &'a L) -> Self {
        Self { is_taped: true, streamed: Some(layer), rule: Some(layer), batched_rule: Some(layer) }
    }
}

/// One layer. A forward pass is a pure function: it changes no state, so that probes can share a
/// network between threads.
pub trait Layer: Send + Sync + std::fmt::Debug {
    /// Its parameter tensors, named relative to the layer (`weight`, `bias`), in PyTorch's order.
    fn params(&self) -> Vec<ParamSpec> {
        Vec::new()
    }

    /// Output sizes for these input sizes.
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape;

    /// Floating-point operations for one image of these sizes (multiplications and additions).
    fn flops(&self, inputs: &[ActivationShape]) -> u64;

    /// Output (B, C', H', W') for these inputs (B, C, H, W), features being (B, F, 1, 1), in operations that candle's
    /// autograd follows; `params` in the order of [`Layer::params`].
    ///
    /// # Errors
    /// If a shape does not fit or the device fails.
    fn forward(&self, pass: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor>;

    /// The same with images in lanes (block, C, H, W, lane), as everything runs on the CPU. By default images are
    /// taken out of lanes for [`Layer::forward`], and put back.
    ///
    /// # Errors
    /// If a shape does not fit, or the default is asked for while a tape records.
    fn forward_lanes(
        &self,
        pass: &LayerPass,
        execution: Execution,
        params: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        if Tape::is_recording() {
            // The tape would take the output for a constant.
            candle_core::bail!("{} has no form that the tape follows", self.kind());
        }
        let images = inputs.iter().map(|input| ops::from_lanes(input, execution.blocks));
        let images = images.collect::<Result<Vec<_>>>()?;
        let output = self.forward(pass, params, &images.iter().collect::<Vec<_>>())?;
        ops::to_lanes(&output, execution.blocks)
    }

    /// Of a layer that is linear in its only input, the gradient of that input, of shape `input`, from the gradient
    /// `grad` of the output, as if its parameters were `params`: both with images in lanes. None of other layers.
    ///
    /// # Errors
    /// If a shape does not fit.
    fn transport_lanes(
        &self,
        _execution: Execution,
        _params: &[Tensor],
        _input: ActivationShape,
        _grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// As [`Layer::forward`] for batched points: `params` and `inputs` lead by their number P, or by 1 where all points share
    /// them, and so does the output; features are (P, B, F, 1, 1). By default a stack without parameters and with one
    /// input is one large batch, and of others the members pass one after the other.
    ///
    /// # Errors
    /// If a shape does not fit or the device fails.
    fn forward_batched(&self, pass: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        if let ([], [input], None) = (params, inputs, self.norm()) {
            let (probes, images, channels, height, width) = input.dims5()?;
            let batch = input.reshape((probes * images, channels, height, width))?;
            let output = self.forward(pass, &[], &[&batch])?;
            let [channels, height, width] = self.output_shape(&[[channels, height, width]]);
            return output.reshape((probes, images, channels, height, width));
        }
        let all = || params.iter().chain(inputs.iter().copied());
        let probes = all().map(|tensor| tensor.dim(0)).try_fold(1, |most, n| n.map(|n| most.max(n)))?;
        let member = |tensor: &Tensor, idx: usize| tensor.get(if tensor.dim(0)? == 1 { 0 } else { idx });
        let outputs = (0..probes).map(|idx| {
            let params = params.iter().map(|param| member(param, idx)).collect::<Result<Vec<_>>>()?;
            let inputs = inputs.iter().map(|input| member(input, idx)).collect::<Result<Vec<_>>>()?;
            self.forward(pass, &params, &inputs.iter().collect::<Vec<_>>())
        });
        Tensor::stack(&outputs.collect::<Result<Vec<_>>>()?, 0)
    }

    /// The forms that it has besides; by default none.
    fn forms(&self) -> Forms<'_> {
        Forms::default()
    }

    /// Part that the layer has where layers are fused.
    fn role(&self) -> Role {
        Role::Other
    }

    /// What becomes of the output when its input is scaled.
    fn scaling(&self) -> Scaling {
        Scaling::Other
    }

    /// Whether its difference rule reads its inputs at the base point.
    fn reads_base(&self) -> bool {
        false
    }

    /// Which normalization it is, if it is one: it alone may let images of a batch depend on each other.
    fn norm(&self) -> Option<Norm> {
        None
    }

    /// The name of its type, for messages.
    fn kind(&self) -> &'static str {
        let path = std::any::type_name::<Self>();
        path.rsplit("::").next().unwrap_or(path)
    }
}

fn elements(shape: ActivationShape) -> u64 {
    shape.iter().product::<usize>() as u64
}
