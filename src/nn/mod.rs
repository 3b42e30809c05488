//! Networks as ordered lists of layers with PyTorch-compatible parameter names.

pub mod graph;
pub mod layer;
pub mod loss;
pub mod model;
pub mod params;
pub mod weights;

pub use graph::{Activations, Network, RunningStats};
pub use layer::{Context, Layer, Mode};
pub use params::{Layout, ParamKind, ParamSpec};
