//! Experiment files: TOML wire types to checked settings, grids to trials, stable hashes.

mod definition;
mod expand;
mod library;
pub mod settings;
mod source;
mod trial;
mod variant;
mod wire;

pub use definition::{
    At, Borrowed, BorrowedAt, Cell, Check, Comparison, Expected, Experiment, Figure, Layers, Panel,
    ProfileFigure, Quoted, Scale, ScalePlan, Series, TensorMeasure, Trace, TraceAxis, Trend, Trial,
};
pub use library::Library;
pub use settings::Description;
pub use trial::{MAX_SEEDS, SCHEMA_VERSION};
pub use variant::{file_name, is_cut, split_id};
