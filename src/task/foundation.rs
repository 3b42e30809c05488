//! What trials of a defense begin with: a classifier, a denoiser that has learned to denoise, an auto-encoder. Each is made
//! once per seed and kept as a finished checkpoint in the folder `networks` beside the trials' results, under a name that
//! depends on everything that it depends on; a trial that finds it there goes on from it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use candle_core::Tensor;

use super::defend::Config;
use super::{Session, images};
use crate::certify;
use crate::data;
use crate::hex::hex;
use crate::kernels::Isa;
use crate::lock::Lock;
use crate::method::Active;
use crate::method::descent::Descent;
use crate::method::first_order::Exact;
use crate::metric;
use crate::nn;
use crate::nn::model::Defended;
use crate::problem::defend::Opened;
use crate::problem::{Classify, Prepared, Problem, Reconstruct, State};
use crate::setting::Settings;
use crate::train::{self, Observer, Run, Status};
use crate::zo::QueryCount;
use crate::zo::optimizer::{self, Rule, Schedule};
use crate::{Error, Result};
use sha2::{Digest, Sha256};

/// The networks that a defense begins with.
pub(super) struct Foundation<'a> {
    maker: Maker<'a>,
    classifier: State,
    /// Parameters of encoder and decoder, if images pass through a code.
    autoencoder: [Vec<f64>; 2],
}

/// Trains them.
struct Maker<'a> {
    session: &'a Session<'a>,
    seed: u64,
    parts: Defended,
    config: Config,
    nn: nn::Config,
    sigma: f64,
    augment: bool,
    images: &'a Prepared,
    /// The same with pixels from 0 to 1.
    unit: Prepared,
}

/// Says what is being made.
struct Making<'a> {
    what: &'static str,
    observer: &'a dyn Observer,
}

impl Observer for Making<'_> {
    fn note(&self, text: &str) {
        self.observer.note(&format!("{}: {text}", self.what));
    }

    fn epoch(&self, row: &metric::Row) {
        let (loss, accuracy) = (row.get(&metric::TEST_LOSS), row.get(&metric::TEST_ACCURACY));
        let accuracy = if accuracy.is_nan() {
            String::new()
        } else {
            format!(", test accuracy {:.1} %", 100.0 * accuracy)
        };
        self.observer.note(&format!("{}: epoch {}, test loss {loss:.4}{accuracy}", self.what, row.epoch));
    }
}

/// By back-propagation.
fn recipe(optimizer: &'static dyn Rule, learning_rate: f64, weight_decay: f64) -> optimizer::Config {
    let (warmup_epochs, schedule) = (0, Schedule::Constant);
    optimizer::Config {
        optimizer,
        learning_rate,
        weight_decay,
        warmup_epochs,
        schedule,
        ..optimizer::Config::default()
    }
}

/// The same, times 0.1 after each third of so many epochs.
fn in_thirds(epochs: usize, recipe: optimizer::Config) -> optimizer::Config {
    optimizer::Config { schedule: Schedule::Step, decay_epochs: epochs.div_ceil(3), ..recipe }
}

impl<'a> Foundation<'a> {
    /// Makes or takes up the classifier and, if images pass through a code, the auto-encoder.
    ///
    /// # Errors
    /// As training.
    pub(super) fn new(
        settings: &Settings,
        seed: u64,
        session: &'a Session<'a>,
        parts: Defended,
    ) -> Result<Self> {
        let images = session.images()?;
        let (config, nn) = (settings.read()?, settings.read()?);
        let (certify::Noise { sigma }, data::Config { augment, .. }) = (settings.read()?, settings.read()?);
        let unit = images.clone().with_unit_pixels();
        let maker = Maker { session, seed, parts, config, nn, sigma, augment, images, unit };
        let classifier = maker.classifier(&images::network(settings, images)?)?;
        let autoencoder = if parts.has_code { maker.autoencoder()? } else { Default::default() };
        Ok(Self { maker, classifier, autoencoder })
    }

    /// The images with pixels from 0 to 1.
    pub(super) fn unit(&self) -> &Prepared {
        &self.maker.unit
    }

    /// The classifier for images in [0, 1].
    pub(super) fn alone(&self, like: &Tensor) -> Result<Opened> {
        self.opened(&Defended { has_code: false, ..self.maker.parts }, like)
    }

    /// What stands behind the front.
    pub(super) fn behind(&self, like: &Tensor) -> Result<Opened> {
        self.opened(&self.maker.parts, like)
    }

    fn opened(&self, parts: &Defended, like: &Tensor) -> Result<Opened> {
        let State { params, stats } = &self.classifier;
        let data::Normalization { mean, std } = &self.maker.images.train.normalization;
        let (params, stats) = parts.state_behind(&self.autoencoder[1], (params, stats), [mean, std]);
        Opened::new(parts.behind(), params, stats, like)
    }

    /// Where the front begins: a denoiser that has learned to denoise, and the encoder.
    pub(super) fn front(&self) -> Result<State> {
        let State { mut params, stats } = self.maker.denoiser()?;
        params.extend(&self.autoencoder[0]);
        Ok(State { params, stats })
    }
}

impl Maker<'_> {
    fn classifier(&self, network: &nn::Network) -> Result<State> {
        let noise = if self.config.classifier_noise { self.sigma } else { 0.0 };
        let count = QueryCount::default();
        let resources = self.session.resources(&count);
        let problem = Classify::new(network, self.images, &self.nn, self.seed, resources);
        let problem = problem.augmented(self.augment).noisy(noise);
        let epochs = self.config.classifier_epochs;
        let recipe = in_thirds(epochs, recipe(&optimizer::Sgd, 0.1, 5e-4));
        self.trained("classifier", &problem, recipe, epochs, &[noise])
    }

    fn denoiser(&self) -> Result<State> {
        let [depth, width] = self.parts.denoiser;
        let network = nn::model::dncnn(depth, width, self.parts.io.input)?;
        let count = QueryCount::default();
        let problem = self.reconstruct(&network, self.sigma, &count);
        let epochs = self.config.denoiser_epochs;
        let recipe = in_thirds(epochs, recipe(&optimizer::Adam, 1e-3, 1e-4));
        self.trained("denoiser", &problem, recipe, epochs, &[self.sigma])
    }

    /// Parameters of encoder and decoder.
    fn autoencoder(&self) -> Result<[Vec<f64>; 2]> {
        let network = self.parts.autoencoder();
        let count = QueryCount::default();
        let problem = self.reconstruct(&network, 0.0, &count);
        let (epochs, recipe) = (self.config.autoencoder_epochs, recipe(&optimizer::Adam, 1e-3, 1e-5));
        let State { params, .. } = self.trained("auto-encoder", &problem, recipe, epochs, &[])?;
        let first = network.layout().coord("decoder.0.weight", 0)?;
        Ok([params[..first].to_vec(), params[first..].to_vec()])
    }

    fn reconstruct<'n>(
        &'n self,
        network: &'n nn::Network,
        sigma: f64,
        count: &'n QueryCount,
    ) -> Reconstruct<'n> {
        let resources = self.session.resources(count);
        Reconstruct::new(network, &self.unit, (sigma, self.seed), self.augment, self.nn.precision, resources)
    }

    /// Trains by back-propagation, or takes up what was trained before. `numbers` are what the result depends on beside
    /// seed, images, recipe, network, precision, kernels and the program's commit.
    fn trained(
        &self,
        what: &'static str,
        problem: &dyn Problem,
        recipe: optimizer::Config,
        epochs: usize,
        numbers: &[f64],
    ) -> Result<State> {
        let batch_size = self.config.foundation_batch;
        let mut hasher = Sha256::new();
        let nn::Config { precision, init, .. } = &self.nn;
        let text = format!(
            "{what} {} {} {batch_size} {epochs} {recipe:?} {numbers:?} {precision:?} {init:?} {:?} {} {} {}",
            self.seed,
            self.augment,
            problem.layout().specs(),
            self.images.checksum,
            Isa::current().name(),
            env!("DEEPZERO_COMMIT"),
        );
        hasher.update(text);
        let hash = hex(&hasher.finalize())[..16].to_owned();
        let path = self.folder()?.map(|folder| folder.join(format!("{what}-{hash}.state")));
        let observer = Making { what, observer: self.session.observer };
        let lock = path.as_ref().map(|path| self.alone_at(&path.with_extension("lock"), &observer));
        let _lock = lock.transpose()?;
        let count = QueryCount::default();
        let mut method = Descent::new(recipe, Box::new(Exact), Active::all(), problem.layout());
        let run = Run {
            config: train::Config { epochs, batch_size },
            most_steps: None,
            seed: self.seed,
            resources: self.session.resources(&count),
            checkpoint: path.as_deref().map(|path| (path, hash.as_str())),
            observer: &observer,
            began: Instant::now(),
        };
        let trained = run.train(problem, &mut method)?;
        match trained.status {
            Status::Done => Ok(trained.state),
            _ => Err(Error::Objective(format!("{what}: {}", trained.error))),
        }
    }

    /// Waits while another trial makes the same.
    fn alone_at(&self, path: &Path, observer: &dyn Observer) -> Result<Lock> {
        if let Some(lock) = Lock::acquire(path)? {
            return Ok(lock);
        }
        observer.note("waiting for another trial, which makes it");
        Lock::wait(path, || match self.session.interrupt.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        })
    }

    /// Where finished checkpoints are kept.
    fn folder(&self) -> Result<Option<PathBuf>> {
        let Some((checkpoint, _)) = self.session.checkpoint else { return Ok(None) };
        let folder = checkpoint.with_file_name("networks");
        std::fs::create_dir_all(&folder).map_err(Error::io("make", &folder))?;
        Ok(Some(folder))
    }
}
