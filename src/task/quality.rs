//! How good an estimate of the gradient is: its angle to back-propagation and its error.

use std::time::Instant;

use super::active::{self, ActiveSets};
use super::classify::{Model, Quiet, Session, train};
use super::gradient::Asked;
use crate::data::{self, Augmentation, Batch};
use crate::experiment::{Method, Settings, Task};
use crate::nn::backprop;
use crate::nn::{Network, model};
use crate::results::{EpochRecord, Measures, Status};
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
    let mut epochs: Vec<EpochRecord> = Vec::new();
    for epoch in 1..=settings.epochs {
        session.check_interrupt()?;
        let coords = active.in_epoch(epoch, settings, seed, &network);
        let batch = batch(settings, seed, session, epoch)?;
        let draw = active.draw(epoch, settings);
        let asked = Asked { step: (epoch - 1) as u32, active: &coords, draw, stale: &[] };
        let found = source.gradient(&params, &batch, &asked)?;
        let exact = exact(&network, &params, &batch)?;
        let all = closeness(&coords, &found.values, &exact);
        for (param_idx, sum) in sums.iter_mut().enumerate() {
            let range = network.layout().range(param_idx);
            let here = closeness(active::within(&coords, &range), &found.values, &exact);
            *sum = (sum.0 + here.cosine, sum.1 + here.relative_error);
        }
        let n = batch.labels.len() as f64;
        let record = EpochRecord {
            train_loss: found.at.loss,
            train_accuracy: crate::nn::loss::n_correct(&found.at.logits, &batch.labels)? as f64 / n,
            n_active: coords.len() as u64,
            queries: count.queries(),
            queries_non_finite: count.non_finite(),
            gradient_norm: norm(found.values.iter().copied()),
            wall_s: started.elapsed().as_secs_f64(),
            measures: Measures {
                gradient_share: norm(coords.iter().map(|&coord| exact[coord])) / norm(exact.iter().copied()),
                ..all
            },
            ..EpochRecord::blank(epoch as u32)
        };
        epochs.push(record);
        session.observer.epoch(&record);
    }
    let n = settings.epochs as f64;
    let mut tensors = active::tensors(&network, &active.in_epoch(settings.epochs, settings, seed, &network));
    for (tensor, sum) in tensors.iter_mut().zip(sums) {
        (tensor.cosine, tensor.relative_error) = (sum.0 / n, sum.1 / n);
    }
    let (status, error) = (Status::Done, String::new());
    Ok(Model { network, params, stats, epochs, status, error, tensors, mask: None })
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
fn closeness(coords: &[usize], found: &[f64], exact: &[f64]) -> Measures {
    let of = |values: &[f64]| norm(coords.iter().map(|&coord| values[coord]));
    let product: f64 = coords.iter().map(|&coord| found[coord] * exact[coord]).sum();
    let error = norm(coords.iter().map(|&coord| found[coord] - exact[coord]));
    Measures {
        cosine: product / (of(found) * of(exact)),
        relative_error: error / of(exact),
        ..Measures::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the definitions, by hand: (3, 4) against (4, 3), and a third number that is left out.
    #[test]
    fn closeness_by_hand() {
        let found = closeness(&[0, 2], &[3.0, 100.0, 4.0], &[4.0, -7.0, 3.0]);
        assert!((found.cosine - 24.0 / 25.0).abs() < 1e-15);
        assert!((found.relative_error - 2f64.sqrt() / 5.0).abs() < 1e-15);
    }
}
