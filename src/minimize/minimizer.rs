//! Ask and tell: points to evaluate, values in any order.

use std::ops::Range;
use std::sync::Arc;

use super::settings;
use super::{Bounds, Moved, Mover, Wanted, mover};
use crate::saved::{Saved, integer};
use crate::setting::Settings;
use crate::zo::Probe;
use crate::{Error, Result};

/// The most coordinates.
const MAX_COORDS: usize = 1 << 28;
/// The most evaluations of a run: all numbers up to here are exact in f64.
const MAX_EVALUATIONS: u64 = 1 << 53;
/// Steps in a row that may come to nothing because the function fails.
const MAX_STUCK: u32 = 10;

/// All that a minimization depends on beside the function.
#[derive(Debug, Clone)]
pub struct Start {
    /// The starting point (d).
    pub x0: Vec<f64>,
    /// A box that points stay in.
    pub bounds: Option<Bounds>,
    /// Of a black box, see [`settings`].
    pub settings: Settings,
    /// Seed of everything random.
    pub seed: u64,
}

impl Start {
    /// Checks what can be checked before anything is evaluated.
    ///
    /// # Errors
    /// [`Error::Setting`] naming what is wrong.
    fn check(&self) -> Result<()> {
        let wrong = |reason: String| Err(Error::setting("x0", reason));
        if self.x0.is_empty() || self.x0.len() > MAX_COORDS {
            return wrong(format!("expected 1 to {MAX_COORDS} coordinates; got {}", self.x0.len()));
        }
        if let Some(coord) = self.x0.iter().position(|x| !x.is_finite()) {
            return wrong(format!("coordinate {coord} is {}; expected finite numbers", self.x0[coord]));
        }
        let Some(bounds) = &self.bounds else { return Ok(()) };
        if bounds.lower().len() != self.x0.len() {
            let reason = format!("{} bounds for {} coordinates", bounds.lower().len(), self.x0.len());
            return Err(Error::setting("bounds", reason));
        }
        if let Some(coord) = bounds.violated(&self.x0) {
            return wrong(format!(
                "coordinate {coord} is {}, outside of its bounds {} and {}",
                self.x0[coord],
                bounds.lower()[coord],
                bounds.upper()[coord]
            ));
        }
        Ok(())
    }
}

/// A point to evaluate.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Number of the evaluation, from 0: what its value is told under.
    pub id: u64,
    /// Which randomness it shares: points of one sample are compared with each other.
    pub sample: u64,
    /// The point around which is probed (d).
    pub center: Arc<Vec<f64>>,
    /// Where from the center the point is; the center itself if there is none.
    pub probe: Option<Probe>,
    bounds: Option<Bounds>,
}

impl Asked {
    /// The point (d).
    #[must_use]
    pub fn point(&self) -> Vec<f64> {
        let mut point = vec![0.0; self.center.len()];
        self.write(&mut point);
        point
    }

    /// Point minus center at the coordinates of `range`, without the point.
    ///
    /// # Panics
    /// If the range ends beyond d.
    #[must_use]
    pub fn delta(&self, range: Range<usize>) -> Vec<f64> {
        let mut delta = match &self.probe {
            None => vec![0.0; range.len()],
            Some(Probe::Coordinate { coord, shift }) => {
                let at = |of: usize| if of == *coord { *shift } else { 0.0 };
                range.clone().map(at).collect()
            }
            Some(Probe::Direction { source, idx, shift }) => {
                // All coordinates are active: positions are coordinates.
                let mut values = source.values_in(*idx, range.clone());
                values.iter_mut().for_each(|value| *value *= shift);
                values
            }
        };
        if let Some(bounds) = &self.bounds {
            for (delta, coord) in delta.iter_mut().zip(range) {
                let x = self.center[coord];
                *delta = bounds.clamp(coord, x + *delta) - x;
            }
        }
        delta
    }

    /// Writes the point into `out` (d).
    pub fn write(&self, out: &mut [f64]) {
        match &self.probe {
            Some(probe) => probe.apply(&self.center, out),
            None => out.copy_from_slice(&self.center),
        }
        if let Some(bounds) = &self.bounds {
            bounds.project(out);
        }
    }
}

/// The evaluated point of the lowest value.
#[derive(Debug, Clone)]
pub struct Best {
    /// Its value.
    pub value: f64,
    /// Which point it is.
    pub asked: Asked,
}

/// Why a minimizer asks for nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The method has come to its end.
    Converged,
    /// The function failed for too many steps in a row; the last reason, in words.
    Stuck(String),
}

/// The values of one step.
#[derive(Debug)]
struct Round {
    first_id: u64,
    sample: u64,
    center: Arc<Vec<f64>>,
    has_base: bool,
    probes: Vec<Probe>,
    /// In the order of ids, the center first; NaN for one that failed.
    values: Vec<f64>,
    is_told: Vec<bool>,
    is_handed: Vec<bool>,
    n_told: usize,
    /// All before this one are handed out.
    next: usize,
}

impl Round {
    fn new(first_id: u64, center: Arc<Vec<f64>>, wanted: Wanted) -> Self {
        let Wanted { sample, base, probes } = wanted;
        let n = probes.len() + usize::from(base);
        Self {
            first_id,
            sample,
            center,
            has_base: base,
            probes,
            values: vec![f64::NAN; n],
            is_told: vec![false; n],
            is_handed: vec![false; n],
            n_told: 0,
            next: 0,
        }
    }

    fn idx(&self, id: u64) -> Option<usize> {
        let idx = usize::try_from(id.checked_sub(self.first_id)?).ok()?;
        (idx < self.values.len()).then_some(idx)
    }

    fn probe(&self, idx: usize) -> Option<Probe> {
        let idx = if self.has_base { idx.checked_sub(1)? } else { idx };
        Some(self.probes[idx].clone())
    }
}

/// Minimizes by ask and tell. It evaluates nothing, and everything it asks is a function of its [`Start`] and of the
/// values: the order in which they come does not matter.
pub struct Minimizer {
    start: Start,
    mover: Box<dyn Mover>,
    x: Arc<Vec<f64>>,
    round: Option<Round>,
    /// The number of the next round's first evaluation.
    next_id: u64,
    n_told: u64,
    n_failed: u64,
    n_steps: u64,
    n_stuck: u32,
    best: Option<Best>,
    stopped: Option<Stopped>,
}

impl std::fmt::Debug for Minimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minimizer").field("n_told", &self.n_told).finish_non_exhaustive()
    }
}

impl Minimizer {
    /// A minimizer before its first question.
    ///
    /// # Errors
    /// [`Error::Setting`] if the start cannot be one.
    pub fn new(start: Start) -> Result<Self> {
        start.check()?;
        let mover = mover(&start)?;
        let mut x = start.x0.clone();
        if let (Some(bounds), settings::Kind::Estimating(_)) =
            (&start.bounds, settings::method(&start.settings)?)
        {
            let crate::zo::Smoothing { mu } = start.settings.read()?;
            bounds.moved_in(mu)?.project(&mut x);
        }
        Ok(Self {
            start,
            mover,
            x: Arc::new(x),
            round: None,
            next_id: 0,
            n_told: 0,
            n_failed: 0,
            n_steps: 0,
            n_stuck: 0,
            best: None,
            stopped: None,
        })
    }

    /// What it began with.
    #[must_use]
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// The present point (d): the center of the step that is asked for.
    #[must_use]
    pub fn x(&self) -> &[f64] {
        &self.x
    }

    /// The lowest finite value told so far.
    #[must_use]
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// The last estimate of the gradient (d), if the method makes any.
    #[must_use]
    pub fn gradient(&self) -> Option<&[f64]> {
        self.mover.gradient()
    }

    /// Values told, failures included.
    #[must_use]
    pub fn n_evaluations(&self) -> u64 {
        self.n_told
    }

    /// Failures told.
    #[must_use]
    pub fn n_failed(&self) -> u64 {
        self.n_failed
    }

    /// Steps done.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// Why it asks for nothing more, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<&Stopped> {
        self.stopped.as_ref()
    }

    /// The next points to evaluate: at most `n`, fewer where the step has no more, none while it waits for values or has
    /// stopped.
    ///
    /// # Errors
    /// If there have been as many evaluations as can be counted.
    pub fn ask(&mut self, n: usize) -> Result<Vec<Asked>> {
        self.begin_round()?;
        let Some(round) = &mut self.round else { return Ok(Vec::new()) };
        let mut asked = Vec::new();
        while asked.len() < n && round.next < round.values.len() {
            let idx = round.next;
            round.next += 1;
            if !round.is_handed[idx] && !round.is_told[idx] {
                round.is_handed[idx] = true;
                asked.push(Self::asked(round, idx, self.start.bounds.as_ref()));
            }
        }
        Ok(asked)
    }

    /// How many points the present step still has to hand out.
    ///
    /// # Errors
    /// As [`Minimizer::ask`].
    pub fn n_ready(&mut self) -> Result<usize> {
        self.begin_round()?;
        let Some(round) = &self.round else { return Ok(0) };
        let open = |idx: &usize| !round.is_handed[*idx] && !round.is_told[*idx];
        Ok((round.next..round.values.len()).filter(open).count())
    }

    /// The numbers of the points that are handed out and not told.
    #[must_use]
    pub fn waiting(&self) -> Vec<u64> {
        let Some(round) = &self.round else { return Vec::new() };
        let is_open = |idx: &usize| round.is_handed[*idx] && !round.is_told[*idx];
        (0..round.values.len()).filter(is_open).map(|idx| round.first_id + idx as u64).collect()
    }

    /// Whether the point of this number is handed out and not told.
    #[must_use]
    pub fn waiting_for(&self, id: u64) -> bool {
        let round = self.round.as_ref();
        round
            .is_some_and(|round| round.idx(id).is_some_and(|idx| round.is_handed[idx] && !round.is_told[idx]))
    }

    /// The point that is handed out under this number and not told.
    ///
    /// # Errors
    /// [`Error::Evaluation`] if there is none.
    pub fn handed(&self, id: u64) -> Result<Asked> {
        let found = self.round.as_ref().and_then(|round| Some((round, round.idx(id)?)));
        match found {
            Some((round, idx)) if round.is_handed[idx] && !round.is_told[idx] => {
                Ok(Self::asked(round, idx, self.start.bounds.as_ref()))
            }
            Some((round, idx)) if round.is_told[idx] => Err(told_before(id)),
            _ => Err(unknown_or_told(id, self.first_open())),
        }
    }

    /// Takes back the points that are handed out and not told: they will be asked for again.
    pub fn take_back(&mut self) {
        if let Some(round) = &mut self.round {
            round.is_handed.copy_from_slice(&round.is_told);
            round.next = 0;
        }
    }

    /// Marks a point of the present step as handed out, as it was before.
    pub(super) fn hand_out(&mut self, id: u64) -> Result<()> {
        self.begin_round()?;
        let round = self.round.as_mut();
        match round.and_then(|round| round.idx(id).map(|idx| (round, idx))) {
            Some((round, idx)) => {
                round.is_handed[idx] = true;
                Ok(())
            }
            None => Err(unknown(id)),
        }
    }

    /// Tells the value of a point that was asked for; NaN or infinity if it failed. The last value of a step moves the
    /// point. Whether it did.
    ///
    /// # Errors
    /// [`Error::Evaluation`] if nothing was asked under this number, or it has been told.
    pub fn tell(&mut self, id: u64, value: f64) -> Result<bool> {
        let was_asked = self
            .round
            .as_ref()
            .is_some_and(|round| round.idx(id).is_some_and(|idx| round.is_handed[idx] || round.is_told[idx]));
        if was_asked { self.record(id, value) } else { Err(unknown_or_told(id, self.first_open())) }
    }

    /// All before this one are told.
    fn first_open(&self) -> u64 {
        self.round.as_ref().map_or(self.next_id, |round| round.first_id)
    }

    /// Tells a value whether or not its point was handed out: one of an earlier process.
    pub(super) fn record(&mut self, id: u64, value: f64) -> Result<bool> {
        self.begin_round()?;
        let first_open = self.first_open();
        let Some(round) = &mut self.round else { return Err(unknown_or_told(id, first_open)) };
        let Some(idx) = round.idx(id) else { return Err(unknown_or_told(id, first_open)) };
        if round.is_told[idx] {
            return Err(told_before(id));
        }
        round.is_told[idx] = true;
        round.values[idx] = value;
        round.n_told += 1;
        self.n_told += 1;
        if value.is_finite() {
            // Of equal values the first by number, whatever the order in which they come.
            let is_better = |best: &Best| {
                value < best.value || (value.total_cmp(&best.value).is_eq() && id < best.asked.id)
            };
            if self.best.as_ref().is_none_or(is_better) {
                let asked = Self::asked(round, idx, self.start.bounds.as_ref());
                self.best = Some(Best { value, asked });
            }
        } else {
            self.n_failed += 1;
        }
        if round.n_told < round.values.len() {
            return Ok(false);
        }
        self.end_round();
        Ok(true)
    }

    fn asked(round: &Round, idx: usize, bounds: Option<&Bounds>) -> Asked {
        Asked {
            id: round.first_id + idx as u64,
            sample: round.sample,
            center: round.center.clone(),
            probe: round.probe(idx),
            bounds: bounds.cloned(),
        }
    }

    fn begin_round(&mut self) -> Result<()> {
        if self.round.is_some() || self.stopped.is_some() {
            return Ok(());
        }
        let wanted = self.mover.ask(&self.x);
        if wanted.probes.is_empty() && !wanted.base {
            self.stopped = Some(self.at_the_end());
            return Ok(());
        }
        let round = Round::new(self.next_id, self.x.clone(), wanted);
        self.next_id += round.values.len() as u64;
        if self.next_id > MAX_EVALUATIONS {
            return Err(Error::Evaluation { id: self.next_id, reason: "there can be no more".to_owned() });
        }
        self.round = Some(round);
        Ok(())
    }

    fn end_round(&mut self) {
        let Some(round) = self.round.take() else { return };
        let (base, values) = match round.has_base {
            true => (round.values[0], &round.values[1..]),
            false => (f64::NAN, &round.values[..]),
        };
        let probes = round.probes;
        // Whoever still holds the center keeps it.
        drop(round.center);
        let x = Arc::make_mut(&mut self.x);
        let moved = self.mover.tell(x, base, &probes, values);
        self.n_steps += 1;
        match moved {
            Moved::On => self.n_stuck = 0,
            Moved::Done => self.stopped = Some(self.at_the_end()),
            Moved::Stuck(reason) => {
                self.n_stuck += 1;
                if self.n_stuck >= MAX_STUCK {
                    self.stopped = Some(Stopped::Stuck(format!("{reason}, {MAX_STUCK} steps in a row")));
                }
            }
        }
    }

    /// How a method stops that has nothing more to ask.
    fn at_the_end(&self) -> Stopped {
        match self.best {
            Some(_) => Stopped::Converged,
            None => Stopped::Stuck("the function failed at all points that the method tried".to_owned()),
        }
    }

    /// Everything that the rest depends on beside the [`Start`], as named vectors.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Vec<f64>)> {
        let (first_id, values, is_told, is_handed) = match &self.round {
            Some(round) => {
                let flags = |flags: &[bool]| flags.iter().map(|&flag| f64::from(u8::from(flag))).collect();
                (round.first_id, round.values.clone(), flags(&round.is_told), flags(&round.is_handed))
            }
            None => (self.next_id, Vec::new(), Vec::new(), Vec::new()),
        };
        let stopped = match &self.stopped {
            None => 0.0,
            Some(Stopped::Converged) => 1.0,
            Some(Stopped::Stuck(_)) => 2.0,
        };
        let counts = [first_id, self.n_told, self.n_failed, self.n_steps, u64::from(self.n_stuck)];
        let mut state = vec![
            ("counts".to_owned(), counts.iter().map(|&count| count as f64).chain([stopped]).collect()),
            ("x".to_owned(), self.x.to_vec()),
            ("values".to_owned(), values),
            ("told".to_owned(), is_told),
            ("handed".to_owned(), is_handed),
        ];
        if let Some(best) = &self.best {
            let numbers = vec![best.value, best.asked.id as f64, best.asked.sample as f64];
            state.push(("best".to_owned(), numbers));
            state.push(("best_x".to_owned(), best.asked.point()));
        }
        state.extend(
            self.mover.state().into_iter().map(|(name, values)| (format!("{OF_MOVER}{name}"), values)),
        );
        state
    }

    /// The minimizer of this start, gone on to what [`Minimizer::state`] gave.
    ///
    /// # Errors
    /// What is wrong with the state, in words.
    pub fn restored(start: Start, mut saved: Saved) -> std::result::Result<Self, String> {
        let mut minimizer = Self::new(start).map_err(|error| error.to_string())?;
        let d = minimizer.x.len();
        let mut mover = Saved::new(saved.below(OF_MOVER));
        let counts = saved.take("counts", Some(6))?;
        let count =
            |idx: usize| Ok::<u64, String>(integer("a count", counts[idx], MAX_EVALUATIONS as usize)? as u64);
        minimizer.next_id = count(0)?;
        (minimizer.n_told, minimizer.n_failed, minimizer.n_steps) = (count(1)?, count(2)?, count(3)?);
        minimizer.n_stuck = integer("a count", counts[4], MAX_STUCK as usize)? as u32;
        let stopped = integer("how it stopped", counts[5], 2)?;
        let finite = |name: &str, values: Vec<f64>| {
            let is_sound = values.iter().all(|value| value.is_finite());
            if is_sound { Ok(values) } else { Err(format!("`{name}` is not finite")) }
        };
        minimizer.x = Arc::new(finite("x", saved.take("x", Some(d))?)?);
        minimizer.mover.restore(&mut mover)?;
        let values = saved.take("values", None)?;
        let told = saved.take("told", Some(values.len()))?;
        let handed = saved.take("handed", Some(values.len()))?;
        if !values.is_empty() {
            minimizer.begin_round().map_err(|error| error.to_string())?;
            let round = minimizer.round.as_mut().filter(|round| round.values.len() == values.len());
            let round = round.ok_or("`values` are not those of a step")?;
            round.values = values;
            round.is_told = told.iter().map(|&flag| flag != 0.0).collect();
            round.is_handed = handed.iter().map(|&flag| flag != 0.0).collect();
            round.n_told = round.is_told.iter().filter(|&&flag| flag).count();
            if round.n_told == round.values.len() {
                return Err("`values` are complete".to_owned());
            }
        }
        if let Ok(best) = saved.take("best", Some(3)) {
            let x = finite("best_x", saved.take("best_x", Some(d))?)?;
            let number = |idx: usize| integer("a number of the best", best[idx], MAX_EVALUATIONS as usize);
            let (id, sample) = (number(1)? as u64, number(2)? as u64);
            let asked = Asked { id, sample, center: Arc::new(x), probe: None, bounds: None };
            minimizer.best = Some(Best { value: best[0], asked });
        }
        minimizer.stopped = match stopped {
            0 => None,
            1 => Some(Stopped::Converged),
            // Why is not in the state.
            _ => Some(Stopped::Stuck(format!("{MAX_STUCK} steps in a row came to nothing"))),
        };
        Ok(minimizer)
    }
}

/// Names of vectors of the method start so.
const OF_MOVER: &str = "method.";

fn unknown(id: u64) -> Error {
    Error::Evaluation { id, reason: "nothing was asked under this number".to_owned() }
}

fn unknown_or_told(id: u64, first_open: u64) -> Error {
    if id < first_open { told_before(id) } else { unknown(id) }
}

fn told_before(id: u64) -> Error {
    Error::Evaluation { id, reason: "its value has been told before".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    fn bowl(x: &[f64]) -> f64 {
        x.iter().enumerate().map(|(i, x)| (i + 1) as f64 * (x - 0.3).powi(2)).sum()
    }

    fn start(pairs: &[(&str, &str)]) -> Start {
        let settings = settings::from_pairs(pairs.iter().copied()).unwrap();
        Start { x0: vec![1.0, -1.0, 0.5, 2.0], bounds: None, settings, seed: 3 }
    }

    const METHODS: [&[(&str, &str)]; 7] = [
        &[("method", "cge")],
        &[("method", "cge"), ("difference", "forward"), ("optimizer", "sgd"), ("learning-rate", "0.02")],
        &[("method", "rge")],
        &[
            ("method", "rge"),
            ("step-scale", "loss-spread"),
            ("difference", "forward"),
            ("learning-rate", "0.02"),
        ],
        &[("method", "cocd"), ("queries", "2"), ("decay", "0.5")],
        &[("method", "pattern-search")],
        &[("method", "pattern-search"), ("search", "best"), ("search-steps", "1")],
    ];

    /// Runs `n` steps, telling values in the order that `order` makes of each step's.
    fn steps(minimizer: &mut Minimizer, n: u64, order: impl Fn(&mut Vec<Asked>)) {
        while minimizer.n_steps() < n && minimizer.stopped().is_none() {
            let mut asked = minimizer.ask(usize::MAX).unwrap();
            order(&mut asked);
            for asked in asked {
                minimizer.tell(asked.id, bowl(&asked.point())).unwrap();
            }
        }
    }

    fn bits(minimizer: &Minimizer) -> Vec<(String, Vec<u64>)> {
        let bits = |(name, values): (String, Vec<f64>)| (name, values.iter().map(|v| v.to_bits()).collect());
        minimizer.state().into_iter().map(bits).collect()
    }

    /// Oracle: the bottom of the bowl.
    #[test]
    fn every_method_goes_down() {
        for pairs in METHODS {
            let mut minimizer = Minimizer::new(start(pairs)).unwrap();
            steps(&mut minimizer, 300, |_| {});
            let best = minimizer.best().unwrap();
            assert!(best.value < 0.02, "{pairs:?}: {}", best.value);
            assert_eq!(bowl(&best.asked.point()).to_bits(), best.value.to_bits());
        }
    }

    /// The order of values, batches of any size and a restored state do not change a bit.
    #[test]
    fn order_batches_and_restoring_do_not_change_bits() {
        for pairs in METHODS {
            let run = || Minimizer::new(start(pairs)).unwrap();
            let mut whole = run();
            steps(&mut whole, 12, |_| {});
            let mut reversed = run();
            steps(&mut reversed, 12, |asked| asked.reverse());
            assert_eq!(bits(&whole), bits(&reversed), "{pairs:?}");
            let mut pieces = run();
            let mut n = 0_u64;
            while pieces.n_steps() < 12 && pieces.stopped().is_none() {
                // Of those that are out together one is told, the others are asked for again.
                let asked = pieces.ask(1 + (n % 3) as usize).unwrap().remove(0);
                pieces.tell(asked.id, bowl(&asked.point())).unwrap();
                let state = pieces.state().into_iter().collect();
                pieces = Minimizer::restored(start(pairs), Saved::new(state)).unwrap();
                pieces.take_back();
                n += 1;
            }
            assert_eq!(bits(&whole), bits(&pieces), "{pairs:?}");
        }
    }

    /// What failed is left out, and the run goes on; where all fails, it stops and says so. Values whose slopes have no
    /// square are failures, too.
    #[test]
    fn failures_are_left_out() {
        let failures = [[f64::NAN, f64::INFINITY, f64::NEG_INFINITY], [1e200, 1e300, f64::MAX]];
        for (pairs, failures) in METHODS.into_iter().flat_map(|pairs| failures.map(|all| (pairs, all))) {
            let mut minimizer = Minimizer::new(start(pairs)).unwrap();
            while minimizer.n_steps() < 600 && minimizer.stopped().is_none() {
                for asked in minimizer.ask(usize::MAX).unwrap() {
                    let fails = Stream::new(1, Purpose::Test, 0).uniform_at(asked.id) < 0.1;
                    let failure = failures[asked.id as usize % 3];
                    let value = if fails { failure } else { bowl(&asked.point()) };
                    minimizer.tell(asked.id, value).unwrap();
                }
            }
            let best = minimizer.best().unwrap().value;
            let n_failed = minimizer.n_failed();
            assert!(best < 0.1, "{pairs:?} {failures:?}: {best} {:?}", minimizer.stopped());
            assert_eq!(n_failed > 0, failures[0].is_nan());
            let mut hopeless = Minimizer::new(start(pairs)).unwrap();
            let mut n = 0;
            while hopeless.stopped().is_none() {
                for asked in hopeless.ask(usize::MAX).unwrap() {
                    hopeless.tell(asked.id, f64::NAN).unwrap();
                    n += 1;
                }
            }
            assert!(hopeless.best().is_none() && n < 1000, "{pairs:?}");
        }
    }

    /// Every point lies within the bounds, and a minimum at the bound is reached.
    #[test]
    fn points_stay_within_bounds() {
        let gaussian: &[(&str, &str)] = &[("method", "rge"), ("directions", "gaussian")];
        for pairs in METHODS.into_iter().chain([gaussian]) {
            let bounds =
                Bounds::new(vec![0.5, -1.0, -1.0, f64::NEG_INFINITY], vec![1.0, 0.1, 2.0, 2.5]).unwrap();
            let start = Start { bounds: Some(bounds.clone()), ..start(pairs) };
            let mut minimizer = Minimizer::new(start).unwrap();
            while minimizer.n_steps() < 400 && minimizer.stopped().is_none() {
                for asked in minimizer.ask(usize::MAX).unwrap() {
                    assert_eq!(bounds.violated(&asked.point()), None, "{pairs:?}");
                    minimizer.tell(asked.id, bowl(&asked.point())).unwrap();
                }
            }
            let least = 0.2_f64.powi(2) + 2.0 * 0.2_f64.powi(2);
            let best = minimizer.best().unwrap().value;
            assert!(best < least + 0.02, "{pairs:?}: {best} {least}");
        }
    }

    #[test]
    fn what_was_not_asked_cannot_be_told() {
        let mut minimizer = Minimizer::new(start(METHODS[0])).unwrap();
        let told = |minimizer: &mut Minimizer, id| minimizer.tell(id, 1.0).map_err(|error| error.to_string());
        assert!(told(&mut minimizer, 0).unwrap_err().contains("nothing was asked"));
        assert_eq!(minimizer.ask(2).unwrap().len(), 2);
        assert_eq!(minimizer.waiting(), [0, 1]);
        assert!(told(&mut minimizer, 2).unwrap_err().contains("nothing was asked"));
        told(&mut minimizer, 1).unwrap();
        assert!(told(&mut minimizer, 1).unwrap_err().contains("told before"));
        assert!(told(&mut minimizer, u64::MAX).unwrap_err().contains("nothing was asked"));
        minimizer.take_back();
        let ids: Vec<u64> = minimizer.ask(2).unwrap().iter().map(|asked| asked.id).collect();
        assert_eq!(ids, [0, 2]);
    }

    /// Oracle: the point itself, bit for bit where there are no bounds to hit.
    #[test]
    fn deltas_are_points_minus_centers() {
        for law in ["rademacher", "gaussian", "sphere"] {
            let settings = settings::from_pairs([("directions", law), ("queries", "2")]).unwrap();
            let x0: Vec<f64> = (0..5000).map(|i| f64::from(i) / 512.0).collect();
            let bounds = Bounds::new(vec![-0.1; 5000], vec![10.0; 5000]).unwrap();
            let start = Start { x0, bounds: Some(bounds), settings, seed: 1 };
            for asked in Minimizer::new(start).unwrap().ask(3).unwrap() {
                let point = asked.point();
                for range in [0..5000, 7..7, 1000..1030, 1023..4097] {
                    let delta = asked.delta(range.clone());
                    let close = |(delta, coord): (&f64, usize)| {
                        (asked.center[coord] + delta - point[coord]).abs() < 1e-14
                    };
                    assert!(delta.len() == range.len() && delta.iter().zip(range).all(close), "{law}");
                }
            }
        }
    }

    /// Oracle: the documentation of starts.
    #[test]
    fn starts_are_checked() {
        let refused = |start: Start| Minimizer::new(start).map(|_| ()).unwrap_err().to_string();
        let with = |x0: Vec<f64>| Start { x0, ..start(&[]) };
        assert!(refused(with(vec![])).contains("1 to"));
        assert!(refused(with(vec![1.0, f64::NAN])).contains("coordinate 1 is NaN"));
        let bounds = Bounds::new(vec![0.0], vec![0.005]).unwrap();
        let start = Start { bounds: Some(bounds.clone()), ..with(vec![0.001]) };
        assert!(refused(start).contains("`mu`"));
        let start = Start { bounds: Some(bounds), ..with(vec![0.1]) };
        assert!(refused(start).contains("outside of its bounds"));
        assert!(Bounds::new(vec![1.0], vec![1.0]).is_err());
        assert!(Bounds::new(vec![f64::NAN], vec![1.0]).is_err());
    }
}
