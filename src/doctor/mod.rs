//! What a machine is, whether the program computes rightly on it, and how fast.

mod golden;
mod system;

pub use golden::{Check, Subject, check};
pub use system::{Gpu, System};
