//! Runs the trials of an experiment that have no result yet, one after the other or several at a time.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;

use crate::data::{self, Location, Splits};
use crate::experiment::Trial;
use crate::kernels::Isa;
use crate::lock::Lock;
use crate::nn::difference::DEFAULT_MEMORY;
use crate::problem::Prepared;
use crate::ranks::{self, Ranks};
use crate::results::{Provenance, Store, TrialRecord};
use crate::setting::Settings;
use crate::task::{self, Outcome, Session};
use crate::train::{Observer, Quiet, Status};
use crate::{Error, Result, files, method};

/// Where trials run and what they may use. Several threads may use one, each for a trial of its own.
pub struct Runner<'a> {
    /// Results.
    pub store: &'a Store,
    /// Where to look for images.
    pub location: &'a Location,
    /// Hears of downloads.
    pub downloads: &'a (dyn data::Progress + Sync),
    /// Where tensors live.
    pub device: Device,
    /// `cpu`, or the GPU's name.
    pub device_name: String,
    /// Bytes that changes in flight may occupy (see [`crate::nn::Propagator`]).
    pub memory: usize,
    /// The processes of this job, which share the probes of a trial.
    pub ranks: &'a Ranks,
    /// Set when the user wants to stop.
    pub interrupt: &'a AtomicBool,
    splits: Mutex<HashMap<Wanted, Arc<Splits>>>,
}

/// Which images: a data set, and how many are read for training and for testing.
type Wanted = (&'static str, [usize; 2]);

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

/// On the first rank: has the others take part in a trial from the state in the file `checkpoint`, if it exists.
///
/// # Errors
/// If it cannot be read or the exchange fails.
pub fn lead(ranks: &Ranks, trial: &Trial, checkpoint: &Path) -> Result<()> {
    Order::Run { hash: trial.hash(), checkpoint: read_if_there(checkpoint)? }.send(ranks)
}

/// On the others: the state from which the first rank starts a trial, as the file `trial.state` of a temporary
/// folder, or no file.
///
/// # Errors
/// If the first rank runs another trial, or the exchange or the disk fails.
pub fn follow(ranks: &Ranks, trial: &Trial) -> Result<tempfile::TempDir> {
    let folder =
        tempfile::tempdir().map_err(Error::io("make a temporary folder in", std::env::temp_dir()))?;
    match Order::receive(ranks)? {
        Order::Run { hash, checkpoint } if hash == trial.hash() => {
            place(checkpoint.as_deref(), &folder.path().join(STATE))?;
            Ok(folder)
        }
        _ => Err(foreign(ranks)),
    }
}

/// Name of a checkpoint in a folder of its own.
pub const STATE: &str = "trial.state";

/// Makes `path` a file with this content, or no file.
fn place(content: Option<&[u8]>, path: &Path) -> Result<()> {
    match content {
        Some(content) => std::fs::write(path, content).map_err(Error::io("write", path)),
        None if path.exists() => std::fs::remove_file(path).map_err(Error::io("remove", path)),
        None => Ok(()),
    }
}

fn foreign(ranks: &Ranks) -> Error {
    Error::Ranks(format!(
        "rank {} does not have the trial that rank 0 runs: start all ranks with one command, the same experiment \
         files and the same program",
        ranks.rank()
    ))
}

/// Whether the ranks of a job share a trial; others are run by the first rank alone, while the rest waits.
///
/// # Errors
/// If the trial's settings are not those of a trial.
pub fn is_shared(trial: &Trial) -> Result<bool> {
    let (task::Config { task }, method::Config { method }) = (trial.settings.read()?, trial.settings.read()?);
    Ok(task.shares_probes() && method.has_probes())
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    if !path.exists() {
        return Ok(None);
    }
    files::read_regular(path).map(Some)
}

/// What the first rank tells the others to do next.
#[derive(Debug, PartialEq)]
enum Order {
    /// Take part in the trial with this hash, from this checkpoint or from its beginning.
    Run { hash: String, checkpoint: Option<Vec<u8>> },
    /// There are no more.
    End,
}

impl Order {
    /// A byte that tells the kind, the hash, a zero, the checkpoint.
    fn send(&self, ranks: &Ranks) -> Result<()> {
        let message = match self {
            Self::End => vec![b'.'],
            Self::Run { hash, checkpoint } => {
                let kind = if checkpoint.is_some() { b'+' } else { b'-' };
                [&[kind], hash.as_bytes(), &[0], checkpoint.as_deref().unwrap_or_default()].concat()
            }
        };
        ranks.send(&message)
    }

    fn receive(ranks: &Ranks) -> Result<Self> {
        let message = ranks.receive()?;
        let parts = message.split_first().and_then(|(kind, rest)| {
            let end = rest.iter().position(|&byte| byte == 0)?;
            let hash = std::str::from_utf8(&rest[..end]).ok()?;
            Some((*kind, hash.to_owned(), rest[end + 1..].to_vec()))
        });
        match (message.as_slice(), parts) {
            (b".", _) => Ok(Self::End),
            (_, Some((b'+', hash, state))) => Ok(Self::Run { hash, checkpoint: Some(state) }),
            (_, Some((b'-', hash, _))) => Ok(Self::Run { hash, checkpoint: None }),
            _ => Err(Error::Ranks(
                "rank 0 speaks another language: use the same program everywhere".to_owned(),
            )),
        }
    }
}

impl<'a> Runner<'a> {
    /// A runner on the CPU or on `device`, with the default `memory`.
    #[must_use]
    pub fn new(
        store: &'a Store,
        location: &'a Location,
        downloads: &'a (dyn data::Progress + Sync),
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
            ranks: &ranks::ALONE,
            interrupt,
            splits: Mutex::default(),
        }
    }

    /// Runs one trial from its checkpoint, if there is one, and writes its record; a trial that has
    /// one is not run again unless it failed. A trial that fails is a record with its error, and keeps its checkpoint.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user stops it, [`Error::Io`] when the result or a checkpoint
    /// cannot be written, [`Error::Data`] or [`Error::Download`] when there are no images at all.
    pub fn run(&self, trial: &Trial, observer: &dyn Observer) -> Result<Ended> {
        let checkpoint = checkpoint_path(self.store, trial);
        let Some(_lock) = Lock::acquire(&checkpoint.with_extension("lock"))? else {
            return Ok(Ended::Elsewhere);
        };
        // Another process may have finished it since the caller looked.
        if let Some(record) = self.store.find(trial)?.filter(|record| record.status != Status::Failed) {
            return Ok(Ended::Recorded(Box::new(record)));
        }
        let splits = self.splits(&trial.settings)?;
        let record = match self.lead(trial, splits.as_deref(), &checkpoint, observer) {
            Ok(record) => record,
            // What concerns the disk or the user concerns every trial; that there are too few images
            // for its settings concerns this one alone.
            Err(error @ (Error::Interrupted | Error::Io { .. } | Error::File { .. } | Error::Ranks(_))) => {
                return Err(error);
            }
            Err(error) => self.failed(trial, error.to_string()),
        };
        self.store.write(&record)?;
        // A trial that failed is run again by the same command, and goes on from there.
        if record.status != Status::Failed && checkpoint.exists() {
            std::fs::remove_file(&checkpoint).map_err(Error::io("remove", &checkpoint))?;
        }
        Ok(Ended::Recorded(Box::new(record)))
    }

    fn lead(
        &self,
        trial: &Trial,
        splits: Option<&Splits>,
        checkpoint: &Path,
        observer: &dyn Observer,
    ) -> Result<TrialRecord> {
        let images = prepare(trial, splits)?;
        let ranks = if is_shared(trial)? { self.ranks } else { &ranks::ALONE };
        lead(ranks, trial, checkpoint)?;
        let outcome = self.take_part(trial, images.as_ref(), ranks, checkpoint, observer)?;
        let checksum = outcome
            .data_checksum
            .as_deref()
            .or(images.as_ref().map(|images| &*images.checksum))
            .unwrap_or_default();
        let provenance = self.provenance(checksum);
        let record = TrialRecord {
            trial: trial.clone(),
            n_params: outcome.n_params as u64,
            status: outcome.status,
            best_epoch: task::best_epoch(&outcome.rows),
            error: outcome.error,
            epochs: outcome.rows,
            profiles: outcome.profiles,
            provenance,
        };
        if let Some(mask) = outcome.mask {
            self.store.write_mask(&record, &mask)?;
        }
        Ok(record)
    }

    /// What every rank of a job does for a trial.
    fn take_part(
        &self,
        trial: &Trial,
        images: Option<&Prepared>,
        ranks: &Ranks,
        checkpoint: &Path,
        observer: &dyn Observer,
    ) -> Result<Outcome> {
        let hash = trial.hash();
        ranks.start_trial();
        ranks.agree("images", images.map_or("", |images| &images.checksum))?;
        let session = Session {
            images,
            location: self.location,
            device: &self.device,
            memory: self.memory,
            ranks,
            checkpoint: Some((checkpoint, &hash)),
            interrupt: self.interrupt,
            observer,
        };
        // A bug in one trial must not take the others along; the panic's message goes to stderr.
        let run = AssertUnwindSafe(|| task::run(&trial.settings, trial.seed, &session));
        std::panic::catch_unwind(run)
            .unwrap_or_else(|_| Err(Error::Objective("the trial panicked; see the message above".to_owned())))
    }

    /// On a rank that is not the first: takes part in the trials, of those given, that the first rank runs, until it
    /// has no more. Nothing is written.
    ///
    /// # Errors
    /// If a trial cannot be run here, or the first rank runs one that is not among those given.
    pub fn follow(&self, trials: &[Trial]) -> Result<()> {
        let folder =
            tempfile::tempdir().map_err(Error::io("make a temporary folder in", std::env::temp_dir()))?;
        let checkpoint = folder.path().join(STATE);
        while let Order::Run { hash, checkpoint: state } = Order::receive(self.ranks)? {
            let Some(trial) = trials.iter().find(|trial| trial.hash() == hash) else {
                return Err(foreign(self.ranks));
            };
            place(state.as_deref(), &checkpoint)?;
            let splits = self.splits(&trial.settings)?;
            let images = prepare(trial, splits.as_deref())?;
            self.take_part(trial, images.as_ref(), self.ranks, &checkpoint, &Quiet)?;
        }
        Ok(())
    }

    /// On the first rank: tells the others that there are no more trials.
    ///
    /// # Errors
    /// If the exchange fails.
    pub fn dismiss(&self) -> Result<()> {
        Order::End.send(self.ranks)
    }

    fn failed(&self, trial: &Trial, error: String) -> TrialRecord {
        TrialRecord {
            trial: trial.clone(),
            n_params: 0,
            status: Status::Failed,
            error,
            epochs: Vec::new(),
            best_epoch: None,
            profiles: Vec::new(),
            provenance: self.provenance(""),
        }
    }

    fn provenance(&self, checksum: &str) -> Provenance {
        let threads = u32::try_from(rayon::current_num_threads()).unwrap_or(u32::MAX);
        Provenance::collect(&self.device_name, Isa::current().name(), threads, checksum)
    }

    /// The images that these settings need, loaded once; `None` if they need none.
    ///
    /// # Errors
    /// If there are none.
    pub fn splits(&self, settings: &Settings) -> Result<Option<Arc<Splits>>> {
        let task::Config { task } = settings.read()?;
        if !task.has_images() {
            return Ok(None);
        }
        let config: data::Config = settings.read()?;
        let sizes = config.sizes();
        let key = (config.data.name, sizes);
        // Whoever else needs them waits until they are there.
        let mut loaded = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(splits) = loaded.get(&key) {
            return Ok(Some(splits.clone()));
        }
        let splits = Arc::new(config.data.load(sizes, self.location, self.downloads)?);
        loaded.insert(key, splits.clone());
        Ok(Some(splits))
    }
}

/// Calls `run` for every number below `n`, so many at a time (`parallel`), each on its share of the threads that the
/// calling thread has, and returns what came. After an error no more are begun, and `stop` is set for those that run.
///
/// # Errors
/// The first that is not [`Error::Interrupted`], if there is one, else the first; or that threads cannot be started.
pub fn side_by_side<T: Send, E: Send + From<Error>>(
    n: usize,
    parallel: usize,
    stop: &AtomicBool,
    run: impl Fn(usize) -> Result<T, E> + Sync,
    is_interrupted: impl Fn(&E) -> bool,
) -> Result<Vec<T>, E> {
    let parallel = parallel.clamp(1, n.max(1));
    if parallel == 1 {
        return (0..n).map(run).collect();
    }
    let threads = (rayon::current_num_threads() / parallel).max(1);
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> Result<Vec<T>, E> {
        // As in a program that runs one trial: the thread that trains belongs to the pool.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
        let _pool = pool.map_err(|error| {
            stop_all(&is_over, stop);
            E::from(Error::Device { device: "cpu".to_owned(), reason: format!("start the threads: {error}") })
        })?;
        let mut done = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= n {
                break;
            }
            done.push(run(number).inspect_err(|_| stop_all(&is_over, stop))?);
        }
        Ok(done)
    };
    let ended: Vec<Result<Vec<T>, E>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..parallel).map(|_| scope.spawn(work)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect()
    });
    let (mut all, mut errors) = (Vec::with_capacity(n), Vec::new());
    for ended in ended {
        match ended {
            Ok(done) => all.extend(done),
            Err(error) => errors.push(error),
        }
    }
    // Those that were stopped because of another's error say less than it.
    let position = errors.iter().position(|error| !is_interrupted(error)).unwrap_or(0);
    if errors.is_empty() { Ok(all) } else { Err(errors.swap_remove(position)) }
}

fn stop_all(is_over: &AtomicBool, stop: &AtomicBool) {
    is_over.store(true, Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
}

/// The trial's part of the images, if it needs any.
///
/// # Errors
/// If there are fewer than it asks for.
pub fn prepare(trial: &Trial, splits: Option<&Splits>) -> Result<Option<Prepared>> {
    let prepare = |splits| Prepared::new(&trial.settings.read()?, trial.seed, splits);
    splits.map(prepare).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        n: usize,
        parallel: usize,
        stop: &AtomicBool,
        trial: impl Fn(usize) -> Result<usize> + Sync,
    ) -> Result<Vec<usize>> {
        side_by_side(n, parallel, stop, trial, |error| matches!(error, Error::Interrupted))
    }

    /// By counting: every trial once, with a share of the threads, also where there are more or fewer trials than places.
    #[test]
    fn every_trial_runs_once_on_its_share() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(6).build().unwrap();
        for (n, parallel, threads) in [(7, 2, 3), (2, 50, 3), (9, 4, 1), (5, 1, 6), (0, 3, 6)] {
            let stop = AtomicBool::new(false);
            let ran = pool.install(|| {
                run(n, parallel, &stop, |number| {
                    assert_eq!(rayon::current_num_threads(), threads, "{n} {parallel}");
                    Ok(number)
                })
            });
            let mut ran = ran.unwrap();
            ran.sort_unstable();
            assert_eq!(ran, (0..n).collect::<Vec<_>>());
            assert!(!stop.into_inner());
        }
    }

    /// One fails while the other waits for a sign to stop: the reason is told and not the interruption, and nothing more
    /// is begun.
    #[test]
    fn an_error_stops_the_others_and_is_told() {
        let stop = AtomicBool::new(false);
        let begun = AtomicUsize::new(0);
        let ran = run(100, 2, &stop, |number| {
            begun.fetch_add(1, Ordering::Relaxed);
            if number == 1 {
                return Err(Error::Objective("the disk is full".to_owned()));
            }
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Err(Error::Interrupted)
        });
        assert!(matches!(ran, Err(Error::Objective(reason)) if reason == "the disk is full"));
        assert_eq!(begun.into_inner(), 2);
        let ran = run(3, 2, &AtomicBool::new(false), |_| Err(Error::Interrupted));
        assert!(matches!(ran, Err(Error::Interrupted)));
    }
}
