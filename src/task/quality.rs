//! How good an estimate of the gradient is: its angle to back-propagation and its error.

use std::time::Instant;

use super::active::{self, ActiveSets};
use super::classify::{Model, Quiet, Session, train};
use super::gradient::Asked;
use crate::data::{self, Augmentation, Batch, Normalization};
use crate::experiment::{Method, Settings, Task};
use crate::metric::{
    COSINE, GRADIENT_NORM, GRADIENT_SHARE, N_ACTIVE, QUERIES, QUERIES_NON_FINITE, RELATIVE_ERROR, Row,
    TRAIN_ACCURACY, TRAIN_LOSS, WALL_S,
};
use crate::nn::backprop;
use crate::nn::{Network, model};
use crate::results::Status;
use crate::zo::QueryCount;
use crate::{Error, Result};

/// Makes one estimate per epoch, each on another batch of training images, and compares it with
/// back-propagation in f64 on that batch. The parameters are the initial ones, or those after
/// `pretrain-epochs` epochs of first-order training, and do not move.
///
/// # Errors
/// [`Error::Interrupted`] when the user stops it, [`Error::Diverged`] when first-order training does, or
/// whatever else goes wrong.
pub(super) fn measure(settings: &Settings, seed: u64, session: &Session) -> Result<Model> {
    let started = Instant::now();
    let (network, params, stats) = at(settings, seed, session)?;
    let count = QueryCount::default();
    let train = &session.data.train;
    let active =
        ActiveSets::at_initialization(settings, seed, &network, train, &params, &count, session.resources())?;
    let source = session.source(settings, seed, &network, &count);
    let mut sums = vec![(0.0, 0.0); network.layout().specs().len()];
    let mut epochs: Vec<Row> = Vec::new();
    for epoch in 1..=settings.epochs {
        session.check_interrupt()?;
        let coords = active.in_epoch(epoch, settings, seed, &network);
        let batch = batch(settings, seed, session, epoch)?;
        let draw = active.draw(epoch, settings);
        let asked = Asked { step: (epoch - 1) as u32, active: &coords, draw, stale: &[] };
        let found = source.gradient(&params, &batch, &asked)?;
        let exact = exact(&network, &params, &batch)?;
        let (cosine, relative_error) = closeness(&coords, &found.values, &exact);
        for (param_idx, sum) in sums.iter_mut().enumerate() {
            let range = network.layout().range(param_idx);
            let here = closeness(active::within(&coords, &range), &found.values, &exact);
            *sum = (sum.0 + here.0, sum.1 + here.1);
        }
        let n = batch.labels.len() as f64;
        let share = norm(coords.iter().map(|&coord| exact[coord])) / norm(exact.iter().copied());
        let mut row = Row::new(epoch as u32);
        row.set(&TRAIN_LOSS, found.at.loss);
        row.set(&TRAIN_ACCURACY, crate::nn::loss::n_correct(&found.at.logits, &batch.labels)? as f64 / n);
        row.set_count(&N_ACTIVE, coords.len() as u64);
        row.set_count(&QUERIES, count.queries());
        row.set_count(&QUERIES_NON_FINITE, count.non_finite());
        row.set(&GRADIENT_NORM, norm(found.values.iter().copied()));
        row.set(&WALL_S, started.elapsed().as_secs_f64());
        row.set(&COSINE, cosine);
        row.set(&RELATIVE_ERROR, relative_error);
        row.set(&GRADIENT_SHARE, share);
        epochs.push(row);
        session.observer.epoch(&row);
    }
    let n = settings.epochs as f64;
    let tensors = active::tensors(&network, &active.in_epoch(settings.epochs, settings, seed, &network))
        .with(COSINE.column, sums.iter().map(|sum| sum.0 / n).collect())
        .with(RELATIVE_ERROR.column, sums.iter().map(|sum| sum.1 / n).collect());
    let (status, error) = (Status::Done, String::new());
    Ok(Model { network, params, stats, epochs, status, error, profiles: vec![tensors], mask: None })
}

/// The network where estimates are compared.
fn at(
    settings: &Settings,
    seed: u64,
    session: &Session,
) -> Result<(Network, Vec<f64>, crate::nn::RunningStats)> {
    if settings.pretrain_epochs == 0 {
        let network = model::from_settings(settings)?;
        let params = network.layout().initial(settings.init, seed);
        let stats = network.initial_stats();
        return Ok((network, params, stats));
    }
    let before = Settings {
        task: Task::Train,
        method: Method::Fo,
        sparsity: 0.0,
        queries: 0,
        epochs: settings.pretrain_epochs,
        warmup_epochs: settings.warmup_epochs.min(settings.pretrain_epochs),
        pretrain_epochs: 0,
        ..settings.clone()
    };
    before.check()?;
    let quiet = Session { checkpoint: None, observer: &Quiet, ..*session };
    let model = train(&before, seed, &quiet)?;
    match model.status {
        Status::Done => Ok((model.network, model.params, model.stats)),
        _ => Err(Error::Objective(format!("first-order training before the estimates: {}", model.error))),
    }
}

/// The first batch of an epoch.
pub(super) fn batch(settings: &Settings, seed: u64, session: &Session, epoch: usize) -> Result<Batch> {
    let train = &session.data.train;
    let order = data::epoch_order(train.len(), seed, epoch as u32);
    let augmentation = settings.augment.then_some(Augmentation { seed, epoch: epoch as u32 });
    data::make_batch(
        train,
        &order[..settings.batch_size.min(order.len())],
        augmentation.as_ref(),
        &Normalization::CIFAR10,
        settings.precision.dtype(),
        session.device,
    )
}

/// Back-propagation in f64.
fn exact(network: &Network, params: &[f64], batch: &Batch) -> Result<Vec<f64>> {
    let images = batch.images.to_dtype(candle_core::DType::F64)?;
    Ok(backprop::gradient(network, params, &images, &batch.labels, 1.0)?.gradient)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Cosine and relative error on some coordinates; NaN where a norm is zero.
fn closeness(coords: &[usize], found: &[f64], exact: &[f64]) -> (f64, f64) {
    let of = |values: &[f64]| norm(coords.iter().map(|&coord| values[coord]));
    let product: f64 = coords.iter().map(|&coord| found[coord] * exact[coord]).sum();
    let error = norm(coords.iter().map(|&coord| found[coord] - exact[coord]));
    (product / (of(found) * of(exact)), error / of(exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the definitions, by hand: (3, 4) against (4, 3), and a third number that is left out.
    #[test]
    fn closeness_by_hand() {
        let (cosine, relative_error) = closeness(&[0, 2], &[3.0, 100.0, 4.0], &[4.0, -7.0, 3.0]);
        assert!((cosine - 24.0 / 25.0).abs() < 1e-15);
        assert!((relative_error - 2f64.sqrt() / 5.0).abs() < 1e-15);
    }
}
