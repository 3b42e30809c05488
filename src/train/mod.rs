//! The one training loop: any method on any problem, with checkpoints.

mod checkpoint;

use std::path::Path;
use std::time::Instant;

pub use checkpoint::{Checkpoint, EpochsDone};

use crate::method::{Method, Step};
use crate::metric::{self, Row};
use crate::problem::{Problem, Resources, State};
use crate::profile::Profile;
use crate::zo::evaluate::HERE;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most epochs of a training.
pub const MAX_EPOCHS: usize = 1_000_000;

crate::section! {
    /// How often, and how many at a time, items are looked at.
    pub struct Config {
        /// Passes over the training images.
        pub epochs: usize = 50 => crate::setting::Domain::Int(1, MAX_EPOCHS as i64),
        /// Images per step; all if there are fewer.
        pub batch_size: usize = 256 => crate::setting::Domain::Int(1, 1_000_000),
    }
}

crate::section! {
    /// How long training is, where queries say it.
    pub struct Budget {
        /// Queries that training may take, for every parameter, in place of epochs; 0 for no such budget.
        pub query_budget: f64 = 0.0 => crate::setting::Domain::From(0.0, 1e9),
    }
}

impl Budget {
    /// Settings that change nothing, as this one is.
    #[must_use]
    pub fn idle(&self) -> Vec<&'static str> {
        if self.query_budget > 0.0 { vec!["epochs"] } else { vec!["query-budget"] }
    }
}

/// Hears how training goes on.
pub trait Observer: Sync {
    /// A step is done: its number in the whole run (1-based), all steps, its loss and the accuracy
    /// over the epoch so far (NaN where there is none).
    fn step(&self, _step: usize, _n_steps: usize, _loss: f64, _accuracy: f64) {}
    /// An epoch is done and measured.
    fn epoch(&self, _row: &Row) {}
    /// Something the user should know.
    fn note(&self, _text: &str) {}
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Observer for Quiet {}

/// One run of training.
pub struct Run<'a> {
    /// Epochs and batch size.
    pub config: Config,
    /// Steps, where they are fewer than those of all epochs: the last epoch is then cut short.
    pub most_steps: Option<usize>,
    /// Seed of everything random.
    pub seed: u64,
    /// What evaluations may use.
    pub resources: Resources<'a>,
    /// File for the state after each epoch, and the identity it must have.
    pub checkpoint: Option<(&'a Path, &'a str)>,
    /// Hears how it goes on.
    pub observer: &'a dyn Observer,
    /// When the run began: what was done since counts as time of the first epoch.
    pub began: Instant,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It ran to the end.
    Done,
    /// Its loss became NaN or infinite.
    Diverged,
    /// It stopped with an error.
    Failed,
}

/// What training led to.
#[derive(Debug)]
pub struct Trained {
    /// Parameters and statistics after the last finished epoch.
    pub state: State,
    /// One per finished epoch.
    pub rows: Vec<Row>,
    /// Done, or diverged.
    pub status: Status,
    /// Why it did not end well, else empty.
    pub error: String,
    /// What is known of the parameter tensors beyond their size.
    pub profiles: Vec<Profile>,
    /// The mask (d) that was kept for the whole run, if there was one.
    pub mask: Option<Vec<bool>>,
}

impl Run<'_> {
    /// Trains by `method`, from the checkpoint if there is one. A loss that becomes NaN or infinite ends training with
    /// [`Status::Diverged`] and what was measured until then.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user stops it (the checkpoint holds the last finished epoch),
    /// or whatever else goes wrong.
    pub fn train(&self, problem: &dyn Problem, method: &mut dyn Method) -> Result<Trained> {
        let mut state = problem.start(self.seed);
        let resumed = match self.checkpoint {
            Some((path, hash)) => Checkpoint::load(path, hash, &mut state, method)?,
            None => None,
        };
        let (mut status, mut error) = (Status::Done, String::new());
        let mut rows = match resumed {
            Some(rows) => {
                let n_epochs = self.config.epochs;
                self.observer.note(&format!("going on after epoch {} of {n_epochs}", rows.len()));
                if let Some(last) = rows.last() {
                    let count = |metric| last.get(metric) as u64;
                    self.resources.count.resume(count(&metric::QUERIES), count(&metric::QUERIES_NON_FINITE));
                }
                rows
            }
            None => {
                let before = state.clone();
                match method.begin(problem, &mut state, &self.resources) {
                    Err(diverged @ Error::Diverged { .. }) => {
                        state = before;
                        (status, error) = (Status::Diverged, diverged.to_string());
                    }
                    begun => begun?,
                }
                Vec::new()
            }
        };
        let setup_s = self.began.elapsed().as_secs_f64();
        let mut doubted = false;
        for epoch in rows.len() + 1..=self.config.epochs {
            if status != Status::Done {
                break;
            }
            if !rows.is_empty() && method.is_done(problem, &state)? {
                break;
            }
            let before = state.clone();
            let before_s = rows.last().map_or(setup_s, |row: &Row| row.get(&metric::WALL_S));
            match self.epoch(epoch, before_s, problem, method, &mut state, &mut doubted) {
                Ok(row) => rows.push(row),
                Err(diverged @ Error::Diverged { .. }) => {
                    // What the last finished epoch left, not what broke.
                    state = before;
                    (status, error) = (Status::Diverged, diverged.to_string());
                    break;
                }
                Err(other) => return Err(other),
            }
            if let Some((path, hash)) = self.checkpoint.filter(|_| self.resources.ranks.is_first()) {
                Checkpoint { state: &state, method, rows: &rows }.save(path, hash, self.config.epochs)?;
            }
            self.observer.epoch(&rows[rows.len() - 1]);
        }
        let profiles = method.profiles(problem.layout(), rows.len().max(1));
        let mask = method.mask(problem.layout());
        Ok(Trained { state, rows, status, error, profiles, mask })
    }

    fn epoch(
        &self,
        epoch: usize,
        before_s: f64,
        problem: &dyn Problem,
        method: &mut dyn Method,
        state: &mut State,
        doubted: &mut bool,
    ) -> Result<Row> {
        let started = Instant::now();
        method.begin_epoch(problem, state, epoch, &self.resources)?;
        let order = problem.order(epoch as u32);
        let per_epoch = order.len().div_ceil(self.config.batch_size);
        let whole = self.config.epochs * per_epoch;
        let n_steps = self.most_steps.map_or(whole, |most| most.min(whole));
        let n_before = (epoch - 1) * per_epoch;
        let (mut total, mut n_correct, mut n_seen) = (0.0, Some(0), 0);
        let accuracy =
            |n_correct: Option<usize>, n_seen| n_correct.map_or(f64::NAN, |n| n as f64 / n_seen as f64);
        for (number, items) in (n_before..n_steps).zip(order.chunks(self.config.batch_size)) {
            self.resources.check_interrupt()?;
            let step = Step { number, per_epoch, n_steps };
            let batch = problem.batch(epoch as u32, items)?;
            let place = |error| match error {
                Error::Diverged { loss, at } => {
                    let detail = if at.is_empty() || at == HERE { String::new() } else { format!(", {at}") };
                    Error::Diverged { loss, at: format!("epoch {epoch}, step {}{detail}", step.number + 1) }
                }
                other => other,
            };
            let pass = method.step(&*batch, state, &step, &self.resources).map_err(place)?;
            if let Some(doubt) = method.doubt().filter(|_| !*doubted) {
                self.observer.note(&format!("epoch {epoch}, step {}: {doubt}", step.number + 1));
                *doubted = true;
            }
            total += pass.loss * batch.n_items() as f64;
            n_correct = n_correct.zip(batch.n_correct(&pass)?).map(|(sum, n)| sum + n);
            n_seen += batch.n_items();
            self.observer.step(step.number + 1, n_steps, pass.loss, accuracy(n_correct, n_seen));
        }
        let mut row = Row::new(epoch as u32);
        problem.measure(state, &mut row).map_err(|error| match error {
            Error::Diverged { loss, .. } => Error::Diverged { loss, at: format!("the end of epoch {epoch}") },
            other => other,
        })?;
        row.set(&metric::TRAIN_LOSS, total / n_seen as f64);
        row.set(&metric::TRAIN_ACCURACY, accuracy(n_correct, n_seen));
        row.set(&metric::QUERIES, self.resources.count.queries() as f64);
        row.set(&metric::QUERIES_NON_FINITE, self.resources.count.non_finite() as f64);
        method.record(&mut row);
        row.set(&metric::WALL_S, before_s + started.elapsed().as_secs_f64());
        Ok(row)
    }
}
