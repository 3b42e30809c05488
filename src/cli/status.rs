//! `status`: how far everything is.

use std::collections::HashMap;

use anyhow::Result;
use clap::Args;
use deepzero::experiment::{Scale, ScalePlan, Trial, split_id};
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
    let is_named = !args.ids.is_empty();
    let mut ids: Vec<String> = args.ids.iter().map(|id| store.id_of(id)).collect::<deepzero::Result<_>>()?;
    if !is_named {
        ids.extend(library.ids().map(str::to_owned));
        // Variants and sweeps without a file.
        if is_there {
            ids.extend(report::experiments_with_results(common)?);
        }
        ids.sort();
        ids.dedup();
    }
    let mut all = Vec::new();
    for id in ids {
        match progress(common, &store, &id, is_named) {
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
        if one.n_further > 0 {
            say!("    {} more of further seeds", one.n_further)?;
        }
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
    /// Results of seeds beyond those that it asks for.
    n_further: usize,
    /// Those that did not end well or are not finished, a line each.
    notes: Vec<String>,
}

impl Progress {
    fn is_begun(&self) -> bool {
        self.counts.iter().sum::<usize>() + self.n_further + self.notes.len() > 0
    }

    fn as_json(&self) -> serde_json::Value {
        let [done, diverged, failed] = self.counts;
        json!({
            "id": self.id, "scale": self.scale.name(), "trials": self.n_trials,
            "done": done, "diverged": diverged, "failed": failed, "of_further_seeds": self.n_further,
            "notes": self.notes,
        })
    }
}

/// How far an experiment is at each of its scales; what others have not given it yet only if it was asked for.
fn progress(common: &Common, store: &Store, id: &str, is_named: bool) -> Result<Vec<Progress>> {
    common.library()?.require(split_id(id).0)?;
    let (experiment, records) = report::gather(common, id)?;
    let at = |(&scale, plan): (&Scale, &ScalePlan)| {
        let trials = experiment.trials(scale, None, &[])?;
        let is_further = |record: &&TrialRecord| record.trial.seed >= plan.n_seeds as u64;
        let here = || records.get(&scale).into_iter().flatten();
        let by_hash: HashMap<String, &TrialRecord> = here().map(|r| (r.trial.hash(), r)).collect();
        let n_further = here().filter(is_further).count();
        let (id, n_trials) = (experiment.id.clone(), trials.len());
        let mut progress = Progress { id, scale, n_trials, counts: [0; 3], n_further, notes: Vec::new() };
        for trial in &trials {
            let record = by_hash.get(&trial.hash()).copied();
            if let Some(record) = record {
                progress.counts[record.status as usize] += 1;
            }
            progress.notes.extend(note(store, trial, record));
        }
        if is_named {
            progress.notes.extend(report::lent(common, &experiment, scale)?.0);
        }
        Ok(progress)
    };
    experiment.scales.iter().map(at).collect()
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
