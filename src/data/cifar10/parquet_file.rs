//! CIFAR-10 in the hub's Parquet layout: a column `img` (struct of `bytes`, a PNG or JPEG file, and
//! `path`) and a column `label` (int64).
//!
//! `candle_datasets` reads these files too, but its images come out transposed and a damaged one
//! ends in a panic.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use image::{ImageDecoder, ImageReader};
use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use rayon::prelude::*;

use super::{IMAGE_LEN, Rows, SHAPE, class};
use crate::error::{Error, Result};

/// Reads and decodes every row.
///
/// # Errors
/// [`Error::Data`] if the file is damaged, lacks a column, or has a row with a bad image or label
/// (the first such row is named); [`Error::Io`].
pub(super) fn read(file: &Path) -> Result<Rows> {
    guarded(file, read_unguarded)
}

fn read_unguarded(file: &Path) -> Result<Rows> {
    let reader = open(file)?;
    let columns =
        [find_column(file, &reader, "img.bytes", PhysicalType::BYTE_ARRAY)?, label_column(file, &reader)?];
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
            return Err(Error::data(file, format!("row {}: {}", first_row + i, reason.replace('\n', " "))));
        }
    }
    Ok(rows)
}

/// Reads the labels alone.
///
/// # Errors
/// As [`read`], images aside.
pub(super) fn read_labels(file: &Path) -> Result<Vec<u8>> {
    guarded(file, read_labels_unguarded)
}

fn read_labels_unguarded(file: &Path) -> Result<Vec<u8>> {
    let reader = open(file)?;
    let column = label_column(file, &reader)?;
    let mut labels = Vec::new();
    for group_idx in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group_idx).map_err(damaged(file))?;
        append_labels(file, &*group, column, &mut labels)?;
    }
    Ok(labels)
}

/// Runs `read`, and turns a panic into an error: the `parquet` crate has assertions that a damaged
/// file can trip.
fn guarded<T>(file: &Path, read: fn(&Path) -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(|| read(file))
        .unwrap_or_else(|_| Err(Error::data(file, "damaged Parquet file: its parts contradict each other")))
}

/// Opens a file and checks the places its footer gives for the columns, on which the `parquet`
/// crate would panic.
fn open(file: &Path) -> Result<SerializedFileReader<File>> {
    let handle = File::open(file).map_err(Error::io("open", file))?;
    let reader = SerializedFileReader::new(handle).map_err(|error| {
        Error::data(file, format!("truncated or not a Parquet file: {}", one_line(&error)))
    })?;
    let chunks = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
    for chunk in chunks {
        let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
        if start < 0 || chunk.compressed_size() < 0 {
            return Err(Error::data(file, "damaged Parquet file: a column lies before its start"));
        }
    }
    Ok(reader)
}

fn damaged(file: &Path) -> impl Fn(ParquetError) -> Error {
    move |error| Error::data(file, format!("damaged Parquet file: {}", one_line(&error)))
}

fn one_line(error: &ParquetError) -> String {
    error.to_string().lines().collect::<Vec<_>>().join(" ")
}

fn label_column(file: &Path, reader: &SerializedFileReader<File>) -> Result<usize> {
    find_column(file, reader, "label", PhysicalType::INT64)
}

/// Position of the leaf column `name`, which must hold flat values of the type `expected`.
fn find_column(
    file: &Path,
    reader: &SerializedFileReader<File>,
    name: &str,
    expected: PhysicalType,
) -> Result<usize> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let Some(idx) = columns.iter().position(|column| column.path().string() == name) else {
        let names: Vec<String> = columns.iter().map(|column| column.path().string()).collect();
        return Err(Error::data(file, format!("no column `{name}`, only {}", names.join(", "))));
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
    if values.len() != n_rows {
        let null = levels.iter().position(|&level| level != description.max_def_level()).unwrap_or(0);
        let name = description.path().string();
        return Err(Error::data(file, format!("row {}: `{name}` is null", first_row + null)));
    }
    Ok(values)
}

/// Decodes a PNG or JPEG file into `pixels` (3, 32, 32). The decoder's order is (row, column,
/// channel).
fn decode(bytes: &[u8], pixels: &mut [u8]) -> std::result::Result<(), String> {
    let unreadable = |error: image::ImageError| format!("unreadable image: {error}");
    let reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
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
