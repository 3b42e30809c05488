//! Passes over a network: block by block keeping nothing (`streamed`), keeping every value or going on from kept ones
//! (`kept`), as candle's autograd follows (`tracked`), link by link for learning rules (`chain`), of many points at
//! once (`batched`), and of inputs that each may see a parameter of its own shifted (`shifted`).

pub mod batched;
pub mod chain;
pub(super) mod kept;
pub mod shifted;
pub(super) mod statistics;
mod streamed;
mod tracked;

use candle_core::{DType, Tensor};

use super::form::Context;
use super::graph::Network;
use crate::Result;
use crate::kernels::Split;
use streamed::StreamedBatch;

impl Network {
    /// Logits (B, classes) of `images` (B, C, H, W).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward(&self, context: &Context, params: &[Tensor], images: &Tensor) -> Result<Tensor> {
        Passes::new(self, images, context.split)?.forward(context, params)
    }
}

/// A network and a batch that many points are evaluated on: what depends on the images alone is done once, and memory goes
/// from pass to pass.
#[derive(Debug)]
pub struct Passes<'a> {
    network: &'a Network,
    /// (B, C, H, W).
    images: &'a Tensor,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Single(StreamedBatch<f32>),
    Double(StreamedBatch<f64>),
    /// On the CPU, of a network that has no streamed form.
    Visited,
    /// On a GPU.
    Batched,
}

impl<'a> Passes<'a> {
    /// Of `network` on `images` (B, C, H, W), which are read with this split.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(network: &'a Network, images: &'a Tensor, split: Split) -> Result<Self> {
        let way = match (images.device().is_cpu(), images.dtype()) {
            (true, DType::F32) => StreamedBatch::new(network, images, split)?.map(Way::Single),
            (true, DType::F64) => StreamedBatch::new(network, images, split)?.map(Way::Double),
            _ => Some(Way::Batched),
        };
        Ok(Self { network, images, way: way.unwrap_or(Way::Visited) })
    }

    /// Logits (B, classes) at `params`.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward(&self, context: &Context, params: &[Tensor]) -> Result<Tensor> {
        let Self { network, images, way } = self;
        match way {
            Way::Single(batch) => batch.forward(network, context, params),
            Way::Double(batch) => batch.forward(network, context, params),
            Way::Visited => network.forward_visit(context, params, images, false, &mut |_| Ok(())),
            Way::Batched => Ok(network.forward_batched(context, params, images, |_| false)?.logits),
        }
    }
}
