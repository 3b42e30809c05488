//! Result files: one immutable Parquet file per trial.

mod record;

pub use record::{EpochRecord, Provenance, SCHEMA_VERSION, Status, TrialRecord};
