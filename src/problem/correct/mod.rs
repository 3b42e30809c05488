//! A network that corrects a flow solver: after each step it adds to the velocity what the coarse grid misses. It is
//! trained on short rollouts from frames of fine simulations, and measured on long ones.
//!
//! To zeroth-order methods a rollout is a black box: they see its loss. First-order ones go back through the network and the
//! solver's transpose.

mod rollout;
mod unrolled;

use std::sync::Arc;

pub use rollout::{Course, Solver};
pub(crate) use unrolled::refused;
pub use unrolled::{Unrolled, lanes_per_block};

use super::{Minibatch, Problem, Resources, State};
use crate::data::epoch_order;
use crate::data::wake::{Simulation, Wake};
use crate::metric::{self, Row};
use crate::nn::Network;
use crate::nn::form::{Blockwise, BlockwiseBoth};
use crate::nn::pass::shifted::ShiftedPass;
use crate::params::{Init, Layout};
use crate::pde::{Real, Variant};
use crate::{Error, Result};

crate::section! {
    /// How a corrector is trained through a solver.
    pub struct Config {
        /// Steps of solver and corrector that a loss sees.
        pub unroll: usize = 16 => crate::setting::Domain::Int(1, 1000),
        /// Frames of every simulation that training starts from, evenly spread; 0 for all.
        pub start_frames: usize = 0,
        /// Training simulations, evenly spread over the Reynolds numbers.
        pub simulations: usize = 6 => crate::setting::Domain::Int(1, 6),
        /// Factor on the last layer's initial weights: a corrector that starts small leaves the solver stable.
        pub start_gain: f64 = 0.1 => crate::setting::Domain::From(0.0, 1e3),
    }
}

/// Which frames a rollout starts from: simulation and frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Position among the simulations to train on.
    pub simulation: usize,
    /// Frame that it starts from.
    pub frame: usize,
}

/// A corrector to be trained.
pub struct Correct<'a, T> {
    network: &'a Network,
    wake: &'a Wake,
    solver: Solver<T>,
    config: Config,
    init: Init,
    seed: u64,
    /// All there are to train on.
    samples: Vec<Sample>,
}

/// `count` numbers evenly spread over `0..n`, the first included; all for 0 or more than there are.
fn spread(n: usize, count: usize) -> Vec<usize> {
    let count = if count == 0 { n } else { count.min(n) };
    (0..count).map(|idx| idx * n / count).collect()
}

impl<'a, T: Real> Correct<'a, T>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    /// `network` as a corrector of the solver on the grid of `wake`.
    ///
    /// # Errors
    /// [`Error::Setting`] if a rollout is longer than the simulations, the network is not one for the grid, or the
    /// device is no CPU.
    pub fn new(
        network: &'a Network,
        wake: &'a Wake,
        variant: Variant,
        config: Config,
        init: Init,
        seed: u64,
        resources: Resources,
    ) -> Result<Self> {
        if !resources.device.is_cpu() {
            let reason = "solvers run on the CPU alone".to_owned();
            return Err(Error::Device { device: "cuda".to_owned(), reason });
        }
        let n_frames = wake.train.first().map_or(0, |simulation| simulation.frames.len());
        let n_starts = check_unroll(config.unroll, n_frames)?;
        let frames = spread(n_starts, config.start_frames);
        let simulations = spread(wake.train.len(), config.simulations);
        let of = |&simulation: &usize| frames.iter().map(move |&frame| Sample { simulation, frame });
        let samples = simulations.iter().flat_map(of).collect();
        let solver = Solver::new(wake, variant);
        solver.check_network(network)?;
        Ok(Self { network, wake, solver, config, init, seed, samples })
    }

    /// What is corrected.
    #[must_use]
    pub fn solver(&self) -> &Solver<T> {
        &self.solver
    }

    /// Where training starts from.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Rollouts from these frames as a function of the corrector's parameters.
    #[must_use]
    pub fn unrolled(&self, samples: Vec<Sample>) -> Unrolled<'_, T> {
        Unrolled::new(self.network, self.wake, &self.solver, self.config.unroll, samples)
    }

    /// The course of all test simulations with the corrector at `params` (d); `visit` sees every frame of each.
    ///
    /// # Errors
    /// If the parameters do not fit.
    pub fn course(&self, params: &[f64], visit: impl Fn(usize, usize, &[f64]) + Sync) -> Result<Vec<Course>> {
        let pass = ShiftedPass::new(self.network, params)?;
        self.solver.course(Some(&pass), &self.wake.test, visit)
    }
}

/// Start frames of simulations of `n_frames`.
///
/// # Errors
/// [`Error::Setting`] if there are none.
pub fn check_unroll(unroll: usize, n_frames: usize) -> Result<usize> {
    match n_frames.checked_sub(unroll) {
        Some(n) if n > 0 => Ok(n),
        _ => {
            let reason =
                format!("{unroll} steps need more than {unroll} frames, of which there are {n_frames}");
            Err(Error::setting("unroll", reason))
        }
    }
}

/// Writes what the courses of test simulations say into `row`.
pub fn record(courses: &[Course], row: &mut Row) {
    let errors: Vec<f64> = courses.iter().map(Course::mean_error).collect();
    let n = errors.len() as f64;
    let mean = errors.iter().sum::<f64>() / n;
    // With one less than there are, as a sample of Reynolds numbers.
    let variance = errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / (n - 1.0);
    // A flow that was lost has no error; its row has none.
    if mean.is_finite() {
        row.set(&metric::MAE, mean);
        row.set(&metric::MAE_VARIANCE, variance);
        row.set(&metric::MAE_STD, variance.sqrt());
    }
}

impl<T: Real> Problem for Correct<'_, T>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    fn layout(&self) -> &Arc<Layout> {
        self.network.layout()
    }

    fn start(&self, seed: u64) -> State {
        let layout = self.network.layout();
        let mut params = layout.initial(self.init, seed);
        let last = (0..layout.specs().len()).rev().find(|&idx| layout.specs()[idx].kind.is_prunable());
        if let Some(last) = last {
            params[layout.range(last)].iter_mut().for_each(|weight| *weight *= self.config.start_gain);
        }
        State { params, stats: self.network.initial_stats() }
    }

    fn n_items(&self) -> usize {
        self.samples.len()
    }

    fn order(&self, epoch: u32) -> Vec<usize> {
        epoch_order(self.n_items(), self.seed, epoch)
    }

    fn batch(&self, _: u32, items: &[usize]) -> Result<Box<dyn Minibatch + '_>> {
        Ok(Box::new(self.unrolled(items.iter().map(|&item| self.samples[item]).collect())))
    }

    /// Start frames evenly spread over every simulation.
    fn scoring_batch(&self, per_class: usize) -> Result<Box<dyn Minibatch + '_>> {
        let n_simulations = spread(self.wake.train.len(), self.config.simulations).len();
        let per_simulation = self.samples.len() / n_simulations;
        if per_class > per_simulation {
            let reason =
                format!("{per_class} start frames of every simulation, of which there are {per_simulation}");
            return Err(Error::setting("grasp-images-per-class", reason));
        }
        let frames = spread(per_simulation, per_class);
        let of = |simulation: usize| frames.iter().map(move |frame| simulation * per_simulation + frame);
        let items: Vec<usize> = (0..n_simulations).flat_map(of).collect();
        self.batch(0, &items)
    }

    fn measure(&self, at: &State, row: &mut Row) -> Result<()> {
        if let Some(bad) = at.params.iter().find(|value| !value.is_finite()) {
            return Err(Error::Diverged { loss: *bad, at: String::new() });
        }
        record(&self.course(&at.params, |_, _, _| ())?, row);
        Ok(())
    }

    fn is_fitted(&self, _: &State) -> Result<bool> {
        Ok(false)
    }
}

/// The solver alone on the test simulations.
///
/// # Errors
/// None that the settings do not exclude.
pub fn uncorrected<T: Real>(
    wake: &Wake,
    variant: Variant,
    visit: impl Fn(usize, usize, &[f64]) + Sync,
) -> Result<Vec<Course>>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    Solver::<T>::new(wake, variant).course(None, &wake.test, visit)
}

/// Published Reynolds numbers of simulations.
#[must_use]
pub fn reynolds(simulations: &[Simulation]) -> Vec<f64> {
    simulations.iter().map(Simulation::published_re).collect()
}
