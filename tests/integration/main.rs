//! One binary for all integration tests.

mod results;
mod spec;
