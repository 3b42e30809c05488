//! What a fuzzer calls: the readers of data files, on bytes.

use std::path::Path;

use super::{cifar10, imagenette};
use crate::error::Result;

/// Pixels and labels of a Python batch.
///
/// # Errors
/// Those of a damaged file.
pub fn pickle(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    cifar10::parse_python(Path::new("batch"), bytes)
}

/// Pixels and labels of rows of a binary batch.
///
/// # Errors
/// Those of a damaged file.
pub fn binary_batch(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    cifar10::parse_binary(Path::new("batch"), bytes)
}

/// Pixels and labels of a Parquet file of CIFAR-10.
///
/// # Errors
/// Those of a damaged file.
pub fn cifar_parquet(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    cifar10::COLLECTION.parse_parquet(Path::new("parquet"), bytes, false)
}

/// Pixels and labels of a Parquet file of Imagenette with images of any size.
///
/// # Errors
/// Those of a damaged file.
pub fn imagenette_parquet(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    imagenette::COLLECTION.parse_parquet(Path::new("parquet"), bytes, true)
}
