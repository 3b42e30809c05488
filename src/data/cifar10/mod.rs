//! CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 32x32 pixels in ten classes.
//!
//! Three layouts are read: the hub's Parquet files, the canonical binary batches and the canonical Python batches.

mod batches;
mod pickle;

use std::path::{Path, PathBuf};

use super::stored::{self, Collection, Format, Found, HubCopy, Layout, Rows};
use super::{Normalization, Source};
use crate::error::{Error, Result};

/// Names of the classes, in the order of their labels.
pub const CLASS_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Channels, height, width.
const SHAPE: [usize; 3] = [3, 32, 32];
/// Rows of every canonical batch file.
const BATCH_ROWS: usize = 10_000;
/// Bytes of one image.
const IMAGE_LEN: usize = 3 * 32 * 32;
/// What the splits are called in names of files.
const SPLITS: [&str; 2] = ["train", "test"];

/// CIFAR-10 as a source of images.
pub(super) static SOURCE: Source = Source {
    name: "cifar10",
    shape: SHAPE,
    n_classes: CLASS_NAMES.len(),
    normalization: NORMALIZATION,
    n_train: 50_000,
    n_test: 10_000,
    is_made: false,
    load: |_, location, report| stored::load(&COLLECTION, location, report),
};

/// The usual constants of the training images.
const NORMALIZATION: Normalization =
    Normalization::constant(&[0.4914, 0.4822, 0.4465], &[0.2471, 0.2435, 0.2616]);

/// Its files.
pub(super) static COLLECTION: Collection = Collection {
    title: "CIFAR-10",
    source: &SOURCE,
    class_names: &CLASS_NAMES,
    splits: SPLITS,
    column: "img",
    candidates,
    read_other: read_batch,
    home: "cifar10/plain_text",
    hub: HubCopy {
        repository: ["uoft-cs", "cifar10"],
        folder: "plain_text",
        layouts: &LAYOUTS,
        canonical: Some([
            "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
            "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
        ]),
        is_original: false,
    },
};

const MAIN_NAMES: [&str; 2] = ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"];

/// In order of preference: the known commit, then what a mirror without it may have.
const LAYOUTS: [Layout; 3] = [
    Layout { revision: "0b2714987fa478483af9968de7c934580d0bb9a2", names: MAIN_NAMES },
    Layout { revision: "main", names: MAIN_NAMES },
    Layout { revision: "refs/convert/parquet", names: ["train/0000.parquet", "test/0000.parquet"] },
];

fn candidates(dir: &Path) -> Vec<Found> {
    let mut candidates = Vec::new();
    for base in [dir.join("cifar10"), dir.to_path_buf()] {
        for root in [base.join("plain_text"), base.clone()] {
            candidates.push(Found::converted(root.clone(), SPLITS));
            candidates.push(Found::numbered(root.clone(), SPLITS));
            candidates.push(Found::parquet(root, ["train.parquet", "test.parquet"]));
        }
        for root in [base.join("cifar-10-batches-bin"), base.clone()] {
            candidates.push(found_batches(root, Format::Binary));
        }
        for root in [base.join("cifar-10-batches-py"), base.clone()] {
            candidates.push(found_batches(root, Format::Python));
        }
    }
    candidates
}

fn found_batches(root: PathBuf, format: Format) -> Found {
    let suffix = if format == Format::Binary { ".bin" } else { "" };
    let train = (1..=5).map(|i| format!("data_batch_{i}{suffix}").into()).collect();
    let splits = [train, vec![format!("test_batch{suffix}").into()]];
    Found { root, format, splits, is_original: false }
}

/// Reads a batch, which has no footer: only its length tells that its end is missing.
fn read_batch(file: &Path, format: Format) -> Result<Rows> {
    let rows = match format {
        Format::Python => batches::read_python(file)?,
        Format::Binary | Format::Parquet => batches::read_binary(file)?,
    };
    let n_rows = rows.labels.len();
    if n_rows != BATCH_ROWS {
        let reason = format!("truncated or not a CIFAR-10 batch: {n_rows} of {BATCH_ROWS} rows");
        return Err(Error::data(file, reason));
    }
    Ok(rows)
}

/// Pixels and labels from the content of a binary batch, which messages call `file`; so that below.
///
/// # Errors
/// [`Error::Data`].
pub(super) fn parse_binary(file: &Path, content: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    batches::parse_binary(file, content).map(|rows| (rows.images, rows.labels))
}

/// Pixels and labels from the content of a Python batch.
///
/// # Errors
/// [`Error::Data`].
pub(super) fn parse_python(file: &Path, content: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    batches::parse_python(file, content).map(|rows| (rows.images, rows.labels))
}
