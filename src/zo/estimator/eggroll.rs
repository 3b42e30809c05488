//! EGGROLL (Sarkar et al., 2025, arXiv 2511.16652): an evolution strategy whose members are pairs along A Bᵀ.
//!
//! Of a matrix of m x n, E = A Bᵀ / √r with A of m x r and B of n x r normal numbers; other tensors have normal E. The N
//! members of a step are θ + σ E_k and θ − σ E_k. With z their losses less the mean, over √(variance + 1e-5), the variance
//! over N, and s = ± 1 their signs, θ ← θ − η √N · mean(z s σ E): the estimate is √N · mean(z s σ E) = σ / √N · Σ_k
//! (z_k⁺ − z_k⁻) E_k. `mu` is σ and `queries` is N / 2; a step costs N queries and that of the base, which is the
//! program's. Released: σ = 0.2, η = 0.03, r from 1 to 8, N from hundreds on, plain SGD.

use std::sync::Arc;

use super::matrices::{Law, Matrices, Rank, Shape, Time};
use super::{Budget, Estimate, Estimator, Kind, Place, Run, Scheme, Space, along, spread_out};
use crate::setting::{Entry, Section, Settings};
use crate::zo::{Family, Probe, Smoothing};
use crate::{Error, Result};

/// Added to the variance of losses.
const VARIANCE_FLOOR: f64 = 1e-5;

/// A and B drawn.
#[derive(Debug, Clone, Copy)]
pub struct Eggroll {
    /// Rank r.
    pub rank: usize,
}

impl Law for Eggroll {
    fn rank(&self, _: usize, _: usize) -> usize {
        self.rank
    }

    fn n_drawn(&self, shape: Shape) -> usize {
        shape.rank * (shape.rows + shape.cols)
    }

    fn factors(&self, shape: Shape, _: &[Vec<f64>], drawn: &[f64]) -> [Vec<f64>; 2] {
        let (left, right) = drawn.split_at(shape.rank * shape.rows);
        let scale = (shape.rank as f64).sqrt().recip();
        [left.iter().map(|a| a * scale).collect(), right.to_vec()]
    }
}

/// One generation.
#[derive(Debug)]
pub struct Generation {
    n_coords: usize,
    source: Arc<dyn Family>,
    n_pairs: u32,
    sigma: f64,
}

impl Generation {
    /// `n_pairs` pairs along directions from `source`, at ± `sigma`, in dimension d = `n_coords`.
    #[must_use]
    pub fn new(n_coords: usize, source: Arc<dyn Family>, n_pairs: u32, sigma: f64) -> Self {
        Self { n_coords, source, n_pairs, sigma }
    }
}

impl Estimator for Generation {
    fn ask(&self) -> Vec<Probe> {
        along(&self.source, self.n_pairs, self.sigma, Scheme::Central)
    }

    /// A pair counts if both of its losses are finite; N is the number of members that count.
    fn tell(&self, differences: &[f64]) -> Estimate {
        let pairs: Vec<(u32, [f64; 2])> = (0..)
            .zip(differences.chunks_exact(2))
            .filter(|(_, pair)| pair.iter().all(|difference| difference.is_finite()))
            .map(|(idx, pair)| (idx, [pair[0], pair[1]]))
            .collect();
        let n_left_out = differences.len() / 2 - pairs.len();
        let members = || pairs.iter().flat_map(|(_, pair)| pair);
        let n = 2.0 * pairs.len().max(1) as f64;
        // Differences have the deviations of losses.
        let mean = members().sum::<f64>() / n;
        let variance = members().map(|difference| (difference - mean).powi(2)).sum::<f64>() / n;
        let factor = self.sigma / n.sqrt() / (variance + VARIANCE_FLOOR).sqrt();
        let weights: Vec<(u32, f64)> =
            pairs.iter().map(|&(idx, [plus, minus])| (idx, factor * (plus - minus))).collect();
        let total = self.source.weighted_sum(&weights);
        Estimate::new(spread_out(self.n_coords, self.source.coords(), total), n_left_out)
    }
}

/// `method = eggroll`.
#[derive(Debug)]
pub struct Evolution;

impl Kind for Evolution {
    fn name(&self) -> &'static str {
        "eggroll"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, Rank::ENTRIES]
    }

    fn has_pairs(&self) -> bool {
        true
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        if settings.read::<Budget>()?.queries == 0 {
            return Err(Error::setting("queries", "eggroll needs a number of pairs, such as 16; got 0"));
        }
        Ok(())
    }

    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>> {
        let Smoothing { mu } = settings.read()?;
        let (budget, rank): (Budget, Rank) = (settings.read()?, settings.read()?);
        Ok(Box::new(Steps { space, law: Eggroll { rank: rank.or(1) }, n_pairs: budget.or(1), sigma: mu }))
    }

    fn moves_coordinates(&self) -> bool {
        false
    }

    fn slopes(&self, settings: &Settings, _: f64) -> Result<f64> {
        Ok(f64::from(settings.read::<Budget>()?.or(1)))
    }
}

/// Fresh members at every step.
struct Steps {
    space: Space,
    law: Eggroll,
    n_pairs: u32,
    sigma: f64,
}

impl Run for Steps {
    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's> {
        let Space { layout, n_coords, seed } = &self.space;
        let time = Time { step: place.step, window: 1 };
        let family = Matrices::new(self.law, *seed, time, place.active.clone(), *n_coords, layout.as_deref());
        Box::new(Generation::new(*n_coords, Arc::new(family), self.n_pairs, self.sigma))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(n_pairs: u32) -> Generation {
        let time = Time { step: 0, window: 1 };
        let family = Matrices::new(Eggroll { rank: 1 }, 1, time, (0..6).collect(), 6, None);
        Generation::new(6, Arc::new(family), n_pairs, 0.2)
    }

    /// Oracle: the definition. The scale of losses cancels, but for the floor; a level loss gives no step; a pair of which
    /// one loss is not finite is left out as a whole.
    #[test]
    fn losses_are_standardized() {
        let differences: Vec<f64> = (0..8).map(|member| f64::from(member * 5 % 8) * 1e3).collect();
        let scaled: Vec<f64> = differences.iter().map(|difference| 7.0 * difference + 3.0).collect();
        let (one, other) = (generation(4).tell(&differences), generation(4).tell(&scaled));
        for (a, b) in one.gradient.iter().zip(&other.gradient) {
            assert!((a - b).abs() < 1e-9 * a.abs(), "{a} {b}");
        }
        assert_eq!(generation(4).tell(&[0.5; 8]).gradient, [0.0; 6]);
        let mut failed = differences.clone();
        failed[7] = f64::NAN;
        let found = generation(4).tell(&failed);
        assert_eq!((found.n_left_out, found.gradient), (1, generation(3).tell(&differences[..6]).gradient));
        assert_eq!(generation(1).tell(&[f64::NAN; 2]).gradient, [0.0; 6]);
    }
}
