//! One binary for all integration tests.

mod cli;
mod corpora;
mod data;
mod difference;
mod doctor;
mod faults;
mod golden;
#[cfg(feature = "mpi")]
mod mpi;
mod report;
mod results;
mod resume;
mod sparsity;
mod spec;
