//! `report`: reports from results alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::Args;
use deepzero::experiment::{Experiment, Scale, split_id};
use deepzero::files;
use deepzero::report::loan::Loan;
use deepzero::report::{self, Filler, Run};
use deepzero::results::TrialRecord;

use super::{Common, Exit, in_one_line, say, tell};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero report                     every experiment that has results, and reports/index.html
  deepzero report fig4
  deepzero report --fill README.md    and the numbers in that file that stand in blocks made from results")]
pub(super) struct ReportArgs {
    /// Experiments; by default all with results.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Makes the blocks of a Markdown file anew that begin with `<!-- results of ID` (docs/METHODOLOGY.md). Repeatable.
    #[arg(long, value_name = "FILE")]
    fill: Vec<PathBuf>,
}

pub(super) fn run(common: &Common, args: &ReportArgs) -> Result<Exit> {
    let ids: Vec<String> =
        args.ids.iter().map(|id| common.store().id_of(id)).collect::<deepzero::Result<_>>()?;
    for id in &ids {
        common.library()?.require(split_id(id).0)?;
        if common.store().scales(id)?.is_empty() && !takes_results(common, id)? {
            bail!("{id} has no results in {}", common.results.display());
        }
    }
    let (mut paths, runs) = write_and_keep(common, &ids)?;
    if !args.fill.is_empty() {
        let filler = Filler::new(&runs)?;
        for path in &args.fill {
            fill(path, &filler)?;
            paths.push(path.clone());
        }
    }
    if common.json {
        let names: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
        say!("{}", serde_json::to_string_pretty(&names)?)?;
        return Ok(Exit::Ok);
    }
    for path in paths {
        say!("{}", path.display())?;
    }
    Ok(Exit::Ok)
}

/// Experiments, and what is wrong with them.
type Faults = Vec<(String, Error)>;

/// The experiments named, all with results, and all that have a place on the index; and what is wrong with others.
fn runs(common: &Common, ids: &[String]) -> Result<(Vec<Run>, Faults)> {
    let mut all: BTreeSet<String> = ids.iter().cloned().collect();
    all.extend(experiments_with_results(common)?);
    if all.is_empty() {
        bail!("there are no results in {}; `deepzero reproduce ID` makes some", common.results.display());
    }
    // Exhibits and experiments of our own are on the index even before they have run; sweeps are not.
    let library = common.library()?;
    let is_sweep =
        |experiment: &Experiment| experiment.paper.is_empty() && experiment.id.starts_with("sweep-");
    let (known, mut faults) = library.sound();
    all.extend(known.into_iter().filter(|one| !is_sweep(one)).map(|one| one.id));
    faults.retain(|(id, _)| !all.contains(id));
    let mut faults: Vec<(String, Error)> = faults.into_iter().map(|(id, error)| (id, error.into())).collect();
    let mut runs: Vec<Run> = Vec::new();
    for id in all {
        match gather(common, &id) {
            Ok(run) => runs.push(run),
            Err(error) => faults.push((id, error)),
        }
    }
    Ok((runs, faults))
}

/// Makes the blocks of a Markdown file anew.
fn fill(path: &Path, filler: &Filler) -> Result<()> {
    /// No text that somebody writes is longer.
    const MOST_BYTES: u64 = 4 << 20;
    let text = String::from_utf8(files::read_bounded(path, MOST_BYTES)?)
        .map_err(|_| anyhow!("{}: not a text in UTF-8", path.display()))?;
    let filled = filler.fill(&text).map_err(|reason| anyhow!("{}: {reason}", path.display()))?;
    if filled != text {
        files::write_atomically(path, filled.as_bytes())?;
    }
    Ok(())
}

/// Writes the page of one experiment alone; [`write`] will follow.
///
/// # Errors
/// What is wrong with it.
pub(super) fn write_page(common: &Common, id: &str) -> Result<Vec<PathBuf>> {
    let (runs, faults) = runs(common, std::slice::from_ref(&id.to_owned()))?;
    let fault = faults.into_iter().find_map(|(faulty, error)| (faulty == id).then_some(error));
    match (fault, runs.iter().find(|(experiment, _)| experiment.id == id)) {
        (None, Some(run)) => Ok(report::write_page_of(run, &runs, &common.reports)?),
        (fault, _) => Err(fault.unwrap_or_else(|| anyhow!("{id}: no such experiment"))),
    }
}

/// Writes the reports of the experiments named and of all others with results, and the index over all of them. What is
/// wrong with another experiment's file or results is told and stands in the way of its own report alone.
///
/// # Errors
/// What is wrong with one of those named; the others are written all the same.
pub(super) fn write(common: &Common, ids: &[String]) -> Result<Vec<PathBuf>> {
    Ok(write_and_keep(common, ids)?.0)
}

/// As [`write`], and what the reports were made of.
fn write_and_keep(common: &Common, ids: &[String]) -> Result<(Vec<PathBuf>, Vec<Run>)> {
    let (runs, mut faults) = runs(common, ids)?;
    let mut paths = Vec::new();
    // Nothing to show is no reason to replace an index that shows something.
    if !ids.is_empty() || runs.iter().any(|(_, scales)| !scales.is_empty()) {
        let written = report::write_reports(&runs, &common.reports)?;
        faults.extend(written.faults.into_iter().map(|(id, error)| (id, error.into())));
        paths = written.paths;
    }
    let (named, others): (Vec<_>, Vec<_>) = faults.into_iter().partition(|(id, _)| ids.contains(id));
    for (id, error) in &others {
        tell!("{id} is left out of the reports: {}", in_one_line(error));
    }
    let mut named = named.into_iter();
    let first = named.next();
    for (id, error) in named {
        tell!("{id} has no report: {}", in_one_line(&error));
    }
    match first {
        Some((_, error)) => Err(error),
        None if paths.is_empty() => {
            bail!("no results in {} can be shown; the reports are as they were", common.results.display())
        }
        None => Ok((paths, runs)),
    }
}

/// Whether there are results that an experiment takes its points from.
fn takes_results(common: &Common, id: &str) -> Result<bool> {
    let Ok(experiment) = common.library()?.get(id) else { return Ok(false) };
    for scale in experiment.scales.keys() {
        if lent(common, &experiment, *scale)?.1 > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an experiment takes from others and has no result yet at a scale, a line for each of them, and how many of its
/// entries have one. One with a fault of its own counts as without results; the fault is told where it is used.
pub(super) fn lent(common: &Common, experiment: &Experiment, scale: Scale) -> Result<(Vec<String>, usize)> {
    let mut runs: Vec<Run> = Vec::new();
    for id in experiment.lenders() {
        runs.extend(gather(common, id).ok());
    }
    let loans = Loan::all(experiment, scale, &runs)?;
    let mut missing = Vec::new();
    for id in experiment.lenders() {
        let of_it = loans.iter().filter(|loan| loan.borrowed.experiment == id && !loan.has_result());
        let mut series: Vec<&str> = of_it.map(|loan| loan.borrowed.source.as_str()).collect();
        series.dedup();
        if !series.is_empty() {
            missing.push(format!(
                "no result yet of {} in {id}: run `deepzero reproduce {id} --scale {scale}`",
                series.join(", ")
            ));
        }
    }
    let n_there = loans.iter().filter(|loan| loan.has_result()).count();
    Ok((missing, n_there))
}

/// The experiments that have results. One whose folder cannot be looked into is told, and left out.
pub(super) fn experiments_with_results(common: &Common) -> Result<Vec<String>> {
    let (store, mut ids) = (common.store(), Vec::new());
    let entries = std::fs::read_dir(&common.results);
    let entries = entries.with_context(|| format!("list the results in {}", common.results.display()))?;
    for entry in entries {
        let entry = entry?;
        let is_folder = entry.file_type()?.is_dir();
        if let (true, Ok(name)) = (is_folder, entry.file_name().into_string()) {
            match store.scales(&name).and_then(|scales| Ok((scales, store.id_of(&name)?))) {
                Ok((scales, _)) if scales.is_empty() => {}
                Ok((_, id)) => ids.push(id),
                Err(error) => tell!("{name} is left out of the reports: {error}"),
            }
        }
    }
    Ok(ids)
}

/// An experiment and its records at a scale. Records of settings that it no longer asks for are left out, and said so.
pub(super) fn asked(common: &Common, id: &str, scale: Scale) -> Result<(Experiment, Vec<TrialRecord>)> {
    let records = common.store().read_all(id, scale)?;
    let experiment = common.experiment(id, scale, sweep_values(split_id(id).0, &records).as_deref())?;
    let seeds: BTreeSet<u64> = records.iter().map(|record| record.trial.seed).collect();
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let asked: BTreeMap<String, Option<f64>> =
        experiment.trials_of(scale, &seeds, &[])?.iter().map(|trial| (trial.hash(), trial.x)).collect();
    let n_all = records.len();
    let in_its_place = |mut record: TrialRecord| {
        record.trial.x = *asked.get(&record.trial.hash())?;
        Some(record)
    };
    let records: Vec<TrialRecord> = records.into_iter().filter_map(in_its_place).collect();
    if records.len() < n_all {
        let n_old = n_all - records.len();
        tell!("{id} at {scale} scale: {n_old} results of other settings are left out");
    }
    Ok((experiment, records))
}

/// An experiment with its records by scale.
pub(super) fn gather(common: &Common, id: &str) -> Result<Run> {
    let store = common.store();
    let (base, _) = split_id(id);
    let mut scales: BTreeMap<Scale, Vec<TrialRecord>> = BTreeMap::new();
    let mut merged: Option<Experiment> = None;
    for scale in store.scales(id)? {
        let (experiment, records) = asked(common, id, scale)?;
        if !records.is_empty() {
            scales.insert(scale, records);
        }
        match &mut merged {
            Some(merged) => {
                let plan = experiment.scales.get(&scale).cloned();
                merged.scales.extend(plan.map(|plan| (scale, plan)));
            }
            None => merged = Some(experiment),
        }
    }
    let experiment = match merged {
        Some(experiment) => experiment,
        None => common.library()?.get(base)?,
    };
    Ok((experiment, scales))
}

/// The values of a sweep's axis that have records, in order; nothing for other experiments.
pub(super) fn sweep_values(base: &str, records: &[TrialRecord]) -> Option<Vec<String>> {
    if !base.starts_with("sweep-") || records.is_empty() {
        return None;
    }
    let mut values: Vec<(f64, String)> = Vec::new();
    for record in records {
        let x = record.trial.x.unwrap_or(f64::NAN);
        if !values.iter().any(|(_, text)| *text == record.trial.x_text) {
            values.push((x, record.trial.x_text.clone()));
        }
    }
    values.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    Some(values.into_iter().map(|(_, text)| text).collect())
}
