//! Certified defense of a black-box classifier (DeepZero, Sec. 6.2, Tab. 2): trains what stands in front of it, and
//! certifies the pair by randomized smoothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::images::{self, Amount};
use super::{Outcome, Session, Task, foundation::Foundation};
use crate::certify::{self, Certificate, Certifier};
use crate::cost::{Cost, Planner, Speed, Steps, Subject};
use crate::data;
use crate::kernels::Split;
use crate::method;
use crate::metric::{self, Row};
use crate::nn::model::{Defended, MAX_DEPTH, MAX_WIDTH};
use crate::nn::{self, RunningStats};
use crate::params::Layout;
use crate::problem::defend::{BlackBox, Front, Opened, statistics_move};
use crate::problem::{Defend as Problem, Prepared, Problem as _, State, io_of};
use crate::rng::{Purpose, Stream};
use crate::setting::Domain::Int;
use crate::setting::{Entry, Section, Settings};
use crate::train::{self, Run, Status};
use crate::zo::QueryCount;
use crate::zo::evaluate::{self, EvaluatorKind};
use crate::{Error, Result};

crate::choice! {
    /// What stands in front of the classifier.
    pub enum Defense {
        /// Nothing: the classifier alone is smoothed.
        None = "none",
        /// A denoiser (DnCNN).
        Denoiser = "denoiser",
        /// A denoiser and an encoder, whose decoder is a part of the black box (ZO-AE-DS).
        Autoencoder = "autoencoder",
    }
}

crate::choice! {
    /// What is trained through the black box, after the denoiser has learned to denoise.
    pub enum Tune {
        /// Nothing.
        None = "none",
        /// The last layer of the denoiser, whose running statistics stay.
        Last = "last",
        /// All of the denoiser, and the encoder.
        All = "all",
    }
}

crate::section! {
    /// A classifier, what stands in front of it, and how both were made.
    pub struct Config {
        /// What stands in front of the classifier.
        pub defense: Defense = Defense::Denoiser,
        /// What is trained through the black box; if nothing, the method plays no part.
        pub tune: Tune = Tune::Last,
        /// Convolutions of the denoiser.
        pub denoiser_depth: usize = 17 => Int(2, MAX_DEPTH as i64),
        /// Channels of the denoiser.
        pub denoiser_width: usize = 64 => Int(1, MAX_WIDTH as i64),
        /// Epochs of first-order training of the classifier.
        pub classifier_epochs: usize = 90 => Int(1, 1_000_000),
        /// Whether the classifier learns from noisy images, as in randomized smoothing, or from clean ones.
        pub classifier_noise: bool = false,
        /// Epochs in which the denoiser learns to denoise, by the mean squared error.
        pub denoiser_epochs: usize = 90 => Int(1, 1_000_000),
        /// Epochs in which the auto-encoder learns to give images back.
        pub autoencoder_epochs: usize = 600 => Int(1, 1_000_000),
        /// Images per step of these three.
        pub foundation_batch: usize = 256 => Int(1, 1_000_000),
        /// Training images with which the black box is asked, class-balanced; 0 for all.
        pub n_tune: usize = 0 => Int(0, 1_000_000),
    }
}

/// `task = defend`.
#[derive(Debug)]
pub struct Defend;

/// Radii that have metrics of their own.
const RADII: [(f64, &metric::Metric); 4] = [
    (0.0, &metric::CERTIFIED_0),
    (0.25, &metric::CERTIFIED_25),
    (0.5, &metric::CERTIFIED_50),
    (0.75, &metric::CERTIFIED_75),
];
/// How often an unfinished certification is written.
const SAVE_EVERY: Duration = Duration::from_secs(20);

/// The parts that the settings ask for.
fn parts(settings: &Settings) -> Result<Defended> {
    let Config { defense, denoiser_depth, denoiser_width, .. } = settings.read()?;
    let nn::Config { model, depth, width, .. } = settings.read()?;
    let data::Config { data, .. } = settings.read()?;
    Ok(Defended {
        denoiser: [denoiser_depth, denoiser_width],
        has_code: defense == Defense::Autoencoder,
        family: model,
        classifier: [depth, width],
        io: io_of(data),
    })
}

impl Task for Defend {
    fn name(&self) -> &'static str {
        "defend"
    }

    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        let own = vec![Config::ENTRIES, certify::Noise::ENTRIES, certify::Config::ENTRIES];
        Ok([images::sections(), own, method.sections()].concat())
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        images::check(settings)?;
        parts(settings)?.check()?;
        let Config { defense, tune, n_tune, .. } = settings.read()?;
        let data::Config { n_train, .. } = settings.read()?;
        if n_train > 0 && n_tune > n_train {
            let reason = format!("at most the n-train = {n_train} training images; got {n_tune}");
            return Err(Error::setting("n-tune", reason));
        }
        if defense == Defense::None && tune != Tune::None {
            let reason = "with defense = none there is nothing in front of the classifier to train; use none";
            return Err(Error::setting("tune", reason));
        }
        let nn::Goal { loss } = settings.read()?;
        if loss != nn::Criterion::CrossEntropy {
            return Err(Error::setting("loss", "a defense is trained by cross-entropy; use cross-entropy"));
        }
        let data::Config { pixels, .. } = settings.read()?;
        if pixels != data::Pixels::Standardized {
            let reason = "the classifier takes standardized pixels, what stands in front of it those from 0 to 1, \
                          whatever is set; use standardized";
            return Err(Error::setting("pixels", reason));
        }
        if tune == Tune::None {
            return Ok(());
        }
        super::refuse_inside(settings)?;
        if tune == Tune::All && settings.is_read("evaluator") {
            let evaluate::Config { evaluator } = settings.read()?;
            if evaluator == EvaluatorKind::Difference {
                return Err(statistics_move());
            }
        }
        super::check_warmup(settings, settings.read::<train::Config>()?.epochs)
    }

    fn shares_probes(&self) -> bool {
        true
    }

    fn run(&self, settings: &Settings, seed: u64, session: &Session) -> Result<Outcome> {
        let parts = parts(settings)?;
        let Config { defense, tune, n_tune, .. } = settings.read()?;
        let nn::Config { precision, .. } = settings.read()?;
        let foundation = Foundation::new(settings, seed, session, parts)?;
        let tuned = tuned(foundation.unit(), n_tune, seed)?;
        let like = Tensor::zeros(1, precision.dtype(), session.device)?;
        let alone = foundation.alone(&like)?;

        if defense == Defense::None {
            let mut row = Row::new(1);
            row.set(&metric::QUERIES, 0.0);
            row.set(&metric::WALL_S, 0.0);
            let n_params = alone.params.len();
            let (certified, profiles) = certify(settings, seed, session, &alone)?;
            certified.set(&mut row);
            return Ok(Outcome { profiles, ..Outcome::measured(n_params, vec![row]) });
        }

        let (front, whole) = (parts.front(), parts.whole());
        let start = foundation.front()?;
        let behind = foundation.behind(&like)?;
        let count = QueryCount::default();
        let resources = session.resources(&count);
        let boxes: [&dyn BlackBox; 2] = [&behind, &alone];
        let certify::Noise { sigma } = settings.read()?;
        let data::Config { augment, .. } = settings.read()?;
        let trained_part = match tune {
            Tune::Last => Front::tensor(&front, start.clone(), &parts.last_weight())?,
            Tune::All | Tune::None => Front::whole(&front, start.clone()),
        };
        let problem = Problem::new(trained_part, boxes, &tuned, precision, (sigma, seed), resources)
            .with_whole(&whole)
            .augmented(augment);
        let began = Instant::now();
        let mut trained = if tune == Tune::None {
            let state = problem.start(seed);
            let mut row = Row::new(1);
            problem.measure(&state, &mut row)?;
            row.set(&metric::QUERIES, 0.0);
            row.set(&metric::QUERIES_NON_FINITE, 0.0);
            row.set(&metric::WALL_S, began.elapsed().as_secs_f64());
            let (status, error) = (Status::Done, String::new());
            train::Trained { state, rows: vec![row], status, error, profiles: Vec::new(), mask: None }
        } else {
            let method::Config { method } = settings.read()?;
            let mut method = method.start(settings, seed, problem.layout())?;
            let config = settings.read()?;
            let (checkpoint, observer) = (session.checkpoint, session.observer);
            Run { config, most_steps: None, seed, resources, checkpoint, observer, began }
                .train(&problem, method.as_mut())?
        };
        let State { params, stats } = problem.whole_front(&trained.state);
        let mut profiles = trained.profiles;
        // What other ranks find is not kept.
        if trained.status == Status::Done && session.ranks.is_first() {
            let layers = stats.layers.iter().chain(&behind.stats.layers).cloned().collect();
            let all = [params.clone(), behind.params.clone()].concat();
            let whole = Opened::new(parts.whole(), all, RunningStats { layers }, &like)?;
            let (certified, found) = certify(settings, seed, session, &whole)?;
            if let Some(row) = trained.rows.last_mut() {
                certified.set(row);
            }
            profiles.extend(found);
        }
        Ok(Outcome {
            n_params: problem.layout().n_coords(),
            rows: trained.rows,
            status: trained.status,
            error: trained.error,
            profiles,
            mask: trained.mask,
            data_checksum: None,
            trained: Some((parts.front(), State { params, stats })),
        })
    }

    fn cost(&self, settings: &Settings, planner: &mut Planner) -> Result<Cost> {
        cost(settings, planner)
    }
}

/// What certification says in numbers.
struct Certified {
    accuracies: Vec<f64>,
    abstained: f64,
    seconds: f64,
}

impl Certified {
    fn set(&self, row: &mut Row) {
        for ((_, metric), &accuracy) in RADII.iter().zip(&self.accuracies) {
            row.set(metric, accuracy);
        }
        row.set(&metric::ABSTAINED, self.abstained);
        row.set(&metric::CERTIFICATION_S, self.seconds);
    }
}

/// Certifies test images, from where an earlier run stopped.
fn certify(
    settings: &Settings,
    seed: u64,
    session: &Session,
    classifier: &Opened,
) -> Result<(Certified, Vec<crate::profile::Profile>)> {
    let began = Instant::now();
    let certify::Noise { sigma } = settings.read()?;
    let config: certify::Config = settings.read()?;
    let test = &session.images()?.test;
    let rows = certify::rows(test.len(), config.n_certified);
    let path = session.checkpoint.map(|(path, _)| certificates_path(path));
    let hash = session.checkpoint.map_or("", |(_, hash)| hash);
    let identity = certify::identity(hash, &[&classifier.params, &classifier.stats.values()]);
    let done = match &path {
        Some(path) => certify::load(path, &identity, sigma, config.alpha)?.unwrap_or_default(),
        None => Vec::new(),
    };
    let certifier = Certifier::new(sigma, config.clone(), seed, test.image_len());
    session.observer.note(&format!("certifying {} images, {} of them done", rows.len(), done.len()));
    let [channels, height, width] = test.shape;
    let like = classifier.like();
    let classes = |images: &[f32], n: usize| -> Result<Vec<usize>> {
        let images = Tensor::from_slice(images, (n, channels, height, width), &candle_core::Device::Cpu)?;
        let images = images.to_dtype(like.dtype())?.to_device(like.device())?;
        certify::classes(&classifier.logits(&images, Split::Threads)?)
    };
    let (mut saved, mut last) = (done.len(), Instant::now());
    let mut watch = |progress: certify::Progress| {
        session.check_interrupt().or_else(|error| {
            save(path.as_deref(), &identity, progress.certificates)?;
            Err(error)
        })?;
        if progress.certificates.len() > saved && last.elapsed() > SAVE_EVERY {
            save(path.as_deref(), &identity, progress.certificates)?;
            (saved, last) = (progress.certificates.len(), Instant::now());
            session.observer.note(&format!("{saved} of {} images certified", rows.len()));
        }
        Ok(())
    };
    let found = certifier.run(test, &rows, &classes, done, &mut watch)?;
    if let Some(path) = path.filter(|path| path.exists()) {
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    let accuracies = RADII.iter().map(|(radius, _)| certify::certified_accuracy(&found, *radius)).collect();
    let abstained = certify::n_abstained(&found) as f64 / found.len() as f64;
    let seconds = began.elapsed().as_secs_f64();
    let radii = certify::radii(sigma, &config);
    let profiles = vec![certify::curve(&found, &radii), certify::profile(&found)];
    Ok((Certified { accuracies, abstained, seconds }, profiles))
}

/// Beside a checkpoint: the certificates of an unfinished certification.
fn certificates_path(checkpoint: &Path) -> PathBuf {
    checkpoint.with_extension("certificates.state")
}

fn save(path: Option<&Path>, identity: &str, certificates: &[Certificate]) -> Result<()> {
    path.map_or(Ok(()), |path| certify::save(path, identity, certificates))
}

/// Foundations, steps, measuring and certification, from the speed of the whole as one network.
fn cost(settings: &Settings, planner: &mut Planner) -> Result<Cost> {
    let Config { defense, tune, n_tune, classifier_epochs, denoiser_epochs, autoencoder_epochs, .. } =
        settings.read()?;
    let certify::Config { n0, n, n_certified, .. } = settings.read()?;
    let subject = Subject::of(settings)?;
    let parts = parts(settings)?;
    let (front, whole) = (parts.front(), parts.whole());
    let method::Config { method } = settings.read()?;
    let is_propagated = settings.is_read("evaluator")
        && method.moves_coordinates()
        && tune == Tune::Last
        && settings.read::<evaluate::Config>()?.evaluator == EvaluatorKind::Difference;
    // Other evaluators go through all that is behind, which is most of the whole.
    let propagated = is_propagated.then_some(EvaluatorKind::Difference);
    let network = if defense == Defense::None { &subject.network } else { &whole };
    let key = format!("defend {defense:?} {:?}", parts.denoiser);
    let speed = planner.speed_of(&key, settings, network, propagated)?.clone();
    let n_images = if n_certified == 0 { subject.n_measured } else { n_certified.min(subject.n_measured) };
    let copies = (n_images * (n0 + n)) as f64;
    let passes = |n: f64| Cost { queries: 0.0, flops: n * speed.full_flops, wall_s: n * speed.full_s };
    let exact = |n: f64, share: f64| Cost {
        queries: 0.0,
        flops: 3.0 * n * share * speed.full_flops,
        wall_s: n * share * speed.backprop_s,
    };
    let of_front = front.flops() as f64 / whole.flops() as f64;
    let n_train = subject.n_train as f64;
    let mut total = passes(copies) + exact(n_train * classifier_epochs as f64, 1.0 - of_front);
    if defense == Defense::None {
        return Ok(total);
    }
    total += exact(n_train * denoiser_epochs as f64, of_front);
    if parts.has_code {
        let share = parts.autoencoder().flops() as f64 / whole.flops() as f64;
        total += exact(n_train * autoencoder_epochs as f64, share);
    }
    if tune == Tune::None {
        return Ok(total + passes(subject.n_measured as f64));
    }
    let train::Config { epochs, batch_size } = settings.read()?;
    let n_tuned = if n_tune == 0 { subject.n_train } else { n_tune };
    let amount = Amount {
        steps: (n_tuned.div_ceil(batch_size) * epochs) as f64,
        items: (n_tuned * epochs) as f64,
        measured: (subject.n_measured * epochs) as f64,
    };
    let layout = match tune {
        Tune::Last => {
            let idx = front.layout().param_of(front.layout().coord(&parts.last_weight(), 0)?);
            Layout::new(vec![front.layout().specs()[idx].clone()])
        }
        Tune::All | Tune::None => (**front.layout()).clone(),
    };
    let speed: Speed = speed.of_tensors(whole.layout(), &layout);
    let n_outputs = if parts.has_code { front.n_outputs() } else { parts.io.input.iter().product() };
    let steps = Steps {
        n: amount.steps,
        items: amount.items,
        n_items: n_tuned,
        n_classes: subject.n_classes,
        n_outputs,
        layout: &layout,
        speed: &speed,
    };
    Ok(total + passes(amount.measured) + method.cost(settings, &steps)?)
}

/// The images with which the black box is asked; those that measure stay.
fn tuned(images: &Prepared, n: usize, seed: u64) -> Result<Prepared> {
    if n == 0 {
        return Ok(images.clone());
    }
    let rows = images.train.balanced_subset(n, Stream::new(seed, Purpose::Subset, 3))?;
    Ok(Prepared { train: images.train.select(&rows), ..images.clone() })
}
