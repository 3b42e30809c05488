//! Experiment files: TOML wire types to checked settings, grids to trials, stable hashes.

mod assign;
mod domain;
mod expand;
mod experiment;
mod library;
mod settings;
mod source;
mod trial;
mod variant;
mod wire;

pub use domain::Description;
pub use experiment::{
    At, Cell, Check, Expected, Experiment, Figure, Layers, Panel, ProfileFigure, Progress, Rule, Scale,
    ScalePlan, Series, TensorMeasure, Trace, Trend, Trial,
};
pub use library::Library;
pub use settings::{Method, Settings, Task};
pub use variant::split_id;
