//! Experiment files: TOML wire types to checked settings, grids to trials, stable hashes.

mod assign;
mod definition;
mod domain;
mod expand;
mod library;
mod settings;
mod source;
mod trial;
mod variant;
mod wire;

pub use definition::{
    At, Cell, Check, Comparison, Expected, Experiment, Figure, Layers, Panel, ProfileFigure, Scale,
    ScalePlan, Series, TensorMeasure, Trace, TraceAxis, Trend, Trial,
};
pub use domain::Description;
pub use library::Library;
pub use settings::{Method, Settings, Task};
pub use variant::split_id;
