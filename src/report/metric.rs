//! The numbers that a figure can show, and their units.

use crate::results::{EpochRecord, TrialRecord};
use crate::{Error, Result};

use super::text::{fixed, significant};

/// What stands on a y axis. Accuracies are in percent here, as in the paper; so are the published
/// values, tolerances and margins that go with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// `test-accuracy`, percent.
    TestAccuracy,
    /// `train-accuracy`, percent.
    TrainAccuracy,
    /// `val-accuracy`, percent.
    ValAccuracy,
    /// `test-loss`.
    TestLoss,
    /// `train-loss`.
    TrainLoss,
    /// `val-loss`.
    ValLoss,
    /// `wall-s`, seconds for the whole trial.
    Seconds,
    /// `wall-h`, hours for the whole trial.
    Hours,
    /// `epoch-s`, mean seconds per epoch.
    SecondsPerEpoch,
    /// `queries` in the whole trial.
    Queries,
}

/// Names in experiment files.
const NAMES: [(&str, Metric); 10] = [
    ("test-accuracy", Metric::TestAccuracy),
    ("train-accuracy", Metric::TrainAccuracy),
    ("val-accuracy", Metric::ValAccuracy),
    ("test-loss", Metric::TestLoss),
    ("train-loss", Metric::TrainLoss),
    ("val-loss", Metric::ValLoss),
    ("wall-s", Metric::Seconds),
    ("wall-h", Metric::Hours),
    ("epoch-s", Metric::SecondsPerEpoch),
    ("queries", Metric::Queries),
];

impl Metric {
    /// The metric of that name.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is none.
    pub fn parse(name: &str) -> Result<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, metric)| *metric).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
            Error::setting("y", format!("no metric `{name}`; there are {}", known.join(", ")))
        })
    }

    /// Its value for a trial, at the last epoch; `None` if that is missing, NaN or infinite.
    #[must_use]
    pub fn of(self, record: &TrialRecord) -> Option<f64> {
        let last = record.epochs.last()?;
        let value = match self {
            Self::SecondsPerEpoch => last.wall_s / record.epochs.len() as f64,
            _ => self.at(last),
        };
        value.is_finite().then_some(value)
    }

    /// Its value at one epoch; times and queries count from the trial's start.
    #[must_use]
    pub fn at(self, epoch: &EpochRecord) -> f64 {
        match self {
            Self::TestAccuracy => 100.0 * epoch.test_accuracy,
            Self::TrainAccuracy => 100.0 * epoch.train_accuracy,
            Self::ValAccuracy => 100.0 * epoch.val_accuracy,
            Self::TestLoss => epoch.test_loss,
            Self::TrainLoss => epoch.train_loss,
            Self::ValLoss => epoch.val_loss,
            Self::Seconds => epoch.wall_s,
            Self::Hours => epoch.wall_s / 3600.0,
            Self::SecondsPerEpoch => epoch.wall_s / f64::from(epoch.epoch),
            Self::Queries => epoch.queries as f64,
        }
    }

    /// Whether it says how good the network is, rather than what training cost.
    #[must_use]
    pub fn is_quality(self) -> bool {
        !matches!(self, Self::Seconds | Self::Hours | Self::SecondsPerEpoch | Self::Queries)
    }

    /// A value in this metric's precision, without its unit.
    #[must_use]
    pub fn number(self, value: f64) -> String {
        match self {
            Self::TestAccuracy | Self::TrainAccuracy | Self::ValAccuracy => fixed(value, 2),
            Self::TestLoss | Self::TrainLoss | Self::ValLoss => fixed(value, 4),
            _ => significant(value),
        }
    }

    /// The unit, with the space before it.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::TestAccuracy | Self::TrainAccuracy | Self::ValAccuracy => " %",
            Self::TestLoss | Self::TrainLoss | Self::ValLoss | Self::Queries => "",
            Self::Seconds | Self::SecondsPerEpoch => " s",
            Self::Hours => " h",
        }
    }

    /// The unit of a difference, with the space before it.
    #[must_use]
    pub fn difference_unit(self) -> &'static str {
        if self.unit() == " %" { " points" } else { self.unit() }
    }
}
