//! Result files: round trips, atomicity, what other programs see.

use std::cmp::Ordering;
use std::path::Path;

use deepzero::experiment::{Library, MAX_SEEDS, Scale, Trial, settings};
use deepzero::metric::{
    COSINE, GRADIENT_NORM, LEARNING_RATE, METRICS, Metric, N_ACTIVE, QUERIES, QUERIES_NON_FINITE, Row,
    TEST_ACCURACY, TEST_LOSS, TRAIN_ACCURACY, TRAIN_LOSS, VAL_ACCURACY, VAL_LOSS, WALL_S,
};
use deepzero::profile::Profile;
use deepzero::results::{Provenance, Store, Tolerance, TrialRecord, Verified, compare_ignoring_time, verify};
use deepzero::setting::text_of;
use deepzero::train::Status;
use insta::assert_snapshot;
use polars::prelude::{ParquetReader, ParquetWriter, SerReader};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn trial() -> Trial {
    Library::embedded().get("fig4").unwrap().trials(Scale::Smoke, None, &[]).unwrap().remove(0)
}

fn epoch(epoch: u32) -> Row {
    let t = f64::from(epoch);
    let mut row = Row::new(epoch)
        .with(&TRAIN_LOSS, 2.3 / t)
        .with(&TRAIN_ACCURACY, 0.1 * t)
        .with(&TEST_LOSS, 2.2 / t)
        .with(&TEST_ACCURACY, 0.09 * t)
        .with(&LEARNING_RATE, 0.1)
        .with(&GRADIENT_NORM, 1.0 / 3.0)
        .with(&WALL_S, 1.5 * t)
        .with(&COSINE, 1.0 / t);
    for (metric, count) in [(&N_ACTIVE, 618), (&QUERIES, 619 * u64::from(epoch)), (&QUERIES_NON_FINITE, 0)] {
        row.set_count(metric, count);
    }
    row
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
        profiles: Vec::new(),
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
    assert_eq!(a.epochs, b.epochs);
}

#[test]
fn a_record_comes_back_as_it_was() {
    let (_folder, store) = store();
    let mut written = record(3);
    written.epochs[1].set(&VAL_LOSS, 2.0);
    written.epochs[1].set(&VAL_ACCURACY, 0.25);
    written.best_epoch = Some(2);
    assert!(!store.exists(&written.trial));
    let path = store.write(&written).unwrap();
    assert!(store.exists(&written.trial));
    assert_eq!(path, store.path(&written.trial));
    let read = store.read(&path).unwrap();
    assert!(read.epochs[0].get(&VAL_LOSS).is_nan());
    assert_same(&written, &read);
    assert_same(&written, &store.find(&written.trial).unwrap().unwrap());
    assert_eq!(names(path.parent().unwrap()).len(), 1, "no temporary file is left");
}

/// Oracle: what was written. Folders hold profiles and masks beside the record.
#[test]
fn profiles_and_masks_stand_beside_a_record() {
    let (_folder, store) = store();
    let mut written = record(1);
    let tensors = ["conv1.weight", "bn1.weight"].map(str::to_owned).to_vec();
    written.profiles = vec![
        Profile::new("radii", "radius", vec!["0.25".into(), "0.5".into(), "1".into()])
            .on_axis(vec![0.25, 0.5, 1.0])
            .with("certified_accuracy", vec![0.75, f64::NAN, 0.1]),
        Profile::new(Profile::TENSORS, "tensor", tensors)
            .with_counts("n", vec![3, 2])
            .with_counts("n_active", vec![2, 2])
            .with("cosine", vec![0.5, f64::NAN])
            .with("relative_error", vec![f64::NAN; 2]),
    ];
    store.write_mask(&written, &[true, false, true, true, true]).unwrap();
    let path = store.write(&written).unwrap();
    let read = store.read(&path).unwrap();
    assert_same(&written, &read);
    assert!(read.profile(Profile::TENSORS).unwrap().column("cosine").unwrap()[1].is_nan());
    let columns = &read.profile(Profile::TENSORS).unwrap().columns;
    assert_eq!(columns.iter().map(|c| c.is_count).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(store.read_all("fig4", Scale::Smoke).unwrap().len(), 1);
    let mask = std::fs::File::open(path.with_file_name("masks").join(path.file_name().unwrap())).unwrap();
    let mask = ParquetReader::new(mask).finish().unwrap();
    let kept: Vec<_> = mask.column("kept").unwrap().bool().unwrap().iter().flatten().collect();
    assert_eq!(kept, [true, false, true, true, true]);
    let names: Vec<_> = mask.column("tensor").unwrap().str().unwrap().iter().flatten().collect();
    assert_eq!(names[2..4], ["conv1.weight", "bn1.weight"]);
    // A difference in a profile is one of the records, but for its time columns.
    let mut other = read.clone();
    other.profiles[0] = other.profiles[0].clone().with("seconds_s", vec![1.0; 3]);
    let mut later = read.clone();
    later.profiles[0] = later.profiles[0].clone().with("seconds_s", vec![2.0; 3]);
    compare_ignoring_time(&other, &later).unwrap();
    later.profiles[0].xs[2] = 2.0;
    let difference = compare_ignoring_time(&other, &later).unwrap_err();
    assert_snapshot!(difference, @"x of radii: [0.25, 0.5, 1.0] against [0.25, 0.5, 2.0]");
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
    diverged.epochs[1].set(&TRAIN_LOSS, f64::NAN);
    diverged.epochs[1].set(&TEST_LOSS, f64::INFINITY);
    diverged.epochs[1].set(&GRADIENT_NORM, f64::NEG_INFINITY);
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

/// Oracle: a file as earlier versions wrote it, without checksums, and one whose bytes are of another trial.
#[test]
fn files_without_a_checksum_or_under_another_name_are_refused() {
    let (_folder, store) = store();
    let path = store.write(&record(2)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let mut frame = ParquetReader::new(std::io::Cursor::new(bytes.clone())).finish().unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    let error = store.read(&path).unwrap_err().to_string();
    assert!(error.starts_with(&path.display().to_string()), "{error}");
    assert!(error.contains("has no checksum; `scripts/verify-results --add`"), "{error}");
    let other = path.with_file_name("0123456789abcdef.parquet");
    std::fs::write(&other, bytes).unwrap();
    let error = store.read(&other).unwrap_err().to_string();
    assert!(error.contains("0123456789abcdef.parquet: holds the trial of "), "{error}");
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
    b.epochs[0].set(&WALL_S, 99.0);
    b.provenance.threads = 7;
    b.provenance.finished_at = "later".into();
    compare_ignoring_time(&a, &b).unwrap();
    let next = f64::from_bits(b.epochs[1].get(&TEST_LOSS).to_bits() + 1);
    b.epochs[1].set(&TEST_LOSS, next);
    assert_snapshot!(compare_ignoring_time(&a, &b).unwrap_err(), @"test_loss of epoch 2: 1.1 against 1.1000000000000003");
}

/// Oracle: a record that was just made and the same one read from disk, where profiles come as their folders are named.
#[test]
fn profiles_are_compared_by_kind() {
    let (_folder, store) = store();
    let profile =
        |kind: &str, value: f64| Profile::new(kind, "frame", vec!["1".into()]).with("mae", vec![value]);
    let made = TrialRecord {
        profiles: vec![profile(Profile::REYNOLDS, 0.1), profile(Profile::FRAMES, 0.2)],
        ..record(2)
    };
    let read = store.read(&store.write(&made).unwrap()).unwrap();
    assert_ne!(read.profiles, made.profiles, "the order is the point of this test");
    compare_ignoring_time(&read, &made).unwrap();
    let tolerance = Tolerance { points: 0.0, relative: 0.0 };
    assert_eq!(verify(&read, &made, &[], tolerance), Verified::SameBits);
    let other = TrialRecord {
        profiles: vec![profile(Profile::REYNOLDS, 0.1), profile(Profile::FRAMES, 0.25)],
        ..made
    };
    assert_snapshot!(compare_ignoring_time(&read, &other).unwrap_err(), @"mae of frames: [0.2] against [0.25]");
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
    // What it says of a setting and of a metric is what the program says.
    for setting in settings::describe() {
        let column = format!("| `setting_{}` |", setting.name.replace('-', "_"));
        let row = readme.lines().find(|line| line.starts_with(&column)).unwrap();
        assert!(row.ends_with(&format!("| {} |", setting.help)), "{row}");
    }
    for metric in
        METRICS.iter().filter(|metric| written.iter().any(|w| w.split(' ').next() == Some(metric.column)))
    {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{}` |", metric.column))).unwrap();
        if metric.name.replace('-', "_") == metric.column {
            let time = if metric.is_time { "**Time column.** " } else { "" };
            assert!(row.ends_with(&format!("| {time}{} |", metric.help)), "{row}");
        }
    }
}

/// Oracle: the trial. Every task and method of the experiments leaves columns of what it reads, null where it reads
/// nothing, and a name of which the trial comes back.
#[test]
fn columns_of_settings_hold_what_is_read() {
    for id in ["fig4", "fig5", "estimators", "quality-mu", "tabA1", "figA6", "workers-model"] {
        let mut trials = Library::embedded().get(id).unwrap().trials(Scale::Smoke, Some(1), &[]).unwrap();
        trials.dedup_by(|a, b| a.series == b.series);
        for trial in trials {
            let (_folder, store) = store();
            let path = store.write(&TrialRecord { trial: trial.clone(), ..record(1) }).unwrap();
            let frame = ParquetReader::new(std::fs::File::open(&path).unwrap()).finish().unwrap();
            let columns = frame.columns().iter().filter(|c| c.name().starts_with("setting_"));
            assert_eq!(columns.count(), settings::entries().len());
            for entry in settings::entries() {
                let column = frame.column(&format!("setting_{}", entry.name.replace('-', "_"))).unwrap();
                assert_eq!(column.null_count(), if trial.settings.is_read(entry.name) { 0 } else { 2 });
                if let Some(value) = trial.settings.get(entry.name) {
                    let written = column.get(1).unwrap().to_string();
                    let number = |text: &str| text.parse::<f64>().ok();
                    let (written, value) = (written.trim_matches('"'), text_of(&value));
                    assert!(
                        written == value || number(written) == number(&value),
                        "{}: {written}",
                        entry.name
                    );
                }
            }
            let named = frame.column("settings").unwrap().get(1).unwrap().get_str().unwrap().to_owned();
            assert_eq!(named, settings::canonical_json(&trial.settings));
            assert_eq!(store.read(&path).unwrap().trial, trial);
        }
    }
}

/// Oracle: the files in the repository. A result is found again by its trial's name, so what a file says its trial is,
/// its name and what the experiment plans must agree, and no file may be left that no plan asks for. A plan may be done
/// in part: long runs are committed as they come.
#[test]
fn committed_results_are_those_of_planned_trials() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let store = Store::new(root.join("results"));
    let mut n_found = 0;
    for experiment in Library::open(Some(&root.join("experiments"))).unwrap().all().unwrap() {
        for scale in store.scales(&experiment.id).unwrap() {
            let found: Vec<Trial> = store
                .read_all(&experiment.id, scale)
                .unwrap()
                .into_iter()
                .map(|record| record.trial)
                .collect();
            let planned = experiment.trials(scale, None, &[]).unwrap();
            assert!(found.iter().all(|trial| store.exists(trial)), "{} {scale}", experiment.id);
            for trial in &found {
                let (series, hash) = (&trial.series, trial.hash());
                assert!(planned.contains(trial), "{} {scale}: {series}, {hash}", experiment.id);
            }
            n_found += found.len();
        }
    }
    assert!(n_found > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// Every finite or infinite metric comes back bit for bit.
    #[test]
    fn any_numbers_round_trip(
        values in prop::collection::vec(prop::num::f64::ANY, 0..8),
        seed in 0..MAX_SEEDS as u64,
        queries: u64,
        error in ".{0,30}",
    ) {
        let (_folder, store) = store();
        let mut written = record(0);
        written.status = Status::Diverged;
        written.error = error;
        written.trial.seed = seed;
        written.epochs = values.iter().zip(1..).map(|(value, idx)| {
            let mut row = epoch(idx).with(&TRAIN_LOSS, *value).with(&TEST_ACCURACY, *value);
            row.set_count(&QUERIES, queries);
            row
        }).collect();
        let read = store.read(&store.write(&written).unwrap()).unwrap();
        prop_assert_eq!(compare_ignoring_time(&written, &read), Ok(()));
    }
}

/// Oracle: by hand, with 10 points and a tenth allowed; three standard errors about 0.315 of 500 images are 8.8 points.
#[test]
fn what_is_counted_is_the_same_and_the_rest_is_close() {
    let tolerance = Tolerance { points: 10.0, relative: 0.1 };
    let old = record(3);
    let with = |change: &dyn Fn(&mut TrialRecord)| {
        let mut new = old.clone();
        change(&mut new);
        verify(&old, &new, &[], tolerance)
    };
    let last = |record: &mut TrialRecord, metric: &Metric, value: f64| {
        record.epochs.last_mut().unwrap().set(metric, value);
    };
    let of = |metric: &Metric| old.epochs.last().unwrap().get(metric);
    assert_eq!(with(&|new| last(new, &WALL_S, 1e3)), Verified::SameBits);
    let close = with(&|new| last(new, &TEST_ACCURACY, of(&TEST_ACCURACY) + 0.099));
    assert!(matches!(close, Verified::Close(_)), "{close:?}");
    let narrow = |change: f64| {
        let mut new = old.clone();
        last(&mut new, &TEST_ACCURACY, of(&TEST_ACCURACY) + change);
        verify(&old, &new, &[], Tolerance { points: 2.0, ..tolerance })
    };
    assert!(matches!(narrow(0.087), Verified::Close(_)));
    assert!(matches!(narrow(0.090), Verified::Different(_)));
    for different in [
        with(&|new| last(new, &TEST_ACCURACY, of(&TEST_ACCURACY) + 0.101)),
        with(&|new| last(new, &TRAIN_LOSS, of(&TRAIN_LOSS) * 1.2)),
        with(&|new| last(new, &TRAIN_LOSS, f64::NAN)),
        with(&|new| last(new, &QUERIES, of(&QUERIES) + 1.0)),
        with(&|new| new.status = Status::Diverged),
        with(&|new| new.epochs.clear()),
        with(&|new| new.provenance.data_checksum = "other".to_owned()),
    ] {
        assert!(matches!(different, Verified::Different(_)), "{different:?}");
    }
}

/// Oracle: by hand. Seeds at 0.7 and 0.9 of one position and at 0.5 of another have a standard deviation of 0.1414; three
/// standard errors of a difference are 0.6 of a loss, 60 points of an accuracy. Seeds of other series do not count.
#[test]
fn other_kernels_may_be_as_far_off_as_other_seeds() {
    let trial_with = |loss: f64, x: &str, series: &str| {
        let mut record = record(3);
        record.trial.x_text = x.to_owned();
        record.trial.series = series.to_owned();
        let last = record.epochs.last_mut().unwrap();
        last.set(&TRAIN_LOSS, loss);
        last.set(&TEST_ACCURACY, loss);
        record
    };
    let old = trial_with(0.7, "1", "one");
    let seeds =
        [old.clone(), trial_with(0.9, "1", "one"), trial_with(0.5, "2", "one"), trial_with(9.0, "1", "two")];
    let with = |metric: &Metric, value: f64, all: &[TrialRecord]| {
        let mut new = old.clone();
        new.epochs.last_mut().unwrap().set(metric, value);
        verify(&old, &new, all, Tolerance { points: 1.0, relative: 0.01 })
    };
    assert!(matches!(with(&TRAIN_LOSS, 1.299, &seeds), Verified::Close(_)));
    assert!(matches!(with(&TRAIN_LOSS, 1.301, &seeds), Verified::Different(_)));
    assert!(matches!(with(&TEST_ACCURACY, 0.101, &seeds), Verified::Close(_)));
    assert!(matches!(with(&TEST_ACCURACY, 0.099, &seeds), Verified::Different(_)));
    assert!(matches!(with(&TRAIN_LOSS, 0.71, &seeds[..1]), Verified::Different(_)));
}
