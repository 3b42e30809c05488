//! Measurements: how fast the engine computes gradients, and what the machine could do at best.
//!
//! - [`cge`] and [`rge`]: zeroth-order gradient estimates, with the accuracy of the former;
//! - [`first_order`]: steps of back-propagation, for comparison;
//! - [`certify`]: classes of noisy copies of images;
//! - [`conv`]: the convolution kernels alone;
//! - [`machine`]: the peak that all of them are held against.
//!
//! Every measurement warms up, repeats and reports medians, and is taken on all threads of rayon's
//! pool. Operations are counted as [`crate::nn::Network::flops`] counts them: a multiplication and
//! an addition are two.

pub mod certify;
pub mod cge;
pub mod conv;
mod coords;
pub mod first_order;
pub mod flow;
pub mod machine;
pub mod rge;
mod workload;

pub use crate::timing::Seconds;
pub use coords::Distribution;
pub use machine::Machine;
pub use workload::Workload;

/// Of numbers per second, 10⁹.
const GIGA: f64 = 1e9;
/// Microseconds in a second.
const MICRO: f64 = 1e6;
