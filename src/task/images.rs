//! What tasks on images and networks share: sections, networks, plans.

use crate::cost::{Cost, Planner, Steps, Subject};
use crate::data::Source;
use crate::method;
use crate::nn::{self, Network, model};
use crate::problem::{Classify, Prepared, Resources, io_of};
use crate::setting::{Entry, Section, Settings};
use crate::zo::evaluate::{self, EvaluatorKind};
use crate::zo::sparsity;
use crate::{Error, Result, data, train};

/// The sections of images, of a network, and of passes over the images.
pub(super) fn sections() -> Vec<&'static [Entry]> {
    vec![data::Config::ENTRIES, nn::Config::ENTRIES, nn::Goal::ENTRIES, train::Config::ENTRIES]
}

/// Images for tasks that only time what is done with them.
pub(super) fn procedural() -> Result<&'static Source> {
    data::source("synthetic")
}

/// The settings' network for these images.
pub(super) fn network(settings: &Settings, images: &Prepared) -> Result<Network> {
    model::of(settings, &images.io())
}

/// The settings' network on these images as a problem.
pub(super) fn problem<'a>(
    settings: &Settings,
    seed: u64,
    network: &'a Network,
    images: &'a Prepared,
    resources: Resources<'a>,
) -> Result<Classify<'a>> {
    let (data::Config { augment, .. }, nn::Goal { loss }) = (settings.read()?, settings.read()?);
    let problem = Classify::new(network, images, &settings.read()?, seed, resources);
    Ok(problem.with_loss(loss.loss()).augmented(augment))
}

/// Checks that there is such a network for these images.
///
/// # Errors
/// [`Error::Setting`] naming the setting to change.
pub(super) fn check_network(settings: &Settings, data: &Source) -> Result<()> {
    let nn::Config { model, depth, width, .. } = settings.read()?;
    model.check(depth, width, &io_of(data))
}

/// The same, that there are as many images as scores look at, and what the method checks.
///
/// # Errors
/// [`Error::Setting`] naming the setting to change.
pub(super) fn check(settings: &Settings) -> Result<()> {
    let images: data::Config = settings.read()?;
    images.check()?;
    let data::Config { data, n_train, .. } = images;
    check_network(settings, data)?;
    if n_train > 0 {
        check_scored(settings, data, n_train)?;
    }
    check_method(settings)
}

/// Checks that among `n_train` images, class by class in turn, there are as many of every class as scores look at.
///
/// # Errors
/// [`Error::Setting`] naming the setting to change.
pub(super) fn check_scored(settings: &Settings, data: &Source, n_train: usize) -> Result<()> {
    if !settings.is_read("grasp-images-per-class") {
        return Ok(());
    }
    let n_classes = data.n_classes;
    match settings.read::<sparsity::Config>()?.scored_per_class() {
        Some(per_class) if per_class.saturating_mul(n_classes) > n_train => {
            let reason = format!(
                "{per_class} of each of {n_classes} classes are more than the {n_train} training images; at most {}",
                n_train / n_classes
            );
            Err(Error::setting("grasp-images-per-class", reason))
        }
        _ => Ok(()),
    }
}

/// What the method checks.
///
/// # Errors
/// [`Error::Setting`] naming the setting to change.
pub(super) fn check_method(settings: &Settings) -> Result<()> {
    let method::Config { method } = settings.read()?;
    method.check(settings)
}

/// How many steps, items of all steps, and items that are only measured.
pub(super) struct Amount {
    pub(super) steps: f64,
    pub(super) items: f64,
    pub(super) measured: f64,
}

/// `n` steps of a batch each, and nothing that is only measured.
pub(super) fn batches(settings: &Settings, n: usize) -> Result<Amount> {
    let train::Config { batch_size, .. } = settings.read()?;
    Ok(Amount { steps: n as f64, items: (n * batch_size) as f64, measured: 0.0 })
}

/// What the settings' method costs on an amount of images, with the evaluator of the settings or `evaluator`.
pub(super) fn cost(
    settings: &Settings,
    planner: &mut Planner,
    amount: impl FnOnce(&Subject) -> Result<Amount>,
    evaluator: Option<EvaluatorKind>,
) -> Result<Cost> {
    cost_of(&Subject::of(settings)?, settings, planner, amount, evaluator)
}

/// The same on this network and these images.
pub(super) fn cost_of(
    subject: &Subject,
    settings: &Settings,
    planner: &mut Planner,
    amount: impl FnOnce(&Subject) -> Result<Amount>,
    evaluator: Option<EvaluatorKind>,
) -> Result<Cost> {
    let method::Config { method } = settings.read()?;
    let evaluator = match evaluator {
        Some(given) => Some(given),
        None if settings.is_read("evaluator") => Some(settings.read::<evaluate::Config>()?.evaluator),
        None => None,
    };
    let probes = evaluator.filter(|_| method.moves_coordinates());
    let speed = planner.speed(settings, &subject.network, probes)?.clone();
    let amount = amount(subject)?;
    let steps = Steps {
        n: amount.steps,
        items: amount.items,
        n_items: subject.n_train,
        n_classes: subject.n_classes,
        n_outputs: subject.network.n_outputs(),
        layout: subject.network.layout(),
        speed: &speed,
    };
    let measuring = Cost {
        queries: 0.0,
        flops: amount.measured * speed.full_flops,
        wall_s: amount.measured * speed.full_s,
    };
    Ok(measuring + method.cost(settings, &steps)?)
}
