//! CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 32x32 pixels in ten classes.
//!
//! Three layouts are read: the hub's Parquet files, the canonical binary batches and the canonical
//! Python batches. [`locate`] finds one of them in a folder, [`read`] turns it into images.

mod batches;
mod checksum;
mod find;
mod hub;
mod inspect;
mod pages;
mod parquet_file;
mod pickle;
mod transfer;

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Dataset, Normalization, Source, Splits};
use crate::error::{Error, Result};
use crate::files;

pub use hub::Hub;
pub use inspect::{FileInfo, Info, SplitInfo};
pub use transfer::Limits;

pub use find::{fetch, info, verify};
use hub::{alternatives, cached, download, install};

/// Names of the classes, in the order of their labels.
pub const CLASS_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Channels, height, width.
const SHAPE: [usize; 3] = [3, 32, 32];
/// Rows of every canonical batch file.
const BATCH_ROWS: usize = 10_000;
/// Bytes of one image.
const IMAGE_LEN: usize = 3 * 32 * 32;
/// Parts that a split may be stored in; the hub has one.
const MAX_PARTS: usize = 64;
/// Rows of the complete training and test sets.
const N_ROWS: [usize; 2] = [50_000, 10_000];

/// CIFAR-10 as a source of images.
pub(super) static SOURCE: Source = Source {
    name: "cifar10",
    shape: SHAPE,
    n_classes: CLASS_NAMES.len(),
    normalization: NORMALIZATION,
    n_train: N_ROWS[0],
    n_test: N_ROWS[1],
    is_made: false,
    load: |_, location, report| find::load(location, report),
};

/// The usual constants of the training images.
const NORMALIZATION: Normalization =
    Normalization::constant(&[0.4914, 0.4822, 0.4465], &[0.2471, 0.2435, 0.2616]);

/// How the files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `plain_text/{train,test}/0000.parquet` or `plain_text/{train,test}-00000-of-00001.parquet`.
    Parquet,
    /// `cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin`.
    Binary,
    /// `cifar-10-batches-py/{data_batch_1..5,test_batch}`.
    Python,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parquet => "Parquet",
            Self::Binary => "binary batches",
            Self::Python => "Python batches",
        })
    }
}

/// A complete set of files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// The folder that the file names below are relative to; it may hold a `SHA256SUMS`.
    pub(super) root: PathBuf,
    pub(super) format: Format,
    /// Files of the training and of the test split, relative to `root`.
    pub(super) splits: [Vec<PathBuf>; 2],
}

impl Found {
    fn parquet(root: PathBuf, names: [impl Into<PathBuf>; 2]) -> Self {
        Self { root, format: Format::Parquet, splits: names.map(|name| vec![name.into()]) }
    }

    /// All parts of the converted splits that are there, `train/0000.parquet` on.
    fn converted(root: PathBuf) -> Self {
        let splits = ["train", "test"].map(|split| {
            let name = |part: usize| PathBuf::from(format!("{split}/{part:04}.parquet"));
            let others = (1..MAX_PARTS).map(name).take_while(|name| root.join(name).exists());
            [name(0)].into_iter().chain(others).collect()
        });
        Self { root, format: Format::Parquet, splits }
    }

    /// `train-00000-of-00001.parquet` and so on, with as many parts as the names that are there say.
    fn numbered(root: PathBuf) -> Self {
        let entries = std::fs::read_dir(&root).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let splits = ["train", "test"].map(|split| {
            let n_parts = names.iter().filter_map(|name| n_parts(name, split)).min().unwrap_or(1);
            (0..n_parts).map(|part| format!("{split}-{part:05}-of-{n_parts:05}.parquet").into()).collect()
        });
        Self { root, format: Format::Parquet, splits }
    }

    fn batches(root: PathBuf, format: Format) -> Self {
        let suffix = if format == Format::Binary { ".bin" } else { "" };
        let train = (1..=5).map(|i| format!("data_batch_{i}{suffix}").into()).collect();
        Self { root, format, splits: [train, vec![format!("test_batch{suffix}").into()]] }
    }

    /// Split 0 (train) or 1 (test) alone.
    fn only(mut self, split: usize) -> Self {
        self.splits[1 - split].clear();
        self
    }

    /// All files, training split first.
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.splits.iter().flatten().map(|name| self.root.join(name))
    }

    /// The files of split 0 (train) or 1 (test).
    fn split_files(&self, split: usize) -> Vec<PathBuf> {
        self.splits[split].iter().map(|name| self.root.join(name)).collect()
    }
}

/// Of how many parts of `split` the file `name` says that it is one.
fn n_parts(name: &str, split: &str) -> Option<usize> {
    let numbers = name.strip_prefix(split)?.strip_prefix('-')?.strip_suffix(".parquet")?;
    let (part, n_parts) = numbers.split_once("-of-")?;
    let (part, n_parts) = (part.parse::<usize>().ok()?, n_parts.parse::<usize>().ok()?);
    (part < n_parts && n_parts <= MAX_PARTS).then_some(n_parts)
}

/// CIFAR-10 in `dir`, if it is there: in `dir` itself or in one of the usual folders below it.
///
/// # Errors
/// [`Error::Data`] if some of the files of a layout are there, but not all.
fn locate(dir: &Path) -> Result<Option<Found>> {
    let mut candidates = Vec::new();
    for base in [dir.join("cifar10"), dir.to_path_buf()] {
        for root in [base.join("plain_text"), base.clone()] {
            candidates.push(Found::converted(root.clone()));
            candidates.push(Found::numbered(root.clone()));
            candidates.push(Found::parquet(root, ["train.parquet", "test.parquet"]));
        }
        for root in [base.join("cifar-10-batches-bin"), base.clone()] {
            candidates.push(Found::batches(root, Format::Binary));
        }
        for root in [base.join("cifar-10-batches-py"), base.clone()] {
            candidates.push(Found::batches(root, Format::Python));
        }
    }
    if let Some(complete) = candidates.iter().find(|found| found.files().all(|file| file.exists())) {
        return Ok(Some(complete.clone()));
    }
    let Some(partial) = candidates.iter().find(|found| found.files().any(|file| file.exists())) else {
        return Ok(None);
    };
    let missing: Vec<PathBuf> = partial.files().filter(|file| !file.exists()).collect();
    let others = if missing.len() > 1 { format!(" (and {} more)", missing.len() - 1) } else { String::new() };
    let reason = format!("missing{others}, though other CIFAR-10 files ({}) are there", partial.format);
    Err(Error::data(&missing[0], reason))
}

/// Reads and decodes all images.
///
/// # Errors
/// [`Error::Data`] if a file differs from its recorded checksum, is truncated, or holds a bad image
/// or label; [`Error::Io`] if it cannot be read.
fn read(found: &Found) -> Result<Splits> {
    checksum::verify_recorded(found)?;
    Ok(Splits { train: read_split(found, 0)?, test: read_split(found, 1)? })
}

/// Reads and decodes split 0 (train) or 1 (test).
fn read_split(found: &Found, split: usize) -> Result<Dataset> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for file in found.split_files(split) {
        let rows = match found.format {
            Format::Parquet => parquet_file::read(&file)?,
            Format::Binary => batches::read_binary(&file)?,
            Format::Python => batches::read_python(&file)?,
        };
        // A batch has no footer, so only its length tells that its end is missing.
        if found.format != Format::Parquet && rows.labels.len() != BATCH_ROWS {
            let n_rows = rows.labels.len();
            return Err(Error::data(
                file,
                format!("truncated or not a CIFAR-10 batch: {n_rows} of {BATCH_ROWS} rows"),
            ));
        }
        images.extend(rows.images);
        labels.extend(rows.labels);
    }
    let name = ["cifar10 train", "cifar10 test"][split];
    Dataset::new(name, SHAPE, CLASS_NAMES.len(), NORMALIZATION, images, labels)
}

/// Labels of split 0 (train) or 1 (test), without decoding images.
fn read_labels(found: &Found, split: usize) -> Result<Vec<u8>> {
    let mut labels = Vec::new();
    for file in found.split_files(split) {
        labels.extend(match found.format {
            Format::Parquet => parquet_file::read_labels(&file)?,
            Format::Binary => batches::read_binary(&file)?.labels,
            Format::Python => batches::read_python(&file)?.labels,
        });
    }
    Ok(labels)
}

/// Pixels and labels from the content of a binary batch, which messages call `file`; so those below.
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

/// Pixels and labels from the content of a Parquet file.
///
/// # Errors
/// [`Error::Data`].
pub(super) fn parse_parquet(file: &Path, content: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    parquet_file::parse(file, content.to_vec()).map(|rows| (rows.images, rows.labels))
}

/// Images and labels of one file.
struct Rows {
    /// (N, 3, 32, 32), row-major.
    images: Vec<u8>,
    /// (N).
    labels: Vec<u8>,
}

/// The content of a regular file of at most `max_bytes`.
///
/// # Errors
/// [`Error::Data`] if it is larger or no regular file; [`Error::Io`].
fn content(file: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    files::read_bounded(file, max_bytes).map_err(as_data)
}

/// An error of a file as one of the data in it.
fn as_data(error: Error) -> Error {
    match error {
        Error::File { path, reason } => Error::Data { path, reason },
        other => other,
    }
}

/// What a file or a server says, for a message: one line of at most 200 characters.
fn quoted(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().take(MAX_CHARS).map(plain).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        line.push('…');
    }
    line
}

/// `label` as a class, if it is one.
fn class(file: &Path, row: usize, label: i64) -> Result<u8> {
    let class = u8::try_from(label).ok().filter(|&class| usize::from(class) < CLASS_NAMES.len());
    class.ok_or_else(|| Error::data(file, format!("row {row}: label {label} is not one of 0 to 9")))
}
