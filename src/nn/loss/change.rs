//! How a loss changes when outputs change: it is not subtracted from a nearly equal one.

use candle_core::{Device, Tensor};

use super::{LogitScale, Loss, Targets, cross_entropy_of, log_probabilities, rows, squared_error_of};
use crate::Result;
use crate::kernels::batched::{self, Change};
use crate::kernels::lanes::Blocks;
use crate::kernels::lanes::loss::{CrossEntropy, SquaredError};
use crate::kernels::{Element, Isa};
use crate::params::Layout;

/// A loss at one point.
pub(in crate::nn) struct LossAt<'a> {
    /// Its value.
    pub(in crate::nn) value: f64,
    /// Outputs, multiplied with the scale; for the squared error less their targets.
    rows: Vec<Vec<f64>>,
    /// None for the squared error.
    labels: Option<&'a [u32]>,
    scale: Option<LogitScale>,
}

impl Loss {
    /// The loss at `params` (d), where a network's outputs are `outputs` (B, numbers).
    pub(in crate::nn) fn at<'a>(
        self,
        layout: &Layout,
        params: &[f64],
        outputs: &Tensor,
        targets: Targets<'a>,
    ) -> Result<LossAt<'a>> {
        let mut rows = rows(&outputs.flatten_from(1)?)?;
        if self == Self::SquaredError {
            let targets = targets.values(rows.first().map_or(0, Vec::len))?;
            let value = squared_error_of(&rows, &targets);
            rows.iter_mut()
                .flatten()
                .zip(targets.iter().flatten())
                .for_each(|(output, target)| *output -= target);
            return Ok(LossAt { value, rows, labels: None, scale: None });
        }
        let (labels, scale) = (targets.labels()?, self.scale(layout, params));
        if let Some(scale) = &scale {
            rows.iter_mut().flatten().for_each(|logit| *logit *= scale.value());
        }
        Ok(LossAt { value: cross_entropy_of(&rows, labels), rows, labels: Some(labels), scale })
    }
}

impl LossAt<'_> {
    /// Its change, one probe at a time.
    pub(in crate::nn) fn in_lanes(self, isa: Isa, blocks: Blocks) -> LaneChange {
        match self.labels {
            Some(labels) => {
                let entropy = CrossEntropy::new(isa, blocks, &self.rows, labels);
                LaneChange::Entropy { entropy, scale: self.scale }
            }
            None => LaneChange::Squares(SquaredError::new(blocks, &self.rows)),
        }
    }

    /// Its change, for batched probes on `device`.
    pub(in crate::nn) fn batched(self, device: &Device) -> Result<BatchedChange> {
        let dims = (self.rows.len(), self.rows.first().map_or(0, Vec::len));
        Ok(match self.labels {
            Some(labels) => {
                let logs: Vec<f64> = self.rows.iter().flat_map(|row| log_probabilities(row)).collect();
                let logs = Tensor::from_vec(logs, dims, device)?;
                let labels = Tensor::from_slice(labels, labels.len(), device)?;
                BatchedChange::Entropy { logs, labels, scale: self.scale }
            }
            None => BatchedChange::Squares(Tensor::from_vec(self.rows.concat(), dims, device)?),
        })
    }
}

/// The change of a loss, for one probe and one block of images.
#[derive(Debug)]
pub(in crate::nn) enum LaneChange {
    Entropy { entropy: CrossEntropy, scale: Option<LogitScale> },
    Squares(SquaredError),
}

impl LaneChange {
    /// Factors of the outputs before and after a shift of a coordinate, if there are any.
    pub(in crate::nn) fn scales(&self, coord: usize, shift: f64) -> Option<[f64; 2]> {
        match self {
            Self::Entropy { scale, .. } => {
                scale.as_ref().map(|scale| [scale.value(), scale.after(coord, shift)])
            }
            Self::Squares(_) => None,
        }
    }

    /// Sum over the images of a block, for outputs that change by `delta` (number, lane) from number `first` on.
    pub(in crate::nn) fn of_block<T: Element>(
        &self,
        block: usize,
        first: usize,
        delta: &[T],
        scales: Option<[f64; 2]>,
    ) -> f64 {
        match (self, scales) {
            (Self::Squares(squares), _) => squares.change(block, first, delta),
            (Self::Entropy { entropy, .. }, None) => entropy.change(block, first, delta),
            (Self::Entropy { entropy, .. }, Some(scales)) => {
                entropy.change_rescaled(block, first, delta, scales)
            }
        }
    }
}

/// The change of a loss, for batched probes.
#[derive(Debug)]
pub(in crate::nn) enum BatchedChange {
    /// Logarithms of the probabilities (B, classes) in f64, and labels (B).
    Entropy { logs: Tensor, labels: Tensor, scale: Option<LogitScale> },
    /// Outputs less targets (B, numbers), in f64.
    Squares(Tensor),
}

impl BatchedChange {
    /// Mean changes (P), in f64, for changes of the outputs that `moves` (coordinate, shift) make.
    pub(in crate::nn) fn of(
        &self,
        outputs: &Change,
        moves: impl Iterator<Item = (usize, f64)>,
    ) -> Result<Tensor> {
        Ok(match self {
            Self::Squares(errors) => batched::squared_error_change(outputs, errors)?,
            Self::Entropy { logs, labels, scale: None } => {
                batched::cross_entropy_change(outputs, logs, labels, None)?
            }
            Self::Entropy { logs, labels, scale: Some(scale) } => {
                let scales: Vec<f64> =
                    moves.flat_map(|(coord, shift)| [scale.value(), scale.after(coord, shift)]).collect();
                let scales = Tensor::from_slice(&scales, (scales.len() / 2, 2), logs.device())?;
                batched::cross_entropy_change(outputs, logs, labels, Some(&scales))?
            }
        })
    }
}
