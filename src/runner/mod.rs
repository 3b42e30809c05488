//! Runs the trials of an experiment that have no result yet, one after the other.

mod lock;
pub mod plan;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::Device;

pub use lock::Lock;

use crate::data::{self, Location, Splits};
use crate::kernels::Isa;
use crate::nn::difference::DEFAULT_MEMORY;
use crate::results::{Provenance, Status, Store, TrialRecord};
use crate::spec::{DataSource, Settings, Trial};
use crate::task::{self, Observer, Prepared, Session};
use crate::{Error, Result};

/// Where trials run and what they may use.
pub struct Runner<'a> {
    /// Results.
    pub store: &'a Store,
    /// Where to look for images.
    pub location: &'a Location,
    /// Hears of downloads.
    pub downloads: &'a dyn data::Progress,
    /// Where tensors live.
    pub device: Device,
    /// `cpu`, or the GPU's name.
    pub device_name: String,
    /// Bytes that changes in flight may occupy (see [`crate::nn::Propagator`]).
    pub memory: usize,
    /// Set when the user wants to stop.
    pub interrupt: &'a AtomicBool,
    splits: HashMap<(DataSource, usize, usize), Arc<Splits>>,
}

/// How a trial ended, or why it did not run.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// It ran to an end, good or bad; its record is written.
    Recorded(Box<TrialRecord>),
    /// Another process is running it.
    Elsewhere,
}

/// Where the state of an unfinished trial is kept.
#[must_use]
pub fn checkpoint_path(store: &Store, trial: &Trial) -> PathBuf {
    store.path(trial).with_extension("state")
}

/// Whether a trial still has to run: it has no record, or failed for a reason that may be gone. A
/// trial that diverged would diverge again.
///
/// # Errors
/// If its record cannot be read.
pub fn is_pending(store: &Store, trial: &Trial) -> Result<bool> {
    Ok(store.find(trial)?.is_none_or(|record| record.status == Status::Failed))
}

impl<'a> Runner<'a> {
    /// A runner on the CPU or on `device`, with the default `memory`.
    #[must_use]
    pub fn new(
        store: &'a Store,
        location: &'a Location,
        downloads: &'a dyn data::Progress,
        device: Device,
        device_name: String,
        interrupt: &'a AtomicBool,
    ) -> Self {
        Self {
            store,
            location,
            downloads,
            device,
            device_name,
            memory: DEFAULT_MEMORY,
            interrupt,
            splits: HashMap::new(),
        }
    }

    /// Runs one trial from its checkpoint, if there is one, and writes its record; a trial that has
    /// one is not run again unless it failed. A trial that fails is a record with its error.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user stops it, [`Error::Io`] when the result or a checkpoint
    /// cannot be written, [`Error::Data`] or [`Error::Download`] when there are no images at all.
    pub fn run(&mut self, trial: &Trial, observer: &dyn Observer) -> Result<Ended> {
        let checkpoint = checkpoint_path(self.store, trial);
        let Some(_lock) = Lock::acquire(&checkpoint.with_extension("lock"))? else {
            return Ok(Ended::Elsewhere);
        };
        // Another process may have finished it since the caller looked.
        if let Some(record) = self.store.find(trial)?.filter(|record| record.status != Status::Failed) {
            return Ok(Ended::Recorded(Box::new(record)));
        }
        let splits = self.splits(&trial.settings)?;
        let record = match self.train(trial, &splits, &checkpoint, observer) {
            Ok(record) => record,
            // What concerns the disk or the user concerns every trial; that there are too few images
            // for its settings concerns this one alone.
            Err(error @ (Error::Interrupted | Error::Io { .. } | Error::File { .. })) => return Err(error),
            Err(error) => self.failed(trial, error.to_string()),
        };
        self.store.write(&record)?;
        if checkpoint.exists() {
            std::fs::remove_file(&checkpoint).map_err(Error::io("remove", &checkpoint))?;
        }
        Ok(Ended::Recorded(Box::new(record)))
    }

    fn train(
        &self,
        trial: &Trial,
        splits: &Splits,
        checkpoint: &Path,
        observer: &dyn Observer,
    ) -> Result<TrialRecord> {
        let prepared = Prepared::new(&trial.settings, trial.seed, splits)?;
        let hash = trial.hash();
        let session = Session {
            data: &prepared,
            device: &self.device,
            memory: self.memory,
            checkpoint: Some((checkpoint, &hash)),
            interrupt: self.interrupt,
            observer,
        };
        // A bug in one trial must not take the others along; the panic's message goes to stderr.
        let run = AssertUnwindSafe(|| task::run(&trial.settings, trial.seed, &session));
        let model = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            Err(Error::Objective("the trial panicked; see the message above".to_owned()))
        })?;
        let record = TrialRecord {
            trial: trial.clone(),
            n_params: model.params.len() as u64,
            status: model.status,
            best_epoch: model.best_epoch(),
            error: model.error,
            epochs: model.epochs,
            tensors: model.tensors,
            provenance: self.provenance(&prepared.checksum),
        };
        if let Some(mask) = model.mask {
            self.store.write_mask(&record, &mask)?;
        }
        Ok(record)
    }

    fn failed(&self, trial: &Trial, error: String) -> TrialRecord {
        TrialRecord {
            trial: trial.clone(),
            n_params: 0,
            status: Status::Failed,
            error,
            epochs: Vec::new(),
            best_epoch: None,
            tensors: Vec::new(),
            provenance: self.provenance(""),
        }
    }

    fn provenance(&self, checksum: &str) -> Provenance {
        let threads = u32::try_from(rayon::current_num_threads()).unwrap_or(u32::MAX);
        Provenance::collect(&self.device_name, Isa::current().name(), threads, checksum)
    }

    /// The images that these settings need, loaded once.
    ///
    /// # Errors
    /// If there are none.
    pub fn splits(&mut self, settings: &Settings) -> Result<Arc<Splits>> {
        let (n_train, n_test) = match settings.data {
            DataSource::Synthetic => {
                let or_all = |n, all| if n == 0 { all } else { n };
                (
                    or_all(settings.n_train, data::SYNTHETIC_TRAIN) + settings.n_val,
                    or_all(settings.n_test, data::SYNTHETIC_TEST),
                )
            }
            DataSource::Cifar10 => (0, 0),
        };
        let key = (settings.data, n_train, n_test);
        if let Some(splits) = self.splits.get(&key) {
            return Ok(splits.clone());
        }
        let splits = Arc::new(match settings.data {
            DataSource::Synthetic => data::synthetic(n_train, n_test),
            source @ DataSource::Cifar10 => data::load(source, self.location, self.downloads)?,
        });
        self.splits.insert(key, splits.clone());
        Ok(splits)
    }
}
