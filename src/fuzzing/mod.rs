//! What fuzzers call: everything that reads what others wrote, on bytes, to the end. Each may refuse with an error, and
//! must not panic, hang or take more memory than the bytes warrant.

mod pages;
mod state;

pub use crate::data::fuzzing::{binary_batch, cifar_parquet, imagenette_parquet, pickle};
pub use pages::{experiment, numbers, pages, prose, record};
pub use state::{RECIPES, checkpoint, settings, sound_checkpoint, tensors};
