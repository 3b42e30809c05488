//! Networks as ordered lists of layers with PyTorch-compatible parameter names.

pub mod backprop;
mod config;
pub mod difference;
pub mod graph;
pub mod layer;
pub mod loss;
pub mod model;
pub mod objective;
pub mod prune;
pub mod stacked;
pub mod stream;
pub mod weights;

pub use config::Config;
pub use difference::Propagator;
pub use graph::{Activations, BatchStats, Network, RunningStats};
pub use layer::{Context, Layer, Mode};
