//! The command line as a user meets it, each test in a folder of its own: output, files, exit
//! codes, and what it says when something is wrong.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use assert_cmd::Command;
use candle_core::{DType, Device, Tensor};
use deepzero::experiment::{Library, MAX_SEEDS, Scale, settings};
use deepzero::metric::{
    ARITHMETIC_S, COSINE, DIRECTIONS_S, GRADIENT_SHARE, INFERENCE_S, N_ACTIVE, PERTURBATION_S, QUERIES,
    RELATIVE_ERROR, TEST_ACCURACY, TRAIN_LOSS, WALL_S,
};
use deepzero::nn::{model, weights};
use deepzero::profile::Profile;
use deepzero::results::{Store, TrialRecord};
use deepzero::setting::Values;
use deepzero::train::Status;
use deepzero::zo::optimizer;
use polars::prelude::{DataFrame, ParquetReader, SerReader};
use predicates::prelude::*;
use serde_json::Value;

/// Far more than any command here takes on a busy machine; only a hang takes as long.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(1800);

/// A folder with experiment files of its own, in which commands run.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// How a command ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// It ended well; its output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("the output is JSON")
    }

    /// It refused with code 1 and one line at the end that begins with the program's name; that line.
    #[track_caller]
    pub(crate) fn refusal(&self) -> &str {
        assert_eq!(self.code, 1, "{}{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let last = self.stderr.lines().last().expect("an error says something");
        assert!(last.starts_with("deepzero: "), "{}", self.stderr);
        assert_eq!(self.stderr.matches("deepzero: ").count(), 1, "{}", self.stderr);
        assert!(last.matches("os error").count() <= 1, "{last}");
        last
    }

    /// It refused in exactly one line.
    #[track_caller]
    pub(crate) fn refusal_alone(&self) -> &str {
        let line = self.refusal();
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        line
    }
}

/// Tests that run in the background of a script ignore Ctrl-C, and what they start would inherit that.
fn heed_interrupts() {
    // SAFETY: what a signal does by default is restored; nothing of this process handles it.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
}

impl Place {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A folder with experiment files, `(id, text)`.
    pub(crate) fn with(experiments: &[(&str, String)]) -> Self {
        let place = Self::new();
        std::fs::create_dir(place.path("experiments")).unwrap();
        for (id, text) in experiments {
            std::fs::write(place.path(&format!("experiments/{id}.toml")), text).unwrap();
        }
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> Store {
        Store::new(self.path("results"))
    }

    /// The command with `args` (separated by spaces) after the folders.
    pub(crate) fn command(&self, args: &str) -> std::process::Command {
        heed_interrupts();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_deepzero"));
        command.current_dir(self.folder.path());
        for variable in ["DEEPZERO_DATA", "RUST_LOG", "RUST_BACKTRACE"] {
            command.env_remove(variable);
        }
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("hub"));
        command.args(args.split_whitespace());
        for (option, name) in [("--results", "results"), ("--reports", "reports")] {
            if !args.contains(option) {
                command.arg(option).arg(self.path(name));
            }
        }
        let experiments = self.path("experiments");
        if experiments.exists() {
            command.arg("--experiments").arg(experiments);
        }
        command
    }

    pub(crate) fn run(&self, args: &str) -> Ran {
        self.run_with(&[], args)
    }

    /// The same with environment variables.
    pub(crate) fn run_with(&self, variables: &[(&str, &str)], args: &str) -> Ran {
        let mut command = self.command(args);
        command.envs(variables.iter().copied());
        let output = Command::from_std(command).timeout(TIME_LIMIT).output().unwrap();
        Ran {
            code: output.status.code().expect("it ended by itself"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts a command without waiting for it.
    pub(crate) fn spawn(&self, args: &str) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The records of an experiment at smoke scale.
    pub(crate) fn records(&self, id: &str) -> Vec<TrialRecord> {
        self.store().read_all(id, Scale::Smoke).unwrap()
    }

    /// The names in a folder, sorted; none if there is no folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The result files of an experiment at smoke scale, with their bytes.
    fn result_files(&self, id: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = format!("results/{id}/smoke");
        let names = self.names(&folder);
        let paths = names.iter().filter(|name| name.ends_with(".parquet"));
        paths
            .map(|name| self.path(&folder).join(name))
            .map(|p| (p.clone(), std::fs::read(p).unwrap()))
            .collect()
    }
}

/// An experiment over `axis` with `values`, of one series with its `own` settings over small ones, as far as it
/// reads these. It has a smoke scale only.
pub(crate) fn experiment(id: &str, axis: &str, values: &str, own: &str) -> String {
    let mut base: toml::Table = toml::from_str(
        r#"
        data = "synthetic"
        model = "cnn"
        depth = 1
        width = 2
        method = "fo"
        n-train = 40
        n-val = 20
        n-test = 20
        augment = false
        sparsity = 0.0
        epochs = 2
        batch-size = 20
        warmup-epochs = 0
        "#,
    )
    .unwrap();
    base.remove(axis);
    let own: toml::Table = toml::from_str(own).unwrap();
    base.extend(own.clone());
    let mut assigned = Values::new();
    for (key, value) in &base {
        settings::set(&mut assigned, key, value).unwrap();
    }
    let read = settings::resolve(assigned).unwrap();
    base.retain(|key, _| own.contains_key(key) || read.is_read(key));
    format!(
        "id = \"{id}\"\ntitle = \"A small experiment\"\n\
         [figure]\nx = \"{axis}\"\nx-label = \"{axis}\"\ny = \"test-accuracy\"\nvalues = {values}\n\
         [[series]]\nid = \"only\"\nlabel = \"Only\"\n\
         [scale.smoke]\nseeds = 1\ndeviations = [\"Small.\"]\n\
         [base]\n{base}"
    )
}

/// `--set` options from a table of settings.
pub(crate) fn set(settings: &str) -> String {
    settings.split_whitespace().map(|pair| format!(" --set {pair}")).collect()
}

/// The options of a recipe that trains in a fraction of a second, changed by `settings`.
fn recipe(settings: &str) -> String {
    let small =
        "data=synthetic model=cnn depth=2 width=4 n-train=60 n-val=20 n-test=20 epochs=2 batch-size=20";
    let of_descent = "warmup-epochs=1 sparsity=0 grasp-images-per-class=2 grasp-queries=8";
    let is_descent = !settings.contains("pattern-search") && !settings.contains("cma-es");
    let of_descent = if is_descent { of_descent } else { "" };
    set(&format!("{small} {of_descent} {settings}"))
}

/// What `train --json` says, without the times and the name of the file, and the weights' bytes.
fn train(place: &Place, settings: &str, threads: usize) -> (Value, Vec<u8>) {
    let args = format!("train{} --threads {threads} --json --out w.safetensors", recipe(settings));
    let answer = without_times(place.run(&args).json());
    (answer, std::fs::read(place.path("w.safetensors")).unwrap())
}

/// Takes the seconds out of a training summary.
pub(crate) fn without_times(mut answer: Value) -> Value {
    for epoch in answer["epochs"].as_array_mut().unwrap() {
        assert!(epoch.as_object_mut().unwrap().remove("wall_s").unwrap().as_f64().unwrap() > 0.0);
    }
    answer
}

#[test]
fn training_does_not_depend_on_threads() {
    let place = Place::new();
    for settings in [
        "method=cge",
        "method=cge difference=central sparsity=0.7 augment=false momentum=0 evaluator=full",
        "method=cge model=resnet depth=8 width=2 sparsity=0.9 epochs=1 n-train=40",
        "method=rge directions=gaussian queries=150",
        "method=rge directions=rademacher step-scale=loss-spread queries=40 momentum=0",
        "method=cocd queries=30 decay=0.5",
        "method=cocd queries=30 decay=1 order=parameters difference=central momentum=0",
        "method=sparse-mezo queries=20 difference=central",
        "method=lozo queries=20 rank=1 subspace-steps=2",
        "method=subzero queries=20 difference=central",
        "method=zo-muon queries=20",
        "method=hizoo queries=10 curvature-rate=0.1",
        "method=eggroll queries=10 mu=0.1 optimizer=r-adazo learning-rate=0.001",
        "method=pattern-search queries=150 radius=0.2",
        "method=cma-es depth=1 width=2",
        "method=pattern-search search=best population=20 search-steps=4 normalize-logits=true",
        "method=fo model=lenet init=uniform n-train=40 batch-size=99",
        "method=rge directions=sphere queries=70",
        "method=rge directions=per-tensor sparsity=0.5 layer-ratios=zo-grasp-released queries=70",
        "method=fo",
        "method=fo sparsity=0.8 sparse-target=weights mask=fixed layer-ratios=fo-grasp optimizer=adam",
    ] {
        let one = train(&place, settings, 1);
        assert_eq!(one.0["status"], "done");
        for threads in [2, 3] {
            assert!(train(&place, settings, threads) == one, "{settings} with {threads} threads: {}", one.0);
        }
    }
}

/// Oracle: the complete forward pass. In single precision the two round differently, and a few
/// steps carry that on.
#[test]
fn reuse_trains_like_full() {
    let place = Place::new();
    for network in ["", "model=resnet depth=8 width=2 sparsity=0.9"] {
        for (precision, tolerance) in [("f32", 1e-3), ("f64", 1e-9)] {
            let loss = |evaluator: &str| {
                let settings =
                    format!("{network} precision={precision} evaluator={evaluator} epochs=1 n-train=40");
                let (answer, _) = train(&place, &settings, 2);
                answer["epochs"][0]["train_loss"].as_f64().unwrap()
            };
            let (full, reuse) = (loss("full"), loss("reuse"));
            assert!((full - reuse).abs() <= tolerance * full, "{network} {precision}: {full} and {reuse}");
        }
    }
}

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The folder of golden values: `DEEPZERO_GOLDEN` if that is set, else ours.
pub(crate) fn golden_folder() -> PathBuf {
    std::env::var_os("DEEPZERO_GOLDEN").map_or_else(|| golden(""), PathBuf::from)
}

/// Expected values of `tests/golden` at every `step`-th coordinate; see the README there.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    model: &'static str,
    loss: f64,
    coords: Vec<Value>,
    cge: Vec<f64>,
    backprop: Vec<f64>,
}

impl Golden {
    pub(crate) fn load(name: &'static str, model: &'static str, step: usize) -> Self {
        let text = std::fs::read_to_string(golden(&format!("{name}.expected.json"))).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let picked = |key: &str| -> Vec<Value> {
            expected[key].as_array().unwrap().iter().step_by(step).cloned().collect()
        };
        let (cge, backprop) = (numbers(&picked("cge_forward_difference")), numbers(&picked("backprop")));
        let loss = expected["loss"].as_f64().unwrap();
        Self { name, model, loss, coords: picked("coords"), cge, backprop }
    }

    /// The options that name the golden files, with the coordinates written into `place`.
    pub(crate) fn options(&self, place: &Place) -> String {
        std::fs::write(place.path("coords.json"), serde_json::to_string(&self.coords).unwrap()).unwrap();
        let file =
            |suffix: &str| golden(&format!("{}.{suffix}.safetensors", self.name)).display().to_string();
        format!(
            "--model {} --weights {} --batch {} --coords coords.json",
            self.model,
            file("weights"),
            file("batch")
        )
    }
}

pub(crate) fn numbers(values: &[Value]) -> Vec<f64> {
    values.iter().map(|value| value.as_f64().unwrap()).collect()
}

/// Relative l2 error and cosine.
pub(crate) fn distance(found: &[f64], expected: &[f64]) -> (f64, f64) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let difference: Vec<f64> = found.iter().zip(expected).map(|(f, e)| f - e).collect();
    let norm = dot(expected, expected).sqrt();
    (dot(&difference, &difference).sqrt() / norm, dot(found, expected) / (norm * dot(found, found).sqrt()))
}

/// What other tasks measure. Oracle: CGE's error at this μ is small and RGE's of q = d directions is not (a
/// cosine near 0.71); only what a task measures is there; the sum over tensors is the whole.
#[test]
fn quality_and_stages_are_measured() {
    let settings = |more: &str| format!("sparsity = 0.5\nlayer-ratios = \"uniform\"\nepochs = 3\n{more}");
    let methods = "[\"cge\", \"rge\"]";
    let quality = settings("task = \"quality\"\npretrain-epochs = 1\nprecision = \"f64\"\nmu = 1e-6");
    let place = Place::with(&[
        ("quality", experiment("quality", "method", methods, &quality)),
        ("stages", experiment("stages", "method", methods, &settings("task = \"stages\""))),
    ]);
    let ran = place.run("reproduce quality stages --scale smoke");
    assert!(!ran.stderr.contains("NaN"), "{}", ran.stderr);
    ran.ok();
    let records = place.records("quality");
    let [cge, rge] = &records[..] else { panic!("two records") };
    for epoch in cge.epochs.iter().chain(&rge.epochs) {
        assert!(epoch.get(&GRADIENT_SHARE) > 0.1 && epoch.get(&GRADIENT_SHARE) < 1.0);
        assert!(epoch.get(&DIRECTIONS_S).is_nan() && epoch.get(&TEST_ACCURACY).is_nan());
    }
    for (cge, rge) in cge.epochs.iter().zip(&rge.epochs) {
        assert!(cge.get(&COSINE) > 0.9999 && cge.get(&RELATIVE_ERROR) < 1e-3, "{cge:?}");
        assert!(rge.get(&COSINE) < 0.95 && rge.get(&RELATIVE_ERROR) > 0.2, "{rge:?}");
    }
    let tensors = cge.profile(Profile::TENSORS).unwrap();
    let n_active: f64 = tensors.column("n_active").unwrap().iter().sum();
    assert_eq!((n_active, cge.epochs.len()), (cge.epochs[2].get(&N_ACTIVE), 3));
    // A bias before a batch norm has no gradient to compare with.
    let errors = tensors.labels.iter().zip(tensors.column("relative_error").unwrap());
    let weights = errors.filter(|(name, _)| name.ends_with("weight"));
    assert!(weights.clone().count() == 3 && weights.clone().all(|(_, error)| *error < 1e-2));
    // Oracle: back-propagation of the loss that is estimated, on sets that are scored anew.
    let ran = place.run("reproduce quality --set loss=squared-error --only =cge");
    ran.ok();
    let records = place.records("quality~loss=squared-error");
    assert!(
        records[0].epochs.iter().all(|epoch| epoch.get(&RELATIVE_ERROR) < 1e-3),
        "{:?}",
        records[0].epochs
    );
    let more = "--set layer-ratios=zo-grasp --set mask=rescore --set redraw-every=1 --set grasp-queries=3 --set \
                grasp-images-per-class=2 --only =cge";
    let planned = place.run(&format!("plan quality {more} --json")).json()[0]["queries"].as_f64().unwrap();
    place.run(&format!("reproduce quality {more}")).ok();
    let id = place.names("results").into_iter().find(|name| name.contains("mask=rescore")).unwrap();
    let epochs = &place.records(&id)[0].epochs;
    assert!((epochs[0].get(&GRADIENT_SHARE) - epochs[1].get(&GRADIENT_SHARE)).abs() > 1e-6);
    let spent = epochs[2].get(&QUERIES);
    assert!((planned - spent).abs() < 0.5, "{planned} planned, {spent} spent");
    for record in place.records("stages") {
        for epoch in &record.epochs {
            let seconds = [&DIRECTIONS_S, &PERTURBATION_S, &INFERENCE_S, &ARITHMETIC_S].map(|m| epoch.get(m));
            assert!(seconds.iter().all(|s| *s >= 0.0) && epoch.get(&INFERENCE_S) > 0.0, "{epoch:?}");
            assert!(epoch.get(&COSINE).is_nan(), "{epoch:?}");
        }
    }
    let refused = place.run("train --set data=synthetic --set task=quality --out w.safetensors");
    assert!(refused.refusal().contains("train trains a network"), "{}", refused.stderr);
}

/// Oracle: PyTorch in double precision. Single precision gives differences with about 5e-3 relative
/// error at this mu.
#[test]
fn estimates_match_the_golden_values() {
    let place = Place::new();
    let (resnet, cnn) = (Golden::load("resnet20", "resnet20", 7), Golden::load("cnn_d3", "cnn-d3", 1));
    for (golden, precision, max_error, min_cosine) in
        [(&resnet, "f32", 2e-2, 0.9998), (&cnn, "f32", 2e-2, 0.9998), (&cnn, "f64", 1e-6, 1.0 - 1e-12)]
    {
        let options = golden.options(&place);
        for evaluator in ["full", "reuse"] {
            let args = format!(
                "estimate {options} --mu 5e-3 --estimator cge --evaluator {evaluator} \
                 --precision {precision} --backprop --out out.json"
            );
            assert_eq!(place.run(&args).ok(), "");
            let answer: Value =
                serde_json::from_str(&std::fs::read_to_string(place.path("out.json")).unwrap()).unwrap();
            let number = |key: &str| answer[key].as_f64().unwrap_or_else(|| panic!("{key}"));
            let list = |key: &str| numbers(answer[key].as_array().unwrap());
            assert!((number("loss") - golden.loss).abs() < 1e-4, "{}", number("loss"));
            let (error, cosine) = distance(&list("estimates"), &golden.cge);
            let what = format!("{} {precision} {evaluator}: {error} {cosine}", golden.name);
            assert!(error <= max_error && cosine >= min_cosine, "{what}");
            let (error, _) = distance(&list("backprop"), &golden.backprop);
            assert!(error < 1e-4, "{}: {error}", golden.name);
            assert_eq!(answer["queries"], golden.coords.len() + 1);
            assert!(number("wall_s") > 0.0);
            let (error, cosine) = distance(&list("estimates"), &list("backprop"));
            assert!(
                (number("relative_error") - error).abs() < 1e-9 && (number("cosine") - cosine).abs() < 1e-9
            );
        }
    }
}

/// The same coordinate twice is probed once; central differences and rge count their queries.
#[test]
fn estimates_count_their_queries() {
    let place = Place::new();
    let options = Golden::load("cnn_d3", "cnn-d3", 30).options(&place);
    let queries = |more: &str| place.run(&format!("estimate {options} {more}")).json()["queries"].as_u64();
    assert_eq!(queries(""), Some(6));
    assert_eq!(queries("--central"), Some(11));
    assert_eq!(queries("--estimator rge --queries 3"), Some(4));
    assert_eq!(queries("--estimator hizoo"), Some(3));
    let one = r#"[["fc.bias", 0], ["fc.bias", 0]]"#;
    std::fs::write(place.path("coords.json"), one).unwrap();
    let answer = place.run(&format!("estimate {options}")).json();
    assert_eq!(answer["queries"], 2);
    assert_eq!(answer["estimates"][0], answer["estimates"][1]);
}

/// Writes a copy of a golden safetensors file after `change`.
pub(crate) fn altered(
    place: &Place,
    from: &str,
    to: &str,
    change: impl FnOnce(&mut HashMap<String, Tensor>),
) {
    let mut tensors = weights::read(&golden(from)).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, place.path(to)).unwrap();
}

/// A name with `module.` before it stands for the name that a file has as well, and never in its place.
#[test]
fn of_tensors_with_one_name_the_files_own_counts() {
    let place = Place::new();
    let options = Golden::load("cnn_d3", "cnn-d3", 50).options(&place);
    let weights = golden("cnn_d3.weights.safetensors").display().to_string();
    altered(&place, "cnn_d3.weights.safetensors", "twice", |tensors| {
        let wrong = tensors["fc.weight"].zeros_like().unwrap();
        tensors.insert("module.fc.weight".to_owned(), wrong);
    });
    let loss = |options: &str| place.run(&format!("estimate {options}")).json()["loss"].as_f64().unwrap();
    let expected = loss(&options);
    for _ in 0..6 {
        assert_eq!(loss(&options.replace(&weights, "twice")).to_bits(), expected.to_bits());
    }
}

/// What another process is about is left to it.
#[test]
fn a_training_is_locked() {
    let place = Place::new();
    let train = "train --set data=synthetic --set epochs=1 --set warmup-epochs=0 --out w.safetensors";
    let lock = deepzero::lock::Lock::acquire(&place.path("w.safetensors.lock")).unwrap().unwrap();
    let ran = place.run(train);
    assert!(ran.refusal_alone().contains("being trained by another process"), "{}", ran.stderr);
    drop(lock);
}

#[test]
fn estimate_refuses_in_one_line() {
    let place = Place::new();
    let options = Golden::load("cnn_d3", "cnn-d3", 50).options(&place);
    let weights = golden("cnn_d3.weights.safetensors").display().to_string();
    let batch = golden("cnn_d3.batch.safetensors").display().to_string();
    let whole = std::fs::read(golden("cnn_d3.weights.safetensors")).unwrap();
    std::fs::write(place.path("short"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(place.path("empty"), "").unwrap();
    altered(&place, "cnn_d3.weights.safetensors", "shape", |tensors| {
        let bias = Tensor::zeros(9, DType::F32, &Device::Cpu).unwrap();
        tensors.insert("fc.bias".to_owned(), bias).expect("the name is that of the network");
    });
    altered(&place, "cnn_d3.weights.safetensors", "nan", |tensors| {
        let bias = Tensor::full(f32::NAN, 10, &Device::Cpu).unwrap();
        tensors.insert("fc.bias".to_owned(), bias).expect("the name is that of the network");
    });
    altered(&place, "cnn_d3.batch.safetensors", "label", |tensors| {
        let labels = Tensor::full(10i64, 32, &Device::Cpu).unwrap();
        tensors.insert("labels".to_owned(), labels);
    });
    altered(&place, "cnn_d3.batch.safetensors", "few", |tensors| {
        tensors.insert("labels".to_owned(), Tensor::zeros(31, DType::I64, &Device::Cpu).unwrap());
    });
    altered(&place, "cnn_d3.batch.safetensors", "float", |tensors| {
        let images = tensors["images"].to_dtype(DType::F32).unwrap();
        tensors.insert("images".to_owned(), images);
    });
    for (name, shape) in [("small", (32, 3, 4, 5)), ("gray", (32, 1, 32, 32))] {
        altered(&place, "cnn_d3.batch.safetensors", name, |tensors| {
            tensors.insert("images".to_owned(), Tensor::zeros(shape, DType::U8, &Device::Cpu).unwrap());
        });
    }
    altered(&place, "cnn_d3.batch.safetensors", "nolabels", |tensors| {
        tensors.remove("labels");
    });
    for (name, text) in [
        ("range.json", r#"[["fc.bias", 10]]"#),
        ("name.json", r#"[["fc.bais", 1]]"#),
        ("negative.json", r#"[["fc.bias", -1]]"#),
        ("broken.json", r#"[["fc.bias", 1]"#),
        ("object.json", r#"{"fc.bias": 1}"#),
        ("none.json", "[]"),
    ] {
        std::fs::write(place.path(name), text).unwrap();
    }
    let replaced = |from: &str, to: &str| {
        assert!(options.contains(from));
        options.replacen(from, to, 1)
    };
    let cases = [
        (replaced("cnn-d3", "vgg"), "`vgg` is unknown"),
        (replaced("cnn-d3", "resnet20"), "conv1.weight"),
        (replaced("cnn-d3", "resnet21"), "a resnet has depth 6n+2 (8, 14, 20, 32, …); got 21"),
        (replaced(&weights, "absent"), "open absent: No such file"),
        (replaced(&batch, "absent"), "open absent: No such file"),
        (replaced("coords.json", "absent"), "open absent: No such file"),
        (replaced(&weights, "."), ".: a folder, where a regular file is needed"),
        (replaced(&weights, "short"), "short: not a complete safetensors file"),
        (replaced(&weights, "empty"), "empty: not a complete safetensors file"),
        (replaced(&weights, "shape"), "shape: `fc.bias` has shape [9]; the network has [10]"),
        (replaced(&weights, "nan"), "nan: `fc.bias` is NaN at flat index 0"),
        (replaced(&batch, "short"), "short: not a complete safetensors file"),
        (replaced(&batch, "label"), "label: label 10 is not in 0..10"),
        (replaced(&batch, "few"), "few: 32 images but labels of shape [31]"),
        (replaced(&batch, "float"), "float: images must be u8"),
        (replaced(&batch, "small"), "a cnn has 1 to 2 blocks, each halving the 4 pixel image; got 3"),
        (replaced(&batch, "gray"), "gray: images must be u8 of shape N x 3 x H x W"),
        (replaced(&batch, "nolabels"), "nolabels: no tensor `labels`"),
        (replaced("coords.json", "range.json"), "expected a flat index below 10, got 10"),
        (replaced("coords.json", "name.json"), "`fc.bais`: expected one of"),
        (replaced("coords.json", "negative.json"), "negative.json: expected a list"),
        (replaced("coords.json", "broken.json"), "broken.json: expected a list"),
        (replaced("coords.json", "object.json"), "object.json: expected a list"),
        (replaced("coords.json", "none.json"), "none.json: no coordinates"),
        (format!("{options} --mu 0"), "--mu must be a positive number, got 0"),
        (format!("{options} --mu NaN"), "--mu must be a positive number"),
        (format!("{options} --mu inf"), "--mu must be a positive number"),
        (format!("{options} --device cuda:x"), "device `cuda:x`"),
        (format!("{options} --device tpu"), "expected cpu, cuda or cuda:N"),
    ];
    for (options, expected) in cases {
        let ran = place.run(&format!("estimate {options} --backprop --out out.json"));
        let line = ran.refusal_alone();
        assert!(predicate::str::contains(expected).eval(line), "{line}\nexpected: {expected}");
        assert!(!place.path("out.json").exists(), "{line}");
    }
    // Impossible on the face of it, so that the parser refuses; it shows the usage with code 2.
    for bad in ["--queries 0", "--estimator gauss", "--data mnist", "--mu small", "--threads 0"] {
        assert_eq!(place.run(&format!("estimate {options} {bad}")).code, 2, "{bad}");
    }
    let ran = place.run(&format!("estimate {options} --out coords.json/out.json"));
    assert!(ran.refusal_alone().contains("coords.json"), "{}", ran.stderr);
}

#[test]
fn verbs_explain_themselves() {
    let place = Place::new();
    let verbs = [
        "list",
        "plan",
        "reproduce",
        "sweep",
        "train",
        "estimate",
        "certify",
        "minimize",
        "ask",
        "tell",
        "report",
        "verify",
        "status",
        "data",
        "bench",
        "completions",
    ];
    for verb in verbs {
        let help = place.run(&format!("{verb} --help")).ok();
        assert!(predicate::str::contains("Example").eval(&help), "{verb}: {help}");
    }
    let help = place.run("--help").ok();
    assert!(verbs.iter().all(|verb| help.contains(verb)), "{help}");
    let listed = place.run("train --help").ok();
    assert!(settings::entries().iter().all(|entry| listed.contains(entry.name)), "{listed}");
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&format!("completions {shell}")).ok();
        assert!(verbs.iter().all(|verb| script.contains(verb)), "{shell}");
    }
    assert_eq!(place.run("completions tcsh").code, 2);
    assert_eq!(place.run("").code, 2);
    let version = place.run("--version").ok();
    assert!(version.starts_with(&format!("deepzero {} (commit ", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(place.names("").is_empty());
}

const BENCH_MACHINE: [&str; 7] =
    ["bench", "device", "cpu", "threads", "kernels", "peak_gflops", "bandwidth_gb_s"];

/// The keys of a measurement after those of the machine, which it checks.
fn keys_after_machine(answer: &Value) -> Vec<&str> {
    let keys: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys[..BENCH_MACHINE.len()], BENCH_MACHINE);
    assert!(BENCH_MACHINE[5..].iter().all(|&key| answer[key].as_f64().unwrap() > 0.0), "{answer}");
    keys[BENCH_MACHINE.len()..].to_vec()
}

/// Oracles: queries are the base and the probes; complete passes execute what they need; estimates of
/// a small network keep two digits in single precision.
#[test]
fn bench_cge_measures_every_evaluator() {
    let place = Place::new();
    for evaluator in ["full", "reuse", "difference"] {
        for (options, n_queries) in
            [("", 7), ("--distribution lpr-paper --central", 13), ("--distribution lpr-released", 7)]
        {
            let options = format!("--evaluator {evaluator} {options} --threads 2");
            let args = format!(
                "bench cge --model resnet8-w2 --batch-size 4 --coords 6 --repeats 1 --json {options}"
            );
            let answer = place.run(&args).json();
            let expected = [
                "model",
                "n_params",
                "batch_size",
                "distribution",
                "sparsity",
                "n_population",
                "n_coords",
                "evaluator",
                "precision",
                "difference",
                "mu",
                "seed",
                "repeats",
                "queries",
                "queries_non_finite",
                "base_s",
                "differences_s",
                "differences_min_s",
                "differences_max_s",
                "us_per_query_image",
                "effective_gflops",
                "executed_gflops",
                "peak_share",
                "base_bytes",
                "peak_memory_bytes",
                "n_error_coords",
                "relative_error",
            ];
            assert_eq!(keys_after_machine(&answer), expected);
            let number = |key: &str| answer[key].as_f64().unwrap();
            assert_eq!(answer["bench"], "cge");
            assert_eq!((&answer["evaluator"], &answer["threads"]), (&evaluator.into(), &2.into()));
            assert_eq!((&answer["queries"], &answer["n_error_coords"]), (&n_queries.into(), &6.into()));
            assert_eq!(answer["sparsity"].is_null(), answer["distribution"] == "uniform");
            assert!(number("us_per_query_image") > 0.0 && number("peak_share") > 0.0, "{answer}");
            assert!(number("relative_error") < 1e-2, "{options}: {answer}");
            let saved = 1.0 - number("executed_gflops") / number("effective_gflops");
            assert!(if evaluator == "full" { saved.abs() < 1e-9 } else { saved > 0.0 }, "{answer}");
            assert_eq!(number("base_bytes") > 0.0, evaluator != "full");
        }
    }
    let none =
        place.run("bench cge --model cnn-d1-w2 --batch-size 2 --coords 1 --error-coords 0 --json").json();
    assert!(none["relative_error"].is_null() && none["n_error_coords"] == 0, "{none}");
    let text = place.run("bench cge --model cnn-d1-w2 --batch-size 2 --coords 1 --repeats 2").ok();
    assert!(text.contains("GFLOP/s") && text.contains("relative error"), "{text}");
    assert!(place.names("").is_empty());
}

#[test]
fn measurements_are_compared_with_former_ones() {
    let place = Place::new();
    let bench = "bench cge --model cnn-d1-w2 --coords 1 --repeats 1 --error-coords 0";
    let then = place.run(&format!("{bench} --batch-size 2 --json")).json();
    let file = place.path("then.json");
    std::fs::write(&file, then.to_string()).unwrap();
    let against = format!("--against {}", file.display());
    let text = place.run(&format!("{bench} --batch-size 2 {against}")).ok();
    assert!(text.contains("times better") && text.contains("differences s"), "{text}");
    let now = place.run(&format!("{bench} --batch-size 2 --json {against}")).json();
    let gain = then["differences_s"].as_f64().unwrap() / now["differences_s"].as_f64().unwrap();
    assert!((now["gains"]["differences s"].as_f64().unwrap() / gain - 1.0).abs() < 1e-9, "{now}");

    // What was measured is told even if it cannot be compared.
    let other = place.run(&format!("{bench} --batch-size 3 {against}"));
    assert!(other.code == 1 && other.stdout.contains("per query and image"), "{}", other.stdout);
    assert!(other.stderr.contains("measured something else: batch_size 2 there, 3 here"), "{}", other.stderr);
    std::fs::write(&file, "[]").unwrap();
    let broken = place.run(&format!("{bench} --batch-size 2 {against}"));
    assert!(broken.code == 1 && broken.stdout.is_empty(), "{}", broken.stdout);
    assert!(broken.stderr.contains("then.json is no measurement"), "{}", broken.stderr);
}

#[test]
fn bench_measures_the_rest() {
    let place = Place::new();
    let small = "--model resnet8-w2 --batch-size 4 --json";
    let rge = place.run(&format!("bench rge {small} --queries 3 --repeats 1")).json();
    let network = ["model", "n_params", "batch_size"];
    let after_network = keys_after_machine(&rge).split_off(network.len());
    assert_eq!(
        after_network,
        [
            "evaluator",
            "n_dirs",
            "seed",
            "repeats",
            "queries",
            "estimate_s",
            "estimate_min_s",
            "estimate_max_s",
            "us_per_query_image",
            "gflops",
            "peak_share",
            "peak_memory_bytes",
        ]
    );
    assert_eq!((&rge["bench"], &rge["queries"]), (&"rge".into(), &4.into()));
    let fo = place.run(&format!("bench fo {small} --steps 2")).json();
    let after_network = keys_after_machine(&fo).split_off(network.len());
    assert_eq!(
        after_network,
        [
            "seed",
            "steps",
            "step_s",
            "step_min_s",
            "step_max_s",
            "images_per_s",
            "gflops",
            "peak_share",
            "peak_memory_bytes",
        ]
    );
    assert!(fo["bench"] == "fo" && fo["gflops"].as_f64().unwrap() > 0.0, "{fo}");
    let conv = place.run("bench conv --batch-size 2 --repeats 1 --json").json();
    assert_eq!(keys_after_machine(&conv), ["batch_size", "repeats", "layers"]);
    for layer in conv["layers"].as_array().unwrap() {
        for pass in ["forward", "grad_input", "grad_weight"] {
            assert!(layer[format!("{pass}_gflops")].as_f64().unwrap() > 0.0, "{layer}");
            assert!(layer[format!("{pass}_share")].as_f64().unwrap() > 0.0, "{layer}");
        }
    }
    for verb in ["rge --queries 1", "fo --steps 1"] {
        let text = place.run(&format!("bench {verb} --model cnn-d1-w2 --batch-size 2")).ok();
        assert!(text.contains("% of peak"), "{text}");
    }
    assert!(place.run("bench conv --batch-size 1 --repeats 1").ok().contains("grad weight"));
}

#[test]
fn bench_refuses_in_one_line() {
    let place = Place::new();
    for (args, expected) in [
        ("cge --model vgg", "`vgg` is unknown"),
        ("fo --model resnet21", "a resnet has depth 6n+2 (8, 14, 20, 32, …); got 21"),
        ("cge --model cnn-d1-w2 --coords 1000", "1000 asked for, but there are"),
        ("cge --distribution lpr-paper --sparsity 1", "--sparsity must be in [0, 1), got 1"),
        ("cge --sparsity 0.5", "--sparsity needs --distribution lpr-paper or lpr-released"),
        ("cge --mu 0", "--mu must be a positive number, got 0"),
        ("rge --weights nowhere.safetensors", "nowhere.safetensors"),
        ("conv --device gpu", "device `gpu`"),
    ] {
        let ran = place.run(&format!("bench {args}"));
        let line = ran.refusal_alone();
        assert!(predicate::str::contains(expected).eval(line), "{args}: {line}");
    }
    for args in [
        "",
        "cge --coords 0",
        "cge --batch-size 0",
        "cge --batch-size 100000000000",
        "cge --evaluator half",
        "cge --distribution lpr",
        "rge --queries 0",
        "fo --steps 0",
        "conv --repeats 0",
    ] {
        assert_eq!(place.run(&format!("bench {args}")).code, 2, "{args}");
    }
}

#[test]
fn list_shows_every_experiment() {
    let place = Place::new();
    let library = Library::embedded();
    let text = place.run("list").ok();
    assert!(library.ids().all(|id| text.contains(id)), "{text}");
    assert!(text.contains("results: none yet"));
    let rows = place.run("list --json").json();
    let ids: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, library.ids().collect::<Vec<_>>());
    for row in rows.as_array().unwrap() {
        let id = row["id"].as_str().unwrap();
        let n_scales = library.get(id).unwrap().scales.len();
        assert_eq!(row["scales"].as_array().unwrap().len(), n_scales, "{id}");
    }
    let own = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    assert_eq!(own.run("list --json").json()[0]["id"], "tiny");
    own.run("reproduce tiny").ok();
    assert_eq!(own.run("list --json").json()[0]["results"]["smoke"], 1);
    assert!(own.run("list").ok().contains("smoke (1 trials)"));
    assert!(place.names("").is_empty());
}

/// A figure of other experiments' results runs nothing of theirs, and says what to run.
#[test]
fn a_figure_of_results_of_others() {
    let figure = "id = \"whole\"\ntitle = \"All\"\n[figure]\nx = \"n-params\"\nx-label = \"Parameters\"\n\
                  y = \"test-accuracy\"\n[[series]]\nid = \"one\"\nlabel = \"One\"\ntrials = false\n\
                  [[from]]\nexperiment = \"tiny\"\nseries = \"SERIES\"\nas = \"one\"\n[scale.smoke]\n";
    let tiny = experiment("tiny", "mu", "[0.01]", "");
    let place = Place::with(&[("whole", figure.replace("SERIES", "only")), ("tiny", tiny)]);
    let advice = "run `deepzero reproduce tiny --scale smoke`";
    let ran = place.run("reproduce whole --scale smoke");
    assert!(
        ran.code == 0 && ran.stderr.contains("0 trials, 0 to run") && ran.stderr.contains(advice),
        "{}",
        ran.stderr
    );
    assert!(place.run("status whole").ok().contains(advice));
    assert!(place.run("plan whole --scale smoke").ok().contains("deepzero plan tiny"));
    assert!(place.run("report whole").refusal().contains("whole has no results"));
    assert!(!place.names("").contains(&"reports".to_owned()));
    place.run("reproduce tiny --scale smoke").ok();
    assert!(place.names("reports").contains(&"whole.md".to_owned()), "{:?}", place.names("reports"));
    assert!(!place.run("status whole").ok().contains(advice));
    assert!(place.run("report whole").ok().contains("whole-smoke.png"));
    assert!(place.run("reproduce whole --scale smoke").ok().contains("whole.md"));
}

#[test]
fn plan_costs_without_data_and_writes_nothing() {
    let place = Place::new();
    // What a plan times is as slow as the networks, so the ResNets are small ones here.
    for (args, id) in [("fig2", "fig2"), ("fig4 --set depth=8 --set width=4", "fig4~depth=8,width=4")] {
        let text = place.run(&format!("plan {args} --scale paper --seeds 1")).ok();
        assert!(text.contains(&format!("{id} at paper scale")) && text.contains("in all"), "{text}");
    }
    // Every other task, too.
    let text = place.run("plan tabA1 figA6 workers-model quality-mu --scale smoke --seeds 1").ok();
    assert_eq!(text.matches("in all").count(), 4, "{text}");
    let plan = &place.run("plan fig2 --scale smoke --json --seeds 2").json()[0];
    let trials = plan["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 2 * Library::embedded().get("fig2").unwrap().scales[&Scale::Smoke].cells.len());
    let total: f64 = trials.iter().map(|trial| trial["queries"].as_f64().unwrap()).sum();
    assert!((plan["queries"].as_f64().unwrap() - total).abs() < 0.5);
    assert!(trials.iter().all(|trial| trial["state"] == "to run" && trial["wall_s"].as_f64().unwrap() > 0.0));
    assert!(place.names("").is_empty());
}

/// Oracle: Graham's bounds of what a list of trials takes, so many at a time, but no more than there are threads.
#[test]
fn planned_times_are_of_trials_side_by_side() {
    let place = Place::new();
    for n in [1, 2, 4] {
        let plan =
            &place.run(&format!("plan fig2 --scale smoke --json --parallel {n} --threads 2")).json()[0];
        let times: Vec<f64> = plan["trials"]
            .as_array()
            .unwrap()
            .iter()
            .map(|trial| trial["wall_s"].as_f64().unwrap())
            .collect();
        let (sum, longest) = (times.iter().sum::<f64>(), times.iter().copied().fold(0.0, f64::max));
        let at_a_time = f64::from(n.min(2));
        let least = longest.max(sum / at_a_time);
        let most = sum / at_a_time + longest * (1.0 - 1.0 / at_a_time);
        let found = plan["wall_s"].as_f64().unwrap();
        let slack = 1e-9 * sum;
        assert!(least - slack <= found && found <= most + slack, "{n}: {found}, {least} to {most}");
        assert_eq!(plan["wall_s_left"], plan["wall_s"]);
    }
}

/// Oracle: the queries that training really spends.
#[test]
fn planned_queries_are_spent_queries() {
    let settings = "method = \"cge\"\nsparsity = 0.5\nlayer-ratios = \"uniform\"\ndifference = \"central\"";
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", settings))]);
    let planned = place.run("plan tiny --json").json()[0]["queries"].as_f64().unwrap();
    place.run("reproduce tiny").ok();
    let spent = place.records("tiny")[0].epochs.last().unwrap().get_count(&QUERIES).unwrap();
    assert!((planned - spent as f64).abs() < 0.5, "{planned} planned, {spent} spent");
    let after = place.run("plan tiny --json").json();
    assert_eq!(
        (after[0]["wall_s_left"].as_f64(), &after[0]["trials"][0]["state"]),
        (Some(0.0), &"done".into())
    );
}

#[test]
fn mistakes_get_advice() {
    let place = Place::new();
    for (args, expected) in [
        ("plan fig4 --set sparsness=0.5", "did you mean `sparsity`"),
        ("plan fig4 --set epochs=0", "expected an integer from 1 to 1000000; got 0"),
        ("plan fig4 --set mu=many", "expected a finite number above 0; got many"),
        ("plan fig4 --set sparsity=0.5", "it is what the x axis of fig4 varies"),
        ("plan fig9", "did you mean `fig1` or `fig2` or `fig3`"),
        ("reproduce fig4 fgi2", "no experiment `fgi2`"),
        ("status fig9", "no experiment `fig9`"),
        ("report fig9", "no experiment `fig9`"),
        ("sweep colour --values 1,2", "`colour`: no such setting"),
        ("sweep sparsty", "did you mean `sparsity`"),
        ("sweep weight-decay", "a sweep over it needs values"),
        ("sweep weight-decay --values 0,-1", "got -1"),
        ("sweep mu --values 0.1,1e-1", "setting `mu`: the value 1e-1 is given twice"),
        (
            "sweep estimator --values cge,adam",
            "expected one of cge, rge, cocd, sparse-mezo, lozo, subzero, zo-muon, hizoo, eggroll, fo, rge-model, pattern-search, cma-es, output-cge, output-rge, fa, dfa, align-ada, align-zero, align-prop, last-layer, fg-w, fg-a, lg-fg-a, lg-bp; got adam",
        ),
        ("train --set metod=fo", "did you mean `method`"),
        (
            "train --set queries=5",
            "`queries`: it plays no part with task = train, method = cge; it is read with",
        ),
        (
            "train --set method=pattern-search --set sparsity=0",
            "`sparsity`: it plays no part with task = train",
        ),
        ("train --set workers=2", "it is read with task = workers, workers-model"),
        ("train --set modeled=true", "`modeled`: no such setting"),
        (
            "plan fig4 --set decay=0.5",
            "`decay`: it plays no part with task = train, method = cge; it is read with",
        ),
        (
            "plan fig4 --set method=pattern-search",
            "`sparsity`: it plays no part with task = train, method = pattern",
        ),
        ("reproduce fig4 --set task=stages", "`task`: stages needs method = cge or rge; got fo"),
        ("reproduce tabA1 --set evaluator=full", "`evaluator`: it plays no part with task = stages"),
        (
            "sweep decay --values 0,0.5",
            "`decay`: it plays no part with task = train, method = cge; it is read with",
        ),
        ("sweep momentum --values 0,0.5 --set method=pattern-search", "`momentum`: it plays no part with"),
        ("bench job --set data=synthetic", "`data`: it plays no part with task = workers"),
        ("train --set data=synthetic --out model.state", "the extension .state"),
        ("train --set data=synthetic --out .", "a folder, not a file"),
        ("list --experiments nowhere", "list nowhere: No such file"),
        ("train --set data=synthetic --device cuda:first", "device `cuda:first`"),
    ] {
        let ran = place.run(args);
        let line = ran.refusal_alone();
        assert!(predicate::str::contains(expected).eval(line), "{args}: {line}");
    }
    for args in
        ["plan fig4 --set epochs", "plan fig4 --set =3", "plan", "plan fig4 --scale tiny", "plot fig4"]
    {
        assert_eq!(place.run(args).code, 2, "{args}");
    }
    assert!(place.run("plan fig4 --set epochs").stderr.contains("KEY=VALUE"));
    assert!(place.names("").is_empty());
}

/// `all` names what has the scale, and says what has not.
#[test]
fn experiments_without_a_scale_are_left_out_of_all() {
    let long = experiment("long", "mu", "[0.01]", "").replace("[scale.smoke]", "[scale.overnight]");
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", "")), ("long", long)]);
    let ran = place.run("plan all --scale overnight --json");
    assert!(ran.stderr.contains("tiny is left out: it has no overnight scale"), "{}", ran.stderr);
    let plans = ran.json();
    let ids: Vec<&str> = plans.as_array().unwrap().iter().map(|plan| plan["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["long"]);
    assert!(
        place.run("plan tiny --scale overnight").refusal().contains("has no scale overnight, only smoke")
    );
}

/// Oracle: the points of an experiment of three.
#[test]
fn single_points_of_an_experiment() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01, 0.02, 0.03]", ""))]);
    let all = place.run("plan tiny --json").json();
    let points = |answer: &serde_json::Value| -> Vec<(String, f64)> {
        let trials = answer[0]["trials"].as_array().unwrap();
        trials.iter().map(|t| (t["series"].as_str().unwrap().to_owned(), t["x"].as_f64().unwrap())).collect()
    };
    let all = points(&all);
    let series = all[0].0.clone();
    for (only, expected) in [
        (
            format!("{series}=0.02"),
            all.iter().filter(|(s, x)| *s == series && (x - 0.02).abs() < 1e-9).count(),
        ),
        ("=0.03".to_owned(), all.iter().filter(|(_, x)| (x - 0.03).abs() < 1e-9).count()),
        (series.clone(), all.iter().filter(|(s, _)| *s == series).count()),
        (format!("{series} --only =0.01"), all.len()),
    ] {
        let answer = place.run(&format!("plan tiny --json --only {only}"));
        let found = points(&answer.json());
        assert_eq!(found.len(), expected, "{only}: {found:?} of {all:?}");
        assert!(expected > 0);
    }
    for wrong in ["no-such-series", "=0.5"] {
        let ran = place.run(&format!("reproduce tiny --only {wrong}"));
        assert!(ran.refusal_alone().contains("no such point in tiny"), "{}", ran.stderr);
    }
}

/// Oracle: the sweep that nobody split. Parts in any order, results copied together.
#[test]
fn three_shards_are_the_whole() {
    let place = || Place::with(&[("tiny", experiment("tiny", "mu", "[0.01, 0.02, 0.03, 0.04]", ""))]);
    let whole = place();
    whole.run("reproduce tiny --seeds 1").ok();
    let whole = whole.records("tiny");
    assert_eq!(whole.len(), 4);
    let parts = [place(), place(), place()];
    let mut found = Vec::new();
    for (idx, part) in parts.iter().enumerate().rev() {
        part.run(&format!("reproduce tiny --seeds 1 --shard {}/3", idx + 1)).ok();
        found.extend(part.records("tiny"));
    }
    let key = |record: &deepzero::results::TrialRecord| record.trial.hash();
    let sorted = |mut records: Vec<deepzero::results::TrialRecord>| {
        records.sort_by_key(key);
        records
    };
    let (found, whole) = (sorted(found), sorted(whole));
    assert_eq!(found.len(), whole.len());
    for (found, expected) in found.iter().zip(&whole) {
        deepzero::results::compare_ignoring_time(expected, found).unwrap();
    }
    for wrong in ["0/3", "4/3", "x"] {
        assert_eq!(parts[0].run(&format!("reproduce tiny --shard {wrong}")).code, 2);
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    if candle_core::utils::cuda_is_available() {
        eprintln!("skipped: this build has CUDA");
        return;
    }
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    for args in ["reproduce tiny", "train --set data=synthetic"] {
        let ran = place.run(&format!("{args} --device cuda"));
        assert!(ran.refusal_alone().contains("device `cuda`: this program is built without CUDA"));
    }
    assert_eq!(place.names(""), ["experiments"]);
}

#[test]
fn missing_images_are_one_clear_line() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", "data = \"cifar10\""))]);
    for args in ["train --set data=cifar10", "reproduce tiny", "data info", "data verify", "data fetch"] {
        let ran = place.run(args);
        let line = ran.refusal();
        assert!(line.contains("CIFAR-10") && line.contains("--data-dir"), "{args}: {line}");
    }
    assert!(place.result_files("tiny").is_empty());
    // A folder that the environment names and that is not there is a mistake, not one place less to look.
    let mut named = place.command("data info");
    let output = named.env("DEEPZERO_DATA", place.path("gone")).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.lines().count() == 1, "{stderr}");
    assert!(stderr.contains("gone") && stderr.contains("$DEEPZERO_DATA"), "{stderr}");
    let ran = place.run("data info --data-dir nowhere");
    assert!(ran.refusal().contains("nowhere"), "{}", ran.stderr);
}

/// A tiny run's file as polars sees it. Oracle: `results/README.md` and the recipe.
#[test]
fn results_are_parquet_as_documented() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    place.run("reproduce tiny").ok();
    let [(path, _)] = &place.result_files("tiny")[..] else { panic!("one result") };
    let frame: DataFrame = ParquetReader::new(std::fs::File::open(path).unwrap()).finish().unwrap();
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("results/README.md")).unwrap();
    let documented: Vec<&str> =
        readme.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let columns: Vec<&str> = frame.columns().iter().map(|column| column.name().as_str()).collect();
    assert_eq!(columns, documented);
    let text =
        |name: &str, row: usize| frame.column(name).unwrap().get(row).unwrap().get_str().unwrap().to_owned();
    assert_eq!((0..3).map(|row| text("row", row)).collect::<Vec<_>>(), ["epoch", "epoch", "final"]);
    assert_eq!(frame.height(), 3);
    assert_eq!((text("status", 2), text("experiment", 2)), ("done".into(), "tiny".into()));
    assert_eq!(format!("{}.parquet", text("trial", 2)), path.file_name().unwrap().to_str().unwrap());
    let last = |name: &str| frame.column(name).unwrap().get(2).unwrap();
    assert_eq!(last("n_params").extract::<u64>(), Some(30 * 2 + 10 * 2 + 10));
    assert_eq!(last("epoch").extract::<u32>(), Some(2));
    assert!(last("best_test_accuracy").extract::<f64>().is_some());
}

/// What a trial does not read is null in its file and absent from its report, its plan and its summary. Oracle: what
/// Pattern Search reads, and that it knows no learning rate.
#[test]
fn what_is_not_read_is_not_shown() {
    let method = "method = \"pattern-search\"";
    let place = Place::with(&[("tiny", experiment("tiny", "queries", "[20]", method))]);
    place.run("reproduce tiny").ok();
    let read = [
        "task",
        "method",
        "data",
        "n-train",
        "n-val",
        "n-test",
        "augment",
        "pixels",
        "jpeg-quality",
        "model",
        "depth",
        "width",
        "precision",
        "init",
        "loss",
        "epochs",
        "batch-size",
        "queries",
        "evaluator",
        "search",
        "radius",
        "population",
        "search-steps",
        "normalize-logits",
        "stop-when-fitted",
    ];
    let [(path, _)] = &place.result_files("tiny")[..] else { panic!("one result") };
    let frame = ParquetReader::new(std::fs::File::open(path).unwrap()).finish().unwrap();
    for entry in settings::entries() {
        let column = frame.column(&format!("setting_{}", entry.name.replace('-', "_"))).unwrap();
        let n_null = if read.contains(&entry.name) { 0 } else { frame.height() };
        assert_eq!(column.null_count(), n_null, "{}", entry.name);
    }
    // It is named by what it implies, too.
    let named = frame.column("settings").unwrap().get(0).unwrap().get_str().unwrap().to_owned();
    assert!(named.contains("\"sparsity\":0.0,") && named.contains("\"queries\":20,"), "{named}");
    let page = std::fs::read_to_string(place.path("reports/tiny.md")).unwrap();
    let table = page.split_once("| setting | value |").unwrap().1.split_once("</details>").unwrap().0;
    let shown: Vec<&str> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    // Pixels stay as they are.
    let read: Vec<&str> = read.into_iter().filter(|name| *name != "jpeg-quality").collect();
    assert_eq!(shown, read);
    let plan = place.run("plan tiny --json").ok();
    let (summary, _) = train(&place, &format!("{} queries=20", method.replace([' ', '"'], "")), 1);
    let epoch = &summary["epochs"][0];
    assert!(epoch["radius"].as_f64().unwrap() > 0.0, "{epoch}");
    for absent in ["sparsity", "momentum", "learning_rate", "gradient_norm"] {
        assert!(
            !plan.contains(absent) && !summary.to_string().contains(absent),
            "{absent}: {plan} {summary}"
        );
    }
}

#[test]
fn a_finished_experiment_is_not_run_again() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01, 0.02]", ""))]);
    let ran = place.run("reproduce tiny");
    assert!(ran.stderr.contains("2 trials, 2 to run"), "{}", ran.stderr);
    let last = ran.stderr.lines().last().unwrap();
    assert!(last.starts_with("look at ") && last.contains("tiny-smoke.png, or open "), "{last}");
    assert!(last.ends_with("index.html in a browser"), "{last}");
    let said = ran.ok();
    assert!(said.contains("tiny.md") && said.contains("index.html"), "{said}");
    let before = place.result_files("tiny");
    assert_eq!(before.len(), 2);
    let again = place.run("reproduce tiny");
    assert!(again.stderr.contains("2 trials, 0 to run"), "{}", again.stderr);
    again.ok();
    assert_eq!(place.result_files("tiny"), before);
    let more = place.run("reproduce tiny --seeds 2");
    assert!(more.stderr.contains("4 trials, 2 to run"), "{}", more.stderr);
    let after = place.result_files("tiny");
    assert!(after.len() == 4 && before.iter().all(|file| after.contains(file)));
    // Changed settings are another experiment.
    place.run("reproduce tiny --set epochs=1").ok();
    assert_eq!(place.names("results"), ["tiny", "tiny~epochs=1"]);
    assert_eq!(place.result_files("tiny"), after);
    // Under the id that the report gives it, too; and changed once more.
    let ran = place.run("reproduce tiny~epochs=1");
    assert!(ran.stderr.contains("2 trials, 0 to run"), "{}", ran.stderr);
    ran.ok();
    place.run("reproduce tiny~epochs=1 --set momentum=0.5").ok();
    let [record, _] = &place.records("tiny~epochs=1,momentum=0.5")[..] else { panic!("two trials") };
    let number = |name: &str| record.trial.settings.get(name).unwrap().to_string();
    assert_eq!([number("epochs"), number("momentum")], ["1", "0.5"]);
    assert!(place.run("reproduce tini~epochs=1").refusal().contains("did you mean `tiny`"));
}

/// Two processes share the trials; what one finishes the other does not run again.
#[test]
fn two_processes_share_an_experiment() {
    let text = experiment("tiny", "mu", "[0.01, 0.02, 0.03, 0.04, 0.05]", "method = \"cge\"\nepochs = 4");
    let place = Place::with(&[("tiny", text)]);
    let children = [0, 1].map(|_| place.spawn("reproduce tiny --threads 1"));
    let mut n_finished = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        n_finished += stderr.matches("test accuracy").count();
    }
    assert!(n_finished >= 5);
    let records = place.records("tiny");
    assert!(records.len() == 5 && records.iter().all(|record| record.status == Status::Done));
    let left: Vec<String> =
        place.names("results/tiny/smoke").into_iter().filter(|name| !name.ends_with(".parquet")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Oracle: the same trials one after the other. At smoke scale as many run side by side as there are threads; each has its
/// share of them, and the record says how many that is.
#[test]
fn trials_run_side_by_side() {
    let place = || Place::with(&[("tiny", experiment("tiny", "mu", "[0.01, 0.02, 0.03]", ""))]);
    let run = |args: &str, threads: u32| {
        let place = place();
        let ran = place.run(&format!("reproduce tiny --seeds 1 {args}"));
        for position in 1..=3 {
            let ends = ran.stderr.matches(&format!("[{position}/3] tiny/smoke")).count();
            assert_eq!(ends, 2, "{args}: {}", ran.stderr);
        }
        ran.ok();
        let mut records = place.records("tiny");
        records.sort_by_key(|record| record.trial.hash());
        assert!(records.iter().all(|record| record.provenance.threads == threads), "{args}");
        records
    };
    let expected = run("--parallel 1 --threads 4", 4);
    assert_eq!(expected.len(), 3);
    for (args, threads) in
        [("--parallel 2 --threads 4", 2), ("--parallel 5 --threads 1", 1), ("--threads 3", 1)]
    {
        for (found, expected) in run(args, threads).iter().zip(&expected) {
            deepzero::results::compare_ignoring_time(expected, found).unwrap();
        }
    }
    assert_eq!(place().run("reproduce tiny --parallel 0").code, 2);
}

/// A folder where the lock of one trial should be: one line that names it, what ran beside it stops, and the same command
/// does the rest once the folder is gone. Oracle: the trials of another folder.
#[test]
fn side_by_side_all_stop_at_an_error() {
    let place = || {
        let settings = "method = \"cge\"\nepochs = 4";
        Place::with(&[("tiny", experiment("tiny", "mu", "[0.01, 0.02, 0.03, 0.04, 0.05, 0.06]", settings))])
    };
    let whole = place();
    whole.run("reproduce tiny --seeds 1 --parallel 3").ok();
    let mut expected = whole.records("tiny");
    expected.sort_by(|a, b| a.trial.x.unwrap().total_cmp(&b.trial.x.unwrap()));
    let place = place();
    let in_the_way = format!("results/tiny/smoke/{}.lock", expected[1].trial.hash());
    std::fs::create_dir_all(place.path(&in_the_way)).unwrap();
    let ran = place.run("reproduce tiny --seeds 1 --parallel 2");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let last = ran.stderr.lines().last().unwrap();
    assert!(last.contains(&in_the_way) && last.contains("not a regular file"), "{}", ran.stderr);
    assert!(place.records("tiny").len() < 4, "{}", ran.stderr);
    std::fs::remove_dir(place.path(&in_the_way)).unwrap();
    place.run("reproduce tiny --seeds 1 --parallel 2").ok();
    let mut found = place.records("tiny");
    found.sort_by(|a, b| a.trial.x.unwrap().total_cmp(&b.trial.x.unwrap()));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        deepzero::results::compare_ignoring_time(expected, found).unwrap();
    }
}

/// The pages that several experiments in one command leave are those of `report`.
#[test]
fn pages_of_several_experiments_are_those_of_report() {
    let place = Place::with(&[
        ("one", experiment("one", "mu", "[0.01, 0.02]", "")),
        ("two", experiment("two", "mu", "[0.01]", "")),
    ]);
    let said = place.run("reproduce one two --seeds 1").ok();
    assert!(["one.md", "two.md", "index.html"].iter().all(|page| said.contains(page)), "{said}");
    let pages = ["one.md", "one-smoke.svg", "one-smoke.png", "two.md", "two-smoke.svg", "index.html"];
    let read = || pages.map(|page| std::fs::read(place.path(&format!("reports/{page}"))).unwrap());
    let left = read();
    std::fs::remove_dir_all(place.path("reports")).unwrap();
    place.run("report").ok();
    assert!(read() == left);
}

#[test]
fn sweeps_over_any_setting() {
    let base = experiment("sweep-sparsity", "sparsity", "[0.5]", "layer-ratios = \"uniform\"");
    let place = Place::with(&[("sweep-sparsity", base)]);
    place.run("sweep weight-decay --values 0,5e-4").ok();
    let records = place.records("sweep-weight-decay");
    let decays: Vec<f64> = records
        .iter()
        .map(|record| record.trial.settings.read::<optimizer::Config>().unwrap().weight_decay)
        .collect();
    assert_eq!(decays, [0.0, 5e-4]);
    place.run("sweep estimator --values cge,rge,fo --set epochs=1 --set sparsity=0.5").ok();
    let id = "sweep-method~epochs=1,sparsity=0.5";
    let queries: Vec<bool> =
        place.records(id).iter().map(|record| record.epochs[0].get(&QUERIES) > 0.0).collect();
    assert_eq!(queries, [true, true, false]);
    place.run("sweep sparsity").ok();
    assert_eq!(place.records("sweep-sparsity").len(), 1);
    // What only the changes bring into play.
    let refused = place.run("sweep decay --values 0,0.5");
    assert!(refused.refusal_alone().contains("`decay`: it plays no part"), "{}", refused.stderr);
    place.run("sweep decay --values 0,0.5 --set method=cocd --set epochs=1 --set queries=20").ok();
    let stale = "sweep-decay~method=cocd,epochs=1,queries=20";
    let decays: Vec<_> =
        place.records(stale).iter().map(|r| r.trial.settings.get("decay").unwrap()).collect();
    assert_eq!(decays, [0.0, 0.5].map(toml::Value::Float));
    // Names keep their results whatever else stands in the list, and have one place each.
    for values in ["true", "false", "false,true"] {
        place.run(&format!("sweep augment --values {values} --set epochs=1 --set sparsity=0.5")).ok();
    }
    let named = "sweep-augment~epochs=1,sparsity=0.5";
    assert_eq!(place.records(named).len(), 2);
    let page = std::fs::read_to_string(place.path("reports").join(format!("{named}.md"))).unwrap();
    assert!(page.contains("2 of 2 planned trials finished"), "{page}");
    // The ids in reports run again as they were.
    for (id, n_trials) in [(id, 3), ("sweep-weight-decay", 2), (stale, 2), (named, 2)] {
        assert!(place.run(&format!("status {id}")).ok().contains(&format!("{n_trials} of {n_trials} done")));
        let ran = place.run(&format!("reproduce {id}"));
        assert!(ran.stderr.contains(&format!("{n_trials} trials, 0 to run")), "{}", ran.stderr);
        ran.ok();
    }
    // All have their reports, also from the results alone.
    let pages = |place: &Place| -> Vec<String> {
        place.names("reports").into_iter().filter(|name| name.ends_with(".md")).collect()
    };
    let expected = [
        format!("{named}.md"),
        format!("{stale}.md"),
        format!("{id}.md"),
        "sweep-sparsity.md".into(),
        "sweep-weight-decay.md".into(),
    ];
    assert_eq!(pages(&place), expected);
    std::fs::remove_dir_all(place.path("reports")).unwrap();
    let ran = place.run("report");
    assert!(!ran.stderr.contains("left out"), "{}", ran.stderr);
    ran.ok();
    assert_eq!(pages(&place), expected);
}

/// One trial diverges, the others go on; the report and the exit code tell.
#[test]
fn a_diverging_trial_is_reported() {
    let place = Place::with(&[("tiny", experiment("tiny", "learning-rate", "[1e30, 0.05]", ""))]);
    for to_run in [2, 0] {
        let ran = place.run("reproduce tiny");
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("2 trials, {to_run} to run")), "{}", ran.stderr);
        assert!(ran.stderr.contains("1 trials failed or diverged"), "{}", ran.stderr);
    }
    let records = place.records("tiny");
    let status: Vec<Status> = records.iter().map(|record| record.status).collect();
    assert_eq!(status, [Status::Done, Status::Diverged]);
    assert!(records[1].error.contains("diverged"), "{}", records[1].error);
    let page = std::fs::read_to_string(place.path("reports/tiny.md")).unwrap();
    assert!(page.contains("diverged"), "{page}");
    let status = &place.run("status --json").json()[0];
    assert_eq!((&status["done"], &status["diverged"]), (&1.into(), &1.into()));
    assert!(place.run("status").ok().contains("1 of 2 done, 1 diverged, 0 failed"));
}

/// Too few images of a class for the scores: that trial fails, the next one runs.
#[test]
fn a_failing_trial_does_not_stop_the_others() {
    let settings = "n-train = 20\nn-val = 5\nbatch-size = 10\nsparsity = 0.5\nlayer-ratios = \"fo-grasp\"";
    let text = experiment("tiny", "grasp-images-per-class", "[2, 1]", settings);
    let place = Place::with(&[("tiny", text)]);
    for to_run in [2, 1] {
        let ran = place.run("reproduce tiny");
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        // What failed may go well the next time.
        assert!(ran.stderr.contains(&format!("2 trials, {to_run} to run")), "{}", ran.stderr);
    }
    let records = place.records("tiny");
    let status: Vec<Status> = records.iter().map(|record| record.status).collect();
    assert_eq!(status, [Status::Done, Status::Failed]);
    let page = std::fs::read_to_string(place.path("reports/tiny.md")).unwrap();
    assert!(page.contains("images of class") && page.contains("failed"), "{page}");
}

/// Steps that break the parameters at once, in the middle of a run, and at its very end: the exit
/// code tells, and the weights written are those before. Oracle: the initial values.
#[test]
fn weights_of_a_diverged_run_are_sound() {
    let place = Place::new();
    let network = model::cnn(2, 4, &model::Io::CIFAR).unwrap();
    let as_f32 = |values: Vec<f64>| -> Vec<f32> { values.into_iter().map(|value| value as f32).collect() };
    let initial = as_f32(network.layout().initial_values(7));
    for more in [
        "method=fo learning-rate=1e30 warmup-epochs=0",
        "method=cge learning-rate=1e30 warmup-epochs=0",
        "method=fo learning-rate=1e38 warmup-epochs=0 epochs=1 batch-size=60",
        "method=fo learning-rate=1e300 warmup-epochs=0 epochs=1 batch-size=60",
    ] {
        let args = format!("train{} --seed 7 --json --out w.safetensors", recipe(more));
        let ran = place.run(&args);
        assert_eq!(ran.code, 3, "{more}: {}", ran.stderr);
        assert!(ran.stderr.contains("diverged") && ran.stderr.contains("the initial ones"), "{}", ran.stderr);
        let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&answer["status"], &answer["epochs"]), (&"diverged".into(), &Value::Array(vec![])));
        let (params, stats) = weights::load(&network, &place.path("w.safetensors")).unwrap();
        assert_eq!(as_f32(params), initial, "{more}");
        assert_eq!(stats, network.initial_stats());
        assert_eq!(place.names(""), ["w.safetensors"]);
    }
}

#[test]
fn folders_that_cannot_hold_results() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    std::fs::write(place.path("file"), "mine").unwrap();
    for verb in ["reproduce tiny", "list", "report", "status", "status tiny"] {
        let ran = place.run(&format!("{verb} --results file"));
        assert!(ran.refusal().contains("file"), "{verb}: {}", ran.stderr);
    }
    let ran = place.run("report --reports file");
    assert!(ran.refusal_alone().contains("file"), "{}", ran.stderr);
    if Path::new("/proc/self").exists() {
        let ran = place.run("reproduce tiny --results /proc/results");
        assert!(ran.refusal().contains("/proc/results"), "{}", ran.stderr);
    }
    assert_eq!(std::fs::read_to_string(place.path("file")).unwrap(), "mine");
}

#[test]
fn a_damaged_result_is_named() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01, 0.02]", ""))]);
    place.run("reproduce tiny").ok();
    let (path, bytes) = place.result_files("tiny").remove(0);
    let name = path.file_name().unwrap().to_str().unwrap();
    for damaged in [&bytes[..bytes.len() / 2], &bytes[..3], b"not Parquet at all, but long enough to try"] {
        std::fs::write(&path, damaged).unwrap();
        for verb in ["reproduce tiny", "report tiny", "status tiny", "plan tiny"] {
            let ran = place.run(verb);
            let line = ran.refusal_alone();
            assert!(line.contains(name) && line.contains("move the file away"), "{verb}: {line}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "it is evidence");
    }
    // As advised.
    std::fs::remove_file(&path).unwrap();
    place.run("reproduce tiny").ok();
    assert!(path.exists());
}

/// Damage anywhere in a file is an error that names it, or unnoticed, never a panic.
#[test]
fn a_flipped_byte_in_a_result_does_not_panic() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    place.run("reproduce tiny").ok();
    // With times that are the same in every run, so that all runs damage the same bytes.
    let mut record = place.records("tiny").remove(0);
    record.epochs.iter_mut().for_each(|row| row.set(&WALL_S, f64::from(row.epoch)));
    "2026-01-01T00:00:00Z".clone_into(&mut record.provenance.finished_at);
    std::fs::remove_dir_all(place.path("results")).unwrap();
    let path = place.store().write(&record).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(61) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x5a;
        std::fs::write(&path, &damaged).unwrap();
        if let Err(error) = place.store().read(&path) {
            assert!(error.to_string().contains(".parquet"), "byte {at} of {}: {error}", bytes.len());
        }
    }
}

#[test]
fn reports_come_from_results_alone() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    place.run("reproduce tiny").ok();
    std::fs::write(place.path("reports/mine.txt"), "mine").unwrap();
    let (results, names) = (place.result_files("tiny"), place.names("reports"));
    let page = std::fs::read_to_string(place.path("reports/tiny.md")).unwrap();
    for name in names.iter().filter(|name| name.starts_with("tiny")) {
        std::fs::remove_file(place.path("reports").join(name)).unwrap();
    }
    place.run("report --data-dir nowhere").ok();
    assert_eq!(place.names("reports"), names);
    assert_eq!(std::fs::read_to_string(place.path("reports/tiny.md")).unwrap(), page);
    assert_eq!(std::fs::read_to_string(place.path("reports/mine.txt")).unwrap(), "mine");
    assert_eq!(place.result_files("tiny"), results);
}

/// Recorded trials that are run again come to the same bits; one that says something else is found, with every count exact.
#[test]
fn recorded_trials_are_run_again() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01, 0.02, 0.03]", ""))]);
    place.run("reproduce tiny").ok();
    let before = (place.result_files("tiny"), place.names("reports"));
    let text = place.run("verify tiny --threads 1").ok();
    assert_eq!(text.matches(": the same bits\n").count(), 3, "{text}");
    assert!(
        text.ends_with("3 trials run again: 3 with the same bits, 0 within the tolerance, 0 different\n"),
        "{text}"
    );
    let drawn: Vec<String> = (0..8)
        .map(|draw| {
            let answer = place.run(&format!("verify tiny --sample 1 --draw {draw} --json")).json();
            assert_eq!(answer["trials"].as_array().map(Vec::len), Some(1));
            answer["trials"][0]["trial"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(drawn.iter().any(|trial| *trial != drawn[0]), "{drawn:?}");
    assert_eq!((place.result_files("tiny"), place.names("reports")), before, "it writes nothing");
    // A loss in another last digit is close, one query more is not.
    let [mut near, mut far, _] = <[TrialRecord; 3]>::try_from(place.records("tiny")).unwrap();
    let last = near.epochs.last_mut().unwrap();
    last.set(&TRAIN_LOSS, last.get(&TRAIN_LOSS) * (1.0 + 1e-12));
    let last = far.epochs.last_mut().unwrap();
    last.set(&QUERIES, last.get(&QUERIES) + 1.0);
    for record in [&near, &far] {
        std::fs::remove_file(place.store().path(&record.trial)).unwrap();
        place.store().write(record).unwrap();
    }
    let ran = place.run("verify tiny");
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(
        ran.stdout.ends_with("1 with the same bits, 1 within the tolerance, 1 different\n"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("DIFFERENT: queries "), "{}", ran.stdout);
    assert!(ran.stderr.contains("tolerance: after the last epoch"), "{}", ran.stderr);
    for (args, told) in [
        ("verify tiny --scale paper", "no scale paper"),
        ("verify fgi4", "no experiment `fgi4`"),
        ("verify tiny --sample 0", "0 is not in 1.."),
    ] {
        let ran = place.run(args);
        assert!(ran.code != 0 && ran.stderr.contains(told), "{args}: {}", ran.stderr);
    }
}

/// Numbers in a text are those of the results; the rest of the text, and a text with a mistake in it, stay as they are.
#[test]
fn blocks_of_a_text_are_filled() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    place.run("reproduce tiny").ok();
    let accuracy = 100.0 * place.records("tiny")[0].epochs.last().unwrap().get(&TEST_ACCURACY);
    let series = place.records("tiny")[0].trial.series.clone();
    let text = format!(
        "# Mine\n\n<!-- results of tiny\nIt came to {{{{ mean(\"{series}\", 0.01) }}}} %.\n-->\nstale\n<!-- end of results -->\n\nEnd.\n"
    );
    let path = place.path("mine.md");
    std::fs::write(&path, &text).unwrap();
    place.run("report --fill mine.md").ok();
    let filled = std::fs::read_to_string(&path).unwrap();
    assert_eq!(filled, text.replace("stale", &format!("It came to {accuracy:.2} %.")));
    for (wrong, told) in [
        (text.replace("mean(", "meen("), "meen"),
        (text.replace(&format!("\"{series}\""), "\"nobody\""), "no series `nobody`"),
        (text.replace("of tiny", "of tony"), "no experiment `tony`"),
        (text.replace("0.01)", "0.01, panel=\"no\")"), "no panel `no`"),
        (text.replace("0.01)", "0.01, of=\"no\")"), "no metric `no`"),
        (text.replace("<!-- end", "<!-- eend"), "line 3"),
    ] {
        std::fs::write(&path, &wrong).unwrap();
        let ran = place.run("report --fill mine.md");
        let line = ran.refusal();
        assert!(line.contains("mine.md") && line.contains(told), "{line}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), wrong);
    }
    assert!(place.run("report --fill nowhere.md").refusal().contains("nowhere.md"));
}

/// How many seeds checks take is known from three on, and does not change when more have run.
#[test]
fn seeds_follow_from_the_first_spread() {
    let check = "[[check]]\ntext = \"More is more.\"\nwithin = \"only\"\nlow = 0.0\nhigh = 100.0\n";
    let tiny = format!("{}\n{check}", experiment("tiny", "mu", "[0.01]", ""));
    let place = Place::with(&[("tiny", tiny)]);
    let ran = place.run("reproduce tiny --seeds auto");
    assert!(
        ran.refusal().contains("run `deepzero reproduce tiny --scale smoke --seeds 3` first"),
        "{}",
        ran.stderr
    );
    assert!(place.run("plan tiny").ok().contains("how many seeds decide is not known yet: More is more."));
    place.run("reproduce tiny --seeds 3").ok();
    let told = place.run("plan tiny").ok();
    assert!(
        told.contains("seeds confirm with 80 % probability, if what was measured here is true: More"),
        "{told}"
    );
    place.run("reproduce tiny --seeds 4").ok();
    assert_eq!(place.run("plan tiny").ok().lines().last(), told.lines().last());
    assert!(place.run("plan tiny --seeds auto").ok().contains("tiny at smoke scale: "));
    let page = std::fs::read_to_string(place.path("reports/tiny.md")).unwrap();
    assert!(page.contains("1 of 1 planned trials and 3 of further seeds finished"), "{page}");
    assert!(place.run("status tiny").ok().contains("3 more of further seeds"));
}

/// Results of experiments whose files are elsewhere do not stand in the way.
#[test]
fn unknown_results_are_left_out() {
    let text = |id: &str| experiment(id, "mu", "[0.01]", "");
    let place = Place::with(&[("tiny", text("tiny")), ("other", text("other"))]);
    place.run("reproduce other").ok();
    std::fs::remove_file(place.path("experiments/other.toml")).unwrap();
    for verb in ["reproduce tiny", "report"] {
        let ran = place.run(verb);
        assert!(ran.stderr.contains("other is left out of the reports"), "{}", ran.stderr);
        ran.ok();
        assert!(place.path("reports/tiny.md").exists());
    }
    assert!(place.run("report other").refusal().contains("no experiment `other`"));
}

/// What is broken in one experiment is told, and stands in the way of what asks for it by name alone.
#[test]
fn damage_elsewhere_stands_in_nobodys_way() {
    let text = |id: &str| experiment(id, "mu", "[0.01]", "");
    let place = Place::with(&[("tiny", text("tiny")), ("other", text("other"))]);
    place.run("reproduce tiny other").ok();
    let (path, bytes) = place.result_files("other").remove(0);
    std::fs::write(&path, b"not Parquet").unwrap();
    std::fs::write(place.path("experiments/bad.toml"), "id = ").unwrap();
    std::fs::write(place.path("experiments/binary.toml"), b"\xff\xfe").unwrap();
    let page = place.path("reports/tiny.md");
    for verb in ["report", "report tiny", "reproduce tiny", "list", "status"] {
        let _ = std::fs::remove_file(&page);
        let ran = place.run(verb);
        for id in ["other", "bad", "binary"] {
            assert!(ran.stderr.contains(&format!("{id} is left out")), "{verb}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains("deepzero: "), "{}", ran.stderr);
        ran.ok();
        assert!(page.exists() || !verb.contains("rep"), "{verb}");
    }
    for (verb, name) in [
        ("report other", path.file_name().unwrap().to_str().unwrap()),
        ("report tiny other", path.file_name().unwrap().to_str().unwrap()),
        ("status other", path.file_name().unwrap().to_str().unwrap()),
        ("reproduce bad", "bad.toml:1"),
        ("plan binary", "binary.toml"),
    ] {
        assert!(place.run(verb).refusal().contains(name), "{verb}");
    }
    // Neither does a page that cannot be written.
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_file(place.path("reports/other.md")).unwrap();
    std::fs::create_dir(place.path("reports/other.md")).unwrap();
    let ran = place.run("report tiny");
    assert!(ran.stderr.contains("other is left out"), "{}", ran.stderr);
    ran.ok();
    assert!(place.run("report other").refusal().contains("other.md"));
}

#[test]
fn a_report_on_nothing_is_an_error_and_leaves_the_index() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    place.run("reproduce tiny").ok();
    let index = std::fs::read(place.path("reports/index.html")).unwrap();
    std::fs::create_dir(place.path("empty")).unwrap();
    for (verb, told) in [
        ("report --results typo", "typo"),
        ("report --results empty", "no results"),
        ("report tiny --results empty", "tiny has no results in empty"),
        ("report fig9", "no experiment `fig9`"),
    ] {
        let ran = place.run(verb);
        assert!(ran.refusal_alone().contains(told), "{verb}: {}", ran.stderr);
        assert_eq!(std::fs::read(place.path("reports/index.html")).unwrap(), index, "{verb}");
    }
    let ran = place.run("status --results typo");
    assert!(ran.stderr.contains("there is no folder typo"), "{}", ran.stderr);
    ran.ok();
}

#[test]
fn a_folder_of_other_things_does_not_hide_the_built_in_experiments() {
    let place = Place::new();
    std::fs::create_dir(place.path("experiments")).unwrap();
    std::fs::write(place.path("experiments/notes.txt"), "mine").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_deepzero"));
    let output = command.current_dir(place.path("")).args(["list"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "./experiments has no experiment files (*.toml): those built in are used\n");
    assert!(String::from_utf8(output.stdout).unwrap().contains("fig4"));
    assert!(place.run("list").refusal_alone().contains("there is no experiment file"));
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_are_told_as_far_as_they_can_be() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    let odd = place.path("").join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    let run = |verb: &str, option: &str, name: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_deepzero"));
        command
            .current_dir(place.path(""))
            .args(verb.split(' '))
            .arg("--json")
            .arg(option)
            .arg(odd.join(name));
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("panicked"), "{stderr}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(answer.to_string().contains("odd\u{fffd}"), "{answer}");
    };
    run("reproduce tiny", "--reports", "reports");
    run("report", "--reports", "reports");
    std::fs::create_dir_all(&odd).unwrap();
    run(&format!("train {}", recipe("").trim()), "--out", "x.safetensors");
}

/// A seed far from the others costs no more than another.
#[test]
fn a_report_costs_no_more_for_large_seeds() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    place.run("reproduce tiny").ok();
    let mut record = place.records("tiny").remove(0);
    record.trial.seed = MAX_SEEDS as u64 - 1;
    place.store().write(&record).unwrap();
    place.run("report tiny").ok();
    assert!(std::fs::read_to_string(place.path("reports/tiny.md")).unwrap().contains("9999"));
    record.trial.seed = 100_000_000;
    place.store().write(&record).unwrap();
    assert!(place.run("report tiny").refusal_alone().contains("has seed 100000000; seeds are below 10000"));
}

/// Oracle: the networks that the settings build.
#[test]
fn the_x_axis_of_fig2_counts_real_parameters() {
    let fig2 = Library::embedded().get("fig2").unwrap();
    for plan in fig2.scales.values() {
        for cell in &plan.cells {
            let network = model::of(&cell.settings, &model::Io::CIFAR).unwrap();
            assert_eq!(cell.x, Some(network.layout().n_coords() as f64));
        }
    }
}

/// A full disk, in miniature: an error that names the file, and the results before it as they were.
#[cfg(target_os = "linux")]
mod full_disk {
    use super::*;

    fn finished() -> (Place, Vec<(PathBuf, Vec<u8>)>) {
        let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
        place.run("reproduce tiny").ok();
        let files = place.result_files("tiny");
        assert_eq!(files.len(), 1);
        (place, files)
    }

    /// Files may not grow beyond `blocks` of 512 bytes.
    fn limited(place: &Place, blocks: usize, args: &str) -> Ran {
        let inner = place.command(args);
        let mut command = std::process::Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        command.arg("-c").arg(script).arg(inner.get_program()).args(inner.get_args());
        command.current_dir(place.path("")).env("HF_HUB_OFFLINE", "1");
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().expect("it ended by itself");
        Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[test]
    fn files_that_cannot_grow() {
        let (place, before) = finished();
        // Too small for a checkpoint; then for a result; then for a report.
        for blocks in [1, 8, 16, 40] {
            let ran = limited(&place, blocks, "reproduce tiny --seeds 2");
            if ran.code == 0 {
                assert!(blocks > 16, "the limit has no effect");
                continue;
            }
            let line = ran.refusal();
            assert!(line.contains("too large") && line.contains("tiny"), "{line}");
            let after = place.result_files("tiny");
            assert!(before.iter().all(|file| after.contains(file)));
        }
        let ran = limited(&place, 1, &format!("train{} --out w.safetensors", recipe("")));
        assert!(ran.refusal().contains("too large"), "{}", ran.stderr);
        assert!(!place.path("w.safetensors").exists());
        place.run("reproduce tiny --seeds 2").ok();
        let left = |name: &String| !name.ends_with(".parquet");
        let left: Vec<String> = place.names("results/tiny/smoke").into_iter().filter(left).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_small_file_system() {
        let (place, before) = finished();
        let disk = place.path("results");
        let saved = place.path("saved");
        std::fs::rename(&disk, &saved).unwrap();
        std::fs::create_dir(&disk).unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(&disk)
            .output();
        if !mount.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: no right to mount a file system");
            return;
        }
        let outcome = std::panic::catch_unwind(|| {
            std::fs::create_dir_all(disk.join("tiny/smoke")).unwrap();
            for (path, bytes) in &before {
                std::fs::write(path, bytes).unwrap();
            }
            let ran = place.run("reproduce tiny --seeds 4");
            let line = ran.refusal();
            assert!(line.contains("No space left") && line.contains("tiny"), "{line}");
            let after = place.result_files("tiny");
            assert!(before.iter().all(|file| after.contains(file)));
            // What is there is whole.
            assert_eq!(place.records("tiny").len(), after.len());
        });
        let unmounted = std::process::Command::new("umount").arg(&disk).status().unwrap();
        assert!(unmounted.success());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// Every verb that prints something prints JSON when asked to.
#[test]
fn reports_are_named_in_json() {
    let place = Place::with(&[("tiny", experiment("tiny", "mu", "[0.01]", ""))]);
    let ran = place.run("reproduce tiny --json").json();
    let pages: Vec<&str> =
        ran["reports"].as_array().unwrap().iter().map(|page| page.as_str().unwrap()).collect();
    assert!(pages[0].ends_with("tiny.md") && pages[1].ends_with("index.html"), "{pages:?}");
    assert_eq!((&ran["failed_or_diverged"], &ran["running_elsewhere"]), (&0.into(), &0.into()));
    let paths = place.run("report --json").json();
    assert!(paths.as_array().unwrap().iter().any(|path| path.as_str().unwrap().ends_with("tiny.md")));
}
