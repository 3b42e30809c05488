//! One binary for all integration tests.

mod data;
mod golden;
mod report;
mod results;
mod spec;
