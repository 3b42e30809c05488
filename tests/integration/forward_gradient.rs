//! Rules on a LocalMixer. Values computed in PyTorch float64, two ways each, by explicit formulas and by autograd with
//! stop-gradients, are the oracle of the tests with `golden` in their names: `tests/golden/local_mixer.*`, or the same
//! files of other sizes in the folder that `DEEPZERO_GOLDEN` names.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use deepzero::kernels::Split;
use deepzero::method::baseline::fg_a::fg_a;
use deepzero::method::baseline::fg_w::fg_w;
use deepzero::method::baseline::forward_gradient::normal;
use deepzero::method::baseline::lg_bp::lg_bp;
use deepzero::method::baseline::lg_fg_a::lg_fg_a;
use deepzero::method::baseline::mixer::{Estimate, Mixer};
use deepzero::nn::model::local_mixer::{Sizes, local_mixer};
use deepzero::nn::model::{self, Io};
use deepzero::nn::{Context, Mode, Network, backprop, loss, weights};
use deepzero::rng::{Purpose, Stream};
use serde::Deserialize;

use super::cli::{Place, golden_folder, set};
use super::resume::goes_on_bit_for_bit;

/// The order of summation.
const LOSS_F64: f64 = 1e-12;
const GRADIENT_F64: f64 = 1e-9;
/// Rounding of a forward pass.
const LOSS_F32: f64 = 1e-5;
/// A layer norm multiplies the rounding of a nearly flat patch by up to 316, and patches of fewer pixels are flat more
/// often.
const GRADIENT_F32: f64 = 1e-3;
const GRADIENT_F32_SMALL_PATCHES: f64 = 1e-2;

#[derive(Deserialize)]
struct Expected {
    patches_per_side: usize,
    channels: usize,
    groups: usize,
    blocks: usize,
    mean: [f64; 3],
    std: [f64; 3],
    #[serde(flatten)]
    values: Values,
    variants: BTreeMap<String, Values>,
    unbiased: Unbiased,
}

#[derive(Deserialize)]
struct Values {
    local_losses: Vec<f64>,
    final_loss: f64,
    fg_w_scalar: f64,
    g_sum: BTreeMap<String, f64>,
    g_norm: BTreeMap<String, f64>,
    lg_fg_a_grad_norm: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Unbiased {
    draws: usize,
    cosine_all: f64,
}

struct Golden {
    expected: Expected,
    tensors: HashMap<String, Tensor>,
    network: Network,
    /// (B, C, H, W), normalized, f64.
    images: Tensor,
    labels: Vec<u32>,
}

impl Golden {
    fn load() -> Self {
        let file = |suffix: &str| golden_folder().join(format!("local_mixer.{suffix}"));
        let expected: Expected =
            serde_json::from_str(&std::fs::read_to_string(file("expected.json")).unwrap()).unwrap();
        let tensors = weights::read(&file("safetensors")).unwrap();
        let (_, channels, height, width) = tensors["images"].dims4().unwrap();
        let io = Io { input: [channels, height, width], n_outputs: tensors["w.fc.bias"].dim(0).unwrap() };
        let sizes = Sizes {
            patch: height / expected.patches_per_side,
            channels: expected.channels,
            groups: expected.groups,
            blocks: expected.blocks,
        };
        let per_channel = |values: &[f64; 3]| Tensor::from_slice(values, (1, 3, 1, 1), &Device::Cpu).unwrap();
        let unit = (tensors["images"].to_dtype(DType::F64).unwrap() / 255.0).unwrap();
        let centered = unit.broadcast_sub(&per_channel(&expected.mean)).unwrap();
        let images = centered.broadcast_div(&per_channel(&expected.std)).unwrap();
        let labels = tensors["labels"].to_dtype(DType::U32).unwrap().to_vec1().unwrap();
        Self { network: local_mixer(&sizes, &io).unwrap(), expected, tensors, images, labels }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.network.layout().specs().iter().map(|spec| spec.name.as_str())
    }

    fn params(&self) -> Vec<f64> {
        self.names().flat_map(|name| numbers(&self.tensors[&format!("w.{name}")])).collect()
    }

    /// The parameters with biases doubled where the released code counts them twice.
    fn params_with_sums(&self) -> Vec<f64> {
        let of_name = |name: &str| {
            let factor = if is_twofold(name) { 2.0 } else { 1.0 };
            numbers(&self.tensors[&format!("w.{name}")]).into_iter().map(move |value| factor * value)
        };
        self.names().flat_map(of_name).collect()
    }

    fn mixer(&self, params: &[f64], dtype: DType) -> Mixer<'_> {
        let images = self.images.to_dtype(dtype).unwrap();
        Mixer::new(&self.network, params, &images, &self.labels).unwrap()
    }

    /// The given noise of activities; that of token layers comes as (B, D, T).
    fn noise(&self, dtype: DType) -> impl Fn(usize, (usize, usize, usize)) -> deepzero::Result<Tensor> {
        move |weight, sizes| {
            let name = self.network.layout().specs()[weight].name.trim_end_matches(".weight");
            let noise = self.tensors[&format!("u.{name}")].to_dtype(dtype)?;
            Ok(if name.ends_with(".token") {
                noise.transpose(1, 2)?.contiguous()?
            } else {
                noise.reshape(sizes)?
            })
        }
    }

    /// The given directions, times `twofold` where the released code counts a bias twice.
    fn tangents(&self, dtype: DType, twofold: f64) -> Vec<Option<Tensor>> {
        let of_name = |name: &str| {
            let tangent = self.tensors.get(&format!("v.{name}"))?.to_dtype(dtype).unwrap();
            Some((tangent * if is_twofold(name) { twofold } else { 1.0 }).unwrap())
        };
        self.names().map(of_name).collect()
    }

    /// Largest relative error of the gradients of `rule` that are given; what should vanish, or nearly so, is held to
    /// the whole.
    fn error(&self, rule: &str, found: impl Fn(usize) -> Vec<f64>) -> f64 {
        let expected: Vec<(usize, Vec<f64>)> = (self.names().enumerate())
            .filter_map(|(idx, name)| Some((idx, numbers(self.tensors.get(&format!("grad.{rule}.{name}"))?))))
            .collect();
        assert!(!expected.is_empty());
        let whole = expected.iter().map(|(_, values)| norm(values).powi(2)).sum::<f64>().sqrt();
        let of = |(idx, expected): &(usize, Vec<f64>)| {
            let difference: Vec<f64> = found(*idx).iter().zip(expected).map(|(f, e)| f - e).collect();
            assert_eq!(difference.len(), expected.len());
            norm(&difference) / norm(expected).max(1e-3 * whole)
        };
        expected.iter().map(of).fold(0.0, f64::max)
    }
}

fn is_twofold(name: &str) -> bool {
    ["fc", "token", "channel"]
        .iter()
        .any(|layer| name.starts_with("blocks.") && name.ends_with(&format!(".{layer}.bias")))
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (norm(a) * norm(b))
}

fn of_param(estimate: &Estimate) -> impl Fn(usize) -> Vec<f64> {
    |idx| numbers(estimate.gradients[idx].as_ref().expect("the rule trains it"))
}

#[test]
fn golden_values_of_the_rules() {
    let golden = Golden::load();
    let params = golden.params();
    let is_small = golden.network.input()[1] / golden.expected.patches_per_side < 8;
    let gradient_f32 = if is_small { GRADIENT_F32_SMALL_PATCHES } else { GRADIENT_F32 };
    for (dtype, loss_tolerance, tolerance) in
        [(DType::F64, LOSS_F64, GRADIENT_F64), (DType::F32, LOSS_F32, gradient_f32)]
    {
        let mixer = golden.mixer(&params, dtype);
        let Values { local_losses, final_loss, fg_w_scalar, .. } = &golden.expected.values;
        let close = |found: f64, expected: f64| {
            assert!(
                (found - expected).abs() < loss_tolerance * expected.abs(),
                "{dtype:?}: {found} {expected}"
            );
        };
        let mut errors = Vec::new();

        let estimate = lg_fg_a(&mixer, &golden.noise(dtype)).unwrap();
        close(estimate.loss, *final_loss);
        estimate.local_losses.iter().zip(local_losses).for_each(|(found, expected)| close(*found, *expected));
        for (block, found) in estimate.scalars.iter().enumerate() {
            let expected = numbers(&golden.tensors[&format!("g.{block}")]);
            let difference: Vec<f64> = numbers(found).iter().zip(&expected).map(|(f, e)| f - e).collect();
            errors.push(norm(&difference) / norm(&expected));
        }
        errors.push(golden.error("lg_fg_a", of_param(&estimate)));

        let estimate = lg_bp(&mixer).unwrap();
        close(estimate.loss, *final_loss);
        estimate.local_losses.iter().zip(local_losses).for_each(|(found, expected)| close(*found, *expected));
        errors.push(golden.error("lg_bp", of_param(&estimate)));

        let estimate = fg_w(&mixer, &golden.tangents(dtype, 1.0)).unwrap();
        close(estimate.loss, *final_loss);
        errors.push((numbers(&estimate.scalars[0])[0] / fg_w_scalar - 1.0).abs());
        errors.push(golden.error("fg_w", of_param(&estimate)));

        // Back-propagation through the layers of the network, whose classifier is that of all rules.
        let images = golden.images.to_dtype(dtype).unwrap();
        let exact = backprop::gradient(&golden.network, &params, &images, &golden.labels, 1.0).unwrap();
        close(exact.loss, *final_loss);
        let of_exact = |idx: usize| exact.gradient[golden.network.layout().range(idx)].to_vec();
        errors.push(golden.error("bp", of_exact));
        for (idx, name) in golden.names().enumerate().filter(|(_, name)| name.starts_with("heads.")) {
            assert!(of_exact(idx).iter().all(|&slope| slope == 0.0), "{name}");
        }

        let tensors = golden.network.tensors(&params, dtype, &Device::Cpu).unwrap();
        let context = Context { mode: Mode::Train, split: Split::Threads };
        let logits = golden.network.forward(&context, &tensors, &images).unwrap();
        close(loss::cross_entropy(&logits, &golden.labels).unwrap(), *final_loss);

        let shown: Vec<String> = errors.iter().map(|error| format!("{error:.1e}")).collect();
        eprintln!("{dtype:?}: g by block, lg_fg_a, lg_bp, FG-W scalar, fg_w, bp: {}", shown.join(", "));
        assert!(errors.iter().all(|&error| error < tolerance), "{dtype:?}: {errors:?}");
    }
}

/// The released code counts some biases twice. A network keeps the sum of both: it is the same function, and the
/// gradient by the sum is what the released rule takes for that by the bias.
#[test]
fn golden_variants() {
    let golden = Golden::load();
    for (name, expected) in &golden.expected.variants {
        let twice = name == "bias_twice";
        let params = if twice { golden.params_with_sums() } else { golden.params() };
        let mixer = golden.mixer(&params, DType::F64);
        let mixer = if name == "no_head_ln" { mixer.without_feature_norms() } else { mixer };
        let close = |found: f64, expected: f64, tolerance: f64| {
            assert!(
                (found - expected).abs() < tolerance * expected.abs().max(1.0),
                "{name}: {found} {expected}"
            );
        };
        let estimate = lg_fg_a(&mixer, &golden.noise(DType::F64)).unwrap();
        close(estimate.loss, expected.final_loss, LOSS_F64);
        for (found, expected) in estimate.local_losses.iter().zip(&expected.local_losses) {
            close(*found, *expected, LOSS_F64);
        }
        for (block, scalars) in estimate.scalars.iter().enumerate() {
            let (scalars, block) = (numbers(scalars), block.to_string());
            close(norm(&scalars), expected.g_norm[&block], GRADIENT_F64);
            close(scalars.iter().sum(), expected.g_sum[&block], GRADIENT_F64);
        }
        for (idx, name) in golden.names().enumerate() {
            close(norm(&of_param(&estimate)(idx)), expected.lg_fg_a_grad_norm[name], GRADIENT_F64);
        }
        let estimate = fg_w(&mixer, &golden.tangents(DType::F64, if twice { 2.0 } else { 1.0 })).unwrap();
        close(numbers(&estimate.scalars[0])[0], expected.fg_w_scalar, GRADIENT_F64);
    }
}

/// Oracle: LG-BP, in float64 from PyTorch, and how near PyTorch's own mean of as many draws came.
#[test]
fn golden_local_gradient_is_the_mean_of_draws() {
    const COPIES: usize = 20;
    let golden = Golden::load();
    let Unbiased { draws, cosine_all } = golden.expected.unbiased;
    let params = golden.params();
    // Images are independent: copies of the batch are draws of their own.
    let images = Tensor::cat(&[&golden.images; COPIES], 0).unwrap();
    let labels = golden.labels.repeat(COPIES);
    let mixer = Mixer::new(&golden.network, &params, &images, &labels).unwrap();
    let mut mean = vec![0.0; params.len()];
    for step in 0..draws / COPIES {
        let stream = Stream::new(0, Purpose::Tangent, step as u32);
        let noise = |weight: usize, (batch, tokens, channels): (usize, usize, usize)| {
            normal(stream.lane(weight as u32), &[batch, tokens, channels], DType::F64, &Device::Cpu)
        };
        let estimate = lg_fg_a(&mixer, &noise).unwrap().values(golden.network.layout()).unwrap();
        mean.iter_mut().zip(estimate).for_each(|(mean, value)| *mean += value);
    }
    let of_blocks = |gradient: &dyn Fn(usize, &str) -> Vec<f64>| -> Vec<f64> {
        let blocks = golden.names().enumerate().filter(|(_, name)| name.starts_with("blocks."));
        blocks.flat_map(|(idx, name)| gradient(idx, name)).collect()
    };
    let mean = of_blocks(&|idx, _| mean[golden.network.layout().range(idx)].to_vec());
    let exact = of_blocks(&|_, name| numbers(&golden.tensors[&format!("grad.lg_bp.{name}")]));
    let found = cosine(&mean, &exact);
    eprintln!("cosine of the mean of {draws} draws with lg_bp: {found:.4} (PyTorch {cosine_all:.4})");
    assert!(1.0 - found < 1.4 * (1.0 - cosine_all), "{found}");
}

/// Oracle: the gradient itself. Noise that is one at a single place and zero elsewhere gives the slope there, so that
/// all places together give FG-A the gradient of back-propagation, and LG-FG-A that of LG-BP.
#[test]
fn all_directions_together_give_the_gradient() {
    let io = Io { input: [3, 4, 4], n_outputs: 3 };
    let network = local_mixer(&Sizes { patch: 2, channels: 6, groups: 2, blocks: 3 }, &io).unwrap();
    let draw = |lane: u32, shape: &[usize]| {
        normal(Stream::new(8, Purpose::Test, 0).lane(lane), shape, DType::F64, &Device::Cpu).unwrap()
    };
    let params: Vec<f64> =
        numbers(&draw(0, &[network.layout().n_coords()])).iter().map(|value| 0.5 * value).collect();
    let (images, labels) = (draw(1, &[2, 3, 4, 4]), [2, 0]);
    let mixer = Mixer::new(&network, &params, &images, &labels).unwrap();
    let layout = network.layout();
    let weights: Vec<usize> =
        mixer.block_params().filter(|&idx| layout.specs()[idx].name.ends_with("weight")).collect();
    let mut sums = [vec![0.0; params.len()], vec![0.0; params.len()]];
    let n_places = 4 * 6;
    for &moving in &weights {
        for place in 0..n_places {
            let noise = |weight: usize, (batch, tokens, channels): (usize, usize, usize)| {
                let mut numbers = vec![0.0; batch * tokens * channels];
                if weight == moving {
                    (0..batch).for_each(|image| numbers[image * n_places + place] = 1.0);
                }
                Ok(Tensor::from_vec(numbers, (batch, tokens, channels), &Device::Cpu)?)
            };
            let both = [fg_a(&mixer, &noise).unwrap(), lg_fg_a(&mixer, &noise).unwrap()];
            for (sum, estimate) in sums.iter_mut().zip(both) {
                let values = estimate.values(layout).unwrap();
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
    }
    let exact = backprop::gradient(&network, &params, &images, &labels, 1.0).unwrap().gradient;
    let local = lg_bp(&mixer).unwrap().values(layout).unwrap();
    for (rule, found, expected) in [("fg-a", &sums[0], exact), ("lg-fg-a", &sums[1], local)] {
        for idx in mixer.block_params() {
            for coord in layout.range(idx) {
                let (found, expected) = (found[coord], expected[coord]);
                let name = &layout.specs()[idx].name;
                assert!((found - expected).abs() < 1e-12, "{rule} {name}: {found} {expected}");
            }
        }
    }
}

const TINY: &str = "data=synthetic model=local-mixer depth=2 width=32 n-train=40 n-val=20 n-test=20 epochs=3 \
                    batch-size=16 warmup-epochs=1";

/// Oracle: the run that was not stopped.
#[test]
fn every_rule_goes_on_bit_for_bit() {
    for more in [
        "method=fg-w bias-twice=true",
        "method=fg-a last-layer-rate=1",
        "method=lg-fg-a",
        "method=lg-fg-a precision=f64 bias-twice=true optimizer=adam",
        "method=lg-bp",
        "method=fo sparsity=0",
        "method=rge sparsity=0 queries=3 evaluator=full",
    ] {
        goes_on_bit_for_bit(&format!("{TINY} {more}"));
    }
}

/// The same bits on any number of threads; coordinates through `full` and `reuse`.
#[test]
fn local_mixers_train_on_any_number_of_threads() {
    let place = Place::new();
    for more in [
        "method=fg-w",
        "method=fg-a",
        "method=lg-fg-a",
        "method=lg-bp",
        "method=fo sparsity=0",
        "method=cge evaluator=full sparsity=0.99 layer-ratios=uniform epochs=1 n-train=16 depth=1",
        "method=cge evaluator=reuse sparsity=0.99 layer-ratios=uniform epochs=1 n-train=16 depth=1",
    ] {
        let train = |threads: usize| {
            let ran =
                place.run(&format!("train{} --json --threads {threads}", set(&format!("{TINY} {more}"))));
            super::cli::without_times(ran.json())
        };
        let one = train(1);
        assert_eq!(one["status"], "done", "{more}");
        let losses: Vec<f64> =
            one["epochs"].as_array().unwrap().iter().map(|row| row["train_loss"].as_f64().unwrap()).collect();
        assert!(losses.iter().all(|loss| loss.is_finite()), "{more}: {losses:?}");
        assert_eq!(train(2), one, "{more}");
    }
}

#[test]
fn what_is_not_defined_is_refused() {
    let place = Place::new();
    let refusal = |settings: &str| place.run(&format!("train{}", set(settings))).refusal().to_owned();
    for rule in ["fg-w", "fg-a", "lg-fg-a", "lg-bp"] {
        let line = refusal(&format!("data=synthetic model=cnn depth=1 width=2 method={rule}"));
        assert!(line.contains(&format!("{rule} takes local-mixer")) && line.contains("`cnn`"), "{line}");
    }
    let line = refusal(&format!("{TINY} method=cge sparsity=0 evaluator=difference"));
    assert!(
        line.contains("evaluator") && line.contains("has no") && line.contains("use full or reuse"),
        "{line}"
    );
    let line = refusal("data=synthetic model=local-mixer depth=4 method=fo");
    assert!(line.contains("width") && line.contains("multiple of 32"), "{line}");
    assert_eq!(model::from_name("local-mixer-d2-w64", &Io::CIFAR).unwrap().layout().n_coords(), {
        let of_blocks = 64 * 48 + 64 + 2 * 32 * 33 + 64 * 64 + 64 + 64 * 65 + 2 * 32 * 33;
        of_blocks + 3 * 10 * 65
    });
}
