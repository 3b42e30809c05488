//! Training an image classifier with any gradient source, and measuring it.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::Device;

use super::active::{self, ActiveSets, Resources};
use super::checkpoint::Checkpoint;
use super::gradient::{Asked, GradientSource, Landing};
use super::prepared::Prepared;
use crate::baseline::pattern_search::Search;
use crate::baseline::pattern_search::{PatternSearch, Rule, Stop};
use crate::data::{self, Augmentation, Batch, Dataset, Normalization};
use crate::experiment::{Method, Settings};
use crate::kernels::Split;
use crate::metric::{
    GRADIENT_NORM, LEARNING_RATE, N_ACTIVE, QUERIES, QUERIES_NON_FINITE, RADIUS, Row, TEST_ACCURACY,
    TEST_LOSS, TRAIN_ACCURACY, TRAIN_LOSS, VAL_ACCURACY, VAL_LOSS, WALL_S,
};
use crate::nn::{Context, Mode, Network, RunningStats, loss, model};
use crate::ranks::Ranks;
use crate::results::{Profile, Status};
use crate::zo::QueryCount;
use crate::zo::optimizer::{self, Optimizer};
use crate::{Error, Result};

/// Hears how training goes on.
pub trait Observer: Sync {
    /// A step is done: its number in the whole run (1-based), all steps, its loss and the accuracy
    /// over the epoch so far.
    fn step(&self, _step: usize, _n_steps: usize, _loss: f64, _accuracy: f64) {}
    /// An epoch is done and measured.
    fn epoch(&self, _row: &Row) {}
    /// Something the user should know.
    fn note(&self, _text: &str) {}
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Observer for Quiet {}

/// What training needs from outside its settings.
pub struct Session<'a> {
    /// Images.
    pub data: &'a Prepared,
    /// Where tensors live.
    pub device: &'a Device,
    /// Bytes that changes in flight may occupy (see [`crate::nn::Propagator`]); results do not depend
    /// on it.
    pub memory: usize,
    /// The processes that share the probes; results do not depend on them. The first keeps checkpoints.
    pub ranks: &'a Ranks,
    /// File for the state after each epoch, and the identity it must have.
    pub checkpoint: Option<(&'a Path, &'a str)>,
    /// Set when the user wants to stop.
    pub interrupt: &'a AtomicBool,
    /// Hears how it goes on.
    pub observer: &'a dyn Observer,
}

/// A trained model and how it came about.
#[derive(Debug)]
pub struct Model {
    /// The network.
    pub network: Network,
    /// Parameters (d) after the last finished epoch.
    pub params: Vec<f64>,
    /// Running statistics after the last finished epoch.
    pub stats: RunningStats,
    /// One entry per finished epoch.
    pub epochs: Vec<Row>,
    /// Done, or diverged.
    pub status: Status,
    /// Why it did not end well, else empty.
    pub error: String,
    /// What is known of places of one kind or another, such as parameter tensors.
    pub profiles: Vec<Profile>,
    /// The scored mask (d) that was kept for the whole trial, if there was one.
    pub mask: Option<Vec<bool>>,
}

impl Model {
    /// Epoch (1-based) with the best validation accuracy, the earliest on ties.
    #[must_use]
    pub fn best_epoch(&self) -> Option<u32> {
        let accuracy = |row: &Row| row.get(&VAL_ACCURACY);
        let measured = self.epochs.iter().filter(|row| !accuracy(row).is_nan());
        measured
            .reduce(|best, row| if accuracy(row) > accuracy(best) { row } else { best })
            .map(|row| row.epoch)
    }
}

/// Mean loss and accuracy of a network on `data` with running statistics; NaN on no images.
///
/// # Errors
/// If the device fails.
pub fn evaluate(
    network: &Network,
    params: &[f64],
    stats: &RunningStats,
    data: &Dataset,
    settings: &Settings,
    device: &Device,
) -> Result<(f64, f64)> {
    // Large enough to fill a machine's cores and small enough for their caches; a GPU takes more at a time.
    let batch_size = if device.is_cpu() { 100 } else { 1_000 };
    let dtype = settings.precision.dtype();
    let tensors = network.tensors(params, dtype, device)?;
    let context = Context { mode: Mode::Eval(stats), split: Split::Threads };
    let (mut total, mut n_correct) = (0.0, 0);
    let rows: Vec<usize> = (0..data.len()).collect();
    for rows in rows.chunks(batch_size) {
        let batch = data::make_batch(data, rows, None, &Normalization::CIFAR10, dtype, device)?;
        let logits = network.forward(&context, &tensors, &batch.images)?;
        total += loss::cross_entropy(&logits, &batch.labels)? * rows.len() as f64;
        n_correct += loss::n_correct(&logits, &batch.labels)?;
    }
    let n = data.len() as f64;
    Ok((total / n, n_correct as f64 / n))
}

impl Session<'_> {
    /// Gradients of `network` as the settings say.
    pub(super) fn source<'s>(
        &'s self,
        settings: &'s Settings,
        seed: u64,
        network: &'s Network,
        count: &'s QueryCount,
    ) -> GradientSource<'s> {
        let Self { memory, ranks, interrupt, .. } = *self;
        GradientSource { settings, seed, network, count, memory, ranks, interrupt }
    }

    /// What evaluations may use.
    pub(super) fn resources(&self) -> Resources<'_> {
        let Self { device, memory, ranks, interrupt, .. } = *self;
        Resources { device, memory, ranks, interrupt }
    }

    /// [`Error::Interrupted`] when the user wants to stop.
    pub(super) fn check_interrupt(&self) -> Result<()> {
        if self.ranks.is_stopping(self.interrupt) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Below this a search has nowhere to go: the networks' single precision no longer sees its moves.
const LEAST_RADIUS: f64 = 1e-7;

/// Searches on one batch as the settings ask: a number of moves tried, or a number of moves kept and
/// halvings of the radius. What the first evaluation gave. Running statistics move with every move kept.
fn search_batch(
    search: &mut PatternSearch,
    source: &GradientSource,
    params: &mut [f64],
    stats: &mut RunningStats,
    batch: &Batch,
    session: &Session,
) -> Result<Landing> {
    let settings = source.settings;
    let rule = match settings.search {
        Search::First => Rule::First,
        Search::Best => Rule::Best { population: population(settings, session.data.train.len()) },
    };
    let (mut steps, mut budget) = match settings.queries {
        0 => (settings.search_steps, usize::MAX),
        budget => (usize::MAX, budget),
    };
    let mut first = None;
    loop {
        session.check_interrupt()?;
        let (landing, kept) = source.explore(params, batch, &mut |evaluator| {
            while steps > 0 && budget > 0 && search.radius() > LEAST_RADIUS {
                match search.advance(rule, evaluator, &mut budget)? {
                    Stop::Kept { coord, step } => {
                        steps -= 1;
                        return Ok(Some((coord, step)));
                    }
                    Stop::Halved => steps -= 1,
                    Stop::Spent => break,
                }
            }
            Ok(None)
        })?;
        stats.update(&landing.stats);
        first.get_or_insert(landing);
        match kept {
            Some((coord, step)) => params[coord] += step,
            None => return Ok(first.expect("it was just set")),
        }
        if steps == 0 || budget == 0 {
            return Ok(first.expect("it was just set"));
        }
    }
}

/// Points that Pattern Search compares at a time on `n_train` images with `search = best`, the present one
/// included.
pub(crate) fn population(settings: &Settings, n_train: usize) -> usize {
    /// Of its authors for CIFAR-10: points times images.
    const POINTS: usize = 50_000;
    if settings.population == 0 { (POINTS / n_train.max(1)).max(2) } else { settings.population }
}

struct Trainer<'a> {
    settings: &'a Settings,
    seed: u64,
    session: &'a Session<'a>,
    network: Network,
    count: QueryCount,
    state: Checkpoint,
    pruned: Option<Vec<bool>>,
    steps_per_epoch: usize,
    /// Seconds spent on scores before the first epoch.
    setup_s: f64,
}

/// Trains as `settings` say, from a checkpoint if the session has one. A loss that becomes NaN or
/// infinite ends training with [`Status::Diverged`] and what was measured until then.
///
/// # Errors
/// [`Error::Interrupted`] when the user stops it (the checkpoint holds the last finished epoch),
/// or whatever else goes wrong.
pub fn train(settings: &Settings, seed: u64, session: &Session) -> Result<Model> {
    let mut trainer = Trainer::new(settings, seed, session)?;
    let mut outcome = (Status::Done, String::new());
    for epoch in trainer.state.epochs.len() + 1..=settings.epochs {
        if trainer.is_fitted()? {
            break;
        }
        let before = (trainer.state.params.clone(), trainer.state.stats.clone());
        match trainer.epoch(epoch) {
            Ok(()) => {}
            Err(error @ Error::Diverged { .. }) => {
                // What the last finished epoch left, not what broke.
                (trainer.state.params, trainer.state.stats) = before;
                outcome = (Status::Diverged, error.to_string());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let (status, error) = outcome;
    let (profiles, mask) =
        (trainer.tensors().into_iter().collect(), trainer.state.active.mask(&trainer.network));
    let Checkpoint { params, stats, epochs, .. } = trainer.state;
    Ok(Model { network: trainer.network, params, stats, epochs, status, error, profiles, mask })
}

impl<'a> Trainer<'a> {
    fn new(settings: &'a Settings, seed: u64, session: &'a Session<'a>) -> Result<Self> {
        let started = Instant::now();
        let network = model::from_settings(settings)?;
        let params = network.layout().initial(settings.init, seed);
        let fresh = Checkpoint {
            optimizer: Optimizer::new(
                settings.optimizer,
                settings.momentum,
                settings.weight_decay,
                params.len(),
            ),
            stats: network.initial_stats(),
            active: ActiveSets::All,
            epochs: Vec::new(),
            stale: vec![0.0; if settings.method == Method::Cocd { params.len() } else { 0 }],
            search: (settings.method == Method::PatternSearch)
                .then(|| PatternSearch::new(params.len(), settings.radius, seed)),
            params,
        };
        let (mut state, resumed) = match session.checkpoint {
            Some((path, hash)) => Checkpoint::load(path, hash, fresh)?,
            None => (fresh, false),
        };
        let count = match state.epochs.last() {
            Some(last) => {
                let count = |metric| last.get_count(metric).unwrap_or(0);
                QueryCount::resumed(count(&QUERIES), count(&QUERIES_NON_FINITE))
            }
            None => QueryCount::default(),
        };
        if resumed {
            session.observer.note(&format!(
                "going on after epoch {} of {}",
                state.epochs.len(),
                settings.epochs
            ));
        } else {
            let train = &session.data.train;
            state.active = ActiveSets::at_initialization(
                settings,
                seed,
                &network,
                train,
                &state.params,
                &count,
                session.resources(),
            )?;
        }
        let pruned = state.active.pruned(settings, &network);
        if let Some(pruned) = &pruned {
            let weights = state.params.iter_mut().zip(pruned);
            weights.filter(|(_, pruned)| **pruned).for_each(|(weight, _)| *weight = 0.0);
        }
        let steps_per_epoch = session.data.train.len().div_ceil(settings.batch_size);
        Ok(Self {
            settings,
            seed,
            session,
            network,
            count,
            state,
            pruned,
            steps_per_epoch,
            setup_s: started.elapsed().as_secs_f64(),
        })
    }

    /// Whether training may end before its last epoch: all training images are classified rightly.
    fn is_fitted(&self) -> Result<bool> {
        let (settings, session) = (self.settings, self.session);
        if !settings.stop_when_fitted || self.state.epochs.is_empty() {
            return Ok(false);
        }
        let Checkpoint { params, stats, .. } = &self.state;
        let train = &session.data.train;
        let (_, accuracy) = evaluate(&self.network, params, stats, train, settings, session.device)?;
        Ok(accuracy >= 1.0)
    }

    /// How much of every tensor is active at the end; nothing if all of it always is.
    fn tensors(&self) -> Option<Profile> {
        if self.state.active == ActiveSets::All {
            return None;
        }
        let last = self.state.epochs.len().max(1);
        Some(active::tensors(
            &self.network,
            &self.state.active.in_epoch(last, self.settings, self.seed, &self.network),
        ))
    }

    fn epoch(&mut self, epoch: usize) -> Result<()> {
        let started = Instant::now();
        let (settings, session) = (self.settings, self.session);
        let (train, params) = (&session.data.train, &self.state.params);
        self.state.active.refresh(
            epoch,
            settings,
            self.seed,
            &self.network,
            train,
            params,
            &self.count,
            session.resources(),
        )?;
        let active = self.state.active.in_epoch(epoch, settings, self.seed, &self.network);
        let draw = self.state.active.draw(epoch, settings);
        let source = session.source(settings, self.seed, &self.network, &self.count);
        let order = data::epoch_order(session.data.train.len(), self.seed, epoch as u32);
        let augmentation = settings.augment.then_some(Augmentation { seed: self.seed, epoch: epoch as u32 });
        let n_steps = settings.epochs * self.steps_per_epoch;
        let (mut total, mut n_correct, mut n_seen) = (0.0, 0, 0);
        let (mut rate, mut norm) = (f64::NAN, f64::NAN);
        for (offset, rows) in order.chunks(settings.batch_size).enumerate() {
            session.check_interrupt()?;
            let step = (epoch - 1) * self.steps_per_epoch + offset;
            let batch = data::make_batch(
                &session.data.train,
                rows,
                augmentation.as_ref(),
                &Normalization::CIFAR10,
                settings.precision.dtype(),
                session.device,
            )?;
            let at = |error| match error {
                Error::Diverged { loss, .. } => {
                    Error::Diverged { loss, at: format!("epoch {epoch}, step {}", step + 1) }
                }
                other => other,
            };
            let before = if let Some(search) = &mut self.state.search {
                search_batch(search, &source, &mut self.state.params, &mut self.state.stats, &batch, session)
                    .map_err(at)?
            } else {
                let asked = Asked { step: step as u32, active: &active, draw, stale: &self.state.stale };
                let gradient = source.gradient(&self.state.params, &batch, &asked).map_err(at)?;
                norm = gradient.values.iter().map(|g| g * g).sum::<f64>().sqrt();
                if !norm.is_finite() {
                    let at =
                        format!("epoch {epoch}, step {}, where the norm of the gradient is {norm}", step + 1);
                    return Err(Error::Diverged { loss: gradient.at.loss, at });
                }
                if settings.method == Method::Cocd {
                    self.state.stale.clone_from(&gradient.values);
                }
                self.state.stats.update(&gradient.at.stats);
                let (n_warmup, peak) =
                    (settings.warmup_epochs * self.steps_per_epoch, settings.learning_rate);
                rate = optimizer::learning_rate(settings.schedule, peak, step, n_warmup, n_steps);
                let pruned = self.pruned.as_deref();
                self.state.optimizer.step(&mut self.state.params, &gradient.values, rate, pruned);
                gradient.at
            };
            total += before.loss * rows.len() as f64;
            n_correct += loss::n_correct(&before.logits, &batch.labels)?;
            n_seen += rows.len();
            session.observer.step(step + 1, n_steps, before.loss, n_correct as f64 / n_seen as f64);
        }
        let measure = |data: &Dataset| {
            let (params, stats) = (&self.state.params, &self.state.stats);
            let measured = evaluate(&self.network, params, stats, data, settings, session.device)?;
            // The last step of an epoch can break the parameters too; no training loss would show it.
            if !data.is_empty() && !measured.0.is_finite() {
                let at = format!("the end of epoch {epoch}");
                return Err(Error::Diverged { loss: measured.0, at });
            }
            Ok(measured)
        };
        let (val_loss, val_accuracy) = measure(&session.data.val)?;
        let (test_loss, test_accuracy) = measure(&session.data.test)?;
        let before = self.state.epochs.last().map_or(self.setup_s, |row| row.get(&WALL_S));
        let mut row = Row::new(epoch as u32);
        row.set(&TRAIN_LOSS, total / n_seen as f64);
        row.set(&TRAIN_ACCURACY, n_correct as f64 / n_seen as f64);
        row.set(&VAL_LOSS, val_loss);
        row.set(&VAL_ACCURACY, val_accuracy);
        row.set(&TEST_LOSS, test_loss);
        row.set(&TEST_ACCURACY, test_accuracy);
        row.set(&LEARNING_RATE, rate);
        row.set_count(&N_ACTIVE, active.len() as u64);
        row.set_count(&QUERIES, self.count.queries());
        row.set_count(&QUERIES_NON_FINITE, self.count.non_finite());
        row.set(&GRADIENT_NORM, norm);
        row.set(&WALL_S, before + started.elapsed().as_secs_f64());
        if let Some(search) = &self.state.search {
            row.set(&RADIUS, search.radius());
        }
        self.state.epochs.push(row);
        if let Some((path, hash)) = session.checkpoint.filter(|_| session.ranks.is_first()) {
            self.state.save(path, hash, settings.epochs)?;
        }
        session.observer.epoch(&row);
        Ok(())
    }
}
