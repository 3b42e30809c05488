//! Experiment files: TOML wire types to checked settings, grids to trials, stable hashes.

mod experiment;
mod settings;

pub use experiment::{Cell, Check, Expected, Experiment, Figure, Rule, Scale, ScalePlan, Series, Trial};
pub use settings::{
    DataSource, Difference, Directions, EvaluatorKind, LayerRatios, Mask, Method, ModelKind, OptimizerKind,
    Precision, Schedule, Settings, SparseTarget,
};
