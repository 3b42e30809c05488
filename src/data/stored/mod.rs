//! Images in files: collections that are found in folders, or fetched from a hub.
//!
//! A [`Collection`] says what its files are called and what they hold. [`Collection::locate`] finds them in a folder,
//! [`Collection::read`] turns them into images. All collections have Parquet files as the hub converts data sets to; a
//! collection may have other files of its own.

mod checksum;
mod find;
mod hub;
mod inspect;
mod pages;
mod parquet_file;
mod transfer;

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Dataset, Source, Splits};
use crate::error::{Error, Result};
use crate::files;

pub(super) use find::load;
pub use find::{fetch, info, verify};
pub use hub::Hub;
pub(super) use hub::{HubCopy, Layout};
pub use inspect::{FileInfo, Info, SplitInfo};
pub use transfer::Limits;

/// Parts that a split may be stored in; the hub has one.
const MAX_PARTS: usize = 64;

/// A set of images in files.
#[derive(Debug)]
pub struct Collection {
    /// What messages call it.
    pub title: &'static str,
    /// As a source: name, size of the images, numbers of images and classes.
    pub source: &'static Source,
    /// Names of the classes, in the order of their labels.
    pub class_names: &'static [&'static str],
    /// What the training and the test split are called in names of files.
    pub(super) splits: [&'static str; 2],
    /// The column of images in Parquet files, a struct of `bytes` and `path`.
    pub(super) column: &'static str,
    /// Where its files may be in a folder, in order of preference.
    pub(super) candidates: fn(&Path) -> Vec<Found>,
    /// Reads a file that is no Parquet.
    pub(super) read_other: fn(&Path, Format) -> Result<Rows>,
    /// Where its Parquet files are put in a folder.
    pub(super) home: &'static str,
    /// Its copy on the hub.
    pub(super) hub: HubCopy,
}

/// How the files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Parquet, such as `plain_text/{train,test}/0000.parquet` or `plain_text/{train,test}-00000-of-00001.parquet`.
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
pub(super) struct Found {
    /// The folder that the file names below are relative to; it may hold a `SHA256SUMS`.
    pub(super) root: PathBuf,
    pub(super) format: Format,
    /// Files of the training and of the test split, relative to `root`.
    pub(super) splits: [Vec<PathBuf>; 2],
    /// Whether images have other sizes than the collection's, and are brought to that when they are read.
    pub(super) is_original: bool,
}

impl Found {
    pub(super) fn parquet(root: PathBuf, names: [impl Into<PathBuf>; 2]) -> Self {
        let splits = names.map(|name| vec![name.into()]);
        Self { root, format: Format::Parquet, splits, is_original: false }
    }

    /// All parts of the converted splits that are there, `train/0000.parquet` on.
    pub(super) fn converted(root: PathBuf, splits: [&str; 2]) -> Self {
        let splits = splits.map(|split| {
            let name = |part: usize| PathBuf::from(format!("{split}/{part:04}.parquet"));
            let others = (1..MAX_PARTS).map(name).take_while(|name| root.join(name).exists());
            [name(0)].into_iter().chain(others).collect()
        });
        Self { root, format: Format::Parquet, splits, is_original: false }
    }

    /// `train-00000-of-00001.parquet` and so on, with as many parts as the names that are there say.
    pub(super) fn numbered(root: PathBuf, splits: [&str; 2]) -> Self {
        let entries = std::fs::read_dir(&root).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let splits = splits.map(|split| {
            let n_parts = names.iter().filter_map(|name| n_parts(name, split)).min().unwrap_or(1);
            (0..n_parts).map(|part| format!("{split}-{part:05}-of-{n_parts:05}.parquet").into()).collect()
        });
        Self { root, format: Format::Parquet, splits, is_original: false }
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

impl Collection {
    /// Rows of the complete training and test sets.
    fn n_rows(&self) -> [usize; 2] {
        [self.source.n_train, self.source.n_test]
    }

    /// The collection in `dir`, if it is there: in `dir` itself or in one of the usual folders below it.
    ///
    /// # Errors
    /// [`Error::Data`] if some of the files of a layout are there, but not all.
    fn locate(&self, dir: &Path) -> Result<Option<Found>> {
        let candidates = (self.candidates)(dir);
        if let Some(complete) = candidates.iter().find(|found| found.files().all(|file| file.exists())) {
            return Ok(Some(complete.clone()));
        }
        let Some(partial) = candidates.iter().find(|found| found.files().any(|file| file.exists())) else {
            return Ok(None);
        };
        let missing: Vec<PathBuf> = partial.files().filter(|file| !file.exists()).collect();
        let others =
            if missing.len() > 1 { format!(" (and {} more)", missing.len() - 1) } else { String::new() };
        let advice = match self.is_begun(dir) {
            true => format!(
                "; `deepzero data fetch {} --data-dir {}` completes them",
                self.source.name,
                dir.display()
            ),
            false => String::new(),
        };
        let (title, format) = (self.title, &partial.format);
        let reason = format!("missing{others}, though other {title} files ({format}) are there{advice}");
        Err(Error::data(&missing[0], reason))
    }

    /// Where [`fetch`] puts the files of train and test below `dir`.
    fn home(&self, dir: &Path) -> Found {
        let names = self.splits.map(|split| format!("{split}/0000.parquet"));
        Found::parquet(dir.join(self.home), names)
    }

    /// Whether some of the files are where [`fetch`] puts them, but not all.
    fn is_begun(&self, dir: &Path) -> bool {
        let home = self.home(dir);
        home.files().any(|file| file.exists()) && !home.files().all(|file| file.exists())
    }

    /// Reads and decodes all images.
    ///
    /// # Errors
    /// [`Error::Data`] if a file differs from its recorded checksum, is truncated, or holds a bad image
    /// or label; [`Error::Io`] if it cannot be read.
    fn read(&self, found: &Found) -> Result<Splits> {
        checksum::verify_recorded(found)?;
        Ok(Splits { train: self.read_split(found, 0)?, test: self.read_split(found, 1)? })
    }

    /// Reads and decodes split 0 (train) or 1 (test).
    fn read_split(&self, found: &Found, split: usize) -> Result<Dataset> {
        let (mut images, mut labels, mut is_lossy) = (Vec::new(), Vec::new(), false);
        for file in found.split_files(split) {
            let rows = match found.format {
                Format::Parquet => parquet_file::read(self, &file, found.is_original)?,
                other => (self.read_other)(&file, other)?,
            };
            images.extend(rows.images);
            labels.extend(rows.labels);
            is_lossy |= rows.is_lossy;
        }
        let Source { name, shape, n_classes, ref normalization, .. } = *self.source;
        let name = format!("{name} {}", ["train", "test"][split]);
        let data = Dataset::new(name, shape, n_classes, normalization.clone(), images, labels)?;
        Ok(Dataset { is_lossy, ..data })
    }

    /// Labels of split 0 (train) or 1 (test), without decoding images.
    fn read_labels(&self, found: &Found, split: usize) -> Result<Vec<u8>> {
        let mut labels = Vec::new();
        for file in found.split_files(split) {
            labels.extend(match found.format {
                Format::Parquet => parquet_file::read_labels(self, &file)?,
                other => (self.read_other)(&file, other)?.labels,
            });
        }
        Ok(labels)
    }

    /// Pixels and labels from the content of a Parquet file, which messages call `file`.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub(super) fn parse_parquet(
        &self,
        file: &Path,
        content: &[u8],
        is_original: bool,
    ) -> Result<(Vec<u8>, Vec<u8>)> {
        parquet_file::parse(self, file, content.to_vec(), is_original).map(|rows| (rows.images, rows.labels))
    }

    /// `label` as a class, if it is one.
    fn class(&self, file: &Path, row: usize, label: i64) -> Result<u8> {
        class(file, row, label, self.source.n_classes)
    }
}

/// Images and labels of one file.
pub(super) struct Rows {
    /// (N, C, H, W), row-major.
    pub(super) images: Vec<u8>,
    /// (N).
    pub(super) labels: Vec<u8>,
    /// See [`Dataset::is_lossy`].
    pub(super) is_lossy: bool,
}

/// The content of a regular file of at most `max_bytes`.
///
/// # Errors
/// [`Error::Data`] if it is larger or no regular file; [`Error::Io`].
pub(super) fn content(file: &Path, max_bytes: u64) -> Result<Vec<u8>> {
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

/// `label` as one of `n_classes` classes, if it is one.
pub(super) fn class(file: &Path, row: usize, label: i64, n_classes: usize) -> Result<u8> {
    let class = u8::try_from(label).ok().filter(|&class| usize::from(class) < n_classes);
    class.ok_or_else(|| {
        Error::data(file, format!("row {row}: label {label} is not one of 0 to {}", n_classes - 1))
    })
}
