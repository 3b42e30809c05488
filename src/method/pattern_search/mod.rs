//! `method = pattern-search`: training by moves of single coordinates.

mod search;

use std::sync::Arc;

pub use search::{Keep, PatternSearch, Stop, Together};

use super::{Kind, Method, Step};
use crate::cost::{Cost, Steps};
use crate::metric::{self, Row};
use crate::nn::loss::Loss;
use crate::nn::objective::{BasePass, check_rounding};
use crate::params::Layout;
use crate::problem::{Minibatch, Problem, Resources, State, explore};
use crate::saved::Saved;
use crate::setting::Domain::{Above, Int};
use crate::setting::{Entry, Plain, Section, Settings};
use crate::zo::estimator::Budget;
use crate::zo::evaluate::{self, EvaluatorKind};
use crate::{Error, Result, nn};

crate::choice! {
    /// Which moves Pattern Search keeps.
    pub enum Search {
        /// The first that lowers the loss.
        First = "first",
        /// The best of the next `population` - 1, if it lowers the loss.
        Best = "best",
    }
}

crate::section! {
    /// Pattern Search.
    pub struct Config {
        /// Which moves are kept (Pattern Search).
        pub search: Search = Search::First,
        /// Initial size of a move (Pattern Search).
        pub radius: f64 = 1.0 => Above(0.0, f64::INFINITY),
        /// Points compared at a time with search = best, the present one included; 0 for 50,000 / n-train.
        pub population: usize = 0,
        /// Moves kept, or halvings of the radius, per batch (Pattern Search).
        pub search_steps: usize = 1 => Int(1, 1_000_000),
        /// Whether the loss sees logits over the product of all weights' norms / 3 (Pattern Search).
        pub normalize_logits: bool = false,
        /// Whether training ends once all training images are classified rightly (Pattern Search).
        pub stop_when_fitted: bool = false,
    }
}

impl Config {
    /// Points compared at a time on `n_items` with `search = best`, the present one included.
    fn population_of(&self, n_items: usize) -> usize {
        /// Of its authors for CIFAR-10: points times images.
        const POINTS: usize = 50_000;
        if self.population == 0 { (POINTS / n_items.max(1)).max(2) } else { self.population }
    }

    /// Moves that are tried on a batch, and evaluations of the points that the search comes through. How
    /// many fail is not known beforehand: half of those tried are taken to be kept.
    fn moves_per_batch(&self, queries: usize, n_items: usize) -> (f64, f64) {
        let steps = self.search_steps as f64;
        match (self.search, queries) {
            (Search::First, 0) => (2.0 * steps, steps),
            (Search::First, moves) => (moves as f64, 0.5 * moves as f64),
            (Search::Best, _) => (steps * (self.population_of(n_items) - 1) as f64, steps),
        }
    }
}

/// The kind of method.
#[derive(Debug)]
pub struct Searching;

impl Kind for Searching {
    fn name(&self) -> &'static str {
        "pattern-search"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, evaluate::Config::ENTRIES, Config::ENTRIES]
    }

    fn implies(&self) -> Vec<(&'static str, toml::Value)> {
        // It moves every coordinate.
        vec![("sparsity", 0.0.into_value())]
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        let (config, budget): (Config, Budget) = (settings.read()?, settings.read()?);
        let evaluate::Config { evaluator } = settings.read()?;
        let nn::Config { precision, .. } = settings.read()?;
        // What trains no classifier reads no loss.
        let (key, loss) = if settings.is_read("loss") {
            ("loss", settings.read::<nn::Goal>()?.loss.name())
        } else {
            ("normalize-logits", "what is trained")
        };
        if config.normalize_logits && loss != nn::Criterion::CrossEntropy.name() {
            let reason = format!("{loss} has no logits to normalize; set normalize-logits = false");
            return Err(Error::setting(key, reason));
        }
        check_rounding(precision, evaluator, true)?;
        if config.normalize_logits && evaluator != EvaluatorKind::Difference {
            let reason = format!("normalize-logits = true needs difference; got {}", evaluator.name());
            return Err(Error::setting("evaluator", reason));
        }
        if budget.queries > 0 && config.search == Search::Best {
            let reason =
                "a number of moves per batch goes with search = first; leave it at 0 with search = best";
            return Err(Error::setting("queries", reason));
        }
        Ok(())
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>> {
        let (config, Budget { queries }): (Config, Budget) = (settings.read()?, settings.read()?);
        let evaluate::Config { evaluator } = settings.read()?;
        let search = PatternSearch::new(layout.n_coords(), config.radius, seed);
        let keep = Keep::First;
        Ok(Box::new(Run { config, queries, evaluator, search, keep, n_coords: layout.n_coords() }))
    }

    fn loss(&self, settings: &Settings) -> Result<Loss> {
        let (Config { normalize_logits, .. }, nn::Goal { loss }) = (settings.read()?, settings.read()?);
        Ok(if normalize_logits { Loss::NormalizedCrossEntropy } else { loss.loss() })
    }

    fn moves_coordinates(&self) -> bool {
        true
    }

    fn cost(&self, settings: &Settings, steps: &Steps) -> Result<Cost> {
        let (config, Budget { queries }): (Config, Budget) = (settings.read()?, settings.read()?);
        let (moves, bases) = config.moves_per_batch(queries, steps.n_items);
        let layout = steps.layout;
        let all: Vec<_> = layout.specs().iter().map(crate::params::ParamSpec::len).enumerate().collect();
        let bases = Cost {
            queries: steps.n * bases,
            flops: bases * steps.items * steps.speed.full_flops,
            wall_s: bases * steps.items * steps.speed.full_s,
        };
        Ok(bases + steps.coordinate_probes(moves / layout.n_coords() as f64, &all))
    }
}

/// A search through a run of training.
struct Run {
    config: Config,
    queries: usize,
    evaluator: EvaluatorKind,
    search: PatternSearch,
    keep: Keep,
    n_coords: usize,
}

/// Below this a search has nowhere to go: the networks' single precision no longer sees its moves.
const LEAST_RADIUS: f64 = 1e-7;

impl Method for Run {
    fn begin_epoch(&mut self, problem: &dyn Problem, _: &State, _: usize, _: &Resources) -> Result<()> {
        self.keep = match self.config.search {
            Search::First => Keep::First,
            Search::Best => Keep::Best { population: self.config.population_of(problem.n_items()) },
        };
        Ok(())
    }

    /// Searches on one batch: a number of moves tried, or a number of moves kept and halvings of the radius. Running
    /// statistics move with every evaluation of a point that a move led to.
    fn step(
        &mut self,
        batch: &dyn Minibatch,
        at: &mut State,
        _: &Step,
        resources: &Resources,
    ) -> Result<BasePass> {
        let (mut steps, mut budget) = match self.queries {
            0 => (self.config.search_steps, usize::MAX),
            budget => (usize::MAX, budget),
        };
        let mut first = None;
        loop {
            resources.check_interrupt()?;
            let (search, keep) = (&mut self.search, self.keep);
            let (pass, kept) = explore(batch, self.evaluator, &at.params, resources, |evaluator| {
                while steps > 0 && budget > 0 && search.radius() > LEAST_RADIUS {
                    match search.advance(keep, evaluator, &mut budget)? {
                        Stop::Kept { coord, shift } => {
                            steps -= 1;
                            return Ok(Some((coord, shift)));
                        }
                        Stop::Halved => steps -= 1,
                        Stop::Spent => break,
                    }
                }
                Ok(None)
            })?;
            at.stats.update(&pass.stats);
            let first = first.get_or_insert(pass);
            if let Some((coord, shift)) = kept {
                at.params[coord] += shift;
            }
            if kept.is_none() || steps == 0 || budget == 0 {
                return Ok(first.clone());
            }
        }
    }

    fn is_done(&self, problem: &dyn Problem, at: &State) -> Result<bool> {
        if self.config.stop_when_fitted { problem.is_fitted(at) } else { Ok(false) }
    }

    fn record(&self, row: &mut Row) {
        row.set(&metric::N_ACTIVE, self.n_coords as f64);
        row.set(&metric::RADIUS, self.search.radius());
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        vec![("search", self.search.state().to_vec())]
    }

    fn restore(&mut self, saved: &mut Saved) -> std::result::Result<(), String> {
        let state = saved.take("search", None)?;
        self.search.restore(state.try_into().map_err(|_| "`search` has the wrong length".to_owned())?)
    }
}
