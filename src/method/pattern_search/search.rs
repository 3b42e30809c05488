//! Pattern Search (Chiang et al., "Loss Landscapes are All You Need", ICLR 2023): moves of single
//! coordinates by plus or minus a radius, kept if the loss falls. No gradient is formed.
//!
//! A *sweep* is a freshly shuffled list of all 2d moves. It ends when a move is kept, and then a new one
//! begins; or when all of its moves have failed, and then the radius is halved first. Their released code
//! has two versions: [`Keep::First`] (class `PatternSearch`) keeps the first move that lowers the loss,
//! [`Keep::Best`] (class `PatternSearchFast`, behind their tables) the best of the next few.
//!
//! A move is a probe of one coordinate, so that any [`Evaluator`] tries it. Moves are tried several at a
//! time; those behind the one that is kept were tried in vain, and are counted.

use std::collections::HashMap;

use crate::Result;
use crate::rng::{Purpose, Stream};
use crate::saved::integer;
use crate::zo::Probe;
use crate::zo::evaluate::Evaluator;

/// Which move is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The first that lowers the loss.
    First,
    /// The best of the next `population` − 1, if it lowers the loss; the first of them on ties.
    Best {
        /// Points compared at a time, the present one included; at least 2.
        population: usize,
    },
}

/// Why a search stopped trying moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stop {
    /// A move lowers the loss: coordinate `coord` by `shift`.
    Kept {
        /// Position in the flat parameter vector.
        coord: usize,
        /// ± radius.
        shift: f64,
    },
    /// All moves failed; the radius has been halved.
    Halved,
    /// As many moves as allowed were tried.
    Spent,
}

/// Moves tried together at first, and at most, with [`Keep::First`]. Twice as many after each failure:
/// few are tried in vain where moves succeed often, and all threads are busy where they do not.
const FIRST_TOGETHER: usize = 4;
const MOST_TOGETHER: usize = 256;

/// How many moves are tried together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Together {
    rule: Keep,
    n: usize,
}

impl Together {
    /// As many as at the beginning of a sweep.
    #[must_use]
    pub fn new(rule: Keep) -> Self {
        let n = match rule {
            Keep::First => FIRST_TOGETHER,
            Keep::Best { population } => population.saturating_sub(1).max(1),
        };
        Self { rule, n }
    }

    /// Which move is kept.
    #[must_use]
    pub fn rule(self) -> Keep {
        self.rule
    }

    /// How many.
    #[must_use]
    pub fn n(self) -> usize {
        self.n
    }

    /// Goes on from a stored number.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn restore(&mut self, n: f64) -> std::result::Result<(), String> {
        let most = Self::new(self.rule).n.max(MOST_TOGETHER);
        self.n = integer("the number of moves tried together", n, most)?.max(1);
        Ok(())
    }
}

/// A search between two moves.
#[derive(Debug, Clone)]
pub struct PatternSearch {
    seed: u64,
    n_coords: usize,
    radius: f64,
    sweep: u32,
    list: ShuffledList,
}

impl PatternSearch {
    /// A search over d = `n_coords` coordinates.
    #[must_use]
    pub fn new(n_coords: usize, radius: f64, seed: u64) -> Self {
        let mut search = Self { seed, n_coords, radius, sweep: 0, list: ShuffledList::default() };
        search.begin(0);
        search
    }

    /// Size of a move.
    #[must_use]
    pub fn radius(&self) -> f64 {
        self.radius
    }

    /// All that the rest of the search depends on: radius, number of the sweep, moves tried in it.
    #[must_use]
    pub fn state(&self) -> [f64; 3] {
        [self.radius, f64::from(self.sweep), self.list.taken as f64]
    }

    /// Goes on from a stored state.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn restore(&mut self, [radius, sweep, tried]: [f64; 3]) -> std::result::Result<(), String> {
        if !(radius > 0.0 && radius.is_finite()) {
            return Err(format!("the radius is {radius}"));
        }
        let sweep = integer("the number of the sweep", sweep, u32::MAX as usize)?;
        let tried = integer("the number of moves tried", tried, 2 * self.n_coords)?;
        self.radius = radius;
        self.begin(sweep as u32);
        (0..tried).for_each(|_| {
            self.list.take();
        });
        Ok(())
    }

    /// Tries moves around the evaluator's point until one is kept, all have failed, or `budget` more have
    /// been tried; the budget shrinks by the moves tried, up to the one kept.
    ///
    /// # Errors
    /// If a query fails.
    pub fn advance(&mut self, rule: Keep, evaluator: &dyn Evaluator, budget: &mut usize) -> Result<Stop> {
        let mut together = Together::new(rule);
        while *budget > 0 {
            let moves = self.ask(together, *budget);
            let probes: Vec<Probe> =
                moves.iter().map(|&(coord, shift)| Probe::Coordinate { coord, shift }).collect();
            let differences = if probes.is_empty() { Vec::new() } else { evaluator.differences(&probes)? };
            let (n_tried, stop) = self.tell(&mut together, &moves, &differences);
            *budget -= n_tried;
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
        Ok(Stop::Spent)
    }

    /// The next moves to try together, at most `most`; none once all of the sweep have been tried.
    pub fn ask(&mut self, together: Together, most: usize) -> Vec<(usize, f64)> {
        std::iter::from_fn(|| self.take()).take(together.n.min(most)).collect()
    }

    /// Digests the loss differences of the moves that were asked for last: how many of them count as tried, and whether
    /// the sweep ends. A difference of NaN is a move that failed.
    pub fn tell(
        &mut self,
        together: &mut Together,
        moves: &[(usize, f64)],
        differences: &[f64],
    ) -> (usize, Option<Stop>) {
        if moves.is_empty() {
            self.radius /= 2.0;
            self.begin(self.sweep + 1);
            return (0, Some(Stop::Halved));
        }
        let is_first = together.rule == Keep::First;
        let kept = if is_first {
            differences.iter().position(|&difference| difference < 0.0)
        } else {
            lowest(differences)
        };
        if let Some(kept) = kept {
            self.begin(self.sweep + 1);
            let (coord, shift) = moves[kept];
            return (if is_first { kept + 1 } else { moves.len() }, Some(Stop::Kept { coord, shift }));
        }
        if is_first {
            together.n = (2 * together.n).min(MOST_TOGETHER);
        }
        (moves.len(), None)
    }

    fn begin(&mut self, sweep: u32) {
        self.sweep = sweep;
        self.list = ShuffledList::new(2 * self.n_coords, Stream::new(self.seed, Purpose::Moves, sweep));
    }

    /// The next move of the sweep.
    fn take(&mut self) -> Option<(usize, f64)> {
        let entry = self.list.take()?;
        Some((entry / 2, if entry % 2 == 0 { self.radius } else { -self.radius }))
    }
}

/// The first of the smallest negative numbers.
fn lowest(differences: &[f64]) -> Option<usize> {
    let mut best = None;
    let mut least = 0.0;
    for (idx, &difference) in differences.iter().enumerate() {
        if difference < least {
            (best, least) = (Some(idx), difference);
        }
    }
    best
}

/// The numbers 0..n in random order (Fisher and Yates), shuffled only as far as they are taken.
#[derive(Debug, Clone)]
struct ShuffledList {
    n: usize,
    taken: usize,
    stream: Stream,
    /// Entries that are not at their own place.
    moved: HashMap<usize, usize>,
}

impl Default for ShuffledList {
    fn default() -> Self {
        Self::new(0, Stream::new(0, Purpose::Moves, 0))
    }
}

impl ShuffledList {
    fn new(n: usize, stream: Stream) -> Self {
        Self { n, taken: 0, stream, moved: HashMap::new() }
    }

    fn take(&mut self) -> Option<usize> {
        let here = self.taken;
        if here == self.n {
            return None;
        }
        let there = here + self.stream.below_at(here as u64, (self.n - here) as u64) as usize;
        let first = self.moved.remove(&here).unwrap_or(here);
        self.taken += 1;
        if here == there {
            return Some(first);
        }
        Some(self.moved.insert(there, first).unwrap_or(there))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zo::evaluate::{self, EvaluatorKind};
    use crate::zo::{Metered, Objective, QueryCount};

    /// (x − a)² summed over coordinates.
    struct Bowl(Vec<f64>);

    impl Objective for Bowl {
        fn n_coords(&self) -> usize {
            self.0.len()
        }
        fn loss(&self, x: &[f64]) -> Result<f64> {
            Ok(x.iter().zip(&self.0).map(|(x, a)| (x - a) * (x - a)).sum())
        }
    }

    /// Runs a search to a small radius; the point, and the moves kept.
    fn minimize(rule: Keep, target: &[f64]) -> (Vec<f64>, usize) {
        let count = QueryCount::default();
        let bowl = Bowl(target.to_vec());
        let bowl = Metered::new(&bowl, &count);
        let mut search = PatternSearch::new(target.len(), 1.0, 3);
        let mut point = vec![0.0; target.len()];
        let mut n_kept = 0;
        while search.radius() > 1e-3 {
            let mut budget = usize::MAX;
            let evaluator = evaluate::at(&bowl, EvaluatorKind::Full, &point).unwrap();
            let stop = search.advance(rule, &evaluator, &mut budget).unwrap();
            if let Stop::Kept { coord, shift } = stop {
                point[coord] += shift;
                n_kept += 1;
            }
        }
        (point, n_kept)
    }

    /// Oracle: at radius r a coordinate comes to rest within r/2 of its target, so that after all moves
    /// of radius 2^-9 have failed none is farther than 2^-10.
    #[test]
    fn a_bowl_is_searched_to_its_bottom() {
        let target = [2.5, -0.3, 0.0, 7.123];
        for rule in [Keep::First, Keep::Best { population: 3 }, Keep::Best { population: 500 }] {
            let (point, n_kept) = minimize(rule, &target);
            for (x, a) in point.iter().zip(&target) {
                assert!((x - a).abs() <= 2f64.powi(-10), "{rule:?}: {x} instead of {a}");
            }
            // 2.5 is 2 or 3 moves of length 1 and one of 1/2; 7.123 is at least 7; and so on.
            assert!(n_kept >= 3 + 7, "{n_kept}");
        }
    }

    /// Oracle: the definition. Around (0, 0) with radius 1, target (1, 2): the moves +0 and +1 lower the
    /// loss by 1 and 3, the others raise it.
    #[test]
    fn first_and_best() {
        let count = QueryCount::default();
        let bowl = Bowl(vec![1.0, 2.0]);
        let bowl = Metered::new(&bowl, &count);
        let origin = [0.0, 0.0];
        let evaluator = evaluate::at(&bowl, EvaluatorKind::Full, &origin).unwrap();
        let mut first = [0; 2];
        for seed in 0..40 {
            let mut search = PatternSearch::new(2, 1.0, seed);
            let mut order = search.clone();
            let order: Vec<_> = std::iter::from_fn(|| order.take()).collect();
            let expected = order.iter().find(|&&(_, shift)| shift > 0.0).unwrap();
            let mut budget = 100;
            let stop = search.advance(Keep::First, &evaluator, &mut budget).unwrap();
            assert_eq!(stop, Stop::Kept { coord: expected.0, shift: 1.0 });
            assert_eq!(100 - budget, 1 + order.iter().position(|entry| entry == expected).unwrap());
            first[expected.0] += 1;
            let mut search = PatternSearch::new(2, 1.0, seed);
            let best = search.advance(Keep::Best { population: 5 }, &evaluator, &mut 100).unwrap();
            assert_eq!(best, Stop::Kept { coord: 1, shift: 1.0 });
        }
        assert!(first[0] > 5 && first[1] > 5, "{first:?}");
    }

    /// Oracle: the definition: the radius is halved after all 2d moves have failed, not before, however
    /// they are split into budgets; and a restored search goes on where it was.
    #[test]
    fn the_radius_is_halved_after_a_complete_sweep() {
        let count = QueryCount::default();
        let bowl = Bowl(vec![0.1; 10]);
        let bowl = Metered::new(&bowl, &count);
        let origin = [0.1; 10];
        let evaluator = evaluate::at(&bowl, EvaluatorKind::Full, &origin).unwrap();
        let mut search = PatternSearch::new(10, 1.0, 1);
        let before = count.queries();
        for _ in 0..2 {
            let mut budget = 7;
            assert_eq!(search.advance(Keep::First, &evaluator, &mut budget).unwrap(), Stop::Spent);
            assert_eq!((budget, search.radius()), (0, 1.0));
        }
        let mut other = PatternSearch::new(10, 9.0, 1);
        other.restore(search.state()).unwrap();
        let mut rest = [search.clone(), other].map(|mut search| {
            let rest: Vec<_> = std::iter::from_fn(|| search.take()).collect();
            rest
        });
        assert_eq!(rest[0], rest[1]);
        assert_eq!(rest[0].len(), 6);
        rest[0].dedup_by_key(|(coord, _)| *coord);
        assert_eq!(search.advance(Keep::First, &evaluator, &mut usize::MAX.clone()).unwrap(), Stop::Halved);
        assert_eq!((search.radius(), count.queries() - before), (0.5, 20));
    }

    /// Oracle: 2d distinct moves; each stands first about equally often (400 draws of 8 entries, five
    /// standard errors).
    #[test]
    fn lists_are_permutations() {
        let mut counts = [0; 8];
        for step in 0..400 {
            let mut list = ShuffledList::new(8, Stream::new(2, Purpose::Test, step));
            let mut all: Vec<_> = std::iter::from_fn(|| list.take()).collect();
            counts[all[0]] += 1;
            all.sort_unstable();
            assert_eq!(all, (0..8).collect::<Vec<_>>());
        }
        let (mean, sd) = (50.0, (400.0f64 * 0.125 * 0.875).sqrt());
        assert!(counts.iter().all(|&n| (f64::from(n) - mean).abs() < 5.0 * sd), "{counts:?}");
    }
}
