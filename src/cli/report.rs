//! `report`: reports from results alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use clap::Args;
use deepzero::experiment::{Experiment, Scale, split_id};
use deepzero::report::{self, Run};
use deepzero::results::TrialRecord;

use super::{Common, Exit, say, tell};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero report            every experiment that has results, and reports/index.html
  deepzero report fig4")]
pub(super) struct ReportArgs {
    /// Experiments; by default all with results.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

pub(super) fn run(common: &Common, args: &ReportArgs) -> Result<Exit> {
    let paths = write(common, &args.ids)?;
    if common.json {
        say!("{}", serde_json::to_string_pretty(&paths)?)?;
        return Ok(Exit::Ok);
    }
    for path in paths {
        say!("{}", path.display())?;
    }
    Ok(Exit::Ok)
}

/// Writes the reports of the experiments named (all with results if none are), and the index over
/// all with results.
pub(super) fn write(common: &Common, ids: &[String]) -> Result<Vec<std::path::PathBuf>> {
    let mut all: BTreeSet<String> = ids.iter().cloned().collect();
    all.extend(experiments_with_results(common)?);
    // Exhibits and experiments of our own are on the index even before they have run; sweeps are not.
    let library = common.library()?;
    let is_sweep =
        |experiment: &Experiment| experiment.paper.is_empty() && experiment.id.starts_with("sweep-");
    all.extend(library.all()?.into_iter().filter(|one| !is_sweep(one)).map(|one| one.id));
    let mut runs: Vec<Run> = Vec::new();
    for id in &all {
        match gather(common, id) {
            Ok(run) => runs.push(run),
            // Results of other experiment files must not stand in the way of those asked for.
            Err(error) if !ids.contains(id) && is_unknown(&error) => {
                tell!("{id} is left out of the reports: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(report::write_reports(&runs, &common.reports)?)
}

/// Whether the experiment, or a setting in its name, is not known here.
fn is_unknown(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(deepzero::Error::Setting { .. }))
}

fn experiments_with_results(common: &Common) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let entries = match std::fs::read_dir(&common.results) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ids),
        entries => entries.with_context(|| format!("list {}", common.results.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        let is_folder = entry.file_type()?.is_dir();
        if let (true, Ok(name)) = (is_folder, entry.file_name().into_string())
            && !common.store().scales(&name)?.is_empty()
        {
            ids.push(name);
        }
    }
    Ok(ids)
}

/// An experiment with its records by scale. Records of settings that the experiment no longer asks
/// for are left out, and said so.
fn gather(common: &Common, id: &str) -> Result<Run> {
    let store = common.store();
    let (base, _) = split_id(id);
    let mut scales: BTreeMap<Scale, Vec<TrialRecord>> = BTreeMap::new();
    let mut merged: Option<Experiment> = None;
    for scale in store.scales(id)? {
        let records = store.read_all(id, scale)?;
        let experiment = common.experiment(id, scale, sweep_values(base, &records).as_deref())?;
        let n_seeds = records.iter().map(|record| record.trial.seed as usize + 1).max();
        let asked: BTreeSet<String> =
            experiment.trials(scale, n_seeds, &[])?.iter().map(deepzero::experiment::Trial::hash).collect();
        let n_all = records.len();
        let records: Vec<TrialRecord> =
            records.into_iter().filter(|record| asked.contains(&record.trial.hash())).collect();
        if records.len() < n_all {
            let n_old = n_all - records.len();
            tell!("{id} at {scale} scale: {n_old} results of other settings are left out of the report");
        }
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
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(values.into_iter().map(|(_, text)| text).collect())
}
