//! Exact propagation of differences.
//!
//! When one parameter moves, [`Propagator`] carries the change δ of every activation through the
//! network instead of the activation itself. A moved weight changes one channel; the change of a
//! layer's output follows from the change of its input by a [`Rule`](super::form::Rule) that the layer owns, without
//! linearization; and the change of the loss follows from the change of the logits. The loss itself
//! is never subtracted from a nearly equal one, so that differences keep their digits, and layers
//! that see one changed channel do a fraction of the work.
//!
//! Images are processed a block at a time (see [`crate::kernels::lanes`]). Only batch statistics
//! couple blocks: they cut a pass into *stages*, and within a stage one block runs through all
//! layers before the next.
//!
//! On a GPU, and in tests, many probes go through the network at once.

mod batched;
mod options;
mod owners;
mod program;
mod propagator;
mod run;

pub use options::{DEFAULT_MEMORY, Options};
pub use propagator::Propagator;
pub(crate) use run::MAX_TOGETHER;
