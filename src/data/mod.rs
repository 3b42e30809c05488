//! Images to train on: CIFAR-10 from local files or the hub, and procedural images that need none.
//!
//! Everything ends up as a [`Dataset`] of `u8` pixels in memory; [`make_batch`] turns rows of it into
//! normalised tensors. Nothing here draws from ambient randomness: subsets, epoch orders and
//! augmentation are pure functions of a seed and a position.

mod augment;
mod cifar10;
mod config;
mod dataset;
mod loader;
mod source;
mod synthetic;

pub use augment::{Augmentation, CROP_PADDING, Placement};
pub use cifar10::{CLASS_NAMES, FileInfo, Format, Hub, Info, SplitInfo};
pub use config::Config;
pub use dataset::{Dataset, Splits};
pub use loader::{Batch, Normalization, class_batch, epoch_order, make_batch};
pub use source::{DATA_DIR_VARIABLE, DataSource, Location, Progress, Silent, fetch, info, load, verify};
pub use synthetic::{SYNTHETIC_TEST, SYNTHETIC_TRAIN, synthetic};
