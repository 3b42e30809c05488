//! Exact propagation of differences: on random networks, in cases chosen for what may go wrong, and
//! on the networks of the experiments. Unless a test says otherwise its oracle is the definition,
//! l(θ + step · e) − l(θ) by two complete forward passes in f64.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use deepzero::kernels::{Isa, Split};
use deepzero::nn::backprop;
use deepzero::nn::difference::{DEFAULT_MEMORY, Options};
use deepzero::nn::graph::{Builder, Value};
use deepzero::nn::layer::{Add, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool2, Relu, ShortcutA};
use deepzero::nn::model::Io;
use deepzero::nn::objective::NetworkObjective;
use deepzero::nn::{Context, Mode, Network, Propagator, RunningStats, loss, model};
use deepzero::params::ParamKind;
use deepzero::rng::{Purpose, Stream};
use deepzero::zo::Scheme;
use deepzero::zo::estimator::{Cge, Rge};
use deepzero::zo::evaluate::{self, EvaluatorKind};
use deepzero::zo::probe::Directions;
use deepzero::zo::{self, DirectionSource, Estimate, Estimator, Metered, QueryCount};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use rayon::prelude::*;

use crate::cli::{Golden, Place, distance, numbers};

/// Of the difference.
const RELATIVE: f64 = 1e-8;
/// Each of the two subtracted losses is off by rounding: of sums over up to 300 terms, and a batch norm
/// that divides by a small deviation multiplies what came before it. One of a constant channel
/// multiplies by 1 / sqrt(1e-5) = 316.
const ROUNDING: f64 = 1e3 * f64::EPSILON;
/// Rounding of the propagated difference itself: the change of a variance is the mean of δ² less the
/// square of the mean of δ. A step that moves a channel by the same large number everywhere leaves
/// the rounding of its square.
const ROUNDING_OF_SQUARES: f64 = 1e2 * f64::EPSILON;

/// Rounding of f32, through at most 20 layers.
const F32: f64 = 1e-4;

/// A network at one point, with a batch.
struct Case {
    network: Network,
    params: Vec<f64>,
    images: Tensor,
    labels: Vec<u32>,
    /// For batch norm in eval mode.
    running: Option<RunningStats>,
}

impl Case {
    /// Random parameters, none of them at a special value, and random images.
    fn new(network: Network, [channels, height, width]: [usize; 3], n_images: usize, seed: u64) -> Self {
        let stream = Stream::new(seed, Purpose::Test, 0);
        let layout = network.layout();
        let mut params = layout.initial_values(seed);
        for (idx, spec) in layout.specs().iter().enumerate() {
            if matches!(spec.kind, ParamKind::NormScale | ParamKind::NormShift) {
                let noise = stream.lane(1 + idx as u32);
                layout.range(idx).zip(0..).for_each(|(at, i)| params[at] += 0.3 * noise.normal_at(i));
            }
        }
        let mut pixels = vec![0.0; n_images * channels * height * width];
        stream.fill_normal(&mut pixels);
        let images = Tensor::from_vec(pixels, (n_images, channels, height, width), &Device::Cpu).unwrap();
        let n_classes = layout.specs().last().unwrap().shape[0] as u64;
        let labels = (0..n_images).map(|i| stream.lane(1000).below_at(i as u64, n_classes) as u32).collect();
        Self { network, params, images, labels, running: None }
    }

    /// The same in eval mode, with running statistics like those of some other batch.
    fn in_eval_mode(mut self, seed: u64) -> Self {
        let mut running = self.network.initial_stats();
        for (idx, layer) in running.layers.iter_mut().enumerate() {
            let stream = Stream::new(seed, Purpose::Test, 1).lane(idx as u32);
            for (channel, (mean, variance)) in layer.mean.iter_mut().zip(&mut layer.variance).enumerate() {
                let [a, b] = stream.normal_pair_at(channel as u64);
                (*mean, *variance) = (0.5 * a, b.exp());
            }
        }
        self.running = Some(running);
        self
    }

    fn mode(&self) -> Mode<'_> {
        self.running.as_ref().map_or(Mode::Train, Mode::Eval)
    }

    fn objective(&self) -> NetworkObjective<'_> {
        NetworkObjective::new(&self.network, &self.images, &self.labels)
    }

    fn loss(&self, params: &[f64]) -> f64 {
        let tensors = self.network.tensors(params, DType::F64, &Device::Cpu).unwrap();
        let context = Context { mode: self.mode(), split: Split::Serial };
        let logits = self.network.forward(&context, &tensors, &self.images).unwrap();
        loss::cross_entropy(&logits, &self.labels).unwrap()
    }

    /// The loss after each probe.
    fn losses(&self, probes: &[(usize, f64)]) -> Vec<f64> {
        let moved = |&(coord, step): &(usize, f64)| {
            let mut params = self.params.clone();
            params[coord] += step;
            self.loss(&params)
        };
        probes.par_iter().map(moved).collect()
    }

    fn propagator(&self, dtype: DType, memory: usize) -> Propagator {
        let images = self.images.to_dtype(dtype).unwrap();
        Propagator::new(&self.network, &self.params, &images, &self.labels, self.mode(), memory).unwrap()
    }

    /// Up to `n` coordinates of every parameter tensor.
    fn coords(&self, n: usize) -> Vec<usize> {
        let layout = self.network.layout();
        let of_tensor = |idx: usize| {
            let range = layout.range(idx);
            let stream = Stream::new(idx as u64, Purpose::Test, 2);
            stream.subset(range.len(), n.min(range.len())).into_iter().map(move |at| range.start + at)
        };
        (0..layout.specs().len()).flat_map(of_tensor).collect()
    }

    /// Every coordinate of [`Case::coords`] with every step.
    fn probes(&self, n: usize, steps: &[f64]) -> Vec<(usize, f64)> {
        self.coords(n).into_iter().flat_map(|coord| steps.iter().map(move |&step| (coord, step))).collect()
    }

    fn name(&self, coord: usize) -> &str {
        let layout = self.network.layout();
        &layout.specs()[layout.param_of(coord)].name
    }

    #[track_caller]
    fn check(&self, probes: &[(usize, f64)]) {
        let (base, moved) = (self.loss(&self.params), self.losses(probes));
        self.check_with(probes, &self.propagator(DType::F64, DEFAULT_MEMORY), base, &moved);
        let options = Options { is_batched: true, ..Options::default() };
        let Self { network, params, images, labels, .. } = self;
        let batched = Propagator::with(network, params, images, labels, self.mode(), options).unwrap();
        self.check_with(probes, &batched, base, &moved);
    }

    /// Holds a propagator to the loss at the point and those after each probe.
    #[track_caller]
    fn check_with(&self, probes: &[(usize, f64)], propagator: &Propagator, base: f64, moved: &[f64]) {
        assert!((propagator.loss() - base).abs() <= 1e-12 * (1.0 + base), "{} {base}", propagator.loss());
        let found = propagator.differences(probes).unwrap();
        for ((&(coord, step), &moved), found) in probes.iter().zip(moved).zip(found) {
            let expected = moved - base;
            // A step puts numbers of its size into activations, from which means are subtracted.
            let floor =
                ROUNDING * (1.0 + base.abs() + moved.abs() + step.abs()) + ROUNDING_OF_SQUARES * step * step;
            assert!(
                (found - expected).abs() <= RELATIVE * expected.abs() + floor,
                "{} ({coord}) by {step:e}: {found:e} instead of {expected:e} ± {floor:e}",
                self.name(coord)
            );
        }
    }
}

/// What follows a convolution.
#[derive(Debug, Clone, Copy)]
enum After {
    Nothing,
    Norm,
    Relu,
    NormRelu,
    /// A batch norm that a ReLU and an addition read.
    NormReadTwice,
    /// A batch norm added to itself.
    NormTwice,
}

/// The other term of an addition.
#[derive(Debug, Clone, Copy)]
enum Other {
    Shortcut,
    Conv,
    ConvNorm,
}

/// One part of a random network.
#[derive(Debug, Clone)]
enum Part {
    Conv { c_out: usize, kernel: usize, stride: usize, padding: usize, has_bias: bool, after: After },
    Residual { c_out: usize, stride: usize, has_norm: bool, other: Other, is_swapped: bool, has_relu: bool },
    MaxPool,
    Norm,
    Relu,
    Flatten,
}

fn part() -> impl Strategy<Value = Part> {
    use After::*;
    // From 8 channels on, 3x3 convolutions of stride 1 take another path.
    let channels = || prop_oneof![1..=7usize, 8..=12usize];
    let after = select(vec![Nothing, Norm, Relu, NormRelu, NormRelu, NormReadTwice, NormTwice]);
    let conv = (channels(), select(vec![1, 3, 3, 5]), 1..=2usize, 0..=2usize, any::<bool>(), after);
    let other = select(vec![Other::Shortcut, Other::Shortcut, Other::Conv, Other::ConvNorm]);
    let residual = (channels(), 1..=2usize, any::<bool>(), other, any::<bool>(), any::<bool>());
    prop_oneof![
        4 => conv.prop_map(|(c_out, kernel, stride, padding, has_bias, after)| {
            Part::Conv { c_out, kernel, stride, padding, has_bias, after }
        }),
        4 => residual.prop_map(|(c_out, stride, has_norm, other, is_swapped, has_relu)| {
            Part::Residual { c_out, stride, has_norm, other, is_swapped, has_relu }
        }),
        1 => Just(Part::MaxPool),
        1 => Just(Part::Norm),
        1 => Just(Part::Relu),
        1 => Just(Part::Flatten),
    ]
}

/// Most features in the middle of a random network.
const MAX_FEATURES: usize = 60;

/// A network under construction, with names by number.
struct Chain {
    builder: Builder,
    /// Rows and columns of the last value.
    size: [usize; 2],
    n_layers: usize,
}

impl Chain {
    fn name(&mut self) -> String {
        self.n_layers += 1;
        self.n_layers.to_string()
    }

    fn conv(&mut self, value: Value, conv: Conv2d) -> Value {
        let name = self.name();
        self.builder.push(name, Conv2d { c_in: self.builder.channels(value), ..conv }, &[value])
    }

    fn norm(&mut self, value: Value) -> Value {
        let name = self.name();
        self.builder.push_norm(name, value)
    }

    fn relu(&mut self, value: Value) -> Value {
        let name = self.name();
        self.builder.push(name, Relu, &[value])
    }

    fn add(&mut self, a: Value, b: Value) -> Value {
        let name = self.name();
        self.builder.push(name, Add, &[a, b])
    }

    /// Appends a part, made to fit.
    fn part(&mut self, part: &Part, value: Value) -> Value {
        match *part {
            Part::MaxPool if self.size[0].min(self.size[1]) < 2 => value,
            Part::MaxPool => {
                self.size = self.size.map(|n| n / 2);
                let name = self.name();
                self.builder.push(name, MaxPool2, &[value])
            }
            Part::Norm => self.norm(value),
            Part::Relu => self.relu(value),
            Part::Flatten => {
                let [height, width] = self.size;
                if self.builder.channels(value) * height * width > MAX_FEATURES {
                    return value;
                }
                self.size = [1, 1];
                let name = self.name();
                self.builder.push(name, Flatten, &[value])
            }
            Part::Conv { c_out, kernel, stride, padding, has_bias, after } => {
                let too_small = self.size.iter().any(|n| n + 2 * padding < kernel);
                let padding = if too_small { kernel / 2 } else { padding };
                self.size = self.size.map(|n| (n + 2 * padding - kernel) / stride + 1);
                let value = self.conv(value, Conv2d { c_in: 0, c_out, kernel, stride, padding, has_bias });
                self.after(after, value)
            }
            Part::Residual { c_out, stride, has_norm, other, is_swapped, has_relu } => {
                let c_in = self.builder.channels(value);
                let c_out =
                    if stride == 1 && matches!(other, Other::Shortcut) { c_in } else { c_out.max(c_in) };
                self.size = self.size.map(|n| n.div_ceil(stride));
                let conv = Conv2d { c_in: 0, c_out, kernel: 3, stride, padding: 1, has_bias: !has_norm };
                let mut main = self.conv(value, conv.clone());
                if has_norm {
                    main = self.norm(main);
                }
                let side = Conv2d { kernel: 1, padding: 0, ..conv };
                let other = match other {
                    Other::Shortcut if stride == 1 => value,
                    Other::Shortcut => {
                        let name = self.name();
                        self.builder.push(name, ShortcutA { c_in, c_out }, &[value])
                    }
                    Other::Conv => self.conv(value, side),
                    Other::ConvNorm => {
                        let side = self.conv(value, side);
                        self.norm(side)
                    }
                };
                let sum = if is_swapped { self.add(other, main) } else { self.add(main, other) };
                if has_relu { self.relu(sum) } else { sum }
            }
        }
    }

    fn after(&mut self, after: After, value: Value) -> Value {
        match after {
            After::Nothing => value,
            After::Norm => self.norm(value),
            After::Relu => self.relu(value),
            After::NormRelu => {
                let value = self.norm(value);
                self.relu(value)
            }
            After::NormReadTwice => {
                let norm = self.norm(value);
                let relu = self.relu(norm);
                self.add(relu, norm)
            }
            After::NormTwice => {
                let norm = self.norm(value);
                let sum = self.add(norm, norm);
                self.relu(sum)
            }
        }
    }
}

/// The parts in a row, average pooling, a linear layer, and another if there are `hidden` units.
fn build(input: [usize; 3], parts: &[Part], hidden: Option<usize>, n_classes: usize) -> Network {
    build_from(input, parts, false, hidden, n_classes)
}

/// The same, with all pixels as features instead of their averages if `is_flat`.
fn build_from(
    input: [usize; 3],
    parts: &[Part],
    is_flat: bool,
    hidden: Option<usize>,
    n_classes: usize,
) -> Network {
    let (builder, mut value) = Builder::new(input);
    let mut chain = Chain { builder, size: [input[1], input[2]], n_layers: 0 };
    for part in parts {
        value = chain.part(part, value);
    }
    let mut builder = chain.builder;
    value = if is_flat {
        builder.push("flatten", Flatten, &[value])
    } else {
        builder.push("pool", GlobalAvgPool, &[value])
    };
    let mut n_in = builder.channels(value);
    if let Some(n_out) = hidden {
        value = builder.push("hidden", Linear { n_in, n_out }, &[value]);
        value = builder.push("hidden_relu", Relu, &[value]);
        n_in = n_out;
    }
    builder.push("fc", Linear { n_in, n_out: n_classes }, &[value]);
    builder.build()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_networks(
        input in (1..=4usize, 5..=13usize, 5..=13usize),
        parts in prop::collection::vec(part(), 1..=4),
        is_flat: bool,
        hidden in prop::option::of(1..=5usize),
        n_images in select(vec![1, 2, 3, 5, 17]),
        is_train: bool,
        exponents in prop::array::uniform2(-9.0..2.0f64),
        seed: u64,
    ) {
        let input = [input.0, input.1, input.2];
        let case = Case::new(build_from(input, &parts, is_flat, hidden, 3), input, n_images, seed);
        let case = if is_train { case } else { case.in_eval_mode(seed) };
        case.check(&case.probes(4, &[10f64.powf(exponents[0]), -10f64.powf(exponents[1])]));
    }
}

fn conv(c_out: usize, kernel: usize, after: After) -> Part {
    Part::Conv { c_out, kernel, stride: 1, padding: kernel / 2, has_bias: true, after }
}

/// Small, ordinary, large.
const STEPS: [f64; 4] = [1e-6, -5e-3, 1.0, 1e3];

/// Both modes of batch norm.
fn both_modes(case: impl Fn() -> Case) -> [Case; 2] {
    [case(), case().in_eval_mode(1)]
}

/// ReLUs that are shut for every image and open by a large step only, alone and after a batch norm.
#[test]
fn dead_relus() {
    for after in [After::Relu, After::NormRelu] {
        let input = [2, 6, 5];
        let network = || build(input, &[conv(3, 3, after), conv(4, 3, after)], None, 3);
        for mut case in both_modes(|| Case::new(network(), input, 3, 1)) {
            let layout = case.network.layout().clone();
            for (idx, spec) in
                layout.specs().iter().enumerate().filter(|(_, spec)| spec.kind != ParamKind::LinearWeight)
            {
                if spec.name != "fc.bias" && matches!(spec.kind, ParamKind::Bias | ParamKind::NormShift) {
                    case.params[layout.range(idx)].fill(-50.0);
                }
            }
            let probes = case.probes(100, &STEPS);
            case.check(&probes);
            let small: Vec<(usize, f64)> = probes
                .into_iter()
                .filter(|(coord, step)| !case.name(*coord).starts_with("fc") && step.abs() < 0.1)
                .collect();
            // Nothing gets through: exactly zero, not nearly.
            let found = case.propagator(DType::F64, DEFAULT_MEMORY).differences(&small).unwrap();
            assert!(found.iter().all(|difference| difference.abs() == 0.0), "{found:?}");
        }
    }
}

/// Convolutions without weights make channels constant, so that batch norms see no variance: every
/// channel, and the first alone. Then one image of one pixel, where all batch norms see none.
#[test]
fn channels_without_variance() {
    let parts = [conv(3, 3, After::NormRelu), conv(4, 3, After::Norm), conv(2, 1, After::NormRelu)];
    for (size, n_images) in [(5, 3), (1, 1), (1, 2)] {
        let input = [2, size, size];
        for n_zeroed in [0, 9, usize::MAX] {
            for mut case in both_modes(|| Case::new(build(input, &parts, None, 3), input, n_images, 2)) {
                let layout = case.network.layout().clone();
                for (idx, _) in
                    layout.specs().iter().enumerate().filter(|(_, s)| s.kind == ParamKind::ConvWeight)
                {
                    case.params[layout.range(idx)].iter_mut().take(n_zeroed).for_each(|weight| *weight = 0.0);
                }
                case.check(&case.probes(30, &STEPS));
            }
        }
    }
}

/// All pixels equal: every window of a max pooling is a tie.
#[test]
fn ties_in_max_pooling() {
    let input = [1, 7, 9];
    let parts =
        [Part::MaxPool, conv(3, 3, After::Relu), Part::MaxPool, conv(2, 1, After::NormRelu), Part::Relu];
    for mut case in both_modes(|| Case::new(build(input, &parts, None, 3), input, 5, 3)) {
        case.images = (case.images.ones_like().unwrap() * 0.5).unwrap();
        // Nearly constant channels have little variance: larger steps would leave rounding alone.
        case.check(&case.probes(30, &[1e-6, -5e-3, 1.0, 10.0]));
    }
    let mut case = Case::new(model::lenet(&Io::CIFAR).unwrap(), Io::CIFAR.input, 3, 3);
    case.images = (case.images.ones_like().unwrap() * 0.5).unwrap();
    case.check(&case.probes(20, &STEPS));
}

/// Oracle: a batch norm takes off what is added to a whole channel, so that a bias two convolutions
/// before it changes nothing. A complete pass in f32 rounds numbers of size `step`, which a batch norm
/// divides by a deviation of 0.02.
#[test]
fn shifts_of_a_channel_cancel_in_f32() {
    let input = [1, 8, 8];
    let parts = [conv(2, 1, After::Nothing), conv(3, 1, After::NormRelu)];
    let mut case = Case::new(build(input, &parts, None, 3), input, 17, 10);
    case.images = (case.images * 0.02).unwrap();
    let propagator = case.propagator(DType::F32, DEFAULT_MEMORY);
    for coord in case.network.layout().range(1) {
        for step in [0.01, 0.1, 1.0, 10.0, 100.0] {
            let (found, floor) =
                (propagator.differences(&[(coord, step)]).unwrap()[0], 1e-7 * (1.0 + step / 0.02));
            assert!(found.abs() <= floor, "step {step}: {found:e} instead of 0 ± {floor:e}");
        }
    }
}

/// Average pooling and a linear layer are all; all coordinates, biases among them. Then with logits
/// in the thousands, where all probabilities but one underflow.
#[test]
fn linear_networks_and_huge_logits() {
    for scale in [1.0, 30.0, 1e4] {
        let input = [3, 2, 2];
        let mut case = Case::new(build(input, &[], None, 4), input, 17, 4);
        case.params.iter_mut().for_each(|value| *value *= scale);
        case.check(&case.probes(100, &[1e-6, -5e-3, 1.0, -30.0, 100.0, -1e3, 1e3, 1e5]));
    }
}

/// A flattened plane is the output: a shift in the convolution before it changes some neighbouring logits.
#[test]
fn outputs_that_are_flattened() {
    let input = [2, 3, 2];
    let network = || {
        let (mut builder, value) = Builder::new(input);
        let layer = Conv2d { c_in: 2, c_out: 4, kernel: 3, stride: 1, padding: 1, has_bias: true };
        let value = builder.push("conv", layer, &[value]);
        builder.push("flatten", Flatten, &[value]);
        builder.build()
    };
    let case = Case::new(network(), input, 17, 5);
    assert_eq!(case.params.len(), 76);
    case.check(&case.probes(76, &STEPS));
}

/// Oracle: by hand. Logits (0, 0), label 0: a step s of the first bias makes the loss
/// ln(1 + e^-s), of which little is left of a sum with -1 when s is large and negative.
#[test]
fn a_bias_step_has_a_closed_form() {
    let input = [1, 1, 1];
    let mut case = Case::new(build(input, &[], None, 2), input, 1, 0);
    (case.params, case.labels) = (vec![0.0; 4], vec![0]);
    let steps = [1e-12, -1e-12, 1e-3, 1.0, -1.0, 20.0, -20.0, 40.0, -40.0, 800.0, -800.0];
    let probes = steps.map(|step| (2, step));
    let propagator = case.propagator(DType::F64, DEFAULT_MEMORY);
    for (step, found) in steps.into_iter().zip(propagator.differences(&probes).unwrap()) {
        // ln((1 + e^-s) / 2) without cancellation.
        let expected = if step < -1.0 {
            -step + step.exp().ln_1p() - 2f64.ln()
        } else {
            ((-step).exp_m1() / 2.0).ln_1p()
        };
        assert!((found / expected - 1.0).abs() < 1e-12, "{step}: {found:e} instead of {expected:e}");
    }
}

/// Oracle: symmetry. Logits (a, 0) become (-a, 0), so that the loss of label 1 falls by a, whatever
/// the probabilities that underflow.
#[test]
fn a_reversal_has_a_closed_form() {
    let input = [1, 1, 1];
    for a in [1e-3, 1.0, 20.0, 40.0, 400.0, 800.0, -40.0, -400.0, -800.0] {
        let mut case = Case::new(build(input, &[], None, 2), input, 1, 0);
        (case.params, case.labels) = (vec![0.0, 0.0, a, 0.0], vec![1]);
        let found = case.propagator(DType::F64, DEFAULT_MEMORY).differences(&[(2, -2.0 * a)]).unwrap()[0];
        assert!((found / -a - 1.0).abs() < 1e-12, "{a}: {found} instead of {}", -a);
    }
}

/// Oracle: back-propagation in f64. At this step the bias of a finite difference is far below the
/// tolerance, unless a ReLU lies within 1e-12 of its kink.
#[test]
fn tiny_steps_give_the_derivative() {
    const STEP: f64 = 1e-12;
    for (name, n_images) in [
        ("cnn-d3-w6", 5),
        ("resnet8-w4", 3),
        ("resnet-b10-w4", 3),
        ("lenet", 5),
        ("wide-cnn8-w2", 5),
        ("ntk-cnn8-w2", 5),
    ] {
        let case = Case::new(model::from_name(name, &Io::CIFAR).unwrap(), Io::CIFAR.input, n_images, 5);
        let exact = backprop::gradient(&case.network, &case.params, &case.images, &case.labels, 1.0).unwrap();
        let largest = exact.gradient.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
        let probes = case.probes(20, &[STEP, -STEP]);
        let found = case.propagator(DType::F64, DEFAULT_MEMORY).differences(&probes).unwrap();
        for (&(coord, step), found) in probes.iter().zip(found) {
            let (slope, expected) = (found / step, exact.gradient[coord]);
            // Biases before a batch norm have no effect but rounding.
            let tolerance = 1e-4 * expected.abs() + 1e-9 * largest;
            assert!(
                (slope - expected).abs() < tolerance,
                "{name} {}: {slope:e} {expected:e}",
                case.name(coord)
            );
        }
    }
}

/// Steps so large that the loss is NaN: the probe is NaN, and the estimate leaves it out and goes on.
#[test]
fn non_finite_probes_are_left_out() {
    let input = [2, 5, 5];
    let parts = [conv(3, 3, After::NormRelu), Part::MaxPool, conv(3, 3, After::Relu)];
    for case in both_modes(|| Case::new(build(input, &parts, Some(4), 3), input, 5, 6)) {
        let base = case.loss(&case.params);
        let probes = case.probes(6, &[1e-3, 1e160, -1e160, 1e308, -1e308, f64::INFINITY, f64::NAN]);
        let found = case.propagator(DType::F64, DEFAULT_MEMORY).differences(&probes).unwrap();
        let mut n_broken = 0;
        for ((&(coord, step), moved), found) in probes.iter().zip(case.losses(&probes)).zip(found) {
            let what = format!("{} by {step:e}: {found:e} instead of {:e}", case.name(coord), moved - base);
            n_broken += usize::from(!moved.is_finite());
            if moved.is_finite() {
                // The rule may overflow where a complete pass, dividing by the deviation, does not.
                // A shift of a channel before a batch norm changes nothing, but makes a complete pass
                // forget the values of the channel.
                let is_undone = case.name(coord).ends_with(".bias") && found.abs() < 1e-9;
                let is_close = (found - (moved - base)).abs() <= 1e-6 * moved.abs();
                assert!(found.is_nan() || is_undone || is_close, "{what}");
            } else {
                assert!(found.is_nan(), "{what}");
            }
        }
        assert!(n_broken > 20);
    }
    let case = Case::new(build(input, &parts, None, 3), input, 5, 6);
    let coords = case.coords(4);
    let objective = case.objective();
    let estimates = estimates(
        &objective,
        &case.params,
        &Cge::new(case.params.len(), coords.into(), 1e308, Scheme::Forward),
    );
    let [full, _, difference] = estimates;
    assert!(full.0.n_left_out > 0 && difference.0.n_left_out >= full.0.n_left_out);
    assert!(difference.0.gradient.iter().all(|g| g.is_finite()));
}

/// What each evaluator makes of an estimator, and its queries: full, reuse, difference.
fn estimates(
    objective: &NetworkObjective,
    params: &[f64],
    estimator: &dyn Estimator,
) -> [(Estimate, u64); 3] {
    let run = |kind| {
        let count = QueryCount::default();
        let metered = Metered::new(objective, &count);
        let evaluator = evaluate::at(&metered, kind, params).unwrap();
        let estimate = zo::estimate(estimator, &evaluator).unwrap();
        (estimate, count.queries())
    };
    [EvaluatorKind::Full, EvaluatorKind::Reuse, EvaluatorKind::Difference].map(run)
}

/// The same gradients from the same number of queries.
#[test]
fn evaluators_give_the_same_estimates() {
    for name in ["resnet8-w2", "cnn-d2-w4", "resnet-b10-w2", "lenet", "wide-cnn8-w2", "ntk-cnn8-w2"] {
        let case = Case::new(model::from_name(name, &Io::CIFAR).unwrap(), Io::CIFAR.input, 3, 7);
        let (objective, n) = (case.objective(), case.params.len());
        let coords: Arc<[usize]> = case.coords(3).into();
        for (scheme, per_coord) in [(Scheme::Forward, 1), (Scheme::Central, 2)] {
            let cge = Cge::new(n, coords.clone(), 5e-3, scheme);
            let [full, reuse, difference] = estimates(&objective, &case.params, &cge);
            for (estimate, queries) in [&full, &reuse, &difference] {
                assert_eq!(*queries, 1 + per_coord * coords.len() as u64);
                let (error, _) = distance(&estimate.gradient, &full.0.gradient);
                assert!(error < RELATIVE && estimate.n_left_out == 0, "{name}: {error}");
            }
            let all = (0..n).collect();
            let source = DirectionSource::new(Directions::Gaussian, 1, Purpose::Direction, 0, all, None);
            let rge = Rge::new(n, Arc::new(source), 10, 5e-3, scheme);
            let [full, _, difference] = estimates(&objective, &case.params, &rge);
            assert_eq!(full, difference, "random directions are complete evaluations");
        }
    }
}

/// Every parameter tensor of the experiments' networks: in f64 each difference, in f32 all together. Two numbers of
/// images leave lanes empty in different places. A stack has no lanes, and on the CPU it is slow: one of them will do.
#[test]
fn networks_of_the_experiments() {
    let others = [
        "resnet8-w2",
        "resnet8-w4",
        "resnet20",
        "resnet-b10-w3",
        "resnet-b18-w2",
        "lenet",
        "wide-cnn8-w3",
        "ntk-cnn8-w3",
    ];
    let cnns = (1..=5).flat_map(|depth| [3, 18].map(|width| format!("cnn-d{depth}-w{width}")));
    for name in cnns.chain(others.map(str::to_owned)) {
        let network = || model::from_name(&name, &Io::CIFAR).unwrap();
        for (n_images, n_coords) in [(3, 2), (17, 1)] {
            for case in both_modes(|| Case::new(network(), Io::CIFAR.input, n_images, 8)) {
                let probes = case.probes(n_coords, &[5e-3]);
                // The normalization of single positions has no rule for batched probes.
                if n_images == 3 && !name.starts_with("ntk") {
                    case.check(&probes);
                } else {
                    let propagator = case.propagator(DType::F64, DEFAULT_MEMORY);
                    let (base, moved) = (case.loss(&case.params), case.losses(&probes));
                    case.check_with(&probes, &propagator, base, &moved);
                }
                let of = |dtype| case.propagator(dtype, DEFAULT_MEMORY).differences(&probes).unwrap();
                let (error, _) = distance(&of(DType::F32), &of(DType::F64));
                // A normalization over three images magnifies what is rounded before it.
                let tolerance = if name.starts_with("ntk") { 10.0 * F32 } else { F32 };
                assert!(error < tolerance, "{name}: {error}");
            }
        }
    }
}

/// Images that are not of CIFAR's size, nor square, nor of three channels.
#[test]
fn networks_take_other_images() {
    let io = Io { input: [2, 18, 21], n_outputs: 4 };
    for name in ["resnet8-w2", "resnet-b10-w2", "cnn-d3-w3", "lenet"] {
        for case in both_modes(|| Case::new(model::from_name(name, &io).unwrap(), io.input, 3, 8)) {
            case.check(&case.probes(2, &[5e-3, -1.0]));
        }
    }
}

/// A difference has the same bits for any number of threads, any limit of memory, alone and among
/// others.
#[test]
fn bits_depend_on_nothing_else() {
    for name in ["resnet8-w8", "cnn-d3", "resnet-b10-w4", "lenet", "ntk-cnn8-w4"] {
        for case in
            both_modes(|| Case::new(model::from_name(name, &Io::CIFAR).unwrap(), Io::CIFAR.input, 17, 9))
        {
            let probes = case.probes(3, &[5e-3, -1.0]);
            for dtype in [DType::F32, DType::F64] {
                let run = |threads: usize, memory: usize, probes: &[(usize, f64)]| -> Vec<u64> {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let found = pool.install(|| case.propagator(dtype, memory).differences(probes).unwrap());
                    found.into_iter().map(f64::to_bits).collect()
                };
                let expected = run(1, DEFAULT_MEMORY, &probes);
                for (threads, memory) in [(2, 1), (2, DEFAULT_MEMORY), (3, 1 << 20)] {
                    assert!(run(threads, memory, &probes) == expected, "{name} {dtype:?} {threads} {memory}");
                }
                for (probe, bits) in probes.iter().zip(&expected).step_by(7) {
                    assert_eq!(run(2, DEFAULT_MEMORY, &[*probe]), [*bits], "{name} {dtype:?} {probe:?}");
                }
                let mut backwards = run(2, DEFAULT_MEMORY, &probes.iter().rev().copied().collect::<Vec<_>>());
                backwards.reverse();
                assert_eq!(backwards, expected);
            }
        }
    }
}

/// Oracle: the kernels compiled for one number at a time. An instruction set rounds differently, no
/// more. Which one runs is decided once per process.
#[test]
fn instruction_sets_agree() {
    let place = Place::new();
    for (golden, step) in [(("resnet20", "resnet20"), 10), (("cnn_d3", "cnn-d3"), 3)] {
        let golden = Golden::load(golden.0, golden.1, step);
        let options = golden.options(&place);
        for (precision, tolerance) in [("f32", F32), ("f64", 1e-9)] {
            let estimates = |isa: &Isa| {
                let args = format!("estimate {options} --evaluator difference --precision {precision}");
                let answer = place.run_with(&[("DEEPZERO_KERNELS", isa.name())], &args).json();
                assert_eq!(answer["kernels"], isa.name());
                numbers(answer["estimates"].as_array().unwrap())
            };
            let expected = estimates(&Isa::Portable);
            for isa in Isa::available().iter().filter(|isa| **isa != Isa::Portable) {
                let (error, _) = distance(&estimates(isa), &expected);
                assert!(error < tolerance, "{} {precision} {}: {error}", golden.name, isa.name());
            }
        }
    }
}
