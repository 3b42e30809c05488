//! Steps per hour of a job of processes (Fig. A6), and a model of it.

use std::process::Command;
use std::time::Instant;

use candle_core::Device;

use super::{Model, Session};
use crate::bench::job::Measurement;
use crate::experiment::{Settings, Task};
use crate::kernels::Split;
use crate::metric::{EXCHANGE_BYTES, EXCHANGE_S, QUERIES, Row, SPEED_UP, STEPS_PER_HOUR, WALL_S};
use crate::nn::model;
use crate::nn::objective::NetworkObjective;
use crate::results::Status;
use crate::runner::plan::Planner;
use crate::zo::Objective;
use crate::{Error, Result};

/// Steps that a job is timed over, after one to warm up.
pub(crate) const STEPS: usize = 5;

/// Whether this program can start a job.
const CAN_START_JOBS: bool = cfg!(feature = "mpi");

/// Once per epoch: a job of one process, then one of as many as the settings say, each with one thread.
///
/// # Errors
/// If there is no MPI, or the jobs fail.
pub(super) fn measure(settings: &Settings, seed: u64, session: &Session) -> Result<Model> {
    let started = Instant::now();
    if !CAN_START_JOBS {
        return Err(Error::Ranks(
            "jobs of several processes need MPI; build the program with `--features mpi`".to_owned(),
        ));
    }
    let network = model::from_settings(settings)?;
    let mut epochs: Vec<Row> = Vec::new();
    for epoch in 1..=settings.epochs {
        session.check_interrupt()?;
        let row = Row::new(epoch as u32);
        let (mut row, queries) = if settings.modeled {
            // What is modeled is not run.
            (modeled(row, settings, seed)?, 0.0)
        } else {
            let one = job(settings, seed, 1)?;
            let many =
                if settings.workers == 1 { one.clone() } else { job(settings, seed, settings.workers)? };
            let row = row
                .with(&STEPS_PER_HOUR, many.steps_per_hour)
                .with(&SPEED_UP, many.steps_per_hour / one.steps_per_hour)
                .with(&EXCHANGE_S, many.exchange_s)
                .with(&EXCHANGE_BYTES, many.exchange_bytes);
            (row, many.queries)
        };
        row.set_count(&QUERIES, queries.round() as u64);
        row.set(&WALL_S, started.elapsed().as_secs_f64());
        epochs.push(row);
        session.observer.epoch(&row);
    }
    let (params, stats) = (network.layout().initial(settings.init, seed), network.initial_stats());
    let (status, error, profiles) = (Status::Done, String::new(), Vec::new());
    Ok(Model { network, params, stats, epochs, status, error, profiles, mask: None })
}

/// Has `workers` processes of this program time steps.
fn job(settings: &Settings, seed: u64, workers: usize) -> Result<Measurement> {
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
        let name = name.to_string_lossy();
        if ["OMPI_COMM", "OMPI_MCA_ess", "OMPI_MCA_orte", "PMIX_", "PMI_", "ORTE_"]
            .iter()
            .any(|p| name.starts_with(p))
        {
            command.env_remove(&*name);
        }
    }
    command.args(["bench", "job", "--json", "--threads", "1", "--steps", &STEPS.to_string()]);
    command.args(["--seed", &seed.to_string()]);
    for name in Settings::NAMES {
        if !["task", "workers", "modeled", "epochs", "warmup-epochs", "n-train", "n-val", "n-test"]
            .contains(&name)
        {
            command.arg("--set").arg(format!("{name}={}", settings.text(name)));
        }
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

/// Images of a batch that times the base pass.
const BASE_IMAGES: usize = 64;

/// The row with steps per hour of many workers, from parts measured here: what the probes cost one thread, what every worker does
/// alone (the base pass), and an exchange between two processes. An exchange takes its latency once per doubling of the
/// workers, and the time of the bytes that each receives.
fn modeled(row: Row, settings: &Settings, seed: u64) -> Result<Row> {
    let step = Settings {
        task: Task::Train,
        workers: 1,
        modeled: false,
        epochs: 1,
        warmup_epochs: 0,
        n_train: settings.batch_size,
        n_test: 1,
        n_val: 0,
        ..settings.clone()
    };
    let mut planner = Planner::new(Device::Cpu, crate::nn::difference::DEFAULT_MEMORY);
    // The plan is for all threads, and holds the queries of scoring too.
    let scored = Settings { grasp_queries: 1, ..step.clone() };
    let cost = planner.cost(&scored)?;
    let all_s = cost.wall_s * rayon::current_num_threads() as f64;
    let network = model::from_settings(&step)?;
    let params = network.layout().initial(step.init, seed);
    let images = crate::runner::plan::calibration_images(BASE_IMAGES, step.precision.dtype())?;
    let labels = vec![0; BASE_IMAGES];
    let objective =
        NetworkObjective { split: Split::Serial, ..NetworkObjective::new(&network, &images, &labels) };
    objective.loss(&params)?;
    let started = Instant::now();
    objective.loss(&params)?;
    let base_s = started.elapsed().as_secs_f64() * settings.batch_size as f64 / BASE_IMAGES as f64;
    let two = job(&exchange_settings(settings), seed, 2)?;
    let workers = settings.workers as f64;
    let bytes = 8.0 * cost.queries * (workers - 1.0) / workers;
    let exchange_s = two.latency_s * workers.log2().ceil() + two.s_per_byte * bytes;
    let probes_s = (all_s - base_s).max(0.0);
    let step_s = probes_s / workers + base_s + exchange_s;
    Ok(row
        .with(&STEPS_PER_HOUR, 3600.0 / step_s)
        .with(&SPEED_UP, (probes_s + base_s) / step_s)
        .with(&EXCHANGE_S, exchange_s)
        .with(&EXCHANGE_BYTES, bytes))
}

/// A job that takes no time but for its exchanges.
fn exchange_settings(settings: &Settings) -> Settings {
    Settings {
        model: crate::nn::model::ModelKind::Cnn,
        depth: 1,
        width: 1,
        batch_size: 10,
        sparsity: 0.0,
        ..settings.clone()
    }
}
