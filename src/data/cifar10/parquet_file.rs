//! CIFAR-10 in the hub's Parquet layout: a column `img` (struct of `bytes`, a PNG or JPEG file, and
//! `path`) and a column `label` (int64).
//!
//! `candle_datasets` reads these files too, but its images come out transposed and a damaged one
//! ends in a panic.

use std::io::Cursor;
use std::path::Path;

use bytes::Bytes;
use image::{ImageDecoder, ImageReader};
use parquet::basic::{Compression, Type as PhysicalType};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use rayon::prelude::*;

use super::{IMAGE_LEN, Rows, SHAPE, class, content, pages, quoted};
use crate::error::{Error, Result};
use crate::panics;

/// Bytes that a file, and the columns of a file when decompressed, may have: three times those of all of CIFAR-10 as
/// bare pixels.
pub(super) const MAX_BYTES: u64 = 512 << 20;
/// Rows that a file may have; both splits have 60,000.
const MAX_ROWS: i64 = 100_000;
/// Bytes that the decoder of one image may allocate.
const MAX_IMAGE_BYTES: u64 = 16 << 20;

/// A file that has been opened.
type Reader = SerializedFileReader<Bytes>;

/// Reads and decodes every row.
///
/// # Errors
/// [`Error::Data`] if the file is damaged, has no rows or lacks a column, or has a row with a bad image or label (the
/// first such row is named); [`Error::Io`].
pub(super) fn read(file: &Path) -> Result<Rows> {
    parse(file, content(file, MAX_BYTES)?)
}

/// As [`read`], from the content of `file`.
///
/// # Errors
/// As [`read`].
pub(super) fn parse(file: &Path, content: Vec<u8>) -> Result<Rows> {
    guarded(file, || parse_unguarded(file, content))
}

fn parse_unguarded(file: &Path, content: Vec<u8>) -> Result<Rows> {
    let content = Bytes::from(content);
    let reader = open(file, &content)?;
    let columns =
        [find_column(file, &reader, "img.bytes", PhysicalType::BYTE_ARRAY)?, label_column(file, &reader)?];
    check_columns(file, &reader, &content, &columns)?;
    let mut rows = Rows { images: Vec::new(), labels: Vec::new() };
    for group_idx in 0..reader.num_row_groups() {
        let first_row = rows.labels.len();
        let group = reader.get_row_group(group_idx).map_err(damaged(file))?;
        let encoded: Vec<ByteArray> = read_column::<ByteArrayType>(file, &*group, columns[0], first_row)?;
        append_labels(file, &*group, columns[1], &mut rows.labels)?;
        rows.images.resize(rows.labels.len() * IMAGE_LEN, 0);
        let first_error = rows.images[first_row * IMAGE_LEN..]
            .par_chunks_mut(IMAGE_LEN)
            .zip(&encoded)
            .enumerate()
            .filter_map(|(i, (pixels, bytes))| Some((i, decode(bytes.data(), pixels).err()?)))
            .min_by_key(|(i, _)| *i);
        if let Some((i, reason)) = first_error {
            return Err(Error::data(file, format!("row {}: {}", first_row + i, quoted(&reason))));
        }
    }
    Ok(rows)
}

/// Reads the labels alone.
///
/// # Errors
/// As [`read`], images aside.
pub(super) fn read_labels(file: &Path) -> Result<Vec<u8>> {
    let content = content(file, MAX_BYTES)?;
    guarded(file, || {
        let content = Bytes::from(content);
        let reader = open(file, &content)?;
        let column = label_column(file, &reader)?;
        check_columns(file, &reader, &content, &[column])?;
        let mut labels = Vec::new();
        for group_idx in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group_idx).map_err(damaged(file))?;
            append_labels(file, &*group, column, &mut labels)?;
        }
        Ok(labels)
    })
}

/// Runs `read`, and turns a panic into an error: the `parquet` crate has assertions that a damaged
/// file can trip.
fn guarded<T>(file: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    panics::caught(read)
        .unwrap_or_else(|| Err(Error::data(file, "damaged Parquet file: its parts contradict each other")))
}

/// Opens a file and checks that it has rows, and not too many.
fn open(file: &Path, content: &Bytes) -> Result<Reader> {
    let reader = Reader::new(content.clone()).map_err(|error| {
        Error::data(file, format!("truncated or not a Parquet file: {}", quoted(&error.to_string())))
    })?;
    let groups = reader.metadata().row_groups();
    let n_rows = groups.iter().try_fold(0i64, |sum, group| sum.checked_add(group.num_rows()));
    match n_rows.filter(|_| groups.iter().all(|group| group.num_rows() >= 0)) {
        Some(0) => Err(Error::data(file, "has no rows; fetch or write it anew")),
        Some(n_rows) if n_rows <= MAX_ROWS => Ok(reader),
        _ => {
            Err(Error::data(file, format!("claims more rows than the {MAX_ROWS} that such a file may have")))
        }
    }
}

/// Checks where the footer says that `columns` are, on which the `parquet` crate would panic, and what their pages
/// will expand to.
fn check_columns(file: &Path, reader: &Reader, content: &[u8], columns: &[usize]) -> Result<()> {
    let mut n_bytes = 0u64;
    for group in reader.metadata().row_groups() {
        for &column in columns {
            let chunk = group.column(column);
            let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
            let range = usize::try_from(start).ok().zip(usize::try_from(chunk.compressed_size()).ok());
            let pages = range.and_then(|(start, n)| content.get(start..start.checked_add(n)?));
            let pages = pages
                .ok_or_else(|| Error::data(file, "damaged Parquet file: a column lies outside of it"))?;
            check_codec(file, chunk.column_path().string(), chunk.compression())?;
            let expanded = pages::content_bytes(pages)
                .map_err(|reason| Error::data(file, format!("damaged Parquet file: {reason}")))?;
            n_bytes = n_bytes.saturating_add(expanded);
        }
    }
    if n_bytes > MAX_BYTES {
        let reason = format!("its pages claim {n_bytes} bytes, more than the {MAX_BYTES} that they may have");
        return Err(Error::data(file, reason));
    }
    Ok(())
}

/// Refuses the codecs that the `parquet` crate expands without a bound.
fn check_codec(file: &Path, column: String, codec: Compression) -> Result<()> {
    match codec {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) | Compression::LZ4_RAW => {
            Ok(())
        }
        other => {
            let reason = format!(
                "column `{column}` is compressed with {other}; write it anew with snappy, zstd or lz4_raw, or without compression"
            );
            Err(Error::data(file, reason))
        }
    }
}

fn damaged(file: &Path) -> impl Fn(ParquetError) -> Error {
    move |error| Error::data(file, format!("damaged Parquet file: {}", quoted(&error.to_string())))
}

fn label_column(file: &Path, reader: &Reader) -> Result<usize> {
    find_column(file, reader, "label", PhysicalType::INT64)
}

/// Position of the leaf column `name`, which must hold flat values of the type `expected`.
fn find_column(file: &Path, reader: &Reader, name: &str, expected: PhysicalType) -> Result<usize> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let Some(idx) = columns.iter().position(|column| column.path().string() == name) else {
        let names: Vec<String> = columns.iter().map(|column| column.path().string()).collect();
        return Err(Error::data(file, format!("no column `{name}`, only {}", quoted(&names.join(", ")))));
    };
    let column = &columns[idx];
    if column.physical_type() != expected || column.max_rep_level() != 0 {
        return Err(Error::data(
            file,
            format!("column `{name}` holds {}, not {expected}", column.physical_type()),
        ));
    }
    Ok(idx)
}

fn append_labels(file: &Path, group: &dyn RowGroupReader, column: usize, labels: &mut Vec<u8>) -> Result<()> {
    let first_row = labels.len();
    let values = read_column::<Int64Type>(file, group, column, first_row)?;
    for (i, label) in values.into_iter().enumerate() {
        labels.push(class(file, first_row + i, label)?);
    }
    Ok(())
}

/// All values of one column of one row group, none of which may be null.
fn read_column<T: DataType>(
    file: &Path,
    group: &dyn RowGroupReader,
    column: usize,
    first_row: usize,
) -> Result<Vec<T::T>> {
    let description = group.metadata().column(column).column_descr_ptr();
    let n_rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let reader = group.get_column_reader(column).map_err(damaged(file))?;
    let mut reader: ColumnReaderImpl<T> = get_typed_column_reader(reader);
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut n_read = 0;
    while n_read < n_rows {
        let (n_records, ..) = reader
            .read_records(n_rows - n_read, Some(&mut levels), None, &mut values)
            .map_err(damaged(file))?;
        if n_records == 0 {
            let reason = format!("truncated: {} of {n_rows} rows of a row group", n_read);
            return Err(Error::data(file, reason));
        }
        n_read += n_records;
    }
    // A column with more values than that is another one than the footer speaks of.
    if reader.read_records(1, Some(&mut Vec::new()), None, &mut Vec::new()).map_err(damaged(file))?.0 != 0 {
        return Err(Error::data(file, format!("damaged: more than the {n_rows} rows of a row group")));
    }
    if values.len() != n_rows {
        let null = levels.iter().position(|&level| level != description.max_def_level()).unwrap_or(0);
        let name = description.path().string();
        return Err(Error::data(file, format!("row {}: `{name}` is null", first_row + null)));
    }
    Ok(values)
}

/// Decodes a PNG or JPEG file into `pixels` (3, 32, 32). A panic of the decoder is an unreadable image as well.
fn decode(bytes: &[u8], pixels: &mut [u8]) -> std::result::Result<(), String> {
    panics::caught(|| decode_unguarded(bytes, pixels))
        .unwrap_or_else(|| Err("unreadable image: its parts contradict each other".into()))
}

/// The decoder's order is (row, column, channel).
fn decode_unguarded(bytes: &[u8], pixels: &mut [u8]) -> std::result::Result<(), String> {
    let unreadable = |error: image::ImageError| format!("unreadable image: {error}");
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_IMAGE_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(unreadable)?;
    let [_, height, width] = SHAPE;
    // Checked before decoding, so that a huge image costs nothing.
    if decoder.dimensions() != (width as u32, height as u32) {
        let (found_width, found_height) = decoder.dimensions();
        return Err(format!("image of {found_width}x{found_height} pixels, not {width}x{height}"));
    }
    let decoded = image::DynamicImage::from_decoder(decoder).map_err(unreadable)?.into_rgb8();
    for (position, rgb) in decoded.as_raw().chunks_exact(3).enumerate() {
        for (channel, &value) in rgb.iter().enumerate() {
            pixels[channel * height * width + position] = value;
        }
    }
    Ok(())
}
