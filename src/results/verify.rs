//! Whether a trial that was run again came to the same: bit for bit, or within a tolerance.
//!
//! On the same kernels, the same program comes to the same bits. Other kernels add in another order, and training makes a
//! difference in the last digit grow; so what is asked there is weaker, and said: whatever is counted must be the same, and
//! accuracies and losses within a [`Tolerance`], or as close as trials of other seeds lie.

use std::collections::BTreeMap;

use crate::data;
use crate::metric::{METRICS, Metric, TRAIN_ACCURACY, Unit, VAL_ACCURACY, is_same};
use crate::setting::Settings;
use crate::train::Status;

use super::compare::compare_numbers;
use super::record::TrialRecord;

/// How far numbers of the same trial may be apart on other kernels, after the last epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Of what is in percent, in points; at least [`STANDARD_ERRORS`] of those.
    pub points: f64,
    /// Of everything else, relative to the larger of both.
    pub relative: f64,
}

/// Fixed before use, about the spread that seeds have at laptop scale: a trial that is farther off is another trial.
pub const TOLERANCE: Tolerance = Tolerance { points: 5.0, relative: 0.1 };

/// Standard errors of a difference that are allowed in any case: of two accuracies, as if other images had been drawn for
/// either, and of two trials of other seeds, by the spread that the recorded ones of the series have. This came later than
/// [`TOLERANCE`]: of 30 trials at smoke scale none was more than 0.02 % of the loss off on other kernels after one epoch, and
/// two were more than 7 points off after 24, as far as the seeds are from each other.
pub const STANDARD_ERRORS: f64 = 3.0;

/// What came of running a trial again.
#[derive(Debug, Clone, PartialEq)]
pub enum Verified {
    /// Everything but times is the same, bit for bit.
    SameBits,
    /// The counts are the same, and everything else is within the tolerance; the largest differences in words.
    Close(String),
    /// Neither, and why.
    Different(String),
}

/// Compares a recorded trial with the same one run again; `all` are the records of its experiment, which tell how far seeds lie
/// apart.
#[must_use]
pub fn verify(
    recorded: &TrialRecord,
    again: &TrialRecord,
    all: &[TrialRecord],
    tolerance: Tolerance,
) -> Verified {
    let Err(first) = compare_numbers(recorded, again) else { return Verified::SameBits };
    if recorded.provenance.checksum() != again.provenance.checksum() {
        return Verified::Different("it was run on other images".to_owned());
    }
    if recorded.status != again.status || recorded.n_params != again.n_params {
        return Verified::Different(first);
    }
    if recorded.status != Status::Done {
        return Verified::Close(format!("it {:?} both times", recorded.status).to_lowercase());
    }
    let (Some(old), Some(new)) = (recorded.epochs.last(), again.epochs.last()) else {
        return Verified::Different(first);
    };
    // The farthest of each kind, in parts of what is allowed.
    let mut farthest: [Option<(f64, String)>; 2] = [None, None];
    let mut seen: Vec<&str> = Vec::new();
    for metric in METRICS.iter().filter(|metric| !metric.is_time && (metric.is_quality || metric.is_count)) {
        if seen.contains(&metric.column) {
            continue;
        }
        seen.push(metric.column);
        let (a, b) = (old.get(metric), new.get(metric));
        if a.is_nan() && b.is_nan() {
            continue;
        }
        let seeds = spread(&recorded.trial.series, all, metric);
        let (part, text) = apart(metric, a, b, tolerance, n_images(&recorded.trial.settings, metric), seeds);
        if part > 1.0 || part.is_nan() {
            return Verified::Different(text);
        }
        let kind = &mut farthest[usize::from(metric.unit == Unit::Percent)];
        if part > 0.0 && kind.as_ref().is_none_or(|(most, _)| part > *most) {
            *kind = Some((part, text));
        }
    }
    let texts: Vec<String> = farthest.into_iter().flatten().map(|(_, text)| text).collect();
    Verified::Close(if texts.is_empty() { first } else { texts.join("; ") })
}

/// How many images an accuracy is a share of; infinitely many where the trial does not say.
fn n_images(settings: &Settings, metric: &Metric) -> f64 {
    let Ok(images) = settings.read::<data::Config>() else { return f64::INFINITY };
    let n = if *metric == VAL_ACCURACY {
        images.n_val
    } else if *metric == TRAIN_ACCURACY {
        images.data.n_train(images.n_train, images.n_val)
    } else if images.n_test == 0 {
        images.data.n_test
    } else {
        images.n_test
    };
    n as f64
}

/// Standard deviation over seeds of what the column holds after the last epoch, pooled over the positions of the series; 0
/// where no position has two seeds.
fn spread(series: &str, all: &[TrialRecord], metric: &Metric) -> f64 {
    let mut positions: BTreeMap<[&str; 2], Vec<f64>> = BTreeMap::new();
    for record in all.iter().filter(|record| record.trial.series == series && record.status == Status::Done) {
        let value = record.epochs.last().map_or(f64::NAN, |row| row.get(metric));
        if value.is_finite() {
            positions.entry([&record.trial.x_text, &record.trial.tuned]).or_default().push(value);
        }
    }
    let (mut squares, mut degrees) = (0.0, 0);
    for values in positions.into_values().filter(|values| values.len() > 1) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        squares += values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        degrees += values.len() - 1;
    }
    if degrees == 0 { 0.0 } else { (squares / degrees as f64).sqrt() }
}

/// The distance of two numbers in parts of what is allowed, and in words. A count has to be the same; a share is of so many
/// images; `seeds` is the standard deviation over seeds.
fn apart(metric: &Metric, a: f64, b: f64, tolerance: Tolerance, n_images: f64, seeds: f64) -> (f64, String) {
    let name = metric.name;
    if metric.is_count {
        return (if is_same(a, b) { 0.0 } else { f64::INFINITY }, format!("{name} {a} there, {b} here"));
    }
    let other_seeds = STANDARD_ERRORS * 2.0_f64.sqrt() * metric.unit.of_column(seeds);
    match metric.unit {
        Unit::Percent => {
            let (a, b) = (metric.unit.of_column(a), metric.unit.of_column(b));
            let share = 0.5 * (a + b) / 100.0;
            let standard_error = 100.0 * (2.0 * share * (1.0 - share) / n_images).sqrt();
            let allowed = tolerance.points.max(STANDARD_ERRORS * standard_error).max(other_seeds);
            ((a - b).abs() / allowed, format!("{name} {a:.2} % there, {b:.2} % here"))
        }
        _ => {
            let size = a.abs().max(b.abs()).max(f64::MIN_POSITIVE);
            (
                (a - b).abs() / (tolerance.relative * size).max(other_seeds),
                format!("{name} {a:.6} there, {b:.6} here"),
            )
        }
    }
}
