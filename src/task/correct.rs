//! Training of a network that corrects a flow solver.

use std::time::Instant;

use super::solver_alone::{Recorder, flows, no_arithmetic, step_s};
use super::{Outcome, Session, Task};
use crate::cost::{Cost, Planner, Steps, Subject};
use crate::data::wake::{self, TEST_RE, Wake};
use crate::kernels::Precision;
use crate::method;
use crate::nn::form::{Blockwise, BlockwiseBoth};
use crate::nn::model::{self, Io, corrector};
use crate::nn::{self, Network};
use crate::pde::Real;
use crate::problem::Problem;
use crate::problem::correct::{Config, Correct, check_unroll, refused};
use crate::setting::{Entry, Section, Settings};
use crate::train::{self, Run};
use crate::zo::QueryCount;
use crate::zo::evaluate::{self, EvaluatorKind};
use crate::zo::sparsity;
use crate::{Error, Result};

/// `task = correct`: a corrector is trained through the solver by the method, and measured on the test simulations after
/// every epoch.
#[derive(Debug)]
pub struct CorrectSolver;

impl Task for CorrectSolver {
    fn name(&self) -> &'static str {
        "correct"
    }

    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        let own = vec![wake::Config::ENTRIES, Config::ENTRIES, nn::Config::ENTRIES, train::Config::ENTRIES];
        Ok([own, method.sections()].concat())
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        let (flow, config): (wake::Config, Config) = (settings.read()?, settings.read()?);
        flow.check()?;
        let n_starts = check_unroll(config.unroll, flow.frames)?;
        let nn::Config { model, depth, width, precision, .. } = settings.read()?;
        if model.name != corrector::FAMILY.name {
            let reason = format!("a solver is corrected by `{}`; got {}", corrector::FAMILY.name, model.name);
            return Err(Error::setting("model", reason));
        }
        model.check(depth, width, &io(&flow))?;
        if !matches!(precision, Precision::F32 | Precision::F64) {
            return Err(no_arithmetic(precision.name()));
        }
        if settings.is_read("evaluator") {
            let evaluate::Config { evaluator } = settings.read()?;
            if evaluator != EvaluatorKind::Full {
                return Err(refused(evaluator));
            }
        }
        let method::Config { method } = settings.read()?;
        method.check(settings)?;
        super::refuse_inside(settings)?;
        super::check_warmup(settings, settings.read::<train::Config>()?.epochs)?;
        if settings.is_read("grasp-images-per-class") {
            let n = if config.start_frames == 0 { n_starts } else { config.start_frames.min(n_starts) };
            if let Some(scored) =
                settings.read::<sparsity::Config>()?.scored_per_class().filter(|&scored| scored > n)
            {
                let reason =
                    format!("{scored} start frames of every simulation are more than the {n} that there are");
                return Err(Error::setting("grasp-images-per-class", reason));
            }
        }
        Ok(())
    }

    fn has_images(&self) -> bool {
        false
    }

    fn shares_probes(&self) -> bool {
        true
    }

    fn run(&self, settings: &Settings, seed: u64, session: &Session) -> Result<Outcome> {
        let began = Instant::now();
        let config: wake::Config = settings.read()?;
        let wake = flows(&config, session)?;
        let nn::Config { precision, .. } = settings.read()?;
        let network = model::of(settings, &io(&config))?;
        let run = match precision {
            Precision::F64 => run::<f64>,
            _ => run::<f32>,
        };
        run(settings, seed, session, (&wake, &config), network, began)
    }

    fn cost(&self, settings: &Settings, planner: &mut Planner) -> Result<Cost> {
        let (flow, config): (wake::Config, Config) = (settings.read()?, settings.read()?);
        let network = model::of(settings, &io(&flow))?;
        let train::Config { epochs, batch_size } = settings.read()?;
        let n_starts = check_unroll(config.unroll, flow.frames)?;
        let per_simulation =
            if config.start_frames == 0 { n_starts } else { config.start_frames.min(n_starts) };
        let n_train = per_simulation * config.simulations;
        let subject = Subject { network, n_train, n_measured: TEST_RE.len(), n_classes: config.simulations };
        let speed = planner.speed(settings, &subject.network, None)?.clone();
        let method::Config { method } = settings.read()?;
        let steps = Steps {
            n: (n_train.div_ceil(batch_size) * epochs) as f64,
            // Every rollout takes as many passes as it has steps.
            items: (n_train * epochs * config.unroll) as f64,
            n_items: n_train,
            n_classes: config.simulations * config.unroll,
            n_outputs: subject.network.n_outputs(),
            layout: subject.network.layout(),
            speed: &speed,
        };
        let measured = (epochs * TEST_RE.len() * flow.frames) as f64;
        let measuring =
            Cost { queries: 0.0, flops: measured * speed.full_flops, wall_s: measured * speed.full_s };
        let own = measuring + method.cost(settings, &steps)?;
        // A step of the solver goes with every pass.
        let share = step_s::<f32>(flow.grid()?, &flow) / speed.full_s;
        Ok(Cost { wall_s: own.wall_s * (1.0 + share), ..own })
    }
}

/// What a corrector on the grid of these flows takes and gives.
fn io(flow: &wake::Config) -> Io {
    let [rows, columns] = [2 * flow.resolution, flow.resolution];
    Io { input: [3, rows, columns], n_outputs: 2 * rows * columns }
}

fn run<T: Real>(
    settings: &Settings,
    seed: u64,
    session: &Session,
    (wake, config): (&Wake, &wake::Config),
    network: Network,
    began: Instant,
) -> Result<Outcome>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    let count = QueryCount::default();
    let resources = session.resources(&count);
    let nn::Config { init, .. } = settings.read()?;
    let problem =
        Correct::<T>::new(&network, wake, config.projection, settings.read()?, init, seed, resources)?;
    let method::Config { method } = settings.read()?;
    let mut method = method.start(settings, seed, problem.layout())?;
    let (checkpoint, observer) = (session.checkpoint, session.observer);
    let run =
        Run { config: settings.read()?, most_steps: None, seed, resources, checkpoint, observer, began };
    let trained = run.train(&problem, method.as_mut())?;
    let recorder = Recorder::new(wake);
    let courses = problem.course(&trained.state.params, |s, f, v| recorder.see(s, f, v))?;
    let mut profiles = trained.profiles;
    profiles.extend(recorder.profiles(wake, &courses));
    drop(problem);
    Ok(Outcome {
        n_params: network.layout().n_coords(),
        rows: trained.rows,
        status: trained.status,
        error: trained.error,
        profiles,
        mask: trained.mask,
        trained: Some((network, trained.state)),
        data_checksum: Some(wake.checksum.clone()),
    })
}
