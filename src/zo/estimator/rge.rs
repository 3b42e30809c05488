//! Randomized gradient estimator (DeepZero, Eq. 1; Nesterov and Spokoiny 2017).
//!
//! ĝ = (c/q) Σ_i [ (l(θ + μ u_i) − l(θ)) / μ ] u_i. The paper has u ~ N(0, I) and c = 1; with u
//! uniform on the unit sphere c = d; the released code takes one unit direction per tensor and
//! leaves out the division by μ, which is c = μ here. Cost: q queries beside the base (2q for
//! central differences).
//!
//! FZOO (arXiv 2506.09034) takes u of random signs and divides the step by the standard deviation σ of
//! the q losses, of q − 1 in the paper and of q in the released code ([`Deviation`]). Since σ ≈ μ ‖∇l‖ for small
//! μ, its step has about the same length everywhere; what [`StepScale::LossSpread`] gives is ĝ μ/σ. Released
//! defaults: q = 8, μ = 1e-3, no momentum.

use std::sync::Arc;

use super::{
    Budget, Estimate, Estimator, Kind, Place, Run, Scheme, Space, along, finite, slopes, spread_out,
};
use crate::rng::Purpose;
use crate::setting::{Entry, Section, Settings};
use crate::zo::probe::Directions;
use crate::zo::{DirectionSource, Family, Probe, Smoothing};
use crate::{Error, Result};

crate::choice! {
    /// What the learning rate multiplies (ZO).
    pub enum StepScale {
        /// The estimate.
        Estimate = "estimate",
        /// The estimate times μ over the standard deviation of the losses (FZOO).
        LossSpread = "loss-spread",
    }
}

crate::choice! {
    /// Which standard deviation of q losses.
    pub enum Deviation {
        /// Their squares over q − 1, as FZOO's paper has it.
        Sample = "sample",
        /// Their squares over q, as FZOO's released code has it.
        Population = "population",
    }
}

crate::section! {
    /// The randomized estimator.
    pub struct Config {
        /// Law of RGE's directions.
        pub directions: Directions = Directions::Gaussian,
        /// What the learning rate multiplies (ZO).
        pub step_scale: StepScale = StepScale::Estimate,
        /// Which standard deviation of the losses divides the step (step-scale = loss-spread).
        pub deviation: Deviation = Deviation::Sample,
    }
}

/// RGE over an active set.
#[derive(Debug, Clone)]
pub struct Rge {
    n_coords: usize,
    source: Arc<dyn Family>,
    n_dirs: u32,
    mu: f64,
    scheme: Scheme,
    scale: StepScale,
    deviation: Deviation,
}

impl Rge {
    /// RGE with `n_dirs` directions from `source`, in dimension d = `n_coords`.
    #[must_use]
    pub fn new(n_coords: usize, source: Arc<dyn Family>, n_dirs: u32, mu: f64, scheme: Scheme) -> Self {
        Self {
            n_coords,
            source,
            n_dirs,
            mu,
            scheme,
            scale: StepScale::Estimate,
            deviation: Deviation::Sample,
        }
    }

    /// The same, scaled as `scale` says. With [`StepScale::LossSpread`], by that `deviation`, the estimate is zero
    /// where fewer than two losses are finite or all are equal: there is no scale to go by, and no step.
    #[must_use]
    pub fn scaled(self, scale: StepScale, deviation: Deviation) -> Self {
        Self { scale, deviation, ..self }
    }
}

impl Estimator for Rge {
    fn ask(&self) -> Vec<Probe> {
        along(&self.source, self.n_dirs, self.mu, self.scheme)
    }

    fn tell(&self, differences: &[f64]) -> Estimate {
        let slopes = slopes(differences, self.mu, self.scheme);
        let (weights, n_left_out) = finite(&slopes);
        let factor = self.source.factor(self.mu) / f64::from(self.n_dirs);
        let factor = match self.scale {
            StepScale::Estimate => factor,
            StepScale::LossSpread => match self.deviation.of(weights.iter().map(|(_, slope)| *slope)) {
                Some(deviation) if deviation > 0.0 => factor / deviation,
                _ => 0.0,
            },
        };
        let total = self.source.weighted_sum(&weights);
        let values = total.into_iter().map(|value| factor * value);
        Estimate::new(spread_out(self.n_coords, self.source.coords(), values), n_left_out)
    }
}

impl Deviation {
    /// Standard deviation; `None` of fewer than two.
    fn of(self, values: impl Iterator<Item = f64> + Clone) -> Option<f64> {
        let n = values.clone().count();
        if n < 2 {
            return None;
        }
        let divisor = match self {
            Self::Sample => n - 1,
            Self::Population => n,
        };
        let mean = values.clone().sum::<f64>() / n as f64;
        Some((values.map(|value| (value - mean).powi(2)).sum::<f64>() / divisor as f64).sqrt())
    }
}

/// `method = rge`.
#[derive(Debug)]
pub struct Randomized;

impl Kind for Randomized {
    fn name(&self) -> &'static str {
        "rge"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, Config::ENTRIES]
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        let (Budget { queries }, Config { step_scale, deviation, .. }) = (settings.read()?, settings.read()?);
        if step_scale != StepScale::LossSpread && deviation != Deviation::Sample {
            let reason = "it divides the step with step-scale = loss-spread alone; set that, or leave it out";
            return Err(Error::setting("deviation", reason));
        }
        if step_scale == StepScale::LossSpread && queries == 1 {
            let reason = "the spread of losses (step-scale = loss-spread) needs at least 2; got 1";
            return Err(Error::setting("queries", reason));
        }
        Ok(())
    }

    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>> {
        let Smoothing { mu } = settings.read()?;
        let super::Config { difference } = settings.read()?;
        let (Budget { queries }, config) = (settings.read()?, settings.read()?);
        Ok(Box::new(Steps { space, config, queries, mu, scheme: difference }))
    }

    fn moves_coordinates(&self) -> bool {
        false
    }

    fn slopes(&self, settings: &Settings, n_active: f64) -> Result<f64> {
        let Budget { queries } = settings.read()?;
        Ok(if queries == 0 { n_active } else { queries as f64 })
    }
}

/// Fresh directions at every step.
struct Steps {
    space: Space,
    config: Config,
    queries: usize,
    mu: f64,
    scheme: Scheme,
}

impl Run for Steps {
    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's> {
        let Place { step, active, .. } = *place;
        let n_dirs = if self.queries == 0 { active.len() } else { self.queries };
        let Config { directions, step_scale, deviation } = self.config;
        let (seed, layout) = (self.space.seed, self.space.layout.as_deref());
        let source = DirectionSource::new(directions, seed, Purpose::Direction, step, active.clone(), layout);
        let n_dirs = u32::try_from(n_dirs).unwrap_or(u32::MAX);
        let rge = Rge::new(self.space.n_coords, Arc::new(source), n_dirs, self.mu, self.scheme);
        Box::new(rge.scaled(step_scale, deviation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;
    use crate::zo::probe::Directions;

    fn signs(n: usize, n_dirs: u32) -> Rge {
        let coords: Arc<[usize]> = (0..n).collect();
        let source = DirectionSource::new(Directions::Rademacher, 3, Purpose::Test, 0, coords, None);
        Rge::new(n, Arc::new(source), n_dirs, 1e-3, Scheme::Forward)
            .scaled(StepScale::LossSpread, Deviation::Sample)
    }

    /// Oracle: on l(x) = a·x the slopes are a·u with variance ‖a‖², so that for many directions the scaled
    /// estimate is a/‖a‖, of length 1 whatever the length of a. Errors are of the order sqrt(n/q) = 0.02.
    #[test]
    fn the_spread_of_losses_normalizes_the_step() {
        let n = 8;
        for length in [1e-6, 1.0, 1e6] {
            let rge = signs(n, 20_000);
            let a: Vec<f64> = (0..n).map(|i| length * (i as f64 - 2.5)).collect();
            let loss = |probe: &Probe| {
                let mut point = vec![0.0; n];
                probe.apply(&vec![0.0; n], &mut point);
                point.iter().zip(&a).map(|(x, a)| a * x).sum::<f64>()
            };
            let differences: Vec<f64> = rge.ask().iter().map(loss).collect();
            let found = rge.tell(&differences).gradient;
            let norm = a.iter().map(|a| a * a).sum::<f64>().sqrt();
            for (found, a) in found.iter().zip(&a) {
                assert!((found - a / norm).abs() < 0.06, "{found} {}", a / norm);
            }
        }
    }

    /// Oracle: the ratio of the two definitions, sqrt(q / (q − 1)).
    #[test]
    fn the_deviation_is_of_a_sample_or_a_population() {
        let differences = [1e-3, -2e-3, 5e-4];
        let of = |deviation| signs(4, 3).scaled(StepScale::LossSpread, deviation).tell(&differences).gradient;
        for (sample, population) in of(Deviation::Sample).iter().zip(of(Deviation::Population)) {
            assert!((population - sample * 1.5f64.sqrt()).abs() < 1e-12, "{sample} {population}");
        }
    }

    /// Oracle: the documentation. Nothing to scale by, no step.
    #[test]
    fn without_a_spread_there_is_no_step() {
        let rge = signs(4, 3);
        assert_eq!(rge.tell(&[0.5, 0.5, 0.5]).gradient, [0.0; 4]);
        assert_eq!(rge.tell(&[0.5, f64::NAN, f64::NAN]).gradient, [0.0; 4]);
    }
}
