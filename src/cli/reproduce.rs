//! `reproduce` and `sweep`: run what is missing, then report.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use clap::Args;
use deepzero::experiment::{Experiment, Scale, Trial, file_name, split_id};
use deepzero::ranks::Ranks;
use deepzero::runner::{self, Ended, Runner};
use deepzero::train::Status;
use deepzero::{metric, task};
use serde_json::json;

use super::progress::{DownloadProgress, TrialProgress};
use super::{
    Common, Exit, INTERRUPT, Seeds, Selection, in_one_line, is_interrupted, report, say, tell,
    watch_interrupts,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero reproduce fig4 --scale smoke
  deepzero reproduce fig2 fig4 --scale laptop --data-dir ~/data
  deepzero reproduce fig4 --scale smoke --set mu=0.001 --seeds 3
  deepzero reproduce fig4 --scale paper --only deepzero=0.99 --device cuda

Interrupted, the same command goes on from the last finished epoch.
Exit codes: 0 all trials done, 1 error, 3 some trials failed or diverged, 130 interrupted.")]
pub(super) struct ReproduceArgs {
    /// Exhibits of the paper or experiments of ours; `all` for everything but sweeps.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    parallel: Parallel,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero sweep sparsity
  deepzero sweep mu --values 1e-4,1e-3,1e-2 --scale laptop
  deepzero sweep weight-decay --values 0,5e-4 --set sparsity=0.95

Axes with values of their own: sparsity, batch-size, mu, queries, width, depth, estimator,
learning-rate. Any other setting can be swept with --values.")]
pub(super) struct SweepArgs {
    /// Setting to vary.
    axis: String,
    /// Its values, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "V,V,…")]
    values: Option<Vec<String>>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    parallel: Parallel,
}

/// How many trials at a time.
#[derive(Debug, Args)]
pub(super) struct Parallel {
    /// Trials that run side by side, each on its share of the threads and of the memory; by default one, at smoke scale as
    /// many as there are threads. Results do not depend on it, but the times among them are then those of a shared
    /// machine.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Machine")]
    parallel: Option<u16>,
}

impl Parallel {
    /// Small networks leave threads idle: of `smoke`, where times say nothing, as many trials run as there are threads.
    pub(super) fn number(&self, scale: Scale, device: &Device, ranks: &Ranks) -> Result<usize> {
        match self.parallel {
            Some(2..) if !ranks.is_alone() => {
                bail!("--parallel: the processes of a job share each trial, and take one at a time")
            }
            Some(number) => Ok(usize::from(number)),
            None if scale == Scale::Smoke && device.is_cpu() && ranks.is_alone() => {
                Ok(rayon::current_num_threads())
            }
            None => Ok(1),
        }
    }
}

pub(super) fn run(common: &Common, args: &ReproduceArgs, ranks: &Ranks) -> Result<Exit> {
    let experiments = selected(common, &args.ids, &args.selection)?;
    run_all(common, &experiments, &args.selection, &args.parallel, ranks)
}

pub(super) fn run_sweep(common: &Common, args: &SweepArgs, ranks: &Ranks) -> Result<Exit> {
    let sweep = common.library()?.sweep(&args.axis, args.values.as_deref())?;
    let sweep = sweep.with_overrides(args.selection.scale, &args.selection.overrides)?;
    run_all(common, &[sweep], &args.selection, &args.parallel, ranks)
}

/// The experiments named, with the overrides applied; `all` names everything but sweeps.
pub(super) fn selected(common: &Common, ids: &[String], selection: &Selection) -> Result<Vec<Experiment>> {
    let library = common.library()?;
    let mut experiments = Vec::new();
    for id in ids {
        if id == "all" {
            for experiment in library.all()?.into_iter().filter(|experiment| !experiment.is_sweep()) {
                if !experiment.scales.contains_key(&selection.scale) {
                    tell!("{} is left out: it has no {} scale", experiment.id, selection.scale);
                } else if cfg!(feature = "mpi") || !needs_mpi(&experiment, selection)? {
                    experiments.push(experiment);
                } else {
                    tell!("{} is left out: it needs a program built with `--features mpi`", experiment.id);
                }
            }
        } else {
            // The id of a variant or of a sweep without a file, as reports name it: its values are
            // those that have results.
            let values = if library.ids().any(|known| known == id) {
                None
            } else {
                report::sweep_values(split_id(id).0, &common.store().read_all(id, selection.scale)?)
            };
            experiments.push(common.experiment(id, selection.scale, values.as_deref())?);
        }
    }
    experiments
        .iter()
        .map(|experiment| Ok(experiment.with_overrides(selection.scale, &selection.overrides)?))
        .collect()
}

/// Whether an experiment starts jobs of several processes.
fn needs_mpi(experiment: &Experiment, selection: &Selection) -> Result<bool> {
    let trials = experiment.trials(selection.scale, Some(1), &[])?;
    for trial in &trials {
        if trial.settings.read::<task::Config>()?.task.needs_mpi() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn run_all(
    common: &Common,
    experiments: &[Experiment],
    selection: &Selection,
    parallel: &Parallel,
    ranks: &Ranks,
) -> Result<Exit> {
    if selection.seeds == Some(Seeds::Auto) && !ranks.is_alone() {
        // Every process would count what may change while they do.
        bail!(
            "--seeds auto: a job of several processes needs the number; `deepzero plan ID --seeds auto` says it"
        );
    }
    watch_interrupts()?;
    let store = common.store();
    let location = common.location();
    let downloads = DownloadProgress::default();
    let mut runner = common.runner(&store, &location, &downloads)?;
    runner.ranks = ranks;
    let parallel = parallel.number(selection.scale, &runner.device, ranks)?;
    runner.memory /= parallel;
    if !ranks.is_first() {
        let trials = experiments.iter().map(|experiment| selection.trials(common, experiment));
        runner.follow(&trials.collect::<Result<Vec<_>>>()?.concat())?;
        return Ok(Exit::Ok);
    }
    let (mut n_bad, mut n_elsewhere) = (0, 0);
    let (mut pages, mut pictures, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for (place, experiment) in experiments.iter().enumerate() {
        let is_last = place + 1 == experiments.len();
        let trials = selection.trials(common, experiment)?;
        let mut pending = Vec::new();
        for trial in &trials {
            if runner::is_pending(&store, trial)? {
                pending.push(trial);
            }
        }
        tell!(
            "{} at {} scale: {} trials, {} to run",
            experiment.id,
            selection.scale,
            trials.len(),
            pending.len()
        );
        let mut is_empty = false;
        if experiment.is_compiled() {
            let (missing, n_there) = report::lent(common, experiment, selection.scale)?;
            missing.iter().for_each(|line| tell!("{}: {line}", experiment.id));
            is_empty = trials.is_empty() && n_there == 0;
        }
        let ran = runner::side_by_side(
            pending.len(),
            parallel,
            &INTERRUPT,
            |position| run_trial(&runner, pending[position], position + 1, pending.len()),
            is_interrupted,
        );
        // What was written before this one is to be found as well.
        if ran.is_err() && !pages.is_empty() {
            for fault in report::write(common, &[]).err().iter().chain(&faults) {
                tell!("{}", in_one_line(fault));
            }
        }
        let ran = ran?;
        n_elsewhere += ran.iter().filter(|&&ran_here| !ran_here).count();
        for trial in &trials {
            let bad = |record: &deepzero::results::TrialRecord| record.status != Status::Done;
            n_bad += usize::from(store.find(trial)?.as_ref().is_some_and(bad));
        }
        if is_empty {
            tell!("{} at {} scale has no points yet, so that it has no page", experiment.id, selection.scale);
            if is_last && !pages.is_empty() {
                faults.extend(report::write(common, &[]).err());
            }
            continue;
        }
        // The trials of further experiments wait neither for the pages of others nor for one that cannot be written.
        let written = match is_last {
            true => report::write(common, std::slice::from_ref(&experiment.id)),
            false => report::write_page(common, &experiment.id),
        };
        match written {
            Ok(written) => {
                let picture =
                    common.reports.join(format!("{}-{}.png", file_name(&experiment.id), selection.scale));
                pictures.extend(written.into_iter().find(|path| *path == picture));
                pages.push(common.reports.join(format!("{}.md", file_name(&experiment.id))));
            }
            Err(error) => faults.push(error),
        }
    }
    runner.dismiss()?;
    let is_nothing = pages.is_empty();
    if !is_nothing {
        pages.push(common.reports.join("index.html"));
    }
    if common.json {
        let pages: Vec<_> = pages.iter().map(|page| page.to_string_lossy()).collect();
        let summary =
            json!({ "reports": pages, "failed_or_diverged": n_bad, "running_elsewhere": n_elsewhere });
        say!("{}", serde_json::to_string_pretty(&summary)?)?;
    } else {
        for page in pages {
            say!("{}", page.display())?;
        }
        if !is_nothing {
            say_where_to_look(common, &pictures);
        }
    }
    if n_elsewhere > 0 {
        tell!(
            "{n_elsewhere} trials are being run by another process; run the same command again for the report"
        );
    }
    if let Some(last) = faults.pop() {
        faults.iter().for_each(|error| tell!("{}", in_one_line(error)));
        return Err(last);
    }
    if n_bad > 0 {
        tell!("{n_bad} trials failed or diverged; the reports name them");
        return Ok(Exit::TrialsFailed);
    }
    Ok(Exit::Ok)
}

/// Says what to open, and which pictures are of the scale that was asked for, if they are few.
fn say_where_to_look(common: &Common, pictures: &[PathBuf]) {
    let index = common.reports.join("index.html");
    let pictures: Vec<String> = pictures.iter().map(|path| path.display().to_string()).collect();
    match pictures.len() {
        1..=3 => tell!("look at {}, or open {} in a browser", pictures.join(", "), index.display()),
        _ => tell!("open {} in a browser", index.display()),
    }
}

/// Runs one trial and says how it ended; false if another process has it.
fn run_trial(runner: &Runner, trial: &Trial, position: usize, n_trials: usize) -> Result<bool> {
    let title = format!("[{position}/{n_trials}] {}", trial.title());
    let progress = TrialProgress::new(title, task::epochs(&trial.settings)?);
    let ended = runner.run(trial, &progress).inspect_err(|_| progress.finish("stopped"));
    let ended = ended.with_context(|| trial.title())?;
    let Ended::Recorded(record) = ended else {
        progress.finish("is being run by another process");
        return Ok(false);
    };
    let line = match (record.status, record.epochs.last()) {
        (Status::Done, Some(last)) => {
            let (accuracy, queries) = (last.get(&metric::TEST_ACCURACY), last.get(&metric::QUERIES));
            let mae = last.get(&metric::MAE);
            let measured = match (accuracy.is_nan(), mae.is_nan()) {
                (false, _) => format!("test accuracy {:.2} %, ", 100.0 * accuracy),
                (true, false) => format!("error {mae:.4}, "),
                (true, true) => String::new(),
            };
            match queries.is_nan() {
                true => measured.trim_end_matches(", ").to_owned(),
                false => format!("{measured}{queries} queries"),
            }
        }
        (Status::Done, None) => "done".to_owned(),
        (Status::Diverged, _) => format!("diverged: {}", record.error),
        (Status::Failed, _) => format!("failed: {}", record.error),
    };
    progress.finish(&line);
    Ok(true)
}
