//! `train`: one model, one recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use deepzero::experiment::{Scale, Settings, Task, Trial};
use deepzero::metric::{Metric, QUERIES, TEST_ACCURACY, TRAIN_ACCURACY, TRAIN_LOSS, VAL_ACCURACY, WALL_S};
use deepzero::nn::weights;
use deepzero::ranks::{self, Ranks};
use deepzero::results::Status;
use deepzero::runner::{self, Runner, STATE};
use deepzero::task::{self, Model, Observer, Prepared, Quiet, Session};
use serde_json::json;

use super::progress::{DownloadProgress, TrialProgress};
use super::{Common, Exit, INTERRUPT, key_value, say, watch_interrupts};

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
    for setting in Settings::describe() {
        text.push_str(&format!(
            "  {:<24} {} [{}; default {}]\n",
            setting.name, setting.help, setting.allowed, setting.default
        ));
    }
    text
}

pub(super) fn run(common: &Common, args: &TrainArgs, ranks: &Ranks) -> Result<Exit> {
    watch_interrupts()?;
    let is_first = ranks.is_first();
    let mut settings = Settings::default();
    for (key, value) in &args.overrides {
        settings.set_text(key, value)?;
    }
    settings.check()?;
    if settings.task != Task::Train {
        bail!("--set task: train trains a network; a sweep or an experiment file runs the other tasks");
    }
    // The identity of the recipe, so that a state of other settings is refused.
    let trial = Trial {
        experiment: "train".to_owned(),
        scale: Scale::Paper,
        series: "train".to_owned(),
        x: None,
        x_text: String::new(),
        seed: args.seed,
        settings: settings.clone(),
    };
    // Only the first rank of a job reads and writes; where nothing can be shared, it works alone.
    let ranks = if runner::is_shared(&trial) { ranks } else { &ranks::ALONE };
    if !is_first && ranks.is_alone() {
        return Ok(Exit::Ok);
    }
    if !is_first {
        let folder = runner::follow(ranks, &trial)?;
        train(common, &trial, common.device()?, &folder.path().join(STATE), ranks, &Quiet)?;
        return Ok(Exit::Ok);
    }
    if args.out.is_dir() {
        bail!("--out {}: a folder, not a file", args.out.display());
    }
    let state = args.out.with_extension("state");
    if state == args.out {
        bail!(
            "--out {}: the extension .state is that of unfinished runs; choose another",
            args.out.display()
        );
    }
    if state.exists() && !args.resume {
        bail!("{} holds an unfinished run; add --resume to go on, or delete it", state.display());
    }
    let device = common.device()?;
    let progress = TrialProgress::new("train".to_owned(), settings.epochs);
    runner::lead(ranks, &trial, &state)?;
    let model = train(common, &trial, device, &state, ranks, &progress).inspect_err(|error| {
        let is_interrupted = matches!(error.downcast_ref(), Some(deepzero::Error::Interrupted));
        let resumable = is_interrupted && state.exists();
        progress.finish(if resumable { "stopped; add --resume to go on" } else { "stopped" });
    })?;
    progress.finish(if model.status == Status::Done { "done" } else { "diverged" });
    weights::save(&model.network, &model.params, &model.stats, &args.out)?;
    if state.exists() {
        std::fs::remove_file(&state).with_context(|| format!("remove {}", state.display()))?;
    }
    if common.json {
        let epochs: Vec<_> = model.epochs.iter().map(|row| json!(row)).collect();
        let summary = json!({
            "out": args.out, "status": model.status, "error": model.error, "n_params": model.params.len(),
            "best_epoch": model.best_epoch(), "epochs": epochs,
        });
        say!("{}", serde_json::to_string_pretty(&summary)?)?;
    } else {
        say!("epoch  train loss  train acc  val acc  test acc      queries   seconds")?;
        for row in &model.epochs {
            let percent = |metric: &Metric| match metric.at(row) {
                value if value.is_nan() => "-".to_owned(),
                value => format!("{value:.2}"),
            };
            say!(
                "{:>5}  {:>10.4}  {:>9}  {:>7}  {:>8}  {:>11}  {:>8.1}",
                row.epoch,
                row.get(&TRAIN_LOSS),
                percent(&TRAIN_ACCURACY),
                percent(&VAL_ACCURACY),
                percent(&TEST_ACCURACY),
                row.get(&QUERIES),
                row.get(&WALL_S)
            )?;
        }
        say!("{}", args.out.display())?;
    }
    if model.status == Status::Done {
        return Ok(Exit::Ok);
    }
    let weights =
        if model.epochs.is_empty() { "the initial ones" } else { "those of the last finished epoch" };
    eprintln!("deepzero: {}; the weights are {weights}", model.error);
    Ok(Exit::TrialsFailed)
}

/// What every rank of a job does.
fn train(
    common: &Common,
    trial: &Trial,
    (device, device_name): (Device, String),
    state: &Path,
    ranks: &Ranks,
    observer: &dyn Observer,
) -> Result<Model> {
    let memory = common.memory(&device)?;
    let (store, location, downloads) = (common.store(), common.location(), DownloadProgress::default());
    let mut runner = Runner::new(&store, &location, &downloads, device.clone(), device_name, &INTERRUPT);
    let splits = runner.splits(&trial.settings)?;
    let prepared = Prepared::new(&trial.settings, trial.seed, &splits)?;
    ranks.agree("images", &prepared.checksum)?;
    let hash = trial.hash();
    let session = Session {
        data: &prepared,
        device: &device,
        memory,
        ranks,
        checkpoint: Some((state, &hash)),
        interrupt: &INTERRUPT,
        observer,
    };
    Ok(task::train(&trial.settings, trial.seed, &session)?)
}
