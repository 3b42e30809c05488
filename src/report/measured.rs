//! Trials grouped into the points of a figure, beside the published values.

use std::collections::BTreeMap;

use crate::Result;
use crate::experiment::{Expected, Experiment, Figure, Panel, Scale, ScalePlan};
use crate::method;
use crate::metric::{CORES, Metric, SPEED_UP, STEPS_PER_HOUR, TEST_ACCURACY, Unit};
use crate::results::TrialRecord;
use crate::train::Status;

use super::loan::Loan;
use super::stats::{Range, Summary};
use super::text::{self, position, significant};
use super::tuned::{Choice, choose};

/// One series at one x: what was measured there and what was published.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Index into [`Experiment::series`].
    pub series_idx: usize,
    /// Position; `None` for a constant series.
    pub x: Option<f64>,
    /// Position as text; empty for a constant series.
    pub x_text: String,
    /// Whether this scale's plan has it.
    pub planned: bool,
    /// Finite values of finished trials, by seed, in y units: in a relative figure, ratios.
    pub values: BTreeMap<u64, f64>,
    /// In a relative figure, the values before the division.
    pub absolute: BTreeMap<u64, f64>,
    /// Test accuracy (percent) of finished trials at the epoch with the best validation accuracy.
    pub best: BTreeMap<u64, f64>,
    /// Trials that diverged.
    pub n_diverged: usize,
    /// Trials that stopped with an error.
    pub n_failed: usize,
    /// Trials that ended well but have no finite value.
    pub n_without_value: usize,
    /// Where it comes from, if not from a trial of the experiment: another experiment, a publication.
    pub origins: Vec<String>,
    /// The published value, in y units.
    pub published: Option<Expected>,
    /// Whether some of the images were not the source's own, stored with loss.
    pub is_lossy: bool,
    /// In a relative figure, the published value before the division.
    pub published_absolute: Option<Expected>,
}

impl Point {
    /// Mean and spread over seeds; `None` without a finished trial.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.values.values().copied().collect::<Vec<_>>())
    }

    /// Whether any trial, good or bad, was run here.
    #[must_use]
    pub fn was_tried(&self) -> bool {
        !self.values.is_empty() || !self.absolute.is_empty() || self.n_lost() > 0
    }

    /// Adds what a trial gave.
    fn add(&mut self, record: &TrialRecord, metric: &Metric) {
        self.is_lossy |= record.provenance.is_lossy();
        match (record.status, metric.of(&record.epochs)) {
            (Status::Done, Some(value)) => {
                self.values.insert(record.trial.seed, value);
                if let Some(best) = best_test_accuracy(record) {
                    self.best.insert(record.trial.seed, best);
                }
            }
            (Status::Done, None) => self.n_without_value += 1,
            (Status::Diverged, _) => self.n_diverged += 1,
            (Status::Failed, _) => self.n_failed += 1,
        }
    }

    /// Divides values by those of `reference` at the same seed, and the published value by the published
    /// one. What has no divisor, or 0, has no ratio.
    fn relative_to(mut self, reference: Option<&Self>) -> Self {
        self.absolute = std::mem::take(&mut self.values);
        self.published_absolute = self.published.take();
        let Some(reference) = reference else { return self };
        let ratio = |(seed, value): (&u64, &f64)| Some((*seed, ratio(*value, *reference.values.get(seed)?)?));
        self.values = self.absolute.iter().filter_map(ratio).collect();
        self.published = self.published_absolute.as_ref().and_then(|own| {
            let value = self::ratio(own.value, reference.published.as_ref()?.value)?;
            Some(Expected { value, unit: String::new(), ..own.clone() })
        });
        self
    }

    /// Trials that give no value.
    #[must_use]
    pub fn n_lost(&self) -> usize {
        self.n_diverged + self.n_failed + self.n_without_value
    }

    /// How the trials without a value ended, such as `2 diverged, 1 failed`; empty if there are none.
    #[must_use]
    pub fn losses(&self) -> String {
        let kinds = [
            (self.n_diverged, "diverged"),
            (self.n_failed, "failed"),
            (self.n_without_value, "without a finite value"),
        ];
        let parts: Vec<String> =
            kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{n} {kind}")).collect();
        parts.join(", ")
    }
}

/// A finite quotient.
fn ratio(value: f64, divisor: f64) -> Option<f64> {
    Some(value / divisor).filter(|ratio| ratio.is_finite())
}

/// All that is known about an experiment at one scale, for one of its figures.
#[derive(Debug, Clone)]
pub struct Measured<'a> {
    /// What was asked.
    pub experiment: &'a Experiment,
    /// The scale.
    pub scale: Scale,
    /// The figure.
    pub panel: Panel,
    /// What the y axis shows, in a relative figure before the division.
    pub metric: &'static Metric,
    /// Records of known series, ordered by series, x and seed; where a setting is tuned, those with the value that counts.
    pub records: Vec<&'a TrialRecord>,
    /// Those with any value of the tuned setting.
    pub candidates: Vec<&'a TrialRecord>,
    /// Which value of the tuned setting counts where.
    pub choices: Vec<Choice>,
    /// Records of series that the experiment does not have.
    pub n_strangers: usize,
    /// Points ordered by series and x.
    pub points: Vec<Point>,
    /// In a relative figure, the points of the series that the others are divided by.
    pub reference: Vec<Point>,
}

impl<'a> Measured<'a> {
    /// Groups the records of one scale for the main figure; see [`Measured::of_panel`].
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if the figure's y axis names no known metric.
    pub fn gather(experiment: &'a Experiment, scale: Scale, records: &'a [TrialRecord]) -> Result<Self> {
        Self::of_panel(experiment, scale, records, &[], experiment.main_panel())
    }

    /// As [`Measured::gather`], for the main figure and all panels, in this order.
    ///
    /// # Errors
    /// As [`Measured::gather`].
    pub fn gather_all(
        experiment: &'a Experiment,
        scale: Scale,
        records: &'a [TrialRecord],
    ) -> Result<Vec<Self>> {
        Self::gather_with(experiment, scale, records, &[])
    }

    /// As [`Measured::gather_all`], with points from the results of other experiments.
    ///
    /// # Errors
    /// As [`Measured::gather`].
    pub fn gather_with(
        experiment: &'a Experiment,
        scale: Scale,
        records: &'a [TrialRecord],
        loans: &[Loan],
    ) -> Result<Vec<Self>> {
        let panels = std::iter::once(experiment.main_panel()).chain(experiment.panels.iter().cloned());
        panels.map(|panel| Self::of_panel(experiment, scale, records, loans, panel)).collect()
    }

    /// Groups the records of one scale; others are ignored. There is at most one record per series, x
    /// and seed; should there be several, the one that finished last counts.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if the panel's y axis names no known metric.
    pub fn of_panel(
        experiment: &'a Experiment,
        scale: Scale,
        records: &'a [TrialRecord],
        loans: &[Loan],
        panel: Panel,
    ) -> Result<Self> {
        let metric = Metric::parse(&panel.y)?;
        let at_scale: Vec<&TrialRecord> = records.iter().filter(|r| r.trial.scale == scale).collect();
        let mut known: Vec<&TrialRecord> =
            at_scale.iter().copied().filter(|r| series_idx(experiment, &r.trial.series).is_some()).collect();
        let n_strangers = at_scale.len() - known.len();
        known.sort_by(|a, b| {
            let key = |r: &TrialRecord| series_idx(experiment, &r.trial.series);
            let x = |r: &TrialRecord| x_of(experiment, &at_scale, r).unwrap_or(f64::NEG_INFINITY);
            (key(a).cmp(&key(b)))
                .then(x(a).total_cmp(&x(b)))
                .then(a.trial.tuned.cmp(&b.trial.tuned))
                .then(a.trial.seed.cmp(&b.trial.seed))
                .then(a.provenance.finished_at.cmp(&b.provenance.finished_at))
        });
        let candidates = last_of_each(experiment, known);
        let (records, choices) = choose(experiment, &candidates);
        let mut gathered = Self {
            experiment,
            scale,
            panel,
            metric,
            records,
            candidates,
            choices,
            n_strangers,
            points: Vec::new(),
            reference: Vec::new(),
        };
        gathered.add_planned();
        gathered.add_records();
        gathered.add_loans(loans);
        gathered.add_published();
        gathered.add_quoted();
        gathered.divide();
        gathered.points.sort_by(|a, b| {
            let x = |p: &Point| p.x.unwrap_or(f64::NEG_INFINITY);
            a.series_idx.cmp(&b.series_idx).then(x(a).total_cmp(&x(b)))
        });
        Ok(gathered)
    }

    /// Whether the figure's values are ratios.
    #[must_use]
    pub fn is_relative(&self) -> bool {
        self.panel.relative_to.is_some()
    }

    /// The name of the series that the others are divided by.
    #[must_use]
    pub fn reference_label(&self) -> Option<&'a str> {
        let idx = series_idx(self.experiment, self.panel.relative_to.as_ref()?)?;
        Some(self.label(idx))
    }

    /// Where the figure's values can lie.
    #[must_use]
    pub fn range(&self) -> Range {
        if self.is_relative() { Range::Positive } else { range_of(self.metric) }
    }

    /// Whether values are times, or speeds, so that what counts is their ratio.
    #[must_use]
    pub fn is_time(&self) -> bool {
        is_time(self.metric)
    }

    /// A value of the figure in its precision, without a unit.
    #[must_use]
    pub fn number(&self, value: f64) -> String {
        if self.is_relative() { significant(value) } else { text::number(value, self.metric.digits) }
    }

    /// The unit of the figure's values, with the space before it.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        if self.is_relative() { "" } else { self.metric.unit.suffix() }
    }

    /// The unit of a difference, with the space before it.
    #[must_use]
    pub fn difference_unit(&self) -> &'static str {
        if self.is_relative() { "" } else { self.metric.unit.difference_suffix() }
    }

    /// Whether the figure needs a series, by index.
    fn needs(&self, series_idx: usize) -> bool {
        let id = &self.experiment.series[series_idx].id;
        self.panel.series.contains(id) || self.panel.relative_to.as_ref() == Some(id)
    }

    /// In a relative figure, divides all points by the reference's. A constant series has the same value
    /// at every x, so over a reference that has not, it becomes a curve.
    fn divide(&mut self) {
        let Some(reference) = &self.panel.relative_to else { return };
        let idx = series_idx(self.experiment, reference);
        let (reference, points): (Vec<Point>, Vec<Point>) =
            std::mem::take(&mut self.points).into_iter().partition(|point| Some(point.series_idx) == idx);
        for point in points {
            if point.x.is_none() && reference.iter().any(|other| other.x.is_some()) {
                self.points.extend(reference.iter().map(|other| {
                    let place = Point { x: other.x, x_text: other.x_text.clone(), ..point.clone() };
                    place.relative_to(Some(other))
                }));
            } else {
                let divisor = reference.iter().find(|other| other.x.is_none() || same_x(other.x, point.x));
                self.points.push(point.relative_to(divisor));
            }
        }
        self.reference = reference.into_iter().map(|point| point.relative_to(None)).collect();
    }

    /// The scale's plan, if the experiment has one.
    #[must_use]
    pub fn plan(&self) -> Option<&'a ScalePlan> {
        self.experiment.scales.get(&self.scale)
    }

    /// Whether all trials of the planned seeds have been run, however they ended. Further seeds make up for none of them.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.plan().is_none_or(|plan| {
            let is_planned = |record: &&&TrialRecord| record.trial.seed < plan.n_seeds as u64;
            self.candidates.iter().filter(is_planned).count() >= plan.cells.len() * plan.n_seeds
        })
    }

    /// The name of a point's series.
    #[must_use]
    pub fn label(&self, series_idx: usize) -> &'a str {
        &self.experiment.series[series_idx].label
    }

    /// The points of a series, without those that are only published.
    pub fn points_of(&self, series_idx: usize) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(move |p| p.series_idx == series_idx && (p.planned || p.was_tried()))
    }

    /// The setting that is tuned at this scale, if any is.
    #[must_use]
    pub fn tuned(&self) -> Option<&'static str> {
        self.experiment.tuned.filter(|_| !self.choices.is_empty())
    }

    /// Which value of the tuned setting a point has; `None` if none is tuned there.
    #[must_use]
    pub fn choice(&self, point: &Point) -> Option<&Choice> {
        let series = &self.experiment.series[point.series_idx].id;
        self.choices.iter().find(|choice| choice.series == *series && same_x(choice.x, point.x))
    }

    /// The points with a value.
    pub fn finished(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(|p| !p.values.is_empty())
    }

    fn add_planned(&mut self) {
        let Some(plan) = self.plan() else { return };
        for cell in plan.cells.iter().filter(|cell| self.needs(cell.series_idx)).collect::<Vec<_>>() {
            let constant = self.experiment.series[cell.series_idx].constant;
            let x = if constant { None } else { self.planned_x(cell.series_idx, cell.x) };
            let x_text = self.x_text(x, &cell.x_text);
            self.point(cell.series_idx, x, x_text).planned = true;
        }
    }

    /// With network sizes on the x axis, a plan may give the depth or width that leads to them; a
    /// record then tells the size.
    fn planned_x(&self, series_idx: usize, x: Option<f64>) -> Option<f64> {
        if self.experiment.figure.x != Figure::N_PARAMS {
            return x;
        }
        let id = &self.experiment.series[series_idx].id;
        size_at(&self.candidates, id, x).or(x)
    }

    /// Whether a series stands for a method by a model of it.
    #[must_use]
    pub fn is_model(&self, series: &str) -> bool {
        let trials = self.records.iter().map(|record| &record.trial).filter(|trial| trial.series == series);
        let mut methods = trials.filter_map(|trial| trial.settings.read::<method::Config>().ok());
        methods.any(|method::Config { method }| method.is_model())
    }

    /// Cores of the machines that the largest job ran on; `None` where trials are not jobs.
    #[must_use]
    pub fn n_cores(&self) -> Option<f64> {
        self.records.iter().filter_map(|record| CORES.of(&record.epochs)).reduce(f64::max)
    }

    fn add_records(&mut self) {
        for record in self.records.clone() {
            let series_idx = series_idx(self.experiment, &record.trial.series).expect("strangers are out");
            if !self.needs(series_idx) {
                continue;
            }
            let x = x_of(self.experiment, &self.candidates, record);
            let x_text = self.x_text(x, &record.trial.x_text);
            let metric = self.metric;
            self.point(series_idx, x, x_text).add(record, metric);
        }
    }

    /// Trials of other experiments stand at the sizes of their networks.
    fn add_loans(&mut self, loans: &[Loan]) {
        for loan in loans {
            let Some(series_idx) = series_idx(self.experiment, &loan.borrowed.series) else { continue };
            if !self.needs(series_idx) {
                continue;
            }
            for record in &loan.records {
                let x = Some(record.n_params as f64);
                let x_text = self.x_text(x, "");
                let metric = self.metric;
                let point = self.point(series_idx, x, x_text);
                point.add(record, metric);
                let origin = loan.origin(Some(record));
                if !point.origins.contains(&origin) {
                    point.origins.push(origin);
                }
            }
        }
    }

    /// Published points of series without trials; they belong to the main figure.
    fn add_quoted(&mut self) {
        if !self.panel.id.is_empty() {
            return;
        }
        let unit = self.metric.unit.suffix().trim();
        for quoted in &self.experiment.quoted {
            let Some(series_idx) = series_idx(self.experiment, &quoted.series) else { continue };
            let x_text = self.x_text(Some(quoted.x), "");
            let point = self.point(series_idx, Some(quoted.x), x_text);
            point.published = Some(Expected {
                panel: String::new(),
                series: quoted.series.clone(),
                x: Some(quoted.x),
                value: quoted.y,
                unit: unit.to_owned(),
                tolerance: None,
                source: quoted.source.clone(),
            });
            point.origins.push(format!("published: {}", quoted.source));
        }
    }

    fn add_published(&mut self) {
        let id = self.panel.id.clone();
        for expected in self.experiment.expected.iter().filter(|expected| expected.panel == id) {
            let Some(series_idx) = series_idx(self.experiment, &expected.series) else { continue };
            let x = if self.experiment.series[series_idx].constant { None } else { expected.x };
            let x_text = self.x_text(x, "");
            self.point(series_idx, x, x_text).published = Some(expected.clone());
        }
    }

    /// The point at that place, made if need be.
    fn point(&mut self, series_idx: usize, x: Option<f64>, x_text: String) -> &mut Point {
        let found = self.points.iter().position(|p| p.series_idx == series_idx && same_x(p.x, x));
        let idx = found.unwrap_or_else(|| {
            self.points.push(Point {
                series_idx,
                x,
                x_text,
                planned: false,
                values: BTreeMap::new(),
                absolute: BTreeMap::new(),
                best: BTreeMap::new(),
                n_diverged: 0,
                n_failed: 0,
                n_without_value: 0,
                origins: Vec::new(),
                is_lossy: false,
                published: None,
                published_absolute: None,
            });
            self.points.len() - 1
        });
        &mut self.points[idx]
    }

    /// The text of an x value: as another point at this x has it, else as given, else as another
    /// scale's plan has it, else the number.
    fn x_text(&self, x: Option<f64>, given: &str) -> String {
        let Some(value) = x else { return String::new() };
        if self.experiment.figure.x == Figure::N_PARAMS {
            return position(value);
        }
        let elsewhere = || {
            let mut cells = self.experiment.scales.values().flat_map(|plan| &plan.cells);
            cells.find(|cell| same_x(cell.x, x)).map(|cell| cell.x_text.clone())
        };
        let here = self.points.iter().find(|p| same_x(p.x, x)).map(|p| p.x_text.clone());
        let given = (!given.is_empty()).then(|| given.to_owned());
        let text = here.or(given).or_else(elsewhere).unwrap_or_else(|| position(value));
        // Numbers read alike everywhere, whichever way a file writes them.
        if text.parse::<f64>().is_ok_and(|number| same_x(Some(number), x)) { position(value) } else { text }
    }
}

/// Of records with the same series, x, value of the tuned setting and seed, which stand side by side, only the last.
fn last_of_each<'a>(experiment: &Experiment, sorted: Vec<&'a TrialRecord>) -> Vec<&'a TrialRecord> {
    let mut kept: Vec<&TrialRecord> = Vec::new();
    for record in sorted.iter().copied() {
        let is_same = |other: &&TrialRecord| {
            let (a, b) = (&other.trial, &record.trial);
            (&a.series, &a.tuned, a.seed) == (&b.series, &b.tuned, b.seed)
                && same_x(x_of(experiment, &sorted, other), x_of(experiment, &sorted, record))
        };
        if kept.last().is_some_and(is_same) {
            kept.pop();
        }
        kept.push(record);
    }
    kept
}

/// Where the values of a metric can lie.
pub(super) fn range_of(metric: &Metric) -> Range {
    match metric.unit {
        _ if is_time(metric) => Range::Positive,
        Unit::Percent => Range::Percent,
        _ => Range::Free,
    }
}

fn is_time(metric: &Metric) -> bool {
    let speeds = [STEPS_PER_HOUR.name, SPEED_UP.name];
    matches!(metric.unit, Unit::Seconds | Unit::Hours) || speeds.contains(&metric.name)
}

/// The index of the series with that id.
pub(super) fn series_idx(experiment: &Experiment, id: &str) -> Option<usize> {
    experiment.series.iter().position(|s| s.id == id)
}

/// Where a record stands on the x axis. On one of network sizes, what failed before its network was built stands at the
/// size that another of `records` has there.
pub(super) fn x_of(experiment: &Experiment, records: &[&TrialRecord], record: &TrialRecord) -> Option<f64> {
    let series = experiment.series.iter().find(|s| s.id == record.trial.series)?;
    match experiment.figure.x.as_str() {
        _ if series.constant => None,
        Figure::N_PARAMS if record.n_params == 0 => {
            size_at(records, &series.id, record.trial.x).or(record.trial.x)
        }
        Figure::N_PARAMS => Some(record.n_params as f64),
        _ => record.trial.x,
    }
}

/// The size of the networks of a series at one value of what makes them larger, as far as one was built.
fn size_at(records: &[&TrialRecord], series: &str, x: Option<f64>) -> Option<f64> {
    let is_there = |r: &&&TrialRecord| r.n_params > 0 && r.trial.series == series && same_x(r.trial.x, x);
    records.iter().find(is_there).map(|record| record.n_params as f64)
}

/// Whether two positions are the same, up to rounding in a file.
pub(super) fn same_x(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
        (None, None) => true,
        _ => false,
    }
}

/// Test accuracy in percent at the epoch that the validation images chose.
fn best_test_accuracy(record: &TrialRecord) -> Option<f64> {
    let best = record.best_epoch?;
    let epoch = record.epochs.iter().find(|e| e.epoch == best)?;
    let value = TEST_ACCURACY.at(epoch);
    value.is_finite().then_some(value)
}
