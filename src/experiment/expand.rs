//! From a parsed experiment file to a checked experiment: names resolved, grids laid out, the
//! settings of every cell complete.

use std::collections::BTreeMap;
use std::path::Path;

use super::definition::{
    At, Borrowed, BorrowedAt, Cell, Check, Comparison, Expected, Experiment, Figure, Layers, Panel,
    ProfileFigure, Quoted, Scale, ScalePlan, Series, TensorMeasure, Trace, TraceAxis, Trend,
};
use super::settings;
use super::source::{Source, Sources};
use super::trial::{MAX_SEEDS, number_text};
use super::wire::SWEEP_PREFIX;
use super::wire::{
    Assignments, BEST, LARGEST, LAYOUT, WireCheck, WireExperiment, WireScale, number_of, same_value,
};
use crate::error::shortened;
use crate::metric::Metric;
use crate::profile::Profile;
use crate::setting::{Settings, Values, text_of};
use crate::{Error, Result};

impl Experiment {
    /// Reads an experiment file. A file that `extends` another finds it in the same folder, or else
    /// among those built in.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Spec`] when it does not hold a sound
    /// experiment.
    pub fn load(path: &Path) -> Result<Self> {
        let source = super::library::read(path)?;
        super::Library::beside(path).build(source, None)
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
    check_sizes(&wire, &sources)?;
    let expander = Expander { axis: axis_of(&wire, &sources)?, wire, sources };
    expander.check_without_trials()?;
    let figure = expander.figure()?;
    let series = expander.series()?;
    let borrowed = expander.borrowed()?;
    let quoted = expander.quoted()?;
    let tuned = expander.tuned()?;
    let scales = expander.scales()?;
    expander.check_shared(&scales)?;
    let panels = expander.panels(figure.categorical)?;
    let traces = expander.traces()?;
    let layers = expander.layers()?;
    let profiles = expander.profiles()?;
    expander.check_ids()?;
    expander.check_texts()?;
    let WireExperiment { id, title, paper, claim, notes, .. } = expander.wire.clone();
    let mut experiment = Experiment {
        id,
        title,
        paper,
        claim,
        checks: Vec::new(),
        notes,
        figure,
        panels,
        traces,
        layers,
        profiles,
        tuned,
        series,
        borrowed,
        quoted,
        expected: Vec::new(),
        scales,
    };
    experiment.expected = expander.expected(&experiment)?;
    experiment.checks = expander.checks(&experiment)?;
    Ok(experiment)
}

/// Refuses lists that are longer than any experiment's, before work grows with them.
fn check_sizes(wire: &WireExperiment, sources: &Sources) -> Result<()> {
    let values = |(scale, wire): (Scale, &WireScale)| {
        let n = wire.values.as_ref().map_or(0, Vec::len);
        (format!("scale.{scale}.values"), n, MAX_VALUES)
    };
    let lists = [
        ("figure.values", wire.figure.values.len(), MAX_VALUES),
        ("series", wire.series.len(), MAX_TABLES),
        ("panel", wire.panel.len(), MAX_TABLES),
        ("trace", wire.trace.len(), MAX_TABLES),
        ("layers", wire.layers.len(), MAX_TABLES),
        ("profile", wire.profile.len(), MAX_TABLES),
        ("from", wire.from.len(), MAX_TABLES),
        ("quoted", wire.quoted.len(), MAX_TABLES),
        ("expected", wire.expected.len(), MAX_TABLES),
        ("check", wire.check.len(), MAX_TABLES),
    ];
    let lists = lists.map(|(path, n, most)| (path.to_owned(), n, most)).into_iter();
    match lists.chain(wire.scale.iter().map(values)).find(|(_, n, most)| n > most) {
        Some((path, n, most)) => Err(sources.error(&path, format!("{n} of them; at most {most}"))),
        None => Ok(()),
    }
}

/// The setting that varies along x; none where no series has trials.
fn axis_of(wire: &WireExperiment, sources: &Sources) -> Result<&'static str> {
    let (path, name) = match &wire.figure.axis {
        None if !has_trials(wire) => return Ok(""),
        Some(axis) => ("figure.axis", axis),
        None if wire.figure.x == Figure::N_PARAMS => {
            return Err(sources.error(
                "figure.axis",
                format!("x = \"{}\" needs the setting that varies, such as depth", Figure::N_PARAMS),
            ));
        }
        None => ("figure.x", &wire.figure.x),
    };
    settings::find(name).map(|entry| entry.name).map_err(|error| sources.error(path, reason_of(error)))
}

/// Whether any series has trials; a file without series is refused later.
fn has_trials(wire: &WireExperiment) -> bool {
    wire.series.is_empty() || wire.series.iter().any(|series| series.trials)
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

/// A value of the tuned setting.
struct Tried<'a> {
    value: &'a toml::Value,
    /// Where it stands in the file.
    path: String,
}

impl Expander {
    fn error<T>(&self, path: &str, reason: impl Into<String>) -> Result<T> {
        Err(self.sources.error(path, reason))
    }

    fn figure(&self) -> Result<Figure> {
        let wire = &self.wire.figure;
        let x = if wire.x == Figure::N_PARAMS {
            Figure::N_PARAMS
        } else {
            settings::find(&wire.x).or_else(|error| self.error("figure.x", reason_of(error)))?.name
        };
        if has_trials(&self.wire) && (x != self.axis) != wire.coordinates.is_some() {
            return self.error("figure.coordinates", "needed exactly when x is not the axis that varies");
        }
        let Some(y) = wire.y.clone() else {
            return self.error("figure.y", format!("missing; one of {}", Metric::names().join(", ")));
        };
        self.check_metric("figure.y", &y)?;
        if has_trials(&self.wire) {
            self.check_list("figure.values", &wire.values)?;
        }
        let named = wire.values.iter().any(|value| number_of(value).is_none());
        let categorical = named || wire.categorical.unwrap_or(false);
        if wire.log_x && categorical {
            return self.error("figure.log-x", NO_LOG_X);
        }
        let relative_to = wire.relative_to.as_ref();
        Ok(Figure {
            x: x.to_owned(),
            x_label: wire.x_label.clone(),
            y_label: wire.y_label.clone().unwrap_or_else(|| y.clone()),
            y,
            categorical,
            relative_to: relative_to.map(|id| self.known_series("figure.relative-to", id)).transpose()?,
            log_x: wire.log_x,
            log_y: wire.log_y,
            has_ideal: self.ideal("figure", wire.ideal, wire.log_x || wire.log_y || categorical)?,
            lead: self.lead()?,
        })
    }

    /// The further figure that is shown first.
    fn lead(&self) -> Result<Option<String>> {
        let wire = &self.wire;
        let Some(lead) = &wire.figure.lead else { return Ok(None) };
        let panels = wire.panel.iter().map(|panel| &panel.id);
        let traces = wire.trace.iter().map(|trace| &trace.id);
        let layers = wire.layers.iter().map(|layers| &layers.id);
        let profiles = wire.profile.iter().map(|profile| &profile.id);
        let known: Vec<&str> =
            panels.chain(traces).chain(layers).chain(profiles).map(String::as_str).collect();
        match known.contains(&lead.as_str()) {
            true => Ok(Some(lead.clone())),
            false if known.is_empty() => self.error("figure.lead", "there is no further figure"),
            false => self.error("figure.lead", format!("no figure `{lead}`, but {}", known.join(", "))),
        }
    }

    /// Requires a file to say nothing in vain about series that have no trials.
    fn check_without_trials(&self) -> Result<()> {
        let wire = &self.wire;
        if (!wire.from.is_empty() || !has_trials(wire)) && wire.figure.x != Figure::N_PARAMS {
            let reason = format!("expected {}, where the points of [[from]] stand", Figure::N_PARAMS);
            return self.error("figure.x", reason);
        }
        for (idx, series) in wire.series.iter().enumerate().filter(|(_, series)| !series.trials) {
            let path = format!("series[{idx}]");
            let is_named =
                wire.from.iter().any(|from| from.own.as_ref().unwrap_or(&from.series) == &series.id)
                    || wire.quoted.iter().any(|quoted| quoted.series == series.id);
            if !is_named {
                let reason = "it has no trials, and no [[from]] or [[quoted]] gives it a point";
                return self.error(&format!("{path}.trials"), reason);
            }
            if !series.set.is_empty() {
                return self.error(&format!("{path}.set"), NO_TRIALS);
            }
            if series.constant {
                return self.error(&format!("{path}.constant"), NO_TRIALS);
            }
        }
        for (idx, series) in
            wire.series.iter().enumerate().filter(|(_, series)| series.constant || !series.trials)
        {
            let beside = if series.constant { "constant = true" } else { "trials = false" };
            let key = series.min_x.map(|_| "min-x").or(series.max_x.map(|_| "max-x"));
            if let Some(key) = key {
                return self
                    .error(&format!("series[{idx}].{key}"), format!("has no meaning beside {beside}"));
            }
        }
        for (name, scale) in wire.scale.iter() {
            let id = scale.series.keys().find(|id| wire.series.iter().any(|s| s.id == **id && !s.trials));
            if let Some(id) = id {
                return self.error(&format!("scale.{name}.series.{id}"), NO_TRIALS);
            }
        }
        if has_trials(wire) {
            return Ok(());
        }
        let mut given = vec![
            ("figure.axis".to_owned(), wire.figure.axis.is_some()),
            ("figure.values".to_owned(), !wire.figure.values.is_empty()),
            ("figure.coordinates".to_owned(), wire.figure.coordinates.is_some()),
            ("base".to_owned(), !wire.base.is_empty()),
            ("trace".to_owned(), !wire.trace.is_empty()),
            ("layers".to_owned(), !wire.layers.is_empty()),
            ("profile".to_owned(), !wire.profile.is_empty()),
        ];
        for (name, scale) in wire.scale.iter() {
            given.extend([
                (format!("scale.{name}.seeds"), scale.seeds.is_some()),
                (format!("scale.{name}.values"), scale.values.is_some()),
                (format!("scale.{name}.coordinates"), scale.coordinates.is_some()),
                (format!("scale.{name}.set"), !scale.set.is_empty()),
            ]);
        }
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((path, _)) => {
                self.error(path, "no series of this figure has trials, so that it plays no part")
            }
            None => Ok(()),
        }
    }

    /// Requires `id` to be a series without trials.
    fn series_without_trials(&self, path: &str, id: &str) -> Result<String> {
        let id = self.known_series(path, id)?;
        match self.wire.series.iter().any(|series| series.id == id && !series.trials) {
            true => Ok(id),
            false => self.error(path, format!("`{id}` has trials of its own; only one with trials = false")),
        }
    }

    fn borrowed(&self) -> Result<Vec<Borrowed>> {
        let borrowed = self.wire.from.iter().enumerate().map(|(idx, wire)| {
            let path = format!("from[{idx}]");
            let (own_path, own) = match &wire.own {
                Some(own) => (format!("{path}.as"), own),
                None => (format!("{path}.series"), &wire.series),
            };
            let at = match &wire.at {
                None => BorrowedAt::All,
                Some(at) if at.as_str() == Some(LARGEST) => BorrowedAt::Largest,
                Some(at) => BorrowedAt::Named(text_of(at)),
            };
            Ok(Borrowed {
                experiment: wire.experiment.clone(),
                source: wire.series.clone(),
                at,
                series: self.series_without_trials(&own_path, own)?,
            })
        });
        borrowed.collect()
    }

    fn quoted(&self) -> Result<Vec<Quoted>> {
        let mut all: Vec<Quoted> = Vec::new();
        for (idx, wire) in self.wire.quoted.iter().enumerate() {
            let path = format!("quoted[{idx}]");
            let series = self.series_without_trials(&format!("{path}.series"), &wire.series)?;
            for (key, value) in [("x", wire.x), ("y", wire.y)] {
                if !value.is_finite() {
                    return self
                        .error(&format!("{path}.{key}"), format!("expected a finite number; got {value}"));
                }
            }
            if all.iter().any(|other| other.series == series && other.x.total_cmp(&wire.x).is_eq()) {
                return self.error(&format!("{path}.x"), format!("`{series}` is quoted twice there"));
            }
            all.push(Quoted { series, x: wire.x, y: wire.y, source: wire.source.clone() });
        }
        Ok(all)
    }

    fn check_metric(&self, path: &str, name: &str) -> Result<()> {
        match Metric::parse(name) {
            Ok(_) => Ok(()),
            Err(_) => self.error(
                path,
                format!("expected one of {}; got {}", Metric::names().join(", "), shortened(name)),
            ),
        }
    }

    /// Lines in proportion to x are straight on plain axes only.
    fn ideal(&self, path: &str, is_asked: bool, is_bent: bool) -> Result<bool> {
        match is_asked && is_bent {
            true => self.error(&format!("{path}.ideal"), "not with log-x, log-y or categorical"),
            false => Ok(is_asked),
        }
    }

    fn panels(&self, categorical: bool) -> Result<Vec<Panel>> {
        let panels = self.wire.panel.iter().enumerate().map(|(idx, wire)| {
            let path = format!("panel[{idx}]");
            self.check_metric(&format!("{path}.y"), &wire.y)?;
            if wire.log_x && categorical {
                return self.error(&format!("{path}.log-x"), NO_LOG_X);
            }
            let relative_to = wire.relative_to.as_ref();
            let reference = format!("{path}.relative-to");
            Ok(Panel {
                id: wire.id.clone(),
                y: wire.y.clone(),
                y_label: wire.y_label.clone().unwrap_or_else(|| wire.y.clone()),
                relative_to: relative_to.map(|id| self.known_series(&reference, id)).transpose()?,
                series: self.some_series(&path, wire.series.as_deref())?,
                log_x: wire.log_x,
                log_y: wire.log_y,
                has_ideal: self.ideal(&path, wire.ideal, wire.log_x || wire.log_y || categorical)?,
            })
        });
        panels.collect()
    }

    fn traces(&self) -> Result<Vec<Trace>> {
        let traces = self.wire.trace.iter().enumerate().map(|(idx, wire)| {
            let path = format!("trace[{idx}]");
            self.check_metric(&format!("{path}.y"), &wire.y)?;
            let x_label = match wire.x {
                TraceAxis::Epoch => "Epoch",
                TraceAxis::Queries => "Queries",
                TraceAxis::WallS => "Seconds",
            };
            Ok(Trace {
                id: wire.id.clone(),
                x: wire.x,
                x_label: wire.x_label.clone().unwrap_or_else(|| x_label.to_owned()),
                y: wire.y.clone(),
                y_label: wire.y_label.clone().unwrap_or_else(|| wire.y.clone()),
                at: self.at(&format!("{path}.at"), wire.at.as_ref())?,
                series: self.some_series(&path, wire.series.as_deref())?,
                log_x: wire.log_x,
                log_y: wire.log_y,
            })
        });
        traces.collect()
    }

    fn layers(&self) -> Result<Vec<Layers>> {
        let layers = self.wire.layers.iter().enumerate().map(|(idx, wire)| {
            let path = format!("layers[{idx}]");
            let y_label = match wire.y {
                TensorMeasure::Keep => "Kept (%)",
                TensorMeasure::Cosine => "Cosine",
                TensorMeasure::RelativeError => "Relative error",
            };
            Ok(Layers {
                id: wire.id.clone(),
                y: wire.y,
                y_label: wire.y_label.clone().unwrap_or_else(|| y_label.to_owned()),
                at: self.at(&format!("{path}.at"), wire.at.as_ref())?,
                series: self.some_series(&path, wire.series.as_deref())?,
            })
        });
        layers.collect()
    }

    fn profiles(&self) -> Result<Vec<ProfileFigure>> {
        let profiles = self.wire.profile.iter().enumerate().map(|(idx, wire)| {
            let path = format!("profile[{idx}]");
            let Some((_, columns)) = Profile::KINDS.iter().find(|(kind, _)| *kind == wire.kind) else {
                let known: Vec<&str> = Profile::KINDS.iter().map(|(kind, _)| *kind).collect();
                let reason = format!("no task makes such a profile; expected one of {}", known.join(", "));
                return self
                    .error(&format!("{path}.kind"), format!("{reason}; got `{}`", shortened(&wire.kind)));
            };
            if !columns.contains(&wire.y.replace('-', "_").as_str()) {
                let known: Vec<String> = columns.iter().map(|column| column.replace('_', "-")).collect();
                let reason = format!("expected one of {}; got `{}`", known.join(", "), shortened(&wire.y));
                return self.error(&format!("{path}.y"), reason);
            }
            Ok(ProfileFigure {
                id: wire.id.clone(),
                kind: wire.kind.clone(),
                x_label: wire.x_label.clone(),
                y: wire.y.clone(),
                y_label: wire.y_label.clone().unwrap_or_else(|| wire.y.clone()),
                at: self.at(&format!("{path}.at"), wire.at.as_ref())?,
                series: self.some_series(&path, wire.series.as_deref())?,
                log_x: wire.log_x,
                log_y: wire.log_y,
            })
        });
        profiles.collect()
    }

    /// Requires the ids of panels, traces, layers and profiles to be fit for file names and to differ.
    fn check_ids(&self) -> Result<()> {
        let wire = &self.wire;
        let panels =
            wire.panel.iter().enumerate().map(|(idx, panel)| (format!("panel[{idx}].id"), &panel.id));
        let traces =
            wire.trace.iter().enumerate().map(|(idx, trace)| (format!("trace[{idx}].id"), &trace.id));
        let layers = wire.layers.iter().enumerate().map(|(idx, one)| (format!("layers[{idx}].id"), &one.id));
        let profiles =
            wire.profile.iter().enumerate().map(|(idx, one)| (format!("profile[{idx}].id"), &one.id));
        let mut known: Vec<&str> = Vec::new();
        for (path, id) in panels.chain(traces).chain(layers).chain(profiles) {
            self.check_id(&path, id)?;
            if known.contains(&id.as_str()) {
                return self
                    .error(&path, format!("`{id}` occurs twice among panels, traces, layers and profiles"));
            }
            if wire.trace.is_empty() && id == EPOCHS {
                return self
                    .error(&path, format!("`{EPOCHS}` is the figure that there is without any [[trace]]"));
            }
            known.push(id);
        }
        Ok(())
    }

    fn check_id(&self, path: &str, id: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if id.is_empty() || id.len() > MAX_ID || !id.chars().all(plain) {
            let reason = format!("expected up to {MAX_ID} lower-case letters, digits and hyphens");
            return self.error(path, format!("{reason}; got `{}`", shortened(id)));
        }
        Ok(())
    }

    /// Requires texts that stand on one line of a report to do so, and the experiment's id, which names files and
    /// folders, to be fit for that.
    fn check_texts(&self) -> Result<()> {
        let WireExperiment { id, title, paper, figure, .. } = &self.wire;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let begins_well = id.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins_well || id.len() > MAX_ID || !id.chars().all(plain) {
            let reason = format!(
                "expected up to {MAX_ID} letters, digits, `.`, `_` and `-`, the first a letter or digit"
            );
            return self.error("id", format!("{reason}; got `{}`", shortened(id)));
        }
        self.check_text("title", Some(title))?;
        self.check_text("paper", Some(paper))?;
        self.check_text("figure.x-label", Some(&figure.x_label))?;
        self.check_text("figure.y-label", figure.y_label.as_ref())?;
        let wire = &self.wire;
        for (idx, panel) in wire.panel.iter().enumerate() {
            self.check_text(&format!("panel[{idx}].y-label"), panel.y_label.as_ref())?;
        }
        for (idx, trace) in wire.trace.iter().enumerate() {
            self.check_text(&format!("trace[{idx}].x-label"), trace.x_label.as_ref())?;
            self.check_text(&format!("trace[{idx}].y-label"), trace.y_label.as_ref())?;
        }
        for (idx, layers) in wire.layers.iter().enumerate() {
            self.check_text(&format!("layers[{idx}].y-label"), layers.y_label.as_ref())?;
        }
        for (idx, profile) in wire.profile.iter().enumerate() {
            self.check_text(&format!("profile[{idx}].x-label"), Some(&profile.x_label))?;
            self.check_text(&format!("profile[{idx}].y-label"), profile.y_label.as_ref())?;
        }
        for (idx, series) in wire.series.iter().enumerate() {
            self.check_text(&format!("series[{idx}].label"), Some(&series.label))?;
        }
        for (idx, expected) in wire.expected.iter().enumerate() {
            self.check_text(&format!("expected[{idx}].unit"), expected.unit.as_ref())?;
            self.check_text(&format!("expected[{idx}].source"), Some(&expected.source))?;
        }
        for (idx, quoted) in wire.quoted.iter().enumerate() {
            self.check_text(&format!("quoted[{idx}].source"), Some(&quoted.source))?;
        }
        Ok(())
    }

    /// Requires a text, if there is one, to be a line that fits in a figure.
    fn check_text(&self, path: &str, text: Option<&String>) -> Result<()> {
        let is_line = |text: &&String| text.chars().count() <= MAX_LINE && !text.contains(char::is_control);
        match text {
            Some(text) if !is_line(&text) => {
                let reason =
                    format!("expected one line of up to {MAX_LINE} characters without control characters");
                self.error(path, format!("{reason}; got `{}`", shortened(text)))
            }
            _ => Ok(()),
        }
    }

    /// The series asked for, or all.
    fn some_series(&self, path: &str, ids: Option<&[String]>) -> Result<Vec<String>> {
        let path = format!("{path}.series");
        match ids {
            None => Ok(self.wire.series.iter().map(|series| series.id.clone()).collect()),
            Some([]) => self.error(&path, "expected at least one"),
            Some(ids) => {
                let ids = ids.iter().enumerate();
                ids.map(|(idx, id)| self.known_series(&format!("{path}[{idx}]"), id)).collect()
            }
        }
    }

    /// Where on the x axis `at` points to: a place in the figure's grid or that of any scale.
    fn at(&self, path: &str, at: Option<&toml::Value>) -> Result<Option<At>> {
        let Some(at) = at else { return Ok(None) };
        if at.as_str() == Some(BEST) {
            return Ok(Some(At::Best));
        }
        let points: Vec<Point> = self.grids()?.into_iter().flatten().collect();
        let is_here = |point: &&Point| match (number_of(at), number_of(&point.value)) {
            (Some(_), Some(_)) => same_value(&toml::Value::Float(point.x), at),
            _ => same_value(&point.value, at),
        };
        if let Some(point) = points.iter().find(is_here) {
            return Ok(Some(At::X(point.x)));
        }
        let mut known: Vec<&str> = Vec::new();
        for point in &points {
            if !known.contains(&point.x_text.as_str()) {
                known.push(&point.x_text);
            }
        }
        let got = shortened(&text_of(at));
        self.error(path, format!("expected one of {}, or {BEST}; got {got}", known.join(", ")))
    }

    /// The positions of the figure, and those of every scale.
    fn grids(&self) -> Result<Vec<Vec<Point>>> {
        let mut grids = vec![self.points("figure", None)?];
        for (name, scale) in self.wire.scale.iter() {
            grids.push(self.points(&format!("scale.{name}"), Some(scale))?);
        }
        Ok(grids)
    }

    fn check_list(&self, path: &str, values: &[toml::Value]) -> Result<()> {
        if values.is_empty() {
            return self.error(path, "expected at least one value");
        }
        for (idx, value) in values.iter().enumerate() {
            if values[..idx].iter().any(|other| same_value(other, value)) {
                return self.error(
                    &format!("{path}[{idx}]"),
                    format!("{} occurs twice", shortened(&text_of(value))),
                );
            }
        }
        Ok(())
    }

    fn series(&self) -> Result<Vec<Series>> {
        if self.wire.series.is_empty() {
            return self.error("series", "expected at least one");
        }
        for (idx, series) in self.wire.series.iter().enumerate() {
            self.check_id(&format!("series[{idx}].id"), &series.id)?;
            if self.wire.series[..idx].iter().any(|other| other.id == series.id) {
                return self.error(&format!("series[{idx}].id"), format!("`{}` occurs twice", series.id));
            }
        }
        let series = self.wire.series.iter();
        Ok(series
            .map(|s| Series {
                id: s.id.clone(),
                label: s.label.clone(),
                constant: s.constant,
                has_trials: s.trials,
            })
            .collect())
    }

    /// Requires `id` to be a series.
    fn known_series(&self, path: &str, id: &str) -> Result<String> {
        if self.wire.series.iter().any(|series| series.id == id) {
            return Ok(id.to_owned());
        }
        let ids: Vec<_> = self.wire.series.iter().map(|series| series.id.as_str()).collect();
        let id = shortened(id);
        self.error(path, format!("no series `{id}`; expected one of {}", ids.join(", ")))
    }

    /// The panel with that id; the main figure for the empty one.
    fn known_panel(&self, path: &str, experiment: &Experiment, id: &str) -> Result<Panel> {
        if id.is_empty() {
            return Ok(experiment.main_panel());
        }
        if let Some(panel) = experiment.panels.iter().find(|panel| panel.id == id) {
            return Ok(panel.clone());
        }
        let ids: Vec<&str> = experiment.panels.iter().map(|panel| panel.id.as_str()).collect();
        let known = if ids.is_empty() { "there are none".to_owned() } else { ids.join(", ") };
        let id = shortened(id);
        self.error(path, format!("no panel `{id}`; expected one of those in [[panel]]: {known}"))
    }

    /// Requires `id` to be a series with values in the panel.
    fn shown_series(&self, path: &str, panel: &Panel, id: &str) -> Result<String> {
        let id = self.known_series(path, id)?;
        if panel.relative_to.as_ref() == Some(&id) {
            return self.error(path, format!("the figure is relative to `{id}`, which has no values in it"));
        }
        if !panel.series.contains(&id) {
            return self.error(path, format!("`{id}` is not among the panel's series"));
        }
        Ok(id)
    }

    fn expected(&self, experiment: &Experiment) -> Result<Vec<Expected>> {
        let points = self.points("figure", None)?;
        let mut all: Vec<Expected> = Vec::new();
        for (idx, wire) in self.wire.expected.iter().enumerate() {
            let path = format!("expected[{idx}]");
            let panel = self.known_panel(&format!("{path}.panel"), experiment, &wire.panel)?;
            let is_reference = panel.relative_to.as_ref() == Some(&wire.series);
            let series_path = format!("{path}.series");
            let series = match is_reference {
                true => self.known_series(&series_path, &wire.series)?,
                false => self.shown_series(&series_path, &panel, &wire.series)?,
            };
            if self.wire.series.iter().any(|s| s.id == series && !s.trials) {
                return self.error(&series_path, format!("`{series}` has no trials; [[quoted]] is for it"));
            }
            let constant = self.wire.series.iter().any(|s| s.id == series && s.constant);
            let xs = if constant { vec![None] } else { points.iter().map(|point| Some(point.x)).collect() };
            if xs.len() != wire.values.len() {
                let path = format!("{path}.values");
                return self
                    .error(&path, format!("expected {}, one per x; got {}", xs.len(), wire.values.len()));
            }
            if !(wire.tolerance > 0.0 && wire.tolerance.is_finite()) {
                let path = format!("{path}.tolerance");
                return self
                    .error(&path, format!("expected a finite number above 0; got {}", wire.tolerance));
            }
            let own = Metric::parse(&panel.y)?.unit.suffix().trim();
            let unit = wire.unit.as_deref().unwrap_or(own);
            let unit_path = format!("{path}.unit");
            if panel.relative_to.is_none() && unit != own {
                let reason =
                    format!("only the published values of a relative figure may differ from `{own}`");
                return self.error(&unit_path, reason);
            }
            if let Some(other) = all.iter().find(|other| other.panel == panel.id && other.unit != unit) {
                let reason =
                    format!("all published values of a figure share one; others have `{}`", other.unit);
                return self.error(&unit_path, reason);
            }
            if all.iter().any(|other| other.panel == panel.id && other.series == series) {
                let figure = if panel.id.is_empty() { "the main figure" } else { panel.id.as_str() };
                let reason =
                    format!("`{series}` has published values in {figure} already; is a panel missing?");
                return self.error(&series_path, reason);
            }
            all.extend(xs.into_iter().zip(&wire.values).map(|(x, value)| Expected {
                panel: panel.id.clone(),
                series: series.clone(),
                x,
                value: *value,
                unit: unit.to_owned(),
                tolerance: Some(wire.tolerance),
                source: wire.source.clone(),
            }));
        }
        Ok(all)
    }

    fn checks(&self, experiment: &Experiment) -> Result<Vec<Check>> {
        if !self.wire.check.is_empty() && self.wire.series.iter().all(|series| !series.trials) {
            return self.error("check", "nothing is judged where points are results of other experiments");
        }
        let checks = self.wire.check.iter().enumerate().map(|(idx, wire)| {
            let path = format!("check[{idx}]");
            let panel = self.known_panel(&format!("{path}.panel"), experiment, &wire.panel)?;
            Ok(Check {
                text: wire.text.clone(),
                comparison: self.comparison(&path, wire, &panel)?,
                at_best: wire.at.is_some(),
                of_layout: self.is_of_layout(&path, wire, &panel)?,
                panel: panel.id,
            })
        });
        checks.collect()
    }

    fn comparison(&self, path: &str, wire: &WireCheck, panel: &Panel) -> Result<Comparison> {
        let kind = self.kind(path, wire)?;
        let (min_x, max_x) = (wire.min_x.unwrap_or(f64::NEG_INFINITY), wire.max_x.unwrap_or(f64::INFINITY));
        self.check_range(path, wire, kind)?;
        let margin = wire.margin.unwrap_or(0.0);
        let margin_path = format!("{path}.margin");
        match kind {
            "close" | "flat" if wire.margin.is_none() => {
                return self.error(path, format!("{kind} needs a margin"));
            }
            "close" | "flat" if !(margin > 0.0 && margin.is_finite()) => {
                return self.error(&margin_path, format!("expected a finite number above 0; got {margin}"));
            }
            _ if !margin.is_finite() => {
                return self.error(&margin_path, format!("expected a finite number; got {margin}"));
            }
            _ => {}
        }
        let path = format!("{path}.{kind}");
        if let Some([left, right]) = wire.above.as_ref().or(wire.close.as_ref()).or(wire.widens.as_ref()) {
            let left = self.shown_series(&path, panel, left)?;
            let right = self.shown_series(&path, panel, right)?;
            if left == right {
                return self.error(&path, format!("`{left}` cannot be compared with itself"));
            }
            return Ok(match kind {
                "above" => Comparison::Above { left, right, margin, min_x, max_x },
                "close" => Comparison::Close { left, right, margin, min_x, max_x },
                _ => Comparison::Widens { left, right },
            });
        }
        let one = [&wire.within, &wire.falls, &wire.rises, &wire.flat].into_iter().flatten().next();
        let series = self.shown_series(&path, panel, one.expect("exactly one kind is given"))?;
        let trend = match kind {
            "falls" => Trend::Falls,
            "rises" => Trend::Rises,
            "flat" => Trend::Flat,
            _ => {
                return match (wire.low, wire.high) {
                    (Some(low), Some(high)) if low <= high => {
                        Ok(Comparison::Within { series, low, high, min_x, max_x })
                    }
                    _ => self.error(&path, "within needs low and high, low being no larger"),
                };
            }
        };
        Ok(Comparison::Trend { series, trend, margin, min_x, max_x })
    }

    /// Requires the range of a check to have as many positions as it takes, at some scale at least.
    fn check_range(&self, path: &str, wire: &WireCheck, kind: &str) -> Result<()> {
        let Some(key) = wire.min_x.map(|_| "min-x").or(wire.max_x.map(|_| "max-x")) else { return Ok(()) };
        let (min_x, max_x) = (wire.min_x.unwrap_or(f64::NEG_INFINITY), wire.max_x.unwrap_or(f64::INFINITY));
        let wanted = if matches!(kind, "falls" | "rises" | "flat") { 2 } else { 1 };
        let figure = &self.wire.figure;
        // Sizes of networks are not known before they are built.
        if figure.x == Figure::N_PARAMS && figure.coordinates.is_none() {
            return Ok(());
        }
        let grids = self.grids()?;
        let n_within =
            |grid: &Vec<Point>| grid.iter().filter(|point| min_x <= point.x && point.x <= max_x).count();
        match grids.iter().map(n_within).max() {
            Some(n) if n >= wanted => Ok(()),
            n => self.error(
                &format!("{path}.{key}"),
                format!("this range has {} positions at most, and {kind} takes {wanted}", n.unwrap_or(0)),
            ),
        }
    }

    /// Whether the spread is to come from the layout of all series, which needs three of them at the same x.
    fn is_of_layout(&self, path: &str, wire: &WireCheck, panel: &Panel) -> Result<bool> {
        let path = format!("{path}.spread");
        match wire.spread.as_deref() {
            None => Ok(false),
            Some(LAYOUT) if wire.at.is_some() => self.error(&path, "has no meaning beside at"),
            Some(LAYOUT) if panel.series.len() < 3 => {
                self.error(&path, "a layout needs three series at least")
            }
            Some(LAYOUT) => Ok(true),
            Some(other) => self.error(&path, format!("expected {LAYOUT}; got {}", shortened(other))),
        }
    }

    /// The kind of a check; an error unless there is exactly one, with none but its own keys.
    fn kind(&self, path: &str, wire: &WireCheck) -> Result<&'static str> {
        const RANGE: [&str; 2] = ["min-x", "max-x"];
        let kinds = [
            ("above", wire.above.is_some(), &["margin", "at", "spread"][..]),
            ("close", wire.close.is_some(), &["margin", "at", "spread"]),
            ("widens", wire.widens.is_some(), &[]),
            ("within", wire.within.is_some(), &["low", "high"]),
            ("falls", wire.falls.is_some(), &["margin"]),
            ("rises", wire.rises.is_some(), &["margin"]),
            ("flat", wire.flat.is_some(), &["margin"]),
        ];
        let mut given = kinds.iter().filter(|(_, is_given, _)| *is_given);
        let (Some((kind, _, own)), None) = (given.next(), given.next()) else {
            let names: Vec<&str> = kinds.iter().map(|(kind, ..)| *kind).collect();
            return self.error(path, format!("expected exactly one of {}", names.join(", ")));
        };
        let keys = [
            ("margin", wire.margin.is_some()),
            ("low", wire.low.is_some()),
            ("high", wire.high.is_some()),
            ("min-x", wire.min_x.is_some()),
            ("max-x", wire.max_x.is_some()),
            ("at", wire.at.is_some()),
            ("spread", wire.spread.is_some()),
        ];
        for (key, _) in keys.iter().filter(|(_, is_given)| *is_given) {
            let has_range = *kind != "widens" && wire.at.is_none();
            let is_own = own.contains(key) || (has_range && RANGE.contains(key));
            if !is_own {
                let beside = if wire.at.is_some() && RANGE.contains(key) { "at" } else { *kind };
                return self.error(&format!("{path}.{key}"), format!("has no meaning beside {beside}"));
            }
        }
        match wire.at.as_deref() {
            Some(at) if at != BEST => {
                self.error(&format!("{path}.at"), format!("expected {BEST}; got {}", shortened(at)))
            }
            _ => Ok(kind),
        }
    }

    fn scales(&self) -> Result<BTreeMap<Scale, ScalePlan>> {
        let mut plans = BTreeMap::new();
        for (scale, wire) in self.wire.scale.iter() {
            plans.insert(scale, self.plan(scale, wire)?);
        }
        if plans.is_empty() {
            return self.error("scale", format!("expected at least one of {}", Scale::names()));
        }
        Ok(plans)
    }

    fn plan(&self, scale: Scale, wire: &WireScale) -> Result<ScalePlan> {
        let path = format!("scale.{scale}");
        let n_seeds = match wire.seeds {
            Some(n_seeds) if !(1..=MAX_SEEDS).contains(&n_seeds) => {
                let reason = format!("expected an integer from 1 to {MAX_SEEDS}; got {n_seeds}");
                return self.error(&format!("{path}.seeds"), reason);
            }
            Some(n_seeds) => n_seeds,
            None if !has_trials(&self.wire) => 1,
            None => return self.error(&format!("{path}.seeds"), "missing"),
        };
        for id in wire.series.keys() {
            self.known_series(&format!("{path}.series.{id}"), id)?;
        }
        let points = self.points(&path, Some(wire))?;
        let mut cells = Vec::new();
        for (series_idx, series) in self.wire.series.iter().enumerate().filter(|(_, series)| series.trials) {
            let tried = self.tried(scale, wire, series_idx);
            let mut add = |point: Option<&Point>| -> Result<()> {
                for tried in &tried {
                    let (settings, assigned) =
                        self.settings(&path, wire, series_idx, point, tried.as_ref())?;
                    let x = point.map(|point| point.x);
                    let x_text = point.map_or(String::new(), |point| point.x_text.clone());
                    let tuned = tried.as_ref().map_or(String::new(), |tried| text_of(tried.value));
                    cells.push(Cell { series_idx, x, x_text, tuned, settings, assigned });
                }
                Ok(())
            };
            if series.constant {
                add(None)?;
                continue;
            }
            let (from, to) = self.range_of(series_idx)?;
            let own = || points.iter().filter(|point| (from..=to).contains(&point.x));
            if own().next().is_none() {
                let reason = format!(
                    "scale {scale} has no x from {from} to {to}; give it one, or leave min-x and max-x out"
                );
                return self.error(&format!("series[{series_idx}]"), reason);
            }
            for point in own() {
                add(Some(point))?;
            }
        }
        Ok(ScalePlan {
            n_seeds,
            deviations: wire.deviations.clone().unwrap_or_default(),
            finding: wire.finding.trim().to_owned(),
            cells,
        })
    }

    /// The setting that is tuned, if one is.
    fn tuned(&self) -> Result<Option<&'static str>> {
        let wire = &self.wire;
        let lists = (wire.scale.iter())
            .filter_map(|(scale, wire)| Some((format!("scale.{scale}.tune"), wire.tune.as_ref()?)));
        let mut lists: Vec<(String, &Vec<toml::Value>)> = lists.collect();
        for (idx, series) in wire.series.iter().enumerate() {
            let Some(values) = &series.tune else { continue };
            let path = format!("series[{idx}].tune");
            if !series.trials {
                return self.error(&path, NO_TRIALS);
            }
            // Empty: nothing to tune.
            if wire.tune.is_none() || !values.is_empty() {
                lists.push((path, values));
            }
        }
        let Some(tune) = &wire.tune else {
            return match lists.first() {
                Some((path, _)) => self.error(path, "there is no [tune], which says what is tuned"),
                None => Ok(None),
            };
        };
        if lists.is_empty() || !tune.values.is_empty() {
            lists.push(("tune.values".to_owned(), &tune.values));
        }
        for (path, values) in lists {
            self.check_list(&path, values)?;
        }
        let path = "tune.setting";
        if !has_trials(wire) {
            return self.error(path, NO_TRIALS);
        }
        let name = settings::find(&tune.setting).or_else(|error| self.error(path, reason_of(error)))?.name;
        match name == self.axis {
            true => self.error(path, "this is the x axis"),
            false => Ok(Some(name)),
        }
    }

    /// The values of the tuned setting that a series has trials with, and where they stand: none once, where it has nothing
    /// to tune.
    fn tried<'w>(&'w self, scale: Scale, plan: &'w WireScale, series_idx: usize) -> Vec<Option<Tried<'w>>> {
        let Some(tune) = &self.wire.tune else { return vec![None] };
        let of_scale = || plan.tune.as_ref().map(|values| (format!("scale.{scale}.tune"), values));
        let own = self.wire.series[series_idx].tune.as_ref();
        let own = own.map(|values| (format!("series[{series_idx}].tune"), values));
        let (path, values) =
            own.or_else(of_scale).unwrap_or_else(|| ("tune.values".to_owned(), &tune.values));
        if values.is_empty() {
            return vec![None];
        }
        let tried = |(idx, value)| Some(Tried { value, path: format!("{path}[{idx}]") });
        values.iter().enumerate().map(tried).collect()
    }

    /// The part of the x axis that a series has trials on.
    fn range_of(&self, series_idx: usize) -> Result<(f64, f64)> {
        let series = &self.wire.series[series_idx];
        let range = (series.min_x.unwrap_or(f64::NEG_INFINITY), series.max_x.unwrap_or(f64::INFINITY));
        let path = format!("series[{series_idx}].max-x");
        if range.0 <= range.1 { Ok(range) } else { self.error(&path, "is below min-x") }
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
        let own = coordinates.or(figure.coordinates.as_ref().filter(|_| path == "figure"));
        if own.is_some_and(|own| own.len() != values.len()) {
            return self
                .error(&format!("{path}.coordinates"), format!("expected {}, one per value", values.len()));
        }
        for (idx, x) in own.into_iter().flatten().enumerate() {
            let path = format!("{path}.coordinates[{idx}]");
            if !x.is_finite() {
                return self.error(&path, "expected a finite number");
            }
            if own.is_some_and(|own| own[..idx].contains(x)) {
                return self.error(&path, format!("{} occurs twice", number_text(*x)));
            }
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
            (None, None) => {
                self.error(path, format!("{} is not among figure.values", shortened(&text_of(value))))
            }
        }
    }

    /// The complete, checked settings of one cell, and the names of those that it must read: of its series and its
    /// place on the axis.
    fn settings(
        &self,
        scale_path: &str,
        scale: &WireScale,
        series_idx: usize,
        point: Option<&Point>,
        tried: Option<&Tried>,
    ) -> Result<(Settings, Vec<&'static str>)> {
        let series = &self.wire.series[series_idx];
        let series_path = format!("series[{series_idx}]");
        let none = Assignments::new();
        let layers = [
            ("base".to_owned(), &self.wire.base),
            (format!("{scale_path}.set"), &scale.set),
            (format!("{series_path}.set"), &series.set),
            (format!("{scale_path}.series.{}", series.id), scale.series.get(&series.id).unwrap_or(&none)),
        ];
        let mut values = Values::new();
        // Where each setting got its value, to blame for a broken rule.
        let mut places: BTreeMap<&str, String> = BTreeMap::new();
        let mut assigned: Vec<&'static str> = Vec::new();
        for (depth, (path, layer)) in layers.iter().enumerate() {
            for (key, value) in *layer {
                let path = format!("{path}.{key}");
                let name = settings::find(key).or_else(|error| self.error(&path, reason_of(error)))?.name;
                let is_of_series = depth >= SHARED_LAYERS;
                if point.is_some() && is_of_series && name == self.axis {
                    return self.error(&path, "this is the x axis; only a constant series sets it");
                }
                settings::set(&mut values, key, value)
                    .or_else(|error| self.error(&path, reason_of(error)))?;
                places.insert(name, path);
                if is_of_series {
                    assigned.push(name);
                }
            }
        }
        if let (Some(tried), Some(tune)) = (tried, &self.wire.tune) {
            let name = settings::find(&tune.setting)?.name;
            if let Some(path) = places.get(name) {
                return self.error(path, "[tune] gives it its values");
            }
            settings::set(&mut values, name, tried.value)
                .or_else(|error| self.error(&tried.path, reason_of(error)))?;
            places.insert(name, tried.path.clone());
            assigned.push(name);
        }
        if let Some(point) = point {
            settings::set(&mut values, self.axis, &point.value)
                .or_else(|error| self.error(&point.path, reason_of(error)))?;
            places.insert(self.axis, point.path.clone());
            assigned.push(self.axis);
        }
        let blame = |error| match error {
            Error::Setting { key, reason } => {
                // The setting at fault, or else one that its reason names, as far as the file has them.
                let named = || places.iter().find(|(name, _)| reason.contains(&format!("{name} = ")));
                let path = places.get(key.as_str()).or_else(|| named().map(|(_, path)| path));
                let path = path.unwrap_or(&series_path);
                let at = point
                    .map_or(String::new(), |point| format!(" at {} = {}", self.axis, text_of(&point.value)));
                // Named unless the path does.
                let is_named = path.rsplit('.').next() == Some(key.as_str());
                let named = if is_named { String::new() } else { format!("{key}: ") };
                let reason =
                    format!("{named}{reason} (series `{}`{at}, {})", series.id, scale_path.replace('.', " "));
                self.sources.error(path, reason)
            }
            other => other,
        };
        let settings = settings::resolve(values).map_err(blame)?;
        // A sweep is made for a setting that may be read only with what `--set` adds.
        if !self.wire.id.starts_with(SWEEP_PREFIX) {
            for name in &assigned {
                settings::refuse_unread(&settings, name, name).map_err(blame)?;
            }
        }
        settings::check(&settings).map_err(blame)?;
        if tried.is_some() && settings::has_no_validation(&settings) {
            let reason = format!("series `{}` has no validation images to choose by: set n-val", series.id);
            return self.error("tune.setting", reason);
        }
        Ok((settings, assigned))
    }

    /// Requires every setting for all series to be read by some: those of `base` at any scale, those of a scale there.
    fn check_shared(&self, scales: &BTreeMap<Scale, ScalePlan>) -> Result<()> {
        let reads = |plan: &ScalePlan, name: &str| plan.cells.iter().any(|cell| cell.settings.is_read(name));
        let refuse = |path: String, key: &str, cell: Option<&Cell>| -> Result<()> {
            let name = settings::find(key)?.name;
            match cell.map(|cell| settings::refuse_unread(&cell.settings, key, name)) {
                Some(Err(error)) => self.error(&path, format!("no series reads it: {}", reason_of(error))),
                _ => Ok(()),
            }
        };
        if !self.wire.id.starts_with(SWEEP_PREFIX) {
            let first = scales.values().find_map(|plan| plan.cells.first());
            for key in self.wire.base.keys() {
                let name = settings::find(key)?.name;
                if !scales.values().any(|plan| reads(plan, name)) {
                    refuse(format!("base.{key}"), key, first)?;
                }
            }
            for (scale, wire) in self.wire.scale.iter() {
                for key in wire.set.keys() {
                    let name = settings::find(key)?.name;
                    if !scales.get(&scale).is_some_and(|plan| reads(plan, name)) {
                        let first = scales.get(&scale).and_then(|plan| plan.cells.first());
                        refuse(format!("scale.{scale}.set.{key}"), key, first)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Why something of a series is refused.
const NO_TRIALS: &str = "has no meaning beside trials = false";

/// Layers of settings that all series share; those above belong to one.
const SHARED_LAYERS: usize = 2;

/// Id of the figure over the course of training that an experiment without traces has.
const EPOCHS: &str = "epochs";

/// Most values on an x axis.
const MAX_VALUES: usize = 1000;

/// Most series, panels, traces and other tables of a kind.
const MAX_TABLES: usize = 100;

/// Characters of the longest id, which is part of file names.
const MAX_ID: usize = 100;

/// Characters of the longest title or label.
const MAX_LINE: usize = 200;

const NO_LOG_X: &str = "an axis whose values stand at equal distances has no logarithm";

/// What is wrong, without the key: the file position names it.
fn reason_of(error: Error) -> String {
    match error {
        Error::Setting { reason, .. } => reason,
        other => other.to_string(),
    }
}
