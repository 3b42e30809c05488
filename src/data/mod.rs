//! Images to train on: CIFAR-10 from local files or the hub, and procedural images that need none.
//!
//! Everything ends up as a [`Dataset`] of `u8` pixels in memory; [`make_batch`] turns rows of it into
//! normalised tensors. Nothing here draws from ambient randomness: subsets, epoch orders and
//! augmentation are pure functions of a seed and a position.

mod augment;
mod cifar10;
mod config;
mod dataset;
pub(crate) mod fuzzing;
mod given;
mod loader;
mod location;
mod source;
mod synthetic;
pub mod wake;

pub use augment::{Augmentation, CROP_PADDING, Placement};
pub use cifar10::{CLASS_NAMES, FileInfo, Format, Hub, Info, Limits, SplitInfo, fetch, info, verify};
pub use config::{Config, Pixels};
pub use dataset::{Dataset, Normalization, Splits};
pub use given::given_batch;
pub use loader::{Batch, class_batch, epoch_order, make_batch};
pub use location::{DATA_DIR_VARIABLE, Location, Progress, Silent};
pub use source::Source;
pub use synthetic::synthetic;

use crate::error::{Error, Result};

/// Every source of images. A new one is a file or folder beside these, and a line here.
pub static SOURCES: &[&Source] = &[&synthetic::SOURCE, &cifar10::SOURCE];

crate::registered!(Source, SOURCES);

/// The source called `name`.
///
/// # Errors
/// [`Error::Setting`] if there is none.
pub fn source(name: &str) -> Result<&'static Source> {
    SOURCES.iter().copied().find(|source| source.name == name).ok_or_else(|| {
        let known: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
        Error::setting("data", format!("`{name}` is unknown; use {}", known.join(" or ")))
    })
}
