//! Smart ratio (Su et al. 2020): layer-wise counts in closed form, whatever the data.
//!
//! Convolution and linear weights are numbered in declared order from l = 1 to L; a shortcut's
//! convolution is a layer like any other, after the two of its block. Number l keeps a share
//! proportional to (L − l + 1)² + (L − l + 1), the last linear one 30 %. The shares are scaled so that the
//! overall sparsity is met; what would exceed a layer goes to the layers after it. Where 30 % of the last
//! linear layer are more than all weights to keep, it keeps these and the others nothing.

use super::{Basis, ByLayers, KeepCounts, Rule, prunable};
use crate::params::{Layout, ParamKind};

/// Share that the last linear layer keeps.
const LAST_LINEAR: f64 = 0.3;

/// Fewer the further back a layer is, whatever the data.
#[derive(Debug)]
pub struct SmartRatio;

impl Rule for SmartRatio {
    fn name(&self) -> &'static str {
        "smart-ratio"
    }

    fn basis(&self) -> Basis<'_> {
        Basis::Layers(self)
    }
}

impl ByLayers for SmartRatio {
    /// n − round(sparsity · n) of all n weights together, each layer's count within one of its exact value.
    fn counts(&self, layout: &Layout, sparsity: f64) -> KeepCounts {
        // The rest of what rounding gave or took.
        let mut rest = 0.0;
        let round = |(param_idx, exact): (usize, f64)| {
            let n_keep = ((exact + rest).round() as usize).min(layout.specs()[param_idx].len());
            rest += exact - n_keep as f64;
            (param_idx, n_keep)
        };
        KeepCounts { layers: exact_counts(layout, sparsity).into_iter().map(round).collect() }
    }
}

/// (position of the tensor in the layout, weights kept), before rounding.
fn exact_counts(layout: &Layout, sparsity: f64) -> Vec<(usize, f64)> {
    let layers: Vec<usize> = prunable(layout).collect();
    let is_linear = |&idx: &usize| layout.specs()[layers[idx]].kind == ParamKind::LinearWeight;
    let last_linear = (0..layers.len()).rfind(is_linear);
    let size = |idx: usize| layout.specs()[layers[idx]].len() as f64;
    let n_weights: f64 = (0..layers.len()).map(size).sum();
    let n_kept = n_weights - (sparsity * n_weights).round();
    let reserved = last_linear.map_or(0.0, |idx| (LAST_LINEAR * size(idx)).min(n_kept));
    let wish = |idx: usize| {
        let after = (layers.len() - idx) as f64;
        if Some(idx) == last_linear { 0.0 } else { (after * after + after) * size(idx) }
    };
    let wishes: f64 = (0..layers.len()).map(wish).sum();
    let scale = if wishes > 0.0 { (n_kept - reserved) / wishes } else { 0.0 };
    let mut excess = if wishes > 0.0 { 0.0 } else { n_kept - reserved };
    let keep = |idx: usize| {
        let own = if Some(idx) == last_linear { reserved } else { scale * wish(idx) };
        let kept = (own + excess).min(size(idx));
        excess += own - kept;
        (layers[idx], kept)
    };
    (0..layers.len()).map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zo::sparsity::layouts;

    /// Oracle: percentages derived independently from the released code's rule, to the printed digit.
    #[test]
    fn resnet20_shares_match_the_derived_table() {
        let layout = &layouts::resnet20();
        let names = ["conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer3.2.conv2", "fc"];
        for (sparsity, expected) in [
            (0.80, [100.0, 100.0, 73.8, 19.6, 2.1, 30.0]),
            (0.90, [73.1, 66.2, 31.7, 9.8, 1.0, 30.0]),
            (0.95, [36.3, 32.8, 15.7, 4.8, 0.5, 30.0]),
            (0.99, [6.8, 6.2, 3.0, 0.9, 0.1, 30.0]),
        ] {
            let exact = exact_counts(layout, sparsity);
            let keep = SmartRatio.counts(layout, sparsity);
            for (name, expected) in names.iter().zip(expected) {
                let idx = layout.coord(&format!("{name}.weight"), 0).map(|coord| layout.param_of(coord));
                let idx = idx.unwrap();
                let (_, kept) = exact.iter().find(|(layer, _)| *layer == idx).unwrap();
                let percent = 100.0 * kept / layout.specs()[idx].len() as f64;
                let printed: f64 = format!("{percent:.1}").parse().unwrap();
                assert!((printed - expected).abs() < 1e-9, "{sparsity} {name}: {percent}, not {expected}");
                let (_, count) = keep.layers.iter().find(|(layer, _)| *layer == idx).unwrap();
                assert!((*count as f64 - kept).abs() < 1.0);
            }
        }
    }

    /// Oracle: by hand, three layers of 6, 8 and 10 weights in the proportions 12, 6 and 3 of 10; then what
    /// a full first layer leaves.
    #[test]
    fn totals_are_met_and_excess_is_passed_on() {
        let spec = |kind, n| crate::params::ParamSpec {
            name: "w".into(),
            kind,
            shape: vec![n, 1],
            fan_in: 1,
            start: crate::params::Start::Usual,
        };
        let (conv, linear) = (ParamKind::ConvWeight, ParamKind::LinearWeight);
        let layout =
            Layout::new(vec![spec(conv, 6), spec(ParamKind::Bias, 5), spec(conv, 8), spec(linear, 10)]);
        let counts = |sparsity: f64| -> Vec<f64> {
            exact_counts(&layout, sparsity).into_iter().map(|(_, kept)| kept).collect()
        };
        // 12 of 24: 3 in the last layer, 9 in the proportions 12 · 6 to 6 · 8, that is 5.4 and 3.6.
        let close = |found: &[f64], expected: [f64; 3]| {
            assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?} {expected:?}");
        };
        close(&counts(0.5), [5.4, 3.6, 3.0]);
        // 14 of 24: 11 would be 6.6 and 4.4.
        close(&counts(10.0 / 24.0), [6.0, 5.0, 3.0]);
        // 20 of 24: both convolutions are full, and the linear layer takes the rest.
        close(&counts(4.0 / 24.0), [6.0, 8.0, 6.0]);
        // 2 of 24 are fewer than 30 % of the linear layer.
        close(&counts(22.0 / 24.0), [0.0, 0.0, 2.0]);
        assert_eq!(SmartRatio.counts(&layout, 0.5).layers, [(0, 5), (2, 4), (3, 3)]);
    }
}
