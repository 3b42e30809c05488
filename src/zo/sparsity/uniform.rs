//! The same ratio in every layer.

use super::{Basis, ByLayers, KeepCounts, Rule, prunable};
use crate::params::Layout;

/// The same ratio in every layer.
#[derive(Debug)]
pub struct Uniform;

impl Rule for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn basis(&self) -> Basis<'_> {
        Basis::Layers(self)
    }
}

impl ByLayers for Uniform {
    /// round(sparsity · n) weights of each layer are left out.
    fn counts(&self, layout: &Layout, sparsity: f64) -> KeepCounts {
        let layers = prunable(layout)
            .map(|param_idx| {
                let n = layout.specs()[param_idx].len();
                (param_idx, n - (sparsity * n as f64).round() as usize)
            })
            .collect();
        KeepCounts { layers }
    }
}
