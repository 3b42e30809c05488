//! Update rules and learning-rate schedules. They see a gradient, wherever it comes from.

mod adam;
mod r_adazo;
mod sgd;

use std::fmt::Debug;

pub use adam::Adam;
pub use r_adazo::RAdaZo;
pub use sgd::Sgd;

use crate::setting::Domain::{Above, From, Int};

/// All update rules, the paper's first. A new one is a file beside this and a line here.
pub static RULES: &[&dyn Rule] = &[&Sgd, &Adam, &RAdaZo];

crate::registered!(dyn Rule, RULES);

/// An update rule: from slopes, number by number, to how far parameters move.
pub trait Rule: Debug + Sync {
    /// Name in files.
    fn name(&self) -> &'static str;

    /// Whether it keeps a second moment beside the first.
    fn has_second(&self) -> bool {
        false
    }

    /// How far one parameter moves down its `slope`, and its moments after that.
    fn step(&self, slope: f64, moments: &mut Moments, now: &Now) -> f64;
}

impl PartialEq for dyn Rule {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// Moments of one parameter, zero at the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moments {
    /// What momentum keeps.
    pub first: f64,
    /// What scales the step, if the rule keeps one.
    pub second: f64,
}

/// What is the same for all parameters in one update.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Learning rate.
    pub rate: f64,
    /// Momentum of SGD, β₁ of Adam and R-AdaZO.
    pub momentum: f64,
    /// 1 − β₁ᵗ after t updates, this one included: what an average that starts at zero is short of.
    pub first_weight: f64,
    /// 1 − β₂ᵗ.
    pub second_weight: f64,
}

/// β₂ and ε of Adam (Kingma and Ba, 2015), which R-AdaZO takes over.
const SECOND_DECAY: f64 = 0.999;
const EPSILON: f64 = 1e-8;

crate::choice! {
    /// Learning-rate schedule after the warm-up.
    pub enum Schedule {
        /// Cosine to zero.
        Cosine = "cosine",
        /// Constant.
        Constant = "constant",
        /// Constant for `decay-epochs` epochs at a time, then multiplied with `decay-factor`.
        Step = "step",
    }
}

crate::section! {
    /// How a gradient moves parameters.
    pub struct Config {
        /// Update rule.
        pub optimizer: &'static dyn Rule = RULES[0],
        /// Peak learning rate.
        pub learning_rate: f64 = 0.1 => Above(0.0, f64::INFINITY),
        /// Momentum of SGD, β₁ of Adam and R-AdaZO.
        pub momentum: f64 = 0.9 => From(0.0, 1.0),
        /// Weight decay on all parameters.
        pub weight_decay: f64 = 5e-4 => From(0.0, f64::INFINITY),
        /// Epochs of linear warm-up.
        pub warmup_epochs: usize = 3,
        /// Schedule after the warm-up.
        pub schedule: Schedule = Schedule::Cosine,
        /// Epochs between two steps of schedule = step, counted from the first.
        pub decay_epochs: usize = 4 => Int(1, 1_000_000),
        /// What the learning rate is multiplied with at each step of schedule = step.
        pub decay_factor: f64 = 0.1 => Above(0.0, 1.0),
    }
}

/// An update rule with its moments, and weight decay added to the gradient (as in PyTorch's `SGD` and `Adam`).
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    rule: &'static dyn Rule,
    momentum: f64,
    weight_decay: f64,
    /// Steps taken.
    n_steps: u64,
    /// First moments.
    first: Vec<f64>,
    /// Second moments; none if the rule keeps none.
    second: Vec<f64>,
}

impl Optimizer {
    /// An optimizer for `n_coords` parameters; `momentum` is β₁ for Adam and R-AdaZO.
    #[must_use]
    pub fn new(rule: &'static dyn Rule, momentum: f64, weight_decay: f64, n_coords: usize) -> Self {
        let second = if rule.has_second() { vec![0.0; n_coords] } else { Vec::new() };
        Self { rule, momentum, weight_decay, n_steps: 0, first: vec![0.0; n_coords], second }
    }

    /// The state to store in a checkpoint: steps taken and the two moment vectors.
    #[must_use]
    pub fn state(&self) -> (u64, &[f64], &[f64]) {
        (self.n_steps, &self.first, &self.second)
    }

    /// Goes on from a stored state.
    pub fn restore(&mut self, n_steps: u64, first: Vec<f64>, second: Vec<f64>) {
        (self.n_steps, self.first, self.second) = (n_steps, first, second);
    }

    /// One update of `params` (d) with `gradient` (d). Momentum and weight decay act on every
    /// parameter, also where the gradient is zero because its coordinate is not active, as in the
    /// released code. Parameters with `frozen` (if given) neither move nor decay.
    pub fn step(
        &mut self,
        params: &mut [f64],
        gradient: &[f64],
        learning_rate: f64,
        frozen: Option<&[bool]>,
    ) {
        self.n_steps += 1;
        let now = Now {
            rate: learning_rate,
            momentum: self.momentum,
            first_weight: 1.0 - self.momentum.powf(self.n_steps as f64),
            second_weight: 1.0 - SECOND_DECAY.powf(self.n_steps as f64),
        };
        for (coord, param) in params.iter_mut().enumerate() {
            if frozen.is_some_and(|frozen| frozen[coord]) {
                continue;
            }
            let slope = gradient[coord] + self.weight_decay * *param;
            let second = self.second.get(coord).copied().unwrap_or_default();
            let mut moments = Moments { first: self.first[coord], second };
            *param -= self.rule.step(slope, &mut moments, &now);
            self.first[coord] = moments.first;
            if let Some(second) = self.second.get_mut(coord) {
                *second = moments.second;
            }
        }
    }
}

impl Config {
    /// Settings that change nothing, as the others are.
    #[must_use]
    pub fn idle(&self) -> Vec<&'static str> {
        if self.schedule == Schedule::Step { Vec::new() } else { vec!["decay-epochs", "decay-factor"] }
    }

    /// Learning rate of step `step` (0-based) out of `n_steps`, of which `per_epoch` make an epoch; those of the first
    /// `warmup_epochs` rise linearly to the peak.
    #[must_use]
    pub fn rate(&self, step: usize, per_epoch: usize, n_steps: usize) -> f64 {
        let (peak, n_warmup) = (self.learning_rate, self.warmup_epochs * per_epoch);
        if step < n_warmup {
            return peak * (step + 1) as f64 / n_warmup as f64;
        }
        match self.schedule {
            Schedule::Constant => peak,
            Schedule::Cosine => {
                let progress = (step - n_warmup) as f64 / (n_steps - n_warmup).max(1) as f64;
                0.5 * peak * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            Schedule::Step => {
                let n_decays = step / per_epoch.max(1) / self.decay_epochs.max(1);
                peak * self.decay_factor.powf(n_decays as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_parameters_stay() {
        let mut sgd = Optimizer::new(&Sgd, 0.9, 0.5, 2);
        let mut params = [0.0, 1.0];
        sgd.step(&mut params, &[1.0, 1.0], 0.1, Some(&[true, false]));
        assert!(params[0].abs() < f64::EPSILON && params[1] < 1.0);
    }

    /// Oracle: the cosine from the peak to zero at its quarter points.
    #[test]
    fn warmup_then_cosine() {
        let config = Config { learning_rate: 1.0, warmup_epochs: 2, ..Config::default() };
        for (step, expected) in [(0, 0.25), (3, 1.0), (4, 1.0), (8, 0.5), (12, 0.0)] {
            assert!((config.rate(step, 2, 12) - expected).abs() < 1e-12, "step {step}");
        }
        let constant = Config { learning_rate: 0.3, schedule: Schedule::Constant, ..config };
        assert!((constant.rate(11, 2, 12) - 0.3).abs() < 1e-15);
    }

    /// Oracle: by hand, three epochs of two steps at a time.
    #[test]
    fn steps_come_after_whole_epochs() {
        let (schedule, decay_epochs) = (Schedule::Step, 3);
        let config =
            Config { learning_rate: 1.0, warmup_epochs: 0, schedule, decay_epochs, ..Config::default() };
        for (step, expected) in [(0, 1.0), (5, 1.0), (6, 0.1), (11, 0.1), (12, 0.01)] {
            assert!((config.rate(step, 2, 40) - expected).abs() < 1e-12, "step {step}");
        }
    }
}
