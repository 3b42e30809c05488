//! A layer of which only the forward pass is written: what a network with it can do, and what is refused.

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use crate::kernels::Split;
use crate::kernels::ops::Tape;
use crate::nn::difference::Options;
use crate::nn::form::{ActivationShape, LayerPass};
use crate::nn::graph::Builder;
use crate::nn::layer::{Conv2d, Flatten, Linear};
use crate::nn::loss::Loss;
use crate::nn::objective::NetworkObjective;
use crate::nn::pass::batched::Batch;
use crate::nn::{Context, Layer, Mode, Network, Propagator, backprop};
use crate::params::{ParamKind, ParamSpec, Start};
use crate::rng::{Purpose, Stream};
use crate::zo::evaluate::{self, Evaluator, EvaluatorKind};
use crate::zo::{Metered, Objective, Probe, QueryCount};
use crate::{Error, Result};

/// tanh(w ⊙ (a + b)), with one weight per channel and one or two inputs.
#[derive(Debug)]
struct Squash {
    channels: usize,
}

impl Layer for Squash {
    fn params(&self) -> Vec<ParamSpec> {
        let (name, kind) = ("weight".to_owned(), ParamKind::NormScale);
        vec![ParamSpec { name, kind, shape: vec![self.channels], fan_in: 1, start: Start::Usual }]
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        3 * inputs[0].iter().product::<usize>() as u64
    }

    fn forward(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> TensorResult<Tensor> {
        let sum = inputs[1..].iter().try_fold(inputs[0].clone(), |sum, &input| sum + input)?;
        sum.broadcast_mul(&params[0].reshape((1, self.channels, 1, 1))?)?.tanh()
    }
}

/// The same without a parameter or a second input.
#[derive(Debug)]
struct Tanh;

impl Layer for Tanh {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        inputs[0].iter().product::<usize>() as u64
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> TensorResult<Tensor> {
        inputs[0].tanh()
    }
}

/// Convolutions and a batch norm around them, on planes and on features, with images that fill no block.
struct Scene {
    network: Network,
    params: Vec<f64>,
    images: Tensor,
    labels: Vec<u32>,
}

impl Scene {
    fn new(dtype: DType) -> Result<Self> {
        let (mut builder, input) = Builder::new([2, 4, 5]);
        let conv = |c_in| Conv2d { c_in, c_out: 3, kernel: 3, stride: 1, padding: 1, has_bias: false };
        let first = builder.push("first", conv(2), &[input]);
        let squashed = builder.push("squash", Squash { channels: 3 }, &[first]);
        let second = builder.push("second", conv(3), &[squashed]);
        let norm = builder.push_norm("norm", second);
        let joined = builder.push("join", Squash { channels: 3 }, &[norm, squashed]);
        let flat = builder.push("flatten", Flatten, &[joined]);
        let tanh = builder.push("tanh", Tanh, &[flat]);
        let _ = builder.push("fc", Linear { n_in: 60, n_out: 3 }, &[tanh]);
        let network = builder.build();
        let mut params = network.layout().initial_values(1);
        let noise = Stream::new(2, Purpose::Test, 0);
        params.iter_mut().zip(0..).for_each(|(param, i)| *param += 0.1 * noise.normal_at(i));
        let mut pixels = vec![0.0; 5 * 40];
        Stream::new(3, Purpose::Test, 0).fill_normal(&mut pixels);
        let images = Tensor::from_vec(pixels, (5, 2, 4, 5), &Device::Cpu)?.to_dtype(dtype)?;
        Ok(Self { network, params, images, labels: vec![0, 2, 1, 1, 2] })
    }

    fn objective(&self) -> NetworkObjective<'_> {
        NetworkObjective::new(&self.network, &self.images, &self.labels)
    }

    fn n_coords(&self) -> usize {
        self.params.len()
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

/// Oracle: the pass in operations of candle, and the difference of two complete losses.
#[test]
fn passes_forward_and_reuses() -> Result<()> {
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-13)] {
        let scene = Scene::new(dtype)?;
        let tensors = scene.network.tensors(&scene.params, dtype, &Device::Cpu)?;
        for split in [Split::Serial, Split::Threads] {
            let context = Context { mode: Mode::Train, split };
            let found = scene.network.forward(&context, &tensors, &scene.images)?;
            let expected = scene.network.forward_tracked(Mode::Train, &tensors, &scene.images)?;
            for (found, expected) in numbers(&found)?.into_iter().zip(numbers(expected.logits())?) {
                assert!((found - expected).abs() < tolerance, "{found} {expected}");
            }
            let kept = scene.network.forward_all(&context, &tensors, &scene.images)?;
            assert_eq!(numbers(&found)?, numbers(kept.logits())?);
        }
        let count = QueryCount::default();
        let objective = scene.objective();
        let objective = Metered::new(&objective, &count);
        let probes: Vec<Probe> =
            (0..scene.n_coords()).map(|coord| Probe::Coordinate { coord, shift: 0.01 }).collect();
        let by = |kind| evaluate::at(&objective, kind, &scene.params)?.differences(&probes);
        let (full, reuse) = (by(EvaluatorKind::Full)?, by(EvaluatorKind::Reuse)?);
        assert_eq!(full, reuse);
    }
    Ok(())
}

/// Oracle: one point at a time.
#[test]
fn passes_in_stacks() -> Result<()> {
    let scene = Scene::new(DType::F64)?;
    let probes: Vec<(usize, f64)> = (0..scene.n_coords()).map(|coord| (coord, 0.05)).collect();
    let Scene { network, params, images, labels } = &scene;
    let batch = Batch { network, images, loss: Loss::CrossEntropy, targets: labels.into(), memory: 1 << 20 };
    let found = batch.losses(probes.len(), |idx, point| {
        point.copy_from_slice(params);
        point[probes[idx].0] += probes[idx].1;
    })?;
    let objective = scene.objective();
    let base = objective.base(EvaluatorKind::Reuse, params)?;
    let expected = objective.differences_from(&base, params, &probes)?;
    for ((probe, found), expected) in probes.iter().zip(found).zip(expected) {
        assert!((found - base.loss() - expected).abs() < 1e-13, "{probe:?}: {found} {expected}");
    }
    Ok(())
}

/// Whoever asks for propagation is told which layer has no rule, and what to use.
#[test]
fn propagation_is_refused_by_name() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        let Scene { network, params, images, labels } = &Scene::new(dtype)?;
        for (is_batched, rule) in [(false, "difference rule"), (true, "difference rule for batched probes")] {
            let options = Options { is_batched, ..Options::default() };
            match Propagator::with(network, params, images, labels, Mode::Train, options) {
                Err(Error::Setting { key, reason }) => {
                    assert_eq!(key, "evaluator");
                    assert_eq!(reason, format!("layer `squash` (Squash) has no {rule}; use full or reuse"));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    Ok(())
}

/// Oracle: central differences of the loss, in f64.
#[test]
fn back_propagation_sees_it() -> Result<()> {
    let scene = Scene::new(DType::F64)?;
    let Scene { network, params, images, labels } = &scene;
    let found = backprop::gradient(network, params, images, labels, 1.0)?;
    let tensors = network.tensors(params, DType::F64, &Device::Cpu)?;
    let context = Context { mode: Mode::Train, split: Split::Serial };
    let (mut moved, mut expected) = (network.initial_stats(), network.initial_stats());
    moved.update(&network.batch_stats_of(&found.activations)?);
    expected.update(&network.batch_stats_of(&network.forward_all(&context, &tensors, images)?)?);
    for (moved, expected) in moved.layers[0].mean.iter().zip(&expected.layers[0].mean) {
        assert!((moved - expected).abs() < 1e-13, "{moved} {expected}");
    }
    // A tape that was asked all the same does not take the layer for a constant.
    assert!(Tape::record(&tensors, || network.forward_all(&context, &tensors, images)).is_err());
    let objective = scene.objective();
    assert!((found.loss - objective.loss(params)?).abs() < 1e-13);
    for coord in 0..scene.n_coords() {
        let loss_at = |shift: f64| {
            let mut moved = params.clone();
            moved[coord] += shift;
            objective.loss(&moved)
        };
        let expected = (loss_at(1e-5)? - loss_at(-1e-5)?) / 2e-5;
        assert!((found.gradient[coord] - expected).abs() < 1e-9, "{coord}: {expected}");
    }
    Ok(())
}
