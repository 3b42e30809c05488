//! Sparse-MeZO (Liu et al., NeurIPS 2025, arXiv 2402.15751): small weights alone are perturbed and moved.
//!
//! Of every weight tensor the threshold h is the size of the weight below which the share 1 − `large-weights` of the
//! initial ones lies; it stays. At each step m = 1 where |θ| ≤ h, else 0, so that a weight that has grown rests until the
//! end. The estimate is (1/q) Σ [ (l(θ + μ m ⊙ z_i) − l(θ − μ m ⊙ z_i)) / 2μ ] m ⊙ z_i with z normal. q = 1, central
//! differences, μ = 1e-3, no momentum, no weight decay as published; the share of large weights differs by task there, and
//! 0.8 is that of the comparison in ZO-Muon's released code. Biases and batch norms, which start all alike, are always
//! moved (the paper has a threshold for every layer of a language model).

use std::sync::Arc;

use super::{Budget, Config, Estimator, Kind, Place, Rge, Run, Space};
use crate::Result;
use crate::params::Layout;
use crate::rng::Purpose;
use crate::setting::Domain::From;
use crate::setting::{Entry, Section, Settings};
use crate::zo::probe::Directions;
use crate::zo::{DirectionSource, Scheme, Smoothing};

crate::section! {
    /// Sparse-MeZO.
    pub struct Large {
        /// Share of the weights of every tensor, the largest, that rest (Sparse-MeZO).
        pub large_weights: f64 = 0.8 => From(0.0, 1.0),
    }
}

/// A threshold that is not known yet.
const UNKNOWN: f64 = -1.0;

/// Of every tensor, the size up to which weights are moved, such that round(`share` · n) of `params` (d) are above it;
/// infinite for tensors that are not weights. More are moved where several weights have the size of the threshold.
#[must_use]
pub fn thresholds(layout: Option<&Layout>, params: &[f64], share: f64) -> Vec<f64> {
    let threshold = |values: &[f64]| {
        let mut sizes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let n_moved = sizes.len() - (share * sizes.len() as f64).round() as usize;
        n_moved.checked_sub(1).map_or(0.0, |last| sizes[last])
    };
    let Some(layout) = layout else { return vec![threshold(params)] };
    let of = |(idx, spec): (usize, &crate::params::ParamSpec)| {
        if spec.kind.is_prunable() { threshold(&params[layout.range(idx)]) } else { f64::INFINITY }
    };
    layout.specs().iter().enumerate().map(of).collect()
}

/// `method = sparse-mezo`.
#[derive(Debug)]
pub struct Sparse;

impl Kind for Sparse {
    fn name(&self) -> &'static str {
        "sparse-mezo"
    }

    fn is_of_weights(&self) -> bool {
        true
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, Large::ENTRIES]
    }

    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>> {
        let (Smoothing { mu }, Config { difference }) = (settings.read()?, settings.read()?);
        let (budget, Large { large_weights }): (Budget, _) = (settings.read()?, settings.read()?);
        let n_tensors = space.layout.as_ref().map_or(1, |layout| layout.specs().len());
        let thresholds = vec![UNKNOWN; n_tensors];
        let n_dirs = budget.or(1);
        Ok(Box::new(Steps { space, thresholds, share: large_weights, n_dirs, mu, scheme: difference }))
    }

    fn moves_coordinates(&self) -> bool {
        false
    }

    fn slopes(&self, settings: &Settings, _: f64) -> Result<f64> {
        Ok(f64::from(settings.read::<Budget>()?.or(1)))
    }
}

/// The thresholds of the first step stay.
struct Steps {
    space: Space,
    /// One per tensor.
    thresholds: Vec<f64>,
    share: f64,
    n_dirs: u32,
    mu: f64,
    scheme: Scheme,
}

impl Run for Steps {
    fn prepare(&mut self, place: &Place) {
        if self.thresholds.contains(&UNKNOWN) {
            self.thresholds = thresholds(self.space.layout.as_deref(), place.params, self.share);
        }
    }

    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's> {
        let Space { layout, n_coords, seed } = &self.space;
        let is_small = |&&coord: &&usize| {
            let tensor = layout.as_ref().map_or(0, |layout| layout.param_of(coord));
            place.params[coord].abs() <= self.thresholds[tensor]
        };
        let small: Arc<[usize]> = place.active.iter().filter(is_small).copied().collect();
        let source =
            DirectionSource::new(Directions::Gaussian, *seed, Purpose::Direction, place.step, small, None);
        Box::new(Rge::new(*n_coords, Arc::new(source), self.n_dirs, self.mu, self.scheme))
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        vec![("thresholds", self.thresholds.clone())]
    }

    fn restore(&mut self, _: &str, values: Vec<f64>) {
        self.thresholds = values;
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrices::tests::layout;
    use super::*;

    /// Oracle: counts. Of 20 and 24 weights the round(0.7 n) largest are above; the bias has no threshold.
    #[test]
    fn thresholds_leave_the_largest_weights() {
        let layout = layout();
        let params: Vec<f64> = (0..48).map(|i| f64::from((i * 7 % 48) - 20)).collect();
        let found = thresholds(Some(&layout), &params, 0.7);
        let above =
            |idx: usize| params[layout.range(idx)].iter().filter(|value| value.abs() > found[idx]).count();
        assert!(found[2].is_infinite());
        // Sizes can be alike, of which none is cut off.
        assert!((12..=14).contains(&above(0)) && (15..=17).contains(&above(1)), "{} {}", above(0), above(1));
        assert_eq!(thresholds(None, &[3.0, -1.0, 2.0, 0.5], 0.5), [1.0]);
        assert_eq!(thresholds(None, &[3.0, -1.0], 0.0), [3.0]);
    }
}
