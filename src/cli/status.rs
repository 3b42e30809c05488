//! `status`: how far everything is.

use anyhow::Result;
use clap::Args;
use deepzero::runner::{Lock, checkpoint_path};
use deepzero::train::Checkpoint;
use deepzero::train::Status;
use serde_json::json;

use super::{Common, Exit, say};

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
    let experiments = if args.ids.is_empty() {
        library.all()?
    } else {
        args.ids.iter().map(|id| library.get(id)).collect::<deepzero::Result<_>>()?
    };
    let mut output = Vec::new();
    for experiment in experiments {
        for &scale in experiment.scales.keys() {
            let trials = experiment.trials(scale, None, &[])?;
            let mut counts = [0usize; 3];
            let mut lines = Vec::new();
            for trial in &trials {
                if let Some(record) = store.find(trial)? {
                    counts[record.status as usize] += 1;
                    if record.status != Status::Done {
                        lines.push(format!("{}: {}", trial.title(), record.error));
                    }
                    continue;
                }
                let checkpoint = checkpoint_path(&store, trial);
                let running = Lock::is_held(&checkpoint.with_extension("lock"));
                let progress = Checkpoint::progress(&checkpoint);
                let at = progress.map(|p| format!("epoch {}/{}", p.epoch, p.epochs));
                match (running, at) {
                    (true, at) => lines.push(format!(
                        "{}: running, {}",
                        trial.title(),
                        at.as_deref().unwrap_or("first epoch")
                    )),
                    (false, Some(at)) => lines.push(format!("{}: interrupted, {at}", trial.title())),
                    (false, None) => {}
                }
            }
            let [done, diverged, failed] = counts;
            if common.json {
                output.push(json!({
                    "id": experiment.id, "scale": scale.name(), "trials": trials.len(),
                    "done": done, "diverged": diverged, "failed": failed, "notes": lines,
                }));
            } else if done + diverged + failed + lines.len() > 0 || !args.ids.is_empty() {
                say!(
                    "{:<22} {:<7} {done} of {} done, {diverged} diverged, {failed} failed",
                    experiment.id,
                    scale.name(),
                    trials.len()
                )?;
                for line in lines {
                    say!("    {line}")?;
                }
            }
        }
    }
    if common.json {
        say!("{}", serde_json::to_string_pretty(&output)?)?;
    }
    Ok(Exit::Ok)
}
