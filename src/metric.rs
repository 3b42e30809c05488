//! What trials measure: one table of metrics, and the row of numbers that an epoch leaves.
//!
//! An entry of the table is all that there is to a metric: its column in result files and checkpoints, its name in
//! experiment files, how reports show it; `results/README.md` repeats what documents it. Whoever measures something sets
//! it in a [`Row`]; what is not set is null in files and absent from reports.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::{Error, Result};

/// A quantity that trials measure epoch by epoch, and a figure can show.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// Name in experiment files, such as `test-accuracy`.
    pub name: &'static str,
    /// Column in result files, such as `test_accuracy`. Metrics that share one show the same number in other ways.
    pub column: &'static str,
    /// What the column holds, as in `results/README.md`.
    pub help: &'static str,
    /// Unit of what is shown.
    pub unit: Unit,
    /// What stands for the whole trial.
    pub reduction: Reduction,
    /// Precision of what is shown.
    pub digits: Digits,
    /// Values that it cannot leave, as shown.
    pub bounds: (f64, f64),
    /// Whether it differs from run to run, since it holds a time, or from machine to machine.
    pub is_time: bool,
    /// Whether it says how good the network or an estimate is, rather than what it cost.
    pub is_quality: bool,
    /// Whether it is a whole number, and its column one of integers. Counts are exact up to 2^53.
    pub is_count: bool,
}

/// Unit in which a metric is shown, and so how that follows from its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    None,
    /// Percent; the column holds fractions.
    Percent,
    /// Seconds.
    Seconds,
    /// Hours; the column holds seconds.
    Hours,
}

impl Unit {
    /// Behind a number, with the space before it.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Percent => " %",
            Self::Seconds => " s",
            Self::Hours => " h",
        }
    }

    /// Behind a difference, with the space before it.
    #[must_use]
    pub fn difference_suffix(self) -> &'static str {
        if self == Self::Percent { " points" } else { self.suffix() }
    }

    /// What is shown of a number in the column.
    #[must_use]
    pub fn of_column(self, value: f64) -> f64 {
        match self {
            Self::None | Self::Seconds => value,
            Self::Percent => 100.0 * value,
            Self::Hours => value / 3600.0,
        }
    }
}

/// How the epochs of a trial become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The last epoch's.
    Last,
    /// The last epoch's over the number of epochs; at an epoch, its own over its number.
    PerEpoch,
    /// The mean over the epochs that measured it.
    Mean,
    /// The median over the epochs that measured it, each being one repetition.
    Median,
}

/// Precision of a number in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digits {
    /// So many behind the point.
    Fixed(usize),
    /// So many that matter, whatever the size.
    Significant,
}

/// What most metrics are.
const PLAIN: Metric = Metric {
    name: "",
    column: "",
    help: "",
    unit: Unit::None,
    reduction: Reduction::Last,
    digits: Digits::Significant,
    bounds: (0.0, f64::INFINITY),
    is_time: false,
    is_quality: false,
    is_count: false,
};
const LOSS: Metric = Metric { digits: Digits::Fixed(4), is_quality: true, ..PLAIN };
const ACCURACY: Metric =
    Metric { unit: Unit::Percent, digits: Digits::Fixed(2), bounds: (0.0, 100.0), is_quality: true, ..PLAIN };
const COUNT: Metric = Metric { is_count: true, ..PLAIN };
/// How close an estimate of the gradient is.
const CLOSENESS: Metric = Metric { reduction: Reduction::Mean, is_quality: true, ..PLAIN };
const SECONDS: Metric = Metric { unit: Unit::Seconds, is_time: true, ..PLAIN };
/// Seconds of something that every epoch repeats.
const REPEATED_SECONDS: Metric = Metric { reduction: Reduction::Median, ..SECONDS };
/// Something else that depends on the time of a repetition.
const REPEATED_SPEED: Metric = Metric { unit: Unit::None, ..REPEATED_SECONDS };

/// Defines the metrics and, in the same order, the list of them; what documents one is its help.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $id:ident: $name:literal in $column:literal = $base:expr;)+) => {
        $(
            $(#[doc = $help])+
            pub static $id: Metric = Metric {
                name: $name,
                column: $column,
                help: concat!($($help),+).trim_ascii(),
                ..$base
            };
        )+

        /// All metrics, in the order of their columns.
        pub static METRICS: [&Metric; [$($name),+].len()] = [$(&$id),+];
    };
}

metrics! {
    /// Mean loss over the epoch's steps, of the parameters before each step.
    TRAIN_LOSS: "train-loss" in "train_loss" = LOSS;
    /// Accuracy over the epoch's steps, of the parameters before each step.
    TRAIN_ACCURACY: "train-accuracy" in "train_accuracy" = ACCURACY;
    /// Mean cross-entropy on the validation images; null without any.
    VAL_LOSS: "val-loss" in "val_loss" = LOSS;
    /// Accuracy on the validation images; null without any.
    VAL_ACCURACY: "val-accuracy" in "val_accuracy" = ACCURACY;
    /// Mean cross-entropy on the test images.
    TEST_LOSS: "test-loss" in "test_loss" = LOSS;
    /// Accuracy on the test images.
    TEST_ACCURACY: "test-accuracy" in "test_accuracy" = ACCURACY;
    /// Mean absolute error of the velocity over the faces and frames of the test simulations, mean over these; null if a
    /// flow was lost.
    MAE: "mae" in "mae" = LOSS;
    /// Variance of it over the test simulations.
    MAE_VARIANCE: "mae-variance" in "mae_variance" = Metric { digits: Digits::Significant, ..LOSS };
    /// Standard deviation of it over the test simulations.
    MAE_STD: "mae-std" in "mae_std" = LOSS;
    /// Learning rate of the epoch's last step.
    LEARNING_RATE: "learning-rate" in "learning_rate" = PLAIN;
    /// Coordinates in the active set.
    N_ACTIVE: "n-active" in "n_active" = COUNT;
    /// Evaluations of the objective since the trial began, GraSP's included; where `setting_task` is `workers`, those
    /// of one step, and 0 where it is `workers-model`, which runs none.
    QUERIES: "queries" in "queries" = COUNT;
    /// Those of them that returned NaN or infinity.
    QUERIES_NON_FINITE: "queries-non-finite" in "queries_non_finite" = COUNT;
    /// Norm of the epoch's last gradient estimate.
    GRADIENT_NORM: "gradient-norm" in "gradient_norm" = PLAIN;
    /// Median absolute scale of a normalization whose scales and shifts have a common length that the loss does not depend on,
    /// since another normalization follows; where there are several of the kind, the least; null without any.
    NORM_SCALE: "norm-scale" in "norm_scale" = PLAIN;
    /// The part of such a length that a step along the epoch's last estimate would take away at a learning rate of 1, where it
    /// would take most; the exact gradient takes none.
    NORM_PULL: "norm-pull" in "norm_pull" = Metric { bounds: (f64::NEG_INFINITY, f64::INFINITY), ..PLAIN };
    /// Spent since the trial began, interruptions not counted; of a defense, on training through the black box alone.
    WALL_S: "wall-s" in "wall_s" = SECONDS;
    /// The same in hours.
    WALL_H: "wall-h" in "wall_s" = Metric { unit: Unit::Hours, ..SECONDS };
    /// The same per epoch.
    EPOCH_S: "epoch-s" in "wall_s" = Metric { reduction: Reduction::PerEpoch, ..SECONDS };
    /// Cosine of the angle between the estimate and back-propagation, on the active coordinates.
    COSINE: "cosine" in "cosine" = Metric { bounds: (-1.0, 1.0), ..CLOSENESS };
    /// Norm of their difference over the norm of the latter.
    RELATIVE_ERROR: "relative-error" in "relative_error" = CLOSENESS;
    /// Norm of the gradient by back-propagation on the active coordinates over its whole norm.
    GRADIENT_SHARE: "gradient-share" in "gradient_share" = CLOSENESS;
    /// To draw the directions of one estimate.
    DIRECTIONS_S: "directions-s" in "directions_s" = REPEATED_SECONDS;
    /// To perturb the parameters, for all queries of the estimate.
    PERTURBATION_S: "perturbation-s" in "perturbation_s" = REPEATED_SECONDS;
    /// All forward passes of the estimate.
    INFERENCE_S: "inference-s" in "inference_s" = REPEATED_SECONDS;
    /// To form the estimate from its losses.
    ARITHMETIC_S: "arithmetic-s" in "arithmetic_s" = REPEATED_SECONDS;
    /// Radius of Pattern Search, or standard deviation of CMA-ES's population, at the end of the epoch.
    RADIUS: "radius" in "radius" = PLAIN;
    /// Of a job of `setting_workers` processes.
    STEPS_PER_HOUR: "steps-per-hour" in "steps_per_hour" = REPEATED_SPEED;
    /// The same over that of one process, measured right before.
    SPEED_UP: "speed-up" in "speed_up" = REPEATED_SPEED;
    /// Of a step, in the exchange of results, waiting included.
    EXCHANGE_S: "exchange-s" in "exchange_s" = REPEATED_SECONDS;
    /// That the first process receives from others in a step.
    EXCHANGE_BYTES: "exchange-bytes" in "exchange_bytes" = PLAIN;
    /// Of the machines that the job's processes run on.
    CORES: "cores" in "cores" = REPEATED_SPEED;
    /// Part of the certified test images whose smoothed class is right, abstentions being errors.
    CERTIFIED_0: "certified-0" in "certified_0" = ACCURACY;
    /// The same, certified within a radius of 0.25.
    CERTIFIED_25: "certified-25" in "certified_25" = ACCURACY;
    /// The same, within 0.5.
    CERTIFIED_50: "certified-50" in "certified_50" = ACCURACY;
    /// The same, within 0.75.
    CERTIFIED_75: "certified-75" in "certified_75" = ACCURACY;
    /// Part of the certified test images of which the smoothed classifier does not say a class.
    ABSTAINED: "abstained" in "abstained" = ACCURACY;
    /// To certify them.
    CERTIFICATION_S: "certification-s" in "certification_s" = SECONDS;
}

impl Metric {
    /// The metric of that name.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is none.
    pub fn parse(name: &str) -> Result<&'static Self> {
        METRICS.iter().find(|metric| metric.name == name).copied().ok_or_else(|| {
            Error::setting("y", format!("no metric `{name}`; there are {}", Self::names().join(", ")))
        })
    }

    /// The names of all metrics.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        METRICS.iter().map(|metric| metric.name).collect()
    }

    /// The metrics that have a column of their own, in its order.
    pub fn of_columns() -> impl Iterator<Item = &'static Self> {
        METRICS.iter().enumerate().filter(|(idx, metric)| metric.slot() == *idx).map(|(_, metric)| *metric)
    }

    /// Its value for a trial with these epochs, as shown; `None` if that is missing, NaN or infinite.
    #[must_use]
    pub fn of(&self, rows: &[Row]) -> Option<f64> {
        let last = rows.last()?;
        let measured = || rows.iter().map(|row| self.at(row)).filter(|value| !value.is_nan());
        let value = match self.reduction {
            Reduction::Last => self.at(last),
            Reduction::PerEpoch => self.unit.of_column(last.get(self)) / rows.len() as f64,
            Reduction::Mean => measured().sum::<f64>() / measured().count() as f64,
            Reduction::Median => median(measured().collect())?,
        };
        value.is_finite().then_some(value)
    }

    /// Its value at one epoch, as shown; times and queries count from the trial's start.
    #[must_use]
    pub fn at(&self, row: &Row) -> f64 {
        let value = self.unit.of_column(row.get(self));
        if self.reduction == Reduction::PerEpoch { value / f64::from(row.epoch) } else { value }
    }

    /// Where a row keeps its column: the place of the first metric that has it.
    fn slot(&self) -> usize {
        let found = METRICS.iter().position(|metric| metric.column == self.column);
        found.expect("every metric is in the list")
    }
}

/// The middle value, or the mean of the two in the middle; `None` without values.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let (low, high) = (values.get(n.checked_sub(1)? / 2)?, values.get(n / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// What was measured at the end of one epoch, in the units of the columns: fractions, seconds. NaN is what was not.
///
/// Two rows are equal if they are bit for bit, any NaN being equal to any other.
#[derive(Clone, Copy)]
pub struct Row {
    /// 1-based epoch.
    pub epoch: u32,
    values: [f64; METRICS.len()],
}

impl Row {
    /// The column of [`Row::epoch`], beside those of the metrics.
    pub const EPOCH: &'static str = "epoch";

    /// A row that says nothing but its number.
    #[must_use]
    pub fn new(epoch: u32) -> Self {
        Self { epoch, values: [f64::NAN; METRICS.len()] }
    }

    /// Sets the number in a metric's column.
    pub fn set(&mut self, metric: &Metric, value: f64) {
        self.values[metric.slot()] = value;
    }

    /// Sets a count.
    pub fn set_count(&mut self, metric: &Metric, count: u64) {
        self.set(metric, count as f64);
    }

    /// The row with a number in a metric's column.
    #[must_use]
    pub fn with(mut self, metric: &Metric, value: f64) -> Self {
        self.set(metric, value);
        self
    }

    /// The number in a metric's column; NaN if it was not set.
    #[must_use]
    pub fn get(&self, metric: &Metric) -> f64 {
        self.values[metric.slot()]
    }

    /// The count in a metric's column, if it was set.
    #[must_use]
    pub fn get_count(&self, metric: &Metric) -> Option<u64> {
        let value = self.get(metric);
        (!value.is_nan()).then_some(value as u64)
    }

    /// What was set, in the order of the columns.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Metric, f64)> {
        Metric::of_columns().map(|metric| (metric, self.get(metric))).filter(|(_, value)| !value.is_nan())
    }

    /// The names of [`Row::to_values`].
    #[must_use]
    pub fn columns() -> Vec<&'static str> {
        std::iter::once(Self::EPOCH).chain(Metric::of_columns().map(|metric| metric.column)).collect()
    }

    /// All numbers, the epoch's and NaN included, in the order of [`Row::columns`].
    #[must_use]
    pub fn to_values(&self) -> Vec<f64> {
        let values = Metric::of_columns().map(|metric| self.get(metric));
        std::iter::once(f64::from(self.epoch)).chain(values).collect()
    }

    /// The row with these numbers in these columns. Columns that there are not are left out; without the column
    /// [`Row::EPOCH`] it is 0.
    #[must_use]
    pub fn from_values(columns: &[&str], values: &[f64]) -> Self {
        let mut row = Self::new(0);
        for (column, value) in columns.iter().zip(values) {
            if *column == Self::EPOCH {
                row.epoch = *value as u32;
            } else if let Some(metric) = METRICS.iter().find(|metric| metric.column == *column) {
                row.set(metric, *value);
            }
        }
        row
    }
}

/// Whether two numbers are the same bit for bit, any NaN being the same as any other.
pub(crate) fn is_same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.values.iter().zip(other.values).all(|(a, b)| is_same(*a, b))
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut map = f.debug_map();
        map.entry(&Self::EPOCH, &self.epoch);
        map.entries(self.iter().map(|(metric, value)| (metric.column, value))).finish()
    }
}

/// A map from columns to what was set, counts as integers.
impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(Self::EPOCH, &self.epoch)?;
        for (metric, value) in self.iter() {
            if metric.is_count {
                map.serialize_entry(metric.column, &(value as u64))?;
            } else {
                map.serialize_entry(metric.column, &value)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: a file name's and a key's rules; a name is a column's but for hyphens, unless the column has several.
    #[test]
    fn names_and_columns_belong_together() {
        let mut names = Metric::names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len(), "no name twice");
        for metric in Metric::of_columns() {
            assert_eq!(metric.name.replace('-', "_"), metric.column);
            assert_eq!(
                metric.is_time,
                metric.column.ends_with("_s") || metric.reduction == Reduction::Median
            );
        }
        for metric in METRICS {
            assert!(
                metric.help.ends_with('.') && !metric.help.contains("  "),
                "{}: {}",
                metric.name,
                metric.help
            );
            assert!(!(metric.is_time && metric.is_quality), "{}", metric.name);
        }
    }

    /// Oracle: by hand. Three metrics show one column in seconds, hours and seconds per epoch.
    #[test]
    fn a_column_is_shown_in_the_units_of_its_metrics() {
        let rows =
            [Row::new(1).with(&WALL_S, 1000.0), Row::new(2).with(&WALL_S, 7200.0).with(&TEST_ACCURACY, 0.25)];
        assert_eq!(
            [&WALL_S, &WALL_H, &EPOCH_S].map(|metric| metric.of(&rows)),
            [7200.0, 2.0, 3600.0].map(Some)
        );
        let at_second = |metric: &Metric| metric.at(&rows[1]).to_bits();
        assert_eq!([&WALL_S, &WALL_H, &EPOCH_S].map(at_second), [7200.0, 2.0, 3600.0].map(f64::to_bits));
        assert_eq!((TEST_ACCURACY.of(&rows), TEST_ACCURACY.of(&rows[..1])), (Some(25.0), None));
        assert_eq!((Unit::Percent.difference_suffix(), Unit::Hours.difference_suffix()), (" points", " h"));
    }

    #[test]
    fn a_row_holds_what_was_set() {
        let mut row = Row::new(3).with(&RADIUS, 0.5);
        row.set_count(&QUERIES, (1 << 53) - 1);
        assert_eq!(row.iter().map(|(metric, _)| metric.name).collect::<Vec<_>>(), ["queries", "radius"]);
        assert_eq!((row.get_count(&QUERIES), row.get_count(&N_ACTIVE)), (Some((1 << 53) - 1), None));
        assert!(row.get(&COSINE).is_nan());
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(json, r#"{"epoch":3,"queries":9007199254740991,"radius":0.5}"#);
        assert_eq!(Row::from_values(&Row::columns(), &row.to_values()), row);
        // By name, whatever the order; and what a later version may add is left out.
        let part = Row::from_values(&["radius", "beauty", "epoch"], &[0.5, 1.0, 3.0]);
        assert_eq!(part, Row::new(3).with(&RADIUS, 0.5));
        assert_ne!(part, Row::new(3).with(&RADIUS, -0.5));
        assert_ne!(Row::new(1).with(&TEST_LOSS, 0.0), Row::new(1).with(&TEST_LOSS, -0.0));
    }
}
