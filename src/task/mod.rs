//! What one trial does.

mod active;
mod checkpoint;
mod classify;
mod prepared;

pub use active::ActiveSets;
pub use checkpoint::{Checkpoint, Progress};
pub use classify::{Model, Observer, Quiet, Session, evaluate, train};
pub use prepared::Prepared;
