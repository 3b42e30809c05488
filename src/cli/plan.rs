//! `plan`: a dry run.

use anyhow::{Result, anyhow, bail};
use candle_core::Device;
use clap::Args;
use deepzero::cost::{Cost, Planner};
use deepzero::experiment::{Check, Experiment, MAX_SEEDS, Scale};
use deepzero::ranks;
use deepzero::report::check::{self, Needed, Outlook};
use deepzero::report::measured::Measured;
use deepzero::runner::{checkpoint_path, is_pending};
use deepzero::task;
use deepzero::train::Checkpoint;
use serde_json::json;

use super::reproduce::{Parallel, selected};
use super::{Common, Exit, Selection, report, say, tell};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero plan fig4 --scale paper
  deepzero plan all --scale laptop --threads 1 --json

The time comes from a short calibration on this machine, as busy as it is now; queries and
operations follow from the settings, with layer ratios as ZO-GraSP is expected to find them.")]
pub(super) struct PlanArgs {
    /// Exhibits of the paper or experiments of ours; `all` for everything but sweeps.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    parallel: Parallel,
}

pub(super) fn run(common: &Common, args: &PlanArgs) -> Result<Exit> {
    let (device, name) = common.device()?;
    let n_threads = rayon::current_num_threads();
    let number = args.parallel.number(args.selection.scale, &device, &ranks::ALONE)?;
    // What shares a thread, or a GPU, takes turns there and ends no sooner.
    let at_a_time = if device.is_cpu() { number.min(n_threads) } else { 1 };
    let beside = if at_a_time > 1 { format!(", {at_a_time} trials side by side") } else { String::new() };
    let machine = if device.is_cpu() { format!("{n_threads} threads of this machine{beside}") } else { name };
    // Speeds are those on the threads that a trial will have.
    let pool = rayon::ThreadPoolBuilder::new().num_threads((n_threads / at_a_time).max(1)).build()?;
    pool.install(|| plan(common, args, &device, &machine, at_a_time))
}

fn plan(common: &Common, args: &PlanArgs, device: &Device, machine: &str, at_a_time: usize) -> Result<Exit> {
    let store = common.store();
    let mut planner = Planner::new(device.clone(), common.memory(device)? / at_a_time);
    let mut output = Vec::new();
    for experiment in selected(common, &args.ids, &args.selection)? {
        let (mut all, mut rows) = (Cost::default(), Vec::new());
        let (mut times, mut times_left) = (Vec::new(), Vec::new());
        let trials = args.selection.trials(common, &experiment)?;
        for trial in &trials {
            let cost = task::cost(&trial.settings, &mut planner)?;
            let pending = is_pending(&store, trial)?;
            let progress = Checkpoint::progress(&checkpoint_path(&store, trial));
            all += cost;
            times.push(cost.wall_s);
            if pending {
                // A started trial has only its remaining epochs before it.
                let share = progress.map_or(1.0, |p| 1.0 - p.epoch as f64 / p.epochs as f64);
                times_left.push(cost.wall_s * share);
            }
            let state = match (pending, progress) {
                (false, _) => "done".to_owned(),
                (true, Some(progress)) => format!("epoch {}/{}", progress.epoch, progress.epochs),
                (true, None) => "to run".to_owned(),
            };
            rows.push((trial, cost, state));
        }
        let (all_s, left_s) = (side_by_side(&times, at_a_time), side_by_side(&times_left, at_a_time));
        if common.json {
            let rows: Vec<_> = rows
                .iter()
                .map(|(trial, cost, state)| {
                    json!({
                        "trial": trial.hash(), "series": trial.series, "x": trial.x, "tuned": trial.tuned, "seed": trial.seed,
                        "state": state, "queries": cost.queries, "flops": cost.flops, "wall_s": cost.wall_s,
                    })
                })
                .collect();
            output.push(json!({
                "id": experiment.id, "scale": args.selection.scale.name(), "trials": rows,
                "queries": all.queries, "flops": all.flops, "wall_s": all_s, "wall_s_left": left_s,
            }));
            continue;
        }
        say!("{} at {} scale: {} trials", experiment.id, args.selection.scale, trials.len())?;
        let lenders = experiment.lenders().join(" ");
        if !lenders.is_empty() {
            say!("its points are results of others, which cost: deepzero plan {lenders}")?;
            for line in report::lent(common, &experiment, args.selection.scale)?.0 {
                say!("{line}")?;
            }
        }
        if trials.is_empty() {
            continue;
        }
        let is_tuned = trials.iter().any(|trial| !trial.tuned.is_empty());
        let tuned = |text: &str| if is_tuned { format!(" {text:>8}") } else { String::new() };
        say!(
            "{:<22} {:>8}{} {:>4} {:>12} {:>12} {:>10}  state",
            "series",
            "x",
            tuned("tuned"),
            "seed",
            "queries",
            "GFLOP",
            "time"
        )?;
        for (trial, cost, state) in rows {
            say!(
                "{:<22} {:>8}{} {:>4} {:>12.0} {:>12.0} {:>10}  {state}",
                trial.series,
                trial.x_text,
                tuned(&trial.tuned),
                trial.seed,
                cost.queries,
                cost.flops / 1e9,
                duration(cost.wall_s)
            )?;
        }
        say!(
            "in all {:.0} queries, {:.0} GFLOP, about {} on {}; about {} left",
            all.queries,
            all.flops / 1e9,
            duration(all_s),
            machine,
            duration(left_s)
        )?;
        if let Some(plan) = experiment.scales.get(&args.selection.scale) {
            let still = plan.never_redrawn()?;
            let ids: Vec<&str> = still.iter().map(|idx| &*experiment.series[*idx].id).collect();
            if !ids.is_empty() {
                say!("the active set of {} is drawn once: redraw-every is not below epochs", ids.join(", "))?;
            }
        }
        let needed = needed(common, &experiment, args.selection.scale)?.unwrap_or_else(|reason| {
            let unknown =
                |check: &Check| Needed { text: check.text.clone(), seeds: Outlook::Unknown(reason.clone()) };
            experiment.checks.iter().map(unknown).collect()
        });
        for Needed { text, seeds } in needed {
            match seeds {
                Outlook::Enough(n, what) => {
                    say!("{n} seeds confirm with 80 % probability, if {what} is true: {text}")?;
                }
                Outlook::Never(what) => {
                    say!("no number of seeds up to 10,000 is likely to confirm, if {what} is true: {text}")?;
                }
                Outlook::Unknown(reason) => {
                    say!("how many seeds decide is not known yet: {text} ({reason})")?;
                }
            }
        }
    }
    if common.json {
        say!("{}", serde_json::to_string_pretty(&output)?)?;
    }
    Ok(Exit::Ok)
}

/// When the last of some trials ends, so many at a time, each begun as soon as another ends.
fn side_by_side(times: &[f64], at_a_time: usize) -> f64 {
    let mut ends = vec![0.0_f64; at_a_time];
    for time in times {
        let first = ends.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("one at a time at least");
        *first += time;
    }
    ends.into_iter().fold(0.0, f64::max)
}

/// The seeds that tell how many are needed: those that the scale has by default, three at least.
fn first_seeds(experiment: &Experiment, scale: Scale) -> u64 {
    experiment.scales.get(&scale).map_or(0, |plan| plan.n_seeds).max(3) as u64
}

/// How many seeds the checks take, by the first seeds; before all of those have run, that they have not, so that asking
/// again gives the same number.
fn needed(
    common: &Common,
    experiment: &Experiment,
    scale: Scale,
) -> Result<std::result::Result<Vec<Needed>, String>> {
    if experiment.checks.is_empty() || !experiment.scales.contains_key(&scale) {
        return Ok(Ok(Vec::new()));
    }
    let first: Vec<u64> = (0..first_seeds(experiment, scale)).collect();
    let trials = experiment.trials_of(scale, &first, &[])?;
    let store = common.store();
    let mut records = Vec::new();
    for trial in &trials {
        records.extend(store.find(trial)?);
    }
    let n_missing = trials.len() - records.len();
    if n_missing > 0 {
        let reason =
            format!("{n_missing} of {} trials of seeds 0 to {} have not run", trials.len(), first.len() - 1);
        return Ok(Err(reason));
    }
    Ok(Ok(check::needed(&Measured::gather_all(experiment, scale, &records)?)))
}

/// The seeds that all checks need, of those that some number of seeds can confirm.
pub(super) fn seeds_that_decide(common: &Common, experiment: &Experiment, scale: Scale) -> Result<usize> {
    let needed = needed(common, experiment, scale)?.map_err(|reason| {
        anyhow!(
            "--seeds auto: {} at {scale} scale has no spread to go by yet ({reason}); run `deepzero reproduce {} --scale \
             {scale} --seeds {}` first",
            experiment.id,
            experiment.id,
            first_seeds(experiment, scale)
        )
    })?;
    let mut most = None;
    for Needed { text, seeds } in needed {
        match seeds {
            Outlook::Enough(n, _) => most = most.max(Some(n)),
            Outlook::Never(_) => {}
            Outlook::Unknown(reason) => tell!("--seeds auto: “{text}” does not count ({reason})"),
        }
    }
    let Some(most) = most else {
        bail!("--seeds auto: {} has no check that any number of seeds is likely to confirm", experiment.id);
    };
    let by_default = experiment.scales.get(&scale).map_or(0, |plan| plan.n_seeds);
    Ok(most.max(by_default).min(MAX_SEEDS))
}

/// Seconds as people say them.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
