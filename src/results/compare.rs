//! Whether two records hold the same numbers.

use super::record::{EpochRecord, Measures, TensorRecord, TrialRecord};

/// Compares two records bit for bit, leaving out what may differ between two runs of the same
/// trial: time columns (`wall_s`, `finished_at`, seconds of stages) and `threads`. NaN equals NaN.
///
/// # Errors
/// The first difference, as `name: a against b`.
pub fn compare_ignoring_time(a: &TrialRecord, b: &TrialRecord) -> std::result::Result<(), String> {
    same("trial", &a.trial, &b.trial)?;
    same("n_params", &a.n_params, &b.n_params)?;
    same("status", &a.status, &b.status)?;
    same("error", &a.error, &b.error)?;
    same("best_epoch", &a.best_epoch, &b.best_epoch)?;
    let (p, q) = (&a.provenance, &b.provenance);
    same("version", &p.version, &q.version)?;
    same("commit", &p.commit, &q.commit)?;
    same("crates", &p.crates, &q.crates)?;
    same("cpu", &p.cpu, &q.cpu)?;
    same("device", &p.device, &q.device)?;
    same("kernels", &p.kernels, &q.kernels)?;
    same("data_checksum", &p.data_checksum, &q.data_checksum)?;
    same("number of epochs", &a.epochs.len(), &b.epochs.len())?;
    a.epochs.iter().zip(&b.epochs).try_for_each(|(a, b)| same_epoch(a, b))?;
    same("number of tensors", &a.tensors.len(), &b.tensors.len())?;
    a.tensors.iter().zip(&b.tensors).try_for_each(|(a, b)| same_tensor(a, b))
}

fn same_tensor(a: &TensorRecord, b: &TensorRecord) -> std::result::Result<(), String> {
    same("tensor", &(&a.name, a.n, a.n_active), &(&b.name, b.n, b.n_active))?;
    let bits = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    same("cosine of a tensor", &bits(a.cosine), &bits(b.cosine))?;
    same("relative error of a tensor", &bits(a.relative_error), &bits(b.relative_error))
}

fn same_epoch(a: &EpochRecord, b: &EpochRecord) -> std::result::Result<(), String> {
    same("epoch", &a.epoch, &b.epoch)?;
    same("n_active", &a.n_active, &b.n_active)?;
    same("queries", &a.queries, &b.queries)?;
    same("queries_non_finite", &a.queries_non_finite, &b.queries_non_finite)?;
    let metrics = [
        ("train_loss", a.train_loss, b.train_loss),
        ("train_accuracy", a.train_accuracy, b.train_accuracy),
        ("val_loss", a.val_loss, b.val_loss),
        ("val_accuracy", a.val_accuracy, b.val_accuracy),
        ("test_loss", a.test_loss, b.test_loss),
        ("test_accuracy", a.test_accuracy, b.test_accuracy),
        ("learning_rate", a.learning_rate, b.learning_rate),
        ("gradient_norm", a.gradient_norm, b.gradient_norm),
    ];
    let measures = Measures::NAMES.into_iter().zip(a.measures.values()).zip(b.measures.values());
    let measures = measures.map(|((name, a), b)| (name, a, b)).filter(|(name, ..)| !Measures::is_time(name));
    for (name, a_value, b_value) in metrics.into_iter().chain(measures) {
        let equal = a_value.to_bits() == b_value.to_bits() || (a_value.is_nan() && b_value.is_nan());
        if !equal {
            return Err(format!("{name} of epoch {}: {a_value:?} against {b_value:?}", a.epoch));
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(name: &str, a: &T, b: &T) -> std::result::Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{name}: {a:?} against {b:?}")) }
}
