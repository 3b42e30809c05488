//! Learning rules that are not zeroth-order: what zeroth-order training is measured against.
//!
//! A [`Rule`] makes gradients of a batch's loss, or what it takes for them, by looking into the network. It is a
//! gradient source as estimators are: the same trainer, optimizer, checkpoint and report serve it. One file a rule,
//! and a line of [`RULES`].

pub mod align_ada;
pub mod align_prop;
pub mod align_zero;
pub mod dfa;
pub mod fa;
pub mod fg_a;
pub mod fg_w;
pub mod forward_gradient;
pub mod last_layer;
pub mod lg_bp;
pub mod lg_fg_a;
pub mod mixer;
mod row;
pub mod tangent;

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::Tensor;

use super::descent::{Descent, GradientSource};
use super::{Active, Kind, Method};
use crate::cost::{Cost, Steps};
use crate::nn::model::Family;
use crate::nn::objective::check_rounding;
use crate::nn::{self, Network};
use crate::params::Layout;
use crate::problem::Minibatch;
use crate::setting::{Entry, Section, Settings};
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::optimizer;
use crate::{Error, Result};

/// Every rule. A new one is a file beside these, and a line here.
pub static RULES: &[&dyn Rule] = &[
    &fa::Fa,
    &dfa::Dfa,
    &align_ada::AlignAda,
    &align_zero::AlignZero,
    &align_prop::AlignProp,
    &last_layer::LastLayer,
    &fg_w::FgW,
    &fg_a::FgA,
    &lg_fg_a::LgFgA,
    &lg_bp::LgBp,
];

/// A learning rule as settings name it.
pub trait Rule: Debug + Sync {
    /// Name in files, as a `method`.
    fn name(&self) -> &'static str;

    /// The families of networks that it is defined for.
    fn families(&self) -> &'static [&'static Family];

    /// The only loss that it is defined for, if it is not defined for all.
    fn only_loss(&self) -> Option<nn::Criterion> {
        None
    }

    /// The sections that it reads beyond those of every method.
    fn sections(&self) -> Vec<&'static [Entry]> {
        Vec::new()
    }

    /// A run of it from the start. What it draws once follows from `settings` and `seed`, so that nothing of it needs
    /// to be in a checkpoint.
    ///
    /// # Errors
    /// If the settings do not allow it.
    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn GradientSource>>;

    /// The time of a step in units of one by back-propagation.
    fn relative_time(&self) -> f64 {
        1.0
    }
}

/// The network of a batch, its images and its labels.
///
/// # Errors
/// If there is none.
fn network_of(batch: &dyn Minibatch) -> Result<(&Network, &Tensor, &[u32])> {
    batch.graph().ok_or_else(nothing_inside)
}

/// The error of a rule whose problem is not one network.
pub(crate) fn nothing_inside() -> Error {
    Error::setting(
        "method",
        "this rule looks into a network, and a black box shows nothing; use method = cge",
    )
}

/// A method: descent along what a rule makes.
#[derive(Debug)]
pub struct Following(pub &'static dyn Rule);

impl Kind for Following {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        let mut sections = vec![optimizer::Config::ENTRIES];
        sections.extend(self.0.sections());
        sections
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        let nn::Config { model, precision, .. } = settings.read()?;
        let families = self.0.families();
        if !families.iter().any(|family| family.name() == model.name()) {
            let takes: Vec<&str> = families.iter().map(|family| family.name()).collect();
            let reason = format!(
                "{} is not defined for `{}`; method = {} takes {}",
                self.name(),
                model.name(),
                self.name(),
                takes.join(" or ")
            );
            return Err(Error::setting("model", reason));
        }
        let nn::Goal { loss } = settings.read()?;
        if let Some(only) = self.0.only_loss().filter(|&only| only != loss) {
            let reason = format!("method = {} takes {}; got {}", self.name(), only.name(), loss.name());
            return Err(Error::setting("loss", reason));
        }
        check_rounding(precision, EvaluatorKind::Full, false)
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>> {
        let source = self.0.start(settings, seed, layout)?;
        Ok(Box::new(Descent::new(settings.read()?, source, Active::all(), layout)))
    }

    fn has_probes(&self) -> bool {
        false
    }

    fn looks_inside(&self) -> bool {
        true
    }

    fn cost(&self, _: &Settings, steps: &Steps) -> Result<Cost> {
        Ok(Cost {
            queries: 0.0,
            flops: 3.0 * steps.items * steps.speed.full_flops,
            wall_s: self.0.relative_time() * steps.items * steps.speed.backprop_s,
        })
    }
}
