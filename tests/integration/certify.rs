//! Certification by randomized smoothing. Values computed with SciPy are the oracle (`certify`, see
//! tests/golden/README.md). Another folder of such values can be tested by `DEEPZERO_GOLDEN`.

use std::io::{BufRead, BufReader};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use deepzero::certify;
use deepzero::kernels::Split;
use deepzero::nn::{Context, Mode, Network, RunningStats, model, weights};
use deepzero::profile::Profile;
use deepzero::results::read_profile;
use deepzero::rng::{Purpose, Stream};
use serde::Deserialize;

use super::cli::{Place, golden_folder};
use super::resume::signal;

/// Absolute tolerance of bounds and radii.
const BOUND: f64 = 1e-6;
/// Relative tolerance of p-values.
const P_VALUE: f64 = 1e-9;

#[derive(Deserialize)]
struct Expected {
    certify: Vec<Certify>,
    predict: Vec<Predict>,
}

#[derive(Deserialize)]
struct Certify {
    counts0: Vec<u64>,
    counts: Vec<u64>,
    n: u64,
    alpha: f64,
    sigma: f64,
    selected: usize,
    n_a: u64,
    p_a_lower: f64,
    abstain: bool,
    prediction: i64,
    radius: f64,
}

#[derive(Deserialize)]
struct Predict {
    counts: Vec<u64>,
    alpha: f64,
    n1: u64,
    n2: u64,
    p_value: f64,
    prediction: i64,
}

fn expected() -> Expected {
    let text = std::fs::read_to_string(golden_folder().join("certify.expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn class(prediction: i64) -> Option<usize> {
    usize::try_from(prediction).ok()
}

#[test]
fn certificates_are_those_of_scipy() {
    let cases = expected().certify;
    assert!(!cases.is_empty());
    for case in cases {
        let found = certify::decide(&case.counts0, &case.counts, case.sigma, case.alpha);
        assert_eq!(case.counts.iter().sum::<u64>(), case.n);
        assert_eq!((found.selected, found.n_a), (case.selected, case.n_a));
        assert_eq!((found.class, found.class.is_none()), (class(case.prediction), case.abstain));
        let what = format!("{} of {} at {}", case.n_a, case.n, case.alpha);
        assert!(
            (found.p_lower - case.p_a_lower).abs() < BOUND,
            "{what}: {} {}",
            found.p_lower,
            case.p_a_lower
        );
        assert!((found.radius - case.radius).abs() < BOUND, "{what}: {} {}", found.radius, case.radius);
    }
}

#[test]
fn predictions_are_those_of_scipy() {
    let cases = expected().predict;
    assert!(!cases.is_empty());
    for case in cases {
        assert_eq!(certify::predict(&case.counts, case.alpha), class(case.prediction));
        let found = certify::p_value(case.n1, case.n2);
        let error = (found - case.p_value).abs();
        assert!(error <= P_VALUE * case.p_value, "{} and {}: {found} {}", case.n1, case.n2, case.p_value);
    }
}

/// A network whose classes depend on its running statistics, in `weights` of a place.
fn network(place: &Place) -> (Network, Vec<f64>, RunningStats) {
    let network = model::from_name("cnn-d2-w4", &model::Io::CIFAR).unwrap();
    let params = network.layout().initial_values(4);
    let mut stats = network.initial_stats();
    let values: Vec<f64> = (0..stats.values().len()).map(|idx| 0.2 + (idx % 5) as f64 / 4.0).collect();
    stats.restore(&values);
    weights::save(&network, &params, &stats, &place.path("weights")).unwrap();
    let (params, stats) = weights::load(&network, &place.path("weights")).unwrap();
    (network, params, stats)
}

const USUAL: &str = "certify --model cnn-d2-w4 --weights weights --data synthetic --sigma 0.5";

fn profiles(folder: &Path) -> [Profile; 2] {
    [("certificates.parquet", Profile::CERTIFICATES), ("radii.parquet", Profile::RADII)]
        .map(|(name, kind)| read_profile(&folder.join(name), kind).unwrap())
}

/// Oracle: the definition, copy by copy: noise of the generator's single draws, complete passes in f64 that keep every
/// value, counts, and the decision that SciPy checks.
#[test]
fn the_verb_certifies_by_the_definition() {
    let place = Place::new();
    let (network, params, stats) = network(&place);
    let args = format!("{USUAL} --n0 7 --n 30 --every 500 --seed 5 --precision f64 --alpha 0.01 --out found");
    let out = place.run(&args).ok();
    assert!(out.contains("4 images") && out.contains("certified accuracy"), "{out}");
    let images = deepzero::data::synthetic(1, 2_000).test;
    let tensors = network.tensors(&params, DType::F64, &Device::Cpu).unwrap();
    let context = Context { mode: Mode::Eval(&stats), split: Split::Serial };
    let class = |row: usize, copy: u32| {
        let stream = Stream::new(5, Purpose::Certify, row as u32).lane(copy);
        let norm = &images.normalization;
        let value = |(idx, &byte): (usize, &u8)| {
            let noisy = (f64::from(byte) / 255.0 + 0.5 * stream.normal_at(idx as u64)) as f32;
            (f64::from(noisy) - norm.mean[idx / 1024]) / norm.std[idx / 1024]
        };
        let pixels: Vec<f64> = images.image(row).iter().enumerate().map(value).collect();
        let image = Tensor::from_vec(pixels, (1, 3, 32, 32), &Device::Cpu).unwrap();
        let kept = network.forward_all(&context, &tensors, &image).unwrap();
        let logits = kept.logits().to_vec2::<f64>().unwrap().remove(0);
        (0..10).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
    };
    let [found, radii] = profiles(&place.path("found"));
    assert_eq!(found.labels, ["0", "500", "1000", "1500"]);
    let column = |name: &str| found.column(name).unwrap().to_vec();
    let mut n_right = 0;
    for (place, row) in [0, 500, 1_000, 1_500].into_iter().enumerate() {
        let (mut counts0, mut counts) = (vec![0; 10], vec![0; 10]);
        (0..7).for_each(|copy| counts0[class(row, copy)] += 1);
        (7..37).for_each(|copy| counts[class(row, copy)] += 1);
        let expected = certify::decide(&counts0, &counts, 0.5, 0.01);
        let decided = [
            ("label", f64::from(images.labels[row])),
            ("selected", expected.selected as f64),
            ("class", expected.class.map_or(f64::NAN, |class| class as f64)),
            ("n0_selected", counts0[expected.selected] as f64),
            ("n_a", expected.n_a as f64),
            ("n", 30.0),
            ("p_lower", expected.p_lower),
            ("radius", expected.radius),
        ];
        for (name, expected) in decided {
            assert_eq!(column(name)[place].to_bits(), expected.to_bits(), "{name} of image {row}");
        }
        n_right += usize::from(expected.class == Some(usize::from(images.labels[row])));
    }
    assert_eq!(radii.column("certified_accuracy").unwrap()[..1], [n_right as f64 / 4.0]);
    let without_threads = std::fs::read(place.path("found/certificates.parquet")).unwrap();
    place.run(&format!("{args} --threads 3")).ok();
    assert_eq!(std::fs::read(place.path("found/certificates.parquet")).unwrap(), without_threads);
}

/// Oracle: the network of denoiser and classifier in one, which takes pixels from 0 to 1.
#[test]
fn a_denoiser_stands_before_the_classifier() {
    let place = Place::new();
    let io = model::Io::CIFAR;
    let classifier = model::from_name("resnet8-w4", &io).unwrap();
    let denoiser = model::dncnn(4, 6, io.input).unwrap();
    let state = |network: &Network, seed: u64| {
        let mut params = network.layout().initial_values(seed);
        params.iter_mut().enumerate().for_each(|(idx, value)| *value += (idx % 7) as f64 / 500.0);
        let mut stats = network.initial_stats();
        let values: Vec<f64> = (0..stats.values().len()).map(|idx| 0.3 + (idx % 4) as f64 / 9.0).collect();
        stats.restore(&values);
        (params, stats)
    };
    let ((front, front_stats), (params, stats)) = (state(&denoiser, 1), state(&classifier, 2));
    weights::save(&denoiser, &front, &front_stats, &place.path("denoiser")).unwrap();
    weights::save(&classifier, &params, &stats, &place.path("classifier")).unwrap();
    let (_, front, front_stats) = certify::read_denoiser(&place.path("denoiser"), io.input).unwrap();
    let (params, stats) = weights::load(&classifier, &place.path("classifier")).unwrap();
    let images = deepzero::data::synthetic(1, 40).test;
    let norm = &images.normalization;
    let defended = model::Defended {
        denoiser: [4, 6],
        has_code: false,
        family: &model::resnet::FAMILY,
        classifier: [8, 4],
        io,
    };
    let (behind, behind_stats) = defended.state_behind(&[], (&params, &stats), [&norm.mean, &norm.std]);
    let whole = defended.whole();
    let all_params = [front.clone(), behind].concat();
    let mut all_stats = whole.initial_stats();
    all_stats.restore(&[front_stats.values(), behind_stats.values()].concat());
    let pixels: Vec<f32> = images.images.iter().map(|&byte| (f64::from(byte) / 255.0) as f32).collect();
    let unit = norm.unit();
    let (precision, device) = (deepzero::kernels::Precision::F64, Device::Cpu);
    let one =
        certify::NetworkClassifier::new(&whole, &all_params, &all_stats, &unit, precision, &device).unwrap();
    let two =
        certify::NetworkClassifier::new(&classifier, &params, &stats, norm, precision, &device).unwrap();
    let plain = two.logits(&pixels, 40).unwrap().to_vec2::<f64>().unwrap();
    let two = two.behind_network(&denoiser, &front, &front_stats).unwrap();
    let logits = |classifier: &certify::NetworkClassifier| {
        classifier.logits(&pixels, 40).unwrap().to_vec2::<f64>().unwrap()
    };
    let (one, two) = (logits(&one), logits(&two));
    for (a, b) in one.iter().flatten().zip(two.iter().flatten()) {
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }
    assert_ne!(plain, two);

    let args =
        "certify --model resnet8-w4 --weights classifier --data synthetic --n0 5 --n 20 --every 500 --out";
    let plain = place.run(&format!("{args} plain --json")).json();
    let answer = place.run(&format!("{args} denoised --denoiser denoiser --json")).json();
    assert_eq!((&plain["denoiser"], &answer["denoiser"]), (&serde_json::Value::Null, &"denoiser".into()));
    assert_ne!(plain["identity"], answer["identity"]);
    let refused = place.run(&format!("{args} other --denoiser classifier"));
    assert!(refused.refusal().contains("classifier: no DnCNN"), "{}", refused.stderr);
}

/// Oracle: a run that was not stopped.
#[test]
fn a_stopped_certification_goes_on_to_the_same_certificates() {
    let place = Place::new();
    network(&place);
    let args = format!("{USUAL} --n 900 --every 20 --threads 1");
    place.run(&format!("{args} --out whole")).ok();
    let mut n_stops = 0;
    loop {
        let mut child = place.spawn(&format!("{args} --resume --out parts"));
        let mut first = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut first).unwrap();
        assert!(first.starts_with("certify: 100 images"), "{first}");
        assert_eq!(first.contains("done before"), n_stops > 0, "{first}");
        assert!(signal(child.id(), libc::SIGINT));
        let code = child.wait().unwrap().code();
        if code == Some(0) {
            break;
        }
        assert_eq!(code, Some(130));
        n_stops += 1;
        if n_stops == 3 {
            let refused = place.run(&format!("{args} --out parts"));
            assert!(refused.refusal().contains("add --resume to go on"), "{}", refused.stderr);
            let other = place.run(&format!("{args} --seed 1 --resume --out parts"));
            assert!(other.refusal().contains("other settings, weights or images"), "{}", other.stderr);
            place.run(&format!("{args} --resume --out parts")).ok();
            break;
        }
    }
    assert!(!place.path("parts/certify.state").exists());
    assert_eq!(profiles(&place.path("parts")), profiles(&place.path("whole")));
    eprintln!("stopped {n_stops} times");
}

#[test]
fn the_summary_is_json_and_says_what_cannot_be_certified() {
    let place = Place::new();
    network(&place);
    let args = format!("{USUAL} --n0 3 --n 20 --every 1000 --out found --radii 0,0.1,2.5 --json");
    let ran = place.run(&args);
    let warning = "warning: n = 20 copies certify radii of at most 0.274 at sigma = 0.5 and alpha = 0.001; \
                   a radius of 2.5 takes n = ";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    let answer = ran.json();
    assert_eq!(answer["n_images"], 2);
    assert_eq!(answer["asked"]["sigma"], 0.5);
    let radii: Vec<f64> =
        answer["certified"].as_array().unwrap().iter().map(|row| row["radius"].as_f64().unwrap()).collect();
    assert_eq!(radii, [0.0, 0.1, 2.5]);
    assert_eq!(answer["certified"][2]["certified_accuracy"], 0.0);
    let file: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(place.path("found/summary.json")).unwrap()).unwrap();
    assert_eq!(file, answer);
}

#[test]
fn what_cannot_be_certified_is_refused_in_one_line() {
    let place = Place::new();
    let (network, params, stats) = network(&place);
    let refused = |args: &str, reason: &str| {
        let ran = place.run(args);
        assert!(ran.refusal().contains(reason), "{args}: {}", ran.stderr);
    };
    for (args, reason) in [
        ("--sigma 0", "`--sigma`: expected a finite number above 0; got 0"),
        ("--sigma -1", "`--sigma`: expected a finite number above 0"),
        ("--sigma nan", "`--sigma`: expected a finite number above 0"),
        ("--n 0", "`--n`: expected an integer from 1"),
        ("--n0 1.5", "`--n0`: expected an integer from 1"),
        ("--alpha 1", "`--alpha`: expected a number in (0, 1)"),
        ("--radii 0,-1", "--radii: a radius is a finite number of at least 0; got -1"),
        ("--model cnn-d3-w4", "weights: "),
        ("--model vgg", "`vgg` is unknown"),
        ("--weights none", "none"),
        ("--data imagenette --data-dir .", "this folder has no Imagenette"),
        ("--out weights", "weights"),
    ] {
        let usual: Vec<&str> = USUAL.split(" --").collect();
        let key = args.trim_start_matches("--").split(' ').next().unwrap();
        let kept: Vec<&str> =
            usual.into_iter().filter(|option| option.split(' ').next() != Some(key)).collect();
        refused(&format!("{} {args}", kept.join(" --")), reason);
    }
    // Another shape, no running statistics, and outputs that are not finite.
    let save = |name: &str, params: &[f64], stats: &RunningStats| {
        weights::save(&network, params, stats, &place.path(name)).unwrap();
    };
    let mut tensors = weights::read(&place.path("weights")).unwrap();
    tensors.insert("fc.bias".to_owned(), Tensor::zeros(9, DType::F32, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, place.path("shape")).unwrap();
    let mut tensors = weights::read(&place.path("weights")).unwrap();
    tensors.retain(|name, _| !name.contains("running_var"));
    candle_core::safetensors::save(&tensors, place.path("bare")).unwrap();
    let large: Vec<f64> = params.iter().map(|value| 1e30 * value).collect();
    save("large", &large, &stats);
    for (name, reason) in [
        ("shape", "`fc.bias` has shape [9]; the network has [10]"),
        ("bare", "without running statistics the network cannot be evaluated"),
        ("large", "not a finite number (noisy copies of images 0 to "),
    ] {
        let args = USUAL.replace("--weights weights", &format!("--weights {name}"));
        refused(&format!("{args} --n 50 --every 100"), reason);
    }
    let mixing = model::from_name("ntk-cnn8-w4", &model::Io::CIFAR).unwrap();
    let values = mixing.layout().initial_values(1);
    weights::save(&mixing, &values, &mixing.initial_stats(), &place.path("mixing")).unwrap();
    refused("certify --model ntk-cnn8-w4 --weights mixing --data synthetic", "an image alone has no class");
}
