//! Tasks: what one trial does.
//!
//! A [`Task`] says which sections of settings it reads, what it needs, what it costs, and does it. One line of
//! [`TASKS`] registers it.

pub mod correct;
pub mod defend;
mod foundation;
mod images;
pub mod job;
pub mod quality;
pub mod solver_alone;
pub mod stages;
pub mod train;
pub mod workers;
pub mod workers_model;

use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::Device;

use crate::cost::{Cost, Planner};
use crate::data::Location;
use crate::method;
use crate::metric::Row;
use crate::nn::Network;
use crate::problem::{Prepared, Resources, State};
use crate::profile::Profile;
use crate::ranks::Ranks;
use crate::setting::{Entry, Settings};
use crate::train::{Observer, Status};
use crate::zo::{QueryCount, optimizer, sparsity};
use crate::{Error, Result};

crate::section! {
    /// What a trial does.
    pub struct Config {
        /// What the trial does.
        pub task: &'static dyn Task = TASKS[0],
    }
}

crate::registered!(dyn Task, TASKS);

/// All tasks. A new one is a file beside these, and a line here.
pub static TASKS: &[&dyn Task] = &[
    &train::Train,
    &stages::Stages,
    &quality::Quality,
    &workers::Workers,
    &workers_model::WorkersModel,
    &defend::Defend,
    &correct::CorrectSolver,
    &solver_alone::SolverAlone,
];

/// What one trial does.
pub trait Task: Debug + Sync {
    /// Name in files.
    fn name(&self) -> &'static str;

    /// The sections that it reads with this method. Those of the method, or of its gradients, are among them: the
    /// method's rules are checked whatever the task.
    ///
    /// # Errors
    /// [`Error::Setting`] if it cannot be done with this method.
    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>>;

    /// Values of settings that others read and that this task implies: they stand in a trial's name.
    fn implies(&self) -> Vec<(&'static str, toml::Value)> {
        Vec::new()
    }

    /// Checks rules between settings; a task that runs the method has it check its own ([`method::Kind::check`]).
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting to change and what it may be.
    fn check(&self, _settings: &Settings) -> Result<()> {
        Ok(())
    }

    /// Whether it looks at images, which are then loaded for it.
    fn has_images(&self) -> bool {
        true
    }

    /// Whether it starts jobs of several processes.
    fn needs_mpi(&self) -> bool {
        false
    }

    /// Whether the ranks of a job share its probes; else the first rank runs it alone, while the rest waits.
    fn shares_probes(&self) -> bool {
        false
    }

    /// Epochs of a trial; 1 if it has none.
    ///
    /// # Errors
    /// If the settings do not say.
    fn epochs(&self, settings: &Settings) -> Result<usize> {
        if settings.is_read("epochs") { Ok(settings.read::<crate::train::Config>()?.epochs) } else { Ok(1) }
    }

    /// Does it.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user stops it, or whatever goes wrong.
    fn run(&self, settings: &Settings, seed: u64, session: &Session) -> Result<Outcome>;

    /// What it is expected to cost.
    ///
    /// # Errors
    /// If the network cannot be built or run.
    fn cost(&self, settings: &Settings, planner: &mut Planner) -> Result<Cost>;
}

/// Requires the learning rate to reach its peak, where the method has one.
fn check_warmup(settings: &Settings, epochs: usize) -> Result<()> {
    if !settings.is_read("warmup-epochs") {
        return Ok(());
    }
    let optimizer::Config { warmup_epochs, .. } = settings.read()?;
    if warmup_epochs > epochs {
        let reason = format!("at most epochs = {epochs}; got {warmup_epochs}");
        return Err(Error::setting("warmup-epochs", reason));
    }
    Ok(())
}

/// Refuses what looks into a network, where the loss is that of more than one.
fn refuse_inside(settings: &Settings) -> Result<()> {
    let method::Config { method } = settings.read()?;
    if method.looks_inside() {
        return Err(method::baseline::nothing_inside());
    }
    if settings.is_read("layer-ratios") {
        let config: sparsity::Config = settings.read()?;
        if config.sparsity > 0.0 && config.layer_ratios.looks_inside() {
            return Err(sparsity::nothing_inside());
        }
    }
    Ok(())
}

impl PartialEq for dyn Task {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// What a trial needs from outside its settings.
pub struct Session<'a> {
    /// Images, for tasks that look at any.
    pub images: Option<&'a Prepared>,
    /// Where data are kept, for tasks that look for some themselves.
    pub location: &'a Location,
    /// Where tensors live.
    pub device: &'a Device,
    /// Bytes that changes in flight may occupy (see [`crate::nn::Propagator`]); results do not depend
    /// on it.
    pub memory: usize,
    /// The processes that share the probes; results do not depend on them. The first keeps checkpoints.
    pub ranks: &'a Ranks,
    /// File for the state after each epoch, and the identity it must have.
    pub checkpoint: Option<(&'a Path, &'a str)>,
    /// Set when the user wants to stop.
    pub interrupt: &'a AtomicBool,
    /// Hears how it goes on.
    pub observer: &'a dyn Observer,
}

impl Session<'_> {
    /// The images.
    fn images(&self) -> Result<&Prepared> {
        self.images.ok_or_else(|| Error::Objective("this task was started without images".to_owned()))
    }

    /// What evaluations may use, counting their queries in `count`.
    fn resources<'s>(&'s self, count: &'s QueryCount) -> Resources<'s> {
        let Self { device, memory, ranks, interrupt, .. } = *self;
        Resources { device, memory, ranks, interrupt, count }
    }

    /// [`Error::Interrupted`] when the user wants to stop.
    fn check_interrupt(&self) -> Result<()> {
        self.ranks.check_interrupt(self.interrupt)
    }
}

/// What a trial led to.
#[derive(Debug)]
pub struct Outcome {
    /// Network parameters (d).
    pub n_params: usize,
    /// One per finished epoch.
    pub rows: Vec<Row>,
    /// Done, or diverged.
    pub status: Status,
    /// Why it did not end well, else empty.
    pub error: String,
    /// What is known place by place, such as of every parameter tensor.
    pub profiles: Vec<Profile>,
    /// The scored mask (d) that was kept for the whole trial, if there was one.
    pub mask: Option<Vec<bool>>,
    /// The network and where training left it, if it trained one.
    pub trained: Option<(Network, State)>,
    /// SHA-256 of data other than images, if it looked at any.
    pub data_checksum: Option<String>,
}

impl Outcome {
    /// Rows measured on a network of `n_params` parameters, and nothing else.
    fn measured(n_params: usize, rows: Vec<Row>) -> Self {
        let (status, error) = (Status::Done, String::new());
        Self {
            n_params,
            rows,
            status,
            error,
            profiles: Vec::new(),
            mask: None,
            trained: None,
            data_checksum: None,
        }
    }
}

/// Epoch (1-based) with the best validation accuracy, the earliest on ties.
#[must_use]
pub fn best_epoch(rows: &[Row]) -> Option<u32> {
    let accuracy = |row: &Row| row.get(&crate::metric::VAL_ACCURACY);
    let measured = rows.iter().filter(|row| !accuracy(row).is_nan());
    measured.reduce(|best, row| if accuracy(row) > accuracy(best) { row } else { best }).map(|row| row.epoch)
}

/// Does what the settings' task says.
///
/// # Errors
/// As [`Task::run`].
pub fn run(settings: &Settings, seed: u64, session: &Session) -> Result<Outcome> {
    let Config { task } = settings.read()?;
    task.run(settings, seed, session)
}

/// Epochs of a trial with these settings; 1 if it has none.
///
/// # Errors
/// As [`Task::epochs`].
pub fn epochs(settings: &Settings) -> Result<usize> {
    let Config { task } = settings.read()?;
    task.epochs(settings)
}

/// What a trial with these settings is expected to cost.
///
/// # Errors
/// As [`Task::cost`].
pub fn cost(settings: &Settings, planner: &mut Planner) -> Result<Cost> {
    let Config { task } = settings.read()?;
    task.cost(settings, planner)
}
