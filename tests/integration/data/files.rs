//! Local files of every layout, sound and damaged.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use deepzero::data::{Format, Location, Silent, info, verify};
use image::{ImageFormat, RgbImage};
use parquet::data_type::{ByteArrayType, Int64Type};

use super::{
    Log, Row, asymmetric, asymmetric_pixels, cifar, encode, load, only, parquet_bytes, parquet_bytes_in,
    png_rows, write,
};

const TRAIN: &str = "cifar10/plain_text/train/0000.parquet";
const TEST: &str = "cifar10/plain_text/test/0000.parquet";

/// A folder with sound Parquet files of 7 and 4 rows.
fn sound() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join(TRAIN), &parquet_bytes(&png_rows(7)));
    write(dir.path().join(TEST), &parquet_bytes(&png_rows(4)));
    dir
}

/// The one-line message of loading from `dir`, which must fail.
fn failure(dir: &Path) -> String {
    let message = load("cifar10", &only(dir), &Silent).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

/// Oracle: the pixels that were encoded; PNG is lossless.
#[test]
fn parquet_of_png_images_comes_back_exactly_and_upright() {
    let names = [
        [TRAIN, TEST],
        ["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"],
        ["train/0000.parquet", "test/0000.parquet"],
        ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"],
    ];
    for [train, test] in names {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join(train), &parquet_bytes(&png_rows(7)));
        write(dir.path().join(test), &parquet_bytes(&png_rows(4)));
        let log = Log::default();
        let splits = load("cifar10", &only(dir.path()), &log).unwrap();
        assert_eq!((splits.train.len(), splits.test.len()), (7, 4));
        assert_eq!(splits.train.labels, [0, 1, 2, 3, 4, 5, 6]);
        for i in 0..7 {
            assert_eq!(splits.train.image(i), asymmetric_pixels(i));
        }
        // Green at row 0, column 1 and nowhere else in that corner.
        let green = &splits.test.image(0)[1024..2048];
        assert_eq!((green[1], green[32]), (255, 2));
        assert!(log.notes.lock().unwrap()[0].contains("7 images, not 50000"));
    }
}

/// Oracle: the pixels that were encoded. JPEG loses detail, so the image is smooth, and the bound
/// on the mean error is far below what a flip or transposition would give (about 25).
#[test]
fn parquet_of_jpeg_images_comes_back_upright() {
    const MEAN_ERROR: f64 = 4.0;
    let smooth = RgbImage::from_fn(32, 32, |x, y| image::Rgb([(3 * x) as u8, (2 * y + 50) as u8, 120]));
    let dir = sound();
    write(dir.path().join(TRAIN), &parquet_bytes(&[(encode(&smooth, ImageFormat::Jpeg), 9)]));
    let train = load("cifar10", &only(dir.path()), &Silent).unwrap().train;
    let pixels = train.image(0);
    let expected =
        |channel: usize, row: usize, column: usize| [3 * column, 2 * row + 50, 120][channel] as f64;
    let errors = (0..3072).map(|i| (f64::from(pixels[i]) - expected(i / 1024, i % 1024 / 32, i % 32)).abs());
    let mean = errors.sum::<f64>() / 3072.0;
    assert!(mean < MEAN_ERROR, "{mean}");
}

#[test]
fn every_kind_of_damage_is_one_clear_line() {
    let rows = || png_rows(7);
    let damage = |change: &dyn Fn(&mut [Row])| {
        let mut rows = rows();
        change(&mut rows);
        let dir = sound();
        write(dir.path().join(TRAIN), &parquet_bytes(&rows));
        failure(dir.path())
    };
    let message = damage(&|rows| rows[5].0.truncate(60));
    assert!(message.contains("row 5: unreadable image"), "{message}");
    let message = damage(&|rows| rows[4].0 = b"no image".to_vec());
    assert!(message.contains("row 4: unreadable image"), "{message}");
    let message = damage(&|rows| rows[6].1 = 10);
    assert!(message.contains("row 6: label 10 is not one of 0 to 9"), "{message}");
    let message = damage(&|rows| rows[1].1 = -1);
    assert!(message.contains("row 1: label -1"), "{message}");
    let message = damage(&|rows| rows[2].0 = encode(&RgbImage::new(28, 30), ImageFormat::Png));
    assert!(message.contains("row 2: image of 28x30 pixels, not 32x32"), "{message}");
    // Two bad rows: the first is named, however the work was split.
    let message = damage(&|rows| [3, 5].iter().for_each(|&i| rows[i].0.clear()));
    assert!(message.contains("row 3:"), "{message}");
}

#[test]
fn truncated_and_missing_files_are_one_clear_line() {
    let dir = sound();
    let whole = std::fs::read(dir.path().join(TRAIN)).unwrap();
    for n in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        write(dir.path().join(TRAIN), &whole[..n]);
        let message = failure(dir.path());
        assert!(
            message.contains("train") && message.contains("truncated or not a Parquet file"),
            "{message}"
        );
    }
    write(dir.path().join(TRAIN), b"");
    std::fs::remove_file(dir.path().join(TRAIN)).unwrap();
    let message = failure(dir.path());
    assert!(message.contains("train/0000.parquet: missing"), "{message}");

    let empty = tempfile::tempdir().unwrap();
    let message = failure(empty.path());
    for part in ["--data-dir", "DEEPZERO_DATA", "--set data=synthetic", &empty.path().display().to_string()] {
        assert!(message.contains(part), "{message}");
    }
}

/// Oracle: nothing but the absence of a panic; a changed byte may also be harmless. The file has two row groups; more
/// rows would only be more of the same.
#[test]
fn no_single_changed_byte_makes_it_panic() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join(TRAIN), &parquet_bytes(&png_rows(4)));
    write(dir.path().join(TEST), &parquet_bytes(&png_rows(1)));
    let whole = std::fs::read(dir.path().join(TRAIN)).unwrap();
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            std::fs::write(dir.path().join(TRAIN), damaged).unwrap();
            drop(load("cifar10", &only(dir.path()), &Silent));
        }
    }
}

#[test]
fn wrong_columns_are_named() {
    let dir = sound();
    let schema = "message schema { required int64 label; required binary image; }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let mut writer =
        parquet::file::writer::SerializedFileWriter::new(Vec::new(), schema.into(), Default::default())
            .unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[3], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&["image".into()], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    write(dir.path().join(TRAIN), &writer.into_inner().unwrap());
    let message = failure(dir.path());
    assert!(message.contains("no column `img.bytes`, only label, image"), "{message}");
}

#[test]
fn info_and_verify_describe_the_files() {
    let dir = sound();
    let location = only(dir.path());
    let sound = verify(cifar(), &location).unwrap();
    assert_eq!((sound.format, sound.train.n_rows, sound.test.n_rows), (Format::Parquet, 7, 4));
    assert_eq!(sound.train.class_counts, [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    assert_eq!(sound.files[0].recorded, None);
    let decoded = load("cifar10", &location, &Silent).unwrap();
    assert_eq!(sound.train.checksum, Some(decoded.train.checksum()));
    // Sound files, but not all of CIFAR-10.
    assert_eq!(sound.problems.len(), 2, "{sound}");

    let mut rows = png_rows(7);
    rows[5].0.truncate(60);
    write(dir.path().join(TRAIN), &parquet_bytes(&rows));
    assert_eq!(info(cifar(), &location).unwrap().problems.len(), 2);
    let damaged = verify(cifar(), &location).unwrap();
    assert!(damaged.to_string().contains("row 5"), "{damaged}");
    assert!(damaged.to_string().ends_with("not ok"), "{damaged}");
    assert_eq!(damaged.train.checksum, None);
}

/// Oracle: a record in the format of `sha256sum`.
#[test]
fn a_recorded_checksum_is_verified_on_every_load() {
    let dir = sound();
    let sums = verify(cifar(), &only(dir.path())).unwrap();
    let record = format!("{}  train/0000.parquet\n", sums.files[0].sha256);
    write(dir.path().join("cifar10/plain_text/SHA256SUMS"), record.as_bytes());
    assert!(load("cifar10", &only(dir.path()), &Silent).is_ok());
    assert_eq!(info(cifar(), &only(dir.path())).unwrap().files[0].recorded, Some(true));
    write(dir.path().join(TRAIN), &parquet_bytes(&png_rows(6)));
    let message = failure(dir.path());
    assert!(message.contains("damaged or replaced"), "{message}");
    assert_eq!(info(cifar(), &only(dir.path())).unwrap().files[0].recorded, Some(false));
}

/// Six full binary batches: black images of class 0, but for a few asymmetric ones, written as
/// files with holes.
pub(super) fn binary_batches(dir: &Path) {
    for (file, name) in
        (1..=5).map(|i| format!("data_batch_{i}.bin")).chain(["test_batch.bin".into()]).enumerate()
    {
        let mut batch = File::create(dir.join(name)).unwrap();
        batch.set_len(10_000 * 3073).unwrap();
        for row in [0, 9_999] {
            batch.seek(SeekFrom::Start(row * 3073)).unwrap();
            batch.write_all(&[file as u8 + 1]).unwrap();
            batch.write_all(&asymmetric_pixels(file)).unwrap();
        }
    }
}

/// Oracles: the pixels that were written, and `candle_datasets::vision::cifar::load_dir`, another
/// reader of the same format (which scales to [0, 1]).
#[test]
fn binary_batches_agree_with_candle() {
    let dir = tempfile::tempdir().unwrap();
    let batches = dir.path().join("cifar-10-batches-bin");
    std::fs::create_dir(&batches).unwrap();
    binary_batches(&batches);
    let splits = load("cifar10", &only(dir.path()), &Silent).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (50_000, 10_000));
    assert_eq!(splits.train.image(29_999), asymmetric_pixels(2));
    assert_eq!((splits.train.labels[29_999], splits.train.labels[29_998], splits.test.labels[0]), (3, 0, 6));

    let candle = candle_datasets::vision::cifar::load_dir(&batches).unwrap();
    for row in [0, 1, 9_999, 10_000, 49_999] {
        let image = candle.train_images.get(row).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bytes: Vec<u8> = image.into_iter().map(|value| (255.0 * value).round() as u8).collect();
        assert_eq!(splits.train.image(row), bytes);
    }
    let labels = candle.train_labels.to_vec1::<u8>().unwrap();
    assert_eq!(splits.train.labels, labels);

    // Ends inside a row; ends after a row; a label out of range; one file gone.
    let file = batches.join("data_batch_4.bin");
    for (n_bytes, expected) in
        [(5_000 * 3073 + 7, "row 5000 is incomplete"), (5_000 * 3073, "5000 of 10000 rows")]
    {
        File::options().write(true).open(&file).unwrap().set_len(n_bytes).unwrap();
        let message = failure(dir.path());
        assert!(message.contains("data_batch_4.bin") && message.contains(expected), "{message}");
    }
    binary_batches(&batches);
    let mut batch = File::options().write(true).open(&file).unwrap();
    batch.seek(SeekFrom::Start(17 * 3073)).unwrap();
    batch.write_all(&[77]).unwrap();
    let message = failure(dir.path());
    assert!(message.contains("row 17: label 77"), "{message}");
    std::fs::remove_file(&file).unwrap();
    assert!(failure(dir.path()).contains("data_batch_4.bin: missing"));
}

/// One Python batch, opcode for opcode as Python 2 wrote the canonical ones.
pub(super) fn pickle(labels: &[u8], data: &[u8]) -> Vec<u8> {
    let short = |n: usize| (n as u16).to_le_bytes();
    let mut out = b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03".to_vec();
    out.extend(b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01M");
    out.extend(short(labels.len()));
    out.push(b'M');
    out.extend(short(data.len() / labels.len()));
    out.extend(b"\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out.extend(b"tbU\x06labelsq\x08]q\x09(");
    out.extend(labels.iter().flat_map(|&label| [b'K', label]));
    out.extend(b"eu.");
    out
}

/// Oracle: the pixels that were written.
#[test]
fn python_batches_come_back_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let batches = dir.path().join("cifar-10-batches-py");
    let (mut labels, mut data) = (vec![0; 10_000], vec![0; 10_000 * 3072]);
    labels[9_999] = 7;
    data[9_999 * 3072..].copy_from_slice(&asymmetric_pixels(99));
    let sound = pickle(&labels, &data);
    let names =
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
    names.iter().for_each(|name| write(batches.join(name), &sound));
    let splits = load("cifar10", &only(dir.path()), &Silent).unwrap();
    assert_eq!(splits.train.image(49_999), asymmetric_pixels(99));
    assert_eq!((splits.test.labels[9_999], splits.test.labels[9_998]), (7, 0));

    let damages: [(Vec<u8>, &str); 5] = [
        (sound[..sound.len() / 2].to_vec(), "truncated"),
        (b"not a pickle".to_vec(), "not a readable CIFAR-10 batch"),
        (pickle(&labels, &data[..10_000 * 3000]), "images of 3000 bytes"),
        (pickle(&labels[..100], &data[..100 * 3072]), "100 of 10000 rows"),
        (pickle(&[0, 0, 12], &data[..3 * 3072]), "row 2: label 12"),
    ];
    for (damaged, expected) in damages {
        write(batches.join("data_batch_3"), &damaged);
        let message = failure(dir.path());
        assert!(message.contains("data_batch_3") && message.contains(expected), "{message}");
    }
}

#[test]
fn the_given_folder_comes_first_and_synthetic_needs_none() {
    let (first, second) = (sound(), sound());
    write(second.path().join(TRAIN), &parquet_bytes(&png_rows(5)));
    let mut location = only(second.path());
    location.dirs.insert(0, first.path().to_path_buf());
    assert_eq!(load("cifar10", &location, &Silent).unwrap().train.len(), 7);
    std::fs::remove_dir_all(first.path().join("cifar10")).unwrap();
    assert_eq!(load("cifar10", &location, &Silent).unwrap().train.len(), 5);

    let nowhere = only(Path::new("/nonexistent"));
    let splits = load("synthetic", &nowhere, &Silent).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (10_000, 2_000));
    assert_eq!(asymmetric(0).dimensions(), (32, 32));
}

/// The message of a named folder without data, whatever else is on the machine.
#[test]
fn a_named_folder_without_data_is_an_error_that_names_it() {
    let (elsewhere, empty) = (sound(), tempfile::tempdir().unwrap());
    write(empty.path().join("file"), b"");
    let named = |folder: &str| {
        let data_dir = Some(empty.path().join(folder));
        let location = Location { data_dir, offline: false, ..only(elsewhere.path()) };
        let messages = [
            load("cifar10", &location, &Silent).unwrap_err().to_string(),
            info(cifar(), &location).unwrap_err().to_string(),
            verify(cifar(), &location).unwrap_err().to_string(),
        ];
        let start = format!("data {}", empty.path().join(folder).display());
        assert!(messages.iter().all(|message| message.starts_with(&start)), "{messages:?}");
        messages[0].clone()
    };
    for (folder, expected) in [("", "has no CIFAR-10"), ("none", "no such folder"), ("file", "not a folder")]
    {
        let message = named(folder);
        assert!(message.contains(expected) && message.contains("data fetch --data-dir"), "{message}");
    }
}

#[test]
fn a_split_without_rows_is_a_problem_that_names_the_file() {
    for (name, other) in [(TRAIN, "test: 4 images"), (TEST, "train: 7 images")] {
        let dir = sound();
        write(dir.path().join(name), &parquet_bytes(&[]));
        let message = failure(dir.path());
        assert!(message.contains(name) && message.contains("has no rows"), "{message}");
        let info = verify(cifar(), &only(dir.path())).unwrap();
        assert!(!info.is_sound());
        assert!(info.problems.iter().any(|problem| problem.contains(name)), "{info}");
        assert!(info.to_string().contains(other), "{info}");
    }
}

/// Pipes, devices and folders in the place of files: opening a pipe would wait forever, reading `/dev/zero` too.
#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    let in_place_of = |root: &str, names: &[&str], bad: &str, kind: &str| {
        let dir = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| write(dir.path().join(root).join(name), b"content"));
        let path = dir.path().join(root).join(bad);
        std::fs::remove_file(&path).ok();
        match kind {
            "a pipe" => assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()),
            "a device" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            _ => std::fs::create_dir(&path).unwrap(),
        }
        let location = only(dir.path());
        let messages = [failure(dir.path()), verify(cifar(), &location).unwrap_err().to_string()];
        for message in messages {
            let expected = format!("{bad}: {kind}, where a regular file is needed");
            assert!(message.ends_with(&expected), "{message}");
        }
    };
    let batches = |suffix: &str| -> Vec<String> {
        let names = (1..=5).map(|i| format!("data_batch_{i}{suffix}"));
        names.chain([format!("test_batch{suffix}")]).collect()
    };
    let (binary, python) = (batches(".bin"), batches(""));
    let names = |names: &'static [&'static str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let parquet = names(&["train.parquet", "test.parquet"]);
    for (root, names) in
        [("plain_text", &parquet), ("cifar-10-batches-bin", &binary), ("cifar-10-batches-py", &python)]
    {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for kind in ["a pipe", "a device", "a folder"] {
            in_place_of(root, &names, names[0], kind);
            in_place_of(root, &names, "SHA256SUMS", kind);
        }
    }
}

/// Files with holes, which take no space here but would in memory.
#[test]
fn files_that_are_too_large_are_refused_before_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let sparse = |name: &str, n_bytes: u64| {
        write(dir.path().join(name), b"");
        File::options().write(true).open(dir.path().join(name)).unwrap().set_len(n_bytes).unwrap();
    };
    sparse("train.parquet", 1 << 40);
    write(dir.path().join("test.parquet"), &parquet_bytes(&png_rows(4)));
    let message = failure(dir.path());
    assert!(message.contains("train.parquet: 1099511627776 bytes, more than"), "{message}");
    std::fs::remove_file(dir.path().join("train.parquet")).unwrap();
    std::fs::remove_file(dir.path().join("test.parquet")).unwrap();
    for suffix in [".bin", ""] {
        let names: Vec<String> = (1..=5)
            .map(|i| format!("data_batch_{i}{suffix}"))
            .chain([format!("test_batch{suffix}")])
            .collect();
        names.iter().for_each(|name| sparse(name, 1 << 40));
        let message = failure(dir.path());
        assert!(message.contains(&format!("data_batch_1{suffix}: 1099511627776 bytes")), "{message}");
        names.iter().for_each(|name| std::fs::remove_file(dir.path().join(name)).unwrap());
    }
}

/// Oracle: the images of the single file.
#[test]
fn splits_in_several_files_are_read_whole() {
    let rows = png_rows(7);
    let whole = load("cifar10", &only(sound().path()), &Silent).unwrap();
    let layouts = [
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"],
        ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
    ];
    for names in layouts {
        let dir = tempfile::tempdir().unwrap();
        let contents = [&rows[..3], &rows[3..], &png_rows(4)];
        names
            .iter()
            .zip(contents)
            .for_each(|(name, rows)| write(dir.path().join(name), &parquet_bytes(rows)));
        assert_eq!(load("cifar10", &only(dir.path()), &Silent).unwrap(), whole);
        std::fs::remove_file(dir.path().join(names[0])).unwrap();
        let message = failure(dir.path());
        assert!(message.contains(&format!("{}: missing", names[0])), "{message}");
    }
}

#[test]
fn codecs_are_read_or_named() {
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    let dir = sound();
    let splits = load("cifar10", &only(dir.path()), &Silent).unwrap();
    let write_in = |codec| write(dir.path().join(TRAIN), &parquet_bytes_in(&png_rows(7), codec));
    for codec in [Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default()), Compression::LZ4_RAW] {
        write_in(codec);
        assert_eq!(load("cifar10", &only(dir.path()), &Silent).unwrap(), splits);
    }
    for codec in [Compression::GZIP(GzipLevel::default()), Compression::BROTLI(BrotliLevel::default())] {
        write_in(codec);
        let message = failure(dir.path());
        assert!(message.contains("is compressed with") && message.contains("write it anew"), "{message}");
    }
}

/// Every dictionary of images, of 1.2 MB, claims to expand to 128 MiB, which takes as many bytes to say.
#[test]
fn pages_that_claim_to_expand_beyond_a_bound_are_refused() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let mut rows = png_rows(15);
    rows.iter_mut().for_each(|row| row.0.resize(1_200_000, 0));
    let mut bytes = parquet_bytes_in(&rows, parquet::basic::Compression::SNAPPY);
    let dir = sound();
    write(dir.path().join(TRAIN), &bytes);
    assert_eq!(load("cifar10", &only(dir.path()), &Silent).unwrap().train.len(), 15);
    let reader = SerializedFileReader::new(File::open(dir.path().join(TRAIN)).unwrap()).unwrap();
    for group in reader.metadata().row_groups() {
        let chunk = group.column(0);
        let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset()) as usize;
        // The type of the page, and then its size, which has four bytes.
        assert_eq!((bytes[start], bytes[start + 2], bytes[start + 6] < 0x80), (0x15, 0x15, true));
        bytes[start + 3..start + 7].copy_from_slice(&[0xfe, 0xff, 0xff, 0x7f]);
    }
    write(dir.path().join(TRAIN), &bytes);
    let message = failure(dir.path());
    assert!(message.contains("its pages claim") && message.contains("more than the 536870912"), "{message}");
}

#[test]
fn a_record_in_another_format_is_named() {
    let dir = sound();
    for bad in ["0123  train/0000.parquet\n", "\u{0}\n", &"x".repeat(5000)] {
        write(dir.path().join("cifar10/plain_text/SHA256SUMS"), bad.as_bytes());
        let message = failure(dir.path());
        assert!(message.contains("SHA256SUMS: line 1") && message.len() < 600, "{message}");
    }
    write(dir.path().join("cifar10/plain_text/SHA256SUMS"), &[b'\n'; 2 << 20]);
    assert!(failure(dir.path()).contains("SHA256SUMS: 2097152 bytes"));
}

/// Python batches that are made to harm: each would take memory, the stack, or the reader's patience.
#[test]
fn hostile_pickles_are_one_clear_line() {
    let repeat = |head: &[u8], body: &[u8], n: usize| [head, &body.repeat(n), b"."].concat();
    let cases: [(Vec<u8>, &str); 9] = [
        (repeat(b"\x80\x02)", b"\x85", 1_000_000), "more than 1000000 operations"),
        // Below that bound, nothing recurses.
        (repeat(b"\x80\x02)", b"\x85", 900_000), "holds no dictionary"),
        // Lists within each other through the memo, and one within itself.
        (repeat(b"\x80\x02]q\x00", b"]q\x01h\x00aq\x00", 100_000), "holds no dictionary"),
        (b"\x80\x02]q\x00h\x00a.".to_vec(), "holds no dictionary"),
        // Each tuple has the one before twice: 2^300,000 leaves.
        (repeat(b"\x80\x02)q\x00", b"h\x00\x86q\x00h\x00", 200_000), "holds no dictionary"),
        (b"\x80\x02T\xff\xff\xff\x7f.".to_vec(), "truncated"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(), "truncated"),
        (b"\x80\x05}.".to_vec(), "pickle protocol 5"),
        (b"(dp0\n.".to_vec(), "no pickle of protocol 2, 3 or 4"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (pickle, expected) in cases {
        let names = (1..=5).map(|i| format!("data_batch_{i}")).chain(["test_batch".into()]);
        names.for_each(|name| write(dir.path().join(name), &pickle));
        let message = failure(dir.path());
        assert!(message.contains("data_batch_1") && message.contains(expected), "{message}");
        assert!(message.len() < 600, "{message}");
    }
}
