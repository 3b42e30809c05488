//! Sparsity: scores to layer-wise ratios to active sets.
//!
//! The *gradient* is sparse: an active set says which coordinates are estimated, the model stays
//! dense (unless weights are pruned on purpose). Ratios apply to convolution and linear weights;
//! batch-norm parameters and biases are outside the ratio.

mod grasp;
mod predicted;
mod smart_ratio;
mod snip;

pub use grasp::{MakeEstimate, ZoGrasp, fo_scores, zo_scores};
pub use predicted::predicted_keep;
pub use snip::snip_scores;

use std::sync::Arc;

use crate::nn::Layout;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

/// How many weights of every prunable tensor are kept (active), in declared order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepCounts {
    /// (position of the tensor in the layout, weights kept).
    pub layers: Vec<(usize, usize)>,
}

impl KeepCounts {
    /// The same ratio in every layer: round(sparsity · n) weights of each left out.
    #[must_use]
    pub fn uniform(layout: &Layout, sparsity: f64) -> Self {
        let layers = prunable(layout)
            .map(|param_idx| {
                let n = layout.specs()[param_idx].len();
                (param_idx, n - (sparsity * n as f64).round() as usize)
            })
            .collect();
        Self { layers }
    }

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::nn::model;

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        /// Masks keep n − round(p n) weights; random sets have the mask's layer counts, hold every
        /// batch-norm parameter and bias, are sorted, distinct and change with the draw.
        #[test]
        fn sets_have_the_asked_sizes(sparsity in 0.0f64..0.99, seed in 0u64..100) {
            let network = model::cnn(2, 18).unwrap();
            let layout = network.layout();
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
        let network = model::cnn(1, 18).unwrap();
        let layout = network.layout();
        let active = random_active(layout, &KeepCounts::uniform(layout, 0.0), Uncovered::Active, 1, 0);
        assert_eq!(active.to_vec(), (0..layout.n_coords()).collect::<Vec<_>>());
        let sparse = random_active(layout, &KeepCounts::uniform(layout, 0.5), Uncovered::Sparse(0.5), 1, 0);
        assert_eq!(sparse.len(), 243 + 9 + 9 + 9 + 90 + 5);
    }

    #[test]
    fn nan_scores_are_refused() {
        let network = model::cnn(1, 18).unwrap();
        let scores = vec![f64::NAN; network.layout().n_coords()];
        assert!(global_mask(network.layout(), &scores, 0.5).is_err());
    }
}
