//! What a figure shows, independent of how it is drawn.

use std::collections::BTreeMap;

use crate::experiment::{Layers, ProfileFigure, Scale, TensorMeasure, Trace, TraceAxis};
use crate::metric::{COSINE, Metric, QUERIES, RELATIVE_ERROR, TEST_ACCURACY, WALL_S};
use crate::profile::Profile;
use crate::results::TrialRecord;
use crate::{Error, Result};

use super::check::Paired;
use super::measured::{Measured, Point, same_x};
use super::position::{Positions, ticks_of};
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
    /// Logarithmic x axis; positions that are not positive are not drawn.
    pub log_x: bool,
    /// Logarithmic y axis; values that are not positive are not drawn.
    pub log_y: bool,
    /// Values that y cannot leave, such as 0 and 100 for percent.
    pub y_bounds: (f64, f64),
    /// Lines at a y of their own: first the one that values are compared with, then the limits of checks around it.
    pub rules: Vec<f64>,
    /// Where every curve has a line through its first point in proportion to x, and y begins at 0: up to which x, infinity
    /// for all. From there on the line is level.
    pub ideal: Option<f64>,
    /// Name of the published values in the legend.
    pub published: &'static str,
    /// What is drawn, in the order of the legend.
    pub curves: Vec<Curve>,
    /// What was published, on axes of its own to the right, where the two are not to be compared.
    pub beside: Option<Box<Chart>>,
}

/// Name of published values that stand beside ours.
const PAPER: &str = "paper";

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
    /// Values of single trials by x, as small dots.
    pub trials: Vec<(f64, f64)>,
    /// Our value if it does not depend on x.
    pub level: Option<Mark>,
    /// Published values; x is NaN for one that does not depend on x.
    pub published: Vec<Mark>,
}

/// Colors before one comes back.
pub(super) const N_COLORS: usize = 8;

/// How a curve's points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A marker with an error bar at each point, and a line through them.
    Markers,
    /// A marker with an error bar at each point, and no line.
    Dots,
    /// A line only, in a band.
    Band,
    /// A hollow diamond at each point, and a thin line through them.
    Hollow,
    /// A ring with an error bar at each point, and a dotted line through them: what a model says.
    Model,
}

/// A value, and an interval around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Position on the x axis.
    pub x: f64,
    /// Value.
    pub y: f64,
    /// Lower end of the interval; the value where there is none.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Mark {
    /// A value without an interval.
    #[must_use]
    pub fn bare(x: f64, y: f64) -> Self {
        Self { x, y, low: y, high: y }
    }

    /// A mean and one standard deviation around it.
    #[must_use]
    pub fn spread(x: f64, y: f64, spread: f64) -> Self {
        Self { x, y, low: y - spread, high: y + spread }
    }

    fn of(x: f64, summary: &Summary) -> Self {
        Self::spread(x, summary.mean, summary.std.unwrap_or(0.0))
    }

    /// Whether there is an interval.
    #[must_use]
    pub fn has_interval(&self) -> bool {
        self.low < self.high
    }
}

impl Chart {
    /// The figure; `None` without a value. Below the paper's scale, published values stand beside ours. `has_pairs`: what
    /// decides is drawn elsewhere, and here stand single trials in place of their spread, which does not.
    #[must_use]
    pub fn of(measured: &Measured, has_pairs: bool) -> Option<Self> {
        measured.finished().next()?;
        let is_compiled = measured.experiment.is_compiled();
        let is_beside = measured.scale != Scale::Paper && !is_compiled;
        let has_published = measured.points.iter().any(|point| point.published.is_some());
        let is_ours = |point: &&Point| point.planned || point.was_tried();
        let ours = Axis::of(measured, measured.points.iter().filter(|point| !is_beside || is_ours(point)));
        let curve = |(idx, series): (usize, &crate::experiment::Series)| {
            let points: Vec<&Point> = measured.points.iter().filter(|p| p.series_idx == idx).collect();
            let mark = |point: &&Point| {
                let x = ours.place(point.x)?;
                let mark = Mark::of(x, &point.summary()?);
                Some(if has_pairs { Mark::bare(x, mark.y) } else { mark })
            };
            let (level, marks): (Vec<Mark>, Vec<Mark>) =
                points.iter().filter_map(mark).partition(|m| m.x.is_nan());
            let trials = points.iter().filter(|point| has_pairs && point.values.len() > 1);
            let trials = trials.filter_map(|point| Some((ours.place(point.x)?, point)));
            let trials = trials.flat_map(|(x, point)| point.values.values().map(move |value| (x, *value)));
            Curve {
                label: series.label.clone(),
                look: idx,
                shape: match series.has_trials {
                    true if measured.is_model(&series.id) => Shape::Model,
                    true => Shape::Markers,
                    false => Shape::Dots,
                },
                points: marks,
                trials: trials.collect(),
                level: level.first().copied(),
                published: if is_beside { Vec::new() } else { published(&points, &ours) },
            }
        };
        let curves: Vec<Curve> = measured.experiment.series.iter().enumerate().map(curve).collect();
        let beside = (is_beside && has_published).then(|| Box::new(Self::of_published(measured)));
        let is_beside = |look| beside.iter().flat_map(|chart| &chart.curves).any(|curve| curve.look == look);
        Some(Self {
            // What is published only has its place in the legend all the same.
            curves: curves.into_iter().filter(|curve| curve.is_drawn() || is_beside(curve.look)).collect(),
            // Sizes from everywhere are no places to label.
            x_ticks: if is_compiled { Vec::new() } else { ours.labels() },
            beside,
            ..Self::blank(measured)
        })
    }

    /// What was published, as a figure of its own.
    fn of_published(measured: &Measured) -> Self {
        let known: Vec<&Point> = measured.points.iter().filter(|point| point.published.is_some()).collect();
        let axis = Axis::of(measured, known.iter().copied());
        let curves = measured.experiment.series.iter().enumerate().map(|(idx, series)| {
            let points: Vec<&Point> = known.iter().filter(|p| p.series_idx == idx).copied().collect();
            let (level, points): (Vec<Mark>, Vec<Mark>) =
                published(&points, &axis).into_iter().partition(|mark| mark.x.is_nan());
            Curve { level: level.first().copied(), ..curve(series.label.clone(), idx, Shape::Hollow, points) }
        });
        Self {
            curves: curves.filter(Curve::is_drawn).collect(),
            x_ticks: axis.labels(),
            y_label: "In the paper".into(),
            ..Self::blank(measured)
        }
    }

    /// The line in proportion to x of a curve: where it begins, bends and ends.
    pub(super) fn ideal_line(&self, curve: &Curve) -> Option<[Mark; 3]> {
        let cap = self.ideal?;
        let [first, .., last] = curve.points.as_slice() else { return None };
        let bend = cap.clamp(first.x, last.x);
        let at = |x: f64| Mark::bare(x, first.y * x.min(bend) / first.x);
        Some([at(first.x), at(bend), at(last.x)])
    }

    /// Whether there are more lines than colors: bands around them would hide each other, and a marker at its end tells
    /// lines of one color apart.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.curves.iter().filter(|curve| curve.shape == Shape::Band).count() > N_COLORS
    }

    /// Whether all values stand at one x, so that they are drawn in rows and not over an axis.
    #[must_use]
    pub fn is_at_one_place(&self) -> bool {
        let marks = self.curves.iter().flat_map(|curve| curve.points.iter().chain(&curve.published));
        let mut xs = marks.map(|mark| mark.x).filter(|x| !x.is_nan());
        let Some(first) = xs.next() else { return false };
        xs.all(|x| x.total_cmp(&first).is_eq())
            && self.curves.iter().all(|curve| curve.shape != Shape::Band && curve.points.len() <= 1)
            && self.ideal.is_none()
            && self.beside.as_ref().is_none_or(|beside| beside.is_at_one_place())
    }

    /// Nothing, on axes without names.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            description: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            x_ticks: Vec::new(),
            categorical: false,
            log_x: false,
            log_y: false,
            y_bounds: (f64::NEG_INFINITY, f64::INFINITY),
            rules: Vec::new(),
            ideal: None,
            published: PAPER,
            curves: Vec::new(),
            beside: None,
        }
    }

    /// The figure's axes without anything on them.
    fn blank(measured: &Measured) -> Self {
        let figure = &measured.experiment.figure;
        Self {
            description: format!(
                "{}: {} against {}",
                measured.experiment.title, measured.panel.y_label, figure.x_label
            ),
            x_label: figure.x_label.clone(),
            y_label: measured.panel.y_label.clone(),
            x_ticks: Vec::new(),
            categorical: figure.categorical,
            log_x: measured.panel.log_x,
            log_y: measured.panel.log_y,
            y_bounds: if measured.is_relative() { (0.0, f64::INFINITY) } else { measured.metric.bounds },
            rules: Vec::new(),
            ideal: measured.panel.has_ideal.then(|| measured.n_cores().unwrap_or(f64::INFINITY)),
            published: if measured.experiment.quoted.is_empty() { PAPER } else { "published" },
            curves: Vec::new(),
            beside: None,
        }
    }

    /// The differences by which a panel's checks are decided, with their 95 % intervals; `None` where there are none.
    #[must_use]
    pub fn of_pairs(measured: &Measured, paired: &[Paired]) -> Option<Self> {
        let is_ratio = paired.first()?.is_ratio;
        let figure = &measured.experiment.figure;
        let mut places: Vec<(Option<f64>, String)> = Vec::new();
        for (x, text, _) in paired.iter().flat_map(|one| &one.places) {
            if !places.iter().any(|(known, other)| same_x(*known, *x) && other == text) {
                places.push((*x, text.clone()));
            }
        }
        places.sort_by(|a, b| a.0.unwrap_or(f64::INFINITY).total_cmp(&b.0.unwrap_or(f64::INFINITY)));
        let categorical = figure.categorical || places.iter().any(|(x, _)| x.is_none()) || places.len() == 1;
        let place = |x: Option<f64>, text: &str| match x {
            Some(x) if !categorical => x,
            _ => places.iter().position(|(known, other)| same_x(*known, x) && other == text).unwrap_or(0)
                as f64,
        };
        let curves = paired.iter().enumerate().map(|(idx, one)| {
            let marks = one.places.iter().map(|(x, text, mark)| Mark { x: place(*x, text), ..*mark });
            curve(one.label.clone(), idx, Shape::Dots, marks.collect())
        });
        let mut rules = vec![if is_ratio { 1.0 } else { 0.0 }];
        for limit in paired.iter().flat_map(|one| &one.limits) {
            if !rules.iter().any(|rule: &f64| rule.total_cmp(limit).is_eq()) {
                rules.push(*limit);
            }
        }
        let ticks = places.iter().enumerate();
        let ticks =
            ticks.map(|(idx, (x, text))| (x.filter(|_| !categorical).unwrap_or(idx as f64), text.clone()));
        let y_label = match is_ratio {
            true => format!("Ratio of pairs: {}", measured.panel.y_label),
            false => format!("Difference of pairs: {}", measured.panel.y_label),
        };
        Some(Self {
            description: format!("{}: {y_label}", measured.experiment.title),
            x_label: figure.x_label.clone(),
            y_label,
            x_ticks: ticks.collect(),
            categorical,
            log_x: measured.panel.log_x && !categorical,
            log_y: is_ratio,
            y_bounds: (f64::NEG_INFINITY, f64::INFINITY),
            rules,
            ideal: None,
            published: PAPER,
            curves: curves.collect(),
            beside: None,
        })
    }

    /// A figure over the course of training, with its positions; `None` if no finished trial there has two
    /// epochs. `measured` is that of the main figure.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if the y axis names no known metric.
    pub fn of_trace(measured: &Measured, trace: &Trace) -> Result<Option<(Self, Positions)>> {
        let metric = Metric::parse(&trace.y)?;
        let positions = Positions::of(measured, trace.at);
        let mut curves = Vec::new();
        for (idx, series) in measured.experiment.series.iter().enumerate() {
            let points = if trace.series.contains(&series.id) {
                by_epoch(positions.records(measured, idx), trace.x, metric)
            } else {
                Vec::new()
            };
            if points.len() > 1 {
                curves.push(curve(series.label.clone(), idx, Shape::Band, points));
            }
        }
        if curves.is_empty() {
            return Ok(None);
        }
        let along = match trace.x {
            TraceAxis::Epoch => "after each epoch".to_owned(),
            _ => format!("against {}", trace.x_label),
        };
        let chart = Self {
            description: format!("{}: {} {along}", measured.experiment.title, trace.y_label),
            x_label: trace.x_label.clone(),
            y_label: trace.y_label.clone(),
            x_ticks: Vec::new(),
            categorical: false,
            log_x: trace.log_x,
            log_y: trace.log_y,
            y_bounds: metric.bounds,
            curves,
            ..Self::empty()
        };
        Ok(Some((chart, positions)))
    }

    /// A figure over parameter tensors, with its positions; `None` if nothing is known of them. `measured`
    /// is that of the main figure.
    #[must_use]
    pub fn of_layers(measured: &Measured, layers: &Layers) -> Option<(Self, Positions)> {
        let positions = Positions::of(measured, layers.at);
        // Weights follow each other; among all tensors, a line would lead from one kind to another.
        let shape = if layers.y == TensorMeasure::Keep { Shape::Markers } else { Shape::Dots };
        let of = |record: &TrialRecord| by_tensor(record, layers.y);
        let (ticks, _, curves) = over_places(measured, &positions, &layers.series, shape, of);
        if curves.is_empty() {
            return None;
        }
        let ticks = ticks.iter().map(|(x, name)| (*x, short_name(name)));
        let chart = Self {
            description: format!(
                "{}: {} of each parameter tensor",
                measured.experiment.title, layers.y_label
            ),
            x_label: "Parameter tensor".into(),
            y_label: layers.y_label.clone(),
            x_ticks: ticks.collect(),
            categorical: true,
            log_x: false,
            log_y: false,
            y_bounds: match layers.y {
                TensorMeasure::Keep => (0.0, 100.0),
                TensorMeasure::Cosine => COSINE.bounds,
                TensorMeasure::RelativeError => RELATIVE_ERROR.bounds,
            },
            curves,
            ..Self::empty()
        };
        Some((chart, positions))
    }

    /// A figure over the places of a profile, with its positions; `None` if no finished trial there has such a
    /// profile. Places that stand on no axis are drawn at equal distances. `measured` is that of the main figure.
    ///
    /// # Errors
    /// [`Error::Setting`] if a profile lacks the column on the y axis.
    pub fn of_profile(measured: &Measured, figure: &ProfileFigure) -> Result<Option<(Self, Positions)>> {
        let column = figure.y.replace('-', "_");
        let metric = Metric::parse(&figure.y).ok();
        for profile in measured.records.iter().filter_map(|record| record.profile(&figure.kind)) {
            if profile.column(&column).is_none() {
                let known: Vec<&str> = profile.columns.iter().map(|column| column.name.as_str()).collect();
                let reason =
                    format!("the profile {} has no column `{column}`, but {}", figure.kind, known.join(", "));
                return Err(Error::setting("y", reason));
            }
        }
        let positions = Positions::of(measured, figure.at);
        let shown = |value: f64| metric.map_or(value, |metric| metric.unit.of_column(value));
        let of = |record: &TrialRecord| -> Vec<(Option<f64>, String, f64)> {
            let Some(profile) = record.profile(&figure.kind) else { return Vec::new() };
            let values = profile.column(&column).unwrap_or_default().iter().map(|value| shown(*value));
            let places = profile.labels.iter().zip(values).enumerate();
            let places = places.map(|(idx, (label, y))| (profile.xs.get(idx).copied(), label.clone(), y));
            places.filter(|(_, _, value)| value.is_finite()).collect()
        };
        // Where markers would touch, a line says as much.
        let profiles = measured.records.iter().filter_map(|record| record.profile(&figure.kind));
        let n_places = profiles.map(|profile| profile.labels.len()).max().unwrap_or(0);
        let shape = if n_places > MOST_MARKERS { Shape::Band } else { Shape::Markers };
        let (x_ticks, is_on_axis, curves) = over_places(measured, &positions, &figure.series, shape, of);
        if curves.is_empty() {
            return Ok(None);
        }
        let chart = Self {
            description: format!(
                "{}: {} against {}",
                measured.experiment.title, figure.y_label, figure.x_label
            ),
            x_label: figure.x_label.clone(),
            y_label: figure.y_label.clone(),
            x_ticks,
            categorical: !is_on_axis,
            log_x: figure.log_x && is_on_axis,
            log_y: figure.log_y,
            y_bounds: metric.map_or((f64::NEG_INFINITY, f64::INFINITY), |metric| metric.bounds),
            curves,
            ..Self::empty()
        };
        Ok(Some((chart, positions)))
    }
}

/// Places of a profile that are drawn with markers.
const MOST_MARKERS: usize = 60;

/// Curves over the places of profiles, of which `of` gives a trial's: where they stand, names and values. First come
/// the places as ticks and whether they stand on an axis, in its order, or else at equal distances, as they occur.
fn over_places(
    measured: &Measured,
    positions: &Positions,
    series: &[String],
    shape: Shape,
    of: impl Fn(&TrialRecord) -> Vec<(Option<f64>, String, f64)>,
) -> (Vec<(f64, String)>, bool, Vec<Curve>) {
    let mut places: Vec<(Option<f64>, String)> = Vec::new();
    let mut series_values: Vec<(usize, BTreeMap<String, Vec<f64>>)> = Vec::new();
    for (idx, one) in measured.experiment.series.iter().enumerate() {
        if !series.contains(&one.id) {
            continue;
        }
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for record in positions.records(measured, idx) {
            for (x, label, value) in of(record) {
                if !places.iter().any(|(_, known)| *known == label) {
                    places.push((x, label.clone()));
                }
                values.entry(label).or_default().push(value);
            }
        }
        series_values.push((idx, values));
    }
    let is_on_axis = places.iter().all(|(x, _)| x.is_some());
    let x_of = |(idx, (x, label)): (usize, (Option<f64>, String))| match x {
        Some(x) if is_on_axis => (x, label),
        _ => (idx as f64, label),
    };
    let mut ticks: Vec<(f64, String)> = places.into_iter().enumerate().map(x_of).collect();
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut curves = Vec::new();
    for (idx, values) in series_values {
        let mark = |(x, label): &(f64, String)| Some(Mark::of(*x, &Summary::of(values.get(label)?)?));
        let marks: Vec<Mark> = ticks.iter().filter_map(mark).collect();
        if !marks.is_empty() {
            curves.push(curve(measured.label(idx).to_owned(), idx, shape, marks));
        }
    }
    (ticks, is_on_axis, curves)
}

/// The traces that an experiment has: its own, or else one over epochs, of the main figure's metric if
/// that says how good a network is, else of test accuracy.
#[must_use]
pub fn traces(measured: &Measured) -> Vec<Trace> {
    let experiment = measured.experiment;
    if !experiment.traces.is_empty() {
        return experiment.traces.clone();
    }
    let own = measured.metric.is_quality && !measured.is_relative();
    let (y, y_label) = if own {
        (&*experiment.figure.y, &*experiment.figure.y_label)
    } else {
        (TEST_ACCURACY.name, "Test accuracy (%)")
    };
    vec![Trace {
        id: "epochs".into(),
        x: TraceAxis::Epoch,
        x_label: "Epoch".into(),
        y: y.to_owned(),
        y_label: y_label.to_owned(),
        at: None,
        series: experiment.series.iter().map(|series| series.id.clone()).collect(),
        log_x: false,
        log_y: false,
    }]
}

/// A curve of ours alone.
fn curve(label: String, look: usize, shape: Shape, points: Vec<Mark>) -> Curve {
    Curve { label, look, shape, points, trials: Vec::new(), level: None, published: Vec::new() }
}

/// Published values at their places; x is NaN for one that does not depend on x.
fn published(points: &[&Point], axis: &Axis) -> Vec<Mark> {
    let mark = |point: &&Point| Some(Mark::bare(axis.place(point.x)?, point.published.as_ref()?.value));
    points.iter().filter_map(mark).collect()
}

/// Where points stand along x.
struct Axis {
    ticks: Vec<(f64, String)>,
    categorical: bool,
}

impl Axis {
    fn of<'p>(measured: &Measured, points: impl Iterator<Item = &'p Point>) -> Self {
        Self { ticks: ticks_of(points), categorical: measured.experiment.figure.categorical }
    }

    /// NaN for what does not depend on x, `None` for an x that is not on this axis.
    fn place(&self, x: Option<f64>) -> Option<f64> {
        let Some(value) = x else { return Some(f64::NAN) };
        let idx = self.ticks.iter().position(|(tick, _)| same_x(Some(*tick), x))?;
        Some(if self.categorical { idx as f64 } else { value })
    }

    fn labels(&self) -> Vec<(f64, String)> {
        let labels = self.ticks.iter().enumerate();
        labels
            .map(|(idx, (x, text))| (if self.categorical { idx as f64 } else { *x }, text.clone()))
            .collect()
    }
}

/// Names and values of a trial's tensors, in order, as far as they are finite.
///
/// Of the kept share, only convolution and linear weights are shown: a tensor `….weight` unless a
/// `….bias` of the same size stands beside it, as in normalization layers. (A convolution's or linear
/// layer's weight has as many scalars as its bias only with a single input.)
fn by_tensor(record: &TrialRecord, measure: TensorMeasure) -> Vec<(Option<f64>, String, f64)> {
    let Some(tensors) = record.profile(Profile::TENSORS) else { return Vec::new() };
    let column = |name: &str| tensors.column(name).unwrap_or_default();
    let sizes = column("n");
    let is_matrix = |name: &str, n: u64| {
        name.strip_suffix(".weight").is_some_and(|layer| {
            let bias = format!("{layer}.bias");
            !tensors.labels.iter().zip(sizes).any(|(other, size)| *other == bias && *size as u64 == n)
        })
    };
    let values: Vec<f64> = match measure {
        TensorMeasure::Keep => {
            let shares = column("n_active").iter().zip(sizes).map(|(n_active, n)| 100.0 * n_active / n);
            let matrices = tensors.labels.iter().zip(sizes).map(|(name, n)| is_matrix(name, *n as u64));
            shares.zip(matrices).map(|(share, is_matrix)| if is_matrix { share } else { f64::NAN }).collect()
        }
        TensorMeasure::Cosine => column(COSINE.column).to_vec(),
        TensorMeasure::RelativeError => column(RELATIVE_ERROR.column).to_vec(),
    };
    let values = tensors.labels.iter().zip(values).filter(|(_, value)| value.is_finite());
    values.map(|(name, value)| (None, name.clone(), value)).collect()
}

/// `layer1.0.conv1.weight` as `1.0.conv1`, `layer1.0.bn1.bias` as `1.0.bn1.b`.
fn short_name(name: &str) -> String {
    let name = name.strip_prefix("layer").or(name.strip_prefix("features.")).unwrap_or(name);
    match name.strip_suffix(".bias") {
        Some(layer) => format!("{layer}.b"),
        None => name.strip_suffix(".weight").unwrap_or(name).to_owned(),
    }
}

impl Curve {
    fn is_drawn(&self) -> bool {
        !self.points.is_empty() || self.level.is_some() || !self.published.is_empty()
    }
}

/// Mean and spread over trials after each epoch; values that are not finite are left out. Where seeds
/// differ in x, it is their mean.
fn by_epoch<'r>(records: impl Iterator<Item = &'r TrialRecord>, x: TraceAxis, metric: &Metric) -> Vec<Mark> {
    let mut epochs: BTreeMap<u32, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for epoch in records.flat_map(|r| &r.epochs) {
        let x = match x {
            TraceAxis::Epoch => f64::from(epoch.epoch),
            TraceAxis::Queries => epoch.get(&QUERIES),
            TraceAxis::WallS => epoch.get(&WALL_S),
        };
        let value = metric.at(epoch);
        if value.is_finite() && x.is_finite() {
            let (xs, values) = epochs.entry(epoch.epoch).or_default();
            xs.push(x);
            values.push(value);
        }
    }
    let marks = epochs
        .values()
        .filter_map(|(xs, values)| Some(Mark::of(Summary::of(xs)?.mean, &Summary::of(values)?)));
    marks.collect()
}
