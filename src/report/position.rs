//! Which trials a figure at one x shows.

use crate::experiment::At;
use crate::metric::VAL_ACCURACY;
use crate::results::TrialRecord;
use crate::train::Status;

use super::measured::{Measured, Point, same_x, series_idx, x_of};

/// Means that differ by less, in percent, are a tie.
pub(super) const ROUNDING: f64 = 1e-9;

/// A position on the experiment's x axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// `None` for a constant series, or where there is nothing.
    pub x: Option<f64>,
    /// As text.
    pub x_text: String,
}

/// The positions that a figure shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Positions {
    /// By index of the series.
    pub of_series: Vec<Position>,
    /// For captions: ` at Sparsity = 0.9`, or where each series stands.
    pub text: String,
}

impl Positions {
    /// The position of every series that `at` asks for. A position that has no trials at this scale gives way
    /// to the middle x among those where most series have a finished trial, and so does a best x without
    /// validation images.
    #[must_use]
    pub fn of(measured: &Measured, at: Option<At>) -> Self {
        let n_series = measured.experiment.series.len();
        let x_label = &measured.experiment.figure.x_label;
        let common = match at {
            Some(At::X(x)) => at_x(measured, x),
            _ => None,
        };
        let common = common.unwrap_or_else(|| middle(measured));
        if at != Some(At::Best) {
            let text = if common.x_text.is_empty() {
                String::new()
            } else {
                format!(" at {x_label} = {}", common.x_text)
            };
            return Self { of_series: vec![common; n_series], text };
        }
        let best: Vec<Option<Position>> = (0..n_series).map(|idx| best(measured, idx)).collect();
        let mut chosen = Vec::new();
        for (series, position) in measured.experiment.series.iter().zip(&best) {
            match position {
                Some(Position { x: Some(_), x_text }) => chosen.push(format!("{} {x_text}", series.label)),
                Some(_) => {}
                None if common.x.is_some() => {
                    chosen.push(format!("{} {}, without validation images", series.label, common.x_text));
                }
                None => {}
            }
        }
        let text = format!(
            ", each series at the {x_label} with its highest validation accuracy ({})",
            chosen.join("; ")
        );
        Self {
            of_series: best.into_iter().map(|position| position.unwrap_or(common.clone())).collect(),
            text,
        }
    }

    /// The finished trials of a series at its position.
    pub(super) fn records<'m>(
        &'m self,
        measured: &'m Measured,
        idx: usize,
    ) -> impl Iterator<Item = &'m TrialRecord> {
        let position = &self.of_series[idx];
        finished(measured, idx).filter(|record| {
            let x = x_of(measured.experiment, &measured.candidates, record);
            x.is_none() || same_x(x, position.x)
        })
    }
}

fn finished<'m>(measured: &'m Measured, idx: usize) -> impl Iterator<Item = &'m TrialRecord> {
    let of_series = move |record: &&TrialRecord| {
        record.status == Status::Done && series_idx(measured.experiment, &record.trial.series) == Some(idx)
    };
    measured.records.iter().copied().filter(of_series)
}

/// A position with trials or plans for them.
fn at_x(measured: &Measured, x: f64) -> Option<Position> {
    let points = measured.points.iter().chain(&measured.reference);
    let mut here = points.filter(|point| point.planned || point.was_tried());
    let point = here.find(|point| same_x(point.x, Some(x)))?;
    Some(Position { x: point.x, x_text: point.x_text.clone() })
}

/// The middle one among the x where most series have a finished trial.
fn middle(measured: &Measured) -> Position {
    let count = |x: f64| measured.finished().filter(|p| same_x(p.x, Some(x))).count();
    let ticks = x_ticks(measured);
    let most = ticks.iter().map(|(x, _)| count(*x)).max().unwrap_or(0);
    let best: Vec<&(f64, String)> = ticks.iter().filter(|(x, _)| count(*x) == most).collect();
    match best.get(best.len().saturating_sub(1) / 2) {
        Some((x, text)) => Position { x: Some(*x), x_text: text.clone() },
        None => Position { x: None, x_text: String::new() },
    }
}

/// The x at which a series has the highest mean validation accuracy over its finished trials, the
/// smallest on ties; `None` without validation images. A constant series has no choice.
#[must_use]
pub fn best(measured: &Measured, series_idx: usize) -> Option<Position> {
    if measured.experiment.series[series_idx].constant {
        return Some(Position { x: None, x_text: String::new() });
    }
    // By x, in the records' order: sums and counts.
    let mut positions: Vec<(f64, f64, f64)> = Vec::new();
    for record in finished(measured, series_idx) {
        let (Some(x), Some(value)) =
            (x_of(measured.experiment, &measured.candidates, record), VAL_ACCURACY.of(&record.epochs))
        else {
            continue;
        };
        match positions.iter_mut().find(|position| same_x(Some(position.0), Some(x))) {
            Some(position) => *position = (position.0, position.1 + value, position.2 + 1.0),
            None => positions.push((x, value, 1.0)),
        }
    }
    let mut best: Option<(f64, f64)> = None;
    for (x, sum, n) in positions {
        let mean = sum / n;
        if best.is_none_or(|(_, highest)| mean > highest + ROUNDING) {
            best = Some((x, mean));
        }
    }
    let (x, _) = best?;
    at_x(measured, x).or(Some(Position { x: Some(x), x_text: super::text::position(x) }))
}

/// Every x of the measured and published points, with its text, in order.
pub(super) fn x_ticks(measured: &Measured) -> Vec<(f64, String)> {
    ticks_of(measured.points.iter())
}

/// Every x of the points, with its text, in order.
pub(super) fn ticks_of<'p>(points: impl Iterator<Item = &'p Point>) -> Vec<(f64, String)> {
    let mut ticks: Vec<(f64, String)> = Vec::new();
    let mut add = |point: &Point| {
        if let Some(x) = point.x
            && !ticks.iter().any(|(known, _)| same_x(Some(*known), Some(x)))
        {
            ticks.push((x, point.x_text.clone()));
        }
    };
    points.for_each(&mut add);
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    ticks
}
