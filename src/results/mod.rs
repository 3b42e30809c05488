//! Result files: one immutable Parquet file per trial.

mod compare;
mod digest;
mod provenance;
mod record;
mod store;
mod table;
mod verify;

pub use compare::{compare_ignoring_time, compare_numbers};
pub(crate) use provenance::cpu_name;
pub use record::{Provenance, TrialRecord};
pub(crate) use store::record_of;
pub use store::{Store, read_profile, write_profile};
pub use verify::{STANDARD_ERRORS, TOLERANCE, Tolerance, Verified, verify};
