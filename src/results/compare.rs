//! Whether two records hold the same numbers.

use super::record::{TensorRecord, TrialRecord};
use crate::metric::{Metric, Row};

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

fn same_epoch(a: &Row, b: &Row) -> std::result::Result<(), String> {
    same("epoch", &a.epoch, &b.epoch)?;
    for metric in Metric::of_columns().filter(|metric| !metric.is_time) {
        let (a_value, b_value) = (a.get(metric), b.get(metric));
        let equal = a_value.to_bits() == b_value.to_bits() || (a_value.is_nan() && b_value.is_nan());
        if !equal {
            return Err(format!("{} of epoch {}: {a_value:?} against {b_value:?}", metric.column, a.epoch));
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(name: &str, a: &T, b: &T) -> std::result::Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{name}: {a:?} against {b:?}")) }
}
