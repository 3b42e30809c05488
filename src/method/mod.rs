//! Methods: how parameters move.
//!
//! [`descent`] follows gradients, from zeroth-order estimates, from back-propagation or from another rule
//! ([`baseline`]); [`pattern_search`] tries moves, [`cma_es`] populations. A [`Kind`] is a method as settings name it: what it reads, what a step costs, how a run of it starts. One
//! line of [`kinds`] registers it; an estimator is one without any, by its line in [`estimator::KINDS`].

mod active;
pub mod baseline;
pub mod cma_es;
pub mod descent;
pub mod first_order;
pub mod outputs;
pub mod pattern_search;
pub mod rge_model;

use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

pub use active::{Active, ActiveSets};
pub use descent::{Asked, Gradient, GradientSource};

use crate::cost::{Cost, Steps};
use crate::metric::Row;
use crate::nn::objective::BasePass;
use crate::nn::{self, loss::Loss};
use crate::params::Layout;
use crate::problem::{Minibatch, Problem, Resources, State};
use crate::profile::Profile;
use crate::saved::Saved;
use crate::setting::{Entry, Settings};
use crate::zo::estimator;
use crate::{Error, Result};

crate::section! {
    /// How parameters move.
    pub struct Config {
        /// Gradient source, or another way to move parameters.
        pub method: &'static dyn Kind = default_kind(),
    }
}

crate::registered!(dyn Kind, kinds());

/// Where a step stands in its run.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Steps before this one in the whole run.
    pub number: usize,
    /// Steps of an epoch.
    pub per_epoch: usize,
    /// Steps of the whole run.
    pub n_steps: usize,
}

/// A run of a method.
pub trait Method {
    /// Gets ready at the initial parameters, which it may change; not called when a run goes on.
    ///
    /// # Errors
    /// If that fails, such as a query.
    fn begin(&mut self, _problem: &dyn Problem, _at: &mut State, _resources: &Resources) -> Result<()> {
        Ok(())
    }

    /// Gets ready for `epoch` (1-based).
    ///
    /// # Errors
    /// As [`Method::begin`].
    fn begin_epoch(
        &mut self,
        problem: &dyn Problem,
        at: &State,
        epoch: usize,
        resources: &Resources,
    ) -> Result<()>;

    /// Moves the parameters by what it sees of the batch; what the evaluation before the move gave.
    ///
    /// # Errors
    /// [`Error::Diverged`] if a loss is not finite (the loop says where), or whatever else goes wrong.
    fn step(
        &mut self,
        batch: &dyn Minibatch,
        at: &mut State,
        step: &Step,
        resources: &Resources,
    ) -> Result<BasePass>;

    /// Whether the run may end before its last epoch.
    ///
    /// # Errors
    /// If it cannot be told.
    fn is_done(&self, _problem: &dyn Problem, _at: &State) -> Result<bool> {
        Ok(false)
    }

    /// Writes into the row of an epoch what the method knows of it.
    fn record(&self, row: &mut Row);

    /// Why the last step can hardly have been right, if so, in words for the user.
    fn doubt(&self) -> Option<&str> {
        None
    }

    /// Everything that the rest of the run depends on, for a checkpoint.
    fn state(&self) -> Vec<(&'static str, Vec<f64>)>;

    /// Goes on from a stored state.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn restore(&mut self, saved: &mut Saved) -> std::result::Result<(), String>;

    /// What is known of the parameter tensors after `epoch` (1-based) beyond their size.
    fn profiles(&self, _layout: &Layout, _epoch: usize) -> Vec<Profile> {
        Vec::new()
    }

    /// The mask (d) that is kept for the whole run, if there is one.
    fn mask(&self, _layout: &Layout) -> Option<Vec<bool>> {
        None
    }
}

/// A method as settings name it.
pub trait Kind: Debug + Sync {
    /// Name in files.
    fn name(&self) -> &'static str;

    /// The sections that a run of it reads.
    fn sections(&self) -> Vec<&'static [Entry]>;

    /// The sections that one of its gradients reads, or why it makes none.
    ///
    /// # Errors
    /// [`Error::Setting`] for a method without gradients.
    fn gradient_sections(&self) -> Result<Vec<&'static [Entry]>> {
        Err(no_gradients(self.name()))
    }

    /// Values of settings that others read and that this method implies: they stand in a trial's name.
    fn implies(&self) -> Vec<(&'static str, toml::Value)> {
        Vec::new()
    }

    /// Checks rules between settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting to change and what it may be.
    fn check(&self, _settings: &Settings) -> Result<()> {
        Ok(())
    }

    /// A run of it from the start.
    ///
    /// # Errors
    /// If the settings do not allow it.
    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>>;

    /// Where its gradients come from, and what they are active on.
    ///
    /// # Errors
    /// For a method without gradients.
    fn gradients(
        &self,
        _settings: &Settings,
        _seed: u64,
        _layout: &Arc<Layout>,
    ) -> Result<(Box<dyn GradientSource>, Active)> {
        Err(no_gradients(self.name()))
    }

    /// The loss of the logits that it minimizes; by default the one that the settings say.
    ///
    /// # Errors
    /// If the settings do not allow it.
    fn loss(&self, settings: &Settings) -> Result<Loss> {
        let nn::Goal { loss } = settings.read()?;
        Ok(loss.loss())
    }

    /// Whether its steps ask for probes, which the ranks of a job can share.
    fn has_probes(&self) -> bool {
        true
    }

    /// Whether [`Kind::cost`] tells its queries step by step, as they will be counted, so that a budget of them says how many
    /// steps there are.
    fn has_steady_queries(&self) -> bool {
        false
    }

    /// Whether its probes move single coordinates, so that an evaluator can save work.
    fn moves_coordinates(&self) -> bool {
        false
    }

    /// Whether it looks into one network, which a loss of several, or of more than a network, does not show.
    fn looks_inside(&self) -> bool {
        false
    }

    /// Whether it stands for another method by a model of it: figures draw it otherwise, and say so.
    fn is_model(&self) -> bool {
        false
    }

    /// What `steps` cost.
    ///
    /// # Errors
    /// If the settings do not allow it.
    fn cost(&self, settings: &Settings, steps: &Steps) -> Result<Cost>;
}

fn no_gradients(name: &str) -> Error {
    Error::setting(
        "method",
        format!("{name} makes no estimates of gradients; use a method that does, such as cge"),
    )
}

impl PartialEq for dyn Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// All methods: one for every estimator, and the others.
#[must_use]
pub fn kinds() -> Vec<&'static dyn Kind> {
    static ESTIMATING: LazyLock<Vec<descent::Estimating>> =
        LazyLock::new(|| estimator::KINDS.iter().copied().map(descent::Estimating).collect());
    static FOLLOWING: LazyLock<Vec<baseline::Following>> =
        LazyLock::new(|| baseline::RULES.iter().copied().map(baseline::Following).collect());
    let estimating = ESTIMATING.iter().map(|kind| kind as &'static dyn Kind);
    let others: [&'static dyn Kind; 6] = [
        &first_order::FirstOrder,
        &rge_model::Modelled,
        &pattern_search::Searching,
        &cma_es::Adapting,
        &outputs::Coordinates,
        &outputs::Directions,
    ];
    let following = FOLLOWING.iter().map(|kind| kind as &'static dyn Kind);
    estimating.chain(others).chain(following).collect()
}

/// The paper's: the first.
fn default_kind() -> &'static dyn Kind {
    kinds()[0]
}
