//! From sparsity settings to the active set of an epoch.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::Device;

use crate::data::{self, Dataset, Normalization};
use crate::experiment::Settings;
use crate::metric::{COSINE, RELATIVE_ERROR};
use crate::nn::objective::NetworkObjective;
use crate::nn::{Network, prune};
use crate::ranks::Ranks;
use crate::results::Profile;
use crate::zo::evaluate::{Evaluator, Shared};
use crate::zo::sparsity::{self, KeepCounts, Uncovered, ZoGrasp};
use crate::zo::sparsity::{LayerRatios, Mask, SparseTarget};
use crate::zo::{self, Estimator, Metered, QueryCount};
use crate::{Error, Result};

/// What the evaluations of a trial may use.
#[derive(Debug, Clone, Copy)]
pub struct Resources<'a> {
    /// The device.
    pub device: &'a Device,
    /// Bytes that changes in flight, or points evaluated together on a GPU, may occupy; results do not depend
    /// on it.
    pub memory: usize,
    /// The processes that share the probes; results do not depend on them.
    pub ranks: &'a Ranks,
    /// Set when the user wants to stop.
    pub interrupt: &'a AtomicBool,
}

/// What the active sets of a trial are drawn from.
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

impl ActiveSets {
    /// Scores the initial parameters `params` (d) as the settings ask. ZO-GraSP's queries are
    /// counted in `count`.
    ///
    /// # Errors
    /// If the data has too few images per class, or a query fails.
    pub fn at_initialization(
        settings: &Settings,
        seed: u64,
        network: &Network,
        train: &Dataset,
        params: &[f64],
        count: &QueryCount,
        resources: Resources,
    ) -> Result<Self> {
        if settings.sparsity == 0.0 {
            return Ok(Self::All);
        }
        let layout = network.layout();
        if let Some(keep) = unscored(settings, network) {
            return Ok(match settings.mask {
                Mask::Fixed => {
                    Self::Fixed(sparsity::random_active(layout, &keep, uncovered(settings), seed, 0))
                }
                Mask::Redraw | Mask::Rescore => Self::Drawn(keep),
            });
        }
        let (keep, mask) = scored(settings, seed, network, train, params, 0, count, resources)?;
        let active = || sparsity::scored_active(layout, &mask, uncovered(settings), seed, 0);
        Ok(match settings.mask {
            Mask::Redraw => Self::Drawn(keep),
            Mask::Fixed => Self::Fixed(active()),
            Mask::Rescore => Self::Rescored { draw: 0, active: active() },
        })
    }

    /// Scores the present parameters `params` (d) and takes the mask of these scores, if the settings
    /// ask for it before `epoch` (1-based) and it has not happened; else does nothing. Queries are counted
    /// in `count`.
    ///
    /// # Errors
    /// As [`ActiveSets::at_initialization`].
    #[expect(clippy::too_many_arguments, reason = "those of the first scoring, and the epoch")]
    pub fn refresh(
        &mut self,
        epoch: usize,
        settings: &Settings,
        seed: u64,
        network: &Network,
        train: &Dataset,
        params: &[f64],
        count: &QueryCount,
        resources: Resources,
    ) -> Result<()> {
        let due = draw_of(epoch, settings);
        let Self::Rescored { draw, active } = self else { return Ok(()) };
        if due > *draw {
            let (_, mask) = scored(settings, seed, network, train, params, due, count, resources)?;
            *active = sparsity::scored_active(network.layout(), &mask, uncovered(settings), seed, due);
            *draw = due;
        }
        Ok(())
    }

    /// The number of the active set that holds in `epoch` (1-based), from 0; with scored masks that of the
    /// last [refresh](ActiveSets::refresh).
    #[must_use]
    pub fn draw(&self, epoch: usize, settings: &Settings) -> u32 {
        match self {
            Self::All | Self::Fixed(_) => 0,
            Self::Drawn(_) => draw_of(epoch, settings),
            Self::Rescored { draw, .. } => *draw,
        }
    }

    /// The active coordinates in `epoch` (1-based), sorted.
    #[must_use]
    pub fn in_epoch(&self, epoch: usize, settings: &Settings, seed: u64, network: &Network) -> Arc<[usize]> {
        let layout = network.layout();
        match self {
            Self::All => (0..layout.n_coords()).collect(),
            Self::Fixed(active) | Self::Rescored { active, .. } => active.clone(),
            Self::Drawn(keep) => {
                let draw = self.draw(epoch, settings);
                sparsity::random_active(layout, keep, uncovered(settings), seed, draw)
            }
        }
    }

    /// Which coordinates are kept for good (d), if that is decided once.
    #[must_use]
    pub fn mask(&self, network: &Network) -> Option<Vec<bool>> {
        let Self::Fixed(active) = self else { return None };
        let mut kept = vec![false; network.layout().n_coords()];
        active.iter().for_each(|&coord| kept[coord] = true);
        Some(kept)
    }

    /// Coordinates that are pruned for good (d), if the settings prune weights.
    #[must_use]
    pub fn pruned(&self, settings: &Settings, network: &Network) -> Option<Vec<bool>> {
        let kept = self.mask(network).filter(|_| settings.sparse_target == SparseTarget::Weights)?;
        Some(kept.into_iter().map(|kept| !kept).collect())
    }
}

/// Number of the active set that is due in `epoch` (1-based).
fn draw_of(epoch: usize, settings: &Settings) -> u32 {
    ((epoch - 1) / settings.redraw_every) as u32
}

/// Counts per layer by the rules that see no scores; none by the others.
fn unscored(settings: &Settings, network: &Network) -> Option<KeepCounts> {
    let (layout, sparsity) = (network.layout(), settings.sparsity);
    match settings.layer_ratios {
        LayerRatios::Uniform => Some(KeepCounts::uniform(layout, sparsity)),
        LayerRatios::SmartRatio => Some(KeepCounts::smart_ratio(layout, sparsity)),
        _ => None,
    }
}

/// Counts per layer and mask (d) of the settings' scores at `params` (d): scoring number `draw` of the
/// run, from 0. All score the same images, each with random directions of its own. ZO-GraSP's queries are
/// counted in `count`.
///
/// # Errors
/// If the settings' rule has no scores, the data has too few images per class, or a query fails.
#[expect(clippy::too_many_arguments, reason = "everything that scores depend on")]
pub(super) fn scored(
    settings: &Settings,
    seed: u64,
    network: &Network,
    train: &Dataset,
    params: &[f64],
    draw: u32,
    count: &QueryCount,
    resources: Resources,
) -> Result<(KeepCounts, Vec<bool>)> {
    let batch = || {
        let rows = data::class_batch(train, settings.grasp_images_per_class)?;
        data::make_batch(
            train,
            &rows,
            None,
            &Normalization::CIFAR10,
            settings.precision.dtype(),
            resources.device,
        )
    };
    let scores = match settings.layer_ratios {
        LayerRatios::Uniform | LayerRatios::SmartRatio => {
            return Err(Error::setting("layer-ratios", "this rule has no scores"));
        }
        LayerRatios::Magnitude => params.to_vec(),
        LayerRatios::Snip => {
            let batch = batch()?;
            prune::snip_scores(network, &batch.images, &batch.labels, params)?
        }
        LayerRatios::FoGrasp => {
            let batch = batch()?;
            prune::fo_scores(network, &batch.images, &batch.labels, params)?
        }
        form @ (LayerRatios::ZoGrasp | LayerRatios::ZoGraspReleased) => {
            let batch = batch()?;
            let objective = NetworkObjective {
                memory: resources.memory,
                ..NetworkObjective::new(network, &batch.images, &batch.labels)
            };
            let n_dirs = u32::try_from(settings.grasp_queries).unwrap_or(u32::MAX);
            let how = ZoGrasp { form, mu: settings.mu, n_dirs, seed, draw };
            let objective = Metered::new(objective, count);
            let make = |estimator: &dyn Estimator, evaluator: &dyn Evaluator| {
                let layout = Some(network.layout().as_ref());
                zo::estimate(
                    estimator,
                    &Shared::new(evaluator, resources.ranks, layout, count, resources.interrupt),
                )
            };
            sparsity::zo_scores(&how, network.layout(), &objective, params, &make)?
        }
    };
    let mask = sparsity::global_mask(network.layout(), &scores, settings.sparsity)?;
    Ok((KeepCounts::of_mask(network.layout(), &mask), mask))
}

/// How much of every parameter tensor is in an active set (sorted).
pub(super) fn tensors(network: &Network, active: &[usize]) -> Profile {
    let layout = network.layout();
    let specs = layout.specs();
    let n_active = (0..specs.len()).map(|param_idx| within(active, &layout.range(param_idx)).len() as u64);
    let unknown = vec![f64::NAN; specs.len()];
    Profile::new(Profile::TENSORS, "tensor", specs.iter().map(|spec| spec.name.clone()).collect())
        .with_counts("n", specs.iter().map(|spec| spec.len() as u64).collect())
        .with_counts("n_active", n_active.collect())
        .with(COSINE.column, unknown.clone())
        .with(RELATIVE_ERROR.column, unknown)
}

/// The part of an active set (sorted) that lies in a range.
pub(super) fn within<'a>(active: &'a [usize], range: &Range<usize>) -> &'a [usize] {
    let start = active.partition_point(|&coord| coord < range.start);
    let end = active.partition_point(|&coord| coord < range.end);
    &active[start..end]
}

fn uncovered(settings: &Settings) -> Uncovered {
    // Pruned weights never take batch norm and biases with them.
    if settings.always_active || settings.sparse_target == SparseTarget::Weights {
        Uncovered::Active
    } else {
        Uncovered::Sparse(settings.sparsity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model;

    static GO_ON: AtomicBool = AtomicBool::new(false);
    static CPU: Resources =
        Resources { device: &Device::Cpu, memory: 1 << 30, ranks: &crate::ranks::ALONE, interrupt: &GO_ON };

    const ALL_RULES: [LayerRatios; 7] = [
        LayerRatios::Uniform,
        LayerRatios::ZoGrasp,
        LayerRatios::ZoGraspReleased,
        LayerRatios::FoGrasp,
        LayerRatios::Snip,
        LayerRatios::Magnitude,
        LayerRatios::SmartRatio,
    ];

    /// Re-scored every second epoch, with 2 (8 + 1) queries where scores take queries.
    fn settings(layer_ratios: LayerRatios, mask: Mask) -> Settings {
        Settings {
            layer_ratios,
            mask,
            redraw_every: 2,
            grasp_queries: 8,
            grasp_images_per_class: 2,
            sparsity: 0.75,
            ..Settings::default()
        }
    }

    /// A small network, its initial parameters, images, and the queries so far.
    struct Scene {
        network: Network,
        params: Vec<f64>,
        train: Dataset,
        count: QueryCount,
    }

    impl Scene {
        fn new() -> Self {
            let network = model::from_name("resnet-b10-w2").unwrap();
            let params = network.layout().initial_values(1);
            Self { network, params, train: data::synthetic(40, 0).train, count: QueryCount::default() }
        }

        fn start(&self, settings: &Settings) -> ActiveSets {
            let Self { network, params, train, count } = self;
            ActiveSets::at_initialization(settings, 3, network, train, params, count, CPU).unwrap()
        }

        fn refresh(&self, sets: &mut ActiveSets, epoch: usize, settings: &Settings, params: &[f64]) {
            let Self { network, train, count, .. } = self;
            sets.refresh(epoch, settings, 3, network, train, params, count, CPU).unwrap();
        }
    }

    /// Every rule keeps the asked number of weights, whatever becomes of its ratios.
    #[test]
    fn every_rule_meets_the_sparsity() {
        let scene = Scene::new();
        let layout = scene.network.layout();
        let is_covered = |coord: usize| layout.specs()[layout.param_of(coord)].kind.is_prunable();
        let n_weights = (0..layout.n_coords()).filter(|&coord| is_covered(coord)).count();
        for rule in ALL_RULES {
            for mask in [Mask::Redraw, Mask::Fixed, Mask::Rescore] {
                let settings = settings(rule, mask);
                let sets = scene.start(&settings);
                let active = sets.in_epoch(1, &settings, 3, &scene.network);
                let kept = active.iter().filter(|&&coord| is_covered(coord)).count();
                let expected = n_weights - (0.75 * n_weights as f64).round() as usize;
                // Uniform ratios are rounded layer by layer.
                let slack = if rule == LayerRatios::Uniform { layout.specs().len() } else { 0 };
                assert!(kept.abs_diff(expected) <= slack, "{rule:?} {mask:?}: {kept}, not {expected}");
                assert_eq!(active.len() - kept, layout.n_coords() - n_weights);
                let is_kept_for_good = sets.mask(&scene.network).is_some();
                assert_eq!(is_kept_for_good, mask == Mask::Fixed);
            }
        }
    }

    /// The largest |θ| are kept.
    #[test]
    fn magnitude_keeps_the_largest_weights() {
        let (scene, settings) = (Scene::new(), settings(LayerRatios::Magnitude, Mask::Fixed));
        let kept = scene.start(&settings).mask(&scene.network).unwrap();
        let layout = scene.network.layout();
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
        for (rule, n_queries) in
            [(LayerRatios::ZoGrasp, 18), (LayerRatios::ZoGraspReleased, 18), (LayerRatios::Snip, 0)]
        {
            let (scene, settings) = (Scene::new(), settings(rule, Mask::Rescore));
            let mut sets = scene.start(&settings);
            let first = sets.clone();
            assert_eq!(scene.count.queries(), n_queries);
            for epoch in [1, 2] {
                scene.refresh(&mut sets, epoch, &settings, &scene.params);
                assert_eq!(sets, first);
            }
            assert_eq!(scene.count.queries(), n_queries);
            let moved = scene.network.layout().initial_values(2);
            scene.refresh(&mut sets, 3, &settings, &moved);
            let second = sets.clone();
            assert_eq!(scene.count.queries(), 2 * n_queries);
            let active = |sets: &ActiveSets| sets.in_epoch(3, &settings, 3, &scene.network);
            assert_eq!((first.draw(3, &settings), second.draw(3, &settings)), (0, 1));
            assert_ne!(active(&first), active(&second));
            assert_eq!(active(&first).len(), active(&second).len());
            // Once is enough.
            scene.refresh(&mut sets, 4, &settings, &scene.params);
            assert_eq!(sets, second);
            // The same again, as after an interruption.
            let mut again = first.clone();
            scene.refresh(&mut again, 3, &settings, &moved);
            assert_eq!(again, second);
            // The same parameters: exact scores stay, random directions are new ones.
            let mut same = first.clone();
            scene.refresh(&mut same, 3, &settings, &scene.params);
            assert_eq!(active(&same) == active(&first), n_queries == 0, "{rule:?}");
        }
    }

    /// Sets that are not scored again stay as they are.
    #[test]
    fn other_sets_are_left_alone() {
        let scene = Scene::new();
        for (rule, mask) in [(LayerRatios::Snip, Mask::Redraw), (LayerRatios::SmartRatio, Mask::Fixed)] {
            let settings = settings(rule, mask);
            let mut sets = scene.start(&settings);
            let before = sets.clone();
            scene.refresh(&mut sets, 9, &settings, &scene.network.layout().initial_values(2));
            assert_eq!(sets, before);
        }
    }
}
