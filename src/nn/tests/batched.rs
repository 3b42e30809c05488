//! Stacks against the kernels that take one point and one probe at a time. The oracle is these, which tests of their
//! own hold to definitions; here everything runs on the CPU, by the definitions of [`crate::kernels::batched`] or by the
//! source of the CUDA kernels.

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::kernels::batched::emulate::with_kernels;
use crate::kernels::{Rounding, Split};
use crate::nn::difference::Options;
use crate::nn::loss::Loss;
use crate::nn::objective::NetworkObjective;
use crate::nn::pass::batched::Batch;
use crate::nn::{Context, Mode, Network, Propagator, RunningStats, model};
use crate::rng::{Purpose, Stream};
use crate::zo::Objective;

/// A network with random parameters and images.
struct Scene {
    network: Network,
    params: Vec<f64>,
    images: Tensor,
    labels: Vec<u32>,
}

const MODELS: [&str; 5] = ["resnet8-w4", "cnn-d2-w5", "resnet-b10-w3", "lenet", "wide-cnn8-w3"];

impl Scene {
    fn new(name: &str, n_images: usize, dtype: DType) -> Result<Self> {
        let network = model::from_name(name, &model::Io::CIFAR)?;
        let mut params = network.layout().initial_values(3);
        let noise = Stream::new(8, Purpose::Test, 1);
        params.iter_mut().zip(0..).for_each(|(param, i)| *param += 0.02 * noise.normal_at(i));
        let mut pixels = vec![0.0; n_images * 3 * 32 * 32];
        Stream::new(6, Purpose::Test, 0).fill_normal(&mut pixels);
        let images = Tensor::from_vec(pixels, (n_images, 3, 32, 32), &Device::Cpu)?.to_dtype(dtype)?;
        let labels = (0..n_images as u32).map(|image| image * 7 % 10).collect();
        Ok(Self { network, params, images, labels })
    }

    /// Two coordinates of every tensor.
    fn probes(&self, shift: f64) -> Vec<(usize, f64)> {
        let layout = self.network.layout();
        let ends = (0..layout.specs().len()).flat_map(|idx| {
            let range = layout.range(idx);
            [range.start + range.len() / 3, range.end - 1]
        });
        ends.map(|coord| (coord, shift)).collect()
    }

    fn batch(&self, memory: usize) -> Batch<'_> {
        let Self { network, images, labels, .. } = self;
        Batch { network, images, loss: Loss::CrossEntropy, targets: labels.into(), memory }
    }

    fn differences(&self, mode: Mode, options: Options, probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        let Self { network, params, images, labels, .. } = self;
        Propagator::with(network, params, images, labels, mode, options)?.differences(probes)
    }
}

/// Relative error in l2.
fn error(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(f, e)| f - e)) / norm(&mut expected.iter().copied())
}

/// Complete passes, and passes from a layer on: the same losses, whatever fits into memory at a time.
#[test]
fn losses_are_those_of_one_point_at_a_time() -> Result<()> {
    for name in MODELS {
        let scene = Scene::new(name, 3, DType::F64)?;
        let objective = NetworkObjective::new(&scene.network, &scene.images, &scene.labels);
        let probes = scene.probes(0.05);
        let fill = |idx: usize, point: &mut [f64]| {
            point.copy_from_slice(&scene.params);
            point[probes[idx].0] += probes[idx].1;
        };
        let mut point = scene.params.clone();
        let expected = (0..probes.len()).map(|idx| {
            fill(idx, &mut point);
            objective.loss(&point)
        });
        let expected = expected.collect::<Result<Vec<_>>>()?;
        let found = scene.batch(1 << 30).losses(probes.len(), fill)?;
        assert!(error(&found, &expected) < 1e-13, "{name}");
        assert_eq!(scene.batch(1).losses(probes.len(), fill)?, found, "{name}: memory changes bits");

        let tensors = scene.network.tensors(&scene.params, DType::F64, &Device::Cpu)?;
        let context = Context { mode: Mode::Train, split: Split::Serial };
        let base = scene.network.forward_batched(&context, &tensors, &scene.images, |_| true)?;
        for memory in [1, 1 << 30] {
            let reused = scene.batch(memory).losses_from(&base, &scene.params, &probes)?;
            assert_eq!(reused, found, "{name}: reuse changes bits");
        }
        let moved = |activations| -> Result<Vec<f64>> {
            let mut stats = scene.network.initial_stats();
            stats.update(&scene.network.batch_stats_of(activations)?);
            Ok(stats.layers.into_iter().flat_map(|layer| [layer.mean, layer.variance]).flatten().collect())
        };
        let on_lanes = scene.network.forward_all(&context, &tensors, &scene.images)?;
        for (found, expected) in moved(&base)?.into_iter().zip(moved(&on_lanes)?) {
            assert!((found - expected).abs() < 1e-12 * (1.0 + expected.abs()), "{name}: {found} {expected}");
        }
        let expected = scene.network.forward(&context, &tensors, &scene.images)?;
        let distance = (base.logits() - expected)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(distance < 1e-12, "{name}: {distance}");
    }
    Ok(())
}

/// Propagated differences: in both modes, with scaled logits, and for any memory.
#[test]
fn differences_are_those_of_one_probe_at_a_time() -> Result<()> {
    for name in MODELS {
        let scene = Scene::new(name, 3, DType::F64)?;
        let probes = scene.probes(5e-3);
        let mut stats: RunningStats = scene.network.initial_stats();
        stats.layers.iter_mut().for_each(|layer| layer.mean.fill(0.1));
        for mode in [Mode::Train, Mode::Eval(&stats)] {
            for loss in [Loss::CrossEntropy, Loss::NormalizedCrossEntropy] {
                let options = Options { loss, ..Options::default() };
                let expected = scene.differences(mode, options, &probes)?;
                let batched = Options { is_batched: true, ..options };
                let found = scene.differences(mode, batched, &probes)?;
                assert!(error(&found, &expected) < 1e-12, "{name}: {:e}", error(&found, &expected));
                let little = Options { memory: 1, ..batched };
                assert_eq!(scene.differences(mode, little, &probes)?, found, "{name}: memory changes bits");
            }
        }
    }
    Ok(())
}

/// What tensor cores round, both ways round alike: far closer to each other than either is to the unrounded.
#[test]
fn rounded_differences_agree() -> Result<()> {
    let cases = [
        ("resnet8-w4", Rounding::Tf32, 1e-3),
        ("resnet8-w4", Rounding::Bf16, 1e-2),
        // It has changes of several channels. What f32 rounds is too much beside its TF32.
        ("lenet", Rounding::Bf16, 1e-2),
    ];
    for (name, rounding, size) in cases {
        let scene = Scene::new(name, 3, DType::F32)?;
        let probes = scene.probes(5e-3);
        let exact = scene.differences(Mode::Train, Options::default(), &probes)?;
        let options = Options { rounding, ..Options::default() };
        let one_by_one = scene.differences(Mode::Train, options, &probes)?;
        let batched = Options { is_batched: true, ..options };
        let batched = scene.differences(Mode::Train, batched, &probes)?;
        let (apart, rounded) = (error(&batched, &one_by_one), error(&one_by_one, &exact));
        assert!(apart < 0.25 * rounded, "{name} {rounding:?}: {apart:e} {rounded:e}");
        assert!((1e-2 * size..size).contains(&rounded), "{name} {rounding:?}: {rounded:e}");
    }
    Ok(())
}

/// The whole engine on the source of the CUDA kernels.
#[test]
fn kernels_carry_differences_through_networks() -> Result<()> {
    for name in ["resnet8-w2", "cnn-d2-w3"] {
        let scene = Scene::new(name, 2, DType::F32)?;
        let probes = scene.probes(5e-3);
        let options = Options { is_batched: true, ..Options::default() };
        let expected = scene.differences(Mode::Train, options, &probes)?;
        let Some(found) = with_kernels(|| scene.differences(Mode::Train, options, &probes)) else {
            return Ok(());
        };
        let found = found?;
        assert!(error(&found, &expected) < 1e-4, "{name}: {:e}", error(&found, &expected));
        let fill = |idx: usize, point: &mut [f64]| {
            point.copy_from_slice(&scene.params);
            point[probes[idx].0] += probes[idx].1;
        };
        let expected = scene.batch(1 << 30).losses(5, fill)?;
        if let Some(found) = with_kernels(|| scene.batch(1 << 30).losses(5, fill)) {
            assert!(error(&found?, &expected) < 1e-5, "{name}");
        }
    }
    Ok(())
}
