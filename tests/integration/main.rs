//! One binary for all integration tests.

mod cli;
mod data;
mod difference;
mod doctor;
mod golden;
mod report;
mod results;
mod resume;
mod spec;
