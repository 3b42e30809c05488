//! The command line: types that clap fills, one file per verb.

mod against;
mod bench;
mod certify;
mod data;
mod doctor;
mod estimate;
mod list;
mod minimize;
mod plan;
mod progress;
mod report;
mod reproduce;
mod signals;
mod status;
mod train;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Once;

use anyhow::{Context, Result, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use deepzero::data::Location;
use deepzero::device;
use deepzero::experiment::{Experiment, Library, MAX_SEEDS, Scale, Trial, split_id};
use deepzero::ranks::{Ranks, launcher};
use deepzero::results::Store;
use deepzero::runner::Runner;

use progress::DownloadProgress;
use signals::{INTERRUPT, watch_interrupts};

/// What `--version` prints.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("DEEPZERO_COMMIT"), ")");

/// Train deep networks from function values alone, and reproduce the DeepZero paper.
#[derive(Debug, Parser)]
#[command(version = VERSION, about, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:
  deepzero reproduce fig4 --scale smoke      the main figure in two minutes, no data needed
  deepzero plan fig4 --scale laptop          what that would cost on this machine
  deepzero doctor                            whether this machine computes rightly, and how fast
  deepzero sweep sparsity                    accuracy against sparsity
  deepzero report                            rebuild every report from the results alone")]
pub(crate) struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
struct Common {
    /// Folder of result files.
    #[arg(long, global = true, default_value = "results", value_name = "DIR", help_heading = "Folders")]
    results: PathBuf,
    /// Folder for generated reports.
    #[arg(long, global = true, default_value = "reports", value_name = "DIR", help_heading = "Folders")]
    reports: PathBuf,
    /// Folder of experiment files; by default ./experiments, else those built in.
    #[arg(long, global = true, value_name = "DIR", help_heading = "Folders")]
    experiments: Option<PathBuf>,
    /// Folder with data sets, and the only one that is searched; by default $DEEPZERO_DATA, ./data, the hub's cache.
    #[arg(long, global = true, value_name = "DIR", help_heading = "Folders")]
    data_dir: Option<PathBuf>,
    /// Threads; by default one per core. Results do not depend on it.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Machine")]
    threads: Option<u16>,
    /// Memory for changes in flight when differences are propagated, and for points evaluated together on a GPU,
    /// in MiB beside the base activations; by default 1024, on a GPU most of what is free. Results do not depend on
    /// it.
    #[arg(long, global = true, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Machine")]
    memory: Option<u32>,
    /// Where tensors live: cpu, cuda or cuda:N.
    #[arg(long, global = true, default_value = "cpu", value_name = "DEVICE", help_heading = "Machine")]
    device: String,
    /// Machine-readable output on stdout.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List exhibits and sweeps: what each compares, and which scales have results.
    List(list::ListArgs),
    /// Say what a run would do and cost; writes nothing.
    Plan(plan::PlanArgs),
    /// Run the missing trials of exhibits, then write their reports.
    Reproduce(reproduce::ReproduceArgs),
    /// Vary one setting.
    Sweep(reproduce::SweepArgs),
    /// Train one model with one recipe.
    Train(train::TrainArgs),
    /// Estimate the gradient of given weights on a given batch.
    Estimate(estimate::EstimateArgs),
    /// Certify how far around images a classifier, smoothed by noise, keeps its class.
    Certify(certify::CertifyArgs),
    /// Minimize a black box: a command that evaluates points.
    Minimize(minimize::MinimizeArgs),
    /// Hand out points of a run to evaluate by other means.
    Ask(minimize::AskArgs),
    /// Tell the value of a point that was handed out.
    Tell(minimize::TellArgs),
    /// Rebuild reports from results alone.
    Report(report::ReportArgs),
    /// Show which trials are done, running, failed or missing.
    Status(status::StatusArgs),
    /// Run recorded trials again, and say whether they come to the same.
    Verify(verify::VerifyArgs),
    /// Fetch, describe or verify data sets.
    Data(data::DataArgs),
    /// Say what this machine is, check the program on it, and measure its speed.
    Doctor(doctor::DoctorArgs),
    /// Measure how fast this machine computes gradients.
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  deepzero completions bash > ~/.local/share/bash-completion/completions/deepzero"
    )]
    Completions {
        /// Shell to complete in.
        shell: clap_complete::Shell,
    },
}

impl Verb {
    /// Whether all processes of a job take part, rather than the first alone.
    fn is_shared(&self) -> bool {
        match self {
            Self::Reproduce(_) | Self::Sweep(_) | Self::Train(_) => true,
            Self::Bench(args) => args.is_job(),
            _ => false,
        }
    }
}

/// Options that choose the trials of an experiment.
#[derive(Debug, Args)]
struct Selection {
    /// How much of the paper's protocol to follow.
    #[arg(long, value_enum, default_value_t = Scale::Smoke)]
    scale: Scale,
    /// Seeds per point; by default what the experiment says for the scale. `auto`: as many as its checks take to be confirmed
    /// with 80 % probability, by the spread of the default ones, which must have run.
    #[arg(long, value_name = "N|auto", value_parser = seeds)]
    seeds: Option<Seeds>,
    /// Change a setting of every trial; the results are kept apart from the experiment's own.
    /// Repeatable. `deepzero train --help` lists the settings.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
    /// Only these points: a series, one of its values, or a value of every series, such as `deepzero`,
    /// `deepzero=0.99` or `=0.99`. Repeatable. Reports still show every point that has results.
    #[arg(long, value_name = "SERIES=X", value_parser = point)]
    only: Vec<Point>,
    /// Only part I of N of the trials, so that N processes, on one machine or many, share them without knowing of
    /// each other. Results go together by copying their files into one folder.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,
}

/// How many seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seeds {
    Fixed(usize),
    Auto,
}

/// A number of seeds.
fn seeds(text: &str) -> std::result::Result<Seeds, String> {
    match text.parse() {
        _ if text == "auto" => Ok(Seeds::Auto),
        Ok(n) if (1..=MAX_SEEDS).contains(&n) => Ok(Seeds::Fixed(n)),
        _ => Err(format!("expected how many seeds, from 1 to {MAX_SEEDS}, or auto; seeds are 0, 1, 2, …")),
    }
}

/// Part `part` (from 0) of `parts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shard {
    part: usize,
    parts: usize,
}

fn shard(text: &str) -> std::result::Result<Shard, String> {
    let numbers =
        text.split_once('/').and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
    match numbers {
        Some((part, parts)) if (1..=parts).contains(&part) => Ok(Shard { part: part - 1, parts }),
        _ => Err("expected I/N with I from 1 to N, such as 2/3".to_owned()),
    }
}

impl Shard {
    /// Leaves every N-th trial in the order of hashes, which does not depend on what has run already.
    fn retain(self, trials: &mut Vec<Trial>) {
        let mut hashes: Vec<String> = trials.iter().map(Trial::hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        trials
            .retain(|trial| hashes.binary_search(&trial.hash()).is_ok_and(|at| at % self.parts == self.part));
    }
}

/// A series, a value on the x axis, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Point {
    series: Option<String>,
    x: Option<String>,
}

fn point(text: &str) -> std::result::Result<Point, String> {
    let (series, x) = text.split_once('=').map_or((text, ""), |(series, x)| (series.trim(), x.trim()));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    match (some(series), some(x)) {
        (None, None) => Err("expected a series, a value or both, such as fo, =0.99 or fo=0.99".to_owned()),
        (series, x) => Ok(Point { series, x }),
    }
}

impl Point {
    fn has(&self, trial: &Trial) -> bool {
        let number = |text: &str| text.parse::<f64>().ok();
        let is_x =
            |x: &String| *x == trial.x_text || number(x).is_some_and(|x| Some(x) == number(&trial.x_text));
        self.series.as_ref().is_none_or(|series| *series == trial.series) && self.x.as_ref().is_none_or(is_x)
    }
}

impl Selection {
    /// How many seeds; `None` for as many as the experiment says.
    fn n_seeds(&self, common: &Common, experiment: &Experiment) -> Result<Option<usize>> {
        match self.seeds {
            None => Ok(None),
            Some(Seeds::Fixed(n)) => Ok(Some(n)),
            Some(Seeds::Auto) => plan::seeds_that_decide(common, experiment, self.scale).map(Some),
        }
    }

    /// The experiment's trials at this scale, those asked for.
    fn trials(&self, common: &Common, experiment: &Experiment) -> Result<Vec<Trial>> {
        let mut trials = experiment.trials(self.scale, self.n_seeds(common, experiment)?, &[])?;
        if let Some(unknown) = self.only.iter().find(|point| !trials.iter().any(|trial| point.has(trial))) {
            let mut known: Vec<String> = Vec::new();
            for trial in &trials {
                let name = format!("{}={}", trial.series, trial.x_text);
                if !known.contains(&name) {
                    known.push(name);
                }
            }
            bail!(
                "--only {}={}: no such point in {} at {} scale; there are {}",
                unknown.series.as_deref().unwrap_or_default(),
                unknown.x.as_deref().unwrap_or_default(),
                experiment.id,
                self.scale,
                known.join(", ")
            );
        }
        trials.retain(|trial| self.only.is_empty() || self.only.iter().any(|point| point.has(trial)));
        if let Some(shard) = self.shard {
            shard.retain(&mut trials);
        }
        Ok(trials)
    }
}

fn key_value(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE, such as mu=0.001".to_owned()),
    }
}

/// How the program ends when nothing else went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok,
    /// An error, told in one line.
    Error,
    /// The command line is wrong.
    Usage,
    /// Everything ran, but some trials failed or diverged.
    TrialsFailed,
    /// The user stopped it.
    Interrupted,
}

impl Exit {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(self.number())
    }

    fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::TrialsFailed => 3,
            // 128 + SIGINT, as shells report it.
            Self::Interrupted => 130,
        }
    }

    pub(crate) fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<deepzero::Error>() {
            Some(deepzero::Error::Interrupted) => Self::Interrupted,
            _ => Self::Error,
        }
    }
}

/// A reader such as `head` that has seen enough is no error.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Runs one verb. Within an MPI job every process comes here; those that train share the work, else the first does
/// it alone.
pub(crate) fn run(cli: Cli) -> Result<Exit> {
    let ranks = Ranks::of_job()?;
    let result = run_verb(&cli, &ranks);
    if let (Err(error), false) = (&result, ranks.is_alone()) {
        // Others may wait for an answer that will never come. After an agreed stop nobody does.
        let is_agreed = is_interrupted(error) && ranks.is_stopping(&INTERRUPT);
        if !is_agreed {
            say_error(error, &ranks);
            ranks.abort(Exit::of(error).number());
        }
    }
    if ranks.is_first() { result } else { result.or(Ok(Exit::Interrupted)) }
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(deepzero::Error::Interrupted))
}

fn run_verb(cli: &Cli, ranks: &Ranks) -> Result<Exit> {
    let threads = match cli.common.threads {
        Some(threads) => Some(usize::from(threads)),
        None => launcher::threads_of_rank(ranks),
    };
    // The calling thread belongs to the pool: outside of it, it would sleep and be woken in every operation.
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .use_current_thread()
        .build_global()
        .context("start the threads")?;
    ranks.agree(
        "version of the program",
        &format!("{} {}", env!("CARGO_PKG_VERSION"), env!("DEEPZERO_COMMIT")),
    )?;
    ranks.agree("set of kernels", deepzero::kernels::Isa::current().name())?;
    let common = &cli.common;
    if !ranks.is_first() && !cli.verb.is_shared() {
        return Ok(Exit::Ok);
    }
    match &cli.verb {
        Verb::List(args) => list::run(common, args),
        Verb::Plan(args) => plan::run(common, args),
        Verb::Reproduce(args) => reproduce::run(common, args, ranks),
        Verb::Sweep(args) => reproduce::run_sweep(common, args, ranks),
        Verb::Train(args) => train::run(common, args, ranks),
        Verb::Estimate(args) => estimate::run(common, args),
        Verb::Certify(args) => certify::run(common, args),
        Verb::Minimize(args) => minimize::run(common, args),
        Verb::Ask(args) => minimize::ask(common, args),
        Verb::Tell(args) => minimize::tell(common, args),
        Verb::Report(args) => report::run(common, args),
        Verb::Status(args) => status::run(common, args),
        Verb::Verify(args) => verify::run(common, args),
        Verb::Data(args) => data::run(common, args),
        Verb::Doctor(args) => doctor::run(common, args),
        Verb::Bench(args) => bench::run(common, args, ranks),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "deepzero", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script)?;
            Ok(Exit::Ok)
        }
    }
}

/// Says on a job's stderr what went wrong on a rank.
fn say_error(error: &anyhow::Error, ranks: &Ranks) {
    tell!("deepzero: rank {}: {}", ranks.rank(), in_one_line(error));
}

/// The error and its causes; a cause that the text before it already tells is not repeated.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
        if !line.ends_with(&text) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&text);
        }
    }
    line
}

/// Prints a line to stdout; unlike `println!` it can fail.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stdout(), $($arg)*)
    }};
}
use say;

/// Prints a line to stderr. Unlike `eprintln!` it does not panic where nobody reads or the disk is full: what is
/// only told must not end what is being done.
macro_rules! tell {
    ($($arg:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($arg)*);
    }};
}
pub(crate) use tell;

impl Common {
    /// Bytes for changes in flight, and for points evaluated together.
    fn memory(&self, device: &candle_core::Device) -> Result<usize> {
        match self.memory {
            Some(mib) => Ok((mib as usize) << 20),
            None => Ok(device::default_memory(device)?),
        }
    }

    /// A runner of trials on the device and in the memory asked for.
    fn runner<'a>(
        &self,
        store: &'a Store,
        location: &'a Location,
        downloads: &'a DownloadProgress,
    ) -> Result<Runner<'a>> {
        let (device, device_name) = self.device()?;
        let memory = self.memory(&device)?;
        let mut runner = Runner::new(store, location, downloads, device, device_name, &INTERRUPT);
        runner.memory = memory;
        Ok(runner)
    }

    fn store(&self) -> Store {
        Store::new(&self.results)
    }

    fn location(&self) -> Location {
        Location::new(self.data_dir.clone())
    }

    fn library(&self) -> Result<Library> {
        static TOLD: Once = Once::new();
        let library = Library::open(self.experiments.as_deref())?;
        if library.is_embedded() && Path::new(Library::FOLDER).is_dir() {
            TOLD.call_once(|| {
                tell!("./{} has no experiment files (*.toml): those built in are used", Library::FOLDER);
            });
        }
        Ok(library)
    }

    /// The device, and its name for the results.
    fn device(&self) -> Result<(candle_core::Device, String)> {
        // One GPU per rank of a machine, unless the user names one.
        if let ("cuda", Some((rank, n_local))) = (self.device.as_str(), launcher::local_rank())
            && n_local > 1
        {
            return Ok(device::open(&format!("cuda:{rank}"))?);
        }
        Ok(device::open(&self.device)?)
    }

    /// The experiment with this id; `fig4~mu=0.01` is fig4 with a setting changed, and a sweep
    /// covers the values that its results have.
    fn experiment(&self, id: &str, scale: Scale, values: Option<&[String]>) -> Result<Experiment> {
        let library = self.library()?;
        let (base, overrides) = split_id(id);
        let experiment = match base.strip_prefix("sweep-") {
            Some(axis) if values.is_some() || library.ids().all(|known| known != base) => {
                library.sweep(axis, values)?
            }
            _ => library.get(base)?,
        };
        Ok(experiment.with_overrides(scale, &overrides)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: arithmetic.
    #[test]
    fn shards_are_parts() {
        assert_eq!(shard("1/1"), Ok(Shard { part: 0, parts: 1 }));
        assert_eq!(shard("3/3"), Ok(Shard { part: 2, parts: 3 }));
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"] {
            assert!(shard(wrong).is_err(), "{wrong}");
        }
    }

    /// Oracle: the experiment itself: shards are disjoint and together everything, in its order.
    #[test]
    fn shards_divide_the_trials() {
        let experiment = Library::open(None).unwrap().get("fig4").unwrap();
        let all = experiment.trials(Scale::Laptop, None, &[]).unwrap();
        let of = |part| {
            let mut trials = all.clone();
            Shard { part, parts: 3 }.retain(&mut trials);
            trials
        };
        let parts = [of(0), of(1), of(2)];
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), all.len());
        for trial in &all {
            assert_eq!(parts.iter().filter(|part| part.contains(trial)).count(), 1);
        }
        assert!(parts.iter().all(|part| part.len().abs_diff(all.len() / 3) <= 1));
    }
}
