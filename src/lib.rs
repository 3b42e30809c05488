//! Zeroth-order training of deep networks, and the reproduction of the DeepZero paper.

pub mod error;
pub mod report;
pub mod results;
pub mod rng;
pub mod spec;

pub use error::{Error, Result};
