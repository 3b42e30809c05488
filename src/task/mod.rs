//! What one trial does.

mod active;
mod checkpoint;
mod classify;
mod gradient;
mod prepared;
mod quality;
mod stages;
mod workers;

pub use active::{ActiveSets, Resources};
pub use checkpoint::{Checkpoint, Progress};
pub(crate) use classify::population;
pub use classify::{Model, Observer, Quiet, Session, evaluate, train};
pub use prepared::Prepared;
pub(crate) use workers::STEPS as WORKER_STEPS;

use crate::Result;
use crate::experiment::{Settings, Task};

/// Does what the settings' task says.
///
/// # Errors
/// As [`train`].
pub fn run(settings: &Settings, seed: u64, session: &Session) -> Result<Model> {
    match settings.task {
        Task::Train => train(settings, seed, session),
        Task::Stages => stages::measure(settings, seed, session),
        Task::Quality => quality::measure(settings, seed, session),
        Task::Workers => workers::measure(settings, seed, session),
    }
}
