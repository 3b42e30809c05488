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
pub use experiment::{Cell, Check, Expected, Experiment, Figure, Rule, Scale, ScalePlan, Series, Trial};
pub use library::Library;
pub use settings::{
    DataSource, Difference, Directions, EvaluatorKind, LayerRatios, Mask, Method, ModelKind, OptimizerKind,
    Precision, Schedule, Settings, SparseTarget,
};
pub use variant::split_id;
