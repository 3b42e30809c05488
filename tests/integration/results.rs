//! Result files: round trips, atomicity, what other programs see.

use std::cmp::Ordering;
use std::path::Path;

use deepzero::results::{
    EpochRecord, Measures, Provenance, Status, Store, TensorRecord, TrialRecord, compare_ignoring_time,
};
use deepzero::spec::{Library, Scale, Trial};
use insta::assert_snapshot;
use polars::prelude::{ParquetReader, SerReader};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn trial() -> Trial {
    Library::embedded().get("fig4").unwrap().trials(Scale::Smoke, None, &[]).unwrap().remove(0)
}

fn epoch(epoch: u32) -> EpochRecord {
    let t = f64::from(epoch);
    EpochRecord {
        epoch,
        train_loss: 2.3 / t,
        train_accuracy: 0.1 * t,
        val_loss: f64::NAN,
        val_accuracy: f64::NAN,
        test_loss: 2.2 / t,
        test_accuracy: 0.09 * t,
        learning_rate: 0.1,
        n_active: 618,
        queries: 619 * u64::from(epoch),
        queries_non_finite: 0,
        gradient_norm: 1.0 / 3.0,
        wall_s: 1.5 * t,
        measures: Measures { cosine: 1.0 / t, ..Measures::default() },
    }
}

fn provenance() -> Provenance {
    Provenance {
        version: "0.1.0".into(),
        commit: "0123456789ab-dirty".into(),
        crates: "candle-core 0.11.1".into(),
        cpu: "a processor".into(),
        device: "cpu".into(),
        kernels: "avx2".into(),
        threads: 2,
        data_checksum: "00".into(),
        finished_at: "2024-01-02T03:04:05Z".into(),
    }
}

fn record(n_epochs: u32) -> TrialRecord {
    TrialRecord {
        trial: trial(),
        n_params: 5006,
        status: Status::Done,
        error: String::new(),
        epochs: (1..=n_epochs).map(epoch).collect(),
        best_epoch: None,
        tensors: Vec::new(),
        provenance: provenance(),
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    (folder, store)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Everything, time columns included.
fn assert_same(a: &TrialRecord, b: &TrialRecord) {
    compare_ignoring_time(a, b).unwrap();
    assert_eq!(a.provenance, b.provenance);
    assert!(a.epochs.iter().zip(&b.epochs).all(|(a, b)| a.wall_s.to_bits() == b.wall_s.to_bits()));
}

#[test]
fn a_record_comes_back_as_it_was() {
    let (_folder, store) = store();
    let mut written = record(3);
    written.epochs[1].val_loss = 2.0;
    written.epochs[1].val_accuracy = 0.25;
    written.best_epoch = Some(2);
    assert!(!store.exists(&written.trial));
    let path = store.write(&written).unwrap();
    assert!(store.exists(&written.trial));
    assert_eq!(path, store.path(&written.trial));
    let read = store.read(&path).unwrap();
    assert!(read.epochs[0].val_loss.is_nan());
    assert_same(&written, &read);
    assert_same(&written, &store.find(&written.trial).unwrap().unwrap());
    assert_eq!(names(path.parent().unwrap()).len(), 1, "no temporary file is left");
}

/// Oracle: what was written. The folder holds tensors and masks beside the record.
#[test]
fn tensors_and_masks_stand_beside_a_record() {
    let (_folder, store) = store();
    let mut written = record(1);
    let tensor = |name: &str, n, n_active, cosine| TensorRecord {
        name: name.to_owned(),
        n,
        n_active,
        cosine,
        relative_error: f64::NAN,
    };
    written.tensors = vec![tensor("conv1.weight", 3, 2, 0.5), tensor("bn1.weight", 2, 2, f64::NAN)];
    store.write_mask(&written, &[true, false, true, true, true]).unwrap();
    let path = store.write(&written).unwrap();
    let read = store.read(&path).unwrap();
    assert_same(&written, &read);
    assert!(read.tensors[1].cosine.is_nan());
    assert_eq!(store.read_all("fig4", Scale::Smoke).unwrap().len(), 1);
    let mask = std::fs::File::open(path.with_file_name("masks").join(path.file_name().unwrap())).unwrap();
    let mask = ParquetReader::new(mask).finish().unwrap();
    let kept: Vec<_> = mask.column("kept").unwrap().bool().unwrap().iter().flatten().collect();
    assert_eq!(kept, [true, false, true, true, true]);
    let names: Vec<_> = mask.column("tensor").unwrap().str().unwrap().iter().flatten().collect();
    assert_eq!(names[2..4], ["conv1.weight", "bn1.weight"]);
    // A damaged file is named.
    let tensors = path.with_file_name("tensors").join(path.file_name().unwrap());
    std::fs::write(&tensors, b"PAR1").unwrap();
    let error = store.read(&path).unwrap_err().to_string();
    assert!(error.contains("tensors"), "{error}");
}

#[test]
fn failures_and_divergence_are_rows_that_a_second_run_replaces() {
    let (_folder, store) = store();
    let mut failed = record(0);
    failed.status = Status::Failed;
    failed.error = "objective: no answer\nsecond line, \"quoted\"".into();
    assert_same(&failed, &store.read(&store.write(&failed).unwrap()).unwrap());
    let mut diverged = record(2);
    diverged.status = Status::Diverged;
    diverged.epochs[1].train_loss = f64::NAN;
    diverged.epochs[1].test_loss = f64::INFINITY;
    diverged.epochs[1].gradient_norm = f64::NEG_INFINITY;
    assert_same(&diverged, &store.read(&store.write(&diverged).unwrap()).unwrap());
    let done = record(3);
    let path = store.write(&done).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = store.write(&diverged).unwrap_err().to_string();
    assert!(error.ends_with("which is never overwritten"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn equal_records_are_equal_bytes() {
    let (_a, first) = store();
    let (_b, second) = store();
    let first = std::fs::read(first.write(&record(3)).unwrap()).unwrap();
    let second = std::fs::read(second.write(&record(3)).unwrap()).unwrap();
    assert_eq!(first, second);
}

#[test]
fn nothing_is_left_when_writing_fails() {
    let (folder, store) = store();
    let record = record(1);
    // A folder in place of the file: reading it as an older record fails, before anything is written.
    std::fs::create_dir_all(store.path(&record.trial)).unwrap();
    store.write(&record).unwrap_err();
    assert_eq!(names(&folder.path().join("fig4/smoke")).len(), 1);
    std::fs::remove_dir(store.path(&record.trial)).unwrap();
    // A file in place of the folder.
    std::fs::write(folder.path().join("blocked"), "").unwrap();
    Store::new(folder.path().join("blocked")).write(&record).unwrap_err();
    assert_eq!(std::fs::read(folder.path().join("blocked")).unwrap(), b"");
}

/// The superuser may write into a read-only folder, so for it this test has nothing to see.
#[cfg(unix)]
#[test]
fn nothing_is_left_in_a_read_only_folder() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, store) = store();
    let record = record(1);
    let inner = folder.path().join("fig4/smoke");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o555)).unwrap();
    let superuser = std::fs::write(inner.join("probe"), "").is_ok();
    if !superuser {
        let error = store.write(&record).unwrap_err().to_string();
        assert!(error.starts_with("write into "), "{error}");
        assert!(names(&inner).is_empty());
    }
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn damaged_files_are_named() {
    let (folder, store) = store();
    let path = store.write(&record(2)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for n_bytes in [0, 3, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..n_bytes]).unwrap();
        let error = store.read_all("fig4", Scale::Smoke).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(error.contains("not a complete Parquet file"), "{error}");
    }
    let missing = store.read(&folder.path().join("none.parquet")).unwrap_err().to_string();
    assert!(missing.contains("none.parquet"), "{missing}");
}

#[test]
fn all_records_are_read_in_order() {
    let (folder, store) = store();
    let fig4 = Library::embedded().get("fig4").unwrap();
    let trials = fig4.trials(Scale::Smoke, None, &[]).unwrap();
    for trial in trials.iter().rev() {
        store.write(&TrialRecord { trial: trial.clone(), ..record(1) }).unwrap();
    }
    std::fs::write(folder.path().join("fig4/smoke/.writing-1.tmp"), "half").unwrap();
    let records = store.read_all("fig4", Scale::Smoke).unwrap();
    assert_eq!(records.len(), trials.len());
    // The oracle is the documented order: series, then x, then seed.
    let key = |record: &TrialRecord| (record.trial.series.clone(), record.trial.x, record.trial.seed);
    let in_order = |pair: &[TrialRecord]| key(&pair[0]).partial_cmp(&key(&pair[1])) == Some(Ordering::Less);
    assert!(records.windows(2).all(in_order));
    assert_eq!(store.scales("fig4").unwrap(), [Scale::Smoke]);
    assert!(store.scales("fig2").unwrap().is_empty());
    assert!(store.read_all("fig4", Scale::Paper).unwrap().is_empty());
}

#[test]
fn comparison_leaves_out_time_and_threads_only() {
    let a = record(2);
    let mut b = a.clone();
    b.epochs[0].wall_s = 99.0;
    b.provenance.threads = 7;
    b.provenance.finished_at = "later".into();
    compare_ignoring_time(&a, &b).unwrap();
    b.epochs[1].test_loss = f64::from_bits(b.epochs[1].test_loss.to_bits() + 1);
    assert_snapshot!(compare_ignoring_time(&a, &b).unwrap_err(), @"test_loss of epoch 2: 1.1 against 1.1000000000000003");
}

/// Oracle: the file as written; `results/README.md` names its columns and types, in order.
#[test]
fn readme_names_exactly_the_columns() {
    let (_folder, store) = store();
    let path = store.write(&record(1)).unwrap();
    let frame = ParquetReader::new(std::fs::File::open(path).unwrap()).finish().unwrap();
    let written: Vec<String> =
        frame.columns().iter().map(|column| format!("{} {}", column.name(), column.dtype())).collect();
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("results/README.md")).unwrap();
    let documented: Vec<String> = readme
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let name = cells.next()?.trim().trim_end_matches('`').to_owned();
            Some(format!("{name} {}", cells.next()?.trim()))
        })
        .collect();
    assert_eq!(documented, written);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// Every finite or infinite metric comes back bit for bit.
    #[test]
    fn any_numbers_round_trip(
        values in prop::collection::vec(prop::num::f64::ANY, 0..8),
        seed: u64,
        queries: u64,
        error in ".{0,30}",
    ) {
        let (_folder, store) = store();
        let mut written = record(0);
        written.status = Status::Diverged;
        written.error = error;
        written.trial.seed = seed;
        written.epochs = values.iter().zip(1..).map(|(value, idx)| EpochRecord {
            train_loss: *value,
            test_accuracy: *value,
            queries,
            ..epoch(idx)
        }).collect();
        let read = store.read(&store.write(&written).unwrap()).unwrap();
        prop_assert_eq!(compare_ignoring_time(&written, &read), Ok(()));
    }
}
