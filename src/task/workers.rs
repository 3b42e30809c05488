//! Steps per hour of a job of processes (Fig. A6).

use std::process::Command;
use std::time::Instant;

use super::job::Measurement;
use super::{Outcome, Session, Task, images};
use crate::cost::{Cost, Planner, Subject};
use crate::metric::{self, Row};
use crate::nn::{self, model};
use crate::problem::io_of;
use crate::ranks::launcher;
use crate::setting::Domain::Int;
use crate::setting::{Entry, Plain, Section, Settings, text_of};
use crate::{Error, Result, data, method, train};

crate::section! {
    /// A job of processes.
    pub struct Config {
        /// Processes, with one thread each, that share the probes of a step (task = workers, workers-model).
        pub workers: usize = 1 => Int(1, 1 << 16),
    }
}

/// Steps that a job is timed over, after one to warm up.
const STEPS: usize = 5;

/// Whether this program can start a job.
const CAN_START_JOBS: bool = cfg!(feature = "mpi");

/// `task = workers`: once per epoch, a job of one process, then one of as many as the settings say, each with one
/// thread.
#[derive(Debug)]
pub struct Workers;

impl Task for Workers {
    fn name(&self) -> &'static str {
        "workers"
    }

    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        sections(method)
    }

    fn implies(&self) -> Vec<(&'static str, toml::Value)> {
        let augment = ("augment", false.into_value());
        [implied(), vec![augment]].concat()
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        check(settings)
    }

    fn has_images(&self) -> bool {
        false
    }

    fn needs_mpi(&self) -> bool {
        true
    }

    fn run(&self, settings: &Settings, seed: u64, session: &Session) -> Result<Outcome> {
        let started = Instant::now();
        check_can_start()?;
        let Config { workers } = settings.read()?;
        let train::Config { epochs, .. } = settings.read()?;
        let mut rows: Vec<Row> = Vec::new();
        for epoch in 1..=epochs {
            session.check_interrupt()?;
            let one = job(settings, seed, 1)?;
            let many = if workers == 1 { one.clone() } else { job(settings, seed, workers)? };
            let mut row = Row::new(epoch as u32);
            row.set(&metric::QUERIES, many.queries.round());
            row.set(&metric::WALL_S, started.elapsed().as_secs_f64());
            row.set(&metric::STEPS_PER_HOUR, many.steps_per_hour);
            row.set(&metric::SPEED_UP, many.steps_per_hour / one.steps_per_hour);
            row.set(&metric::EXCHANGE_S, many.exchange_s);
            row.set(&metric::EXCHANGE_BYTES, many.exchange_bytes);
            row.set(&metric::CORES, many.cores);
            session.observer.epoch(&row);
            rows.push(row);
        }
        Ok(Outcome::measured(network(settings)?.layout().n_coords(), rows))
    }

    /// Steps of a job, and of one process beside it unless the job is one, each with one to warm up.
    fn cost(&self, settings: &Settings, planner: &mut Planner) -> Result<Cost> {
        let (train::Config { epochs, .. }, Config { workers }) = (settings.read()?, settings.read()?);
        let n_jobs = if workers == 1 { 1 } else { 2 };
        cost(settings, planner, epochs * n_jobs * (STEPS + 1))
    }
}

/// What `n` steps cost.
pub(super) fn cost(settings: &Settings, planner: &mut Planner, n: usize) -> Result<Cost> {
    let images = data::Config { data: images::procedural()?, ..Default::default() };
    let subject = Subject::on(settings, &images)?;
    images::cost_of(&subject, settings, planner, |_| images::batches(settings, n), None)
}

/// What a job of processes reads.
pub(super) fn sections(method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
    if !method.has_probes() {
        let reason =
            format!("first-order steps have no probes to share among workers; got {}", method.name());
        return Err(Error::setting("method", reason));
    }
    let own = vec![nn::Config::ENTRIES, nn::Goal::ENTRIES, train::Config::ENTRIES];
    Ok([own, method.gradient_sections()?, vec![Config::ENTRIES]].concat())
}

/// Checks the network and the method of a job.
pub(super) fn check(settings: &Settings) -> Result<()> {
    images::check_network(settings, images::procedural()?)?;
    images::check_method(settings)
}

/// Images are procedural, and steps have no schedule.
pub(super) fn implied() -> Vec<(&'static str, toml::Value)> {
    vec![("data", "synthetic".into()), ("warmup-epochs", 0usize.into_value())]
}

/// The settings' network, for procedural images.
pub(super) fn network(settings: &Settings) -> Result<nn::Network> {
    model::of(settings, &io_of(images::procedural()?))
}

/// Checks that this program can start jobs.
///
/// # Errors
/// If it was built without MPI.
pub(super) fn check_can_start() -> Result<()> {
    if CAN_START_JOBS {
        return Ok(());
    }
    Err(Error::Ranks(
        "jobs of several processes need MPI; build the program with `--features mpi`".to_owned(),
    ))
}

/// Settings that say how often jobs are timed, and how many processes they have: not of the job itself.
const OF_THE_TRIAL: [&str; 3] = ["task", "workers", "epochs"];

/// Has `workers` processes of this program time steps.
pub(super) fn job(settings: &Settings, seed: u64, workers: usize) -> Result<Measurement> {
    let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    let mut command = if workers == 1 {
        Command::new(&program)
    } else {
        let mut command = Command::new("mpirun");
        let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
        if workers > n_cores {
            command.args(["--oversubscribe", "--bind-to", "none"]);
        }
        command.arg("-n").arg(workers.to_string()).arg(&program);
        command
    };
    // This process may be part of a job itself; what it starts is another one.
    for (name, _) in std::env::vars_os() {
        if launcher::is_of_job(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
    command.args(["bench", "job", "--json", "--threads", "1", "--steps", &STEPS.to_string()]);
    command.args(["--seed", &seed.to_string()]);
    for (name, value) in settings.shown().filter(|(name, _)| !OF_THE_TRIAL.contains(name)) {
        command.arg("--set").arg(format!("{name}={}", text_of(&value)));
    }
    let output = command.output().map_err(|error| {
        Error::Ranks(format!(
            "`mpirun` of Open MPI cannot be started ({error}); is it installed and on the path?"
        ))
    })?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let reason = stderr.lines().map(str::trim).find(|line| line.len() > 3 && !line.starts_with("---"));
        return Err(Error::Ranks(format!(
            "a job of {workers} failed: {}",
            reason.unwrap_or("it said nothing")
        )));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Error::Ranks(format!("a job of {workers} gave no measurement ({error})")))
}
