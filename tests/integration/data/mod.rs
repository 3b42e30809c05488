//! The data module from outside: files of every layout, damaged files, a hub on this machine, and
//! the real CIFAR-10 where it is present.

mod files;
mod hub;
mod imagenette;
mod mutants;
mod real;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use deepzero::data::{Collection, Hub, Location, Progress, Splits};
use image::{ImageFormat, RgbImage};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// A 32x32 image that looks different under every flip, rotation and transposition: a dim ramp
/// along the columns, and pixel (row 0, column 1) pure green.
fn asymmetric(index: usize) -> RgbImage {
    RgbImage::from_fn(32, 32, |x, y| match (x, y) {
        (1, 0) => image::Rgb([0, 255, 0]),
        _ => image::Rgb([(3 * x) as u8, (2 * y) as u8, index as u8]),
    })
}

/// An image of another size that looks different under every flip and rotation: ramps along columns and rows.
fn sized(index: usize, width: u32, height: u32) -> RgbImage {
    let part = |at: u32, of: u32, range: u32| (range * (2 * at + 1) / (2 * of)) as u8;
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([part(x, width, 250), part(y, height, 120), index as u8])
    })
}

/// Files of Imagenette with so many training and test images of 64x64 pixels, classes in turn.
pub(crate) fn imagenette_files(n_train: usize, n_test: usize) -> [Vec<u8>; 2] {
    [n_train, n_test].map(|n| {
        let row = |i: usize| (encode(&sized(i, 64, 64), ImageFormat::Png), (i % 10) as i64);
        parquet_bytes_of("image", &(0..n).map(row).collect::<Vec<_>>(), Compression::SNAPPY)
    })
}

fn cifar() -> &'static Collection {
    deepzero::data::collection("cifar10").unwrap()
}

/// The same as (3, 32, 32) bytes, written independently of any image library.
fn asymmetric_pixels(index: usize) -> Vec<u8> {
    let mut pixels = vec![0; 3072];
    for row in 0..32 {
        for column in 0..32 {
            let rgb = if (row, column) == (0, 1) { [0, 255, 0] } else { [3 * column, 2 * row, index] };
            for (channel, value) in rgb.into_iter().enumerate() {
                pixels[channel * 1024 + row * 32 + column] = value as u8;
            }
        }
    }
    pixels
}

fn encode(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// An encoded image and its label.
type Row = (Vec<u8>, i64);

/// `n` asymmetric PNG images, image i with label i mod 10.
fn png_rows(n: usize) -> Vec<Row> {
    (0..n).map(|i| (encode(&asymmetric(i), ImageFormat::Png), (i % 10) as i64)).collect()
}

/// A Parquet file in the hub's layout, three rows to a row group.
fn parquet_bytes(rows: &[Row]) -> Vec<u8> {
    parquet_bytes_in(rows, Compression::UNCOMPRESSED)
}

/// The same in a codec.
fn parquet_bytes_in(rows: &[Row], codec: Compression) -> Vec<u8> {
    parquet_bytes_of("img", rows, codec)
}

/// The same with another name of the column of images.
fn parquet_bytes_of(column: &str, rows: &[Row], codec: Compression) -> Vec<u8> {
    let schema = format!(
        "message schema {{
            optional group {column} {{ optional binary bytes; optional binary path (STRING); }}
            optional int64 label;
        }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties.into()).unwrap();
    for rows in rows.chunks(3) {
        let images: Vec<ByteArray> = rows.iter().map(|(bytes, _)| bytes.clone().into()).collect();
        let paths: Vec<ByteArray> = rows.iter().map(|_| "image.png".into()).collect();
        let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
        let mut group = writer.next_row_group().unwrap();
        for values in [&images, &paths] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(values, Some(&vec![2; rows.len()]), None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; rows.len()]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

pub(crate) fn write(path: PathBuf, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Only `dir`, with an empty hub cache below it, and no hub.
fn only(dir: &Path) -> Location {
    let hub = Hub { cache_dir: Some(dir.join("hub-cache")), ..Hub::default() };
    Location { dirs: vec![dir.to_path_buf()], required: None, data_dir: None, offline: true, hub }
}

/// All images of a source.
fn load(source: &str, location: &Location, report: &dyn Progress) -> deepzero::Result<Splits> {
    let source = deepzero::data::source(source)?;
    source.load(source.sizes(0, 0, 0), location, report)
}

/// Keeps what is reported.
#[derive(Default)]
struct Log {
    notes: Mutex<Vec<String>>,
    started_bytes: Mutex<Vec<u64>>,
}

impl Progress for Log {
    fn started(&self, _what: &str, total_bytes: u64) {
        self.started_bytes.lock().unwrap().push(total_bytes);
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_string());
    }
}
