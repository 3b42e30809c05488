//! Randomized gradient estimator (DeepZero, Eq. 1; Nesterov and Spokoiny 2017).
//!
//! ĝ = (c/q) Σ_i [ (l(θ + μ u_i) − l(θ)) / μ ] u_i. The paper has u ~ N(0, I) and c = 1; with u
//! uniform on the unit sphere c = d; the released code takes one unit direction per tensor and
//! leaves out the division by μ, which is c = μ here. Cost: q queries beside the base (2q for
//! central differences).

use std::sync::Arc;

use super::{Estimate, Estimator, slopes, steps};
use crate::spec::{Difference, Directions};
use crate::zo::{DirectionSource, Probe};

/// RGE over an active set.
#[derive(Debug, Clone)]
pub struct Rge {
    n_coords: usize,
    source: Arc<DirectionSource>,
    n_dirs: u32,
    mu: f64,
    scheme: Difference,
}

impl Rge {
    /// RGE with `n_dirs` directions from `source`, in dimension d = `n_coords`.
    #[must_use]
    pub fn new(
        n_coords: usize,
        source: Arc<DirectionSource>,
        n_dirs: u32,
        mu: f64,
        scheme: Difference,
    ) -> Self {
        Self { n_coords, source, n_dirs, mu, scheme }
    }
}

impl Estimator for Rge {
    fn ask(&self) -> Vec<Probe> {
        let probes = |idx: u32| {
            let of =
                move |sign: &f64| Probe::Direction { source: self.source.clone(), idx, step: sign * self.mu };
            steps(self.mu, self.scheme).iter().map(of)
        };
        (0..self.n_dirs).flat_map(probes).collect()
    }

    fn tell(&self, differences: &[f64]) -> Estimate {
        let slopes = slopes(differences, self.mu, self.scheme);
        let coords = self.source.coords();
        let factor = match self.source.law() {
            Directions::Gaussian | Directions::Rademacher => 1.0,
            Directions::Sphere => coords.len() as f64,
            Directions::PerTensor => self.mu,
        } / f64::from(self.n_dirs);
        let weights: Vec<(u32, f64)> =
            (0..).zip(slopes.iter().copied()).filter(|(_, s)| s.is_finite()).collect();
        let total = self.source.weighted_sum(&weights);
        let mut gradient = vec![0.0; self.n_coords];
        for (&coord, value) in coords.iter().zip(total) {
            gradient[coord] = factor * value;
        }
        let n_left_out = slopes.iter().filter(|slope| !slope.is_finite()).count();
        Estimate { gradient, n_left_out }
    }
}
