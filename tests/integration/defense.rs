//! Defense of a black box: a denoiser in front of a frozen classifier. Values computed in PyTorch float64 are the oracle
//! (`defense`, see tests/golden/README.md). Another folder of such values can be tested by `DEEPZERO_GOLDEN`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use deepzero::experiment::settings;
use deepzero::kernels::{Precision, Rounding, Split};
use deepzero::method;
use deepzero::nn::graph::{Builder, Value};
use deepzero::nn::layer::{Conv2d, GlobalAvgPool, Linear, Relu};
use deepzero::nn::model::{self, Defended, dncnn};
use deepzero::nn::{Context, Mode, Network, RunningStats, backprop, weights};
use deepzero::params::Init;
use deepzero::problem::defend::{BlackBox, Front, Opened, Through};
use deepzero::problem::{Defend, Prepared, Problem, Resources, State};
use deepzero::rng::Purpose;
use deepzero::train::{Quiet, Run, Status};
use deepzero::zo::estimator::Cge;
use deepzero::zo::evaluate::{self, Evaluator, EvaluatorKind};
use deepzero::zo::{Metered, QueryCount, Scheme, estimate};
use serde::Deserialize;

use super::cli::{Place, experiment, golden_folder};
use super::resume::goes_on_bit_for_bit;

/// Relative tolerances in double and in single precision, of outputs, statistics and loss, and of differences.
const VALUES: [f64; 2] = [1e-12, 1e-5];
const DIFFERENCES: [f64; 2] = [1e-8, 1e-3];

#[derive(Deserialize)]
struct Expected {
    batch: usize,
    mu: f64,
    mean: Vec<f64>,
    std: Vec<f64>,
    loss: f64,
    pseudo_labels: Vec<u32>,
    coords: Vec<(String, usize)>,
    cge_forward_difference: Vec<f64>,
    cge_central_difference: Vec<f64>,
    backprop: Vec<f64>,
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn relative(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    norm(found.iter().zip(expected).map(|(a, b)| a - b)) / norm(expected.iter().copied())
}

/// The golden values, and the networks that they are of.
struct Scene {
    expected: Expected,
    tensors: HashMap<String, Tensor>,
    depth: usize,
    front: Network,
    behind: Network,
    whole: Network,
}

/// The classifier of the golden values, normalization of channels included.
fn push_classifier(builder: &mut Builder, image: Value, width: usize) -> Value {
    let conv = |c_in, c_out| Conv2d { c_in, c_out, kernel: 3, stride: 2, padding: 1, has_bias: false };
    let mut value = builder.push_norm_with("normalize", image, 0.0, 0.0);
    for (idx, c_in, c_out) in [(1, 3, width), (2, width, 2 * width)] {
        value = builder.push(format!("conv{idx}"), conv(c_in, c_out), &[value]);
        value = builder.push_norm(format!("bn{idx}"), value);
        value = builder.push(format!("relu{idx}"), Relu, &[value]);
    }
    value = builder.push("pool", GlobalAvgPool, &[value]);
    builder.push("fc", Linear { n_in: 2 * width, n_out: 10 }, &[value])
}

impl Scene {
    fn load() -> Self {
        let text = std::fs::read_to_string(golden_folder().join("defense.expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&text).unwrap();
        let tensors = weights::read(&golden_folder().join("defense.safetensors")).unwrap();
        let dims = |name: &str| tensors[name].dims().to_vec();
        let n_convs =
            tensors.keys().filter(|name| name.starts_with("d.") && tensors[*name].dims().len() == 4).count();
        let (depth, width) = (n_convs, dims("d.dncnn.0.weight")[0]);
        let classes = dims("f.conv1.weight")[0];
        let image: [usize; 3] = dims("images")[1..].try_into().unwrap();
        let front = dncnn(depth, width, image).unwrap();
        let behind = Builder::built(image, |builder, image| push_classifier(builder, image, classes));
        let whole = Builder::built(image, |builder, image| {
            let image = dncnn::push(builder, image, depth, width);
            push_classifier(builder, image, classes)
        });
        Self { expected, tensors, depth, front, behind, whole }
    }

    /// Parameters and statistics of a network from the tensors `prefix.*`; those of its `normalize` follow from the mean
    /// and standard deviation of channels.
    fn state(&self, network: &Network, prefix: &str) -> State {
        let of = |name: &str| values(&self.tensors[&format!("{prefix}.{name}")]);
        let params = network.layout().specs().iter().flat_map(|spec| match spec.name.as_str() {
            "normalize.weight" => vec![1.0; 3],
            "normalize.bias" => vec![0.0; 3],
            name => of(name),
        });
        let (params, mut stats) = (params.collect(), network.initial_stats());
        let names: Vec<String> = network.norm_names().into_iter().map(str::to_owned).collect();
        for (layer, name) in stats.layers.iter_mut().zip(names) {
            (layer.mean, layer.variance) = if name == "normalize" {
                let square = |std: &f64| std * std;
                (self.expected.mean.clone(), self.expected.std.iter().map(square).collect())
            } else {
                (of(&format!("{name}.running_mean")), of(&format!("{name}.running_var")))
            };
        }
        State { params, stats }
    }

    fn clean(&self, dtype: DType) -> Tensor {
        let clean = (self.tensors["images"].to_dtype(DType::F64).unwrap() / 255.0).unwrap();
        clean.to_dtype(dtype).unwrap()
    }

    fn noisy(&self, dtype: DType) -> Tensor {
        (self.clean(DType::F64) + &self.tensors["noise"]).unwrap().to_dtype(dtype).unwrap()
    }

    fn labels(&self) -> Vec<u32> {
        values(&self.tensors["labels"]).into_iter().map(|label| label as u32).collect()
    }

    fn opened(&self, like: &Tensor) -> Opened {
        let State { params, stats } = self.state(&self.behind, "f");
        let network = Builder::built(self.behind.input(), |builder, image| {
            push_classifier(builder, image, self.tensors["f.conv1.weight"].dims()[0])
        });
        Opened::new(network, params, stats, like).unwrap()
    }
}

const PRECISIONS: [(DType, usize); 2] = [(DType::F64, 0), (DType::F32, 1)];

#[test]
fn the_denoiser_matches_the_golden_values() {
    let scene = Scene::load();
    let State { params, stats } = scene.state(&scene.front, "d");
    for (dtype, idx) in PRECISIONS {
        let images = scene.noisy(dtype);
        let tensors = scene.front.tensors(&params, dtype, &Device::Cpu).unwrap();
        for (mode, name) in [(Mode::Eval(&stats), "out_eval"), (Mode::Train, "out_train")] {
            for split in [Split::Serial, Split::Threads] {
                let context = Context { mode, split };
                let kept = scene.front.forward_all(&context, &tensors, &images).unwrap();
                let found = values(&scene.front.forward(&context, &tensors, &images).unwrap());
                assert_eq!(found, values(kept.logits()));
                let error = relative(&found, &values(&scene.tensors[name]));
                assert!(error < VALUES[idx], "{name}: {error:e}");
                if matches!(mode, Mode::Train) {
                    let mut moved: RunningStats = stats.clone();
                    moved.update(&scene.front.batch_stats_of(&kept).unwrap());
                    let after = scene.state_after();
                    for (found, expected) in moved.layers.iter().zip(&after.layers) {
                        assert!(relative(&found.mean, &expected.mean) < VALUES[idx]);
                        assert!(relative(&found.variance, &expected.variance) < VALUES[idx]);
                    }
                }
            }
        }
        let opened = scene.opened(&images);
        let clean = scene.clean(dtype).flatten_from(1).unwrap();
        assert_eq!(opened.classes(&clean).unwrap(), scene.expected.pseudo_labels);
    }
}

impl Scene {
    fn state_after(&self) -> RunningStats {
        let mut stats = self.front.initial_stats();
        for (layer, name) in stats.layers.iter_mut().zip(self.front.norm_names()) {
            let of = |what: &str| values(&self.tensors[&format!("d_after.{name}.running_{what}")]);
            (layer.mean, layer.variance) = (of("mean"), of("var"));
        }
        stats
    }
}

/// A box that answers, and shows nothing else.
struct Closed(Opened);

impl BlackBox for Closed {
    fn losses(&self, inputs: &Tensor, labels: &[u32]) -> deepzero::Result<Vec<f64>> {
        self.0.losses(inputs, labels)
    }

    fn classes(&self, inputs: &Tensor) -> deepzero::Result<Vec<u32>> {
        self.0.classes(inputs)
    }
}

#[test]
fn estimates_of_the_last_layer_match_the_golden_values() {
    let scene = Scene::load();
    let last = format!("{}.weight", dncnn::last_layer(scene.depth));
    let labels = scene.labels();
    assert_eq!(labels.len(), scene.expected.batch);
    let coords: Vec<usize> = scene
        .expected
        .coords
        .iter()
        .map(|(name, idx)| {
            assert_eq!(*name, last);
            *idx
        })
        .collect();
    for (dtype, idx) in PRECISIONS {
        let images = scene.noisy(dtype);
        let start = scene.state(&scene.front, "d");
        let front = Front::tensor(&scene.front, start.clone(), &last).unwrap();
        let (opened, closed) = (scene.opened(&images), Closed(scene.opened(&images)));
        let range = scene.front.layout().coord(&last, 0).unwrap()..scene.front.layout().n_coords();
        let params = start.params[range].to_vec();
        let how = (1 << 28, Rounding::None);
        let cases: [(&dyn BlackBox, EvaluatorKind); 5] = [
            (&opened, EvaluatorKind::Full),
            (&opened, EvaluatorKind::Reuse),
            (&opened, EvaluatorKind::Difference),
            (&closed, EvaluatorKind::Full),
            (&closed, EvaluatorKind::Reuse),
        ];
        for (behind, kind) in cases {
            let through = Through::new(&front, behind, Some(&scene.whole), (&images, &labels), how);
            let count = QueryCount::default();
            let metered = Metered::new(&through, &count);
            let evaluator = evaluate::at(&metered, kind, &params).unwrap();
            let error = (evaluator.base_loss() / scene.expected.loss - 1.0).abs();
            assert!(error < VALUES[idx], "{kind:?}: loss {error:e}");
            let active: Arc<[usize]> = coords.iter().copied().collect();
            for (scheme, expected) in [
                (Scheme::Forward, &scene.expected.cge_forward_difference),
                (Scheme::Central, &scene.expected.cge_central_difference),
            ] {
                let cge = Cge::new(params.len(), active.clone(), scene.expected.mu, scheme);
                let found = estimate(&cge, &evaluator).unwrap().gradient;
                let found: Vec<f64> = coords.iter().map(|&coord| found[coord]).collect();
                let error = relative(&found, expected);
                assert!(error < DIFFERENCES[idx], "{kind:?}, {scheme:?}: {error:e}");
            }
            assert_eq!(count.queries(), 1 + 3 * coords.len() as u64);
        }
        let through = Through::new(&front, &closed, Some(&scene.whole), (&images, &labels), how);
        let metered = QueryCount::default();
        let error = evaluate::at(&Metered::new(&through, &metered), EvaluatorKind::Difference, &params);
        let message = error.err().unwrap().to_string();
        assert!(message.contains("difference needs to know what is behind"), "{message}");

        let outer = |outputs: &Tensor| opened.slope(outputs, &labels);
        let mode = Mode::Eval(&start.stats);
        let exact = backprop::pull_back(&scene.front, mode, &start.params, &images, &outer).unwrap();
        let first = scene.front.layout().coord(&last, 0).unwrap();
        let found: Vec<f64> = coords.iter().map(|&coord| exact.gradient[first + coord]).collect();
        let error = relative(&found, &scene.expected.backprop);
        assert!(error < [1e-10, 1e-3][idx], "back-propagation: {error:e}");
    }
}

/// Images of a trial with pixels from 0 to 1, and a network on them behind which a classifier stands.
fn small(n: usize) -> (Prepared, Defended) {
    let images = Prepared::procedural(n).with_unit_pixels();
    let parts = Defended {
        denoiser: [3, 2],
        has_code: false,
        family: &model::cnn::FAMILY,
        classifier: [1, 3],
        io: images.io(),
    };
    (images, parts)
}

/// Parameters and statistics off their defaults, so that nothing can be left out unnoticed.
fn random(network: &Network) -> State {
    let params = network.layout().drawn(Init::Uniform, 3, Purpose::Test);
    let mut stats = network.initial_stats();
    for (idx, layer) in stats.layers.iter_mut().enumerate() {
        layer.mean.fill(0.1 * idx as f64);
        layer.variance.fill(1.5);
    }
    State { params: params.iter().map(|param| 0.5 * param).collect(), stats }
}

/// Oracle: the box that shows what is in it. One that only answers gives the same, whatever is trained, and no exact
/// gradient.
#[test]
fn a_defense_trains_through_a_box_that_only_answers() {
    let (images, parts) = small(20);
    let like = Tensor::zeros(1, DType::F64, &Device::Cpu).unwrap();
    let (front, whole) = (parts.front(), parts.whole());
    let State { params, stats } = random(&parts.behind());
    let opened = || Opened::new(parts.behind(), params.clone(), stats.clone(), &like).unwrap();
    let (open, closed) = (opened(), Closed(opened()));
    let (count, interrupt) = (QueryCount::default(), AtomicBool::new(false));
    let resources = Resources {
        device: &Device::Cpu,
        memory: 1 << 28,
        ranks: &deepzero::ranks::ALONE,
        interrupt: &interrupt,
        count: &count,
    };
    let run = |behind: &dyn BlackBox, is_last: bool, more: &str| -> deepzero::Result<State> {
        let start = random(&front);
        let part = if is_last {
            Front::tensor(&front, start, &parts.last_weight())?
        } else {
            Front::whole(&front, start)
        };
        let problem = Defend::new(part, [behind, behind], &images, Precision::F64, (0.25, 5), resources);
        let problem = problem.with_whole(&whole);
        let text = format!("warmup-epochs=0 learning-rate=0.01 epochs=2 batch-size=10 precision=f64 {more}");
        let settings = settings::from_pairs(text.split(' ').map(|pair| pair.split_once('=').unwrap()))?;
        let method::Config { method } = settings.read()?;
        let mut method = method.start(&settings, 5, problem.layout())?;
        let config = settings.read()?;
        let run = Run {
            config,
            most_steps: None,
            seed: 5,
            resources,
            checkpoint: None,
            observer: &Quiet,
            began: Instant::now(),
        };
        let trained = run.train(&problem, method.as_mut())?;
        assert!(trained.state != problem.start(5), "{more}: nothing moved");
        Ok(trained.state)
    };
    for (is_last, more) in [
        (true, "method=cge sparsity=0 evaluator=full"),
        (true, "method=cge sparsity=0 evaluator=reuse"),
        (true, "method=rge sparsity=0 queries=3 evaluator=full"),
        (false, "method=rge sparsity=0 queries=3 evaluator=full"),
        (false, "method=output-rge queries=3"),
    ] {
        assert_eq!(run(&closed, is_last, more).unwrap(), run(&open, is_last, more).unwrap(), "{more}");
    }
    let full = run(&open, true, "method=cge sparsity=0 evaluator=full").unwrap();
    for kind in ["reuse", "difference"] {
        let found = run(&open, true, &format!("method=cge sparsity=0 evaluator={kind}")).unwrap();
        for (found, expected) in found.params.iter().zip(&full.params) {
            assert!((found - expected).abs() < 1e-9, "{kind}: {found} {expected}");
        }
        assert_eq!(found.stats, full.stats);
    }
    let reason = |more: &str, is_last| run(&closed, is_last, more).unwrap_err().to_string();
    assert!(reason("method=fo sparsity=0", false).contains("a black box shows none"));
    assert!(reason("method=cge sparsity=0 evaluator=difference", true).contains("what is behind"));
    assert!(run(&open, false, "method=fo sparsity=0").is_ok());
    let moving = run(&open, false, "method=cge sparsity=0 evaluator=difference").unwrap_err().to_string();
    assert!(moving.contains("tune = last"), "{moving}");
}

/// A box whose losses are not numbers.
struct Silent;

impl BlackBox for Silent {
    fn losses(&self, inputs: &Tensor, _: &[u32]) -> deepzero::Result<Vec<f64>> {
        Ok(vec![f64::NAN; inputs.dim(0)?])
    }

    fn classes(&self, inputs: &Tensor) -> deepzero::Result<Vec<u32>> {
        Ok(vec![0; inputs.dim(0)?])
    }
}

#[test]
fn a_box_without_numbers_ends_in_one_line() {
    let (images, parts) = small(10);
    let front = parts.front();
    let (count, interrupt) = (QueryCount::default(), AtomicBool::new(false));
    let resources = Resources {
        device: &Device::Cpu,
        memory: 1 << 28,
        ranks: &deepzero::ranks::ALONE,
        interrupt: &interrupt,
        count: &count,
    };
    let boxes: [&dyn BlackBox; 2] = [&Silent, &Silent];
    for text in ["method=cge sparsity=0 evaluator=full", "method=output-cge"] {
        let part = Front::tensor(&front, random(&front), &parts.last_weight()).unwrap();
        let problem = Defend::new(part, boxes, &images, Precision::F32, (0.25, 5), resources);
        let settings =
            settings::from_pairs(text.split(' ').map(|pair| pair.split_once('=').unwrap())).unwrap();
        let method::Config { method } = settings.read().unwrap();
        let mut method = method.start(&settings, 5, problem.layout()).unwrap();
        let config = settings.read().unwrap();
        let run = Run {
            config,
            most_steps: None,
            seed: 5,
            resources,
            checkpoint: None,
            observer: &Quiet,
            began: Instant::now(),
        };
        match run.train(&problem, method.as_mut()) {
            Ok(trained) => {
                assert_eq!(trained.status, Status::Diverged);
                assert!(trained.error.contains("NaN") && !trained.error.contains('\n'), "{}", trained.error);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(count.non_finite() > 0);
}

/// Oracle: runs that were not stopped, for what stands in front and what is trained.
#[test]
fn defenses_go_on_bit_for_bit() {
    let base = "task=defend data=synthetic n-train=40 n-val=20 n-test=20 epochs=3 batch-size=20 warmup-epochs=0 \
                model=cnn depth=1 width=2 denoiser-depth=3 denoiser-width=2 classifier-epochs=2 denoiser-epochs=1 \
                autoencoder-epochs=1 foundation-batch=20 n0=5 n=30 n-certified=3 sigma=0.3";
    for more in [
        "tune=last method=cge sparsity=0.3 layer-ratios=uniform schedule=step decay-epochs=1 optimizer=adam",
        "tune=last method=cocd sparsity=0 queries=9 evaluator=reuse n-tune=20",
        "tune=all method=fo sparsity=0 augment=false",
        "tune=all method=output-rge queries=4 difference=central",
        "tune=all method=output-rge defense=autoencoder queries=3 classifier-noise=true",
    ] {
        goes_on_bit_for_bit(&format!("{base} {more}"));
    }
}

/// Networks that trials begin with are made once; what is refused is said in one line.
#[test]
fn foundations_are_made_once_and_bad_settings_are_refused() {
    let settings = "task = \"defend\"\ndata = \"synthetic\"\nn-train = 40\nn-test = 20\naugment = false\n\
                    model = \"cnn\"\ndepth = 1\nwidth = 2\ndenoiser-depth = 3\ndenoiser-width = 2\n\
                    classifier-epochs = 2\ndenoiser-epochs = 1\nfoundation-batch = 20\nn0 = 5\nn = 30\n\
                    n-certified = 3\ntune = \"none\"";
    let place = Place::with(&[("tiny", experiment("tiny", "sigma", "[0.1, 0.2]", settings))]);
    // Both trials at a time want the classifier.
    let ran = place.run("reproduce tiny --scale smoke --parallel 2");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said = ran.stderr;
    let count = |what: &str| said.matches(what).count();
    assert_eq!(count("classifier: epoch 2"), 1, "{said}");
    assert_eq!(count("classifier: going on after epoch 2 of 2"), 1, "{said}");
    // Each noise has a denoiser of its own.
    assert_eq!(count("denoiser: epoch 1"), 2, "{said}");
    let records = place.records("tiny");
    assert!(records.iter().all(|record| record.profile("radii").is_some()));
    assert!(records.iter().all(|record| record.profile("certificates").is_some()));
    for (set, message) in [
        ("defense=none --set tune=last", "`tune`: with defense = none"),
        ("denoiser-depth=1", "denoiser-depth"),
        ("n-tune=41", "`n-tune`: at most the n-train = 40"),
        ("pixels=unit", "`pixels`: the classifier takes standardized pixels"),
        ("loss=squared-error", "`loss`: a defense is trained by cross-entropy"),
    ] {
        let ran = place.run(&format!("reproduce tiny --scale smoke --set {set}"));
        assert!(ran.refusal_alone().contains(message), "{set}: {}", ran.stderr);
    }
    let place = Place::with(&[("silent", experiment("silent", "sigma", "[0.0]", settings))]);
    let ran = place.run("reproduce silent --scale smoke");
    assert!(ran.refusal_alone().contains("a finite number above 0; got 0"), "{}", ran.stderr);
}
