//! The checksums of a result file: of its content, and of its bytes. `results/README.md` documents what they are over.
//!
//! The content's says that what the program reads is what was written, by whatever tool. That of the bytes is looked at
//! first, since a Parquet reader can be led astray by damage before there is any content, up to the end of the program.

use std::ops::Range;

use polars::prelude::*;
use sha2::{Digest, Sha256};

use super::table::Reason;
use crate::hex::hex;

/// The key of the content's checksum among a file's key-value metadata.
pub(super) const KEY: &str = "deepzero.sha256";

/// The key of the checksum of the file's bytes.
pub(super) const FILE_KEY: &str = "deepzero.file-sha256";

/// Stands for the checksum of the bytes while it is computed.
pub(super) const UNKNOWN: [u8; 64] = [b'0'; 64];

/// How a value of 64 bytes begins in a file's metadata.
const VALUE: [u8; 2] = [0x18, 64];

/// Gives a file that says [`UNKNOWN`] the checksum of its bytes.
///
/// # Errors
/// If it does not say so.
pub(super) fn seal(bytes: &mut [u8]) -> Result<(), Reason> {
    let place = place(bytes).ok_or("has no place for a checksum")?;
    let checksum = hex(&Sha256::digest(&*bytes));
    bytes[place].copy_from_slice(checksum.as_bytes());
    Ok(())
}

/// Whether a file has the checksum of its bytes that it says; `None` if it says none.
pub(super) fn is_sealed(bytes: &[u8]) -> Option<bool> {
    let place = place(bytes)?;
    let mut hasher = Sha256::new();
    hasher.update(&bytes[..place.start]);
    hasher.update(UNKNOWN);
    hasher.update(&bytes[place.end..]);
    Some(hex(&hasher.finalize()).as_bytes() == &bytes[place])
}

/// Where the checksum of the bytes stands: behind the last [`FILE_KEY`].
fn place(bytes: &[u8]) -> Option<Range<usize>> {
    let key = FILE_KEY.as_bytes();
    let start = bytes.windows(key.len()).rposition(|window| window == key)? + key.len() + VALUE.len();
    let place = start..start + UNKNOWN.len();
    (bytes.get(start - VALUE.len()..start)? == VALUE && place.end <= bytes.len()).then_some(place)
}

/// SHA-256 of names, types, nulls and values of a table, in hexadecimal.
///
/// # Errors
/// If a column has a type that no result has.
pub(super) fn digest(frame: &DataFrame) -> Result<String, Reason> {
    let mut hasher = Sha256::new();
    hasher.update(length(frame.width()));
    hasher.update(length(frame.height()));
    for column in frame.columns() {
        text(&mut hasher, column.name());
        values(&mut hasher, column)?;
    }
    Ok(hex(&hasher.finalize()))
}

fn length(n: usize) -> [u8; 8] {
    (n as u64).to_le_bytes()
}

fn text(hasher: &mut Sha256, text: &str) {
    hasher.update(length(text.len()));
    hasher.update(text);
}

/// The name of the column's type and all of its values.
fn values(hasher: &mut Sha256, column: &Column) -> Result<(), Reason> {
    let series = column.as_materialized_series();
    let wrong = |error: PolarsError| format!("{}: {error}", column.name());
    macro_rules! fixed {
        ($name:literal, $values:ident, $bytes:expr) => {{
            text(hasher, $name);
            for value in series.$values().map_err(wrong)?.iter() {
                optional(hasher, value.map($bytes));
            }
        }};
    }
    match series.dtype() {
        DataType::Boolean => fixed!("bool", bool, |value| [u8::from(value)]),
        DataType::UInt32 => fixed!("u32", u32, u32::to_le_bytes),
        DataType::UInt64 => fixed!("u64", u64, u64::to_le_bytes),
        DataType::Int64 => fixed!("i64", i64, i64::to_le_bytes),
        DataType::Float64 => fixed!("f64", f64, float_bytes),
        DataType::String => {
            text(hasher, "str");
            for value in series.str().map_err(wrong)?.iter() {
                optional(hasher, value.map(|value| length(value.len())));
                hasher.update(value.unwrap_or_default());
            }
        }
        other => return Err(format!("{} has the type {other}, which no result has", column.name())),
    }
    Ok(())
}

/// The bits of a number; all NaN have the same.
fn float_bytes(value: f64) -> [u8; 8] {
    if value.is_nan() { f64::NAN } else { value }.to_bits().to_le_bytes()
}

/// Whether there is a value, and its bytes.
fn optional<const N: usize>(hasher: &mut Sha256, bytes: Option<[u8; N]>) {
    hasher.update([u8::from(bytes.is_some())]);
    if let Some(bytes) = bytes {
        hasher.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(numbers: [Option<f64>; 2], texts: [Option<&str>; 2]) -> DataFrame {
        DataFrame::new(2, vec![Column::new("n".into(), numbers), Column::new("t".into(), texts)]).unwrap()
    }

    /// Oracle: the bytes written out by hand, and SHA-256.
    #[test]
    fn the_checksum_is_over_the_documented_bytes() {
        let mut bytes = Vec::new();
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(b"n");
        bytes.extend(3u64.to_le_bytes());
        bytes.extend(b"f64\x01");
        bytes.extend([0, 0, 0, 0, 0, 0, 0xe0, 0x3f, 0]);
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(b"t");
        bytes.extend(3u64.to_le_bytes());
        bytes.extend(b"str\x01");
        bytes.extend(2u64.to_le_bytes());
        bytes.extend("µ".bytes());
        bytes.push(0);
        let expected = hex(&Sha256::digest(&bytes));
        assert_eq!(digest(&table([Some(0.5), None], [Some("µ"), None])).unwrap(), expected);
    }

    #[test]
    fn every_change_of_content_changes_the_checksum() {
        let of = |numbers, texts| digest(&table(numbers, texts)).unwrap();
        let mut all = vec![
            of([Some(0.5), None], [Some("ab"), Some("c")]),
            of([None, Some(0.5)], [Some("ab"), Some("c")]),
            of([Some(0.5), Some(0.0)], [Some("ab"), Some("c")]),
            of([Some(0.5), Some(-0.0)], [Some("ab"), Some("c")]),
            of([Some(0.5), Some(f64::NAN)], [Some("ab"), Some("c")]),
            of([Some(0.5), None], [Some("a"), Some("bc")]),
            of([Some(0.5), None], [Some("abc"), None]),
            of([Some(0.5), None], [Some("abc"), Some("")]),
            digest(&table([Some(0.5), None], [Some("ab"), Some("c")]).select(["t", "n"]).unwrap()).unwrap(),
        ];
        let n = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), n);
    }
}
