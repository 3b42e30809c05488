//! The processes (*ranks*) of one job, which share the probes of every estimate.
//!
//! All ranks hold the same parameters and run the same training. Each evaluates a part of the probes; one exchange
//! per estimate gives everyone all loss differences, from which everyone computes the same step. What a probe gives
//! does not depend on who evaluates it, so that results are the same bits for any number of ranks. Rank 0 alone
//! reads and writes results and checkpoints, and speaks.

pub mod launcher;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(test)]
pub(crate) mod threads;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// How ranks talk to each other.
pub trait Exchange: Send + Sync + std::fmt::Debug {
    /// Number of this rank, from 0.
    fn rank(&self) -> usize;

    /// Ranks of the job.
    fn size(&self) -> usize;

    /// The numbers of all ranks, one rank after the other; rank r gives `counts[r]` of them.
    ///
    /// # Errors
    /// If the exchange fails.
    fn all_gather(&self, own: &[f64], counts: &[usize]) -> Result<Vec<f64>>;

    /// Sends a message from rank 0 to all others.
    ///
    /// # Errors
    /// If the exchange fails.
    fn send(&self, message: &[u8]) -> Result<()>;

    /// The next message of rank 0; waits without using the processor.
    ///
    /// # Errors
    /// If the exchange fails.
    fn receive(&self) -> Result<Vec<u8>>;

    /// Ends all processes of the job at once.
    fn abort(&self, code: i32) -> !;
}

/// What went over the wire so far, and what it cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Traffic {
    /// Exchanges.
    pub exchanges: u64,
    /// Bytes that this rank received from others.
    pub bytes: u64,
    /// Seconds in exchanges, waiting for slower ranks included.
    pub seconds: f64,
}

/// The ranks of this job; a process on its own is the only one.
#[derive(Debug)]
pub struct Ranks {
    exchange: Option<Box<dyn Exchange>>,
    /// All ranks know that the job is to stop.
    is_stopping: AtomicBool,
    /// What probes are timed with.
    clock: fn() -> Instant,
    state: Mutex<State>,
}

/// The MPI library that the program is built with, as it calls itself; none without one.
#[must_use]
pub fn library() -> Option<String> {
    #[cfg(feature = "mpi")]
    return ::mpi::environment::library_version().ok().map(|text| {
        // Open MPI's goes on with its package and its date.
        text.split(',').next().unwrap_or_default().trim().to_owned()
    });
    #[cfg(not(feature = "mpi"))]
    None
}

/// What ranks learn about costs; the same on all of them.
#[derive(Debug, Default)]
struct State {
    /// By group of probes: seconds measured, and probes that took them.
    costs: BTreeMap<usize, (f64, f64)>,
    /// How fast each rank is, relative to the costs; empty before anything is known.
    speeds: Vec<f64>,
    /// Estimates since costs were last measured.
    since_measured: u32,
    traffic: Traffic,
}

/// Estimates between measurements of what probes cost.
const MEASURE_EVERY: u32 = 64;

/// A process on its own.
pub static ALONE: Ranks = Ranks::alone();

impl Default for Ranks {
    fn default() -> Self {
        Self::alone()
    }
}

impl Ranks {
    /// One process on its own.
    #[must_use]
    pub const fn alone() -> Self {
        let traffic = Traffic { exchanges: 0, bytes: 0, seconds: 0.0 };
        let state = State { costs: BTreeMap::new(), speeds: Vec::new(), since_measured: 0, traffic };
        let (is_stopping, clock) = (AtomicBool::new(false), Instant::now as fn() -> Instant);
        Self { exchange: None, is_stopping, clock, state: Mutex::new(state) }
    }

    /// The ranks that `exchange` connects; a job of one is a process on its own.
    #[must_use]
    pub fn new(exchange: Box<dyn Exchange>) -> Self {
        let exchange = (exchange.size() > 1).then_some(exchange);
        Self { exchange, ..Self::alone() }
    }

    /// The ranks of the MPI job that started this process, if one did and the program is built for it.
    ///
    /// # Errors
    /// If the program was started by `mpirun` but is built without MPI, or MPI cannot be started.
    pub fn of_job() -> Result<Self> {
        if launcher::job_size(|name| std::env::var(name).ok()) < 2 {
            return Ok(Self::alone());
        }
        #[cfg(feature = "mpi")]
        return Ok(Self::new(Box::new(mpi::Mpi::start()?)));
        #[cfg(not(feature = "mpi"))]
        Err(Error::Ranks(
            "started as part of an MPI job, but built without MPI; build with `--features mpi`".to_owned(),
        ))
    }

    /// Number of this rank, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.exchange.as_ref().map_or(0, |exchange| exchange.rank())
    }

    /// Ranks of the job.
    #[must_use]
    pub fn size(&self) -> usize {
        self.exchange.as_ref().map_or(1, |exchange| exchange.size())
    }

    /// Whether this rank reads, writes and speaks.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are no others.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.exchange.is_none()
    }

    /// What went over the wire so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    /// Forgets what probes cost: another network follows.
    pub fn start_trial(&self) {
        let mut state = self.state();
        *state = State { traffic: state.traffic, ..State::default() };
    }

    /// Whether the user wants to stop: `interrupt` on a process of its own, else what the last exchange told
    /// everyone, so that all stop at the same step.
    #[must_use]
    pub fn is_stopping(&self, interrupt: &AtomicBool) -> bool {
        if self.is_alone() {
            interrupt.load(Ordering::Relaxed)
        } else {
            self.is_stopping.load(Ordering::Relaxed)
        }
    }

    /// [`Error::Interrupted`] when [`Ranks::is_stopping`].
    ///
    /// # Errors
    /// That one.
    pub fn check_interrupt(&self, interrupt: &AtomicBool) -> Result<()> {
        if self.is_stopping(interrupt) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Ends all processes of the job with an exit code; returns if there are no others.
    pub fn abort(&self, code: u8) {
        if let Some(exchange) = &self.exchange {
            exchange.abort(i32::from(code));
        }
    }

    /// Sends a message from rank 0 to all others.
    ///
    /// # Errors
    /// If the exchange fails.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        self.exchange.as_ref().map_or(Ok(()), |exchange| exchange.send(message))
    }

    /// The next message of rank 0.
    ///
    /// # Errors
    /// If the exchange fails, or there are no others.
    pub fn receive(&self) -> Result<Vec<u8>> {
        match &self.exchange {
            Some(exchange) => exchange.receive(),
            None => Err(Error::Ranks("no other process to hear from".to_owned())),
        }
    }

    /// As many numbers from every rank as this one gives, one rank after the other; nothing is counted.
    ///
    /// # Errors
    /// If the exchange fails.
    pub fn all_gather(&self, own: &[f64]) -> Result<Vec<f64>> {
        match &self.exchange {
            Some(exchange) => exchange.all_gather(own, &vec![own.len(); self.size()]),
            None => Ok(own.to_vec()),
        }
    }

    /// Checks that all ranks have the same `text`, which is called `what` in errors.
    ///
    /// # Errors
    /// [`Error::Ranks`] on every rank if one has another.
    pub fn agree(&self, what: &str, text: &str) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let digest = Sha256::digest(text.as_bytes());
        // Three bytes fit a number exactly.
        let own: Vec<f64> =
            digest.chunks(3).map(|part| part.iter().fold(0.0, |n, &b| 256.0 * n + f64::from(b))).collect();
        let all = self.all_gather(&own)?;
        let differs = |of: &[f64]| of.iter().zip(&all).any(|(a, b)| a.to_bits() != b.to_bits());
        match all.chunks(own.len()).position(differs) {
            None => Ok(()),
            Some(rank) => Err(Error::Ranks(format!(
                "rank {rank} has another {what} than rank 0; here (rank {}) it is {text}",
                self.rank()
            ))),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Results of probes in `groups`, each of which holds probes that cost about the same: `evaluate` gives those of
    /// some positions, and is called for the positions of this rank only. `interrupt` says that the user wants to
    /// stop.
    ///
    /// # Errors
    /// If a rank's evaluation or the exchange fails, on all ranks.
    pub fn share(
        &self,
        groups: &[usize],
        interrupt: &AtomicBool,
        mut evaluate: impl FnMut(&[usize]) -> Result<Vec<f64>>,
    ) -> Result<Shared> {
        let Some(exchange) = &self.exchange else {
            let positions: Vec<usize> = (0..groups.len()).collect();
            return Ok(Shared { results: evaluate(&positions)?, own: 0..groups.len(), order: positions });
        };
        // Probes of one group lie together.
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by_key(|&position| groups[position]);
        let (plan, measures) = {
            let state = self.state();
            let measures = state.since_measured == 0 || state.since_measured >= MEASURE_EVERY;
            (plan(&order, groups, &state.costs, &state.speeds, self.size()), measures)
        };
        let own = plan[self.rank()].clone();
        let seconds_since = |start: Instant| (self.clock)().duration_since(start).as_secs_f64();
        let started = (self.clock)();
        // Seconds per group, where they are measured; else all at once, which wastes no thread.
        let parts: Vec<&[usize]> = if measures {
            order[own.clone()].chunk_by(|&a, &b| groups[a] == groups[b]).collect()
        } else {
            Vec::from([&order[own.clone()]])
        };
        let mut seconds = Vec::new();
        let mut results = Vec::with_capacity(own.len());
        let mut failure = None;
        for part in parts {
            let started = (self.clock)();
            match evaluate(part) {
                Ok(found) => results.extend(found),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
            if measures {
                seconds.push(seconds_since(started));
            }
        }
        let elapsed = seconds_since(started);
        let n_groups = |range: &Range<usize>| {
            if measures { order[range.clone()].chunk_by(|&a, &b| groups[a] == groups[b]).count() } else { 0 }
        };
        // Flag, seconds of all, seconds per group, results.
        let counts: Vec<usize> = plan.iter().map(|range| HEADER + n_groups(range) + range.len()).collect();
        let flag = match &failure {
            Some(_) => FAILED,
            None if interrupt.load(Ordering::Relaxed) => STOPPING,
            None => FINE,
        };
        let mut message = vec![flag, elapsed];
        message.extend(seconds);
        message.extend(results);
        message.resize(counts[self.rank()], f64::NAN);
        let started = Instant::now();
        let all = exchange.all_gather(&message, &counts)?;
        let waited = started.elapsed().as_secs_f64();
        let received = 8 * (all.len() - message.len()) as u64;
        self.digest(&all, &counts, &plan, &order, groups, measures, received, waited);
        if let Some(error) = failure {
            return Err(error);
        }
        let mut first = 0;
        let mut results = vec![f64::NAN; groups.len()];
        for (rank, (range, count)) in plan.iter().zip(&counts).enumerate() {
            let part = &all[first..first + count];
            if part[0].to_bits() == FAILED.to_bits() {
                return Err(Error::Ranks(format!(
                    "rank {rank} could not evaluate its probes; see its message"
                )));
            }
            for (&position, &result) in order[range.clone()].iter().zip(&part[count - range.len()..]) {
                results[position] = result;
            }
            first += count;
        }
        Ok(Shared { results, own, order })
    }

    /// Learns from an exchange, alike on every rank.
    #[expect(clippy::too_many_arguments, reason = "the parts of one exchange")]
    fn digest(
        &self,
        all: &[f64],
        counts: &[usize],
        plan: &[Range<usize>],
        order: &[usize],
        groups: &[usize],
        measures: bool,
        received: u64,
        waited: f64,
    ) {
        let mut state = self.state();
        state.traffic.exchanges += 1;
        state.traffic.bytes += received;
        state.traffic.seconds += waited;
        state.since_measured = if measures { 1 } else { state.since_measured + 1 };
        let starts = counts.iter().scan(0, |first, count| Some(std::mem::replace(first, *first + count)));
        if starts.into_iter().any(|first| all[first].to_bits() == FAILED.to_bits()) {
            return;
        }
        let mut first = 0;
        let mut predicted = Vec::new();
        for (range, count) in plan.iter().zip(counts) {
            let part = &all[first..first + count];
            first += count;
            if part[0].to_bits() == STOPPING.to_bits() {
                self.is_stopping.store(true, Ordering::Relaxed);
            }
            if measures {
                let same = order[range.clone()].chunk_by(|&a, &b| groups[a] == groups[b]);
                for (same, &seconds) in same.zip(&part[HEADER..]) {
                    let cost = state.costs.entry(groups[same[0]]).or_default();
                    if seconds.is_finite() {
                        // Half of what was known before: machines change.
                        *cost = (0.5 * cost.0 + seconds, 0.5 * cost.1 + same.len() as f64);
                    }
                }
            }
            predicted.push((range.clone(), part[1]));
        }
        let cost = |range: Range<usize>| -> f64 {
            order[range].iter().map(|&position| per_probe(&state.costs, groups[position])).sum()
        };
        let speeds: Vec<f64> = predicted
            .into_iter()
            .map(|(range, seconds)| if range.is_empty() { 1.0 } else { cost(range) / seconds.max(1e-9) })
            .collect();
        let mean = speeds.iter().sum::<f64>() / speeds.len() as f64;
        let old = std::mem::take(&mut state.speeds);
        let blend = |(rank, speed): (usize, f64)| {
            let speed = (speed / mean).clamp(0.1, 10.0);
            f64::midpoint(old.get(rank).copied().unwrap_or(1.0), speed)
        };
        state.speeds = if mean.is_finite() && mean > 0.0 {
            speeds.into_iter().enumerate().map(blend).collect()
        } else {
            old
        };
    }
}

/// Flag and seconds.
const HEADER: usize = 2;
const FINE: f64 = 0.0;
const STOPPING: f64 = 1.0;
const FAILED: f64 = 2.0;

/// Results of shared probes.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared {
    /// Of all probes, in the order asked.
    pub results: Vec<f64>,
    /// Part of `order` that this rank evaluated.
    own: Range<usize>,
    order: Vec<usize>,
}

impl Shared {
    /// Results that other ranks evaluated.
    pub fn foreign(&self) -> impl Iterator<Item = f64> {
        let is_own = |place: &usize| self.own.contains(place);
        (0..self.order.len()).filter(move |place| !is_own(place)).map(|place| self.results[self.order[place]])
    }
}

/// Seconds of a probe of a group; where nothing is known, all groups cost the same.
fn per_probe(costs: &BTreeMap<usize, (f64, f64)>, group: usize) -> f64 {
    match costs.get(&group) {
        Some(&(seconds, probes)) if probes > 0.0 => seconds / probes,
        _ => {
            let known = costs.values().filter(|(_, probes)| *probes > 0.0);
            let (n, sum) =
                known.fold((0.0, 0.0), |(n, sum), (seconds, probes)| (n + 1.0, sum + seconds / probes));
            if n > 0.0 { sum / n } else { 1.0 }
        }
    }
}

/// Which part of `order` each rank evaluates: consecutive parts of cost proportional to the ranks' speeds.
fn plan(
    order: &[usize],
    groups: &[usize],
    costs: &BTreeMap<usize, (f64, f64)>,
    speeds: &[f64],
    size: usize,
) -> Vec<Range<usize>> {
    let mut total = 0.0;
    let cumulated: Vec<f64> = order
        .iter()
        .map(|&position| {
            total += per_probe(costs, groups[position]);
            total
        })
        .collect();
    let speed = |rank: usize| speeds.get(rank).copied().unwrap_or(1.0);
    let all: f64 = (0..size).map(speed).sum();
    let mut ends = 0.0;
    let mut start = 0;
    (0..size)
        .map(|rank| {
            ends += speed(rank);
            let end = if rank + 1 == size {
                order.len()
            } else {
                // The probe on the border goes where its middle lies.
                let border = total * ends / all;
                cumulated
                    .iter()
                    .zip(order)
                    .take_while(|&(&sum, &position)| sum - 0.5 * per_probe(costs, groups[position]) <= border)
                    .count()
            };
            let range = start..end.max(start);
            start = range.end;
            range
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::LazyLock;
    use std::time::Duration;

    use super::*;

    /// Oracle: by hand. Costs 1, 1, 1, 1, 4, 4 make 12: halves are 4 + 1 probes of the cheap group against one dear.
    #[test]
    fn plans_balance_costs_and_speeds() {
        let groups = [0, 0, 1, 0, 1, 0];
        let mut order: Vec<usize> = (0..6).collect();
        order.sort_by_key(|&position| groups[position]);
        let costs = BTreeMap::from([(0, (2.0, 2.0)), (1, (8.0, 2.0))]);
        assert_eq!(plan(&order, &groups, &costs, &[], 2), [0..5, 5..6]);
        assert_eq!(plan(&order, &groups, &BTreeMap::new(), &[], 3), [0..2, 2..4, 4..6]);
        assert_eq!(plan(&order, &groups, &BTreeMap::new(), &[2.0, 1.0], 2), [0..4, 4..6]);
        assert_eq!(plan(&[], &[], &costs, &[], 2), [0..0, 0..0]);
        assert_eq!(plan(&[0], &[7], &costs, &[], 3).iter().map(Range::len).sum::<usize>(), 1);
    }

    thread_local! {
        /// How far the made-up clock of this rank is.
        static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// A clock that moves when a rank says so, however busy the machine is.
    fn made_up_clock() -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + ELAPSED.get()
    }

    /// Oracle: the sequence itself. However work is shared, every probe is evaluated by one rank, and all know
    /// everything; ranks learn that rank 1 is slow.
    #[test]
    fn every_rank_knows_all_results() {
        let groups: Vec<usize> = (0..200).map(|position| position % 3).collect();
        let found = threads::run(3, |exchange| {
            let ranks = Ranks { clock: made_up_clock, ..Ranks::new(Box::new(exchange)) };
            let interrupt = AtomicBool::new(false);
            let mut counts = Vec::new();
            for _ in 0..6 {
                let mut n_own = 0;
                let shared = ranks.share(&groups, &interrupt, |positions| {
                    n_own += positions.len();
                    let slow = if ranks.rank() == 1 { 4 } else { 1 };
                    let took = Duration::from_micros(20 * slow * positions.len() as u64);
                    ELAPSED.set(ELAPSED.get() + took);
                    Ok(positions.iter().map(|&position| position as f64).collect())
                });
                let shared = shared.unwrap();
                assert_eq!(shared.results, (0..200).map(f64::from).collect::<Vec<_>>());
                assert_eq!(shared.foreign().count(), 200 - n_own);
                counts.push(n_own);
            }
            (counts, ranks.traffic().exchanges)
        });
        for round in 0..6 {
            assert_eq!(found.iter().map(|(counts, _)| counts[round]).sum::<usize>(), 200);
        }
        assert!(found[1].0[5] < found[0].0[5] && found[1].0[5] < found[2].0[5], "{found:?}");
        assert!(found.iter().all(|(_, exchanges)| *exchanges == 6));
    }

    /// A failure or an interruption of one rank reaches all of them in the same step.
    #[test]
    fn failures_and_interruptions_are_shared() {
        let found = threads::run(2, |exchange| {
            let ranks = Ranks::new(Box::new(exchange));
            let interrupt = AtomicBool::new(false);
            let step = |fails: bool| {
                ranks.share(&[0, 0, 0, 0], &interrupt, |positions| {
                    if fails && ranks.rank() == 1 {
                        return Err(Error::Objective("out of luck".to_owned()));
                    }
                    Ok(vec![0.0; positions.len()])
                })
            };
            assert!(step(false).is_ok() && !ranks.is_stopping(&interrupt));
            let message = step(true).unwrap_err().to_string();
            let own = ranks.rank() == 1;
            assert!(
                message.contains(if own { "out of luck" } else { "rank 1 could not evaluate" }),
                "{message}"
            );
            interrupt.store(ranks.rank() == 0, Ordering::Relaxed);
            assert!(step(false).is_ok() && ranks.is_stopping(&interrupt));
            ranks.agree("number", "42").unwrap();
            ranks.agree("number", &ranks.rank().to_string()).unwrap_err().to_string()
        });
        assert!(found[0].contains("rank 1 has another number than rank 0"), "{found:?}");
    }
}
