//! HiZOO (Zhao et al., ICLR 2025, arXiv 2402.15173): directions and steps scaled by a diagonal of the Hessian, which is
//! learned from the same losses.
//!
//! With H (d) that starts at 1, pairs of probes at θ ± μ z / √H, z normal, and the base l(θ), from each of which follow a
//! slope s = (l⁺ − l⁻) / 2μ and a curvature κ = |l⁺ + l⁻ − 2 l(θ)| / 2μ²:
//!
//! H ← (1 − α) H + α · mean(κ H z²), and then ĝ = mean(s z / √H), with the new H.
//!
//! Both means are over q pairs, where the authors have one: 2 q + 1 queries a step. α is `curvature-rate`. Outside the
//! active set H stays. Released defaults: μ = 1e-3, no momentum, α from 1e-10 to 1e-4 by task (1e-8 if nothing is said), with
//! which H hardly moves in a few thousand steps; here, where steps are fewer, larger ones make a difference.

use std::sync::Arc;

use super::{Budget, Estimate, Estimator, Kind, Place, Run, Scheme, Space, along, slopes, spread_out};
use crate::Result;
use crate::rng::Purpose;
use crate::setting::Domain::From;
use crate::setting::{Entry, Section, Settings};
use crate::zo::probe::Directions;
use crate::zo::{DirectionSource, Family, Probe, Smoothing};

crate::section! {
    /// HiZOO.
    pub struct Curvature {
        /// Share of a step's estimate in the diagonal of the Hessian (HiZOO).
        pub curvature_rate: f64 = 1e-8 => From(0.0, 1.0),
    }
}

/// Directions z / √H.
#[derive(Debug)]
struct Scaled {
    normal: DirectionSource,
    /// 1 / √H at the active coordinates.
    scale: Vec<f64>,
}

impl Family for Scaled {
    fn coords(&self) -> &Arc<[usize]> {
        self.normal.coords()
    }

    fn values(&self, idx: u32) -> Vec<f64> {
        let mut values = self.normal.values(idx);
        values.iter_mut().zip(&self.scale).for_each(|(value, scale)| *value *= scale);
        values
    }
}

/// One step.
#[derive(Debug)]
pub struct Hizoo<'a> {
    source: Arc<Scaled>,
    curvature: &'a [f64],
    n_dirs: u32,
    mu: f64,
    rate: f64,
}

impl<'a> Hizoo<'a> {
    /// `n_dirs` pairs over the coordinates `active`, along normal directions of `step` scaled by the diagonal
    /// `curvature` (d), to which this step adds the share `rate`.
    #[must_use]
    pub fn new(
        active: Arc<[usize]>,
        curvature: &'a [f64],
        n_dirs: u32,
        mu: f64,
        rate: f64,
        (seed, step): (u64, u32),
    ) -> Self {
        let scale = active.iter().map(|&coord| curvature[coord].sqrt().recip()).collect();
        let normal = DirectionSource::new(Directions::Gaussian, seed, Purpose::Direction, step, active, None);
        Self { source: Arc::new(Scaled { normal, scale }), curvature, n_dirs, mu, rate }
    }
}

impl Estimator for Hizoo<'_> {
    fn ask(&self) -> Vec<Probe> {
        let source: Arc<dyn Family> = self.source.clone();
        along(&source, self.n_dirs, self.mu, Scheme::Central)
    }

    /// Keeps the new diagonal.
    fn tell(&self, differences: &[f64]) -> Estimate {
        let Self { source, curvature, n_dirs, mu, rate } = self;
        let (coords, n) = (source.coords(), f64::from(*n_dirs));
        let slopes = slopes(differences, *mu, Scheme::Central);
        let pairs =
            (0..).zip(differences.chunks_exact(2).zip(slopes)).filter(|(_, (_, slope))| slope.is_finite());
        let (mut slope_sum, mut curvature_sum) = (vec![0.0; coords.len()], vec![0.0; coords.len()]);
        let mut n_finite = 0;
        for (idx, (pair, slope)) in pairs {
            n_finite += 1;
            let bend = (pair[0] + pair[1]).abs() / (2.0 * mu * mu);
            for (position, z) in source.normal.values(idx).into_iter().enumerate() {
                slope_sum[position] += slope * z;
                curvature_sum[position] += bend * z * z;
            }
        }
        let mut kept = curvature.to_vec();
        for (&coord, sum) in coords.iter().zip(&curvature_sum) {
            // What failed pairs would have said of the curvature is what is known of it.
            let known = n - f64::from(n_finite);
            kept[coord] = (1.0 - rate) * curvature[coord] + rate * curvature[coord] * (sum + known) / n;
        }
        let values = coords.iter().zip(&slope_sum).map(|(&coord, sum)| sum / n / kept[coord].sqrt());
        let gradient = spread_out(curvature.len(), coords, values);
        Estimate { gradient, n_left_out: (*n_dirs - n_finite) as usize, kept }
    }
}

/// `method = hizoo`.
#[derive(Debug)]
pub struct Curved;

impl Kind for Curved {
    fn name(&self) -> &'static str {
        "hizoo"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, Curvature::ENTRIES]
    }

    fn has_pairs(&self) -> bool {
        true
    }

    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>> {
        let Smoothing { mu } = settings.read()?;
        let (budget, Curvature { curvature_rate }): (Budget, _) = (settings.read()?, settings.read()?);
        let curvature = vec![1.0; space.n_coords];
        Ok(Box::new(Steps { curvature, seed: space.seed, n_dirs: budget.or(1), mu, rate: curvature_rate }))
    }

    fn moves_coordinates(&self) -> bool {
        false
    }

    fn slopes(&self, settings: &Settings, _: f64) -> Result<f64> {
        Ok(f64::from(settings.read::<Budget>()?.or(1)))
    }
}

/// The diagonal goes from step to step.
struct Steps {
    /// H (d).
    curvature: Vec<f64>,
    seed: u64,
    n_dirs: u32,
    mu: f64,
    rate: f64,
}

impl Run for Steps {
    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's> {
        let Self { curvature, seed, n_dirs, mu, rate } = self;
        Box::new(Hizoo::new(place.active.clone(), curvature, *n_dirs, *mu, *rate, (*seed, place.step)))
    }

    fn note(&mut self, estimate: &Estimate) {
        self.curvature.copy_from_slice(&estimate.kept);
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        vec![("curvature", self.curvature.clone())]
    }

    fn restore(&mut self, _: &str, values: Vec<f64>) {
        self.curvature = values;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: l(x) = Σ h x²/2 at 0, where slopes vanish and κ = uᵀ diag(h) u / 2 with u = z / √H. At H = h, κ = zᵀz / 2.
    #[test]
    fn the_diagonal_follows_the_curvature() {
        let h = [4.0, 1.0, 0.25];
        let active: Arc<[usize]> = (0..3).collect();
        let hizoo = Hizoo::new(active, &h, 5, 1e-3, 0.1, (1, 0));
        let loss = |probe: &Probe| {
            let mut point = [0.0; 3];
            probe.apply(&[0.0; 3], &mut point);
            point.iter().zip(h).map(|(x, h)| 0.5 * h * x * x).sum::<f64>()
        };
        let differences: Vec<f64> = hizoo.ask().iter().map(loss).collect();
        let found = hizoo.tell(&differences);
        assert!(found.gradient.iter().all(|g| g.abs() < 1e-9), "{found:?}");
        let z: Vec<Vec<f64>> = (0..5).map(|idx| hizoo.source.normal.values(idx)).collect();
        for coord in 0..3 {
            let mean: f64 = z
                .iter()
                .map(|z| 0.5 * z.iter().map(|z| z * z).sum::<f64>() * z[coord] * z[coord])
                .sum::<f64>()
                / 5.0;
            let expected = h[coord] * (0.9 + 0.1 * mean);
            assert!((found.kept[coord] - expected).abs() < 1e-9, "{} {expected}", found.kept[coord]);
        }
    }

    /// Oracle: the definition. Nothing is known of pairs that fail, so that nothing changes.
    #[test]
    fn failed_pairs_leave_the_diagonal() {
        let active: Arc<[usize]> = (0..2).collect();
        let hizoo = Hizoo::new(active, &[2.0, 3.0], 1, 1e-3, 0.5, (1, 0));
        let found = hizoo.tell(&[f64::NAN, 1.0]);
        assert_eq!((found.gradient, found.n_left_out, found.kept), (vec![0.0; 2], 1, vec![2.0, 3.0]));
    }
}
