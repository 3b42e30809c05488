//! One binary for all integration tests.

mod golden;
mod report;
mod results;
mod spec;
