//! What a figure shows, independent of how it is drawn.

use std::collections::BTreeMap;

use crate::results::{EpochRecord, Status, TrialRecord};

use super::measured::{Measured, Point, same_x, series_idx, x_of};
use super::metric::Metric;
use super::stats::Summary;

/// A figure: curves over one x axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What the figure shows, for readers who do not see it.
    pub description: String,
    /// Title of the x axis.
    pub x_label: String,
    /// Title of the y axis.
    pub y_label: String,
    /// Positions to label; empty for round numbers.
    pub x_ticks: Vec<(f64, String)>,
    /// The ticks are names at equal distances: x is an index into them.
    pub categorical: bool,
    /// Values that y cannot leave, such as 0 and 100 for percent.
    pub y_bounds: (f64, f64),
    /// What is drawn, in the order of the legend.
    pub curves: Vec<Curve>,
}

/// One series of a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Name in the legend.
    pub label: String,
    /// Which color, marker and dash pattern: the same number looks the same in every figure.
    pub look: usize,
    /// How points are drawn.
    pub shape: Shape,
    /// Our values, by x.
    pub points: Vec<Mark>,
    /// Our value if it does not depend on x.
    pub level: Option<Mark>,
    /// Published values; x is NaN for one that does not depend on x.
    pub published: Vec<Mark>,
}

/// How a curve's points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A marker with an error bar at each point, and a line through them.
    Markers,
    /// A line only, in a band.
    Band,
}

/// A value with its spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Position on the x axis.
    pub x: f64,
    /// Value.
    pub y: f64,
    /// Standard deviation over seeds; 0 for one seed.
    pub spread: f64,
}

impl Mark {
    fn of(x: f64, summary: &Summary) -> Self {
        Self { x, y: summary.mean, spread: summary.std.unwrap_or(0.0) }
    }
}

impl Chart {
    /// The experiment's figure; `None` without a finished trial.
    #[must_use]
    pub fn of(measured: &Measured) -> Option<Self> {
        measured.finished().next()?;
        let figure = &measured.experiment.figure;
        let x_ticks = x_ticks(measured);
        let place = |x: Option<f64>| match x {
            None => f64::NAN,
            Some(_) if figure.categorical => {
                let idx = x_ticks.iter().position(|(tick, _)| same_x(Some(*tick), x));
                idx.expect("every point has a tick") as f64
            }
            Some(x) => x,
        };
        let curve = |(idx, series): (usize, &crate::spec::Series)| {
            let points: Vec<&Point> = measured.points.iter().filter(|p| p.series_idx == idx).collect();
            let marks = points.iter().filter_map(|p| Some(Mark::of(place(p.x), &p.summary()?)));
            let (level, marks): (Vec<Mark>, Vec<Mark>) = marks.partition(|m| m.x.is_nan());
            let published = points.iter().filter_map(|p| {
                let y = p.published.as_ref()?.value;
                Some(Mark { x: place(p.x), y, spread: 0.0 })
            });
            Curve {
                label: series.label.clone(),
                look: idx,
                shape: Shape::Markers,
                points: marks,
                level: level.first().copied(),
                published: published.collect(),
            }
        };
        let curves: Vec<Curve> = measured.experiment.series.iter().enumerate().map(curve).collect();
        Some(Self {
            description: format!(
                "{}: {} against {}",
                measured.experiment.title, figure.y_label, figure.x_label
            ),
            x_label: figure.x_label.clone(),
            y_label: figure.y_label.clone(),
            categorical: figure.categorical,
            y_bounds: bounds(measured.metric),
            curves: curves.into_iter().filter(Curve::is_drawn).collect(),
            x_ticks: if figure.categorical {
                x_ticks.into_iter().enumerate().map(|(idx, (_, text))| (idx as f64, text)).collect()
            } else {
                x_ticks
            },
        })
    }

    /// Test accuracy (or the figure's own measure of quality) against the epoch at one x, with the
    /// text of that x; `None` if no finished trial there has two epochs.
    ///
    /// The x is the middle one among those where most series have a finished trial.
    #[must_use]
    pub fn of_epochs(measured: &Measured) -> Option<(Self, String)> {
        let metric = if measured.metric.is_quality() { measured.metric } else { Metric::TestAccuracy };
        let (x, x_text) = representative_x(measured);
        let mut curves = Vec::new();
        for (idx, series) in measured.experiment.series.iter().enumerate() {
            let here = measured.records.iter().filter(|r| {
                let record_x = x_of(measured.experiment, r);
                r.status == Status::Done
                    && series_idx(measured.experiment, &r.trial.series) == Some(idx)
                    && (record_x.is_none() || same_x(record_x, x))
            });
            let points = by_epoch(here.copied(), metric);
            if points.len() > 1 {
                let label = series.label.clone();
                curves.push(Curve {
                    label,
                    look: idx,
                    shape: Shape::Band,
                    points,
                    level: None,
                    published: Vec::new(),
                });
            }
        }
        if curves.is_empty() {
            return None;
        }
        let y_label = if metric == measured.metric {
            measured.experiment.figure.y_label.clone()
        } else {
            "Test accuracy (%)".into()
        };
        let chart = Self {
            description: format!("{}: {y_label} after each epoch", measured.experiment.title),
            x_label: "Epoch".into(),
            y_label,
            x_ticks: Vec::new(),
            categorical: false,
            y_bounds: bounds(metric),
            curves,
        };
        Some((chart, x_text))
    }
}

impl Curve {
    fn is_drawn(&self) -> bool {
        !self.points.is_empty() || self.level.is_some() || !self.published.is_empty()
    }
}

/// Every x of the measured and published points, with its text, in order.
fn x_ticks(measured: &Measured) -> Vec<(f64, String)> {
    let mut ticks: Vec<(f64, String)> = Vec::new();
    for point in &measured.points {
        if let Some(x) = point.x
            && !ticks.iter().any(|(known, _)| same_x(Some(*known), Some(x)))
        {
            ticks.push((x, point.x_text.clone()));
        }
    }
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    ticks
}

fn representative_x(measured: &Measured) -> (Option<f64>, String) {
    let count = |x: f64| measured.finished().filter(|p| same_x(p.x, Some(x))).count();
    let ticks = x_ticks(measured);
    let most = ticks.iter().map(|(x, _)| count(*x)).max().unwrap_or(0);
    let best: Vec<&(f64, String)> = ticks.iter().filter(|(x, _)| count(*x) == most).collect();
    match best.get(best.len().saturating_sub(1) / 2) {
        Some((x, text)) => (Some(*x), text.clone()),
        None => (None, String::new()),
    }
}

/// Mean and spread over trials after each epoch; values that are not finite are left out.
fn by_epoch<'r>(records: impl Iterator<Item = &'r TrialRecord>, metric: Metric) -> Vec<Mark> {
    let mut epochs: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for epoch in records.flat_map(|r| &r.epochs) {
        let EpochRecord { epoch: number, .. } = *epoch;
        let value = metric.at(epoch);
        if value.is_finite() {
            epochs.entry(number).or_default().push(value);
        }
    }
    let marks = epochs.iter().filter_map(|(epoch, values)| {
        let summary = Summary::of(values)?;
        Some(Mark::of(f64::from(*epoch), &summary))
    });
    marks.collect()
}

fn bounds(metric: Metric) -> (f64, f64) {
    match metric {
        _ if metric.unit() == " %" => (0.0, 100.0),
        _ => (0.0, f64::INFINITY),
    }
}
