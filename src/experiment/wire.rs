//! The format of experiment files, as serde sees it. Unknown keys are errors everywhere.
//!
//! ```toml
//! id = "fig4"                    # what a user types; equals the file's name
//! title = "…"                    # one line
//! paper = "Fig. 4"               # where in the paper; leave out for a sweep
//! claim = "…"                    # what the paper says it shows
//! notes = "…"                    # Markdown: what else a reader should know
//! extends = "sweep-sparsity"     # optional, sweeps only, see below
//!
//! [figure]
//! x = "sparsity"                 # the setting on the x axis, or "n-params"
//! axis = "depth"                 # the setting that varies, when it is not x itself
//! x-label = "…"
//! y = "test-accuracy"            # the metric
//! y-label = "…"
//! categorical = false            # equal distances; always so for named values
//! values = [0.8, 0.9]            # the paper's grid
//! coordinates = [730, 3700]      # x of each value, when x is not the axis itself
//! relative-to = "fo"             # y divided by that of this series, see below
//! log-x = true                   # logarithmic axes; log-x not with categorical
//! log-y = true
//! ideal = true                   # and lines in proportion to x through the first point of every series; y begins at 0
//! lead = "test"                  # the panel, trace, layers or profile figure that is shown first; left out: this one
//!
//! [[panel]]                      # a further figure and value table over the same trials and x
//! id = "time"                    # lower-case, unique; the files are <experiment>-<scale>-time
//! y = "wall-s"                   # as in figure, also y-label, relative-to, log-x, log-y, ideal
//! series = ["deepzero"]          # which; left out: all
//!
//! [[trace]]                      # a figure over the course of training; none: one over epochs
//! id = "queries"
//! x = "queries"                  # or epoch, wall-s
//! x-label = "Queries"            # left out: Epoch, Queries, Seconds
//! y = "test-accuracy"            # also y-label, series, log-x, log-y
//! at = 0.9                       # which x of the figure, see below
//!
//! [[layers]]                     # a figure over the parameter tensors, in order
//! id = "keep"
//! y = "keep"                     # percent in the active set; or cosine, relative-error
//! at = 0.9                       # also y-label, series
//!
//! [[profile]]                    # a figure over the places of a profile
//! id = "sizes"
//! kind = "tensors"               # which profile, one that a task makes
//! x-label = "Tensor"
//! y = "n-active"                 # one of its columns, with hyphens; also y-label
//! at = 0.9                       # also series, log-x, log-y
//!
//! [tune]                         # every point of every series at its own best value of a setting, see below
//! setting = "learning-rate"
//! values = [0.01, 0.03, 0.1]     # the values to choose from; left out: tuned only where a scale or series has its own
//!
//! [base]                         # settings of every trial, over the program's defaults
//! model = "resnet"
//!
//! [[series]]                     # one curve each, in the order of the legend
//! id = "deepzero"
//! label = "DeepZero"
//! constant = false               # true: one trial, no x, drawn as a level line
//! trials = true                  # false: its points are those of [[from]] and [[quoted]], see below
//! min-x = 0.01                   # it has trials only where min-x <= x <= max-x
//! max-x = 0.1                    # left out: on the whole axis
//! tune = [0.001, 0.003]          # its own values to choose from; empty: it has nothing to tune
//! set = { method = "cge" }       # settings of this series
//!
//! [[from]]                       # points taken from another experiment's results at the same scale
//! experiment = "fig4"            # whose; not one that takes points from others itself
//! series = "deepzero"            # which of its series
//! at = 0.9                       # its trials at that x: a number, a name or "largest"; left out: all
//! as = "deepzero"                # series of this figure; left out: the same id
//!
//! [[quoted]]                     # a published point of a series without trials
//! series = "deepzero"
//! x = 269722
//! y = 86.46
//! source = "Fig. 1D"
//!
//! [[expected]]                   # published numbers of one series
//! series = "deepzero"
//! panel = "time"                 # which they belong to; left out: the main figure
//! values = [86.94, 86.46]        # one per figure value; a constant series has one
//! unit = "h"                     # of values, in a relative figure; left out: the metric's
//! tolerance = 1.0                # difference that still counts as reproduced at paper scale
//! source = "Fig. 4, labels"
//!
//! [[check]]                      # what a program can test; exactly one kind, with its own keys
//! text = "…"
//! panel = "time"                 # whose values; left out: the main figure
//! above = ["deepzero", "fo"]     # left > right + margin, at every x in min-x..=max-x
//! close = ["deepzero", "fo"]     # |left − right| < margin, likewise
//! widens = ["deepzero", "fo"]    # left − right rises along x
//! within = "deepzero"            # low < mean < high, at every x in min-x..=max-x
//! falls = "deepzero"             # the least-squares line goes down by more than margin, from the smallest x of
//! rises = "deepzero"             # min-x..=max-x to the largest; or up
//! flat = "deepzero"              # or by less than margin, up or down
//! margin = 2.0                   # needed for close and flat, else 0 unless given; not for widens, within
//! low = 0.9
//! high = 1.1
//! min-x = 0.9
//! max-x = 0.99
//! at = "best"                    # above and close: each series at its own best x, not every x
//! spread = "layout"              # above and close: the error from all series by seeds, not this pair alone
//!
//! [scale.smoke]                  # likewise laptop, overnight and paper
//! seeds = 2                      # seeds 0 and 1
//! values = [0.9]                 # this scale's grid; left out: figure.values
//! tune = [0.03]                  # this scale's values to choose from; left out: tune.values
//! coordinates = [730]            # left out: looked up in the figure's
//! deviations = ["…"]             # each difference from the paper, a sentence
//! finding = "…"                  # Markdown: what we found, and what to do with it; see below
//! set = { epochs = 6 }           # settings of every trial at this scale
//! series.fo = { mu = 0.01 }      # settings of one series at this scale
//! ```
//!
//! **Relative figures.** With `relative-to`, every value is divided by that of the named series at the
//! same x and seed (by its only one, if it is constant), and every published value by the published one
//! of that series at the same x. The named series has no points itself. `values` are as published, in
//! `unit`; `tolerance`, `margin`, `low` and `high` are in units of what is drawn, so ratios.
//!
//! **Points of others.** A series with `trials = false` has no settings and no trials. Its points come from the results
//! of other experiments (`[[from]]`), which stand at their networks' numbers of parameters, so that the figure's x is
//! `n-params`, and from publications (`[[quoted]]`), which are drawn hollow. Where another experiment has no result at a
//! scale, the page says what to run. `at = "largest"` takes the largest x that has a finished trial; without `at`, no two x
//! of that series may have networks of one size. If no series has trials, there is no `base`, no `figure.axis`, `values` or
//! `coordinates`, no trace, layers or profile figure, and a scale has `deviations` alone.
//!
//! **At.** The x whose trials a trace, layers or profile figure shows: a number, or the name of a value on an axis
//! of names. A scale without it shows the middle x among those where most series have finished trials,
//! and so does a figure without `at`. `"best"` takes for every series its own x with the highest
//! mean validation accuracy, the smallest on ties; where there are no validation images, the middle x.
//!
//! **Tuned settings.** With `[tune]`, every point has trials for each of the values, at all seeds. The value with the
//! highest mean validation accuracy over them counts (a trial that diverged as 0, the smallest value on ties); the trials
//! of the others stand in no figure, table or check, but in the costs. Trials need validation images (`n-val`), and nothing
//! else sets that setting. A scale's own `tune` wins over `tune.values`, and that of a series over both.
//!
//! **Findings.** Numbers in a finding are taken from the records when the page is made: `{{ mean("deepzero", 0.9) }}`.
//! The functions are listed in `src/report/facts.rs`.
//!
//! **Units.** A metric that is an accuracy (`test-accuracy`, `val-accuracy`, `train-accuracy`) is in
//! percent wherever it appears in these files: `values`, `tolerance`, `margin`. Losses are mean
//! cross-entropy in nats, times seconds. Settings have the units of their descriptions; sparsity is
//! a fraction.
//!
//! **Order.** A trial's settings are the program's defaults, over which are laid `base`,
//! `scale.S.set`, the series' `set`, `scale.S.series.ID`, the value on the x axis (not for constant
//! series) and `--set`, each winning over those before it.
//!
//! **Read or refused.** A setting of a series or of the x axis must be read by every trial that it is set for, one of
//! `base` by some series, one of `scale.S.set` by some series at that scale. Who reads what follows from `task` and
//! `method`. Sweeps are held to this when their trials are made, since `--set` may bring the reader of an axis.
//!
//! **Extending.** A sweep that names another in `extends` takes over `base`, `series`, `figure.y` with
//! its `y-label`, `relative-to` and `log-y`, and each scale's `seeds`, `deviations`, `set` and `series`; what it says itself wins, settings
//! one by one, the rest as a whole. Everything about the x axis is its own, and so are panels, traces,
//! layers, profiles, published values and checks.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::definition::{Scale, TensorMeasure, TraceAxis};

/// Ids of sweeps start so.
pub(super) const SWEEP_PREFIX: &str = "sweep-";

/// Stands for a series' own best x.
pub(super) const BEST: &str = "best";

/// The spread from the two-way layout of series and seeds.
pub(super) const LAYOUT: &str = "layout";

/// Stands for the largest x with a finished trial.
pub(super) const LARGEST: &str = "largest";

/// Settings by name, not yet checked.
pub(super) type Assignments = BTreeMap<String, toml::Value>;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireExperiment {
    pub(super) id: String,
    pub(super) title: String,
    #[serde(default)]
    pub(super) paper: String,
    #[serde(default)]
    pub(super) claim: String,
    #[serde(default)]
    pub(super) notes: String,
    pub(super) extends: Option<String>,
    pub(super) figure: WireFigure,
    #[serde(default)]
    pub(super) panel: Vec<WirePanel>,
    #[serde(default)]
    pub(super) trace: Vec<WireTrace>,
    #[serde(default)]
    pub(super) layers: Vec<WireLayers>,
    #[serde(default)]
    pub(super) profile: Vec<WireProfile>,
    pub(super) tune: Option<WireTune>,
    #[serde(default)]
    pub(super) base: Assignments,
    #[serde(default)]
    pub(super) series: Vec<WireSeries>,
    #[serde(default)]
    pub(super) from: Vec<WireFrom>,
    #[serde(default)]
    pub(super) quoted: Vec<WireQuoted>,
    #[serde(default)]
    pub(super) expected: Vec<WireExpected>,
    #[serde(default)]
    pub(super) check: Vec<WireCheck>,
    #[serde(default)]
    pub(super) scale: WireScales,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireFigure {
    pub(super) x: String,
    pub(super) axis: Option<String>,
    pub(super) x_label: String,
    pub(super) y: Option<String>,
    pub(super) y_label: Option<String>,
    pub(super) categorical: Option<bool>,
    #[serde(default)]
    pub(super) values: Vec<toml::Value>,
    pub(super) coordinates: Option<Vec<f64>>,
    pub(super) relative_to: Option<String>,
    #[serde(default)]
    pub(super) log_x: bool,
    #[serde(default)]
    pub(super) log_y: bool,
    #[serde(default)]
    pub(super) ideal: bool,
    pub(super) lead: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WirePanel {
    pub(super) id: String,
    pub(super) y: String,
    pub(super) y_label: Option<String>,
    pub(super) relative_to: Option<String>,
    pub(super) series: Option<Vec<String>>,
    #[serde(default)]
    pub(super) log_x: bool,
    #[serde(default)]
    pub(super) log_y: bool,
    #[serde(default)]
    pub(super) ideal: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireTrace {
    pub(super) id: String,
    pub(super) x: TraceAxis,
    pub(super) x_label: Option<String>,
    pub(super) y: String,
    pub(super) y_label: Option<String>,
    pub(super) at: Option<toml::Value>,
    pub(super) series: Option<Vec<String>>,
    #[serde(default)]
    pub(super) log_x: bool,
    #[serde(default)]
    pub(super) log_y: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireLayers {
    pub(super) id: String,
    pub(super) y: TensorMeasure,
    pub(super) y_label: Option<String>,
    pub(super) at: Option<toml::Value>,
    pub(super) series: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireProfile {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) x_label: String,
    pub(super) y: String,
    pub(super) y_label: Option<String>,
    pub(super) at: Option<toml::Value>,
    pub(super) series: Option<Vec<String>>,
    #[serde(default)]
    pub(super) log_x: bool,
    #[serde(default)]
    pub(super) log_y: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireTune {
    pub(super) setting: String,
    #[serde(default)]
    pub(super) values: Vec<toml::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireSeries {
    pub(super) id: String,
    pub(super) label: String,
    #[serde(default)]
    pub(super) constant: bool,
    #[serde(default = "yes")]
    pub(super) trials: bool,
    pub(super) min_x: Option<f64>,
    pub(super) max_x: Option<f64>,
    pub(super) tune: Option<Vec<toml::Value>>,
    #[serde(default)]
    pub(super) set: Assignments,
}

/// What holds unless a file says otherwise.
fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireFrom {
    pub(super) experiment: String,
    pub(super) series: String,
    pub(super) at: Option<toml::Value>,
    #[serde(rename = "as")]
    pub(super) own: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireQuoted {
    pub(super) series: String,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) source: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireExpected {
    #[serde(default)]
    pub(super) panel: String,
    pub(super) series: String,
    pub(super) values: Vec<f64>,
    pub(super) unit: Option<String>,
    pub(super) tolerance: f64,
    pub(super) source: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireCheck {
    pub(super) text: String,
    #[serde(default)]
    pub(super) panel: String,
    pub(super) above: Option<[String; 2]>,
    pub(super) close: Option<[String; 2]>,
    pub(super) widens: Option<[String; 2]>,
    pub(super) within: Option<String>,
    pub(super) falls: Option<String>,
    pub(super) rises: Option<String>,
    pub(super) flat: Option<String>,
    pub(super) margin: Option<f64>,
    pub(super) low: Option<f64>,
    pub(super) high: Option<f64>,
    pub(super) min_x: Option<f64>,
    pub(super) max_x: Option<f64>,
    pub(super) at: Option<String>,
    pub(super) spread: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireScales {
    pub(super) smoke: Option<WireScale>,
    pub(super) laptop: Option<WireScale>,
    pub(super) overnight: Option<WireScale>,
    pub(super) paper: Option<WireScale>,
}

impl WireScales {
    /// Those that the file has.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Scale, &WireScale)> {
        let Self { smoke, laptop, overnight, paper } = self;
        let all = [
            (Scale::Smoke, smoke),
            (Scale::Laptop, laptop),
            (Scale::Overnight, overnight),
            (Scale::Paper, paper),
        ];
        all.into_iter().filter_map(|(scale, wire)| Some((scale, wire.as_ref()?)))
    }

    /// All, with those that the file does not have.
    fn all_mut(&mut self) -> [&mut Option<WireScale>; Scale::ALL.len()] {
        [&mut self.smoke, &mut self.laptop, &mut self.overnight, &mut self.paper]
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireScale {
    pub(super) seeds: Option<usize>,
    pub(super) values: Option<Vec<toml::Value>>,
    pub(super) coordinates: Option<Vec<f64>>,
    pub(super) tune: Option<Vec<toml::Value>>,
    pub(super) deviations: Option<Vec<String>>,
    #[serde(default)]
    pub(super) finding: String,
    #[serde(default)]
    pub(super) set: Assignments,
    #[serde(default)]
    pub(super) series: BTreeMap<String, Assignments>,
}

impl WireExperiment {
    /// Takes over from `parent` what the module documentation says a sweep inherits.
    pub(super) fn inherit(&mut self, parent: Self) {
        overlay(&mut self.base, parent.base);
        if self.series.is_empty() {
            self.series = parent.series;
        }
        if self.figure.y.is_none() {
            self.figure.y = parent.figure.y;
            self.figure.relative_to = self.figure.relative_to.take().or(parent.figure.relative_to);
            self.figure.log_y |= parent.figure.log_y;
            self.figure.y_label = self.figure.y_label.take().or(parent.figure.y_label);
        }
        let mut parents = parent.scale;
        for (own, parent) in self.scale.all_mut().into_iter().zip(parents.all_mut()) {
            inherit_scale(own, parent.take());
        }
    }

    /// Replaces the grid at every scale. What was said of an x that is not on it is forgotten.
    pub(super) fn replace_values(&mut self, values: Vec<toml::Value>) {
        let traces = self.trace.iter_mut().map(|trace| &mut trace.at);
        let layers = self.layers.iter_mut().map(|layers| &mut layers.at);
        let profiles = self.profile.iter_mut().map(|profile| &mut profile.at);
        for at in traces.chain(layers).chain(profiles) {
            let stays = |at: &toml::Value| {
                at.as_str() == Some(BEST) || values.iter().any(|value| same_value(value, at))
            };
            *at = at.take().filter(stays);
        }
        self.figure.values = values;
        self.figure.coordinates = None;
        self.expected.clear();
        for scale in self.scale.all_mut().into_iter().flatten() {
            scale.values = None;
            scale.coordinates = None;
        }
    }
}

/// Whether two values are the same, `1` and `1.0` being so.
pub(super) fn same_value(a: &toml::Value, b: &toml::Value) -> bool {
    a == b || number_of(a).is_some_and(|number| number_of(b) == Some(number))
}

/// A number's value, or `None` for a name or a truth value.
pub(super) fn number_of(value: &toml::Value) -> Option<f64> {
    value.as_float().or(value.as_integer().map(|value| value as f64))
}

fn inherit_scale(own: &mut Option<WireScale>, parent: Option<WireScale>) {
    let Some(parent) = parent else { return };
    let own = own.get_or_insert_default();
    own.seeds = own.seeds.or(parent.seeds);
    own.deviations = own.deviations.take().or(parent.deviations);
    overlay(&mut own.set, parent.set);
    for (id, set) in parent.series {
        overlay(own.series.entry(id).or_default(), set);
    }
}

/// Adds the parent's settings that `own` does not have.
fn overlay(own: &mut Assignments, parent: Assignments) {
    for (key, value) in parent {
        own.entry(key).or_insert(value);
    }
}
