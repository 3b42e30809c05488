//! From sparsity settings to the active set of an epoch.

use std::cell::OnceCell;
use std::sync::Arc;

use candle_core::DType;

use crate::Result;
use crate::nn::backprop;
use crate::params::Layout;
use crate::problem::{Minibatch, Problem, Resources};
use crate::saved::integer;
use crate::setting::Settings;
use crate::zo::evaluate::{self, EvaluatorKind, Shared};
use crate::zo::sparsity::{
    self, Basis, ByScores, Config, KeepCounts, Mask, ScoredLoss, Scoring, SparseTarget, Uncovered,
};
use crate::zo::{self, Estimator, Metered};

/// What the active sets of a run are drawn from.
#[derive(Debug, Clone, PartialEq)]
pub enum ActiveSets {
    /// Every coordinate, always.
    All,
    /// A random set with these counts per layer, drawn anew every few epochs.
    Drawn(KeepCounts),
    /// One set.
    Fixed(Arc<[usize]>),
    /// The set of a scored mask, until the next scoring.
    Rescored {
        /// Number of the scoring, from 0 at initialization.
        draw: u32,
        /// Active coordinates, sorted.
        active: Arc<[usize]>,
    },
}

/// The active sets of one run.
#[derive(Debug, Clone)]
pub struct Active {
    config: Config,
    /// Smoothing parameter of ZO-GraSP.
    mu: f64,
    seed: u64,
    sets: ActiveSets,
}

impl Active {
    /// Sets as the settings describe them; every coordinate until [`Active::score`].
    ///
    /// # Errors
    /// If the trial does not read the sections of sparsity and smoothing.
    pub fn new(settings: &Settings, seed: u64) -> Result<Self> {
        let zo::Smoothing { mu } = settings.read()?;
        Ok(Self { config: settings.read()?, mu, seed, sets: ActiveSets::All })
    }

    /// Every coordinate, always.
    #[must_use]
    pub fn all() -> Self {
        let config = Config { sparsity: 0.0, ..Config::default() };
        Self { config, mu: zo::Smoothing::default().mu, seed: 0, sets: ActiveSets::All }
    }

    /// What the sets are drawn from.
    #[must_use]
    pub fn sets(&self) -> &ActiveSets {
        &self.sets
    }

    /// Scores the initial parameters `params` (d) as the settings ask. ZO-GraSP's queries are counted.
    ///
    /// # Errors
    /// If the data has too few images per class, or a query fails.
    pub fn score(&mut self, problem: &dyn Problem, params: &[f64], resources: &Resources) -> Result<()> {
        if self.config.sparsity == 0.0 {
            return Ok(());
        }
        let layout = problem.layout();
        let rule = match self.config.layer_ratios.basis() {
            Basis::Scores(rule) => rule,
            Basis::Layers(rule) => {
                let keep = rule.counts(layout, self.config.sparsity);
                self.sets = match self.config.mask {
                    Mask::Fixed => {
                        let uncovered = self.uncovered();
                        ActiveSets::Fixed(sparsity::random_active(layout, &keep, uncovered, self.seed, 0))
                    }
                    Mask::Redraw | Mask::Rescore => ActiveSets::Drawn(keep),
                };
                return Ok(());
            }
        };
        let mask = self.scored(rule, problem, params, 0, resources)?;
        let active = || sparsity::scored_active(layout, &mask, self.uncovered(), self.seed, 0);
        self.sets = match self.config.mask {
            Mask::Redraw => ActiveSets::Drawn(KeepCounts::of_mask(layout, &mask)),
            Mask::Fixed => ActiveSets::Fixed(active()),
            Mask::Rescore => ActiveSets::Rescored { draw: 0, active: active() },
        };
        Ok(())
    }

    /// Scores the present parameters `params` (d) and takes the mask of these scores, if the settings
    /// ask for it before `epoch` (1-based) and it has not happened; else does nothing. Queries are counted.
    ///
    /// # Errors
    /// As [`Active::score`].
    pub fn refresh(
        &mut self,
        epoch: usize,
        problem: &dyn Problem,
        params: &[f64],
        resources: &Resources,
    ) -> Result<()> {
        let due = self.draw_of(epoch);
        let ActiveSets::Rescored { draw, .. } = self.sets else { return Ok(()) };
        // Only masks of scores are taken anew.
        let Basis::Scores(rule) = self.config.layer_ratios.basis() else { return Ok(()) };
        if due > draw {
            let mask = self.scored(rule, problem, params, due, resources)?;
            let active = sparsity::scored_active(problem.layout(), &mask, self.uncovered(), self.seed, due);
            self.sets = ActiveSets::Rescored { draw: due, active };
        }
        Ok(())
    }

    /// The number of the active set that holds in `epoch` (1-based), from 0; with scored masks that of the
    /// last [refresh](Active::refresh).
    #[must_use]
    pub fn draw(&self, epoch: usize) -> u32 {
        match &self.sets {
            ActiveSets::All | ActiveSets::Fixed(_) => 0,
            ActiveSets::Drawn(_) => self.draw_of(epoch),
            ActiveSets::Rescored { draw, .. } => *draw,
        }
    }

    /// The active coordinates in `epoch` (1-based), sorted.
    #[must_use]
    pub fn in_epoch(&self, epoch: usize, layout: &Layout) -> Arc<[usize]> {
        match &self.sets {
            ActiveSets::All => (0..layout.n_coords()).collect(),
            ActiveSets::Fixed(active) | ActiveSets::Rescored { active, .. } => active.clone(),
            ActiveSets::Drawn(keep) => {
                sparsity::random_active(layout, keep, self.uncovered(), self.seed, self.draw(epoch))
            }
        }
    }

    /// Which coordinates are kept for good (d), if that is decided once.
    #[must_use]
    pub fn mask(&self, layout: &Layout) -> Option<Vec<bool>> {
        let ActiveSets::Fixed(active) = &self.sets else { return None };
        let mut kept = vec![false; layout.n_coords()];
        active.iter().for_each(|&coord| kept[coord] = true);
        Some(kept)
    }

    /// Coordinates that are pruned for good (d), if the settings prune weights.
    #[must_use]
    pub fn pruned(&self, layout: &Layout) -> Option<Vec<bool>> {
        let kept = self.mask(layout).filter(|_| self.config.sparse_target == SparseTarget::Weights)?;
        Some(kept.into_iter().map(|kept| !kept).collect())
    }

    /// What the sets are drawn from, as numbers: the kind, then what it holds.
    #[must_use]
    pub fn state(&self) -> Vec<f64> {
        let numbers =
            |values: &mut dyn Iterator<Item = usize>| values.map(|n| n as f64).collect::<Vec<f64>>();
        let (kind, values) = match &self.sets {
            ActiveSets::All => (ALL, Vec::new()),
            ActiveSets::Drawn(keep) => {
                (DRAWN, numbers(&mut keep.layers.iter().flat_map(|&(idx, n)| [idx, n])))
            }
            ActiveSets::Fixed(active) => (FIXED, numbers(&mut active.iter().copied())),
            ActiveSets::Rescored { draw, active } => {
                (RESCORED, numbers(&mut std::iter::once(*draw as usize).chain(active.iter().copied())))
            }
        };
        [vec![kind], values].concat()
    }

    /// Goes on from a stored state.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn restore(&mut self, state: &[f64], layout: &Layout) -> std::result::Result<(), String> {
        let wrong = || "an unknown kind of active set".to_owned();
        let (kind, values) = state.split_first().ok_or_else(wrong)?;
        let most = layout.n_coords().max(u32::MAX as usize);
        let values = values.iter().map(|&value| integer("a number of the active set", value, most));
        let values = values.collect::<std::result::Result<Vec<usize>, String>>()?;
        let sorted = |active: &[usize]| {
            let is_set = active.is_sorted_by(|a, b| a < b) && active.last() < Some(&layout.n_coords());
            is_set.then(|| active.into()).ok_or_else(|| "the active set is not one of coordinates".to_owned())
        };
        self.sets = match *kind {
            kind if kind == ALL => ActiveSets::All,
            kind if kind == FIXED => ActiveSets::Fixed(sorted(&values)?),
            kind if kind == DRAWN => {
                let layers: Vec<(usize, usize)> =
                    values.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                let is_count =
                    |&(idx, n): &(usize, usize)| layout.specs().get(idx).is_some_and(|spec| n <= spec.len());
                if !layers.iter().all(is_count) || !layers.is_sorted_by(|a, b| a.0 < b.0) {
                    return Err("the active set does not fit the network".to_owned());
                }
                ActiveSets::Drawn(KeepCounts { layers })
            }
            kind if kind == RESCORED => {
                let (draw, active) = values.split_first().ok_or_else(wrong)?;
                let draw = u32::try_from(*draw).map_err(|_| wrong())?;
                ActiveSets::Rescored { draw, active: sorted(active)? }
            }
            _ => return Err(wrong()),
        };
        Ok(())
    }

    /// Number of the active set that is due in `epoch` (1-based).
    fn draw_of(&self, epoch: usize) -> u32 {
        ((epoch - 1) / self.config.redraw_every) as u32
    }

    fn uncovered(&self) -> Uncovered {
        // Pruned weights never take batch norm and biases with them.
        if self.config.always_active || self.config.sparse_target == SparseTarget::Weights {
            Uncovered::Active
        } else {
            Uncovered::Sparse(self.config.sparsity)
        }
    }

    /// The mask (d) of a rule's scores at `params` (d): scoring number `draw` of the run, from 0. All score the same
    /// images, each with random directions of its own. Queries are counted.
    ///
    /// # Errors
    /// If the data has too few images per class, or a query fails.
    fn scored(
        &self,
        rule: &dyn ByScores,
        problem: &dyn Problem,
        params: &[f64],
        draw: u32,
        resources: &Resources,
    ) -> Result<Vec<bool>> {
        let layout = problem.layout();
        let loss = ScoringBatch {
            problem,
            per_class: self.config.grasp_images_per_class,
            resources,
            batch: OnceCell::new(),
        };
        let n_dirs = u32::try_from(self.config.grasp_queries).unwrap_or(u32::MAX);
        let scoring = Scoring { layout, params, loss: &loss, mu: self.mu, n_dirs, seed: self.seed, draw };
        sparsity::global_mask(layout, &rule.scores(&scoring)?, self.config.sparsity)
    }
}

/// The loss of a problem on the images that scores look at, which are put together when one does.
struct ScoringBatch<'a> {
    problem: &'a dyn Problem,
    per_class: usize,
    resources: &'a Resources<'a>,
    batch: OnceCell<Box<dyn Minibatch + 'a>>,
}

impl ScoringBatch<'_> {
    fn batch(&self) -> Result<&dyn Minibatch> {
        if let Some(batch) = self.batch.get() {
            return Ok(&**batch);
        }
        let batch = self.problem.scoring_batch(self.per_class)?;
        Ok(&**self.batch.get_or_init(|| batch))
    }
}

impl ScoredLoss for ScoringBatch<'_> {
    fn estimate(&self, estimator: &dyn Estimator, params: &[f64]) -> Result<Vec<f64>> {
        let batch = self.batch()?;
        let Resources { ranks, interrupt, count, .. } = *self.resources;
        let objective = batch.objective();
        let objective = Metered::new(&*objective, count);
        let evaluator = evaluate::at(&objective, EvaluatorKind::Full, params)?;
        let shared = Shared::new(&evaluator, ranks, Some(batch.layout()), count, interrupt);
        Ok(zo::estimate(estimator, &shared)?.gradient)
    }

    fn gradient(&self, params: &[f64], temperature: f64) -> Result<Vec<f64>> {
        let (network, images, labels) = self.batch()?.graph().ok_or_else(sparsity::nothing_inside)?;
        let images = images.to_dtype(DType::F64)?;
        Ok(backprop::gradient(network, params, &images, labels, temperature)?.gradient)
    }
}

/// Kinds of [`ActiveSets`] in a stored state.
const ALL: f64 = 0.0;
const DRAWN: f64 = 1.0;
const FIXED: f64 = 2.0;
const RESCORED: f64 = 3.0;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    use candle_core::Device;

    use crate::nn::model::{self, Io};
    use crate::nn::{self, Network};
    use crate::problem::{Classify, Prepared};
    use crate::zo::QueryCount;
    use crate::zo::sparsity::{Magnitude, RULES, Rule, SmartRatio, Snip, Uniform, ZoGrasp, ZoGraspReleased};

    static GO_ON: AtomicBool = AtomicBool::new(false);

    /// Re-scored every second epoch, with 2 (8 + 1) queries where scores take queries.
    fn config(layer_ratios: &'static dyn Rule, mask: Mask) -> Config {
        Config {
            layer_ratios,
            mask,
            redraw_every: 2,
            grasp_queries: 8,
            grasp_images_per_class: 2,
            sparsity: 0.75,
            ..Config::default()
        }
    }

    /// A small network, its initial parameters, images, and the queries so far.
    struct Scene {
        network: Network,
        params: Vec<f64>,
        images: Prepared,
        count: QueryCount,
    }

    impl Scene {
        fn new() -> Self {
            let network = model::from_name("resnet-b10-w2", &Io::CIFAR).unwrap();
            let params = network.layout().initial_values(1);
            Self { network, params, images: Prepared::procedural(40), count: QueryCount::default() }
        }

        fn resources(&self) -> Resources<'_> {
            Resources {
                device: &Device::Cpu,
                memory: 1 << 30,
                ranks: &crate::ranks::ALONE,
                interrupt: &GO_ON,
                count: &self.count,
            }
        }

        fn problem(&self) -> Classify<'_> {
            Classify::new(&self.network, &self.images, &nn::Config::default(), 3, self.resources())
        }

        fn start(&self, layer_ratios: &'static dyn Rule, mask: Mask) -> Active {
            let mu = zo::Smoothing::default().mu;
            let sets = ActiveSets::All;
            let mut active = Active { config: config(layer_ratios, mask), mu, seed: 3, sets };
            active.score(&self.problem(), &self.params, &self.resources()).unwrap();
            active
        }

        fn refresh(&self, active: &mut Active, epoch: usize, params: &[f64]) {
            active.refresh(epoch, &self.problem(), params, &self.resources()).unwrap();
        }
    }

    /// Every rule keeps the asked number of weights, whatever becomes of its ratios, and takes the queries it says.
    #[test]
    fn every_rule_meets_the_sparsity() {
        let scene = Scene::new();
        let layout = scene.network.layout();
        let is_covered = |coord: usize| layout.specs()[layout.param_of(coord)].kind.is_prunable();
        let n_weights = (0..layout.n_coords()).filter(|&coord| is_covered(coord)).count();
        for &rule in RULES {
            for mask in [Mask::Redraw, Mask::Fixed, Mask::Rescore] {
                let before = scene.count.queries();
                let sets = scene.start(rule, mask);
                assert_eq!(scene.count.queries() - before, rule.queries(&config(rule, mask)));
                let active = sets.in_epoch(1, layout);
                let kept = active.iter().filter(|&&coord| is_covered(coord)).count();
                let expected = n_weights - (0.75 * n_weights as f64).round() as usize;
                // Uniform ratios are rounded layer by layer.
                let slack = if rule == &Uniform as &dyn Rule { layout.specs().len() } else { 0 };
                assert!(kept.abs_diff(expected) <= slack, "{rule:?} {mask:?}: {kept}, not {expected}");
                assert_eq!(active.len() - kept, layout.n_coords() - n_weights);
                let is_kept_for_good = sets.mask(layout).is_some();
                assert_eq!(is_kept_for_good, mask == Mask::Fixed);
            }
        }
    }

    /// The largest |θ| are kept.
    #[test]
    fn magnitude_keeps_the_largest_weights() {
        let scene = Scene::new();
        let layout = scene.network.layout();
        let kept = scene.start(&Magnitude, Mask::Fixed).mask(layout).unwrap();
        let sizes = |is_kept: bool| {
            let (kept, params) = (&kept, &scene.params);
            let covered = layout.specs().iter().enumerate().filter(|(_, spec)| spec.kind.is_prunable());
            let coords = covered.flat_map(|(idx, _)| layout.range(idx));
            coords.filter(move |&coord| kept[coord] == is_kept).map(move |coord| params[coord].abs())
        };
        assert!(sizes(true).fold(f64::INFINITY, f64::min) >= sizes(false).fold(0.0, f64::max));
        assert_eq!(scene.count.queries(), 0);
    }

    /// A scoring is due every second epoch, counts its queries, follows the parameters, and depends on
    /// nothing but them and its number.
    #[test]
    fn masks_are_scored_again() {
        let rules: [(&'static dyn Rule, u64); 3] = [(&ZoGrasp, 18), (&ZoGraspReleased, 18), (&Snip, 0)];
        for (rule, n_queries) in rules {
            let scene = Scene::new();
            let mut sets = scene.start(rule, Mask::Rescore);
            let first = sets.clone();
            assert_eq!(scene.count.queries(), n_queries);
            for epoch in [1, 2] {
                scene.refresh(&mut sets, epoch, &scene.params);
                assert_eq!(sets.sets, first.sets);
            }
            assert_eq!(scene.count.queries(), n_queries);
            let moved = scene.network.layout().initial_values(2);
            scene.refresh(&mut sets, 3, &moved);
            let second = sets.clone();
            assert_eq!(scene.count.queries(), 2 * n_queries);
            let active = |sets: &Active| sets.in_epoch(3, scene.network.layout());
            assert_eq!((first.draw(3), second.draw(3)), (0, 1));
            assert_ne!(active(&first), active(&second));
            assert_eq!(active(&first).len(), active(&second).len());
            // Once is enough.
            scene.refresh(&mut sets, 4, &scene.params);
            assert_eq!(sets.sets, second.sets);
            // The same again, as after an interruption.
            let mut again = first.clone();
            scene.refresh(&mut again, 3, &moved);
            assert_eq!(again.sets, second.sets);
            // The same parameters: exact scores stay, random directions are new ones.
            let mut same = first.clone();
            scene.refresh(&mut same, 3, &scene.params);
            assert_eq!(active(&same) == active(&first), n_queries == 0, "{rule:?}");
        }
    }

    /// Sets that are not scored again stay as they are.
    #[test]
    fn other_sets_are_left_alone() {
        let scene = Scene::new();
        let others: [(&'static dyn Rule, Mask); 2] = [(&Snip, Mask::Redraw), (&SmartRatio, Mask::Fixed)];
        for (rule, mask) in others {
            let mut sets = scene.start(rule, mask);
            let before = sets.clone();
            scene.refresh(&mut sets, 9, &scene.network.layout().initial_values(2));
            assert_eq!(sets.sets, before.sets);
        }
    }

    /// Every kind of set comes back from a checkpoint's numbers.
    #[test]
    fn sets_are_restored() {
        let network = model::cnn(1, 2, &Io::CIFAR).unwrap();
        let layout = network.layout();
        let counts = KeepCounts { layers: vec![(0, 3), (4, 5)] };
        for sets in [
            ActiveSets::All,
            ActiveSets::Drawn(counts),
            ActiveSets::Fixed([1, 7].into()),
            ActiveSets::Rescored { draw: 2, active: [0, 5].into() },
        ] {
            let stored = Active { sets: sets.clone(), ..Active::all() }.state();
            let mut found = Active::all();
            found.restore(&stored, layout).unwrap();
            assert_eq!(found.sets, sets);
        }
        let d = layout.n_coords() as f64;
        let hostile: [&[f64]; 13] = [
            &[],
            &[9.0],
            &[f64::NAN],
            &[FIXED, d],
            &[FIXED, 3.0, 3.0],
            &[FIXED, 1.5],
            &[FIXED, -1.0],
            &[FIXED, 1e18],
            &[DRAWN, 1e9, 1.0],
            &[DRAWN, 0.0, 1e9],
            &[DRAWN, 4.0, 1.0, 0.0, 1.0],
            &[RESCORED],
            &[RESCORED, 0.0, 5.0, 1.0],
        ];
        for state in hostile {
            let mut sets = Active::all();
            assert!(sets.restore(state, layout).is_err() && sets.sets == ActiveSets::All, "{state:?}");
        }
    }
}
