//! `status`: how far everything is.

use anyhow::Result;
use clap::Args;
use deepzero::experiment::{Experiment, Scale, Trial};
use deepzero::lock::Lock;
use deepzero::results::{Store, TrialRecord};
use deepzero::runner::checkpoint_path;
use deepzero::train::Checkpoint;
use deepzero::train::Status;
use serde_json::json;

use super::{Common, Exit, in_one_line, report, say, tell};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deepzero status\n  deepzero status fig4 --json")]
pub(super) struct StatusArgs {
    /// Experiments; by default all.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

pub(super) fn run(common: &Common, args: &StatusArgs) -> Result<Exit> {
    let store = common.store();
    let library = common.library()?;
    let is_there = store.check()?;
    let (ids, is_named): (Vec<&str>, _) = match args.ids.as_slice() {
        [] => (library.ids().collect(), false),
        ids => (ids.iter().map(String::as_str).collect(), true),
    };
    let mut all = Vec::new();
    for id in ids {
        match library
            .get(id)
            .map_err(anyhow::Error::from)
            .and_then(|experiment| progress(common, &store, &experiment, is_named))
        {
            Ok(scales) => all.extend(scales),
            Err(error) if is_named => return Err(error),
            Err(error) => tell!("{id} is left out: {}", in_one_line(&error)),
        }
    }
    if !is_there {
        tell!("there is no folder {}: nothing has been run", common.results.display());
    }
    if common.json {
        let output: Vec<_> = all.iter().map(Progress::as_json).collect();
        say!("{}", serde_json::to_string_pretty(&output)?)?;
        return Ok(Exit::Ok);
    }
    for one in all.iter().filter(|one| is_named || one.is_begun()) {
        let [done, diverged, failed] = one.counts;
        say!(
            "{:<22} {:<7} {done} of {} done, {diverged} diverged, {failed} failed",
            one.id,
            one.scale.name(),
            one.n_trials
        )?;
        for note in &one.notes {
            say!("    {note}")?;
        }
    }
    Ok(Exit::Ok)
}

/// How far an experiment is at one scale.
struct Progress {
    id: String,
    scale: Scale,
    n_trials: usize,
    /// Trials that are done, diverged and failed.
    counts: [usize; 3],
    /// Those that did not end well or are not finished, a line each.
    notes: Vec<String>,
}

impl Progress {
    fn is_begun(&self) -> bool {
        self.counts.iter().sum::<usize>() + self.notes.len() > 0
    }

    fn as_json(&self) -> serde_json::Value {
        let [done, diverged, failed] = self.counts;
        json!({
            "id": self.id, "scale": self.scale.name(), "trials": self.n_trials,
            "done": done, "diverged": diverged, "failed": failed, "notes": self.notes,
        })
    }
}

/// How far an experiment is at each of its scales; what others have not given it yet only if it was asked for.
fn progress(
    common: &Common,
    store: &Store,
    experiment: &Experiment,
    is_named: bool,
) -> Result<Vec<Progress>> {
    let at = |&scale: &Scale| {
        let trials = experiment.trials(scale, None, &[])?;
        let id = experiment.id.clone();
        let mut progress = Progress { id, scale, n_trials: trials.len(), counts: [0; 3], notes: Vec::new() };
        for trial in &trials {
            let record = store.find(trial)?;
            if let Some(record) = &record {
                progress.counts[record.status as usize] += 1;
            }
            progress.notes.extend(note(store, trial, record.as_ref()));
        }
        if is_named {
            progress.notes.extend(report::lent(common, experiment, scale)?.0);
        }
        Ok(progress)
    };
    experiment.scales.keys().map(at).collect()
}

/// What there is to say of a trial that did not end well, or that has begun.
fn note(store: &Store, trial: &Trial, record: Option<&TrialRecord>) -> Option<String> {
    if let Some(record) = record {
        let is_done = record.status == Status::Done;
        return (!is_done).then(|| format!("{}: {}", trial.title(), record.error));
    }
    let checkpoint = checkpoint_path(store, trial);
    let running = Lock::is_held(&checkpoint.with_extension("lock"));
    let at = Checkpoint::progress(&checkpoint).map(|p| format!("epoch {}/{}", p.epoch, p.epochs));
    match (running, at) {
        (true, at) => Some(format!("{}: running, {}", trial.title(), at.as_deref().unwrap_or("first epoch"))),
        (false, Some(at)) => Some(format!("{}: interrupted, {at}", trial.title())),
        (false, None) => None,
    }
}
