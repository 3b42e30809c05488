//! Imagenette (Howard, 2019), second version: ten classes of ImageNet that are easily told apart, here at 64x64 pixels.
//!
//! Of the hub's files the ones whose shorter side has 160 pixels are taken: the largest square in the middle of each
//! image is brought to 64x64.

use std::path::Path;

use super::stored::{self, Collection, Found, HubCopy, Layout};
use super::{Normalization, Source};
use crate::error::Error;

/// Names of the classes, in the order of their labels: n01440764, n02102040, n02979186, n03000684, n03028079, n03394916,
/// n03417042, n03425413, n03445777, n03888257.
const CLASS_NAMES: [&str; 10] = [
    "tench",
    "English springer",
    "cassette player",
    "chain saw",
    "church",
    "French horn",
    "garbage truck",
    "gas pump",
    "golf ball",
    "parachute",
];

/// What the splits are called in names of files.
const SPLITS: [&str; 2] = ["train", "validation"];

/// Imagenette as a source of images.
pub(super) static SOURCE: Source = Source {
    name: "imagenette",
    shape: [3, 64, 64],
    n_classes: CLASS_NAMES.len(),
    normalization: NORMALIZATION,
    n_train: 9_469,
    n_test: 3_925,
    is_made: false,
    load: |_, location, report| stored::load(&COLLECTION, location, report),
};

/// Of the training images at 64x64 pixels.
const NORMALIZATION: Normalization =
    Normalization::constant(&[0.4655, 0.4546, 0.4251], &[0.2809, 0.2764, 0.2993]);

/// Its files.
pub(super) static COLLECTION: Collection = Collection {
    title: "Imagenette",
    source: &SOURCE,
    class_names: &CLASS_NAMES,
    splits: SPLITS,
    column: "image",
    candidates,
    read_other: |file, format| Err(Error::data(file, format!("Imagenette has no {format}"))),
    home: "imagenette-64",
    hub: HubCopy {
        repository: ["frgfm", "imagenette"],
        folder: "160px",
        layouts: &LAYOUTS,
        canonical: None,
        is_original: true,
    },
};

const MAIN_NAMES: [&str; 2] = ["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"];

/// In order of preference: a known commit, then what a mirror without it may have.
const LAYOUTS: [Layout; 3] = [
    Layout { revision: "4b23ffb92a8029db9958bdfdbd6978427d09b1a0", names: MAIN_NAMES },
    Layout { revision: "main", names: MAIN_NAMES },
    Layout { revision: "refs/convert/parquet", names: ["train/0000.parquet", "validation/0000.parquet"] },
];

/// In a folder of its own: file names such as `train/0000.parquet` say nothing of what is in them.
fn candidates(dir: &Path) -> Vec<Found> {
    let mut candidates = Vec::new();
    for root in [dir.join("imagenette-64"), dir.join("imagenette")] {
        candidates.push(Found::converted(root.clone(), SPLITS));
        candidates.push(Found::numbered(root, SPLITS));
    }
    candidates
}
