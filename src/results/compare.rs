//! Whether two records hold the same numbers.

use super::record::TrialRecord;
use crate::metric::{Metric, Row, is_same};
use crate::profile::Profile;

/// Compares two records bit for bit, leaving out what may differ between two runs of the same
/// trial: time columns (`wall_s`, `finished_at`, seconds of stages) and `threads`. NaN equals NaN.
///
/// # Errors
/// The first difference, as `name: a against b`.
pub fn compare_ignoring_time(a: &TrialRecord, b: &TrialRecord) -> std::result::Result<(), String> {
    same("trial", &a.trial, &b.trial)?;
    let (p, q) = (&a.provenance, &b.provenance);
    same("version", &p.version, &q.version)?;
    same("commit", &p.commit, &q.commit)?;
    same("crates", &p.crates, &q.crates)?;
    same("cpu", &p.cpu, &q.cpu)?;
    same("device", &p.device, &q.device)?;
    same("kernels", &p.kernels, &q.kernels)?;
    compare_numbers(a, b)
}

/// As [`compare_ignoring_time`], but of two records of the same trial whatever program and machine they come from.
///
/// # Errors
/// As there.
pub fn compare_numbers(a: &TrialRecord, b: &TrialRecord) -> std::result::Result<(), String> {
    same("n_params", &a.n_params, &b.n_params)?;
    same("status", &a.status, &b.status)?;
    same("error", &a.error, &b.error)?;
    same("best_epoch", &a.best_epoch, &b.best_epoch)?;
    same("data_checksum", &a.provenance.checksum(), &b.provenance.checksum())?;
    same("number of epochs", &a.epochs.len(), &b.epochs.len())?;
    a.epochs.iter().zip(&b.epochs).try_for_each(|(a, b)| same_epoch(a, b))?;
    let (a, b) = (by_kind(&a.profiles), by_kind(&b.profiles));
    let kinds = |profiles: &[&Profile]| profiles.iter().map(|p| p.kind.clone()).collect::<Vec<_>>();
    same("profiles", &kinds(&a), &kinds(&b))?;
    a.into_iter().zip(b).try_for_each(|(a, b)| same_profile(a, b))
}

/// Profiles in the order of their kinds: a trial has them as it made them, a record that was read as its folders are named.
fn by_kind(profiles: &[Profile]) -> Vec<&Profile> {
    let mut sorted: Vec<&Profile> = profiles.iter().collect();
    sorted.sort_by(|a, b| a.kind.cmp(&b.kind));
    sorted
}

fn same_profile(a: &Profile, b: &Profile) -> std::result::Result<(), String> {
    same(&a.place, &a.labels, &b.labels)?;
    same_values(&format!("x of {}", a.kind), &a.xs, &b.xs)?;
    let names = |profile: &Profile| profile.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    same(&format!("columns of {}", a.kind), &names(a), &names(b))?;
    for (a_column, b_column) in
        a.columns.iter().zip(&b.columns).filter(|(column, _)| !column.name.ends_with("_s"))
    {
        same_values(&format!("{} of {}", a_column.name, a.kind), &a_column.values, &b_column.values)?;
    }
    Ok(())
}

fn same_values(name: &str, a: &[f64], b: &[f64]) -> std::result::Result<(), String> {
    let equal = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(*a, *b));
    if equal { Ok(()) } else { Err(format!("{name}: {a:?} against {b:?}")) }
}

fn same_epoch(a: &Row, b: &Row) -> std::result::Result<(), String> {
    same("epoch", &a.epoch, &b.epoch)?;
    for metric in Metric::of_columns().filter(|metric| !metric.is_time) {
        let (a_value, b_value) = (a.get(metric), b.get(metric));
        if !is_same(a_value, b_value) {
            return Err(format!("{} of epoch {}: {a_value:?} against {b_value:?}", metric.column, a.epoch));
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(name: &str, a: &T, b: &T) -> std::result::Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{name}: {a:?} against {b:?}")) }
}
