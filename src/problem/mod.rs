//! What is minimized, and on what data: a [`Problem`] hands out [`Minibatch`]es, which methods look at.
//!
//! A method sees a minibatch through as much as it needs: zeroth-order ones through its objective alone, first-order
//! ones through exact gradients where there are any, others through the network itself.

mod classify;
pub mod correct;
pub mod defend;
mod prepared;
mod reconstruct;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};

pub use classify::{Classify, evaluate};
pub use defend::Defend;
pub use prepared::{Prepared, io_of};
pub use reconstruct::Reconstruct;

use crate::Result;
use crate::metric::Row;
use crate::nn::backprop::{Backprop, Slope};
use crate::nn::objective::BasePass;
use crate::nn::{Network, RunningStats};
use crate::params::Layout;
use crate::ranks::Ranks;
use crate::zo::evaluate::{self, Evaluator, EvaluatorKind, Shared};
use crate::zo::{Base, Metered, Objective, QueryCount};

/// What the evaluations of a trial may use.
#[derive(Debug, Clone, Copy)]
pub struct Resources<'a> {
    /// Where tensors live.
    pub device: &'a Device,
    /// Bytes that changes in flight, or points evaluated together on a GPU, may occupy; results do not depend
    /// on it.
    pub memory: usize,
    /// The processes that share the probes; results do not depend on them.
    pub ranks: &'a Ranks,
    /// Set when the user wants to stop.
    pub interrupt: &'a AtomicBool,
    /// The queries of the trial.
    pub count: &'a QueryCount,
}

impl Resources<'_> {
    /// Checks that the user does not want to stop.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`] if so.
    pub fn check_interrupt(&self) -> Result<()> {
        self.ranks.check_interrupt(self.interrupt)
    }
}

/// Where training stands: parameters, and what moves along with them.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Parameters θ (d).
    pub params: Vec<f64>,
    /// Running statistics of normalizations; none for a problem without.
    pub stats: RunningStats,
}

/// A function of parameters that is a mean over items, such as images.
pub trait Problem: Sync {
    /// Names, shapes and positions of the parameters.
    fn layout(&self) -> &Arc<Layout>;

    /// Where a trial with this seed begins.
    fn start(&self, seed: u64) -> State;

    /// Items to train on.
    fn n_items(&self) -> usize;

    /// All items in the order in which epoch number `epoch` passes over them. Training begins with number 1.
    fn order(&self, epoch: u32) -> Vec<usize>;

    /// Some items, as epoch number `epoch` shows them.
    ///
    /// # Errors
    /// If they cannot be made.
    fn batch(&self, epoch: u32, items: &[usize]) -> Result<Box<dyn Minibatch + '_>>;

    /// The items that pruning rules score: the first `per_class` of every class, or of all where there are no
    /// classes.
    ///
    /// # Errors
    /// If there are too few.
    fn scoring_batch(&self, per_class: usize) -> Result<Box<dyn Minibatch + '_>>;

    /// Writes into `row` how good the parameters are, on items that are not trained on.
    ///
    /// # Errors
    /// [`crate::Error::Diverged`] if a loss is not finite, or whatever else goes wrong.
    fn measure(&self, at: &State, row: &mut Row) -> Result<()>;

    /// Whether every item to train on is fitted, so that a search has nothing left to do.
    ///
    /// # Errors
    /// If it cannot be told.
    fn is_fitted(&self, at: &State) -> Result<bool>;
}

/// The items of one step.
pub trait Minibatch: Sync {
    /// Number of items.
    fn n_items(&self) -> usize;

    /// Names, shapes and positions of the parameters.
    fn layout(&self) -> &Layout;

    /// The mean loss over the items.
    fn objective(&self) -> Box<dyn Objective + '_>;

    /// What the evaluation `base` of the objective at `params` (d) gave besides its loss.
    ///
    /// # Errors
    /// If it has to be computed anew and that fails.
    fn pass(&self, params: &[f64], base: &Base) -> Result<BasePass>;

    /// Items that the pass got right; `None` where there is no right and wrong.
    ///
    /// # Errors
    /// If the device fails.
    fn n_correct(&self, _pass: &BasePass) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Loss, exact gradient and activations at `params` (d). Not a query: it sees more than function values.
    ///
    /// # Errors
    /// If there is no such gradient, or the device fails.
    fn backprop(&self, params: &[f64]) -> Result<Backprop>;

    /// The loss of a network's `outputs` (B, numbers) on these items, and its gradient with respect to them.
    ///
    /// # Errors
    /// If there is no network, or the device fails.
    fn slope(&self, outputs: &Tensor) -> Result<(f64, Tensor)>;

    /// The loss of every item at these outputs (k · B, numbers) of a network, which are k times those of all items:
    /// k queries of the batch.
    ///
    /// # Errors
    /// If there is no network, or the device fails.
    fn item_losses(&self, outputs: &Tensor) -> Result<Vec<f64>>;

    /// The network's pass at `params` (d), what `outer` makes of its outputs (B, numbers), and the gradient of that
    /// with respect to the parameters.
    ///
    /// # Errors
    /// If there is no network, or the device fails.
    fn pull_back(&self, params: &[f64], outer: Slope) -> Result<Backprop>;

    /// The pass that an exact gradient came with.
    ///
    /// # Errors
    /// If the device fails.
    fn pass_of(&self, exact: &Backprop) -> Result<BasePass>;

    /// The network, its inputs and its labels, for methods and scores that look inside; `None` for a black box.
    fn graph(&self) -> Option<(&Network, &Tensor, &[u32])> {
        None
    }
}

/// Has `visit` look around `params` (d) through the evaluator `kind`, whose probes the ranks share: what the
/// evaluation at `params` gave, and the result.
///
/// # Errors
/// [`crate::Error::Diverged`] if the loss there is not finite, or if a query fails.
pub fn explore<R>(
    batch: &dyn Minibatch,
    kind: EvaluatorKind,
    params: &[f64],
    resources: &Resources,
    visit: impl FnOnce(&dyn Evaluator) -> Result<R>,
) -> Result<(BasePass, R)> {
    let Resources { ranks, interrupt, count, .. } = *resources;
    let objective = batch.objective();
    let metered = Metered::new(&*objective, count);
    let around = evaluate::at(&metered, kind, params)?;
    let result = visit(&Shared::new(&around, ranks, Some(batch.layout()), count, interrupt))?;
    Ok((batch.pass(params, around.base())?, result))
}
