//! Experiment files: TOML wire types to checked settings, grids to trials, stable hashes.

mod expand;
mod experiment;
mod library;
pub mod settings;
mod source;
mod trial;
mod variant;
mod wire;

pub use experiment::{
    At, Cell, Check, Expected, Experiment, Figure, Layers, Panel, Progress, Rule, Scale, ScalePlan, Series,
    TensorMeasure, Trace, Trend, Trial,
};
pub use library::Library;
pub use settings::Description;
pub use variant::split_id;
