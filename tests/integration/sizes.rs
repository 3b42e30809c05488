//! Images of other sizes than 32x32: networks, evaluators, gradients, the verbs. Imagenette's 64x64, and images that are
//! wider than high.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use deepzero::data::{Augmentation, Dataset, Normalization, make_batch};
use deepzero::kernels::Split;
use deepzero::nn::model::Io;
use deepzero::nn::objective::NetworkObjective;
use deepzero::nn::{Context, Mode, backprop, model, weights};
use deepzero::rng::{Purpose, Stream};
use deepzero::zo::evaluate::{self, Evaluator, EvaluatorKind};
use deepzero::zo::{Metered, Probe, QueryCount};

use super::cli::Place;
use super::data::{imagenette_files, write};

const SIZES: [[usize; 2]; 2] = [[64, 64], [40, 72]];
const NAMES: [&str; 5] = ["resnet8-w4", "resnet-b10-w2", "cnn-d3-w4", "wide-cnn8-w2", "lenet"];

fn images(n: usize, [height, width]: [usize; 2]) -> Tensor {
    let mut pixels = vec![0.0; n * 3 * height * width];
    Stream::new(8, Purpose::Test, 0).fill_normal(&mut pixels);
    Tensor::from_vec(pixels, (n, 3, height, width), &Device::Cpu).unwrap()
}

/// Oracle: the pass that keeps every value, bit for bit in single precision; in double precision complete evaluations for
/// the evaluators, and central differences of them for back-propagation.
#[test]
fn networks_and_evaluators_take_other_sizes() {
    for (name, size) in NAMES.into_iter().flat_map(|name| SIZES.map(|size| (name, size))) {
        let io = Io { input: [3, size[0], size[1]], n_outputs: 5 };
        let network = model::from_name(name, &io).unwrap();
        let params = network.layout().initial_values(3);
        let (batch, labels) = (images(5, size), [4, 0, 2, 1, 3]);
        let rounded = batch.to_dtype(DType::F32).unwrap();
        let tensors = network.tensors(&params, DType::F32, &Device::Cpu).unwrap();
        let stats = network.initial_stats();
        for mode in [Mode::Train, Mode::Eval(&stats)] {
            let context = Context { mode, split: Split::Threads };
            let streamed = network.forward(&context, &tensors, &rounded).unwrap();
            let kept = network.forward_all(&context, &tensors, &rounded).unwrap();
            assert_eq!(
                streamed.to_vec2::<f32>().unwrap(),
                kept.logits().to_vec2::<f32>().unwrap(),
                "{name} {size:?}"
            );
        }
        let objective = NetworkObjective::new(&network, &batch, &labels);
        let count = QueryCount::default();
        let metered = Metered::new(&objective, &count);
        let coords: Vec<usize> = (0..params.len()).step_by(params.len() / 23).collect();
        let probe = |&coord: &usize| [1e-6, -1e-6].map(|shift| Probe::Coordinate { coord, shift });
        let probes: Vec<Probe> = coords.iter().flat_map(probe).collect();
        let full =
            evaluate::at(&metered, EvaluatorKind::Full, &params).unwrap().differences(&probes).unwrap();
        for kind in [EvaluatorKind::Reuse, EvaluatorKind::Difference] {
            let found = evaluate::at(&metered, kind, &params).unwrap().differences(&probes).unwrap();
            for (found, expected) in found.iter().zip(&full) {
                assert!((found - expected).abs() < 1e-11, "{name} {size:?} {kind:?}: {found} {expected}");
            }
        }
        let exact = backprop::gradient(&network, &params, &batch, &labels, 1.0).unwrap().gradient;
        for (pair, &coord) in full.chunks(2).zip(&coords) {
            let central = (pair[0] - pair[1]) / 2e-6;
            let error = (central - exact[coord]).abs();
            assert!(
                error < 1e-3 * (1.0 + exact[coord].abs()),
                "{name} {size:?} {coord}: {central} {}",
                exact[coord]
            );
        }
    }
}

/// Oracle: counting by hand: convolutions at 64x64 cost four times what they do at 32x32, and no parameter is added.
#[test]
fn a_resnet_at_64_pixels_has_the_same_parameters() {
    let of = |side| model::resnet(20, 16, &Io { input: [3, side, side], n_outputs: 10 }).unwrap();
    assert_eq!(of(64).layout(), of(32).layout());
    assert_eq!(of(64).layout().n_coords(), 269_722);
    let [small, large] = [32, 64].map(|side| of(side).flops() as f64);
    assert!((large / small - 4.0).abs() < 0.01, "{}", large / small);
}

/// Oracle: the place of every pixel: moved by at most four rows and columns, mirrored or not, zeros around.
#[test]
fn augmentation_keeps_other_sizes() {
    let [height, width] = [40, 72];
    let pixels: Vec<u8> = (0..3 * height * width).map(|idx| (idx % 251) as u8 + 1).collect();
    let norm = Normalization::constant(&[0.0; 3], &[1.0; 3]);
    let data = Dataset::new("wide", [3, height, width], 2, norm, pixels, vec![1]).unwrap();
    let at = |channel: usize, y: i64, x: i64| {
        let is_inside = (0..height as i64).contains(&y) && (0..width as i64).contains(&x);
        if is_inside {
            f64::from(data.images[(channel * height + y as usize) * width + x as usize]) / 255.0
        } else {
            0.0
        }
    };
    for epoch in 1..20 {
        let augmentation = Augmentation { seed: 1, epoch };
        let batch = make_batch(&data, &[0], Some(&augmentation), DType::F64, &Device::Cpu).unwrap();
        let found: Vec<f64> = batch.images.flatten_all().unwrap().to_vec1().unwrap();
        let is_placed = |dy: i64, dx: i64, mirrored: bool| {
            (0..3 * height * width).all(|idx| {
                let (channel, y, x) =
                    (idx / (height * width), (idx / width % height) as i64, (idx % width) as i64);
                let x = if mirrored { width as i64 - 1 - x } else { x };
                (found[idx] - at(channel, y + dy, x + dx)).abs() < 1e-12
            })
        };
        let mut places =
            (-4..=4).flat_map(|dy| (-4..=4).flat_map(move |dx| [(dy, dx, true), (dy, dx, false)]));
        assert!(places.any(|(dy, dx, mirrored)| is_placed(dy, dx, mirrored)), "epoch {epoch}");
    }
}

fn imagenette_in(place: &Place) {
    let [train, test] = imagenette_files(60, 20);
    write(place.path("data/imagenette-64/train/0000.parquet"), &train);
    write(place.path("data/imagenette-64/validation/0000.parquet"), &test);
}

/// The verbs from images to weights, an estimate and certificates.
#[test]
fn imagenette_is_trained_estimated_and_certified() {
    let place = Place::new();
    imagenette_in(&place);
    let train = "train --data-dir data --set data=imagenette --set model=resnet --set depth=8 --set width=2 --set method=fo \
                 --set sparsity=0 --set warmup-epochs=0 --set n-train=40 --set n-val=10 --set n-test=10 --set epochs=2 --set batch-size=20 --out net.safetensors";
    let out = place.run(train).ok();
    assert!(out.contains("net.safetensors"), "{out}");
    let saved = weights::read(&place.path("net.safetensors")).unwrap();
    assert_eq!(saved["fc.weight"].dims(), [10, 8]);
    let args = "certify --data-dir data --data imagenette --model resnet8-w2 --weights net.safetensors --n 30 --n0 5 --every 5";
    let answer = place.run(&format!("{args} --json")).json();
    assert_eq!(answer["n_images"], 4);

    let batch = HashMap::from([
        ("images".to_owned(), Tensor::ones((4, 3, 64, 64), DType::U8, &Device::Cpu).unwrap()),
        ("labels".to_owned(), Tensor::new(&[0i64, 9, 3, 3], &Device::Cpu).unwrap()),
    ]);
    candle_core::safetensors::save(&batch, place.path("batch")).unwrap();
    std::fs::write(
        place.path("coords"),
        r#"[["conv1.weight", 3], ["layer2.0.conv1.weight", 7], ["fc.bias", 1]]"#,
    )
    .unwrap();
    let args = "estimate --data imagenette --model resnet8-w2 --weights net.safetensors --batch batch --coords coords \
                --precision f64 --mu 1e-5 --backprop";
    let list = |kind: &str| {
        let answer = place.run(&format!("{args} --evaluator {kind}")).json();
        let error = answer["relative_error"].as_f64().unwrap();
        assert!(error < 1e-3, "{kind}: {error}");
        super::cli::numbers(answer["estimates"].as_array().unwrap())
    };
    let (full, difference) = (list("full"), list("difference"));
    for (a, b) in full.iter().zip(&difference) {
        assert!((a - b).abs() < 1e-6 * (1.0 + a.abs()), "{a} {b}");
    }
    assert!(Path::new(&place.path("certified/certificates.parquet")).is_file());
    for (settings, reason) in [
        ("--set data=imagenette --set n-train=9470", "imagenette has at most 9469"),
        (
            "--set data=imagenette --set sparsity=0 --set n-train=50 --set n-val=20",
            "50 training and 20 validation images asked for",
        ),
    ] {
        let ran = place.run(&format!("train --data-dir data --set method=fo {settings}"));
        assert!(ran.refusal().contains(reason), "{}", ran.stderr);
    }
}
