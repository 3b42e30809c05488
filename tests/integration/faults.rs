//! What is unlucky or hostile around a command: output that cannot be written, signals, sizes, weights and batches.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use deepzero::data::{Location, Silent};
use deepzero::experiment::{Library, Scale};
use deepzero::metric::Row;
use deepzero::results::compare_ignoring_time;
use deepzero::runner::{Ended, Runner, checkpoint_path};
use deepzero::train::{Checkpoint, Observer, Quiet, Status};

use super::cli::{Golden, Place, Ran, TIME_LIMIT, altered, experiment, golden};

fn tiny() -> Place {
    Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", "method = \"cge\""))])
}

fn has_result(place: &Place) -> bool {
    place.records("tiny").iter().all(|record| record.status == Status::Done)
        && place.records("tiny").len() == 1
}

/// Runs a command with these two outputs; how it ended, and what it wrote where that is a pipe.
fn run_into(place: &Place, args: &str, stdout: Stdio, stderr: Stdio) -> Ran {
    let output =
        place.command(args).stdout(stdout).stderr(stderr).spawn().unwrap().wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[cfg(target_os = "linux")]
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[cfg(target_os = "linux")]
#[test]
fn messages_that_cannot_be_written_end_nothing() {
    for stderr in [full, closed] {
        let place = tiny();
        let ran = run_into(&place, "reproduce tiny", Stdio::piped(), stderr());
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains("tiny.md") && has_result(&place));
        // The exit code stays that of the error, though nobody hears of it.
        for (args, code) in [("plan nothing", 1), ("plan", 2), ("plan --no-such-option", 2)] {
            assert_eq!(run_into(&place, args, Stdio::piped(), stderr()).code, code, "{args}");
        }
    }
}

/// Output that was the result: what a reader does not want any more is no error, a full disk is one.
#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_written_are_errors() {
    let place = tiny();
    for args in ["--help", "--version", "plan --help", "list", "completions bash", "status --json"] {
        let ran = run_into(&place, args, full(), Stdio::piped());
        assert_eq!(ran.code, 1, "{args}");
        assert!(ran.refusal().contains("No space left"), "{}", ran.stderr);
        assert_eq!(run_into(&place, args, closed(), Stdio::piped()).code, 0, "{args}");
    }
    let ran = run_into(&place, "reproduce tiny", full(), Stdio::piped());
    assert!(ran.code == 1 && has_result(&place), "{}", ran.stderr);
}

#[test]
fn no_colours_where_there_is_no_terminal() {
    let place = tiny();
    let ran = place.run_with(&[("RUST_LOG", "warn"), ("DEEPZERO_KERNELS", "none-such")], "reproduce tiny");
    assert!(ran.stderr.contains("DEEPZERO_KERNELS=none-such"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
}

/// Whether SIGHUP, the lowest bit, is ignored here, as Linux tells.
fn ignores_hang_ups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & 1 == 1)
}

/// Signals that were ignored when the program began, as `nohup` and `&` in scripts have it.
#[cfg(target_os = "linux")]
#[test]
fn ignored_signals_stay_ignored() {
    let epochs = "epochs = 40\nn-train = 200\nmethod = \"cge\"";
    for (trap, signal, goes_on) in
        [("HUP", libc::SIGHUP, true), ("INT", libc::SIGINT, true), ("USR1", libc::SIGHUP, false)]
    {
        if !goes_on && ignores_hang_ups() {
            eprintln!("skipped: this test runs under nohup, and so does what it starts");
            continue;
        }
        let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", epochs))]);
        let inner = place.command("reproduce tiny");
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(format!("trap '' {trap}; exec \"$0\" \"$@\"")).arg(inner.get_program());
        command
            .args(inner.get_args())
            .current_dir(place.path(""))
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let mut running = super::resume::Running::new(command.spawn().unwrap());
        let pid = running.pid();
        assert!(running.reaches(&place.path("results/tiny/smoke"), 1));
        assert!(super::resume::signal(pid, signal));
        let (code, stderr) = running.end();
        let expected = if goes_on { Some(0) } else { Some(130) };
        assert_eq!(code, expected, "{trap}: {stderr}");
        assert_eq!(stderr.contains("stopping"), !goes_on, "{trap}: {stderr}");
        assert_eq!(!place.records("tiny").is_empty(), goes_on);
    }
}

/// Panics once a number of epochs are done.
struct PanicAfter(u32);

impl Observer for PanicAfter {
    fn epoch(&self, row: &Row) {
        assert!(row.epoch < self.0, "a bug");
    }
}

/// Oracle: the trial that did not panic.
#[test]
fn a_trial_that_panics_keeps_its_checkpoint() {
    let settings = "method = \"cge\"\nepochs = 4";
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", settings))]);
    let library = Library::open(Some(&place.path("experiments"))).unwrap();
    let trial = library.get("tiny").unwrap().trials(Scale::Smoke, None, &[]).unwrap().remove(0);
    let (location, interrupt) = (Location::new(None), AtomicBool::new(false));
    let run = |store: &deepzero::results::Store, observer: &dyn Observer| {
        let name = "cpu".to_owned();
        let runner = Runner::new(store, &location, &Silent, Device::Cpu, name, &interrupt);
        match runner.run(&trial, observer).unwrap() {
            Ended::Recorded(record) => *record,
            Ended::Elsewhere => panic!("nobody else is here"),
        }
    };
    let whole = run(&deepzero::results::Store::new(place.path("whole")), &Quiet);
    let store = place.store();
    let failed = run(&store, &PanicAfter(3));
    assert!(failed.status == Status::Failed && failed.error.contains("panicked"), "{}", failed.error);
    let state = checkpoint_path(&store, &trial);
    assert_eq!(Checkpoint::progress(&state).map(|done| done.epoch), Some(3));
    assert_eq!(compare_ignoring_time(&run(&store, &Quiet), &whole), Ok(()));
    assert!(!state.exists());
}

/// One line, code 1 or 2, and soon.
#[test]
fn sizes_beyond_all_bounds_are_refused() {
    let place = Place::new();
    for (args, expected) in [
        ("plan fig4 --seeds 99999999999999", "expected how many seeds, from 1 to 10000"),
        ("plan fig4 --seeds 20240101", "expected how many seeds, from 1 to 10000"),
        ("plan fig4 --seeds 0", "expected how many seeds, from 1 to 10000"),
        ("plan fig4 --threads 65535", "65535 is not in 1..=1024"),
        ("plan fig4 --set width=1000000000", "`width`: expected an integer from 1 to 4096"),
        ("plan fig4 --set depth=6000000002", "`depth`: expected an integer from 1 to 2000"),
        ("plan fig4 --set width=4096", "make 4832235530 parameters; at most 268435456"),
        ("plan fig4 --set epochs=99999999999", "`epochs`: expected an integer from 1 to 1000000"),
        ("plan fig4 --set epochs=1.5", "got 1.5"),
        ("plan fig4 --set epochs=99999999999999999999999", "got 100000000000000000000000"),
        ("plan fig4 --scale paper --set n-val=9223372036854775807", "`n-val`: expected an integer from 0"),
        ("plan fig4 --scale paper --set n-val=60000", "`n-val`: cifar10 has at most 49999"),
        ("plan fig4 --scale paper --set n-train=60000", "`n-train`: cifar10 has at most 50000"),
        ("train --set n-train=40000 --set n-val=10001", "at most 10000 beside 40000 to train on; got 10001"),
        ("train --set method=rge --set queries=99999999999", "`queries`: expected an integer from 0 to"),
    ] {
        let ran = place.run(args);
        assert!(ran.code == 1 || ran.code == 2, "{args}: {}", ran.code);
        assert!(ran.stderr.contains(expected) && !ran.stderr.contains("panicked"), "{args}: {}", ran.stderr);
    }
    // A whole number in another form is one.
    let queries = |epochs: &str| {
        let plan = place.run(&format!("plan fig4 --seeds 1 --json --set epochs={epochs}")).json();
        plan[0]["queries"].as_f64().unwrap()
    };
    assert_eq!(queries("1e1").to_bits(), queries("10").to_bits());
    let options = Golden::load("cnn_d3", "cnn-d3", 50).options(&place);
    for (model, expected) in [
        ("resnet600000002", "`depth`: expected an integer of at most 2000"),
        ("cnn-d3-w99999999999", "`width`: expected an integer of at most 4096"),
        ("cnn-d3-w99999999999999999999999", "`cnn-d3-w99999999999999999999999` is unknown"),
    ] {
        let ran = place.run(&format!("estimate {}", options.replacen("cnn-d3", model, 1)));
        assert!(ran.refusal().contains(expected), "{}", ran.stderr);
    }
}

/// What a user wrote is not repeated at any length.
#[test]
fn long_text_is_cut_in_messages() {
    let place = Place::new();
    let long = "x".repeat(5_000);
    for args in [
        format!("plan fig4 --set {long}=1"),
        format!("plan fig4 --set mu={long}"),
        format!("plan {long}"),
        format!("estimate --model {long} --weights w --batch b --coords c"),
    ] {
        let ran = place.run(&args);
        let line = ran.refusal();
        assert!(line.chars().count() < 3_000 && !line.contains(&long), "{}", line.len());
    }
}

#[test]
fn estimate_names_what_is_wrong_with_weights_and_labels() {
    let place = Place::new();
    let options = Golden::load("cnn_d3", "cnn-d3", 50).options(&place);
    let weights = golden("cnn_d3.weights.safetensors").display().to_string();
    let batch = golden("cnn_d3.batch.safetensors").display().to_string();
    let cpu = &Device::Cpu;
    altered(&place, "cnn_d3.weights.safetensors", "inf", |tensors| {
        tensors.insert("fc.bias".to_owned(), Tensor::full(f64::INFINITY, 10, cpu).unwrap());
    });
    altered(&place, "cnn_d3.weights.safetensors", "integers", |tensors| {
        tensors.insert("fc.bias".to_owned(), Tensor::zeros(10, DType::I64, cpu).unwrap());
    });
    altered(&place, "cnn_d3.weights.safetensors", "names", |tensors| {
        let bias = tensors.remove("fc.bias").unwrap();
        tensors.insert("head.bias".to_owned(), bias);
    });
    for (name, label) in [("fraction", 1.9), ("nan", f64::NAN)] {
        altered(&place, "cnn_d3.batch.safetensors", name, |tensors| {
            tensors.insert("labels".to_owned(), Tensor::full(label, 32, cpu).unwrap());
        });
    }
    // Eight-bit numbers, whose conversion never ended.
    let eight_bits =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F8_E4M3, vec![10], &[0; 10]).unwrap();
    let bytes = safetensors::serialize([("fc.bias", eight_bits)], None).unwrap();
    std::fs::write(place.path("eight"), bytes).unwrap();
    let mut cases = vec![
        (&weights, "inf", "inf: `fc.bias` is inf at flat index 0"),
        (&weights, "integers", "integers: `fc.bias` has integers"),
        (
            &weights,
            "names",
            "names: no tensor `fc.bias` of shape [10]; of its names `head.bias` mean nothing",
        ),
        (&weights, "eight", "eight: tensor `fc.bias` has numbers of type F8_E4M3; convert it to one of"),
        (&batch, "fraction", "fraction: labels must be integers, such as i64; got F64"),
        (&batch, "nan", "nan: labels must be integers, such as i64; got F64"),
    ];
    let coords = "coords.json".to_owned();
    if cfg!(unix) {
        assert!(std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
        cases.extend(
            [&weights, &batch, &coords].map(|file| (file, "pipe", "pipe: a pipe, where a regular file")),
        );
    }
    for (file, replacement, expected) in cases {
        let ran = place.run(&format!("estimate {}", options.replacen(file.as_str(), replacement, 1)));
        assert!(ran.refusal().contains(expected), "{}\nexpected: {expected}", ran.stderr);
    }
}

/// Names as public files have them. Oracle: the same weights under our names.
#[test]
fn names_of_public_weights_are_read() {
    let place = Place::new();
    let options = Golden::load("resnet20", "resnet20", 500).options(&place);
    let weights = golden("resnet20.weights.safetensors").display().to_string();
    altered(&place, "resnet20.weights.safetensors", "public", |tensors| {
        let names: Vec<String> = tensors.keys().cloned().collect();
        for name in names {
            let tensor = tensors.remove(&name).unwrap();
            tensors.insert(format!("module.{}", name.replace("fc.", "linear.")), tensor);
        }
        let count = Tensor::zeros((), DType::I64, &Device::Cpu).unwrap();
        tensors.insert("module.bn1.num_batches_tracked".to_owned(), count);
    });
    let answer = |options: &str| {
        let answer = place.run(&format!("estimate {options}")).json();
        (answer["loss"].clone(), answer["estimates"].clone())
    };
    assert_eq!(answer(&options.replacen(&weights, "public", 1)), answer(&options));
}

/// A smoothing parameter that the arithmetic cannot resolve is told.
#[test]
fn a_smoothing_parameter_that_cannot_work_is_told() {
    let place = Place::new();
    let options = Golden::load("cnn_d3", "cnn-d3", 20).options(&place);
    for (more, expected) in [
        ("--evaluator full --mu 5e-3", ""),
        ("--evaluator difference --mu 1e-9", ""),
        ("--evaluator full --mu 1e-9 --precision f64", ""),
        ("--evaluator full --mu 1e-9", "mu = 0.000000001 is too small to subtract losses"),
        ("--evaluator full --mu 1e-20", "the estimate is zero: no probe changed the loss"),
        ("--evaluator full --mu 1e300", "is NaN or infinite"),
        ("--estimator rge --queries 4", ""),
        ("--estimator rge --queries 4 --mu 1e-10", "is rounded away"),
    ] {
        let ran = place.run(&format!("estimate {options} {more}"));
        assert!(
            ran.stderr.contains(expected) && ran.stderr.is_empty() == expected.is_empty(),
            "{more}: {}",
            ran.stderr
        );
        let doubt = ran.json()["doubt"].clone();
        assert_eq!(doubt.is_null(), expected.is_empty(), "{more}: {doubt}");
    }
    let small = "data=synthetic model=cnn depth=1 width=2 n-train=40 n-test=20 epochs=2 batch-size=20 warmup-epochs=0 \
                 sparsity=0";
    for (mu, is_told) in [("1e300", true), ("5e-3", false)] {
        let ran = place.run(&format!("train{} --set mu={mu} --out w.safetensors", super::cli::set(small)));
        let told = ran.stderr.matches("does not suit these parameters").count();
        assert_eq!(told, usize::from(is_told), "{}", ran.stderr);
    }
}

/// Before the first step, not after the last.
#[test]
fn outputs_that_cannot_be_written_are_found_at_once() {
    let place = Place::new();
    std::fs::write(place.path("file"), "mine").unwrap();
    // A recipe that takes hours.
    for out in ["file/w.safetensors", "/proc/w.safetensors"] {
        if out.starts_with("/proc") && !Path::new("/proc/self").exists() {
            continue;
        }
        let mut command = place.command(&format!("train --set data=synthetic --out {out}"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let started = std::time::Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < TIME_LIMIT, "it trains");
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("deepzero: write") && stderr.contains(out), "{stderr}");
    }
    assert_eq!(std::fs::read_to_string(place.path("file")).unwrap(), "mine");
}

/// Many changes together: a folder and pages of a bounded name, found again by the full id and by that name.
#[test]
fn long_lists_of_changes_have_short_names() {
    let place = tiny();
    let mut changes = " --set momentum=0.123456789012345".to_owned();
    for (key, value) in [
        ("weight-decay", "0.000123456789012345"),
        ("learning-rate", "0.0123456789012345"),
        ("width", "4"),
        ("n-train", "60"),
        ("n-val", "30"),
        ("n-test", "30"),
        ("batch-size", "30"),
        ("epochs", "3"),
        ("schedule", "constant"),
        ("evaluator", "full"),
        ("optimizer", "adam"),
    ] {
        changes.push_str(&format!(" --set {key}={value}"));
    }
    let before = place.run(&format!("plan tiny{changes}"));
    assert_eq!(before.code, 0, "{}", before.stderr);
    place.run(&format!("reproduce tiny{changes}")).ok();
    let names = place.names("results");
    let [name] = &names[..] else { panic!("{names:?}") };
    assert!(name.starts_with("tiny~momentum=0.123456789012345,weight") && name.len() == 120, "{name}");
    assert!(place.run(&format!("plan tiny{changes}")).ok().contains("done"));
    let page = place.path(&format!("reports/{name}.md"));
    let written = std::fs::read_to_string(&page).unwrap();
    assert!(written.contains("optimizer=adam"), "the full list stands in the page");
    for which in ["", name.as_str()] {
        std::fs::remove_file(&page).unwrap();
        place.run(&format!("report {which}")).ok();
        assert_eq!(std::fs::read_to_string(&page).unwrap(), written, "{which}");
    }
}

/// Its plan is of the experiment that is built in, whatever stands in the folder where it runs.
#[test]
fn doctor_does_not_read_the_experiments_of_a_folder() {
    let place = Place::with(&[("fig4", "id = \"fig4\"\n".to_owned())]);
    assert!(place.run("plan fig4").refusal().contains("fig4.toml"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_deepzero"));
    let output = command.args(["doctor", "--json"]).current_dir(place.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
