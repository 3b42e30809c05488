//! The values of the metrics that a figure can show.

pub use crate::experiment::Metric;
use crate::results::{EpochRecord, TrialRecord};

use super::text::{fixed, significant};

impl Metric {
    /// Its value for a trial, at the last epoch; `None` if that is missing, NaN or infinite.
    ///
    /// The quality of estimates is a mean over the epochs that measured it, and the time of a stage a
    /// median, every epoch being one repetition.
    #[must_use]
    pub fn of(self, record: &TrialRecord) -> Option<f64> {
        let last = record.epochs.last()?;
        let measured = || record.epochs.iter().map(|epoch| self.at(epoch)).filter(|value| !value.is_nan());
        let value = match self {
            Self::SecondsPerEpoch => last.wall_s / record.epochs.len() as f64,
            Self::Cosine | Self::RelativeError | Self::GradientShare => {
                measured().sum::<f64>() / measured().count() as f64
            }
            Self::DirectionsSeconds
            | Self::PerturbationSeconds
            | Self::InferenceSeconds
            | Self::ArithmeticSeconds
            | Self::StepsPerHour
            | Self::SpeedUp
            | Self::ExchangeSeconds => median(measured().collect())?,
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
            Self::GradientNorm => epoch.gradient_norm,
            Self::Cosine => epoch.measures.cosine,
            Self::RelativeError => epoch.measures.relative_error,
            Self::GradientShare => epoch.measures.gradient_share,
            Self::DirectionsSeconds => epoch.measures.directions_s,
            Self::PerturbationSeconds => epoch.measures.perturbation_s,
            Self::InferenceSeconds => epoch.measures.inference_s,
            Self::ArithmeticSeconds => epoch.measures.arithmetic_s,
            Self::Radius => epoch.measures.radius,
            Self::StepsPerHour => epoch.measures.steps_per_hour,
            Self::SpeedUp => epoch.measures.speed_up,
            Self::ExchangeSeconds => epoch.measures.exchange_s,
            Self::ExchangeBytes => epoch.measures.exchange_bytes,
        }
    }

    /// Whether it says how good the network or an estimate is, rather than what it cost.
    #[must_use]
    pub fn is_quality(self) -> bool {
        match self {
            Self::TestAccuracy | Self::TrainAccuracy | Self::ValAccuracy => true,
            Self::TestLoss | Self::TrainLoss | Self::ValLoss => true,
            Self::Cosine | Self::RelativeError | Self::GradientShare => true,
            Self::Seconds | Self::Hours | Self::SecondsPerEpoch | Self::Queries => false,
            Self::DirectionsSeconds | Self::PerturbationSeconds => false,
            Self::InferenceSeconds | Self::ArithmeticSeconds => false,
            Self::GradientNorm | Self::Radius => false,
            Self::StepsPerHour | Self::SpeedUp | Self::ExchangeSeconds | Self::ExchangeBytes => false,
        }
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

    /// The unit of a difference, with the space before it.
    #[must_use]
    pub fn difference_unit(self) -> &'static str {
        if self.unit() == " %" { " points" } else { self.unit() }
    }
}

/// The middle value, or the mean of the two in the middle; `None` without values.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let (low, high) = (values.get(n.checked_sub(1)? / 2)?, values.get(n / 2)?);
    Some(f64::midpoint(*low, *high))
}
