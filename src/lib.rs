//! Zeroth-order training of deep networks, and the reproduction of the DeepZero paper (Chen et al.,
//! ICLR 2024).
//!
//! - [`zo`]: the engine. Estimators ask for probes, evaluators turn them into loss differences.
//! - [`nn`] and [`kernels`]: networks as lists of layers over candle tensors, and their hot loops.
//! - [`pde`]: the flow of a fluid, as a solver that a network can correct.
//! - [`problem`], [`method`], [`train`]: what is minimized, how parameters move, the loop that does it.
//! - [`certify`]: how far around an image a classifier under noise keeps its class.
//! - [`task`], [`cost`]: what one trial does, and what it will cost.
//! - [`experiment`], [`runner`], [`results`], [`report`]: experiments as data, many trials, what they leave behind,
//!   what a reader sees of it.
//! - [`minimize`]: a function of one's own, of which nothing but values is known.
//! - [`ranks`]: the processes of one job, which share the probes.
//! - [`bench`](mod@bench) and [`doctor`]: how fast all of that is, and whether a machine computes it rightly.
//! - [`setting`], [`metric`], [`profile`], [`params`], [`saved`], [`data`], [`rng`], [`device`], [`files`], [`error`]:
//!   what all of them stand on.

pub mod bench;
pub mod certify;
pub mod cost;
pub mod data;
pub mod device;
pub mod doctor;
pub mod error;
pub mod experiment;
pub mod files;
#[doc(hidden)]
pub mod fuzzing;
mod hex;
pub mod kernels;
pub mod lock;
pub mod method;
pub mod metric;
pub mod minimize;
#[cfg(test)]
mod mutants;
pub mod nn;
mod panics;
pub mod params;
pub mod pde;
pub mod problem;
pub mod profile;
pub mod ranks;
pub mod report;
pub mod results;
pub mod rng;
pub mod runner;
pub mod saved;
pub mod setting;
pub mod task;
mod timing;
pub mod train;
pub mod zo;

pub use error::{Error, Result};
