//! Coordinate-wise gradient estimator (DeepZero, Eq. 2), and its sparse form.
//!
//! ĝ = Σ_{i ∈ S} [ (l(θ + μ e_i) − l(θ)) / μ ] e_i, with S all coordinates for CGE and an active
//! set for sparse-CGE. Deterministic. Cost: |S| queries beside the base (2 |S| for central
//! differences).

use std::sync::Arc;

use super::{Config, Estimate, Estimator, Kind, Place, Run, Space, slopes, steps};
use crate::Result;
use crate::setting::Settings;
use crate::zo::Scheme;
use crate::zo::{Probe, Smoothing};

/// CGE over an active set.
#[derive(Debug, Clone)]
pub struct Cge {
    n_coords: usize,
    active: Arc<[usize]>,
    mu: f64,
    scheme: Scheme,
}

impl Cge {
    /// Sparse-CGE over the coordinates `active` of d = `n_coords`.
    #[must_use]
    pub fn new(n_coords: usize, active: Arc<[usize]>, mu: f64, scheme: Scheme) -> Self {
        Self { n_coords, active, mu, scheme }
    }

    /// CGE over all `n_coords` coordinates.
    #[must_use]
    pub fn dense(n_coords: usize, mu: f64, scheme: Scheme) -> Self {
        Self::new(n_coords, (0..n_coords).collect(), mu, scheme)
    }

    /// The coordinates that are estimated.
    pub(super) fn active(&self) -> &[usize] {
        &self.active
    }

    /// For each of them, whether its probes gave finite losses.
    pub(super) fn answered(&self, differences: &[f64]) -> impl Iterator<Item = bool> {
        slopes(differences, self.mu, self.scheme).into_iter().map(f64::is_finite)
    }
}

impl Estimator for Cge {
    fn ask(&self) -> Vec<Probe> {
        let probes = |&coord: &usize| {
            let of = move |sign: &f64| Probe::Coordinate { coord, shift: sign * self.mu };
            steps(self.mu, self.scheme).iter().map(of)
        };
        self.active.iter().flat_map(probes).collect()
    }

    fn tell(&self, differences: &[f64]) -> Estimate {
        let mut gradient = vec![0.0; self.n_coords];
        let mut n_left_out = 0;
        for (&coord, slope) in self.active.iter().zip(slopes(differences, self.mu, self.scheme)) {
            if slope.is_finite() {
                gradient[coord] = slope;
            } else {
                n_left_out += 1;
            }
        }
        Estimate::new(gradient, n_left_out)
    }
}

/// `method = cge`.
#[derive(Debug)]
pub struct Coordinatewise;

impl Kind for Coordinatewise {
    fn name(&self) -> &'static str {
        "cge"
    }

    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>> {
        let (Smoothing { mu }, Config { difference }) = (settings.read()?, settings.read()?);
        Ok(Box::new(Steps { n_coords: space.n_coords, mu, scheme: difference }))
    }

    fn moves_coordinates(&self) -> bool {
        true
    }

    fn slopes(&self, _: &Settings, n_active: f64) -> Result<f64> {
        Ok(n_active)
    }
}

/// The same at every step.
struct Steps {
    n_coords: usize,
    mu: f64,
    scheme: Scheme,
}

impl Run for Steps {
    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's> {
        Box::new(Cge::new(self.n_coords, place.active.clone(), self.mu, self.scheme))
    }
}
