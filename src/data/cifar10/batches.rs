//! The canonical batches of CIFAR-10, <https://www.cs.toronto.edu/~kriz/cifar.html>.
//!
//! A binary batch is a sequence of rows of 3,073 bytes: the label, then the pixels as (3, 32, 32).
//! A Python batch is a pickled dictionary with the same content. `candle_datasets` reads the binary
//! batches too, but as `f32`, which takes ten times the memory, and without noticing surplus bytes
//! or wrong labels; it serves as the oracle in the tests instead.

use std::path::Path;

use super::{IMAGE_LEN, Rows, class, pickle};
use crate::error::{Error, Result};

/// Reads one binary batch.
///
/// # Errors
/// [`Error::Data`] if the file ends inside a row, is empty, or holds a bad label; [`Error::Io`].
pub(super) fn read_binary(file: &Path) -> Result<Rows> {
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    let row_len = 1 + IMAGE_LEN;
    let n_rows = bytes.len() / row_len;
    if bytes.is_empty() || !bytes.len().is_multiple_of(row_len) {
        let reason = format!(
            "truncated or not a CIFAR-10 batch: {} bytes are not a number of rows of {row_len} (row {n_rows} is incomplete)",
            bytes.len()
        );
        return Err(Error::data(file, reason));
    }
    let mut rows =
        Rows { images: Vec::with_capacity(n_rows * IMAGE_LEN), labels: Vec::with_capacity(n_rows) };
    for (row, content) in bytes.chunks_exact(row_len).enumerate() {
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
    let bytes = std::fs::read(file).map_err(Error::io("read", file))?;
    let batch = pickle::read_batch(&bytes)
        .map_err(|reason| Error::data(file, format!("not a readable CIFAR-10 batch: it {reason}")))?;
    if batch.row_len != IMAGE_LEN {
        let reason = format!("images of {} bytes, not {IMAGE_LEN} (3 x 32 x 32)", batch.row_len);
        return Err(Error::data(file, reason));
    }
    if batch.labels.len() * IMAGE_LEN != batch.data.len() {
        let n_images = batch.data.len() / IMAGE_LEN;
        return Err(Error::data(file, format!("{n_images} images but {} labels", batch.labels.len())));
    }
    let labels = batch.labels.iter().enumerate().map(|(row, &label)| class(file, row, label));
    Ok(Rows { labels: labels.collect::<Result<_>>()?, images: batch.data })
}
