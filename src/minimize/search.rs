//! Pattern Search on a black box.

use super::settings::SearchConfig;
use super::{Bounds, Moved, Mover, Start, Wanted};
use crate::Result;
use crate::method::pattern_search::{self, Keep, PatternSearch, Stop, Together};
use crate::saved::{Saved, integer};
use crate::zo::Probe;

pub(super) struct Search {
    search: PatternSearch,
    together: Together,
    config: SearchConfig,
    bounds: Option<Bounds>,
    sample: u64,
    /// Moves kept, or halvings, in this sample.
    n_done: usize,
    /// The value at the point in this sample; NaN if it is not known yet.
    base: f64,
    /// The moves that are tried, from which those that lead nowhere are missing among the probes.
    moves: Vec<(usize, f64)>,
    /// What [`Mover::state`] gives while moves are tried.
    before: Vec<f64>,
}

impl Search {
    pub(super) fn new(start: &Start) -> Result<Self> {
        let config: SearchConfig = start.settings.read()?;
        let n_coords = start.x0.len();
        let keep = match config.search {
            pattern_search::Search::First => Keep::First,
            pattern_search::Search::Best if config.population == 0 => {
                Keep::Best { population: 2 * n_coords + 1 }
            }
            pattern_search::Search::Best => Keep::Best { population: config.population },
        };
        let mut search = Self {
            search: PatternSearch::new(n_coords, config.radius, start.seed),
            together: Together::new(keep),
            config,
            bounds: start.bounds.clone(),
            sample: 0,
            n_done: 0,
            base: f64::NAN,
            moves: Vec::new(),
            before: Vec::new(),
        };
        search.before = search.numbers();
        Ok(search)
    }

    fn numbers(&self) -> Vec<f64> {
        let [radius, sweep, tried] = self.search.state();
        let rest = [self.together.n() as f64, self.sample as f64, self.n_done as f64, self.base];
        [vec![radius, sweep, tried], rest.to_vec()].concat()
    }

    /// Where a move leads from `x`: the shift within bounds.
    fn shift(&self, x: &[f64], (coord, shift): (usize, f64)) -> f64 {
        match &self.bounds {
            Some(bounds) => bounds.clamp(coord, x[coord] + shift) - x[coord],
            None => shift,
        }
    }

    /// A move is kept, or the radius halved.
    fn step_done(&mut self) {
        self.together = Together::new(self.together.rule());
        self.n_done += 1;
        if self.config.search_steps > 0 && self.n_done >= self.config.search_steps {
            (self.n_done, self.base) = (0, f64::NAN);
            self.sample += 1;
        }
    }
}

impl Mover for Search {
    fn ask(&mut self, x: &[f64]) -> Wanted {
        self.before = self.numbers();
        let mut probes = Vec::new();
        // Sweeps all of whose moves lead out of the bounds halve the radius without a question.
        while probes.is_empty() && self.search.radius() >= self.config.least_radius {
            self.moves = self.search.ask(self.together, usize::MAX);
            if self.moves.is_empty() {
                self.search.tell(&mut self.together, &[], &[]);
                self.step_done();
                self.before = self.numbers();
            }
            let shifts = self.moves.iter().map(|&(coord, shift)| (coord, self.shift(x, (coord, shift))));
            probes = shifts
                .filter(|(_, shift)| *shift != 0.0)
                .map(|(coord, shift)| Probe::Coordinate { coord, shift })
                .collect();
            if probes.is_empty() && !self.moves.is_empty() {
                let failed = vec![f64::NAN; self.moves.len()];
                let moves = std::mem::take(&mut self.moves);
                self.search.tell(&mut self.together, &moves, &failed);
                self.before = self.numbers();
            }
        }
        Wanted { sample: self.sample, base: self.base.is_nan() && !probes.is_empty(), probes }
    }

    /// Where the value at the point failed, any other is better.
    fn tell(&mut self, x: &mut [f64], base: f64, _: &[Probe], values: &[f64]) -> Moved {
        if self.base.is_nan() {
            self.base = if base.is_finite() { base } else { f64::INFINITY };
        }
        let moves = std::mem::take(&mut self.moves);
        // Moves that lead nowhere were not tried.
        let mut found = values.iter();
        let answer = |&tried: &(usize, f64)| match self.shift(x, tried) {
            0.0 => (0.0, f64::NAN),
            shift => (shift, found.next().copied().unwrap_or(f64::NAN)),
        };
        let answers: Vec<(f64, f64)> = moves.iter().map(answer).collect();
        let base = self.base;
        let differences: Vec<f64> = answers
            .iter()
            .map(|(_, value)| if value.is_finite() { value - base } else { f64::NAN })
            .collect();
        if !moves.is_empty() {
            match self.search.tell(&mut self.together, &moves, &differences).1 {
                Some(Stop::Kept { coord, shift }) => {
                    let at = moves.iter().position(|&tried| tried == (coord, shift));
                    let at = at.expect("a move that is kept was tried");
                    let (shift, value) = answers[at];
                    x[coord] += shift;
                    if let Some(bounds) = &self.bounds {
                        x[coord] = bounds.clamp(coord, x[coord]);
                    }
                    self.base = value;
                    self.step_done();
                }
                Some(Stop::Halved) => self.step_done(),
                Some(Stop::Spent) | None => {}
            }
        }
        self.before = self.numbers();
        if self.search.radius() < self.config.least_radius { Moved::Done } else { Moved::On }
    }

    fn gradient(&self) -> Option<&[f64]> {
        None
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        vec![("search", self.before.clone())]
    }

    fn restore(&mut self, saved: &mut Saved) -> std::result::Result<(), String> {
        let numbers = saved.take("search", Some(7))?;
        self.search.restore([numbers[0], numbers[1], numbers[2]])?;
        self.together.restore(numbers[3])?;
        self.sample = integer("the number of the sample", numbers[4], 1 << 53)? as u64;
        self.n_done = integer("the number of steps", numbers[5], 1 << 53)?;
        self.base = numbers[6];
        self.moves.clear();
        self.before = numbers;
        Ok(())
    }
}
