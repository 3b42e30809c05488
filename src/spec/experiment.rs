//! A checked experiment: one table, figure or sweep, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::settings::Settings;

/// How much of the paper's protocol a run follows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// Synthetic images, minutes on two cores: it works, end to end.
    Smoke,
    /// Real images, reduced so that the claim can still come out true or false.
    Laptop,
    /// The paper's full protocol.
    Paper,
}

/// One curve or bar group of a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Short name, as in result files.
    pub id: String,
    /// Name in legends and tables.
    pub label: String,
    /// The series does not depend on the x axis: one trial, drawn as a level line.
    pub constant: bool,
}

/// Which numbers a figure shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The setting (or `n-params`) on the x axis.
    pub x: String,
    /// Axis title.
    pub x_label: String,
    /// Metric on the y axis: `test-accuracy`, `test-loss`, `wall-s`, ….
    pub y: String,
    /// Axis title.
    pub y_label: String,
    /// Draw the x values at equal distances rather than to scale.
    pub categorical: bool,
}

/// A published number.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Series it belongs to.
    pub series: String,
    /// Position on the x axis; `None` for a constant series.
    pub x: Option<f64>,
    /// The published value, in the unit of the figure's y axis.
    pub value: f64,
    /// Difference up to which our value at paper scale counts as reproduced.
    pub tolerance: f64,
    /// Where the number was published.
    pub source: String,
}

/// One testable part of the claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What is tested, as a sentence.
    pub text: String,
    /// The test.
    pub rule: Rule,
}

/// What a [`Check`] compares; every comparison is of means over seeds at equal x.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// mean(left) > mean(right) + margin at every x in `min_x..=max_x`.
    Above {
        /// Series that should be higher.
        left: String,
        /// Series that should be lower.
        right: String,
        /// By how much, in y units.
        margin: f64,
        /// Lowest x looked at.
        min_x: f64,
        /// Highest x looked at.
        max_x: f64,
    },
    /// |mean(left) − mean(right)| ≤ margin at every x.
    Close {
        /// One series.
        left: String,
        /// The other.
        right: String,
        /// Largest difference that still counts as close, in y units.
        margin: f64,
    },
    /// mean(left) − mean(right) is larger at the largest x than at the smallest.
    Widens {
        /// Series that should pull away.
        left: String,
        /// Series that should fall behind.
        right: String,
    },
}

/// One scale of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalePlan {
    /// Seeds run unless `--seeds` says otherwise: `0..n_seeds`.
    pub n_seeds: usize,
    /// How this scale deviates from the paper, a sentence each.
    pub deviations: Vec<String>,
    /// All trials for one seed, in run order; `Settings` are complete and checked.
    pub cells: Vec<Cell>,
}

/// One point of one series, for any seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Index into [`Experiment::series`].
    pub series_idx: usize,
    /// Value on the x axis: a number, or the position of a named value in the axis' list.
    /// For a constant series, `None`.
    pub x: Option<f64>,
    /// The x value as text, for tables and categorical axes.
    pub x_text: String,
    /// Complete settings.
    pub settings: Settings,
}

/// A checked experiment file.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// What a user types: `fig4`, `sweep-sparsity`.
    pub id: String,
    /// One line.
    pub title: String,
    /// Where in the paper: `Fig. 4`; empty for a sweep.
    pub paper: String,
    /// What the paper says it shows.
    pub claim: String,
    /// The parts of the claim a program can test.
    pub checks: Vec<Check>,
    /// What else a reader should know (Markdown).
    pub notes: String,
    /// Axes and metric.
    pub figure: Figure,
    /// Curves.
    pub series: Vec<Series>,
    /// Published values.
    pub expected: Vec<Expected>,
    /// The three scales.
    pub scales: BTreeMap<Scale, ScalePlan>,
}

/// One run: a cell with a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Experiment id.
    pub experiment: String,
    /// Scale.
    pub scale: Scale,
    /// Series id.
    pub series: String,
    /// See [`Cell::x`].
    pub x: Option<f64>,
    /// See [`Cell::x_text`].
    pub x_text: String,
    /// Seed of everything random in the trial.
    pub seed: u64,
    /// Complete settings.
    pub settings: Settings,
}
