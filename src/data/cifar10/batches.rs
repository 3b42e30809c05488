//! The canonical batches of CIFAR-10, <https://www.cs.toronto.edu/~kriz/cifar.html>.
//!
//! A binary batch is a sequence of rows of 3,073 bytes: the label, then the pixels as (3, 32, 32).
//! A Python batch is a pickled dictionary with the same content. `candle_datasets` reads the binary
//! batches too, but as `f32`, which takes ten times the memory, and without noticing surplus bytes
//! or wrong labels; it serves as the oracle in the tests instead.

use std::path::Path;

use super::{BATCH_ROWS, CLASS_NAMES, IMAGE_LEN, pickle};
use crate::data::stored::{self, Rows, content};
use crate::error::{Error, Result};

/// Bytes of a row of a binary batch.
const ROW_LEN: usize = 1 + IMAGE_LEN;
/// Bytes that a Python batch may have: the pixels, twice where they are stored as text, and file names.
const MAX_PYTHON_BYTES: u64 = 64 << 20;

fn class(file: &Path, row: usize, label: i64) -> Result<u8> {
    stored::class(file, row, label, CLASS_NAMES.len())
}

/// Reads one binary batch.
///
/// # Errors
/// [`Error::Data`] if the file ends inside a row, is empty, or holds a bad label; [`Error::Io`].
pub(super) fn read_binary(file: &Path) -> Result<Rows> {
    parse_binary(file, &content(file, (BATCH_ROWS * ROW_LEN) as u64)?)
}

/// Reads a binary batch from the content of `file`.
///
/// # Errors
/// As [`read_binary`].
pub(super) fn parse_binary(file: &Path, bytes: &[u8]) -> Result<Rows> {
    let n_rows = bytes.len() / ROW_LEN;
    if bytes.is_empty() || !bytes.len().is_multiple_of(ROW_LEN) {
        let reason = format!(
            "truncated or not a CIFAR-10 batch: {} bytes are not a number of rows of {ROW_LEN} (row {n_rows} is incomplete)",
            bytes.len()
        );
        return Err(Error::data(file, reason));
    }
    let mut rows = Rows {
        images: Vec::with_capacity(n_rows * IMAGE_LEN),
        labels: Vec::with_capacity(n_rows),
        is_lossy: false,
    };
    for (row, content) in bytes.chunks_exact(ROW_LEN).enumerate() {
        rows.labels.push(class(file, row, content[0].into())?);
        rows.images.extend_from_slice(&content[1..]);
    }
    Ok(rows)
}

/// Reads one Python batch.
///
/// # Errors
/// [`Error::Data`] if the pickle is damaged, holds something else, or holds a bad label;
/// [`Error::Io`].
pub(super) fn read_python(file: &Path) -> Result<Rows> {
    parse_python(file, &content(file, MAX_PYTHON_BYTES)?)
}

/// Reads a Python batch from the content of `file`.
///
/// # Errors
/// As [`read_python`].
pub(super) fn parse_python(file: &Path, bytes: &[u8]) -> Result<Rows> {
    let batch = pickle::read_batch(bytes)
        .map_err(|reason| Error::data(file, format!("not a readable CIFAR-10 batch: it {reason}")))?;
    if batch.row_len != IMAGE_LEN {
        let reason = format!("images of {} bytes, not {IMAGE_LEN} (3 x 32 x 32)", batch.row_len);
        return Err(Error::data(file, reason));
    }
    let n_images = batch.data.len() / IMAGE_LEN;
    if batch.labels.len() != n_images {
        return Err(Error::data(file, format!("{n_images} images but {} labels", batch.labels.len())));
    }
    let labels = batch.labels.iter().enumerate().map(|(row, &label)| class(file, row, label));
    Ok(Rows { labels: labels.collect::<Result<_>>()?, images: batch.data, is_lossy: false })
}
