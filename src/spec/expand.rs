//! From a parsed experiment file to a checked experiment: names resolved, grids laid out, the
//! settings of every cell complete.

use std::collections::BTreeMap;
use std::path::Path;

use super::assign::text_of;
use super::experiment::{Cell, Check, Expected, Experiment, Figure, Rule, Scale, ScalePlan, Series};
use super::settings::Settings;
use super::source::{Source, Sources};
use super::trial::number_text;
use super::wire::{Assignments, WireCheck, WireExperiment, WireScale};
use crate::{Error, Result};

/// The x axis that counts network parameters; another setting varies, see `figure.axis`.
pub(super) const N_PARAMS: &str = "n-params";

/// Metrics that a figure can show.
const METRICS: [&str; 9] = [
    "test-accuracy",
    "test-loss",
    "val-accuracy",
    "val-loss",
    "train-accuracy",
    "train-loss",
    "wall-s",
    "queries",
    "gradient-norm",
];

impl Experiment {
    /// Reads an experiment file. A file that `extends` another finds it in the same folder, or else
    /// among those built in.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Spec`] when it does not hold a sound
    /// experiment.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let library = super::Library::beside(path);
        library.build(Source::new(path.display().to_string(), text), None)
    }

    /// Reads an experiment from the text of a file; `file_name` is for error messages.
    ///
    /// # Errors
    /// [`Error::Spec`] when the text does not hold a sound experiment.
    pub fn parse(file_name: &str, text: &str) -> Result<Self> {
        super::Library::embedded().build(Source::new(file_name, text), None)
    }
}

/// Checks a parsed file and lays out its grids.
pub(super) fn expand(wire: WireExperiment, sources: Sources) -> Result<Experiment> {
    let expander = Expander { axis: axis_of(&wire, &sources)?, wire, sources };
    let figure = expander.figure()?;
    let series = expander.series()?;
    let scales = expander.scales()?;
    let expected = expander.expected()?;
    let checks = expander.checks()?;
    let WireExperiment { id, title, paper, claim, notes, .. } = expander.wire;
    Ok(Experiment { id, title, paper, claim, checks, notes, figure, series, expected, scales })
}

/// The setting that varies along x.
fn axis_of(wire: &WireExperiment, sources: &Sources) -> Result<&'static str> {
    let (path, name) = match &wire.figure.axis {
        Some(axis) => ("figure.axis", axis),
        None if wire.figure.x == N_PARAMS => {
            return Err(sources.error(
                "figure.axis",
                format!("x = \"{N_PARAMS}\" needs the setting that varies, such as depth"),
            ));
        }
        None => ("figure.x", &wire.figure.x),
    };
    Settings::resolve(name).map_err(|error| sources.error(path, reason_of(error)))
}

struct Expander {
    axis: &'static str,
    wire: WireExperiment,
    sources: Sources,
}

/// A point on the x axis.
struct Point {
    value: toml::Value,
    /// Where the value stands in the file.
    path: String,
    x: f64,
    x_text: String,
}

impl Expander {
    fn error<T>(&self, path: &str, reason: impl Into<String>) -> Result<T> {
        Err(self.sources.error(path, reason))
    }

    fn figure(&self) -> Result<Figure> {
        let wire = &self.wire.figure;
        let x = if wire.x == N_PARAMS {
            N_PARAMS
        } else {
            Settings::resolve(&wire.x).or_else(|error| self.error("figure.x", reason_of(error)))?
        };
        if (x != self.axis) != wire.coordinates.is_some() {
            return self.error("figure.coordinates", "needed exactly when x is not the axis that varies");
        }
        let Some(y) = wire.y.clone() else {
            return self.error("figure.y", format!("missing; one of {}", METRICS.join(", ")));
        };
        if !METRICS.contains(&y.as_str()) {
            return self.error("figure.y", format!("expected one of {}; got {y}", METRICS.join(", ")));
        }
        self.check_list("figure.values", &wire.values)?;
        let named = wire.values.iter().any(|value| number_of(value).is_none());
        Ok(Figure {
            x: x.to_owned(),
            x_label: wire.x_label.clone(),
            y_label: wire.y_label.clone().unwrap_or_else(|| y.clone()),
            y,
            categorical: named || wire.categorical.unwrap_or(false),
        })
    }

    fn check_list(&self, path: &str, values: &[toml::Value]) -> Result<()> {
        if values.is_empty() {
            return self.error(path, "expected at least one value");
        }
        for (idx, value) in values.iter().enumerate() {
            if values[..idx].contains(value) {
                return self.error(&format!("{path}[{idx}]"), format!("{} occurs twice", text_of(value)));
            }
        }
        Ok(())
    }

    fn series(&self) -> Result<Vec<Series>> {
        if self.wire.series.is_empty() {
            return self.error("series", "expected at least one");
        }
        for (idx, series) in self.wire.series.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if series.id.is_empty() || !series.id.chars().all(plain) {
                let path = format!("series[{idx}].id");
                return self.error(
                    &path,
                    format!("expected lower-case letters, digits and hyphens; got `{}`", series.id),
                );
            }
            if self.wire.series[..idx].iter().any(|other| other.id == series.id) {
                return self.error(&format!("series[{idx}].id"), format!("`{}` occurs twice", series.id));
            }
        }
        let series = self.wire.series.iter();
        Ok(series
            .map(|s| Series { id: s.id.clone(), label: s.label.clone(), constant: s.constant })
            .collect())
    }

    /// Requires `id` to be a series.
    fn known_series(&self, path: &str, id: &str) -> Result<String> {
        if self.wire.series.iter().any(|series| series.id == id) {
            return Ok(id.to_owned());
        }
        let ids: Vec<_> = self.wire.series.iter().map(|series| series.id.as_str()).collect();
        self.error(path, format!("no series `{id}`; expected one of {}", ids.join(", ")))
    }

    fn expected(&self) -> Result<Vec<Expected>> {
        let points = self.points("figure", None)?;
        let mut all = Vec::new();
        for (idx, wire) in self.wire.expected.iter().enumerate() {
            let series = self.known_series(&format!("expected[{idx}].series"), &wire.series)?;
            let constant = self.wire.series.iter().any(|s| s.id == series && s.constant);
            let xs = if constant { vec![None] } else { points.iter().map(|point| Some(point.x)).collect() };
            if xs.len() != wire.values.len() {
                let path = format!("expected[{idx}].values");
                return self
                    .error(&path, format!("expected {}, one per x; got {}", xs.len(), wire.values.len()));
            }
            if !(wire.tolerance > 0.0 && wire.tolerance.is_finite()) {
                let path = format!("expected[{idx}].tolerance");
                return self
                    .error(&path, format!("expected a finite number above 0; got {}", wire.tolerance));
            }
            all.extend(xs.into_iter().zip(&wire.values).map(|(x, value)| Expected {
                series: series.clone(),
                x,
                value: *value,
                tolerance: wire.tolerance,
                source: wire.source.clone(),
            }));
        }
        Ok(all)
    }

    fn checks(&self) -> Result<Vec<Check>> {
        let checks = self.wire.check.iter().enumerate();
        checks.map(|(idx, wire)| Ok(Check { text: wire.text.clone(), rule: self.rule(idx, wire)? })).collect()
    }

    fn rule(&self, idx: usize, wire: &WireCheck) -> Result<Rule> {
        let path = format!("check[{idx}]");
        let pair = |name: &str, [left, right]: &[String; 2]| {
            let path = format!("{path}.{name}");
            Ok::<_, Error>((self.known_series(&path, left)?, self.known_series(&path, right)?))
        };
        let bounded = wire.min_x.is_some() || wire.max_x.is_some();
        match (&wire.above, &wire.close, &wire.widens) {
            (Some(both), None, None) => {
                let (left, right) = pair("above", both)?;
                Ok(Rule::Above {
                    left,
                    right,
                    margin: wire.margin.unwrap_or(0.0),
                    min_x: wire.min_x.unwrap_or(f64::NEG_INFINITY),
                    max_x: wire.max_x.unwrap_or(f64::INFINITY),
                })
            }
            (None, Some(both), None) if !bounded => match wire.margin {
                Some(margin) => {
                    let (left, right) = pair("close", both)?;
                    Ok(Rule::Close { left, right, margin })
                }
                None => self.error(&path, "close needs a margin"),
            },
            (None, None, Some(both)) if !bounded && wire.margin.is_none() => {
                let (left, right) = pair("widens", both)?;
                Ok(Rule::Widens { left, right })
            }
            _ => self.error(
                &path,
                "expected one of above (with margin, min-x, max-x), close (with margin) and widens (alone)",
            ),
        }
    }

    fn scales(&self) -> Result<BTreeMap<Scale, ScalePlan>> {
        let wire = &self.wire.scale;
        let all = [(Scale::Smoke, &wire.smoke), (Scale::Laptop, &wire.laptop), (Scale::Paper, &wire.paper)];
        let mut plans = BTreeMap::new();
        for (scale, wire) in all {
            if let Some(wire) = wire {
                plans.insert(scale, self.plan(scale, wire)?);
            }
        }
        if plans.is_empty() {
            return self.error("scale", "expected at least one of smoke, laptop, paper");
        }
        Ok(plans)
    }

    fn plan(&self, scale: Scale, wire: &WireScale) -> Result<ScalePlan> {
        let path = format!("scale.{scale}");
        let n_seeds = match wire.seeds {
            Some(0) => {
                return self.error(&format!("{path}.seeds"), "expected an integer of at least 1; got 0");
            }
            Some(n_seeds) => n_seeds,
            None => return self.error(&format!("{path}.seeds"), "missing"),
        };
        for id in wire.series.keys() {
            self.known_series(&format!("{path}.series.{id}"), id)?;
        }
        let points = self.points(&path, Some(wire))?;
        let mut cells = Vec::new();
        for (series_idx, series) in self.wire.series.iter().enumerate() {
            if series.constant {
                let settings = self.settings(&path, wire, series_idx, None)?;
                cells.push(Cell { series_idx, x: None, x_text: String::new(), settings });
                continue;
            }
            for point in &points {
                let settings = self.settings(&path, wire, series_idx, Some(point))?;
                cells.push(Cell { series_idx, x: Some(point.x), x_text: point.x_text.clone(), settings });
            }
        }
        Ok(ScalePlan { n_seeds, deviations: wire.deviations.clone().unwrap_or_default(), cells })
    }

    /// The grid of a scale, or of the figure when `scale` is `None`.
    fn points(&self, path: &str, scale: Option<&WireScale>) -> Result<Vec<Point>> {
        let figure = &self.wire.figure;
        let (path, values, coordinates) = match scale {
            Some(WireScale { values: Some(values), coordinates, .. }) => {
                self.check_list(&format!("{path}.values"), values)?;
                (path, values, coordinates.as_ref())
            }
            Some(WireScale { coordinates, .. }) => ("figure", &figure.values, coordinates.as_ref()),
            None => ("figure", &figure.values, None),
        };
        let n_x = coordinates.or(figure.coordinates.as_ref().filter(|_| path == "figure")).map(Vec::len);
        if n_x.is_some_and(|n_x| n_x != values.len()) {
            return self
                .error(&format!("{path}.coordinates"), format!("expected {}, one per value", values.len()));
        }
        let points = values.iter().enumerate().map(|(idx, value)| {
            let path = format!("{path}.values[{idx}]");
            let (x, x_text) = self.x_of(&path, value, coordinates.map(|all| all[idx]))?;
            Ok(Point { value: value.clone(), path, x, x_text })
        });
        points.collect()
    }

    /// Where a value stands on the x axis: its own coordinate, that of the same value in the
    /// figure, the number itself, or the position of a name in the figure's list.
    fn x_of(&self, path: &str, value: &toml::Value, coordinate: Option<f64>) -> Result<(f64, String)> {
        let figure = &self.wire.figure;
        let position = figure.values.iter().position(|other| other == value);
        if figure.coordinates.is_some() || coordinate.is_some() {
            let known =
                figure.coordinates.as_ref().zip(position).and_then(|(all, idx)| all.get(idx).copied());
            return match coordinate.or(known) {
                Some(x) => Ok((x, number_text(x))),
                None => self.error(path, "not among figure.values, so this scale needs its own coordinates"),
            };
        }
        match (number_of(value), position) {
            (Some(x), _) => Ok((x, text_of(value))),
            (None, Some(position)) => Ok((position as f64, text_of(value))),
            (None, None) => self.error(path, format!("{} is not among figure.values", text_of(value))),
        }
    }

    /// The complete, checked settings of one cell.
    fn settings(
        &self,
        scale_path: &str,
        scale: &WireScale,
        series_idx: usize,
        point: Option<&Point>,
    ) -> Result<Settings> {
        let series = &self.wire.series[series_idx];
        let series_path = format!("series[{series_idx}]");
        let none = Assignments::new();
        let layers = [
            ("base".to_owned(), &self.wire.base),
            (format!("{scale_path}.set"), &scale.set),
            (format!("{series_path}.set"), &series.set),
            (format!("{scale_path}.series.{}", series.id), scale.series.get(&series.id).unwrap_or(&none)),
        ];
        let mut settings = Settings::default();
        // Where each setting got its value, to blame for a broken rule.
        let mut places: BTreeMap<&str, String> = BTreeMap::new();
        for (depth, (path, layer)) in layers.iter().enumerate() {
            for (key, value) in *layer {
                let path = format!("{path}.{key}");
                let name = Settings::resolve(key).or_else(|error| self.error(&path, reason_of(error)))?;
                if point.is_some() && depth >= 2 && name == self.axis {
                    return self.error(&path, "this is the x axis; only a constant series sets it");
                }
                settings.set(key, value).or_else(|error| self.error(&path, reason_of(error)))?;
                places.insert(name, path);
            }
        }
        if let Some(point) = point {
            settings
                .set(self.axis, &point.value)
                .or_else(|error| self.error(&point.path, reason_of(error)))?;
            places.insert(self.axis, point.path.clone());
        }
        settings.check().map_err(|error| match error {
            Error::Setting { key, reason } => {
                // The setting at fault, or else one that its reason names, as far as the file has them.
                let named = || places.iter().find(|(name, _)| reason.contains(&format!("{name} = ")));
                let path = places.get(key.as_str()).or_else(|| named().map(|(_, path)| path));
                let path = path.unwrap_or(&series_path);
                let at = point
                    .map_or(String::new(), |point| format!(" at {} = {}", self.axis, text_of(&point.value)));
                let reason =
                    format!("{key}: {reason} (series `{}`{at}, {})", series.id, scale_path.replace('.', " "));
                self.sources.error(path, reason)
            }
            other => other,
        })?;
        Ok(settings)
    }
}

/// A number's value, or `None` for a name or a truth value.
fn number_of(value: &toml::Value) -> Option<f64> {
    value.as_float().or(value.as_integer().map(|value| value as f64))
}

/// What is wrong, without the key: the file position names it.
fn reason_of(error: Error) -> String {
    match error {
        Error::Setting { reason, .. } => reason,
        other => other.to_string(),
    }
}
