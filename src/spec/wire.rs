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
//!
//! [base]                         # settings of every trial, over the program's defaults
//! model = "resnet"
//!
//! [[series]]                     # one curve each, in the order of the legend
//! id = "deepzero"
//! label = "DeepZero"
//! constant = false               # true: one trial, no x, drawn as a level line
//! set = { method = "cge" }       # settings of this series
//!
//! [[expected]]                   # published numbers of one series
//! series = "deepzero"
//! values = [86.94, 86.46]        # one per figure value; a constant series has one
//! tolerance = 1.0                # difference that still counts as reproduced at paper scale
//! source = "Fig. 4, labels"
//!
//! [[check]]                      # what a program can test; one of above, close, widens
//! text = "…"
//! above = ["deepzero", "fo"]     # left > right + margin, at every x in min-x..=max-x
//! close = ["deepzero", "fo"]     # |left − right| ≤ margin, at every x
//! widens = ["deepzero", "fo"]    # left − right is larger at the largest x than at the smallest
//! margin = 2.0
//! min-x = 0.9
//!
//! [scale.smoke]                  # likewise laptop and paper
//! seeds = 2                      # seeds 0 and 1
//! values = [0.9]                 # this scale's grid; left out: figure.values
//! coordinates = [730]            # left out: looked up in the figure's
//! deviations = ["…"]             # each difference from the paper, a sentence
//! set = { epochs = 6 }           # settings of every trial at this scale
//! series.fo = { mu = 0.01 }      # settings of one series at this scale
//! ```
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
//! **Extending.** A sweep that names another in `extends` takes over `base`, `series`, `figure.y`
//! and each scale's `seeds`, `deviations`, `set` and `series`; what it says itself wins, settings
//! one by one, the rest as a whole. Everything about the x axis is its own.

use std::collections::BTreeMap;

use serde::Deserialize;

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
    pub(super) base: Assignments,
    #[serde(default)]
    pub(super) series: Vec<WireSeries>,
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
    pub(super) values: Vec<toml::Value>,
    pub(super) coordinates: Option<Vec<f64>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireSeries {
    pub(super) id: String,
    pub(super) label: String,
    #[serde(default)]
    pub(super) constant: bool,
    #[serde(default)]
    pub(super) set: Assignments,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireExpected {
    pub(super) series: String,
    pub(super) values: Vec<f64>,
    pub(super) tolerance: f64,
    pub(super) source: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireCheck {
    pub(super) text: String,
    pub(super) above: Option<[String; 2]>,
    pub(super) close: Option<[String; 2]>,
    pub(super) widens: Option<[String; 2]>,
    pub(super) margin: Option<f64>,
    pub(super) min_x: Option<f64>,
    pub(super) max_x: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireScales {
    pub(super) smoke: Option<WireScale>,
    pub(super) laptop: Option<WireScale>,
    pub(super) paper: Option<WireScale>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct WireScale {
    pub(super) seeds: Option<usize>,
    pub(super) values: Option<Vec<toml::Value>>,
    pub(super) coordinates: Option<Vec<f64>>,
    pub(super) deviations: Option<Vec<String>>,
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
            self.figure.y_label = self.figure.y_label.take().or(parent.figure.y_label);
        }
        inherit_scale(&mut self.scale.smoke, parent.scale.smoke);
        inherit_scale(&mut self.scale.laptop, parent.scale.laptop);
        inherit_scale(&mut self.scale.paper, parent.scale.paper);
    }

    /// Replaces the grid at every scale.
    pub(super) fn replace_values(&mut self, values: Vec<toml::Value>) {
        self.figure.values = values;
        self.figure.coordinates = None;
        self.expected.clear();
        let scales = [&mut self.scale.smoke, &mut self.scale.laptop, &mut self.scale.paper];
        for scale in scales.into_iter().flatten() {
            scale.values = None;
            scale.coordinates = None;
        }
    }
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
