//! Points to workers, values to the run, until its budget is spent.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::worker::{Command, Worker};
use super::{Asked, Run, Stopped};
use crate::{Error, Result};

/// What becomes of an evaluation that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is left out.
    Skip,
    /// It is tried again so many times before it is left out.
    Retry(u32),
    /// The run ends; going on evaluates it again.
    Abort,
}

/// How points are evaluated.
#[derive(Debug, Clone)]
pub struct Options {
    /// Evaluations of the whole run.
    pub budget: u64,
    /// Workers at a time.
    pub workers: usize,
    /// Points of a message; by default as many as workers say, or one.
    pub batch: Option<usize>,
    /// What becomes of an evaluation that fails.
    pub on_failure: OnFailure,
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Its budget is spent.
    Budget,
    /// The method has nothing more to ask.
    Stopped(Stopped),
    /// The user stopped it.
    Interrupted,
}

/// Hears how a run goes on.
pub trait Observer {
    /// Values have come.
    fn told(&self, _run: &Run) {}
    /// An evaluation failed.
    fn failed(&self, _id: u64, _reason: &str) {}
}

/// What a worker reports.
enum Report {
    Ready(Result<Option<usize>>),
    Done { asked: Vec<Asked>, values: Result<Vec<std::result::Result<f64, String>>>, seconds: f64 },
}

/// How often the interrupt is looked at, and files are brought to the disk.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Evaluates by `command` until the run has as many evaluations as its budget, or has come to its end.
///
/// # Errors
/// If a worker cannot be started, a file cannot be written, or an evaluation fails and nothing may: what has come until
/// then is in the log.
pub fn run(
    run: &mut Run,
    command: &Command,
    options: &Options,
    interrupt: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Ended> {
    if let Some(stopped) = run.minimizer().stopped() {
        return Ok(Ended::Stopped(stopped.clone()));
    }
    if run.minimizer().n_evaluations() >= options.budget {
        return Ok(Ended::Budget);
    }
    let abandoned = AtomicBool::new(false);
    let (sender, reports) = channel();
    std::thread::scope(|scope| {
        let mut pool = Pool {
            run,
            options,
            observer,
            jobs: Vec::new(),
            idle: Vec::new(),
            again: VecDeque::new(),
            attempts: HashMap::new(),
            n_out: 0,
            n_starting: options.workers,
            batch: options.batch.unwrap_or(1),
        };
        for idx in 0..options.workers {
            let (jobs, queue) = channel();
            pool.jobs.push(jobs);
            let (sender, abandoned) = (sender.clone(), &abandoned);
            scope.spawn(move || work(Worker::new(idx, command, abandoned), idx, &queue, &sender));
        }
        drop(sender);
        let ended = pool.work(&reports, interrupt);
        if ended.is_err() || pool.n_starting > 0 {
            abandoned.store(true, Ordering::Relaxed);
        }
        // Without jobs to come, workers stop their processes and end.
        pool.jobs.clear();
        let synced = pool.run.sync();
        // The first error is the cause.
        let ended = ended?;
        synced?;
        Ok(ended)
    })
}

/// One worker's thread.
fn work(mut worker: Worker, idx: usize, jobs: &Receiver<Vec<Asked>>, reports: &Sender<(usize, Report)>) {
    let ready = worker.start();
    let is_ready = ready.is_ok();
    if reports.send((idx, Report::Ready(ready))).is_err() || !is_ready {
        return;
    }
    for asked in jobs {
        let started = Instant::now();
        let values = worker.evaluate(&asked);
        let seconds = started.elapsed().as_secs_f64() / asked.len() as f64;
        if reports.send((idx, Report::Done { asked, values, seconds })).is_err() {
            break;
        }
    }
    worker.stop();
}

struct Pool<'a> {
    run: &'a mut Run,
    options: &'a Options,
    observer: &'a dyn Observer,
    jobs: Vec<Sender<Vec<Asked>>>,
    idle: Vec<usize>,
    /// Evaluations that failed and are tried again.
    again: VecDeque<Asked>,
    attempts: HashMap<u64, u32>,
    /// Evaluations that are with workers.
    n_out: u64,
    /// Workers that are not ready yet.
    n_starting: usize,
    batch: usize,
}

impl Pool<'_> {
    fn work(&mut self, reports: &Receiver<(usize, Report)>, interrupt: &AtomicBool) -> Result<Ended> {
        let mut least_batch = usize::MAX;
        let mut synced = Instant::now();
        // The first error; what is with workers is still waited for where that makes sense.
        let mut aborted: Option<Error> = None;
        loop {
            let is_stopping = interrupt.load(Ordering::Relaxed) || aborted.is_some();
            if self.n_starting == 0 && !is_stopping {
                self.hand_out()?;
            }
            if self.n_out == 0 && (self.n_starting == 0 || is_stopping) {
                if let Some(error) = aborted {
                    return Err(error);
                }
                let minimizer = self.run.minimizer();
                if let Some(stopped) = minimizer.stopped() {
                    return Ok(Ended::Stopped(stopped.clone()));
                }
                if minimizer.n_evaluations() >= self.options.budget {
                    return Ok(Ended::Budget);
                }
                if is_stopping {
                    return Ok(Ended::Interrupted);
                }
            }
            if synced.elapsed() > SYNC_EVERY {
                self.run.sync()?;
                synced = Instant::now();
            }
            match reports.recv_timeout(LOOK_EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Command("all workers have ended".to_owned()));
                }
                Ok((worker, Report::Ready(ready))) => {
                    self.n_starting -= 1;
                    least_batch = least_batch.min(ready?.unwrap_or(usize::MAX));
                    self.idle.push(worker);
                    if self.n_starting == 0 && self.options.batch.is_none() && least_batch < usize::MAX {
                        self.batch = least_batch;
                    }
                    // The order in which workers become ready is nobody's business.
                    self.idle.sort_unstable_by(|a, b| b.cmp(a));
                }
                Ok((worker, Report::Done { asked, values, seconds })) => {
                    self.idle.push(worker);
                    self.n_out -= asked.len() as u64;
                    if let Some(error) = self.tell(asked, values?, seconds)? {
                        aborted.get_or_insert(error);
                    }
                    self.observer.told(self.run);
                }
            }
        }
    }

    /// Gives idle workers what there is to do.
    fn hand_out(&mut self) -> Result<()> {
        while let Some(&worker) = self.idle.last() {
            let asked = match self.again.pop_front() {
                Some(asked) => vec![asked],
                None => {
                    let begun = self.run.minimizer().n_evaluations() + self.n_out + self.again.len() as u64;
                    let left =
                        usize::try_from(self.options.budget.saturating_sub(begun)).unwrap_or(usize::MAX);
                    // The points of a step are shared evenly.
                    let share = self.run.n_ready()?.div_ceil(self.idle.len()).max(1);
                    self.run.ask(self.batch.min(left).min(share))?
                }
            };
            if asked.is_empty() {
                return Ok(());
            }
            self.idle.pop();
            self.n_out += asked.len() as u64;
            if self.jobs[worker].send(asked).is_err() {
                return Err(Error::Command(format!("worker {worker}: it has ended")));
            }
        }
        Ok(())
    }

    /// Tells values; the error that ends the run, if one may not fail.
    fn tell(
        &mut self,
        asked: Vec<Asked>,
        values: Vec<std::result::Result<f64, String>>,
        seconds: f64,
    ) -> Result<Option<Error>> {
        let mut aborted = None;
        for (asked, value) in asked.into_iter().zip(values) {
            let value =
                value.and_then(|f| if f.is_finite() { Ok(f) } else { Err(format!("the value is {f}")) });
            if let Err(reason) = &value {
                self.observer.failed(asked.id, reason);
                let attempts = self.attempts.entry(asked.id).or_default();
                *attempts += 1;
                match self.options.on_failure {
                    OnFailure::Retry(n) if *attempts <= n => {
                        self.again.push_back(asked);
                        continue;
                    }
                    OnFailure::Abort => {
                        let reason = format!("evaluation {} failed: {reason}", asked.id);
                        aborted.get_or_insert(Error::Command(reason));
                        continue;
                    }
                    OnFailure::Skip | OnFailure::Retry(_) => {}
                }
            }
            self.attempts.remove(&asked.id);
            self.run.tell(&asked, value, Some(seconds))?;
        }
        Ok(aborted)
    }
}
