//! Zeroth-order methods of others: their steps against transcriptions of what was published, and what every one of them
//! must do on functions that are known.

use std::sync::Arc;

use deepzero::Result;
use deepzero::experiment::settings;
use deepzero::method;
use deepzero::params::{Layout, ParamKind, ParamSpec, Start};
use deepzero::rng::{Purpose, Stream};
use deepzero::setting::Settings;
use deepzero::zo::cma_es::CmaEs;
use deepzero::zo::estimator::{KINDS, Place, Run, Space};
use deepzero::zo::evaluate::{self, Evaluator, EvaluatorKind};
use deepzero::zo::optimizer::{self, Optimizer};
use deepzero::zo::{self, Metered, Objective, QueryCount};
use serde::Deserialize;

use super::cli::golden;

/// A matrix, a convolution and a vector.
fn layout() -> Arc<Layout> {
    let spec = |name: &str, kind, shape: &[usize]| ParamSpec {
        name: name.to_owned(),
        kind,
        shape: shape.to_vec(),
        fan_in: 4,
        start: Start::Usual,
    };
    Arc::new(Layout::new(vec![
        spec("fc.weight", ParamKind::LinearWeight, &[5, 4]),
        spec("conv.weight", ParamKind::ConvWeight, &[3, 2, 2, 2]),
        spec("fc.bias", ParamKind::Bias, &[4]),
    ]))
}

const D: usize = 48;

/// A smooth function that is no quadratic: the one of `make_published_golden.py`.
struct Smooth;

impl Objective for Smooth {
    fn n_coords(&self) -> usize {
        D
    }

    fn loss(&self, params: &[f64]) -> Result<f64> {
        let mut coupled = 0.0;
        let mut sum = 0.0;
        for (k, &x) in params.iter().enumerate() {
            let scale = 1.0 + (k % 7) as f64 / 7.0;
            let centre = ((2 * k) % 5) as f64 / 5.0 - 0.4;
            coupled += (((5 * k) % 11) as f64 - 5.0) / 11.0 * x;
            sum += 0.5 * scale * (x - centre) * (x - centre) + x.cos();
        }
        Ok(sum + 0.5 * coupled * coupled)
    }
}

/// |Bx + c|²/2 of random B and c, which vanishes at some point.
struct Quadratic {
    rows: Vec<Vec<f64>>,
    shift: Vec<f64>,
}

impl Quadratic {
    fn random(seed: u64) -> Self {
        let stream = Stream::new(seed, Purpose::Test, 0);
        let row = |i: usize| {
            let mut row = vec![0.0; D];
            stream.lane(i as u32).fill_normal(&mut row);
            row.iter_mut().for_each(|b| *b *= 0.5 / (D as f64).sqrt());
            row[i] += 1.0;
            row
        };
        Self {
            rows: (0..D).map(row).collect(),
            shift: (0..D).map(|i| stream.lane(99).normal_at(i as u64)).collect(),
        }
    }
}

impl Objective for Quadratic {
    fn n_coords(&self) -> usize {
        D
    }

    fn loss(&self, params: &[f64]) -> Result<f64> {
        let residual = |(row, shift): (&Vec<f64>, &f64)| {
            (row.iter().zip(params).map(|(b, x)| b * x).sum::<f64>() + shift).powi(2)
        };
        Ok(0.5 * self.rows.iter().zip(&self.shift).map(residual).sum::<f64>())
    }
}

fn parsed<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Settings {
    settings::from_pairs(pairs).unwrap()
}

fn start(settings: &Settings, seed: u64) -> Box<dyn Run> {
    let name = settings.read::<method::Config>().unwrap().method.name();
    let kind = KINDS.iter().find(|kind| kind.name() == name).unwrap();
    kind.start(settings, Space { layout: Some(layout()), n_coords: D, seed }).unwrap()
}

/// A run of a method on a function.
struct Descent<'a> {
    objective: &'a dyn Objective,
    count: &'a QueryCount,
    settings: &'a Settings,
    run: Box<dyn Run>,
    optimizer: Optimizer,
    params: Vec<f64>,
    n_done: u32,
}

impl<'a> Descent<'a> {
    fn new(
        objective: &'a dyn Objective,
        count: &'a QueryCount,
        settings: &'a Settings,
        seed: u64,
        params: Vec<f64>,
    ) -> Self {
        let config: optimizer::Config = settings.read().unwrap();
        let optimizer = Optimizer::new(config.optimizer, config.momentum, config.weight_decay, D);
        Self { objective, count, settings, run: start(settings, seed), optimizer, params, n_done: 0 }
    }

    fn step(&mut self) {
        let active: Arc<[usize]> = (0..D).collect();
        let place = Place { step: self.n_done, active: &active, draw: 0, params: &self.params };
        self.run.prepare(&place);
        let metered = Metered::new(self.objective, self.count);
        let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &self.params).unwrap();
        let estimate = zo::estimate(&*self.run.estimator(&place), &evaluator).unwrap();
        self.run.note(&estimate);
        let rate = self.settings.read::<optimizer::Config>().unwrap().rate(self.n_done as usize, 1, 1);
        self.optimizer.step(&mut self.params, &estimate.gradient, rate, None);
        self.n_done += 1;
    }
}

#[derive(Deserialize)]
struct Published {
    seed: u64,
    start: Vec<f64>,
    start_loss: f64,
    cases: Vec<Case>,
    cma_es: Adapted,
}

#[derive(Deserialize)]
struct Adapted {
    sigma: f64,
    generations: Vec<Generation>,
}

#[derive(Deserialize)]
struct Generation {
    params: Vec<f64>,
    sigma: f64,
}

impl Published {
    fn load() -> Self {
        let text = std::fs::read_to_string(golden("published.expected.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// The largest distance of two numbers.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[derive(Deserialize)]
struct Case {
    name: String,
    settings: std::collections::BTreeMap<String, String>,
    params: Vec<Vec<f64>>,
}

/// Oracle: transcriptions with NumPy (`tests/golden/make_published_golden.py`), which share with the program the place of
/// every random number and nothing else.
#[test]
fn steps_are_the_published_ones() {
    let published = Published::load();
    let loss = Smooth.loss(&published.start).unwrap();
    assert!((loss - published.start_loss).abs() < 1e-12, "{loss}");
    assert!(published.cases.len() >= 11);
    for case in &published.cases {
        let settings = parsed(case.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let count = QueryCount::default();
        let mut descent = Descent::new(&Smooth, &count, &settings, published.seed, published.start.clone());
        for (step, expected) in case.params.iter().enumerate() {
            descent.step();
            let error = distance(&descent.params, expected);
            assert!(error < 1e-12, "{}, step {}: off by {error:.1e}", case.name, step + 1);
        }
    }
}

/// Oracle: the tutorial's equations, transcribed in the same script.
#[test]
fn generations_are_the_tutorials() {
    let published = Published::load();
    let mut search = CmaEs::new(D, published.cma_es.sigma, None, published.seed);
    let mut mean = published.start;
    let count = QueryCount::default();
    for (number, expected) in published.cma_es.generations.iter().enumerate() {
        generation(&mut search, &mut mean, &Smooth, &count);
        let error = distance(&mean, &expected.params).max((search.sigma() - expected.sigma).abs());
        assert!(error < 1e-12, "generation {}: off by {error:.1e}", number + 1);
    }
    // 15 points and the mean.
    assert_eq!(count.queries(), 16 * published.cma_es.generations.len() as u64);
}

fn generation(search: &mut CmaEs, mean: &mut [f64], objective: &dyn Objective, count: &QueryCount) {
    let metered = Metered::new(objective, count);
    let params = mean.to_vec();
    let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &params).unwrap();
    let differences = evaluator.differences(&search.ask()).unwrap();
    search.tell(&differences, mean);
}

/// Oracle: least values that are known: zero of a quadratic, and of Rosenbrock's valley in ten coordinates, which plain
/// descent does not come down in as many queries. The same bits for any number of threads, and when it is taken up.
#[test]
fn cma_es_finds_what_is_known() {
    struct Valley;
    impl Objective for Valley {
        fn n_coords(&self) -> usize {
            10
        }
        fn loss(&self, x: &[f64]) -> Result<f64> {
            Ok(x.windows(2).map(|x| 100.0 * (x[1] - x[0] * x[0]).powi(2) + (1.0 - x[0]).powi(2)).sum())
        }
    }
    let run = |objective: &(dyn Objective + Sync), n_generations: usize, threads: usize, stops: bool| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (n, count) = (objective.n_coords(), QueryCount::default());
            let (mut search, mut mean) = (CmaEs::new(n, 0.3, None, 2), vec![0.0; n]);
            for _ in 0..n_generations {
                if stops {
                    let mut state: std::collections::HashMap<_, _> = search.state().into_iter().collect();
                    search = CmaEs::new(n, 0.3, None, 2);
                    search.restore(|name, _| state.remove(name).ok_or(format!("no `{name}`"))).unwrap();
                }
                generation(&mut search, &mut mean, objective, &count);
            }
            mean
        })
    };
    assert!(Valley.loss(&run(&Valley, 700, 2, false)).unwrap() < 1e-10);
    let quadratic = Quadratic::random(1);
    let before = quadratic.loss(&[0.0; D]).unwrap();
    assert!(quadratic.loss(&run(&quadratic, 1000, 2, false)).unwrap() < 1e-6 * before);
    let whole = run(&Valley, 20, 1, false);
    assert_eq!(run(&Valley, 20, 3, false), whole);
    assert_eq!(run(&Valley, 20, 2, true), whole);
}

/// Settings of a method, its queries a step, and the share of the loss above the least that is left after 300 steps.
const ROWS: [(&str, u64, f64); 14] = [
    ("method=cge learning-rate=0.2 momentum=0", 49, 1e-3),
    ("method=rge queries=16 learning-rate=0.1 momentum=0", 17, 1e-2),
    (
        "method=rge queries=16 directions=rademacher step-scale=loss-spread learning-rate=0.1 momentum=0",
        17,
        0.1,
    ),
    ("method=rge queries=16 optimizer=r-adazo learning-rate=0.002", 17, 0.2),
    ("method=rge queries=2 directions=per-tensor optimizer=r-adazo learning-rate=0.001", 3, 0.5),
    ("method=cocd queries=5 decay=0 learning-rate=0.5 momentum=0", 6, 0.1),
    (
        "method=cocd queries=5 decay=1 order=parameters difference=central mu=0.1 learning-rate=0.05 momentum=0",
        11,
        0.2,
    ),
    (
        "method=sparse-mezo queries=8 large-weights=0.5 difference=central learning-rate=0.03 momentum=0",
        17,
        0.9,
    ),
    ("method=lozo queries=8 difference=central subspace-steps=5 learning-rate=0.02 momentum=0", 17, 0.1),
    (
        "method=subzero queries=8 difference=central subspace-steps=5 rank=2 learning-rate=0.03 momentum=0",
        17,
        0.2,
    ),
    (
        "method=zo-muon queries=16 rank=2 subspace-steps=5 learning-rate=0.02 vector-scale=1 momentum=0",
        17,
        0.4,
    ),
    ("method=hizoo queries=8 curvature-rate=0.001 learning-rate=0.05 momentum=0", 17, 0.3),
    ("method=eggroll queries=8 mu=0.1 learning-rate=0.2 momentum=0", 17, 0.2),
    ("method=hizoo learning-rate=0.01 momentum=0", 3, 0.5),
];

fn row_settings(row: &str) -> Settings {
    let shared = "sparsity=0 weight-decay=0 warmup-epochs=0 schedule=constant";
    let pairs = shared.split_whitespace().chain(row.split_whitespace());
    parsed(pairs.map(|pair| pair.split_once('=').unwrap()))
}

/// Oracle: the least value, 0 of a quadratic, found by plain descent of the other. Every query is counted.
#[test]
fn every_method_goes_down_what_is_known() {
    let functions: [(&dyn Objective, f64); 3] =
        [(&Quadratic::random(1), 0.0), (&Quadratic::random(2), 0.0), (&Smooth, LEAST)];
    let mut failed = Vec::new();
    for (row, queries, share) in ROWS {
        let settings = row_settings(row);
        for (number, (objective, least)) in functions.into_iter().enumerate() {
            let count = QueryCount::default();
            let start: Vec<f64> = (0..D).map(|k| 1.0 - (k % 3) as f64).collect();
            let before = objective.loss(&start).unwrap() - least;
            let mut descent = Descent::new(objective, &count, &settings, 7, start);
            (0..300).for_each(|_| descent.step());
            let after = objective.loss(&descent.params).unwrap() - least;
            assert_eq!(count.queries(), 300 * queries, "{row}");
            if after > share * before {
                failed.push(format!("{row}, function {number}: {:.4} of the loss is left", after / before));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The least value of [`Smooth`], which is convex: after 200,000 steps of gradient descent with NumPy.
const LEAST: f64 = 42.226_307_702_604;

/// The same bits for any number of threads, and when the run is taken up after any step.
#[test]
fn every_method_goes_on_with_the_same_bits() {
    for (row, ..) in ROWS {
        let settings = row_settings(row);
        let start: Vec<f64> = (0..D).map(|k| 1.0 - (k % 3) as f64).collect();
        let run = |threads: usize, stops: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let count = QueryCount::default();
                let mut descent = Descent::new(&Smooth, &count, &settings, 3, start.clone());
                for _ in 0..7 {
                    descent.step();
                    if stops {
                        let mut next = Descent::new(&Smooth, &count, &settings, 3, descent.params.clone());
                        for (name, values) in descent.run.state() {
                            next.run.restore(name, values);
                        }
                        (next.optimizer, next.n_done) = (descent.optimizer, descent.n_done);
                        descent = next;
                    }
                }
                descent.params
            })
        };
        let whole = run(1, false);
        assert_eq!(run(3, false), whole, "{row}");
        assert_eq!(run(2, true), whole, "{row}");
    }
}
