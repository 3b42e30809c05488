//! The flow solver against values computed in NumPy and SciPy float64, which agree with PhiFlow 1.5.1 in every sub-step
//! (`flow_rR`, see tests/golden/README.md). Another folder of such values can be tested by `DEEPZERO_GOLDEN`. The values
//! at R = 32 are too large to be kept here: they are tested where the folder has them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use deepzero::data::Location;
use deepzero::data::wake::{Simulation, Wake};
use deepzero::experiment::settings;
use deepzero::metric::{self, Row};
use deepzero::nn::form::{Blockwise, BlockwiseBoth};
use deepzero::nn::model::{self, Io};
use deepzero::nn::{Network, weights};
use deepzero::params::Init;
use deepzero::pde::{Component, Disc, Flow, Grid, Real, Stages, Variant, Velocity, Workspace, restrict};
use deepzero::problem::correct::{self, Correct};
use deepzero::problem::{Problem, Resources};
use deepzero::setting::Settings;
use deepzero::task::{self, Outcome, Session};
use deepzero::train::{Observer, Quiet, Status};
use deepzero::zo::evaluate::{self, Evaluator, EvaluatorKind};
use deepzero::zo::{Metered, Probe, QueryCount};
use serde_json::Value;

use super::cli::golden;

/// Largest absolute deviations in double and in single precision: of stages of a flow, of stages of noise and the
/// transpose, and of states after up to 50 steps.
const STAGES: [f64; 2] = [1e-13, 2e-6];
const ROUGH: [f64; 2] = [2e-12, 1e-4];
const ROLL: [f64; 2] = [1e-12, 5e-6];

const VARIANTS: [Variant; 2] = [Variant::Consistent, Variant::Replicate];

fn folder() -> PathBuf {
    std::env::var_os("DEEPZERO_GOLDEN").map_or_else(|| golden(""), PathBuf::from)
}

/// The golden values of one resolution.
pub(crate) struct Scene {
    pub(crate) resolution: usize,
    pub(crate) expected: Value,
    pub(crate) tensors: HashMap<String, Tensor>,
}

impl Scene {
    /// Those that there are, smallest first.
    pub(crate) fn all() -> Vec<Self> {
        let mut scenes = Vec::new();
        for resolution in [16, 32] {
            let name = format!("flow_r{resolution}");
            let Ok(text) = std::fs::read_to_string(folder().join(format!("{name}.expected.json"))) else {
                eprintln!("skipped: no {name} in {}", folder().display());
                continue;
            };
            let tensors = weights::read(&folder().join(format!("{name}.safetensors"))).unwrap();
            scenes.push(Self { resolution, expected: serde_json::from_str(&text).unwrap(), tensors });
        }
        assert!(!scenes.is_empty(), "no golden values at all");
        scenes
    }

    pub(crate) fn number(&self, name: &str) -> f64 {
        self.expected[name].as_f64().unwrap()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        self.tensors[name].to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn state(&self, name: &str) -> Velocity<f64> {
        let of = |component: &str| self.values(&format!("{name}.{component}"));
        Velocity { lanes: 1, v: of("v"), u: of("u") }
    }

    pub(crate) fn grid(&self) -> Grid {
        Grid::new(self.resolution, Disc::default()).unwrap()
    }

    fn re_c(&self, idx: usize) -> f64 {
        self.expected["re_c"][idx].as_f64().unwrap()
    }
}

/// The golden training case: simulations of n + 1 frames each, so that there is one start frame of each.
fn wake_of(scene: &Scene) -> Wake {
    let (batch, n) = (scene.number("batch") as usize, scene.number("n") as usize);
    let (v, u) = (scene.values("train.frames.v"), scene.values("train.frames.u"));
    let frame = |at: usize| {
        let part = |values: &[f64]| {
            let len = values.len() / (batch * (n + 1));
            values[at * len..][..len].iter().map(|&value| value as f32).collect()
        };
        Velocity { lanes: 1, v: part(&v), u: part(&u) }
    };
    let simulation = |idx: usize| Simulation {
        re: scene.re_c(idx),
        frames: (0..=n).map(|step| frame(idx * (n + 1) + step)).collect(),
    };
    let train: Vec<Simulation> = (0..batch).map(simulation).collect();
    Wake { grid: scene.grid(), test: train.clone(), train, checksum: String::new() }
}

fn corrector(scene: &Scene) -> (Network, Vec<f64>) {
    let [rows, columns] = scene.grid().cells();
    let io = Io { input: [3, rows, columns], n_outputs: 2 * rows * columns };
    let network = model::from_name("corrector-d2", &io).unwrap();
    assert_eq!(network.layout().n_coords(), 56_898);
    let (params, _) = weights::from_tensors(&network, &scene.tensors, Path::new("golden")).unwrap();
    (network, params)
}

/// Relative tolerances of the loss and of the gradient, absolute one of the differences.
const LOSS: [f64; 2] = [1e-12, 1e-6];
const GRADIENT: [f64; 2] = [1e-12, 2e-6];
const DIFFERENCES: [f64; 2] = [1e-8, 0.2];

/// Loss, gradient and forward differences against the golden ones: relative, relative, absolute.
fn training<T: Real>(scene: &Scene) -> [f64; 3]
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    let wake = wake_of(scene);
    let (network, params) = corrector(scene);
    let interrupt = AtomicBool::new(false);
    let count = QueryCount::default();
    let resources = Resources {
        device: &Device::Cpu,
        memory: 1 << 30,
        ranks: &deepzero::ranks::ALONE,
        interrupt: &interrupt,
        count: &count,
    };
    let config = correct::Config { unroll: scene.number("n") as usize, ..correct::Config::default() };
    let (variant, init) = (Variant::Consistent, Init::Glorot);
    let problem = Correct::<T>::new(&network, &wake, variant, config, init, 0, resources).unwrap();
    for (found, name) in problem.solver().scales().into_iter().zip(["std_v", "std_u", "std_re"]) {
        assert!((found / scene.number(name) - 1.0).abs() < 1e-12, "{name}: {found}");
    }
    let batch = problem.batch(1, &[0, 1]).unwrap();
    let expected = scene.number("loss");
    let exact = batch.backprop(&params).unwrap();
    let mut loss = (exact.loss / expected - 1.0).abs();
    let mut gradient = 0.0;
    for spec_idx in 0..network.layout().specs().len() {
        let golden = scene.values(&format!("grad.{}", network.layout().specs()[spec_idx].name));
        let found = &exact.gradient[network.layout().range(spec_idx)];
        gradient += found.iter().zip(&golden).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    }
    let objective = batch.objective();
    let metered = Metered::new(&*objective, &count);
    let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &params).unwrap();
    loss = loss.max((evaluator.base_loss() / expected - 1.0).abs());
    let mu = scene.number("mu");
    let probes: Vec<Probe> = scene.expected["coords"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            let coord = network
                .layout()
                .coord(pair[0].as_str().unwrap(), pair[1].as_u64().unwrap() as usize)
                .unwrap();
            Probe::Coordinate { coord, shift: mu }
        })
        .collect();
    let differences = evaluator.differences(&probes).unwrap();
    let golden = scene.expected["cge_forward_difference"].as_array().unwrap();
    let apart = differences.iter().zip(golden).map(|(a, b)| (a / mu - b.as_f64().unwrap()).abs());
    let differences = apart.fold(0.0, f64::max);
    [loss, gradient.sqrt() / scene.number("gradient_norm"), differences]
}

/// Oracle: PyTorch in float64, through an own differentiable solver, and its forward differences.
#[test]
fn loss_gradient_and_differences_are_the_golden_ones() {
    for scene in Scene::all() {
        for (idx, found) in [training::<f64>(&scene), training::<f32>(&scene)].into_iter().enumerate() {
            let [loss, gradient, differences] = found;
            let bits = [64, 32][idx];
            eprintln!("R = {}, f{bits}: {loss:.1e} {gradient:.1e} {differences:.1e}", scene.resolution);
            for (found, most) in found.into_iter().zip([LOSS[idx], GRADIENT[idx], DIFFERENCES[idx]]) {
                assert!(found <= most, "R = {}: {found:e} instead of at most {most:e}", scene.resolution);
            }
        }
    }
}

fn deviation(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    // A difference that is no number is the largest.
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, d| if d <= most { most } else { d })
}

fn apart<T: Real>(found: &Velocity<T>, expected: &Velocity<f64>) -> f64 {
    let found = found.cast::<f64>();
    deviation(&found.v, &expected.v).max(deviation(&found.u, &expected.u))
}

/// Sub-steps, pressure, rollouts and transpose of both variants; the largest deviations by kind.
fn deviations<T: Real>(scene: &Scene) -> [f64; 3] {
    let [mut stages, mut rough, mut roll] = [0.0_f64; 3];
    for variant in VARIANTS {
        let flow = Flow::<T>::new(scene.grid(), variant);
        let mut workspace = Workspace::new(flow.grid(), 1);
        for (prefix, start, re, worst) in [
            ("step", "init", scene.re_c(0), &mut stages),
            ("rough", "rough.init", scene.number("re_c_rough"), &mut rough),
        ] {
            let alpha = T::of(flow.diffusion_number(re));
            let mut state = scene.state(start).cast::<T>();
            let found = flow.step_by_stages(&mut state, &[alpha], &mut workspace);
            let Stages { diffused, bounded, advected, pressure } = found;
            let name = |stage: &str| scene.state(&format!("{prefix}.{stage}"));
            let pressure: Vec<f64> = pressure.iter().map(|p| p.wide()).collect();
            for apart in [
                apart(&diffused, &name("diffuse")),
                apart(&bounded, &name("bc")),
                apart(&advected, &name("advect")),
                apart(&state, &name(variant.name())),
                deviation(&pressure, &scene.values(&format!("{prefix}.p"))),
            ] {
                *worst = worst.max(apart);
            }
            let divergence = &scene.expected[format!("{prefix}.{}.divergence", variant.name())]["max"];
            let divergence = flow.largest_divergence(&state) - divergence.as_f64().unwrap();
            *worst = worst.max(divergence.abs());
        }
        let mut grad = scene.state("vjp.cotangent").cast::<T>();
        let before = scene.state("rough.init").cast::<T>();
        let alpha = T::of(flow.diffusion_number(scene.number("re_c_rough")));
        flow.step_transpose(&before, &[alpha], &mut grad, &mut workspace);
        rough = rough.max(apart(&grad, &scene.state(&format!("vjp.{}", variant.name()))));
        // Both Reynolds numbers side by side.
        let init = scene.state("init").cast::<T>();
        let mut state = Velocity::stack(&[&init, &init]);
        let alphas = [0, 1].map(|idx| T::of(flow.diffusion_number(scene.re_c(idx))));
        let mut workspace = Workspace::new(flow.grid(), 2);
        let steps: Vec<u64> =
            scene.expected["roll_steps"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        for step in 1..=*steps.last().unwrap() {
            flow.step(&mut state, &alphas, &mut workspace);
            for idx in (0..2).filter(|_| steps.contains(&step)) {
                let name = format!("roll.{}.re{idx}.n{step}", variant.name());
                roll = roll.max(apart(&state.lane(idx), &scene.state(&name)));
            }
        }
    }
    [stages, rough, roll]
}

/// Oracle: NumPy and SciPy in float64.
#[test]
fn steps_rollouts_and_transposes_are_the_golden_ones() {
    for scene in Scene::all() {
        for (idx, found) in [deviations::<f64>(&scene), deviations::<f32>(&scene)].into_iter().enumerate() {
            let [stages, rough, roll] = found;
            let bits = [64, 32][idx];
            eprintln!("R = {}, f{bits}: {stages:.1e} {rough:.1e} {roll:.1e}", scene.resolution);
            for (found, most) in found.into_iter().zip([STAGES[idx], ROUGH[idx], ROLL[idx]]) {
                assert!(found <= most, "R = {}: {found:e} instead of at most {most:e}", scene.resolution);
            }
        }
    }
}

/// Oracle: the same, of the obstacle, the start and the restriction.
#[test]
fn obstacle_start_and_restriction_are_the_golden_ones() {
    for scene in Scene::all() {
        let grid = scene.grid();
        let solid: Vec<f64> = grid.obstacle().iter().map(|&is_solid| f64::from(u8::from(is_solid))).collect();
        assert!(deviation(&solid, &scene.values("obstacle")) <= 0.0);
        assert!((solid.iter().sum::<f64>() - scene.number("n_obstacle")).abs() < 0.5);
        assert!(apart(&Velocity::<f64>::start(&grid, 1), &scene.state("start")) <= 0.0);
        let coarse = restrict(2 * scene.resolution, &scene.state("fine"));
        assert!(apart(&coarse, &scene.state("restricted")) <= 1e-15);
        assert_eq!(grid.faces(Component::V), [2 * scene.resolution + 1, scene.resolution]);
    }
}

/// Stops after the first epoch.
struct Stop<'a>(&'a AtomicBool);

impl Observer for Stop<'_> {
    fn epoch(&self, _: &Row) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) const TINY: &str = "task=correct model=corrector depth=1 width=2 init=glorot start-gain=0.1 resolution=8 frames=7 \
                    warm-up-steps=2 unroll=2 start-frames=2 epochs=3 batch-size=5 optimizer=adam weight-decay=0 \
                    warmup-epochs=0";

fn settings_of(more: &str) -> deepzero::Result<Settings> {
    let pairs = TINY.split(' ').chain(more.split(' ')).filter_map(|pair| pair.split_once('='));
    settings::from_pairs(pairs.collect::<Vec<_>>())
}

/// A trial whose flows are in `folder`, which may be told to stop after an epoch.
fn trial(more: &str, folder: &Path, checkpoint: Option<&Path>, stops: bool) -> deepzero::Result<Outcome> {
    let interrupt = AtomicBool::new(false);
    let stop = Stop(&interrupt);
    let session = Session {
        images: None,
        location: &Location { data_dir: Some(folder.to_owned()), ..Location::default() },
        device: &Device::Cpu,
        memory: 1 << 30,
        ranks: &deepzero::ranks::ALONE,
        checkpoint: checkpoint.map(|path| (path, "hash")),
        interrupt: &interrupt,
        observer: if stops { &stop } else { &Quiet },
    };
    task::run(&settings_of(more)?, 3, &session)
}

fn bits(outcome: &Outcome) -> Vec<u64> {
    let (_, state) = outcome.trained.as_ref().unwrap();
    let errors = outcome.rows.iter().map(|row| row.get(&metric::MAE));
    state.params.iter().copied().chain(errors).map(f64::to_bits).collect()
}

/// Oracle: the run that was not stopped, and another number of threads, bit for bit, for every way to a gradient.
#[test]
fn correctors_go_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for more in [
        "method=cge sparsity=0.5 layer-ratios=zo-grasp grasp-images-per-class=1 grasp-queries=4 evaluator=full",
        "method=cocd sparsity=0 queries=9 decay=0.9 evaluator=full",
        "method=rge sparsity=0 queries=3 evaluator=full precision=f64",
        "method=fo sparsity=0",
    ] {
        let whole = trial(more, folder.path(), None, false).unwrap();
        assert_eq!((whole.status, whole.rows.len()), (Status::Done, 3), "{more}: {}", whole.error);
        assert!(whole.rows[2].get(&metric::MAE).is_finite());
        let kinds: Vec<&str> = whole.profiles.iter().map(|profile| profile.kind.as_str()).collect();
        assert!(["reynolds", "frames", "wake"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
        let state = folder.path().join("x.state");
        assert!(matches!(trial(more, folder.path(), Some(&state), true), Err(deepzero::Error::Interrupted)));
        let resumed = trial(more, folder.path(), Some(&state), false).unwrap();
        std::fs::remove_file(&state).unwrap();
        assert_eq!(bits(&resumed), bits(&whole), "{more}");
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let alone = alone.install(|| trial(more, folder.path(), None, false)).unwrap();
        assert_eq!(bits(&alone), bits(&whole), "{more}");
    }
}

/// Probes that lose the flow are counted and left out; the others still give an estimate.
#[test]
fn lost_probes_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let more = "method=cge sparsity=0 mu=1e200 learning-rate=1e-9 evaluator=full precision=f64";
    let outcome = trial(more, folder.path(), None, false).unwrap();
    let last = outcome.rows.last().unwrap();
    assert_eq!(outcome.status, Status::Done);
    assert!(last.get(&metric::QUERIES_NON_FINITE) > 0.0);
    assert!(last.get(&metric::MAE).is_finite());
}

/// One clear line for what cannot be.
#[test]
fn bad_flows_and_correctors_are_refused() {
    let refused = |more: &str| settings_of(more).err().map(|error| error.to_string()).unwrap_or_default();
    let full = "method=cge evaluator=full";
    for (more, line) in [
        ("method=cge", "setting `evaluator`: difference follows a change through one pass of a network"),
        ("method=cge evaluator=full unroll=7", "setting `unroll`: 7 steps need more than 7 frames"),
        ("method=cge evaluator=full resolution=9", "setting `resolution`: expected an even number of cells"),
        ("method=cge evaluator=full obstacle-radius=60", "setting `obstacle-radius`: a disc of radius 60"),
        ("method=cge evaluator=full resolution=128", "make a diffusion number of 0.410"),
        ("method=cge evaluator=full model=lenet", "setting `model`: a solver is corrected by `corrector`"),
        ("method=fa", "setting `model`: fa is not defined for `corrector`"),
        (
            "method=cge evaluator=full loss=squared-error",
            "setting `loss`: it plays no part with task = correct",
        ),
        ("method=cge evaluator=full grasp-images-per-class=3", "3 start frames of every simulation"),
    ] {
        assert!(refused(more).contains(line), "{more}: {}", refused(more));
    }
    assert_eq!(refused(&format!("{full} grasp-images-per-class=1")), "");
    let classifier = settings::from_pairs([("model", "corrector"), ("depth", "2")]).unwrap_err().to_string();
    assert!(classifier.contains("for task = correct alone"), "{classifier}");
}
