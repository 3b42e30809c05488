//! A checked experiment: one table, figure or sweep, as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::setting::Settings;
use crate::task;
use crate::zo::sparsity;

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
    /// Real images, all of the test set, and as many seeds as fit into a night on two cores.
    Overnight,
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
    /// Whether it has trials; otherwise its points are [`Experiment::borrowed`] and [`Experiment::quoted`].
    pub has_trials: bool,
}

/// Points of a series taken from another experiment's results at the same scale; each stands at the number of parameters
/// of its networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Borrowed {
    /// Id of the other experiment.
    pub experiment: String,
    /// One of its series.
    pub source: String,
    /// Which of its trials.
    pub at: BorrowedAt,
    /// Series of this experiment that gets the points.
    pub series: String,
}

/// Which trials of another experiment's series are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BorrowedAt {
    /// All.
    All,
    /// Those at the largest x with a finished trial.
    Largest,
    /// Those at the x of that number or name.
    Named(String),
}

impl BorrowedAt {
    /// Whether a trial at that x, which may have a name, is one of those; which x is the largest is a matter of all.
    #[must_use]
    pub fn is_at(&self, x: Option<f64>, x_text: &str) -> bool {
        match self {
            Self::All | Self::Largest => true,
            Self::Named(at) if at == x_text => true,
            Self::Named(at) => {
                let number = at.parse::<f64>().ok();
                number.zip(x).is_some_and(|(at, x)| at.total_cmp(&x).is_eq())
            }
        }
    }
}

/// A published point of a series without trials.
#[derive(Debug, Clone, PartialEq)]
pub struct Quoted {
    /// The series.
    pub series: String,
    /// Position on the x axis.
    pub x: f64,
    /// The published value, in units of the figure's y axis.
    pub y: f64,
    /// Where it was published.
    pub source: String,
}

/// Which numbers a figure shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// The setting (or `n-params`) on the x axis.
    pub x: String,
    /// Axis title.
    pub x_label: String,
    /// Metric on the y axis: the name of a [`Metric`](crate::metric::Metric).
    pub y: String,
    /// Axis title.
    pub y_label: String,
    /// Draw the x values at equal distances rather than to scale.
    pub categorical: bool,
    /// See [`Panel::relative_to`].
    pub relative_to: Option<String>,
    /// Logarithmic x axis.
    pub log_x: bool,
    /// Logarithmic y axis.
    pub log_y: bool,
    /// Lines in proportion to x through the first point of every series, and y from 0.
    pub has_ideal: bool,
    /// The figure that is shown first, by its short name; `None` for the main one.
    pub lead: Option<String>,
}

impl Figure {
    /// The x axis that takes its values from the networks' sizes; another setting varies.
    pub const N_PARAMS: &str = "n-params";
}

/// A figure and a value table over the experiment's x axis: the main one, or a further one.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Short name, the end of file names; empty for the main figure.
    pub id: String,
    /// Metric on the y axis: the name of a [`Metric`](crate::metric::Metric).
    pub y: String,
    /// Axis title.
    pub y_label: String,
    /// Series by which the others are divided, at the same x and seed; it has no points itself.
    pub relative_to: Option<String>,
    /// Ids of the series shown.
    pub series: Vec<String>,
    /// Logarithmic x axis.
    pub log_x: bool,
    /// Logarithmic y axis.
    pub log_y: bool,
    /// Lines in proportion to x through the first point of every series, and y from 0.
    pub has_ideal: bool,
}

/// A figure over the course of training, at one x of the experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Short name, the end of file names.
    pub id: String,
    /// What the x axis counts.
    pub x: TraceAxis,
    /// Axis title.
    pub x_label: String,
    /// Metric on the y axis: the name of a [`Metric`](crate::metric::Metric).
    pub y: String,
    /// Axis title.
    pub y_label: String,
    /// Which trials; `None` for the middle x among those where most series have finished trials.
    pub at: Option<At>,
    /// Ids of the series shown.
    pub series: Vec<String>,
    /// Logarithmic x axis.
    pub log_x: bool,
    /// Logarithmic y axis.
    pub log_y: bool,
}

/// What grows in the course of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceAxis {
    /// Finished epochs.
    Epoch,
    /// Queries since the trial began.
    Queries,
    /// Seconds since the trial began.
    WallS,
}

/// A figure over the parameter tensors of the networks, at one x of the experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Layers {
    /// Short name, the end of file names.
    pub id: String,
    /// What is shown of each tensor.
    pub y: TensorMeasure,
    /// Axis title.
    pub y_label: String,
    /// As [`Trace::at`].
    pub at: Option<At>,
    /// Ids of the series shown.
    pub series: Vec<String>,
}

/// What a [`Layers`] figure shows of each tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TensorMeasure {
    /// Percent of the tensor's scalars in the active set.
    Keep,
    /// Cosine of the angle between estimate and gradient.
    Cosine,
    /// ‖estimate − gradient‖ / ‖gradient‖.
    RelativeError,
}

/// A figure over the places of a profile of trials, at one x of the experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileFigure {
    /// Short name, the end of file names.
    pub id: String,
    /// Kind of the profile; see [`Profile`](crate::profile::Profile).
    pub kind: String,
    /// Axis title.
    pub x_label: String,
    /// The profile's column, with hyphens: of one that a [`Metric`](crate::metric::Metric) has, what it shows.
    pub y: String,
    /// Axis title.
    pub y_label: String,
    /// As [`Trace::at`].
    pub at: Option<At>,
    /// Ids of the series shown.
    pub series: Vec<String>,
    /// Logarithmic x axis, where the places stand on one.
    pub log_x: bool,
    /// Logarithmic y axis.
    pub log_y: bool,
}

/// Which trials of a series a figure is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// Those at this x.
    X(f64),
    /// Those at the series' own x with the highest mean validation accuracy, the smallest on ties.
    Best,
}

/// A published number.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Id of the [`Panel`] it belongs to; empty for the main figure.
    pub panel: String,
    /// Series it belongs to.
    pub series: String,
    /// Position on the x axis; `None` for a constant series.
    pub x: Option<f64>,
    /// The published value, in [`Expected::unit`].
    pub value: f64,
    /// Unit of the value: that of the metric, or in a relative figure any other.
    pub unit: String,
    /// Difference up to which our value at paper scale counts as reproduced, in units of the figure's y
    /// axis (ratios in a relative figure); `None` for one that is shown and not judged.
    pub tolerance: Option<f64>,
    /// Where the number was published.
    pub source: String,
}

/// One testable part of the claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What is tested, as a sentence.
    pub text: String,
    /// Id of the [`Panel`] whose values are compared; empty for the main figure.
    pub panel: String,
    /// Compare each series at its own best x (see [`At::Best`]) rather than both at every x.
    pub at_best: bool,
    /// Take the spread of differences from the two-way layout of all series of the panel by seeds.
    pub of_layout: bool,
    /// The test.
    pub comparison: Comparison,
}

/// What a [`Check`] compares; every comparison is of means over seeds, of two series at equal x unless
/// the check is at the best x, and is decided by what seeds leave uncertain.
#[derive(Debug, Clone, PartialEq)]
pub enum Comparison {
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
    /// |mean(left) − mean(right)| < margin at every x in `min_x..=max_x`.
    Close {
        /// One series.
        left: String,
        /// The other.
        right: String,
        /// Largest difference that still counts as close, in y units.
        margin: f64,
        /// Lowest x looked at.
        min_x: f64,
        /// Highest x looked at.
        max_x: f64,
    },
    /// left − right rises along x, by the least-squares line of every seed.
    Widens {
        /// Series that should pull away.
        left: String,
        /// Series that should fall behind.
        right: String,
    },
    /// `low` < mean(series) < `high` at every x in `min_x..=max_x`.
    Within {
        /// The series.
        series: String,
        /// Lowest mean allowed.
        low: f64,
        /// Highest mean allowed.
        high: f64,
        /// Lowest x looked at.
        min_x: f64,
        /// Highest x looked at.
        max_x: f64,
    },
    /// How the least-squares line of every seed goes from the smallest x in `min_x..=max_x` to the largest.
    Trend {
        /// The series.
        series: String,
        /// Where it should go.
        trend: Trend,
        /// By more than this, or for [`Trend::Flat`] by no more than this, in y units.
        margin: f64,
        /// Lowest x looked at.
        min_x: f64,
        /// Highest x looked at.
        max_x: f64,
    },
}

/// Where a series goes along the x axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trend {
    /// Down.
    Falls,
    /// Up.
    Rises,
    /// Neither.
    Flat,
}

/// One scale of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalePlan {
    /// Seeds run unless `--seeds` says otherwise: `0..n_seeds`.
    pub n_seeds: usize,
    /// How this scale deviates from the paper, a sentence each.
    pub deviations: Vec<String>,
    /// What was found there and what to do with it: Markdown, with templates that take numbers from records. Empty before
    /// anything was.
    pub finding: String,
    /// All trials for one seed, in run order; `Settings` are complete and checked.
    pub cells: Vec<Cell>,
}

impl ScalePlan {
    /// The series, by index, of which some trial draws its active set once although it is meant to be drawn anew.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) if settings cannot be read.
    pub fn never_redrawn(&self) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for cell in &self.cells {
            if !cell.settings.is_read("epochs") || !cell.settings.is_read("redraw-every") {
                continue;
            }
            let masks: sparsity::Config = cell.settings.read()?;
            if masks.never_redraws(task::epochs(&cell.settings)?) && !found.contains(&cell.series_idx) {
                found.push(cell.series_idx);
            }
        }
        Ok(found)
    }
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
    /// The value of the setting that is tuned, as text; empty where none is.
    pub tuned: String,
    /// Complete settings.
    pub settings: Settings,
    /// Names of the settings that the cell must read, since its series or the axis sets them.
    pub assigned: Vec<&'static str>,
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
    /// Axes and metric of the main figure.
    pub figure: Figure,
    /// Further figures over the same x axis.
    pub panels: Vec<Panel>,
    /// Figures over the course of training; empty for one over epochs, of the main figure's metric.
    pub traces: Vec<Trace>,
    /// Figures over parameter tensors.
    pub layers: Vec<Layers>,
    /// Figures over other profiles.
    pub profiles: Vec<ProfileFigure>,
    /// The setting of which every point has its own value, chosen by validation images; `None` if there is none.
    pub tuned: Option<&'static str>,
    /// Curves.
    pub series: Vec<Series>,
    /// Points taken from the results of other experiments.
    pub borrowed: Vec<Borrowed>,
    /// Published points of series without trials.
    pub quoted: Vec<Quoted>,
    /// Published values.
    pub expected: Vec<Expected>,
    /// The three scales.
    pub scales: BTreeMap<Scale, ScalePlan>,
}

impl Experiment {
    /// Whether some of its points are not of its own trials.
    #[must_use]
    pub fn is_compiled(&self) -> bool {
        !self.borrowed.is_empty() || !self.quoted.is_empty()
    }

    /// The experiments that its points are taken from, each once.
    #[must_use]
    pub fn lenders(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = Vec::new();
        for borrowed in &self.borrowed {
            if !ids.contains(&borrowed.experiment.as_str()) {
                ids.push(&borrowed.experiment);
            }
        }
        ids
    }

    /// The main figure as a panel, with all series.
    #[must_use]
    pub fn main_panel(&self) -> Panel {
        let figure = &self.figure;
        Panel {
            id: String::new(),
            y: figure.y.clone(),
            y_label: figure.y_label.clone(),
            relative_to: figure.relative_to.clone(),
            series: self.series.iter().map(|series| series.id.clone()).collect(),
            log_x: figure.log_x,
            log_y: figure.log_y,
            has_ideal: figure.has_ideal,
        }
    }
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
    /// See [`Cell::tuned`].
    pub tuned: String,
    /// Seed of everything random in the trial.
    pub seed: u64,
    /// Complete settings.
    pub settings: Settings,
}
