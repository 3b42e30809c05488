//! Runs that are killed or stopped, and go on to the same numbers.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use deepzero::data;
use deepzero::experiment::settings;
use deepzero::method::baseline;
use deepzero::metric::{Metric, QUERIES, Row, WALL_S};
use deepzero::problem::Prepared;
use deepzero::profile::Profile;
use deepzero::results::{TrialRecord, compare_ignoring_time};
use deepzero::setting::Settings;
use deepzero::task::{self, Outcome, Session};
use deepzero::train::{Checkpoint, Observer, Quiet};
use deepzero::{Error, Result};

use super::cli::{Place, Ran, TIME_LIMIT, experiment, set, without_times};

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

/// A started command, which does not outlive the test.
pub(crate) struct Running {
    child: Option<Child>,
}

impl Running {
    pub(crate) fn new(child: Child) -> Self {
        Self { child: Some(child) }
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it has not been waited for")
    }

    pub(crate) fn pid(&mut self) -> u32 {
        self.child().id()
    }

    /// Waits until the checkpoint in `folder` has `n_epochs` behind it; false if the command ended before that was seen.
    pub(crate) fn reaches(&mut self, folder: &Path, n_epochs: usize) -> bool {
        let waiting_since = Instant::now();
        while self.child().try_wait().unwrap().is_none() {
            if checkpoint_in(folder).is_some_and(|(_, epoch)| epoch >= n_epochs) {
                return true;
            }
            assert!(waiting_since.elapsed() < TIME_LIMIT, "no checkpoint in {}", folder.display());
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// Suspends the process, and waits until none of its threads runs; false if it has ended.
    fn suspend(&mut self) -> bool {
        let pid = self.pid();
        assert!(signal(pid, libc::SIGSTOP));
        // SAFETY: all zeros is a value of this plain structure, and the call writes into nothing else.
        let code = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let events = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
            assert_eq!(libc::waitid(libc::P_PID, pid, &raw mut info, events), 0);
            info.si_code
        };
        code == libc::CLD_STOPPED
    }

    /// Waits for the end; exit code, none if it was killed, and stderr.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let output = self.child.take().expect("it is waited for once").wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // If it has ended already there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The only checkpoint in a folder, if there is one, and the epochs that it has behind it.
pub(crate) fn checkpoint_in(folder: &Path) -> Option<(PathBuf, usize)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let state = paths.find(|path| path.extension().is_some_and(|found| found == "state"))?;
    let progress = Checkpoint::progress(&state)?;
    Some((state, progress.epoch))
}

/// Starts the command and suspends it with a checkpoint of one of these epochs, so that nothing changes any more until
/// it is killed or goes on. None if it was too fast: an epoch beyond these, or its end, came first.
fn suspended(
    place: &Place,
    args: &str,
    folder: &str,
    epochs: RangeInclusive<usize>,
) -> Option<(Running, PathBuf)> {
    let folder = place.path(folder);
    let mut running = Running::new(place.spawn(args));
    if !running.reaches(&folder, *epochs.start()) {
        let (code, stderr) = running.end();
        assert_eq!(code, Some(0), "{stderr}");
        return None;
    }
    let has_ended = !running.suspend();
    let (state, epoch) = checkpoint_in(&folder).filter(|_| !has_ended)?;
    epochs.contains(&epoch).then_some((running, state))
}

/// Repeats an attempt until it says that it came in time. Nobody can be sure to stop a process between two of its
/// epochs on a machine that is busy with other things; an attempt that came too late shows nothing.
#[track_caller]
pub(crate) fn in_time(attempt: impl Fn() -> Option<()>) {
    const ATTEMPTS: usize = 100;
    assert!((0..ATTEMPTS).any(|_| attempt().is_some()), "always too late");
}

/// Sends a signal; false if there is no such process.
pub(crate) fn signal(pid: u32, signal: i32) -> bool {
    // SAFETY: the call touches no memory of this process.
    unsafe { libc::kill(pid.cast_signed(), signal) == 0 }
}

/// Has a suspended process find this signal when it goes on, and waits for its end; none if it came to the end of its
/// work before it noticed.
fn stopped(mut running: Running, name: i32) -> Option<String> {
    assert!(signal(running.pid(), name) && signal(running.pid(), libc::SIGCONT));
    let (code, stderr) = running.end();
    if code == Some(0) {
        return None;
    }
    assert_eq!(code, Some(130), "{stderr}");
    Some(stderr)
}

const FOLDER: &str = "results/tiny/smoke";

/// Killed twice, then run to the end: the record of a run that nobody stopped, whatever the threads.
fn killed_run_ends_the_same(threads: usize) -> Option<()> {
    let place = place();
    let args = format!("reproduce tiny --scale smoke --threads {threads}");
    // A second process that is seen at the later epochs has gone on from the checkpoint of the first.
    for epochs in [1..=2, 3..=5] {
        let (running, state) = suspended(&place, &args, FOLDER, epochs)?;
        let note = |ran: Ran| ran.json()[0]["notes"][0].as_str().unwrap_or_default().to_owned();
        let noted = note(place.run("status tiny --json"));
        assert!(noted.contains("running, epoch"), "{noted}");
        kill(running);
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
    Some(())
}

fn kill(mut running: Running) {
    assert!(signal(running.pid(), libc::SIGKILL));
    let (code, stderr) = running.end();
    assert_eq!(code, None, "{stderr}");
}

#[test]
fn a_killed_run_ends_the_same_on_one_thread() {
    in_time(|| killed_run_ends_the_same(1));
}

#[test]
fn a_killed_run_ends_the_same_on_two_threads() {
    in_time(|| killed_run_ends_the_same(2));
}

/// Ctrl-C and a polite kill: exit code 130, a checkpoint, and the same command goes on.
#[test]
fn a_stopped_run_goes_on() {
    in_time(|| {
        let place = place();
        let args = "reproduce tiny --scale smoke --threads 2";
        for (name, epochs) in [(libc::SIGINT, 1..=2), (libc::SIGTERM, 3..=5)] {
            let (running, state) = suspended(&place, args, FOLDER, epochs)?;
            let stderr = stopped(running, name)?;
            assert!(stderr.lines().last().unwrap().starts_with("deepzero: "), "{stderr}");
            assert!(stderr.contains("interrupted"), "{stderr}");
            assert!(state.exists() && place.records("tiny").is_empty());
            assert!(place.run("status tiny").ok().contains("interrupted, epoch"));
        }
        place.run(args).ok();
        compare_ignoring_time(&WHOLE, &place.records("tiny")[0]).unwrap();
        Some(())
    });
}

#[test]
fn a_damaged_checkpoint_is_named() {
    in_time(|| {
        let place = place();
        let args = "reproduce tiny --scale smoke";
        let (running, state) = suspended(&place, args, FOLDER, 1..=6)?;
        kill(running);
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
        Some(())
    });
}

#[test]
fn train_goes_on_when_asked_to() {
    let settings = "data=synthetic model=cnn depth=2 width=4 n-train=160 n-val=20 n-test=20 epochs=5 \
                    batch-size=32 warmup-epochs=1 sparsity=0 method=cge";
    let train = |out: &str| format!("train{} --json --out {out}", set(settings));
    let bytes = |place: &Place, name: &str| std::fs::read(place.path(name)).unwrap();
    let uncut = Place::new();
    let whole = without_times(uncut.run(&train("whole.safetensors")).json());
    in_time(|| {
        let place = Place::new();
        let (running, state) = suspended(&place, &train("cut.safetensors"), "", 1..=2)?;
        let stderr = stopped(running, libc::SIGINT)?;
        assert!(stderr.contains("--resume"), "{stderr}");
        assert_eq!(state, place.path("cut.safetensors.state"));
        assert!(!place.path("cut.safetensors").exists());
        let ran = place.run(&train("cut.safetensors"));
        assert!(ran.refusal().contains("--resume"), "{}", ran.stderr);
        let other = place.run(&format!("{} --resume --set mu=0.1", train("cut.safetensors")));
        assert!(other.refusal().contains("other settings"), "{}", other.stderr);
        let ran = place.run(&format!("{} --resume", train("cut.safetensors")));
        assert!(ran.stderr.contains("going on after epoch"), "{}", ran.stderr);
        let cut = without_times(ran.json());
        assert_eq!((&cut["epochs"], &cut["best_epoch"]), (&whole["epochs"], &whole["best_epoch"]));
        assert!(bytes(&place, "cut.safetensors") == bytes(&uncut, "whole.safetensors"));
        assert!(!state.exists());
        Some(())
    });
    // Nothing to go on from is no error.
    let ran = uncut.run(&format!("{} --resume --set epochs=1", train("new.safetensors")));
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

fn train(settings: &Settings, checkpoint: Option<&Path>, stop_after: Option<u32>) -> Result<Outcome> {
    let config: data::Config = settings.read()?;
    let splits = data::synthetic(config.n_train + config.n_val, config.n_test);
    let prepared = Prepared::new(&config, 3, &splits)?;
    let interrupt = AtomicBool::new(false);
    let stop = stop_after.map(|epoch| StopAfter { epoch, interrupt: &interrupt });
    let observer: &dyn Observer = match &stop {
        Some(stop) => stop,
        None => &Quiet,
    };
    let session = Session {
        ranks: &deepzero::ranks::ALONE,
        images: Some(&prepared),
        location: &data::Location::default(),
        device: &Device::Cpu,
        memory: deepzero::nn::difference::DEFAULT_MEMORY,
        checkpoint: checkpoint.map(|path| (path, "hash")),
        interrupt: &interrupt,
        observer,
    };
    task::run(settings, 3, &session)
}

/// Every kind of state, stopped after every epoch. Oracle: the run that was not stopped.
#[test]
fn every_method_goes_on_bit_for_bit() {
    let base =
        "data=synthetic model=cnn depth=1 width=2 n-train=40 n-val=20 n-test=20 epochs=3 batch-size=20";
    let of_descent = "warmup-epochs=1 grasp-images-per-class=2 grasp-queries=4 redraw-every=2";
    for more in [
        "method=cge sparsity=0",
        "method=cge sparsity=0.5 mask=fixed always-active=false evaluator=full",
        "method=rge sparsity=0.5 layer-ratios=uniform optimizer=adam",
        "method=rge sparsity=0 directions=per-tensor queries=20",
        "method=fo sparsity=0.5 layer-ratios=fo-grasp mask=fixed sparse-target=weights",
        "method=fo sparsity=0.5 layer-ratios=zo-grasp-released precision=f64 augment=false n-val=0",
        "method=cocd sparsity=0.5 queries=9 decay=0.7",
        "method=cocd sparsity=0.5 queries=9 decay=1 order=parameters difference=central",
        "method=rge sparsity=0 queries=5 optimizer=r-adazo",
        // Five steps of two an epoch.
        "method=rge sparsity=0 queries=5 query-budget=0.35",
        "method=sparse-mezo sparsity=0.5 queries=5 large-weights=0.5",
        "method=lozo sparsity=0 queries=5 subspace-steps=3",
        "method=subzero sparsity=0.5 queries=5 rank=2 subspace-steps=3",
        "method=zo-muon sparsity=0 subspace-steps=3",
        "method=hizoo sparsity=0.5 queries=5 curvature-rate=0.1",
        "method=eggroll sparsity=0 queries=5",
        "method=rge sparsity=0 queries=5 directions=rademacher step-scale=loss-spread momentum=0",
        "method=pattern-search queries=23 radius=0.3",
        "method=cma-es queries=6",
        "method=pattern-search search-steps=3 search=best population=9 normalize-logits=true",
        "method=pattern-search evaluator=full init=uniform batch-size=99 stop-when-fitted=true",
        "method=fo sparsity=0.5 layer-ratios=zo-grasp mask=rescore",
        "method=fo sparsity=0.5 layer-ratios=smart-ratio",
        "method=cge sparsity=0.5 layer-ratios=snip redraw-every=1 mask=rescore",
    ] {
        let is_descent = !more.contains("pattern-search") && !more.contains("cma-es");
        let of_descent = if is_descent { of_descent } else { "" };
        goes_on_bit_for_bit(&[base, of_descent, more].join(" "));
    }
}

/// Oracle: the queries that were counted while training ran, against the budget times the number of parameters.
#[test]
fn a_budget_of_queries_is_spent_and_kept() {
    let base = "data=synthetic model=cnn depth=1 width=4 n-train=45 n-val=20 n-test=20 batch-size=20 query-budget=3.7";
    for more in [
        "method=cge sparsity=0",
        "method=cge sparsity=0 difference=central evaluator=full",
        "method=cge sparsity=0.6 layer-ratios=uniform redraw-every=1",
        "method=cge sparsity=0.6 layer-ratios=zo-grasp grasp-images-per-class=2 grasp-queries=4 mask=fixed",
        "method=rge sparsity=0 queries=7",
        "method=rge sparsity=0.5 layer-ratios=uniform queries=7 difference=central",
        "method=cocd sparsity=0 queries=9 decay=0.7",
        "method=sparse-mezo sparsity=0 queries=5",
        "method=lozo sparsity=0 queries=5",
        "method=subzero sparsity=0 queries=5 rank=2",
        "method=zo-muon sparsity=0 queries=5",
        "method=hizoo sparsity=0 queries=5",
        "method=eggroll sparsity=0 queries=5",
    ] {
        let text = format!("{base} warmup-epochs=0 {more}");
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        let settings = settings::from_pairs(pairs).unwrap();
        let outcome = train(&settings, None, None).unwrap();
        let budget = 3.7 * outcome.n_params as f64;
        let spent = outcome.rows.last().unwrap().get(&QUERIES);
        // No step costs more than one of dense central CGE.
        let step = (2.0 * outcome.n_params as f64 + 1.0).min(budget / 2.0);
        assert!(spent <= budget && spent > budget - step, "{more}: {spent} of {budget}");
        assert_eq!(outcome.rows.len(), task::epochs(&settings).unwrap(), "{more}");
    }
}

/// Training with these settings, stopped after every epoch, ends as the run that was not stopped.
pub(crate) fn goes_on_bit_for_bit(settings: &str) {
    let pairs = settings.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    let parsed = settings::from_pairs(pairs).unwrap();
    let whole = train(&parsed, None, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("x.state");
    for epoch in [1, 2] {
        let stopped = train(&parsed, Some(&state), Some(epoch)).unwrap_err();
        assert!(matches!(stopped, Error::Interrupted), "{settings}: {stopped}");
    }
    let resumed = train(&parsed, Some(&state), None).unwrap();
    let end = |outcome: &Outcome| outcome.trained.as_ref().map(|(_, state)| state.clone()).unwrap();
    assert_eq!(end(&resumed), end(&whole), "{settings}");
    let times = || Metric::of_columns().filter(|metric| metric.is_time);
    let untimed = |outcome: &Outcome| -> Vec<Row> {
        outcome.rows.iter().map(|row| times().fold(*row, |row, time| row.with(time, 0.0))).collect()
    };
    assert_eq!(untimed(&resumed), untimed(&whole), "{settings}");
}

/// Every learning rule on every family of networks that it takes, but for those of LocalMixer, which are tested with it.
#[test]
fn every_rule_goes_on_bit_for_bit() {
    let images = "data=synthetic n-train=40 n-val=20 n-test=20 epochs=3 batch-size=20 warmup-epochs=0";
    for rule in baseline::RULES {
        for family in rule.families() {
            let sizes = match family.name() {
                "ntk-cnn" => "model=ntk-cnn depth=8 width=2 loss=squared-error pixels=unit",
                "wide-cnn" => "model=wide-cnn depth=8 width=2",
                "cnn" => "model=cnn depth=2 width=2 loss=squared-error",
                "lenet" => "model=lenet learning-rate=0.01",
                "local-mixer" => continue,
                other => panic!("sizes of a small {other}?"),
            };
            goes_on_bit_for_bit(&format!("{images} {sizes} method={}", rule.name()));
        }
    }
}
