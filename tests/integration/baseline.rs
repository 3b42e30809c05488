//! Learning rules beside zeroth-order ones. Values computed in PyTorch float64 from explicit formulas, which agree with
//! the released TensorFlow graphs, are the oracle (`bpfree_cnn8`, see tests/golden/README.md). Another folder of such
//! values can be tested by `DEEPZERO_GOLDEN`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device, Tensor};
use deepzero::data::{Dataset, Normalization};
use deepzero::kernels::Precision;
use deepzero::method::baseline::align_ada::Adapted;
use deepzero::method::baseline::dfa::DirectFeedback;
use deepzero::method::baseline::fa::Feedback;
use deepzero::method::first_order::Exact;
use deepzero::method::{Asked, GradientSource};
use deepzero::nn::{self, Criterion, Network, model, weights};
use deepzero::problem::{Classify, Prepared, Problem, Resources};
use deepzero::zo::QueryCount;
use serde::Deserialize;

use super::cli::{Place, golden_folder, set};

/// Relative tolerances in double and in single precision: of losses and outputs, of the losses of several steps, and of
/// gradients, where in single precision a mask flips now and then.
const VALUES: [f64; 2] = [1e-12, 1e-5];
const TRACE: [f64; 2] = [1e-10, 5e-4];
const GRADIENT: [f64; 2] = [1e-9, 2e-3];
/// A tensor whose gradient should vanish is held to the norm of the whole gradient.
const VANISHING: f64 = 1e-3;

#[derive(Deserialize)]
struct Expected {
    batch: usize,
    width: usize,
    loss: f64,
    eta: f64,
    steps: usize,
    rules: BTreeMap<String, RuleExpected>,
}

#[derive(Deserialize)]
struct RuleExpected {
    losses: Vec<f64>,
}

/// The golden values, and the network that they are of.
struct Scene {
    expected: Expected,
    tensors: HashMap<String, Tensor>,
    network: Network,
    images: Prepared,
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

impl Scene {
    fn load() -> Self {
        let text = std::fs::read_to_string(golden_folder().join("bpfree_cnn8.expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&text).unwrap();
        let tensors = weights::read(&golden_folder().join("bpfree_cnn8.safetensors")).unwrap();
        let network = model::ntk_cnn::FAMILY.build(8, expected.width, &model::Io::CIFAR).unwrap();
        let pixels = values(&tensors["images"]).into_iter().map(|value| value as u8).collect();
        let labels = values(&tensors["labels"]).into_iter().map(|value| value as u8).collect();
        let unit = Normalization::constant(&[0.0; 3], &[1.0; 3]);
        let train = Dataset::new("golden", [3, 32, 32], 10, unit, pixels, labels).unwrap();
        assert_eq!(train.len(), expected.batch);
        let none = train.select(&[]);
        let images = Prepared { train, val: none.clone(), test: none, checksum: String::new() };
        Self { expected, tensors, network, images }
    }

    /// Tensors `prefix.*` in the order of the network's parameters (d); zeros for those that are not there.
    fn flat(&self, prefix: &str) -> Vec<f64> {
        let of =
            |spec: &deepzero::params::ParamSpec| match self.tensors.get(&format!("{prefix}.{}", spec.name)) {
                Some(tensor) => {
                    assert_eq!(tensor.dims(), spec.shape, "{prefix}.{}", spec.name);
                    values(tensor)
                }
                None => vec![0.0; spec.len()],
            };
        self.network.layout().specs().iter().flat_map(of).collect()
    }

    fn source(&self, rule: &str, dtype: DType) -> Box<dyn GradientSource> {
        match rule {
            "bp" => Box::new(Exact),
            "fa" => Box::new(Feedback { weights: self.flat("fa") }),
            "align_ada" => Box::new(Adapted { frozen: self.flat("w0") }),
            "dfa" => {
                let layer = |idx| {
                    let weight = &self.tensors[&format!("dfa.conv{idx}.weight")];
                    weight.flatten_from(1).unwrap().to_dtype(dtype).unwrap()
                };
                Box::new(DirectFeedback::given((1..=7).map(layer).collect()))
            }
            other => panic!("no rule {other}"),
        }
    }
}

/// Largest over tensors of the norm of the difference over the norm of what is expected.
fn deviation(network: &Network, found: &[f64], expected: &[f64]) -> f64 {
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let floor = VANISHING * norm(expected);
    let layout = network.layout();
    let of = |idx: usize| {
        let range = layout.range(idx);
        let difference: Vec<f64> =
            found[range.clone()].iter().zip(&expected[range.clone()]).map(|(a, b)| a - b).collect();
        norm(&difference) / norm(&expected[range]).max(floor)
    };
    (0..layout.specs().len()).map(of).fold(0.0, f64::max)
}

#[test]
fn rules_match_the_golden_values() {
    let scene = Scene::load();
    for (kind, precision) in [Precision::F64, Precision::F32].into_iter().enumerate() {
        let config = nn::Config { precision, ..nn::Config::default() };
        let (interrupt, count) = (AtomicBool::new(false), QueryCount::default());
        let resources = Resources {
            device: &Device::Cpu,
            memory: 1 << 30,
            ranks: &deepzero::ranks::ALONE,
            interrupt: &interrupt,
            count: &count,
        };
        let problem = Classify::new(&scene.network, &scene.images, &config, 0, resources)
            .with_loss(Criterion::SquaredError.loss());
        let rows: Vec<usize> = (0..scene.expected.batch).collect();
        let batch = problem.batch(1, &rows).unwrap();
        let active: Arc<[usize]> = (0..scene.network.layout().n_coords()).collect();
        let asked = Asked { step: 0, active: &active, draw: 0 };
        for (rule, expected) in &scene.expected.rules {
            let mut source = scene.source(rule, precision.dtype());
            let mut params = scene.flat("w");
            let mut losses = Vec::new();
            for step in 0..=scene.expected.steps {
                let gradient = source.gradient(&*batch, &params, &asked, &resources).unwrap();
                if step == 0 {
                    let error =
                        deviation(&scene.network, &gradient.values, &scene.flat(&format!("grad.{rule}")));
                    assert!(error < GRADIENT[kind], "{rule} {precision:?}: {error}");
                    assert!((gradient.at.loss / scene.expected.loss - 1.0).abs() < VALUES[kind]);
                    let (found, logits) = (values(&gradient.at.logits), values(&scene.tensors["logits"]));
                    let largest = logits.iter().fold(0.0f64, |most, value| most.max(value.abs()));
                    for (found, expected) in found.iter().zip(&logits) {
                        assert!((found - expected).abs() < VALUES[kind] * largest, "{found} {expected}");
                    }
                }
                losses.push(gradient.at.loss);
                params.iter_mut().zip(&gradient.values).for_each(|(w, g)| *w -= scene.expected.eta * g);
            }
            for (found, expected) in losses.iter().zip(&expected.losses) {
                assert!(
                    (found / expected - 1.0).abs() < TRACE[kind],
                    "{rule} {precision:?}: {found} {expected}"
                );
            }
        }
    }
}

/// A rule on a network that it is not defined for ends with one line that says which ones it takes.
#[test]
fn rules_name_the_networks_they_take() {
    let place = Place::new();
    let with = |settings: &str| place.run(&format!("train{}", set(&format!("data=synthetic {settings}"))));
    let ran = with("method=align-ada model=wide-cnn depth=8 width=4");
    assert!(ran.refusal().contains("align-ada takes ntk-cnn"), "{}", ran.stderr);
    let ran = with("method=dfa model=resnet");
    let line = ran.refusal();
    for family in ["ntk-cnn", "wide-cnn", "cnn", "lenet"] {
        assert!(line.contains(family), "{line}");
    }
    let ran = with("method=fa model=cnn depth=2 width=4 precision=tf32");
    assert!(ran.refusal().contains("precision"), "{}", ran.stderr);
    let ran = with("method=fg-w model=local-mixer depth=2 width=32 loss=squared-error");
    assert!(ran.refusal().contains("takes cross-entropy"), "{}", ran.stderr);
}
