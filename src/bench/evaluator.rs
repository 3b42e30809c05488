//! An evaluator by its name, with what the trait does not tell: memory and operations.

use crate::Result;
use crate::nn::Network;
use crate::nn::objective::NetworkObjective;
use crate::zo::Metered;
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::evaluate::{DifferencePropagation, Evaluator, Full, Reuse};

/// An evaluator at its base point.
pub(super) enum AtBase<'a> {
    Full(Full<'a, NetworkObjective<'a>>),
    Reuse(Reuse<'a, NetworkObjective<'a>>),
    Difference(Box<DifferencePropagation<'a, NetworkObjective<'a>>>),
}

impl<'a> AtBase<'a> {
    /// The evaluator `kind` at `params` (d): one query. `memory` bounds the bytes of changes in
    /// flight, where there are any.
    pub(super) fn new(
        kind: EvaluatorKind,
        objective: &'a Metered<'a, NetworkObjective<'a>>,
        params: &'a [f64],
        memory: usize,
    ) -> Result<Self> {
        Ok(match kind {
            EvaluatorKind::Full => Self::Full(Full::new(objective, params)?),
            EvaluatorKind::Reuse => Self::Reuse(Reuse::new(objective, params)?),
            EvaluatorKind::Difference => {
                Self::Difference(Box::new(DifferencePropagation::new(objective, params, memory)?))
            }
        })
    }

    pub(super) fn evaluator(&self) -> &dyn Evaluator {
        match self {
            Self::Full(full) => full,
            Self::Reuse(reuse) => reuse,
            Self::Difference(difference) => &**difference,
        }
    }

    /// What it keeps of the base pass, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Full(_) => 0,
            Self::Reuse(reuse) => reuse.base().size_bytes(),
            Self::Difference(difference) => difference.propagator().size_bytes(),
        }
    }

    /// Operations per image that it executes for a probe of `coord`.
    pub(super) fn flops_of(&self, network: &Network, coord: usize) -> u64 {
        match self {
            Self::Full(_) => network.flops(),
            Self::Reuse(_) => network.flops_from(network.node_of(network.layout().param_of(coord))),
            Self::Difference(difference) => difference.propagator().flops_of(coord),
        }
    }
}
