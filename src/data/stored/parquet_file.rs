//! Images in the hub's Parquet layout: a column such as `img` (struct of `bytes`, a PNG or JPEG file, and
//! `path`) and a column `label` (int64).
//!
//! `candle_datasets` reads these files too, but its images come out transposed and a damaged one
//! ends in a panic.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use image::imageops::{self, FilterType};
use image::{ImageDecoder, ImageFormat, ImageReader, RgbImage};
use parquet::basic::{Compression, Type as PhysicalType};
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rayon::prelude::*;

use super::{Collection, Rows, content, pages, quoted};
use crate::error::{Error, Result};
use crate::panics;

/// Bytes that a file, and the columns of a file when decompressed, may have: three times those of all of CIFAR-10 as
/// bare pixels.
pub(super) const MAX_BYTES: u64 = 512 << 20;
/// Rows that a file may have; both splits of CIFAR-10 have 60,000.
const MAX_ROWS: i64 = 100_000;
/// Bytes that the decoder of one image may allocate.
const MAX_IMAGE_BYTES: u64 = 16 << 20;
/// Rows or columns of an image that is brought to another size.
const MAX_SIDE: u32 = 2_048;
/// Rows of a group that is written.
const GROUP_ROWS: usize = 1_000;

/// A file that has been opened.
type Reader = SerializedFileReader<Bytes>;

/// Reads and decodes every row. Images must have the collection's size unless they are original ones, which are brought
/// to it.
///
/// # Errors
/// [`Error::Data`] if the file is damaged, has no rows or lacks a column, or has a row with a bad image or label (the
/// first such row is named); [`Error::Io`].
pub(super) fn read(collection: &Collection, file: &Path, is_original: bool) -> Result<Rows> {
    parse(collection, file, content(file, MAX_BYTES)?, is_original)
}

/// As [`read`], from the content of `file`.
///
/// # Errors
/// As [`read`].
pub(super) fn parse(
    collection: &Collection,
    file: &Path,
    content: Vec<u8>,
    is_original: bool,
) -> Result<Rows> {
    guarded(file, || parse_unguarded(collection, file, content, is_original))
}

fn parse_unguarded(
    collection: &Collection,
    file: &Path,
    content: Vec<u8>,
    is_original: bool,
) -> Result<Rows> {
    let content = Bytes::from(content);
    let reader = open(file, &content)?;
    let images = format!("{}.bytes", collection.column);
    let columns =
        [find_column(file, &reader, &images, PhysicalType::BYTE_ARRAY)?, label_column(file, &reader)?];
    let [_, height, width] = collection.source.shape;
    let image_len: usize = collection.source.shape.iter().product();
    check_columns(file, &reader, &content, &columns)?;
    let mut rows = Rows { images: Vec::new(), labels: Vec::new(), is_lossy: false };
    for group_idx in 0..reader.num_row_groups() {
        let first_row = rows.labels.len();
        let group = reader.get_row_group(group_idx).map_err(damaged(file))?;
        let encoded: Vec<ByteArray> = read_column::<ByteArrayType>(file, &*group, columns[0], first_row)?;
        append_labels(collection, file, &*group, columns[1], &mut rows.labels)?;
        rows.images.resize(rows.labels.len() * image_len, 0);
        // Originals may be of any kind; what has been brought to this size already is the source's own only without loss.
        let is_jpeg = |bytes: &ByteArray| {
            image::guess_format(bytes.data()).is_ok_and(|format| format == ImageFormat::Jpeg)
        };
        rows.is_lossy |= !is_original && encoded.iter().any(is_jpeg);
        let first_error = rows.images[first_row * image_len..]
            .par_chunks_mut(image_len)
            .zip(&encoded)
            .enumerate()
            .filter_map(|(i, (pixels, bytes))| {
                Some((i, decode(bytes.data(), [height, width], is_original, pixels).err()?))
            })
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
pub(super) fn read_labels(collection: &Collection, file: &Path) -> Result<Vec<u8>> {
    let content = content(file, MAX_BYTES)?;
    guarded(file, || {
        let content = Bytes::from(content);
        let reader = open(file, &content)?;
        let column = label_column(file, &reader)?;
        check_columns(file, &reader, &content, &[column])?;
        let mut labels = Vec::new();
        for group_idx in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group_idx).map_err(damaged(file))?;
            append_labels(collection, file, &*group, column, &mut labels)?;
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

fn append_labels(
    collection: &Collection,
    file: &Path,
    group: &dyn RowGroupReader,
    column: usize,
    labels: &mut Vec<u8>,
) -> Result<()> {
    let first_row = labels.len();
    let values = read_column::<Int64Type>(file, group, column, first_row)?;
    for (i, label) in values.into_iter().enumerate() {
        labels.push(collection.class(file, first_row + i, label)?);
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

/// Decodes a PNG or JPEG file into `pixels` (3, H, W). A panic of the decoder is an unreadable image as well.
fn decode(
    bytes: &[u8],
    size: [usize; 2],
    is_original: bool,
    pixels: &mut [u8],
) -> std::result::Result<(), String> {
    panics::caught(|| decode_unguarded(bytes, size, is_original, pixels))
        .unwrap_or_else(|| Err("unreadable image: its parts contradict each other".into()))
}

/// The decoder's order is (row, column, channel).
fn decode_unguarded(
    bytes: &[u8],
    [height, width]: [usize; 2],
    is_original: bool,
    pixels: &mut [u8],
) -> std::result::Result<(), String> {
    let unreadable = |error: image::ImageError| format!("unreadable image: {error}");
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_IMAGE_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(unreadable)?;
    // Checked before decoding, so that a huge image costs nothing.
    let (found_width, found_height) = decoder.dimensions();
    let is_small = [found_width, found_height].iter().all(|side| (1..=MAX_SIDE).contains(side));
    if is_original && !is_small {
        return Err(format!("image of {found_width}x{found_height} pixels, not 1 to {MAX_SIDE} a side"));
    }
    if !is_original && (found_width, found_height) != (width as u32, height as u32) {
        return Err(format!("image of {found_width}x{found_height} pixels, not {width}x{height}"));
    }
    let mut decoded = image::DynamicImage::from_decoder(decoder).map_err(unreadable)?.into_rgb8();
    if is_original {
        decoded = fitted(&decoded, height as u32, width as u32);
    }
    for (position, rgb) in decoded.as_raw().chunks_exact(3).enumerate() {
        for (channel, &value) in rgb.iter().enumerate() {
            pixels[channel * height * width + position] = value;
        }
    }
    Ok(())
}

/// The largest part in the middle of an image that has the proportions of `height` to `width`, brought to that size with a
/// triangle filter, which averages where it shrinks.
fn fitted(image: &RgbImage, height: u32, width: u32) -> RgbImage {
    let (full_width, full_height) = image.dimensions();
    let is_wide = u64::from(full_width) * u64::from(height) > u64::from(full_height) * u64::from(width);
    let part = |of: u32, to: u32, from: u32| {
        let part = u64::from(of) * u64::from(to) / u64::from(from);
        u32::try_from(part).unwrap_or(of).max(1)
    };
    let (part_width, part_height) = if is_wide {
        (part(full_height, width, height), full_height)
    } else {
        (full_width, part(full_width, height, width).min(full_height))
    };
    let (x, y) = ((full_width - part_width) / 2, (full_height - part_height) / 2);
    let middle = imageops::crop_imm(image, x, y, part_width, part_height).to_image();
    imageops::resize(&middle, width, height, FilterType::Triangle)
}

/// A file that [`read`] reads, with the images as PNG.
///
/// # Errors
/// [`Error::Data`] if it cannot be made.
pub(super) fn write(collection: &Collection, rows: &Rows, file: &Path) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| Error::data(file, format!("cannot be made: {error}"));
    let schema = format!(
        "message schema {{
            optional group {} {{ optional binary bytes; optional binary path (STRING); }}
            optional int64 label;
        }}",
        collection.column
    );
    let schema = Arc::new(parse_message_type(&schema).map_err(|error| failed(&error))?);
    // PNG is compressed already.
    let properties = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED);
    let properties = Arc::new(properties.set_dictionary_enabled(false).build());
    let [_, height, width] = collection.source.shape;
    let image_len: usize = collection.source.shape.iter().product();
    let encoded = rows.images.par_chunks(image_len).map(|pixels| encode(pixels, height, width));
    let encoded: Vec<ByteArray> =
        encoded.collect::<std::result::Result<_, _>>().map_err(|error| failed(&error))?;
    let groups = || -> std::result::Result<Vec<u8>, ParquetError> {
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties)?;
        for (idx, (images, labels)) in
            encoded.chunks(GROUP_ROWS).zip(rows.labels.chunks(GROUP_ROWS)).enumerate()
        {
            let n = labels.len();
            let paths = (0..n).map(|row| format!("{}.png", idx * GROUP_ROWS + row).as_str().into());
            let paths: Vec<ByteArray> = paths.collect();
            let labels: Vec<i64> = labels.iter().map(|&label| label.into()).collect();
            let mut group = writer.next_row_group()?;
            for values in [images, &paths] {
                let mut column = group.next_column()?.ok_or_else(no_column)?;
                column.typed::<ByteArrayType>().write_batch(values, Some(&vec![2; n]), None)?;
                column.close()?;
            }
            let mut column = group.next_column()?.ok_or_else(no_column)?;
            column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; n]), None)?;
            column.close()?;
            group.close()?;
        }
        writer.into_inner()
    };
    groups().map_err(|error| failed(&error))
}

fn no_column() -> ParquetError {
    ParquetError::General("the schema has too few columns".to_owned())
}

/// Pixels (3, H, W) as a PNG file.
fn encode(pixels: &[u8], height: usize, width: usize) -> std::result::Result<ByteArray, image::ImageError> {
    let at = |channel: usize, x: u32, y: u32| pixels[(channel * height + y as usize) * width + x as usize];
    let rgb = |x, y| image::Rgb([at(0, x, y), at(1, x, y), at(2, x, y)]);
    let image = RgbImage::from_fn(width as u32, height as u32, rgb);
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner().into())
}
