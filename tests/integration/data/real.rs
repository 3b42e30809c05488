//! The real CIFAR-10, where it lies beside the repository.

use std::path::{Path, PathBuf};
use std::time::Instant;

use deepzero::data::{Location, Silent};

use super::{load, only};

/// The shared folder `name`, or nothing, aloud.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if !path.exists() {
        eprintln!("SKIPPED: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn location() -> Option<Location> {
    shared("data/cifar10").map(|_| only(&shared("data").expect("its subfolder is there")))
}

/// Oracle: the published size of the data set.
#[test]
fn cifar10_is_complete_and_balanced() {
    let Some(location) = location() else { return };
    let start = Instant::now();
    let splits = load("cifar10", &location, &Silent).unwrap();
    eprintln!("loaded in {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!((splits.train.len(), splits.test.len()), (50_000, 10_000));
    assert_eq!(splits.train.class_counts(), [5_000; 10]);
    assert_eq!(splits.test.class_counts(), [1_000; 10]);
}

/// Oracle: counts of the files' origin, and the moments of the pixels, summed in integers.
#[test]
fn imagenette_is_complete_and_has_the_stated_moments() {
    if shared("data/imagenette-64").is_none() {
        return;
    }
    let location = only(&shared("data").expect("its subfolder is there"));
    let splits = load("imagenette", &location, &Silent).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (9_469, 3_925));
    let train = splits.train;
    for channel in 0..3 {
        let (mut sum, mut squares) = (0u64, 0u64);
        for row in 0..train.len() {
            for &value in &train.image(row)[channel * 64 * 64..][..64 * 64] {
                sum += u64::from(value);
                squares += u64::from(value) * u64::from(value);
            }
        }
        let n = (train.len() * 64 * 64) as f64 * 255.0;
        let mean = sum as f64 / n;
        let std = (squares as f64 / (n * 255.0) - mean * mean).sqrt();
        eprintln!("channel {channel}: mean {mean:.4}, standard deviation {std:.4}");
        assert!((mean - train.normalization.mean[channel]).abs() < 1.5e-4);
        assert!((std - train.normalization.std[channel]).abs() < 1.5e-4);
    }
}

/// Oracle: images that another reader (pyarrow and Pillow) took from rows 20,000 + 500·seed on of
/// the training file. Their decoder rounds the inverse transform differently, by a few levels at
/// most; a flip or a transposition would differ by tens.
#[test]
fn images_agree_with_another_reader() {
    const MEAN_LEVELS: f64 = 1.0;
    let (Some(location), Some(golden)) = (location(), shared("golden/cnn_d3.batch.safetensors")) else {
        return;
    };
    let tensors = candle_core::safetensors::load(golden, &candle_core::Device::Cpu).unwrap();
    let images: Vec<u8> = tensors["images"].flatten_all().unwrap().to_vec1().unwrap();
    let labels: Vec<i64> = tensors["labels"].to_vec1().unwrap();
    let train = load("cifar10", &location, &Silent).unwrap().train;
    let distance = |first: usize| {
        let rows = &train.images[first * 3072..][..images.len()];
        let sum: f64 = rows.iter().zip(&images).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        sum / images.len() as f64
    };
    let starts: Vec<usize> = (20_000..50_000 - labels.len()).step_by(500).collect();
    let first = *starts.iter().min_by(|a, b| distance(**a).total_cmp(&distance(**b))).unwrap();
    eprintln!("rows {first} on, mean difference {:.4} levels", distance(first));
    assert!(distance(first) < MEAN_LEVELS);
    let found = &train.labels[first..][..labels.len()];
    assert!(found.iter().zip(&labels).all(|(&a, &b)| i64::from(a) == b));
}

/// Oracle: the copy of CIFAR-10 that was stored with quality 75, row by row the same images as in their own pixels. Whoever
/// stored it rounded otherwise: what Pillow stores is 1.15 levels from it at the median of 500 images, of 7.66 that are lost.
#[test]
fn storing_cifar10_again_gives_the_stored_copy() {
    let Some(pairs) = shared("data/cifar10-pairs") else { return };
    let [own, copy] = ["canonical", "jpeg"].map(|name| {
        // The same file as both halves.
        let folder = tempfile::tempdir().unwrap();
        for split in ["train", "test"] {
            let to = folder.path().join("plain_text").join(split);
            std::fs::create_dir_all(&to).unwrap();
            std::fs::copy(pairs.join(name).join("0000.parquet"), to.join("0000.parquet")).unwrap();
        }
        load("cifar10", &only(folder.path()), &Silent).unwrap().train
    });
    let again = deepzero::data::stored_as_jpeg(own.clone(), 75).unwrap();
    let median = |a: &deepzero::data::Dataset, b: &deepzero::data::Dataset| {
        let rms = |row| {
            let squares =
                a.image(row).iter().zip(b.image(row)).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
            (squares.sum::<f64>() / a.image_len() as f64).sqrt()
        };
        let mut all: Vec<f64> = (0..a.len()).map(rms).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (lost, apart) = (median(&own, &copy), median(&again, &copy));
    eprintln!("{lost:.2} levels lost, {apart:.2} apart");
    assert!(!own.is_lossy && copy.is_lossy && apart < 0.2 * lost, "{lost} lost, {apart} apart");
}
