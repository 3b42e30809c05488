//! Sparsity on the networks of the experiments.

use candle_core::{DType, Device};
use deepzero::nn::model::{self, Io};
use deepzero::nn::objective::NetworkObjective;
use deepzero::params::ParamSpec;
use deepzero::zo::sparsity::{
    Basis, ByLayers, KeepCounts, Rule, Scoring, SmartRatio, ZoGrasp, ZoGraspReleased, global_mask,
};
use deepzero::zo::{Metered, QueryCount};

/// Oracle: the law, for both forms, on ResNet-20 with 24 images and 48 directions; five standard errors
/// of a share of n weights, and 2 points for what is left of the gradient beside the noise. In the last
/// layer the gradient is not small beside the noise, which is why it is left out.
#[test]
fn zo_grasp_keeps_what_the_law_says() {
    let network = model::resnet(20, 16, &Io::CIFAR).unwrap();
    let layout = network.layout();
    let params = layout.initial_values(2);
    let data = deepzero::data::synthetic(24, 10).train;
    let rows: Vec<usize> = (0..24).collect();
    let batch = deepzero::data::make_batch(&data, &rows, None, DType::F32, &Device::Cpu).unwrap();
    let objective = NetworkObjective::new(&network, &batch.images, &batch.labels);
    let count = QueryCount::default();
    let metered = Metered::new(&objective, &count);
    let rules: [&dyn Rule; 2] = [&ZoGraspReleased, &ZoGrasp];
    for rule in rules {
        let Basis::Scores(by_scores) = rule.basis() else { panic!("{rule:?} scores") };
        let scoring =
            Scoring { layout, params: &params, loss: &metered, mu: 5e-3, n_dirs: 48, seed: 1, draw: 0 };
        let scores = by_scores.scores(&scoring).unwrap();
        let found = KeepCounts::of_mask(layout, &global_mask(layout, &scores, 0.9).unwrap());
        let expected = rule.forecast(layout, 0.9).unwrap();
        let layers = found.layers.iter().zip(&expected.layers);
        for (&(param_idx, found), &(_, expected)) in layers.take(found.layers.len() - 1) {
            let spec = &layout.specs()[param_idx];
            let share = |n: usize| n as f64 / spec.len() as f64;
            let (found, expected) = (share(found), share(expected));
            let error = (expected * (1.0 - expected) / spec.len() as f64).sqrt();
            assert!(
                (found - expected).abs() < 0.02 + 5.0 * error,
                "{rule:?} {}: {found} {expected}",
                spec.name
            );
        }
    }
    assert_eq!(count.queries(), 2 * 2 * 49);
}

/// Oracle: the definition of a sparsity.
#[test]
fn smart_ratios_meet_the_sparsity() {
    for name in ["resnet20", "resnet-b18-w16", "lenet", "cnn-d1"] {
        let network = model::from_name(name, &Io::CIFAR).unwrap();
        let layout = network.layout();
        for sparsity in [0.0, 0.001, 0.1, 0.5, 0.8, 0.95, 0.99, 0.999] {
            let keep = SmartRatio.counts(layout, sparsity);
            let n: usize =
                layout.specs().iter().filter(|spec| spec.kind.is_prunable()).map(ParamSpec::len).sum();
            assert_eq!(keep.total(), n - (sparsity * n as f64).round() as usize, "{name} {sparsity}");
        }
    }
}
