//! Layer-wise keep ratios that ZO-GraSP's noise implies, without running it.
//!
//! With q far below d the difference of two independent RGEs is dominated by their sampling noise,
//! whose standard deviation is the same for every coordinate with Gaussian directions and
//! proportional to 1/sqrt(n_k) in a tensor of n_k weights with per-tensor unit directions. Weights
//! have standard deviation sqrt(2/fan-in). The score of a weight in layer k is therefore
//! z₁ z₂ / sqrt(fan-in_k · s_k) with z standard normal and s_k = 1 or n_k, and the layer keeps
//! P(|z₁ z₂| > t sqrt(fan-in_k · s_k)), with t set by the global sparsity.

use statrs::function::erf::erfc;

use super::{ByLayers, KeepCounts, Rule, Uniform, prunable};
use crate::params::{Layout, ParamSpec};

/// P(|z₁ z₂| > x) for independent standard normal z₁, z₂: the integral over z of
/// 2 φ(z) erfc(x / (z √2)), by Simpson's rule on [0, 9].
fn product_tail(x: f64) -> f64 {
    const N: usize = 1_800;
    const STEP: f64 = 9.0 / N as f64;
    let at = |i: usize| {
        let z = i as f64 * STEP;
        let tail = if i == 0 { if x > 0.0 { 0.0 } else { 1.0 } } else { erfc(x / (z * 2f64.sqrt())) };
        2.0 * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt() * tail
    };
    let inner: f64 = (1..N).map(|i| at(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    STEP / 3.0 * (at(0) + inner + at(N))
}

/// Counts per layer where a weight of a tensor is kept if |z₁ z₂| > t · `scale` of its tensor.
pub(super) fn noise_counts(layout: &Layout, sparsity: f64, scale: impl Fn(&ParamSpec) -> f64) -> KeepCounts {
    let layer = |idx: usize| (idx, layout.specs()[idx].len() as f64, scale(&layout.specs()[idx]));
    let layers: Vec<(usize, f64, f64)> = prunable(layout).map(layer).collect();
    let n_weights: f64 = layers.iter().map(|(_, n, _)| n).sum();
    let kept =
        |t: f64| layers.iter().map(|(_, n, scale)| n * product_tail(t * scale)).sum::<f64>() / n_weights;
    let (mut low, mut high) = (0.0, 50.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if kept(middle) > 1.0 - sparsity { low = middle } else { high = middle }
    }
    let layers =
        layers.iter().map(|&(idx, n, scale)| (idx, (n * product_tail(low * scale)).round() as usize));
    KeepCounts { layers: layers.collect() }
}

/// Active coordinates per parameter tensor (its position in the layout, their number): predicted where that is
/// possible, else as if ratios were uniform.
#[must_use]
pub fn predicted_active(
    layout: &Layout,
    rule: &dyn Rule,
    sparsity: f64,
    always_active: bool,
) -> Vec<(usize, usize)> {
    let uniform = |sparsity| Uniform.counts(layout, sparsity);
    let keep = match sparsity {
        0.0 => uniform(0.0),
        _ => rule.forecast(layout, sparsity).unwrap_or_else(|| uniform(sparsity)),
    };
    let mut counts = keep.layers;
    for (param_idx, spec) in layout.specs().iter().enumerate().filter(|(_, spec)| !spec.kind.is_prunable()) {
        let n_left_out = if always_active { 0.0 } else { sparsity * spec.len() as f64 };
        counts.push((param_idx, spec.len() - n_left_out.round() as usize));
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::super::{ZoGrasp, ZoGraspReleased, layouts};
    use super::*;

    /// Oracle: keep percentages for ResNet-20 at 90 %, derived independently from the same law:
    /// conv1, layer1, layer2.0.conv1, layer2, layer3.0.conv1, layer3, fc.
    #[test]
    fn resnet20_ratios_match_the_derived_table() {
        let layout = &layouts::resnet20();
        let table: [(&dyn Rule, [f64; 7]); 2] = [
            (&ZoGraspReleased, [84.1, 51.5, 41.6, 21.5, 12.9, 2.6, 75.0]),
            (&ZoGrasp, [47.1, 22.7, 22.7, 13.9, 13.9, 7.2, 34.4]),
        ];
        for (rule, expected) in table {
            let keep = rule.forecast(layout, 0.9).unwrap();
            let percent = |name: &str| {
                let idx = layout.specs().iter().position(|spec| spec.name == name).unwrap();
                let n_keep = keep.layers.iter().find(|(layer, _)| *layer == idx).unwrap().1;
                100.0 * n_keep as f64 / layout.specs()[idx].len() as f64
            };
            let names = [
                "conv1",
                "layer1.1.conv2",
                "layer2.0.conv1",
                "layer2.1.conv1",
                "layer3.0.conv1",
                "layer3.2.conv2",
                "fc",
            ];
            for (name, expected) in names.iter().zip(expected) {
                let found = percent(&format!("{name}.weight"));
                // The table is rounded to 0.1; a layer's count to one weight in 432.
                assert!((found - expected).abs() < 0.3, "{rule:?} {name}: {found} instead of {expected}");
            }
        }
    }

    /// Oracle: the density of |z₁ z₂| is (2/π) K₀, so the tail at 1 is (2/π) ∫₁^∞ K₀(t) dt, with
    /// the integral from tables of K₀.
    #[test]
    fn tail_of_a_product() {
        assert!((product_tail(0.0) - 1.0).abs() < 1e-9);
        let expected = std::f64::consts::FRAC_2_PI * 0.328_286_478;
        assert!((product_tail(1.0) - expected).abs() < 1e-6, "{}", product_tail(1.0));
    }
}
