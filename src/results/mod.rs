//! Result files: one immutable Parquet file per trial.

mod compare;
mod profile;
mod provenance;
mod record;
mod store;
mod table;

pub use compare::compare_ignoring_time;
pub use profile::{Profile, ProfileColumn};
pub(crate) use provenance::cpu_name;
pub use record::{Provenance, SCHEMA_VERSION, Status, TrialRecord};
pub use store::Store;
