//! `verify`: recorded trials, run again.

use anyhow::{Context, Result, bail};
use clap::Args;
use deepzero::experiment::{Scale, split_id};
use deepzero::results::{STANDARD_ERRORS, Store, TOLERANCE, TrialRecord, Verified, verify};
use deepzero::rng::{Purpose, Stream};
use deepzero::runner::Ended;
use deepzero::task;
use serde_json::json;

use super::progress::{DownloadProgress, TrialProgress};
use super::{Common, Exit, report, say, tell, watch_interrupts};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero verify fig4 --sample 2          two of its trials; those of DeepZero take minutes
  deepzero verify fig4 --sample 2 --draw 1 two others
  deepzero verify fig6                     all of them

Nothing is written but to a temporary folder. On the kernels of the records the bits are compared; where those differ, by
other kernels or a program that has changed since, counts must still be the same and the rest within a tolerance, which
is printed. Exit codes: 0 all came to the same, 3 some did not.")]
pub(super) struct VerifyArgs {
    /// Experiment with results.
    #[arg(value_name = "ID")]
    id: String,
    /// Which scale's results; by default the highest that has some.
    #[arg(long, value_enum)]
    scale: Option<Scale>,
    /// So many of its trials, drawn by chance; by default all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Which sample.
    #[arg(long, value_name = "I", default_value_t = 0)]
    draw: u64,
}

pub(super) fn run(common: &Common, args: &VerifyArgs) -> Result<Exit> {
    watch_interrupts()?;
    let id = common.store().id_of(&args.id)?;
    let records = recorded(common, &id, args.scale)?;
    let chosen = sample(&records, args.sample, args.draw);
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let store = Store::new(folder.path());
    let location = common.location();
    let downloads = DownloadProgress::default();
    let runner = common.runner(&store, &location, &downloads)?;
    let (mut rows, mut n_different, mut n_close) = (Vec::new(), 0, 0);
    let n_chosen = chosen.len();
    for (position, old) in chosen.into_iter().enumerate() {
        let trial = &old.trial;
        let title = format!("[{}/{n_chosen}] {}", position + 1, trial.title());
        let progress = TrialProgress::new(title.clone(), task::epochs(&trial.settings)?);
        let ended = runner.run(trial, &progress).inspect_err(|_| progress.finish("stopped"));
        let Ended::Recorded(new) = ended.with_context(|| trial.title())? else {
            bail!("{}: its folder is in use", trial.title());
        };
        let verified = verify(old, &new, &records, TOLERANCE);
        let (outcome, text) = match &verified {
            Verified::SameBits => ("same bits", "the same bits".to_owned()),
            Verified::Close(how) => ("close", format!("within the tolerance: {how}")),
            Verified::Different(how) => ("different", format!("DIFFERENT: {how}")),
        };
        n_close += usize::from(matches!(verified, Verified::Close(_)));
        n_different += usize::from(matches!(verified, Verified::Different(_)));
        progress.finish(outcome);
        if !common.json {
            say!("{}: {text}", trial.title())?;
        }
        rows.push(json!({
            "trial": trial.title(), "outcome": outcome, "detail": text,
            "recorded": { "commit": old.provenance.commit, "kernels": old.provenance.kernels, "cpu": old.provenance.cpu },
            "here": { "commit": new.provenance.commit, "kernels": new.provenance.kernels, "cpu": new.provenance.cpu },
        }));
    }
    let tolerance = format!(
        "after the last epoch accuracies within {} points, losses and other measures within {} %, or either within \
         {STANDARD_ERRORS} standard errors, of so few images or between seeds; and all counts the same",
        TOLERANCE.points,
        100.0 * TOLERANCE.relative,
    );
    if common.json {
        say!("{}", serde_json::to_string_pretty(&json!({ "tolerance": tolerance, "trials": rows }))?)?;
    } else {
        let n_same = n_chosen - n_close - n_different;
        say!(
            "{n_chosen} trials run again: {n_same} with the same bits, {n_close} within the tolerance, {n_different} different"
        )?;
        if n_close + n_different > 0 {
            tell!("tolerance: {tolerance}");
        }
    }
    Ok(if n_different > 0 { Exit::TrialsFailed } else { Exit::Ok })
}

/// The records of trials that the experiment still asks for.
fn recorded(common: &Common, id: &str, scale: Option<Scale>) -> Result<Vec<TrialRecord>> {
    common.library()?.require(split_id(id).0)?;
    let scales = common.store().scales(id)?;
    let Some(scale) = scale.or_else(|| scales.into_iter().max()) else {
        bail!("{id} has no results in {}", common.results.display());
    };
    let (_, mut records) = report::asked(common, id, scale)?;
    if records.is_empty() {
        bail!("{id} has no results at {scale} scale in {} that it still asks for", common.results.display());
    }
    records.sort_by_key(|record| record.trial.hash());
    Ok(records)
}

/// So many of the records, in their order; all by default.
fn sample(records: &[TrialRecord], n: Option<u32>, draw: u64) -> Vec<&TrialRecord> {
    let n = n.map_or(records.len(), |n| n as usize);
    if n >= records.len() {
        return records.iter().collect();
    }
    let chosen = Stream::new(draw, Purpose::Verification, 0).subset(records.len(), n);
    chosen.into_iter().map(|idx| &records[idx]).collect()
}
