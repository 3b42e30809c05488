//! Values computed in PyTorch float64 by `tests/golden/make_golden.py` are the oracle of all tests
//! here: weights, batches, estimates, gradients, a loss trace, pruning scores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use deepzero::data::{self, Dataset, Location};
use deepzero::kernels::Split;
use deepzero::nn::backprop;
use deepzero::nn::objective::NetworkObjective;
use deepzero::nn::{Context, Mode, Network, loss, model, weights};
use deepzero::zo::Scheme;
use deepzero::zo::estimator::Cge;
use deepzero::zo::evaluate::{self, Evaluator, EvaluatorKind};
use deepzero::zo::optimizer::{self, Optimizer};
use deepzero::zo::sparsity::{self, ByScores, KeepCounts, ScoredLoss, Scoring};
use deepzero::zo::{Estimator, Metered, QueryCount};
use serde::Deserialize;

/// f32 forward passes of 20 layers against f64: logits and gradients agree to a few 1e-6.
const FORWARD_F32: f64 = 1e-4;
/// The same network in f64 differs by the order of summation only.
const FORWARD_F64: f64 = 1e-9;
/// A gradient is not continuous in the activations: of a million ReLU inputs a few lie within f32
/// rounding of zero, more of them with the rounding of minimal filtering, and each that changes sides
/// moves the gradient of 32 images by about 5e-4.
const BACKPROP_F32: f64 = 5e-3;
/// Two f32 forwards subtract to a difference with about 5e-3 relative error at this mu.
const CGE_F32: f64 = 2e-2;
const CGE_F32_COSINE: f64 = 0.9998;
const CGE_F64: f64 = 1e-6;
/// A propagated difference is rounded like a forward pass, and no nearly equal numbers are subtracted.
const DIFFERENCE_F32: f64 = 1e-4;
/// What is left is the rounding of the two losses that PyTorch subtracted.
const DIFFERENCE_F64: f64 = 1e-9;
/// Of the base loss.
const DIFFERENCE_LOSS: f64 = 1e-6;
/// How much smaller the error is in f32 than that of two subtracted losses.
const DIFFERENCE_GAIN: f64 = 10.0;

#[derive(Deserialize)]
struct Expected {
    mu: f64,
    mean: [f64; 3],
    std: [f64; 3],
    loss: f64,
    logits_first_row: Vec<f64>,
    coords: Vec<(String, usize)>,
    cge_forward_difference: Vec<f64>,
    backprop: Vec<f64>,
    fo_grasp: FoGrasp,
    sgd_trace: SgdTrace,
}

#[derive(Deserialize)]
struct FoGrasp {
    rows: Vec<usize>,
    sparsity: f64,
    score_sum: f64,
    keep_ratio: BTreeMap<String, f64>,
    top10: Vec<(String, usize, f64)>,
}

#[derive(Deserialize)]
struct SgdTrace {
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    train_rows: [usize; 2],
    losses: Vec<f64>,
    eval_mode_loss_after_on_batch: f64,
}

struct Golden {
    network: Network,
    params: Vec<f64>,
    images: Tensor,
    labels: Vec<u32>,
    expected: Expected,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

impl Golden {
    fn load(name: &str, model_name: &str) -> Self {
        let network = model::from_name(model_name, &model::Io::CIFAR).unwrap();
        let file = |suffix: &str| folder().join(format!("{name}.{suffix}"));
        let (params, _) = weights::load(&network, &file("weights.safetensors")).unwrap();
        let expected: Expected =
            serde_json::from_str(&std::fs::read_to_string(file("expected.json")).unwrap()).unwrap();
        let batch = weights::read(&file("batch.safetensors")).unwrap();
        let images = normalize(&batch["images"], &expected);
        let labels = batch["labels"].to_dtype(DType::U32).unwrap().to_vec1().unwrap();
        Self { network, params, images, labels, expected }
    }

    fn both() -> [Self; 2] {
        [Self::load("resnet20", "resnet20"), Self::load("cnn_d3", "cnn-d3")]
    }

    fn coords(&self) -> Vec<usize> {
        let layout = self.network.layout();
        self.expected.coords.iter().map(|(name, idx)| layout.coord(name, *idx).unwrap()).collect()
    }

    fn images(&self, dtype: DType) -> Tensor {
        self.images.to_dtype(dtype).unwrap()
    }
}

/// (u8/255 − mean) / std in f64.
fn normalize(images: &Tensor, expected: &Expected) -> Tensor {
    let channel = |values: &[f64; 3]| Tensor::from_slice(values, (1, 3, 1, 1), &Device::Cpu).unwrap();
    let unit = (images.to_dtype(DType::F64).unwrap() / 255.0).unwrap();
    unit.broadcast_sub(&channel(&expected.mean)).unwrap().broadcast_div(&channel(&expected.std)).unwrap()
}

/// Relative l2 error and cosine.
fn compare(found: &[f64], expected: &[f64]) -> (f64, f64) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let difference: Vec<f64> = found.iter().zip(expected).map(|(f, e)| f - e).collect();
    let norm = dot(expected, expected).sqrt();
    (dot(&difference, &difference).sqrt() / norm, dot(found, expected) / (norm * dot(found, found).sqrt()))
}

#[test]
fn logits_and_loss() {
    for golden in Golden::both() {
        for (dtype, tolerance) in [(DType::F32, FORWARD_F32), (DType::F64, FORWARD_F64)] {
            let tensors = golden.network.tensors(&golden.params, dtype, &Device::Cpu).unwrap();
            let context = Context { mode: Mode::Train, split: Split::Threads };
            let logits = golden.network.forward(&context, &tensors, &golden.images(dtype)).unwrap();
            let loss = loss::cross_entropy(&logits, &golden.labels).unwrap();
            assert!((loss - golden.expected.loss).abs() < tolerance * golden.expected.loss, "{loss}");
            let first = logits.to_dtype(DType::F64).unwrap().get(0).unwrap().to_vec1::<f64>().unwrap();
            let (error, _) = compare(&first, &golden.expected.logits_first_row);
            assert!(error < tolerance, "{dtype:?}: {error}");
        }
    }
}

#[test]
fn backpropagation() {
    for golden in Golden::both() {
        for (dtype, tolerance) in [(DType::F32, BACKPROP_F32), (DType::F64, FORWARD_F64)] {
            let images = golden.images(dtype);
            let exact =
                backprop::gradient(&golden.network, &golden.params, &images, &golden.labels, 1.0).unwrap();
            let found: Vec<f64> = golden.coords().iter().map(|&coord| exact.gradient[coord]).collect();
            let (error, _) = compare(&found, &golden.expected.backprop);
            assert!(error < tolerance, "{dtype:?}: {error}");
        }
    }
}

fn check_cge(golden: &Golden, dtype: DType, coords: &[usize], expected: &[f64]) {
    let images = golden.images(dtype);
    let objective = NetworkObjective::new(&golden.network, &images, &golden.labels);
    let count = QueryCount::default();
    let metered = Metered::new(&objective, &count);
    let at = |kind| evaluate::at(&metered, kind, &golden.params).unwrap();
    let cge = Cge::new(golden.params.len(), coords.into(), golden.expected.mu, Scheme::Forward);
    let probes = cge.ask();
    let full = at(EvaluatorKind::Full).differences(&probes).unwrap();
    assert_eq!(count.queries(), coords.len() as u64 + 1, "one query per probe and one for the base");
    let reuse = at(EvaluatorKind::Reuse).differences(&probes).unwrap();
    assert_eq!(count.queries(), 2 * (coords.len() as u64 + 1), "reuse makes queries cheaper, not fewer");
    let propagation = at(EvaluatorKind::Difference);
    assert!((propagation.base_loss() / golden.expected.loss - 1.0).abs() < DIFFERENCE_LOSS);
    let difference = propagation.differences(&probes).unwrap();
    assert_eq!(count.queries(), 3 * (coords.len() as u64 + 1), "nor does the propagation of differences");
    let compared = |differences: &[f64]| {
        let gradient = cge.tell(differences).gradient;
        let found: Vec<f64> = coords.iter().map(|&coord| gradient[coord]).collect();
        compare(&found, expected)
    };
    for (name, differences) in [("full", &full), ("reuse", &reuse)] {
        let (error, cosine) = compared(differences);
        let (tolerance, least) =
            if dtype == DType::F32 { (CGE_F32, CGE_F32_COSINE) } else { (CGE_F64, 1.0 - 1e-9) };
        assert!(error < tolerance && cosine >= least, "{name} {dtype:?}: error {error}, cosine {cosine}");
    }
    let (error, _) = compared(&difference);
    let tolerance = if dtype == DType::F32 {
        DIFFERENCE_F32.min(compared(&full).0 / DIFFERENCE_GAIN)
    } else {
        DIFFERENCE_F64
    };
    assert!(error < tolerance, "difference {dtype:?}: error {error}, at most {tolerance}");
}

#[test]
fn coordinate_estimates_in_f32() {
    for golden in Golden::both() {
        check_cge(&golden, DType::F32, &golden.coords(), &golden.expected.cge_forward_difference);
    }
}

/// In f64 every tenth coordinate of the ResNet, all of the CNN.
#[test]
fn coordinate_estimates_in_f64() {
    for golden in Golden::both() {
        let every = if golden.params.len() > 100_000 { 10 } else { 1 };
        let coords: Vec<usize> = golden.coords().into_iter().step_by(every).collect();
        let expected: Vec<f64> =
            golden.expected.cge_forward_difference.iter().copied().step_by(every).collect();
        check_cge(&golden, DType::F64, &coords, &expected);
    }
}

/// The training images that the golden values were made from, and whether they are the pixels that PyTorch saw; `None`
/// (said aloud) where the data set is not there: users need not have it. Decoded once for all tests.
static CIFAR_TRAIN: LazyLock<Option<(Dataset, bool)>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !folder.join("cifar10").exists() {
        eprintln!("SKIPPED: no CIFAR-10 in {}", folder.display());
        return None;
    }
    let location = Location { dirs: vec![folder], offline: true, ..Location::default() };
    let source = data::source("cifar10").unwrap();
    let mut train = source.load(source.sizes(0, 0, 0), &location, &data::Silent).unwrap().train;
    let exact_pixels = use_exact_pixels(&mut train);
    Some((train, exact_pixels))
});

fn batch(train: &Dataset, rows: &[usize], dtype: DType) -> data::Batch {
    data::make_batch(train, rows, None, dtype, &Device::Cpu).unwrap()
}

/// Replaces the trace's images by those that PyTorch saw, if `DEEPZERO_GOLDEN_PIXELS` names the
/// folder that `tests/golden/decode.py` wrote; whether it did.
fn use_exact_pixels(train: &mut Dataset) -> bool {
    let Some(folder) = std::env::var_os("DEEPZERO_GOLDEN_PIXELS") else {
        eprintln!("DEEPZERO_GOLDEN_PIXELS is not set: another JPEG decoder, wider tolerances");
        return false;
    };
    for (name, first_row) in [("rows_0.bin", 0), ("rows_30000.bin", 30_000)] {
        let pixels = std::fs::read(Path::new(&folder).join(name)).unwrap();
        let start = first_row * train.image_len();
        train.images[start..start + pixels.len()].copy_from_slice(&pixels);
    }
    true
}

/// Exact gradients in f64 on the same pixels: rounding, amplified by ten steps of training.
const TRACE: f64 = 1e-6;
/// Our JPEG decoder's pixels differ by 0.3 levels on average from those that PyTorch saw; ten steps
/// amplify that to 1 %.
const TRACE_OTHER_PIXELS: f64 = 2e-2;

/// The eval-mode loss after ten steps, of an untrained network far from its running statistics.
const EVAL_OTHER_PIXELS: f64 = 0.1;

/// Ten steps of SGD with momentum and weight decay, then the eval-mode loss.
#[test]
fn sgd_loss_trace() {
    let Some((train, exact_pixels)) = &*CIFAR_TRAIN else { return };
    let tolerance = if *exact_pixels { TRACE } else { TRACE_OTHER_PIXELS };
    for golden in Golden::both() {
        let trace = &golden.expected.sgd_trace;
        let mut params = golden.params.clone();
        let mut stats = golden.network.initial_stats();
        let mut sgd = Optimizer::new(&optimizer::Sgd, trace.momentum, trace.weight_decay, params.len());
        let rows: Vec<usize> = (trace.train_rows[0]..trace.train_rows[1]).collect();
        for (rows, expected) in rows.chunks(rows.len() / trace.losses.len()).zip(&trace.losses) {
            let batch = batch(train, rows, DType::F64);
            let step =
                backprop::gradient(&golden.network, &params, &batch.images, &batch.labels, 1.0).unwrap();
            assert!((step.loss / expected - 1.0).abs() < tolerance, "{} instead of {expected}", step.loss);
            stats.update(&golden.network.batch_stats_of(&step.activations).unwrap());
            sgd.step(&mut params, &step.gradient, trace.lr, None);
        }
        let tensors = golden.network.tensors(&params, DType::F64, &Device::Cpu).unwrap();
        let context = Context { mode: Mode::Eval(&stats), split: Split::Threads };
        let logits = golden.network.forward(&context, &tensors, &golden.images(DType::F64)).unwrap();
        let loss = loss::cross_entropy(&logits, &golden.labels).unwrap();
        let expected = trace.eval_mode_loss_after_on_batch;
        let tolerance = if *exact_pixels { TRACE } else { EVAL_OTHER_PIXELS };
        assert!((loss / expected - 1.0).abs() < tolerance, "eval mode: {loss} instead of {expected}");
    }
}

/// Exact gradients of the loss of a network.
struct Exact<'a> {
    network: &'a Network,
    images: &'a Tensor,
    labels: &'a [u32],
}

impl ScoredLoss for Exact<'_> {
    fn estimate(&self, _: &dyn Estimator, _: &[f64]) -> deepzero::Result<Vec<f64>> {
        unreachable!("first-order scores ask for exact gradients")
    }

    fn gradient(&self, params: &[f64], temperature: f64) -> deepzero::Result<Vec<f64>> {
        Ok(backprop::gradient(self.network, params, self.images, self.labels, temperature)?.gradient)
    }
}

/// First-order GraSP: sum of scores, the ten largest, and the keep ratio of every layer.
#[test]
fn first_order_grasp() {
    let Some((train, exact_pixels)) = &*CIFAR_TRAIN else { return };
    let (scores_within, keep_within) = if *exact_pixels { (1e-3, 1e-3) } else { (f64::INFINITY, 0.03) };
    for golden in Golden::both() {
        let expected = &golden.expected.fo_grasp;
        let layout = golden.network.layout();
        let batch = batch(train, &expected.rows, DType::F64);
        let loss = Exact { network: &golden.network, images: &batch.images, labels: &batch.labels };
        let scoring =
            Scoring { layout, params: &golden.params, loss: &loss, mu: 5e-3, n_dirs: 1, seed: 0, draw: 0 };
        let scores = sparsity::FoGrasp.scores(&scoring).unwrap();
        let sum: f64 = layout
            .specs()
            .iter()
            .enumerate()
            .filter(|(_, spec)| spec.kind.is_prunable())
            .flat_map(|(idx, _)| &scores[layout.range(idx)])
            .map(|score| score.abs())
            .sum();
        assert!(
            (sum / expected.score_sum - 1.0).abs() < scores_within,
            "{sum} instead of {}",
            expected.score_sum
        );
        for (name, idx, score) in &expected.top10 {
            let found = scores[layout.coord(name, *idx).unwrap()].abs();
            assert!((found / score - 1.0).abs() < scores_within, "{name} {idx}: {found} instead of {score}");
        }
        let mask = sparsity::global_mask(layout, &scores, expected.sparsity).unwrap();
        let keep = KeepCounts::of_mask(layout, &mask);
        assert_eq!(keep.layers.len(), expected.keep_ratio.len());
        for (param_idx, n_keep) in keep.layers {
            let spec = &layout.specs()[param_idx];
            let (found, expected) = (n_keep as f64 / spec.len() as f64, expected.keep_ratio[&spec.name]);
            assert!((found - expected).abs() <= keep_within, "{}: {found} instead of {expected}", spec.name);
        }
    }
}
