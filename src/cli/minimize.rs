//! `minimize`, `ask`, `tell`: black boxes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use deepzero::files;
use deepzero::minimize::pool::{self, Ended, OnFailure, Options};
use deepzero::minimize::worker::{Command, Protocol};
use deepzero::minimize::{Asked, Bounds, Run, Start, Stopped, Summary, settings, write_report};
use serde_json::{Value, json};

use super::progress::MinimizeProgress;
use super::{Common, Exit, INTERRUPT, key_value, say, tell, watch_interrupts};

/// The largest JSON file that is read.
const MAX_BYTES: u64 = 1 << 32;
/// The most workers.
const MAX_WORKERS: i64 = 1024;

#[derive(Debug, Args)]
#[command(after_help = help())]
pub(super) struct MinimizeArgs {
    /// Program that evaluates points, with its arguments; split as by a shell, but no shell runs. Without it the run
    /// is only begun, for `ask` and `tell`.
    #[arg(long, value_name = "LINE", requires = "budget")]
    command: Option<String>,
    /// Starting point: a JSON list of numbers.
    #[arg(long, value_name = "FILE")]
    x0: PathBuf,
    /// Bounds: a JSON list of [low, high], or one [low, high] for all coordinates; null for none.
    #[arg(long, value_name = "FILE")]
    bounds: Option<PathBuf>,
    /// Evaluations of the whole run; a run that has spent them goes on with more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 53), requires = "command")]
    budget: Option<u64>,
    /// Folder of the run: log, result, report. The same command goes on from there.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Processes at a time. Points and results do not depend on it.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_WORKERS), requires = "command")]
    workers: u16,
    /// Points of a message; by default what workers say they take (jsonl), or one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20), requires = "command")]
    batch_size: Option<u32>,
    /// How long an evaluation may take, such as 60s or 5m; a batch of n points n times as long. Without it, forever.
    #[arg(long, value_name = "TIME", value_parser = time, requires = "command")]
    timeout: Option<Duration>,
    /// What becomes of an evaluation that fails: skip (it is left out), retry:N (tried N times more, then left out),
    /// abort (the run ends; going on evaluates it again).
    #[arg(long, default_value = "skip", value_name = "WHAT", value_parser = on_failure, requires = "command")]
    on_failure: OnFailure,
    /// How points and values travel.
    #[arg(long, value_enum, default_value_t = Protocol::Jsonl, requires = "command")]
    protocol: Protocol,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Change a setting of the method; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
}

fn help() -> String {
    let settings = settings::describe();
    format!(
        "Examples:
  deepzero minimize --command \"python sim.py\" --x0 x0.json --budget 2000 --run runs/sim
  deepzero minimize --command \"python sim.py\" --x0 x0.json --budget 5000 --run runs/sim --workers 4 \\
      --timeout 60s --on-failure retry:1
  deepzero minimize --command ./sim.sh --protocol file --x0 x0.json --bounds b.json --budget 500 \\
      --run runs/sh --set method=cge --set mu=0.01

Files in DIR:
  start.safetensors     starting point, bounds, settings, seed
  log.jsonl             every value, one a line, with a checksum; only ever added to
  snapshot.safetensors  the state at some place of the log, which spares reading all of it
  result.json           best point, last point, counts
  report.html           value over evaluations, failures, cost
  worker-W.log          what worker W wrote to stderr

docs/BLACKBOX.md has the protocols.

Settings (default):
{settings}"
    )
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero minimize --x0 x0.json --run runs/lab   begins a run without a command
  deepzero ask --run runs/lab -n 4                a line of JSON for each point
  deepzero tell --run runs/lab --id 0 --f 3.25
  deepzero tell --run runs/lab --id 1 --fail \"the pump stopped\"")]
pub(super) struct AskArgs {
    /// Folder of the run.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Points at most; fewer where the present step has no more.
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  deepzero tell --run runs/lab --id 0 --f 3.25")]
pub(super) struct TellArgs {
    /// Folder of the run.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Number of the point, as `ask` gave it.
    #[arg(long, value_name = "ID")]
    id: u64,
    #[command(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Outcome {
    /// Its value.
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    f: Option<f64>,
    /// Why there is no value.
    #[arg(long, value_name = "MESSAGE")]
    fail: Option<String>,
}

fn time(text: &str) -> std::result::Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() && time <= Duration::from_secs(365 * 24 * 3600) => Ok(time),
        _ => Err("expected a time above zero and of at most a year, such as 60s or 5m".to_owned()),
    }
}

fn on_failure(text: &str) -> std::result::Result<OnFailure, String> {
    match (text, text.strip_prefix("retry:").map(str::parse::<u32>)) {
        ("skip", _) => Ok(OnFailure::Skip),
        ("abort", _) => Ok(OnFailure::Abort),
        (_, Some(Ok(n))) if (1..=1000).contains(&n) => Ok(OnFailure::Retry(n)),
        _ => Err("expected skip, abort or retry:N with N from 1 to 1000".to_owned()),
    }
}

/// A JSON file.
fn json_of(option: &str, path: &Path) -> Result<Value> {
    let bytes = files::read_bounded(path, MAX_BYTES)?;
    serde_json::from_slice(&bytes).with_context(|| format!("{option} {}: no JSON", path.display()))
}

fn start(args: &MinimizeArgs) -> Result<Start> {
    let overrides = args.overrides.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let settings = settings::from_pairs(overrides)?;
    let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    let Some(x0) = numbers(&json_of("--x0", &args.x0)?) else {
        bail!("--x0 {}: expected a list of numbers, such as [0.5, 1.0]", args.x0.display());
    };
    let bounds = match &args.bounds {
        Some(path) => match Bounds::from_json(&json_of("--bounds", path)?, x0.len()) {
            Ok(bounds) => Some(bounds),
            Err(reason) => bail!("--bounds {}: {reason}", path.display()),
        },
        None => None,
    };
    Ok(Start { x0, bounds, settings, seed: args.seed })
}

pub(super) fn run(common: &Common, args: &MinimizeArgs) -> Result<Exit> {
    watch_interrupts()?;
    let words = args.command.as_deref().map(Command::split).transpose()?;
    let start = start(args)?;
    let (n_coords, seed) = (start.x0.len(), start.seed);
    let mut run = Run::open(&args.run, start, words.is_none())?;
    let Some(files) = run.files().cloned() else { bail!("--run {}: no folder", args.run.display()) };
    // Found out now rather than after the last evaluation.
    [files.result(), files.report()].iter().try_for_each(|path| files::check_writable(path))?;
    let (Some(words), Some(budget)) = (words, args.budget) else {
        return begun(common, args, &run);
    };
    let command = Command { words, protocol: args.protocol, timeout: args.timeout, files, seed, n_coords };
    let options = Options {
        budget,
        workers: usize::from(args.workers),
        batch: args.batch_size.map(|n| n as usize),
        on_failure: args.on_failure,
    };
    let progress = MinimizeProgress::new(budget, run.minimizer().n_evaluations());
    let ended = pool::run(&mut run, &command, &options, &INTERRUPT, &progress);
    progress.finish(match &ended {
        Ok(Ended::Budget | Ended::Stopped(Stopped::Converged)) => "done",
        Ok(Ended::Stopped(Stopped::Stuck(_))) => "stuck",
        Ok(Ended::Interrupted) => "stopped; the same command goes on",
        Err(_) => "stopped by an error; the same command goes on",
    });
    let ended = ended?;
    let summary = Summary::of(&run, args.command.as_deref(), Some(&ended))?;
    write_report(&run, &summary)?;
    if common.json {
        say!("{}", serde_json::to_string_pretty(summary.json())?)?;
    } else {
        say_summary(args, &run)?;
    }
    match ended {
        Ended::Budget | Ended::Stopped(Stopped::Converged) => Ok(Exit::Ok),
        Ended::Interrupted => Ok(Exit::Interrupted),
        Ended::Stopped(Stopped::Stuck(reason)) => {
            tell!(
                "deepzero: {}: {reason}; a nearer start or a smaller mu or learning-rate may help",
                args.run.display()
            );
            Ok(Exit::TrialsFailed)
        }
    }
}

/// Tells of a run that nothing evaluates but `ask` and `tell`.
fn begun(common: &Common, args: &MinimizeArgs, run: &Run) -> Result<Exit> {
    let summary = Summary::of(run, None, stopped(run).as_ref())?;
    write_report(run, &summary)?;
    if common.json {
        say!("{}", serde_json::to_string_pretty(summary.json())?)?;
    } else {
        let folder = args.run.display();
        say!("{folder}: {} values so far; go on with", run.minimizer().n_evaluations())?;
        say!("  deepzero ask --run {folder}")?;
    }
    Ok(Exit::Ok)
}

fn say_summary(args: &MinimizeArgs, run: &Run) -> Result<()> {
    let minimizer = run.minimizer();
    let (n, n_failed) = (minimizer.n_evaluations(), minimizer.n_failed());
    match minimizer.best() {
        Some(best) => {
            const SHOWN: usize = 10;
            let x = best.asked.point();
            let shown: Vec<String> = x.iter().take(SHOWN).map(f64::to_string).collect();
            let more =
                if x.len() > SHOWN { format!(", … ({} coordinates)", x.len()) } else { String::new() };
            say!("best value {} at evaluation {}", best.value, best.asked.id)?;
            say!("x = [{}{more}]", shown.join(", "))?;
        }
        None => say!("no value")?,
    }
    say!("{n} evaluations, {n_failed} failed, {} steps", minimizer.n_steps())?;
    say!("{}", args.run.join("result.json").display())?;
    say!("{}", args.run.join("report.html").display())?;
    Ok(())
}

fn point(asked: &Asked) -> Value {
    json!({ "id": asked.id, "sample": asked.sample, "x": asked.point() })
}

/// `ask`.
pub(super) fn ask(common: &Common, args: &AskArgs) -> Result<Exit> {
    let mut run = Run::reopen(&args.run)?;
    let asked = run.hand_out(args.n as usize)?;
    run.sync()?;
    let minimizer = run.minimizer();
    if common.json {
        let points: Vec<Value> = asked.iter().map(point).collect();
        let stopped = minimizer.stopped().is_some();
        say!("{}", json!({ "points": points, "waiting": minimizer.waiting(), "stopped": stopped }))?;
        return Ok(Exit::Ok);
    }
    for asked in &asked {
        say!("{}", point(asked))?;
    }
    if asked.is_empty() {
        match minimizer.stopped() {
            Some(stopped) => tell!("{}", end_of(stopped)),
            None => {
                let ids: Vec<String> = minimizer.waiting().iter().take(20).map(u64::to_string).collect();
                let n = minimizer.waiting().len();
                let more = if n > ids.len() { ", …" } else { "" };
                tell!("the step waits for {n} values, of {}{more}; tell them first", ids.join(", "));
            }
        }
    }
    Ok(Exit::Ok)
}

/// `tell`.
pub(super) fn tell(common: &Common, args: &TellArgs) -> Result<Exit> {
    let mut run = Run::reopen(&args.run)?;
    let asked = run.handed(args.id)?;
    let value = match (&args.outcome.f, &args.outcome.fail) {
        (Some(f), _) => Ok(*f),
        (None, reason) => Err(reason.clone().unwrap_or_default()),
    };
    let is_step = run.tell(&asked, value, None)?;
    run.sync()?;
    if is_step {
        write_report(&run, &Summary::of(&run, None, stopped(&run).as_ref())?)?;
    }
    let minimizer = run.minimizer();
    if common.json {
        let best = minimizer.best().map(|best| json!({ "id": best.asked.id, "value": best.value }));
        say!(
            "{}",
            json!({
                "id": args.id, "step_done": is_step, "n_steps": minimizer.n_steps(),
                "n_evaluations": minimizer.n_evaluations(), "n_failed": minimizer.n_failed(), "best": best,
            })
        )?;
        return Ok(Exit::Ok);
    }
    let best =
        minimizer.best().map_or("none".to_owned(), |best| format!("{} ({})", best.value, best.asked.id));
    let step = if is_step { format!("; step {} is done", minimizer.n_steps()) } else { String::new() };
    say!("{} values, best {best}{step}", minimizer.n_evaluations())?;
    if let Some(stopped) = minimizer.stopped() {
        tell!("{}", end_of(stopped));
    }
    Ok(Exit::Ok)
}

/// How a run ended that nothing evaluates but `ask` and `tell`, if it did.
fn stopped(run: &Run) -> Option<Ended> {
    run.minimizer().stopped().cloned().map(Ended::Stopped)
}

fn end_of(stopped: &Stopped) -> String {
    match stopped {
        Stopped::Converged => "the method has come to its end".to_owned(),
        Stopped::Stuck(reason) => format!("the method could not go on: {reason}"),
    }
}
