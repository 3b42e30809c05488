//! An evaluator by its name, with what the trait does not tell: memory and operations.

use crate::Result;
use crate::nn::Network;
use crate::spec::EvaluatorKind;
use crate::zo::evaluate::{Evaluator, Full, Reuse};
use crate::zo::{Metered, NetworkObjective};

/// An evaluator at its base point.
pub(super) struct AtBase<'a> {
    pub(super) evaluator: Box<dyn Evaluator + 'a>,
    /// What it keeps of the base pass, in bytes.
    pub(super) bytes: usize,
}

/// The evaluator `kind` at `params` (d): one query.
pub(super) fn at_base<'a>(
    kind: EvaluatorKind,
    objective: &'a Metered<'a, NetworkObjective<'a>>,
    params: &'a [f64],
) -> Result<AtBase<'a>> {
    Ok(match kind {
        EvaluatorKind::Full => AtBase { evaluator: Box::new(Full::new(objective, params)?), bytes: 0 },
        EvaluatorKind::Reuse => {
            let reuse = Reuse::new(objective, params)?;
            let bytes = reuse.base().size_bytes();
            AtBase { evaluator: Box::new(reuse), bytes }
        }
    })
}

/// Operations per image that the evaluator `kind` executes for a probe of `coord`.
pub(super) fn flops_of(kind: EvaluatorKind, network: &Network, coord: usize) -> u64 {
    match kind {
        EvaluatorKind::Full => network.flops(),
        EvaluatorKind::Reuse => network.flops_from(network.node_of(network.layout().param_of(coord))),
    }
}
