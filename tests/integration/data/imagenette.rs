//! Imagenette: images of 64x64 pixels from files, and larger ones from a hub on this machine.

use std::path::Path;

use deepzero::data::{Collection, Location, Silent, collection, fetch, info, verify};
use image::{ImageFormat, RgbImage};
use parquet::basic::Compression;

use super::hub::{Answer, at, serve};
use super::{Log, Row, encode, load, only, parquet_bytes_of, sized, write};

const TRAIN: &str = "imagenette-64/train/0000.parquet";
const TEST: &str = "imagenette-64/validation/0000.parquet";
const COMMIT: &str = "4b23ffb92a8029db9958bdfdbd6978427d09b1a0";

fn imagenette() -> &'static Collection {
    collection("imagenette").unwrap()
}

fn file(rows: &[Row]) -> Vec<u8> {
    parquet_bytes_of("image", rows, Compression::SNAPPY)
}

/// `n` images of these sizes in turn, image i with label i mod 10.
fn rows(n: usize, sizes: &[(u32, u32)]) -> Vec<Row> {
    let row = |i: usize| {
        let (width, height) = sizes[i % sizes.len()];
        (encode(&sized(i, width, height), ImageFormat::Png), (i % 10) as i64)
    };
    (0..n).map(row).collect()
}

fn failure(dir: &Path) -> String {
    let message = load("imagenette", &only(dir), &Silent).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

/// A folder with sound files of 7 and 4 rows.
fn sound() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join(TRAIN), &file(&rows(7, &[(64, 64)])));
    write(dir.path().join(TEST), &file(&rows(4, &[(64, 64)])));
    dir
}

/// Oracle: the pixels that were encoded; PNG is lossless.
#[test]
fn images_of_64_pixels_come_back_exactly_and_upright() {
    let dir = sound();
    let log = Log::default();
    let splits = load("imagenette", &only(dir.path()), &log).unwrap();
    assert_eq!((splits.train.len(), splits.test.len(), splits.train.shape), (7, 4, [3, 64, 64]));
    for row in 0..7 {
        let expected = sized(row, 64, 64);
        let found = splits.train.image(row);
        for (x, y, rgb) in expected.enumerate_pixels() {
            let at = |channel: usize| found[channel * 64 * 64 + y as usize * 64 + x as usize];
            assert_eq!([at(0), at(1), at(2)], rgb.0);
        }
    }
    assert!(log.notes.lock().unwrap()[0].contains("7 images, not 9469"));
    let told = verify(imagenette(), &only(dir.path())).unwrap();
    assert!(told.to_string().starts_with("Imagenette (Parquet) in"), "{told}");
    assert_eq!(told.train.class_counts, [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    // CIFAR-10 is not there.
    let message = load("cifar10", &only(dir.path()), &Silent).unwrap_err().to_string();
    assert!(message.contains("no CIFAR-10"), "{message}");
}

#[test]
fn damage_is_one_clear_line() {
    let damage = |change: &dyn Fn(&mut [Row])| {
        let mut rows = rows(7, &[(64, 64)]);
        change(&mut rows);
        let dir = sound();
        write(dir.path().join(TRAIN), &file(&rows));
        failure(dir.path())
    };
    let message = damage(&|rows| rows[5].0.truncate(60));
    assert!(message.contains("row 5: unreadable image"), "{message}");
    let message = damage(&|rows| rows[6].1 = 10);
    assert!(message.contains("row 6: label 10 is not one of 0 to 9"), "{message}");
    let message = damage(&|rows| rows[2].0 = encode(&sized(2, 32, 64), ImageFormat::Png));
    assert!(message.contains("row 2: image of 32x64 pixels, not 64x64"), "{message}");
    let dir = sound();
    std::fs::remove_file(dir.path().join(TEST)).unwrap();
    let message = failure(dir.path());
    assert!(message.contains("validation/0000.parquet: missing, though other Imagenette files"), "{message}");
    let empty = tempfile::tempdir().unwrap();
    let message = failure(empty.path());
    assert!(message.contains("no Imagenette in"), "{message}");
    let named = Location { data_dir: Some(empty.path().to_owned()), ..only(empty.path()) };
    let message = load("imagenette", &named, &Silent).unwrap_err().to_string();
    assert!(message.contains("`deepzero data fetch imagenette --data-dir"), "{message}");
    let dir = sound();
    write(
        dir.path().join("imagenette-64/SHA256SUMS"),
        format!("{}  train/0000.parquet", "0".repeat(64)).as_bytes(),
    );
    assert!(failure(dir.path()).contains("damaged or replaced"));
}

/// A hub with images of other sizes, 7 and 4 rows.
fn hub(path: &str) -> Option<Answer> {
    let sizes = [(213, 160), (160, 240), (64, 64), (160, 160)];
    let body = match path.strip_prefix(&format!("/datasets/frgfm/imagenette/resolve/{COMMIT}/160px/"))? {
        "train-00000-of-00001.parquet" => file(&rows(7, &sizes)),
        "validation-00000-of-00001.parquet" => file(&rows(4, &sizes)),
        _ => return None,
    };
    Some(Answer::sound(body).with("X-Repo-Commit", COMMIT))
}

/// Oracle: a ramp stays a ramp where a symmetric filter averages it, but for its ends; of the longer side the middle is
/// taken.
#[test]
fn images_of_the_hub_are_brought_to_64_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let location = at(&serve(hub), dir.path());
    let splits = load("imagenette", &location, &Silent).unwrap();
    assert_eq!((splits.train.len(), splits.test.len(), splits.train.shape), (7, 4, [3, 64, 64]));
    for (row, (width, height)) in
        [(213.0, 160.0), (160.0, 240.0), (64.0, 64.0), (160.0f64, 160.0f64)].iter().enumerate()
    {
        let side = f64::min(*width, *height);
        let image = splits.train.image(row);
        let along = |at: usize, of: f64, range: f64| {
            let first = ((of - side) / 2.0).floor();
            range * (first + (at as f64 + 0.5) * side / 64.0) / of
        };
        for y in 3..61 {
            for x in 3..61 {
                let value = |channel: usize| f64::from(image[channel * 64 * 64 + y * 64 + x]);
                assert!((value(0) - along(x, *width, 250.0)).abs() < 2.0, "{row} {x} {y}");
                assert!((value(1) - along(y, *height, 120.0)).abs() < 2.0, "{row} {x} {y}");
                assert!((value(2) - row as f64).abs() < 1e-9);
            }
        }
    }
    // Once more from the cache, and from a folder into which they are put.
    let offline = Location { offline: true, ..at("http://127.0.0.1:0", dir.path()) };
    assert_eq!(load("imagenette", &offline, &Silent).unwrap(), splits);
    assert!(info(imagenette(), &offline).unwrap().files.iter().all(|file| file.recorded == Some(true)));
    let target = tempfile::tempdir().unwrap();
    let named = Location { data_dir: Some(target.path().to_owned()), ..location };
    let told = fetch(imagenette(), &named, &Silent).unwrap();
    assert_eq!(told.root, target.path().join("imagenette-64"));
    assert_eq!(told.train.checksum, Some(splits.train.checksum()));
    assert!(told.root.join("SHA256SUMS").is_file() && target.path().join(TEST).is_file());
    assert_eq!(load("imagenette", &named, &Silent).unwrap(), splits);
}

#[test]
fn bad_images_of_a_hub_are_refused() {
    let answer = |image: RgbImage| {
        move |path: &str| {
            let sound = hub(path)?;
            let bad = file(&[(encode(&image, ImageFormat::Png), 3)]);
            Some(if path.contains("train") {
                Answer::sound(bad).with("X-Repo-Commit", COMMIT)
            } else {
                sound
            })
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let huge = at(&serve(answer(RgbImage::new(3_000, 2))), dir.path());
    let message = load("imagenette", &huge, &Silent).unwrap_err().to_string();
    assert!(message.contains("sent a bad file: row 0: image of 3000x2 pixels, not 1 to 2048"), "{message}");
    let none = at(&serve(|_| None), dir.path());
    let message = load("imagenette", &none, &Silent).unwrap_err().to_string();
    assert!(message.contains("download of frgfm/imagenette"), "{message}");
    // As narrow as can be.
    let thin = at(&serve(answer(RgbImage::new(1, 2_000))), dir.path());
    assert_eq!(load("imagenette", &thin, &Silent).unwrap().train.len(), 1);
}
