//! One binary for all integration tests.

mod golden;
mod results;
mod spec;
