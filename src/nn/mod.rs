//! Networks as ordered lists of layers with PyTorch-compatible parameter names.

mod activations;
pub mod backprop;
mod config;
pub mod difference;
pub mod form;
pub mod graph;
pub mod layer;
pub mod loss;
pub mod model;
pub mod objective;
pub mod pass;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod weights;

pub use activations::Activations;
pub use config::{Config, Criterion, Goal};
pub use difference::Propagator;
pub use form::{Context, Mode};
pub use graph::Network;
pub use layer::Layer;
pub use pass::chain::{self, Chain};
pub use stats::{BatchStats, RunningStats};
