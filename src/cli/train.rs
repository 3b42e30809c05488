//! `train`: one model, one recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use deepzero::experiment::{Scale, Trial, settings};
use deepzero::files;
use deepzero::lock::Lock;
use deepzero::metric::{self, Row};
use deepzero::nn::weights;
use deepzero::ranks::{self, Ranks};
use deepzero::runner::{self, Runner, STATE};
use deepzero::task::{self, Outcome, Session, Task};
use deepzero::train::{Observer, Quiet, Status};
use serde_json::json;

use super::progress::{DownloadProgress, TrialProgress};
use super::{Common, Exit, INTERRUPT, key_value, say, tell, watch_interrupts};

/// What the name of an unfinished run ends with, after that of its weights.
const UNFINISHED: &str = "state";

#[derive(Debug, Args)]
#[command(after_help = settings_help())]
pub(super) struct TrainArgs {
    /// Change a setting; repeatable. The default is the paper's recipe for ResNet-20.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Trained weights, safetensors with PyTorch names.
    #[arg(long, default_value = "model.safetensors", value_name = "FILE")]
    out: PathBuf,
    /// Go on from the state beside the output file, if there is one.
    #[arg(long)]
    resume: bool,
}

fn settings_help() -> String {
    let mut text = "Examples:
  deepzero train --set data=synthetic --set model=cnn --set depth=2 --set width=8 --set epochs=2 \\
      --set n-train=640 --set warmup-epochs=0 --set sparsity=0 --out cnn.safetensors
  deepzero train --set method=fo --set epochs=20 --data-dir ~/data --resume

Settings (default):\n"
        .to_owned();
    for setting in settings::describe() {
        let readers = if setting.is_usual { String::new() } else { format!("; with {}", setting.readers) };
        text.push_str(&format!(
            "  {:<24} {} [{}; default {}{readers}]\n",
            setting.name, setting.help, setting.allowed, setting.default
        ));
    }
    text
}

pub(super) fn run(common: &Common, args: &TrainArgs, ranks: &Ranks) -> Result<Exit> {
    watch_interrupts()?;
    let is_first = ranks.is_first();
    let overrides = args.overrides.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let settings = settings::from_pairs(overrides)?;
    let trains = [task::train::Train.name(), task::correct::CorrectSolver.name()];
    if !trains.contains(&settings.read::<task::Config>()?.task.name()) {
        bail!("--set task: train trains a network; a sweep or an experiment file runs the other tasks");
    }
    // The identity of the recipe, so that a state of other settings is refused.
    let trial = Trial {
        experiment: "train".to_owned(),
        scale: Scale::Paper,
        series: "train".to_owned(),
        x: None,
        x_text: String::new(),
        tuned: String::new(),
        seed: args.seed,
        settings: settings.clone(),
    };
    // Only the first rank of a job reads and writes; where nothing can be shared, it works alone.
    let ranks = if runner::is_shared(&trial)? { ranks } else { &ranks::ALONE };
    if !is_first && ranks.is_alone() {
        return Ok(Exit::Ok);
    }
    if !is_first {
        let folder = runner::follow(ranks, &trial)?;
        run_trial(common, &trial, common.device()?, &folder.path().join(STATE), ranks, &Quiet)?;
        return Ok(Exit::Ok);
    }
    if args.out.is_dir() {
        bail!("--out {}: a folder, not a file", args.out.display());
    }
    // Found out now rather than after the last epoch.
    files::check_writable(&args.out)?;
    if args.out.extension().is_some_and(|extension| extension == UNFINISHED) {
        bail!(
            "--out {}: the extension .state is that of unfinished runs; choose another",
            args.out.display()
        );
    }
    let beside = |ending: &str| {
        let mut name = args.out.clone().into_os_string();
        name.push(format!(".{ending}"));
        PathBuf::from(name)
    };
    let state = beside(UNFINISHED);
    let Some(_lock) = Lock::acquire(&beside("lock"))? else {
        bail!("{} is being trained by another process; wait until it ends", args.out.display());
    };
    if state.exists() && !args.resume {
        bail!("{} holds an unfinished run; add --resume to go on, or delete it", state.display());
    }
    let device = common.device()?;
    let progress = TrialProgress::new("train".to_owned(), task::epochs(&settings)?);
    runner::lead(ranks, &trial, &state)?;
    let outcome = run_trial(common, &trial, device, &state, ranks, &progress).inspect_err(|error| {
        let is_interrupted = matches!(error.downcast_ref(), Some(deepzero::Error::Interrupted));
        let resumable = is_interrupted && state.exists();
        progress.finish(if resumable { "stopped; add --resume to go on" } else { "stopped" });
    })?;
    progress.finish(if outcome.status == Status::Done { "done" } else { "diverged" });
    let (network, at) = outcome.trained.as_ref().context("the task trained no network")?;
    weights::save(network, &at.params, &at.stats, &args.out)?;
    if state.exists() {
        std::fs::remove_file(&state).with_context(|| format!("remove {}", state.display()))?;
    }
    if common.json {
        let summary = json!({
            "out": args.out.to_string_lossy(), "status": outcome.status, "error": outcome.error, "n_params": outcome.n_params,
            "best_epoch": task::best_epoch(&outcome.rows), "epochs": outcome.rows,
        });
        say!("{}", serde_json::to_string_pretty(&summary)?)?;
    } else {
        // The task that corrects a solver measures an error in place of accuracies.
        let has_mae = outcome.rows.iter().any(|row| !row.get(&metric::MAE).is_nan());
        let mae = if has_mae { "  mean abs. error" } else { "" };
        say!("epoch  train loss  train acc  val acc  test acc      queries   seconds{mae}")?;
        outcome.rows.iter().try_for_each(|row| say_row(row, has_mae))?;
        say!("{}", args.out.display())?;
    }
    if outcome.status == Status::Done {
        return Ok(Exit::Ok);
    }
    let weights =
        if outcome.rows.is_empty() { "the initial ones" } else { "those of the last finished epoch" };
    tell!("deepzero: {}; the weights are {weights}", outcome.error);
    Ok(Exit::TrialsFailed)
}

fn say_row(row: &Row, has_mae: bool) -> std::io::Result<()> {
    let mae = if has_mae { format!("  {:>15.4}", row.get(&metric::MAE)) } else { String::new() };
    let percent = |x: f64| if x.is_nan() { "-".to_owned() } else { format!("{:.2}", 100.0 * x) };
    say!(
        "{:>5}  {:>10.4}  {:>9}  {:>7}  {:>8}  {:>11}  {:>8.1}{mae}",
        row.epoch,
        row.get(&metric::TRAIN_LOSS),
        percent(row.get(&metric::TRAIN_ACCURACY)),
        percent(row.get(&metric::VAL_ACCURACY)),
        percent(row.get(&metric::TEST_ACCURACY)),
        row.get(&metric::QUERIES),
        row.get(&metric::WALL_S)
    )
}

/// What every rank of a job does.
fn run_trial(
    common: &Common,
    trial: &Trial,
    (device, device_name): (Device, String),
    state: &Path,
    ranks: &Ranks,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let memory = common.memory(&device)?;
    let (store, location, downloads) = (common.store(), common.location(), DownloadProgress::default());
    let runner = Runner::new(&store, &location, &downloads, device.clone(), device_name, &INTERRUPT);
    let splits = runner.splits(&trial.settings)?;
    let images = runner::prepare(trial, splits.as_deref())?;
    ranks.agree("images", images.as_ref().map_or("", |images| &images.checksum))?;
    let hash = trial.hash();
    let session = Session {
        images: images.as_ref(),
        location: &location,
        device: &device,
        memory,
        ranks,
        checkpoint: Some((state, &hash)),
        interrupt: &INTERRUPT,
        observer,
    };
    Ok(task::run(&trial.settings, trial.seed, &session)?)
}
