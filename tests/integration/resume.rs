//! Runs that are killed or stopped, and go on to the same numbers.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use deepzero::data;
use deepzero::experiment::Settings;
use deepzero::metric::{Row, WALL_S};
use deepzero::results::{Profile, TrialRecord, compare_ignoring_time};
use deepzero::task::{self, Checkpoint, Model, Observer, Prepared, Quiet, Session};
use deepzero::{Error, Result};

use super::cli::{Place, Ran, experiment, set, without_times};

/// One trial of several epochs with everything that a checkpoint must carry: momentum, running
/// statistics, query counts, an active set drawn anew in between.
fn place() -> Place {
    let settings = "method = \"cge\"\ndepth = 2\nwidth = 4\naugment = true\nsparsity = 0.5\n\
                    layer-ratios = \"zo-grasp\"\ngrasp-queries = 8\ngrasp-images-per-class = 2\n\
                    redraw-every = 3\nn-train = 160\nepochs = 7\nbatch-size = 32\nwarmup-epochs = 1";
    Place::with(&[("tiny", experiment("tiny", "mu", "[0.005]", settings))])
}

/// The trial's record of a run from start to end on one thread.
static WHOLE: LazyLock<TrialRecord> = LazyLock::new(|| {
    let place = place();
    place.run("reproduce tiny --scale smoke --threads 1").ok();
    place.records("tiny").remove(0)
});

/// The only file with this extension below `folder`, once it exists and `ready` holds of it.
pub(crate) fn wait_for(folder: &Path, extension: &str, ready: impl Fn(&Path) -> bool) -> PathBuf {
    let started = Instant::now();
    loop {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut found = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
        if let Some(path) = found.next().filter(|path| ready(path)) {
            return path;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "no .{extension} in {}", folder.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts the command and waits until its checkpoint has `n_epochs`.
fn started(place: &Place, args: &str, folder: &str, n_epochs: usize) -> (Child, PathBuf) {
    let child = place.spawn(args);
    let reached = |path: &Path| Checkpoint::progress(path).is_some_and(|at| at.epoch >= n_epochs);
    (child, wait_for(&place.path(folder), "state", reached))
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = std::process::Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(sent.unwrap().success());
}

pub(crate) fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

const FOLDER: &str = "results/tiny/smoke";

/// Killed twice, then run to the end: the record of a run that nobody stopped, whatever the threads.
fn killed_run_ends_the_same(threads: usize) {
    let place = place();
    let args = format!("reproduce tiny --scale smoke --threads {threads}");
    for n_epochs in [1, 3] {
        let (child, state) = started(&place, &args, FOLDER, n_epochs);
        let note = |ran: Ran| ran.json()[0]["notes"][0].as_str().unwrap_or_default().to_owned();
        let running = note(place.run("status tiny --json"));
        assert!(running.contains("running, epoch"), "{running}");
        signal(&child, "KILL");
        let (code, stderr) = end(child);
        assert_eq!(code, None, "{stderr}");
        assert!(state.exists() && place.records("tiny").is_empty());
        let interrupted = note(place.run("status --json"));
        assert!(interrupted.contains("interrupted, epoch"), "{interrupted}");
        assert!(place.run("status").ok().contains("interrupted, epoch"));
        assert!(place.run("plan tiny").ok().contains("/7"));
    }
    let ran = place.run(&args);
    assert!(ran.stderr.contains("going on after epoch"), "{}", ran.stderr);
    ran.ok();
    let [record] = &place.records("tiny")[..] else { panic!("one record") };
    compare_ignoring_time(&WHOLE, record).unwrap();
    assert_eq!(record.provenance.threads as usize, threads);
    assert!(record.epochs.windows(2).all(|pair| pair[0].get(&WALL_S) < pair[1].get(&WALL_S)));
    let names = std::fs::read_dir(place.path(FOLDER)).unwrap();
    // What was being written when the process was killed may lie around.
    let left = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = left.filter(|name| !name.starts_with(".writing-")).collect();
    // The record, and the folder of what is known of its tensors.
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(record.profile(Profile::TENSORS).unwrap().labels.len(), 10);
    assert_eq!(place.run("status --json").json()[0]["done"], 1);
}

#[test]
fn a_killed_run_ends_the_same_on_one_thread() {
    killed_run_ends_the_same(1);
}

#[test]
fn a_killed_run_ends_the_same_on_two_threads() {
    killed_run_ends_the_same(2);
}

/// Ctrl-C and a polite kill: exit code 130, a checkpoint, and the same command goes on.
#[test]
fn a_stopped_run_goes_on() {
    let place = place();
    let args = "reproduce tiny --scale smoke --threads 2";
    for (name, n_epochs) in [("INT", 1), ("TERM", 3)] {
        let (child, state) = started(&place, args, FOLDER, n_epochs);
        signal(&child, name);
        let (code, stderr) = end(child);
        assert_eq!(code, Some(130), "{stderr}");
        assert!(stderr.lines().last().unwrap().starts_with("deepzero: "), "{stderr}");
        assert!(stderr.contains("interrupted"), "{stderr}");
        assert!(state.exists() && place.records("tiny").is_empty());
        assert!(place.run("status tiny").ok().contains("interrupted, epoch"));
    }
    place.run(args).ok();
    compare_ignoring_time(&WHOLE, &place.records("tiny")[0]).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let place = place();
    let args = "reproduce tiny --scale smoke";
    let (child, state) = started(&place, args, FOLDER, 1);
    signal(&child, "KILL");
    end(child);
    let bytes = std::fs::read(&state).unwrap();
    let name = state.file_name().unwrap().to_str().unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..20], b""] {
        std::fs::write(&state, damaged).unwrap();
        let ran = place.run(args);
        let line = ran.refusal();
        assert!(line.contains(name) && line.contains("delete this checkpoint"), "{line}");
        assert_eq!(std::fs::read(&state).unwrap(), damaged, "it is evidence");
        place.run("status").ok();
    }
    // As advised.
    std::fs::remove_file(&state).unwrap();
    place.run(args).ok();
    compare_ignoring_time(&WHOLE, &place.records("tiny")[0]).unwrap();
}

#[test]
fn train_goes_on_when_asked_to() {
    let settings = "data=synthetic model=cnn depth=2 width=4 n-train=160 n-val=20 n-test=20 epochs=5 \
                    batch-size=32 warmup-epochs=1 sparsity=0 method=cge";
    let train = |out: &str| format!("train{} --json --out {out}", set(settings));
    let place = Place::new();
    let whole = without_times(place.run(&train("whole.safetensors")).json());
    let (child, state) = started(&place, &train("cut.safetensors"), "", 1);
    signal(&child, "INT");
    let (code, stderr) = end(child);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("--resume"), "{stderr}");
    assert_eq!(state, place.path("cut.state"));
    assert!(!place.path("cut.safetensors").exists());
    let ran = place.run(&train("cut.safetensors"));
    assert!(ran.refusal().contains("--resume"), "{}", ran.stderr);
    let other = place.run(&format!("{} --resume --set mu=0.1", train("cut.safetensors")));
    assert!(other.refusal().contains("other settings"), "{}", other.stderr);
    let ran = place.run(&format!("{} --resume", train("cut.safetensors")));
    assert!(ran.stderr.contains("going on after epoch"), "{}", ran.stderr);
    let cut = without_times(ran.json());
    assert_eq!((&cut["epochs"], &cut["best_epoch"]), (&whole["epochs"], &whole["best_epoch"]));
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(bytes("cut.safetensors") == bytes("whole.safetensors"));
    assert!(!state.exists());
    // Nothing to go on from is no error.
    let ran = place.run(&format!("{} --resume --set epochs=1", train("new.safetensors")));
    ran.ok();
}

/// Stops training after an epoch.
struct StopAfter<'a> {
    epoch: u32,
    interrupt: &'a AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn epoch(&self, row: &Row) {
        self.interrupt.store(row.epoch == self.epoch, Ordering::Relaxed);
    }
}

fn train(settings: &Settings, checkpoint: Option<&Path>, stop_after: Option<u32>) -> Result<Model> {
    let splits = data::synthetic(settings.n_train + settings.n_val, settings.n_test);
    let prepared = Prepared::new(settings, 3, &splits)?;
    let interrupt = AtomicBool::new(false);
    let stop = stop_after.map(|epoch| StopAfter { epoch, interrupt: &interrupt });
    let observer: &dyn Observer = match &stop {
        Some(stop) => stop,
        None => &Quiet,
    };
    let session = Session {
        ranks: &deepzero::ranks::ALONE,
        data: &prepared,
        device: &Device::Cpu,
        memory: deepzero::nn::difference::DEFAULT_MEMORY,
        checkpoint: checkpoint.map(|path| (path, "hash")),
        interrupt: &interrupt,
        observer,
    };
    task::train(settings, 3, &session)
}

/// Every kind of state, stopped after every epoch. Oracle: the run that was not stopped.
#[test]
fn every_method_goes_on_bit_for_bit() {
    let base = "data=synthetic model=cnn depth=1 width=2 n-train=40 n-val=20 n-test=20 epochs=3 batch-size=20 \
                warmup-epochs=1 grasp-images-per-class=2 grasp-queries=4 redraw-every=2 queries=0";
    for more in [
        "method=cge sparsity=0",
        "method=cge sparsity=0.5 mask=fixed always-active=false evaluator=full",
        "method=rge sparsity=0.5 layer-ratios=uniform optimizer=adam",
        "method=rge sparsity=0 directions=per-tensor queries=20",
        "method=fo sparsity=0.5 layer-ratios=fo-grasp mask=fixed sparse-target=weights",
        "method=fo sparsity=0.5 layer-ratios=zo-grasp-released precision=f64 augment=false n-val=0",
        "method=cocd sparsity=0.5 queries=9 decay=0.7",
        "method=rge sparsity=0 queries=5 directions=rademacher step-scale=loss-spread momentum=0",
        "method=pattern-search sparsity=0 queries=23 radius=0.3",
        "method=pattern-search sparsity=0 search-steps=3 search=best population=9 normalize-logits=true",
        "method=pattern-search sparsity=0 evaluator=full init=uniform batch-size=99 stop-when-fitted=true",
        "method=fo sparsity=0.5 layer-ratios=zo-grasp mask=rescore",
        "method=fo sparsity=0.5 layer-ratios=smart-ratio",
        "method=cge sparsity=0.5 layer-ratios=snip redraw-every=1 mask=rescore",
    ] {
        let mut settings = Settings::default();
        for pair in base.split_whitespace().chain(more.split_whitespace()) {
            let (key, value) = pair.split_once('=').unwrap();
            settings.set_text(key, value).unwrap();
        }
        settings.check().unwrap();
        let whole = train(&settings, None, None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("x.state");
        for epoch in [1, 2] {
            let stopped = train(&settings, Some(&state), Some(epoch)).unwrap_err();
            assert!(matches!(stopped, Error::Interrupted), "{more}: {stopped}");
        }
        let resumed = train(&settings, Some(&state), None).unwrap();
        assert_eq!(resumed.params, whole.params, "{more}");
        assert_eq!(resumed.stats, whole.stats, "{more}");
        let untimed =
            |model: &Model| -> Vec<Row> { model.epochs.iter().map(|row| row.with(&WALL_S, 0.0)).collect() };
        assert_eq!(untimed(&resumed), untimed(&whole), "{more}");
    }
}
