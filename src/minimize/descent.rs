//! Descent along estimates of the gradient: an estimator, an optimizer and a schedule, over all coordinates.

use std::sync::Arc;

use super::settings::Horizon;
use super::{Bounds, Moved, Mover, Start, Wanted};
use crate::Result;
use crate::saved::{Saved, integer};
use crate::zo::estimator::{self, Place, Space};
use crate::zo::optimizer::{self, Optimizer};
use crate::zo::{Probe, Scheme, Smoothing};

pub(super) struct Descent {
    run: Box<dyn estimator::Run>,
    active: Arc<[usize]>,
    scheme: Scheme,
    /// Smoothing parameter μ.
    mu: f64,
    /// Whether a step needs the value at the point itself.
    needs_base: bool,
    config: optimizer::Config,
    n_steps: usize,
    optimizer: Optimizer,
    /// Where points around which is probed stay: μ inside of the bounds.
    inner: Option<Bounds>,
    /// Number of the step that is asked for.
    step: u32,
    /// The last point whose value was finite (d).
    good: Vec<f64>,
    /// The last estimate (d); empty before the first.
    gradient: Vec<f64>,
}

impl Descent {
    pub(super) fn new(kind: &dyn estimator::Kind, start: &Start) -> Result<Self> {
        let n_coords = start.x0.len();
        let Smoothing { mu } = start.settings.read()?;
        let scheme = match kind.has_pairs() {
            true => Scheme::Central,
            false => start.settings.read::<estimator::Config>()?.difference,
        };
        let config: optimizer::Config = start.settings.read()?;
        let Horizon { steps } = start.settings.read()?;
        let inner = start.bounds.as_ref().map(|bounds| bounds.moved_in(mu)).transpose()?;
        let mut good = start.x0.clone();
        if let Some(inner) = &inner {
            inner.project(&mut good);
        }
        Ok(Self {
            run: kind.start(&start.settings, Space { layout: None, n_coords, seed: start.seed })?,
            active: (0..n_coords).collect(),
            scheme,
            mu,
            needs_base: kind.has_pairs() || scheme == Scheme::Forward,
            n_steps: steps,
            optimizer: Optimizer::new(config.optimizer, config.momentum, config.weight_decay, n_coords),
            config,
            inner,
            step: 0,
            good,
            gradient: Vec::new(),
        })
    }

    fn go_back(&self, x: &mut [f64]) {
        x.iter_mut().zip(&self.good).for_each(|(x, good)| *x = good + (*x - good) / 2.0);
    }
}

impl Mover for Descent {
    fn ask(&mut self, x: &[f64]) -> Wanted {
        let place = Place { step: self.step, active: &self.active, draw: 0, params: x };
        self.run.prepare(&place);
        let probes = self.run.estimator(&place).ask();
        Wanted { sample: u64::from(self.step), base: true, probes }
    }

    /// Where the value at the point failed, central differences do without it; other steps are undone by half.
    fn tell(&mut self, x: &mut [f64], base: f64, _: &[Probe], values: &[f64]) -> Moved {
        let step = self.step;
        let Some(next) = step.checked_add(1) else { return Moved::Done };
        self.step = next;
        let base_failed = !base.is_finite();
        if base_failed && self.needs_base {
            self.go_back(x);
            return Moved::Stuck("the function failed at the point itself".to_owned());
        }
        // A slope whose square is no number would stay in the moments for good.
        let is_slope = |difference: f64| (difference / self.mu).powi(2).is_finite();
        // Central differences are pairs: any number may stand for the one in the middle.
        let base = if base_failed || !self.needs_base && !is_slope(base) { 0.0 } else { base };
        let difference = |value: &f64| Some(value - base).filter(|&d| is_slope(d)).unwrap_or(f64::NAN);
        let differences: Vec<f64> = values.iter().map(difference).collect();
        let place = Place { step, active: &self.active, draw: 0, params: x };
        let estimate = self.run.estimator(&place).tell(&differences);
        let n_slopes = if self.scheme == Scheme::Central { values.len() / 2 } else { values.len() };
        if estimate.n_left_out == n_slopes {
            self.go_back(x);
            return Moved::Stuck("the function failed at all points around it".to_owned());
        }
        if estimate.gradient.iter().any(|slope| !slope.powi(2).is_finite()) {
            self.go_back(x);
            return Moved::Stuck("the estimate of the gradient is too large".to_owned());
        }
        if !base_failed {
            self.good.copy_from_slice(x);
        }
        self.run.note(&estimate);
        let step = if self.n_steps == 0 { step as usize } else { (step as usize).min(self.n_steps) };
        let rate = self.config.rate(step, 1, self.n_steps);
        self.optimizer.step(x, &estimate.gradient, rate, None);
        self.gradient = estimate.gradient;
        if x.iter().any(|x| !x.is_finite()) {
            x.copy_from_slice(&self.good);
            return Moved::Stuck("a step left the range of numbers; use a smaller learning-rate".to_owned());
        }
        if let Some(inner) = &self.inner {
            inner.project(x);
        }
        Moved::On
    }

    fn gradient(&self) -> Option<&[f64]> {
        Some(&self.gradient).filter(|gradient| !gradient.is_empty()).map(Vec::as_slice)
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        let (n_steps, first, second) = self.optimizer.state();
        let mut state = vec![
            ("steps", vec![f64::from(self.step), n_steps as f64]),
            ("first_moment", first.to_vec()),
            ("second_moment", second.to_vec()),
            ("good", self.good.clone()),
            ("gradient", self.gradient.clone()),
        ];
        state.extend(self.run.state());
        state
    }

    fn restore(&mut self, saved: &mut Saved) -> std::result::Result<(), String> {
        let steps = saved.take("steps", Some(2))?;
        self.step = integer("the number of the step", steps[0], u32::MAX as usize)? as u32;
        let n_steps = integer("the number of steps", steps[1], u32::MAX as usize)? as u64;
        let (_, first, second) = self.optimizer.state();
        let (n_first, n_second) = (first.len(), second.len());
        let first = saved.take("first_moment", Some(n_first))?;
        let second = saved.take("second_moment", Some(n_second))?;
        self.optimizer.restore(n_steps, first, second);
        self.good = saved.take("good", Some(self.good.len()))?;
        self.gradient = saved.take("gradient", None)?;
        if ![0, self.good.len()].contains(&self.gradient.len()) {
            return Err("`gradient` has the wrong length".to_owned());
        }
        for (name, values) in self.run.state() {
            let values = saved.take(name, Some(values.len()))?;
            self.run.restore(name, values);
        }
        Ok(())
    }
}
