//! Seeded mutants of every kind of data file. None may panic, abort, hang or take memory without bound, and what is
//! accepted must have the numbers of the original, but for what the format has no means to notice.

use std::path::Path;

use deepzero::data::{Silent, Splits, verify};
use deepzero::fuzzing;
use parquet::basic::{Compression, ZstdLevel};

use super::files::{binary_batches, pickle};
use super::{
    asymmetric_pixels, cifar, encode, load, only, parquet_bytes, parquet_bytes_in, parquet_bytes_of,
    png_rows, sized, write,
};

/// Mutants of each kind of file.
const N_MUTANTS: usize = 600;
/// Bytes of a file that one mutation overwrites at most.
const MAX_CHANGED: usize = 8;
/// Memory that all mutants of a kind may take more than there was before; other tests run beside.
const MAX_MEMORY: u64 = 3 << 30;

/// A generator of numbers (SplitMix64).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// `original` with one bit turned, its end cut off, bytes inserted or removed, a length overwritten, or a part repeated.
fn mutant(original: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let at = draws.below(bytes.len());
    match draws.below(6) {
        0 => bytes[at] ^= 1 << draws.below(8),
        1 => bytes.truncate(at),
        2 => drop(bytes.splice(at..at, draws.next().to_le_bytes().into_iter().take(1 + at % 8))),
        3 => drop(bytes.drain(at..(at + 1 + draws.below(8)).min(original.len()))),
        4 => {
            let lengths = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
            let n = [1, 2, 4, MAX_CHANGED][draws.below(4)].min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&lengths[draws.below(lengths.len())].to_le_bytes()[..n]);
        }
        _ => {
            let part = bytes[at..(at + 1 + draws.below(64)).min(original.len())].to_vec();
            drop(bytes.splice(at..at, part));
        }
    }
    bytes
}

/// The most memory that this process has had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

type Parse = fn(&[u8]) -> deepzero::Result<(Vec<u8>, Vec<u8>)>;

/// Has `parse` read mutants of `original`. Those that it accepts are handed on together with what was read.
#[expect(clippy::print_stderr, reason = "docs/RELIABILITY.md has the counts")]
fn try_mutants(
    name: &str,
    original: &[u8],
    parse: Parse,
    mut accepted: impl FnMut(&[u8], (Vec<u8>, Vec<u8>)),
) {
    let before = peak_bytes();
    let mut draws = Draws(original.len() as u64);
    let (mut n_refused, mut n_accepted) = (0, 0);
    parse(original).unwrap();
    for _ in 0..N_MUTANTS {
        let bytes = mutant(original, &mut draws);
        match parse(&bytes) {
            Ok(content) => {
                n_accepted += 1;
                accepted(&bytes, content);
            }
            Err(error) => {
                let message = error.to_string();
                let is_short = message.lines().count() == 1 && message.len() < 800;
                assert!(is_short && message.starts_with("data "), "{message}");
                n_refused += 1;
            }
        }
    }
    eprintln!("{name}: {N_MUTANTS} mutants, {n_refused} refused, {n_accepted} accepted");
    assert!(n_refused > 0);
    assert!(peak_bytes().saturating_sub(before) < MAX_MEMORY);
}

/// How many bytes of two contents of the same number of rows differ.
fn n_different(a: &(Vec<u8>, Vec<u8>), b: &(Vec<u8>, Vec<u8>)) -> usize {
    assert_eq!((a.0.len(), a.1.len()), (b.0.len(), b.1.len()));
    let pairs = a.0.iter().zip(&b.0).chain(a.1.iter().zip(&b.1));
    pairs.filter(|(a, b)| a != b).count()
}

/// Every PNG image has a checksum of its own, but a label has none: it may become another one.
#[test]
fn mutants_of_parquet_are_refused_or_hold_the_same_images() {
    for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
        let original = parquet_bytes_in(&png_rows(5), codec);
        let expected = fuzzing::cifar_parquet(&original).unwrap();
        try_mutants(&format!("Parquet, {codec}"), &original, fuzzing::cifar_parquet, |_, content| {
            assert!(content.0 == expected.0, "other images");
            assert_eq!(content.1.len(), expected.1.len());
        });
    }
}

/// The same where images are brought to another size.
#[test]
fn mutants_of_parquet_with_images_of_any_size_are_refused_or_hold_the_same_images() {
    let row = |i: usize| {
        let image = sized(i, 40 + 10 * i as u32, 60);
        (encode(&image, image::ImageFormat::Png), i as i64)
    };
    let original = parquet_bytes_of("image", &(0..4).map(row).collect::<Vec<_>>(), Compression::SNAPPY);
    let expected = fuzzing::imagenette_parquet(&original).unwrap();
    try_mutants("Parquet, any size", &original, fuzzing::imagenette_parquet, |_, content| {
        assert!(content.0 == expected.0, "other images");
    });
}

/// Neither pixels nor labels have a checksum in a batch: they may become others, but only as many as were changed.
#[test]
fn mutants_of_python_batches_are_refused_or_differ_where_they_were_changed() {
    let data: Vec<u8> = (0..3).flat_map(asymmetric_pixels).collect();
    let original = pickle(&[3, 9, 0], &data);
    let expected = fuzzing::pickle(&original).unwrap();
    try_mutants("Python batch", &original, fuzzing::pickle, |_, content| {
        assert!(n_different(&content, &expected) <= MAX_CHANGED);
    });
}

/// Nearly all of a batch is pixels; here only what stands around them is changed.
#[test]
fn mutants_of_the_structure_of_python_batches_are_refused_or_hold_the_same_pixels() {
    let original = pickle(&[3], &asymmetric_pixels(0));
    let pixels = 180..original.len() - 40;
    let (mut draws, mut n_refused) = (Draws(7), 0);
    for i in 0..N_MUTANTS {
        let (mut head, mut tail) = (original[..pixels.start].to_vec(), original[pixels.end..].to_vec());
        let part = if i % 2 == 0 { &mut head } else { &mut tail };
        *part = mutant(part, &mut draws);
        match fuzzing::pickle(&[&head, &original[pixels.clone()], &tail].concat()) {
            // The parts that are changed have a few pixels at their inner ends.
            Ok((images, labels)) => {
                assert_eq!((images.len(), labels.len()), (3072, 1));
                assert!(images.iter().zip(asymmetric_pixels(0)).filter(|(a, b)| **a != *b).count() <= 72);
            }
            Err(_) => n_refused += 1,
        }
    }
    eprintln!("structure of Python batches: {N_MUTANTS} mutants, {n_refused} refused");
}

/// A binary batch is nothing but pixels and labels. What it holds is what its bytes say; that it has 10,000 rows is
/// checked of the whole file.
#[test]
fn mutants_of_binary_batches_are_refused_or_hold_what_they_say() {
    let original: Vec<u8> = (0..4).flat_map(|i| [vec![i as u8], asymmetric_pixels(i)].concat()).collect();
    try_mutants("binary batch", &original, fuzzing::binary_batch, |bytes, (images, labels)| {
        assert_eq!(bytes.len(), labels.len() * 3073);
        assert!(bytes.chunks(3073).zip(images.chunks(3072)).all(|(row, image)| row[1..] == *image));
    });
}

/// A folder with Parquet files and a record of them.
fn recorded(dir: &Path) -> Splits {
    write(dir.join("train/0000.parquet"), &parquet_bytes(&png_rows(5)));
    write(dir.join("test/0000.parquet"), &parquet_bytes(&png_rows(2)));
    let sums = verify(cifar(), &only(dir)).unwrap().files;
    let lines = ["train", "test"].iter().zip(&sums);
    let record: String =
        lines.map(|(split, file)| format!("{}  {split}/0000.parquet\n", file.sha256)).collect();
    write(dir.join("SHA256SUMS"), record.as_bytes());
    load("cifar10", &only(dir), &Silent).unwrap()
}

#[test]
fn mutants_of_a_record_are_refused_or_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let expected = recorded(dir.path());
    let original = std::fs::read(dir.path().join("SHA256SUMS")).unwrap();
    let (mut draws, mut n_refused) = (Draws(3), 0);
    for _ in 0..N_MUTANTS {
        write(dir.path().join("SHA256SUMS"), &mutant(&original, &mut draws));
        match load("cifar10", &only(dir.path()), &Silent) {
            Ok(splits) => assert!(splits == expected),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("SHA256SUMS") && message.lines().count() == 1, "{message}");
                n_refused += 1;
            }
        }
    }
    eprintln!("SHA256SUMS: {N_MUTANTS} mutants, {n_refused} refused, {} accepted", N_MUTANTS - n_refused);
}

/// With a record beside, every mutant is noticed, on loading and on verifying.
#[test]
fn mutants_beside_a_record_are_all_noticed() {
    let dir = tempfile::tempdir().unwrap();
    recorded(dir.path());
    let file = dir.path().join("train/0000.parquet");
    let original = std::fs::read(&file).unwrap();
    let mut draws = Draws(5);
    for _ in 0..N_MUTANTS {
        // An overwritten length may be what it was.
        let bytes = std::iter::repeat_with(|| mutant(&original, &mut draws))
            .find(|bytes| *bytes != original)
            .unwrap();
        write(file.clone(), &bytes);
        let message = load("cifar10", &only(dir.path()), &Silent).unwrap_err().to_string();
        assert!(message.contains("train/0000.parquet: damaged or replaced"), "{message}");
        let info = verify(cifar(), &only(dir.path())).unwrap();
        assert!(info.problems.iter().any(|problem| problem.contains("damaged or replaced")), "{info}");
    }
}

/// A pixel that nothing in a batch vouches for; oracle: the checksums of the files that were written.
#[test]
fn a_changed_pixel_of_a_batch_is_noticed_beside_a_record() {
    use sha2::{Digest, Sha256};
    let dir = tempfile::tempdir().unwrap();
    binary_batches(dir.path());
    let file = dir.path().join("data_batch_1.bin");
    let original = std::fs::read(&file).unwrap();
    let sum: String = Sha256::digest(&original).iter().map(|byte| format!("{byte:02x}")).collect();
    write(dir.path().join("SHA256SUMS"), format!("{sum}  data_batch_1.bin\n").as_bytes());
    let mut draws = Draws(11);
    for _ in 0..5 {
        let mut bytes = original.clone();
        let at = 3073 * draws.below(10_000) + 1 + draws.below(3072);
        bytes[at] ^= 1 << draws.below(8);
        std::fs::write(&file, bytes).unwrap();
        let message = load("cifar10", &only(dir.path()), &Silent).unwrap_err().to_string();
        assert!(message.contains("data_batch_1.bin: damaged or replaced"), "{message}");
    }
    std::fs::write(&file, original).unwrap();
    assert!(load("cifar10", &only(dir.path()), &Silent).is_ok());
}

/// The corpus that fuzzers start from has every case of these tests that is small.
#[test]
fn the_corpus_is_read_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (folder, parse) in [("pickle", fuzzing::pickle as Parse), ("cifar_parquet", fuzzing::cifar_parquet)] {
        let files: Vec<_> =
            std::fs::read_dir(corpus.join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() > 5, "{folder}");
        for file in files {
            let is_sound = file.file_name().unwrap().to_string_lossy().starts_with("sound");
            assert_eq!(parse(&std::fs::read(&file).unwrap()).is_ok(), is_sound, "{}", file.display());
        }
    }
}
