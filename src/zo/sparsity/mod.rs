//! Sparsity: scores to layer-wise ratios to active sets.
//!
//! The *gradient* is sparse: an active set says which coordinates are estimated, the model stays
//! dense (unless weights are pruned on purpose). Ratios apply to convolution and linear weights;
//! batch-norm parameters and biases are outside the ratio.

mod grasp;
mod magnitude;
mod predicted;
mod rule;
mod smart_ratio;
mod snip;
mod uniform;

pub use grasp::{FoGrasp, ZoGrasp, ZoGraspReleased};
pub use magnitude::Magnitude;
pub use predicted::predicted_active;
pub(crate) use rule::nothing_inside;
pub use rule::{Basis, ByLayers, ByScores, Rule, ScoredLoss, Scoring};
pub use smart_ratio::SmartRatio;
pub use snip::Snip;
pub use uniform::Uniform;

use std::ops::Range;
use std::sync::Arc;

use crate::params::Layout;
use crate::rng::{Purpose, Stream};
use crate::setting::Domain::{From, Int};
use crate::{Error, Result};

/// All rules. A new one is a file beside this and a line here.
pub static RULES: &[&dyn Rule] =
    &[&Uniform, &ZoGrasp, &ZoGraspReleased, &FoGrasp, &Snip, &Magnitude, &SmartRatio];

crate::registered!(dyn Rule, RULES);

crate::choice! {
    /// How the active set is chosen from the ratios.
    pub enum Mask {
        /// A fresh random set with the layer ratios every `redraw_every` epochs (the paper's choice).
        Redraw = "redraw",
        /// The scored mask itself, fixed at initialization (the paper's M2).
        Fixed = "fixed",
        /// A fresh scored mask every `redraw_every` epochs (the paper's M1).
        Rescore = "rescore",
    }
}

crate::choice! {
    /// What sparsity applies to.
    pub enum SparseTarget {
        /// Only the gradient is sparse; the model stays dense.
        Gradient = "gradient",
        /// Pruned weights are zero and stay zero.
        Weights = "weights",
    }
}

crate::section! {
    /// Which coordinates of a gradient are estimated, or kept.
    pub struct Config {
        /// Fraction of conv and linear weights left out of the active set, in [0, 1).
        pub sparsity: f64 = 0.9 => From(0.0, 1.0),
        /// Source of the layer-wise ratios.
        pub layer_ratios: &'static dyn Rule = &ZoGrasp,
        /// How the active set follows from the ratios.
        pub mask: Mask = Mask::Redraw,
        /// Epochs between re-draws of the active set (K_sparse).
        pub redraw_every: usize = 5 => Int(1, 1_000_000),
        /// Sparse gradient or sparse weights.
        pub sparse_target: SparseTarget = SparseTarget::Gradient,
        /// Whether batch-norm parameters and biases are always active, outside the ratio.
        pub always_active: bool = true,
        /// Random directions of ZO-GraSP.
        pub grasp_queries: usize = 192 => Int(1, 1_000_000),
        /// Images per class in the batch that GraSP scores.
        pub grasp_images_per_class: usize = 25 => Int(1, 100_000),
    }
}

impl Config {
    /// Checks rules between these settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting to change and what it may be.
    pub fn check(&self) -> Result<()> {
        let mask = self.mask.name();
        if self.sparse_target == SparseTarget::Weights && self.mask != Mask::Fixed {
            let reason = format!(
                "sparse-target = weights needs mask = fixed, as pruned weights stay zero; got {mask}"
            );
            return Err(Error::setting("mask", reason));
        }
        if self.mask == Mask::Rescore && matches!(self.layer_ratios.basis(), Basis::Layers(_)) {
            let reason = format!(
                "rescore needs scores, which layer-ratios = {} has none of",
                self.layer_ratios.name()
            );
            return Err(Error::setting("mask", reason));
        }
        Ok(())
    }

    /// How often weights are scored in so many epochs.
    #[must_use]
    pub fn n_scorings(&self, epochs: usize) -> usize {
        match (self.layer_ratios.basis(), self.mask) {
            _ if self.sparsity == 0.0 => 0,
            (Basis::Scores(_), Mask::Rescore) => epochs.div_ceil(self.redraw_every),
            _ => 1,
        }
    }

    /// Settings that change nothing, as the others are.
    #[must_use]
    pub fn idle(&self) -> Vec<&'static str> {
        if self.sparsity == 0.0 {
            let entries = <Self as crate::setting::Section>::ENTRIES;
            return entries.iter().map(|entry| entry.name).filter(|name| *name != "sparsity").collect();
        }
        let mut idle = Vec::new();
        if self.mask == Mask::Fixed {
            idle.push("redraw-every");
        }
        if self.layer_ratios.queries(self) == 0 {
            idle.push("grasp-queries");
        }
        if self.scored_per_class().is_none() {
            idle.push("grasp-images-per-class");
        }
        idle
    }

    /// Whether sets that are meant to be drawn anew never are in so many epochs.
    #[must_use]
    pub fn never_redraws(&self, epochs: usize) -> bool {
        self.sparsity > 0.0 && self.mask != Mask::Fixed && self.redraw_every >= epochs
    }

    /// Images of each class that scores look at; none if there are no such scores.
    #[must_use]
    pub fn scored_per_class(&self) -> Option<usize> {
        let sees_images = match self.layer_ratios.basis() {
            Basis::Layers(_) => false,
            Basis::Scores(rule) => rule.sees_images(),
        };
        (self.sparsity > 0.0 && sees_images).then_some(self.grasp_images_per_class)
    }
}

/// How many weights of every prunable tensor are kept (active), in declared order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepCounts {
    /// (position of the tensor in the layout, weights kept).
    pub layers: Vec<(usize, usize)>,
}

impl KeepCounts {
    /// The counts of a mask (d).
    #[must_use]
    pub fn of_mask(layout: &Layout, mask: &[bool]) -> Self {
        let count = |param_idx| mask[layout.range(param_idx)].iter().filter(|&&kept| kept).count();
        Self { layers: prunable(layout).map(|param_idx| (param_idx, count(param_idx))).collect() }
    }

    /// Weights kept in all layers.
    #[must_use]
    pub fn total(&self) -> usize {
        self.layers.iter().map(|(_, n_keep)| n_keep).sum()
    }
}

fn prunable(layout: &Layout) -> impl Iterator<Item = usize> + '_ {
    (0..layout.specs().len()).filter(|&param_idx| layout.specs()[param_idx].kind.is_prunable())
}

/// Keeps the weights with the largest |score| over all prunable tensors together and removes the
/// round(sparsity · n) smallest; ties go by position. Parameters that are not prunable are kept.
///
/// # Errors
/// If a score is NaN.
pub fn global_mask(layout: &Layout, scores: &[f64], sparsity: f64) -> Result<Vec<bool>> {
    let mut order: Vec<usize> = prunable(layout).flat_map(|param_idx| layout.range(param_idx)).collect();
    if let Some(&coord) = order.iter().find(|&&coord| scores[coord].is_nan()) {
        let name = &layout.specs()[layout.param_of(coord)].name;
        return Err(Error::Objective(format!("a pruning score of `{name}` is NaN; try a smaller mu")));
    }
    let n_removed = (sparsity * order.len() as f64).round() as usize;
    order.sort_by(|&a, &b| scores[a].abs().total_cmp(&scores[b].abs()).then(a.cmp(&b)));
    let mut mask = vec![true; layout.n_coords()];
    order[..n_removed].iter().for_each(|&coord| mask[coord] = false);
    Ok(mask)
}

/// What happens to batch-norm parameters and biases, which the ratios do not cover.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Uncovered {
    /// Always active.
    Active,
    /// Drawn like a layer with this sparsity.
    Sparse(f64),
}

/// A uniformly random active set with these counts per layer (DeepZero, Alg. 1 and 2); draw
/// number `draw` of the run with this `seed`. Sorted coordinates.
#[must_use]
pub fn random_active(
    layout: &Layout,
    keep: &KeepCounts,
    uncovered: Uncovered,
    seed: u64,
    draw: u32,
) -> Arc<[usize]> {
    let stream = Stream::new(seed, Purpose::Mask, draw);
    let mut counts: Vec<usize> = layout
        .specs()
        .iter()
        .map(|spec| match uncovered {
            _ if spec.kind.is_prunable() => 0,
            Uncovered::Active => spec.len(),
            Uncovered::Sparse(sparsity) => spec.len() - (sparsity * spec.len() as f64).round() as usize,
        })
        .collect();
    keep.layers.iter().for_each(|&(param_idx, n_keep)| counts[param_idx] = n_keep);
    let draw_layer = |(param_idx, &n_keep): (usize, &usize)| {
        let range = layout.range(param_idx);
        let chosen = stream.lane(param_idx as u32).subset(range.len(), n_keep);
        chosen.into_iter().map(move |offset| range.start + offset)
    };
    counts.iter().enumerate().flat_map(draw_layer).collect()
}

/// The active set of a scored mask (d), with the uncovered parameters as asked; they belong to draw number
/// `draw`. Sorted coordinates.
#[must_use]
pub fn scored_active(
    layout: &Layout,
    mask: &[bool],
    uncovered: Uncovered,
    seed: u64,
    draw: u32,
) -> Arc<[usize]> {
    let none = KeepCounts { layers: Vec::new() };
    let mut active: Vec<usize> = random_active(layout, &none, uncovered, seed, draw).to_vec();
    active
        .extend(prunable(layout).flat_map(|param_idx| layout.range(param_idx)).filter(|&coord| mask[coord]));
    active.sort_unstable();
    active.into()
}

/// The part of an active set (sorted) that lies in a range.
#[must_use]
pub fn within<'a>(active: &'a [usize], range: &Range<usize>) -> &'a [usize] {
    let start = active.partition_point(|&coord| coord < range.start);
    let end = active.partition_point(|&coord| coord < range.end);
    &active[start..end]
}

/// Layouts as networks have them: nothing here needs the networks themselves.
#[cfg(test)]
pub(crate) mod layouts {
    use crate::params::{Layout, ParamKind, ParamSpec, Start};

    fn push(specs: &mut Vec<ParamSpec>, name: String, kind: ParamKind, shape: &[usize]) {
        let fan_in = shape[1..].iter().product();
        specs.push(ParamSpec { name, kind, shape: shape.to_vec(), fan_in, start: Start::Usual });
    }

    fn push_norm(specs: &mut Vec<ParamSpec>, name: &str, channels: usize) {
        push(specs, format!("{name}.weight"), ParamKind::NormScale, &[channels]);
        push(specs, format!("{name}.bias"), ParamKind::NormShift, &[channels]);
    }

    fn push_linear(specs: &mut Vec<ParamSpec>, n_in: usize) {
        push(specs, "fc.weight".into(), ParamKind::LinearWeight, &[10, n_in]);
        push(specs, "fc.bias".into(), ParamKind::Bias, &[10]);
    }

    /// Blocks of convolution with bias and batch norm, and a linear layer.
    pub(crate) fn cnn(depth: usize, width: usize) -> Layout {
        let mut specs = Vec::new();
        for block in 0..depth {
            let c_in = if block == 0 { 3 } else { width };
            let conv = format!("features.{}", 4 * block);
            push(&mut specs, format!("{conv}.weight"), ParamKind::ConvWeight, &[width, c_in, 3, 3]);
            push(&mut specs, format!("{conv}.bias"), ParamKind::Bias, &[width]);
            push_norm(&mut specs, &format!("features.{}", 4 * block + 1), width);
        }
        push_linear(&mut specs, width);
        Layout::new(specs)
    }

    /// ResNet-20 with option-A shortcuts: 269,722 parameters.
    pub(crate) fn resnet20() -> Layout {
        let mut specs = Vec::new();
        push(&mut specs, "conv1.weight".into(), ParamKind::ConvWeight, &[16, 3, 3, 3]);
        push_norm(&mut specs, "bn1", 16);
        let mut c_in = 16;
        for stage in 0..3 {
            let c_out = 16 << stage;
            for block in 0..3 {
                let name = format!("layer{}.{block}", stage + 1);
                push(&mut specs, format!("{name}.conv1.weight"), ParamKind::ConvWeight, &[c_out, c_in, 3, 3]);
                push_norm(&mut specs, &format!("{name}.bn1"), c_out);
                push(
                    &mut specs,
                    format!("{name}.conv2.weight"),
                    ParamKind::ConvWeight,
                    &[c_out, c_out, 3, 3],
                );
                push_norm(&mut specs, &format!("{name}.bn2"), c_out);
                c_in = c_out;
            }
        }
        push_linear(&mut specs, c_in);
        let layout = Layout::new(specs);
        assert_eq!(layout.n_coords(), 269_722);
        layout
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        /// Masks keep n − round(p n) weights; random sets have the mask's layer counts, hold every
        /// batch-norm parameter and bias, are sorted, distinct and change with the draw.
        #[test]
        fn sets_have_the_asked_sizes(sparsity in 0.0f64..0.99, seed in 0u64..100) {
            let layout = &layouts::cnn(2, 18);
            let mut scores = vec![0.0; layout.n_coords()];
            Stream::new(seed, Purpose::Test, 0).fill_normal(&mut scores);
            let mask = global_mask(layout, &scores, sparsity).unwrap();
            let n_weights: usize = prunable(layout).map(|idx| layout.range(idx).len()).sum();
            let keep = KeepCounts::of_mask(layout, &mask);
            prop_assert_eq!(keep.total(), n_weights - (sparsity * n_weights as f64).round() as usize);
            let threshold = prunable(layout).flat_map(|idx| layout.range(idx)).filter(|&c| mask[c])
                .map(|c| scores[c].abs()).fold(f64::INFINITY, f64::min);
            prop_assert!((0..layout.n_coords()).all(|c| mask[c] || scores[c].abs() <= threshold));

            let active = random_active(layout, &keep, Uncovered::Active, seed, 0);
            prop_assert!(active.windows(2).all(|w| w[0] < w[1]));
            prop_assert_eq!(active.len(), keep.total() + layout.n_coords() - n_weights);
            for &(param_idx, n_keep) in &keep.layers {
                let range = layout.range(param_idx);
                prop_assert_eq!(active.iter().filter(|c| range.contains(c)).count(), n_keep);
            }
            let again = random_active(layout, &keep, Uncovered::Active, seed, 0);
            prop_assert_eq!(&active, &again);
            if keep.total() > 50 && sparsity > 0.1 {
                prop_assert_ne!(&active, &random_active(layout, &keep, Uncovered::Active, seed, 1));
            }
            let fixed = scored_active(layout, &mask, Uncovered::Active, seed, 0);
            prop_assert_eq!(fixed.len(), active.len());
            prop_assert!(fixed.iter().all(|&c| mask[c]));
        }
    }

    #[test]
    fn zero_sparsity_is_everything() {
        let layout = &layouts::cnn(1, 18);
        let active = random_active(layout, &Uniform.counts(layout, 0.0), Uncovered::Active, 1, 0);
        assert_eq!(active.to_vec(), (0..layout.n_coords()).collect::<Vec<_>>());
        let sparse = random_active(layout, &Uniform.counts(layout, 0.5), Uncovered::Sparse(0.5), 1, 0);
        assert_eq!(sparse.len(), 243 + 9 + 9 + 9 + 90 + 5);
    }

    #[test]
    fn nan_scores_are_refused() {
        let layout = layouts::cnn(1, 18);
        let scores = vec![f64::NAN; layout.n_coords()];
        assert!(global_mask(&layout, &scores, 0.5).is_err());
    }
}
