//! One binary for all integration tests.

#![allow(clippy::print_stderr, reason = "what is skipped is said")]

mod baseline;
mod certify;
mod cli;
mod corpora;
mod data;
mod defense;
mod difference;
mod docs;
mod doctor;
mod faults;
mod flow;
mod forward_gradient;
mod golden;
mod minimize;
#[cfg(feature = "mpi")]
mod mpi;
mod published;
mod report;
mod results;
mod resume;
mod sizes;
mod sparsity;
mod spec;
