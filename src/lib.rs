//! Zeroth-order training of deep networks, and the reproduction of the DeepZero paper.

pub mod baseline;
pub mod error;
pub mod files;
pub mod kernels;
pub mod nn;
pub mod results;
pub mod rng;
pub mod spec;
pub mod zo;

pub use error::{Error, Result};
