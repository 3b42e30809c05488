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

impl Network {
    /// Logits (B, classes) of `images` (B, C, H, W).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward(&self, context: &Context, params: &[Tensor], images: &Tensor) -> Result<Tensor> {
        let streamed = match (images.device().is_cpu(), images.dtype()) {
            (true, DType::F32) => streamed::forward::<f32>(self, context, params, images)?,
            (true, DType::F64) => streamed::forward::<f64>(self, context, params, images)?,
            _ => return Ok(self.forward_batched(context, params, images, |_| false)?.logits),
        };
        match streamed {
            Some(logits) => Ok(logits),
            None => self.forward_visit(context, params, images, false, &mut |_| Ok(())),
        }
    }
}
