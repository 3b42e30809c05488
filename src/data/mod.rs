//! Images to train on: CIFAR-10 and Imagenette from local files or the hub, and procedural images that need none.
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
mod imagenette;
mod jpeg;
mod loader;
mod location;
mod noise;
mod source;
mod stored;
mod synthetic;
pub mod wake;

pub use augment::{Augmentation, CROP_PADDING, Placement};
pub use cifar10::CLASS_NAMES;
pub use config::{Config, Pixels};
pub use dataset::{Dataset, Normalization, Splits};
pub use given::given_batch;
pub use jpeg::stored_as_jpeg;
pub use loader::{Batch, class_batch, epoch_order, make_batch};
pub use location::{DATA_DIR_VARIABLE, Location, Progress, Silent};
pub use noise::ImageNoise;
pub use source::Source;
pub use stored::{Collection, FileInfo, Format, Hub, Info, Limits, SplitInfo, fetch, info, verify};
pub use synthetic::synthetic;

use crate::error::{Error, Result};

/// Every source of images. A new one is a file or folder beside these, and a line here.
pub static SOURCES: &[&Source] = &[&synthetic::SOURCE, &cifar10::SOURCE, &imagenette::SOURCE];

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

/// The sources whose images are in files.
pub static COLLECTIONS: &[&Collection] = &[&cifar10::COLLECTION, &imagenette::COLLECTION];

/// The collection of the source called `name`.
///
/// # Errors
/// [`Error::Setting`] if there is none.
pub fn collection(name: &str) -> Result<&'static Collection> {
    COLLECTIONS.iter().copied().find(|known| known.source.name == name).ok_or_else(|| {
        let known: Vec<&str> = COLLECTIONS.iter().map(|known| known.source.name).collect();
        Error::setting("data", format!("`{name}` is in no files; those of {} are", known.join(" and ")))
    })
}
