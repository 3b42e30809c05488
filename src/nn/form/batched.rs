//! The difference rule of a layer for batched probes.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Epilogue, Mode, Support};
use crate::kernels::Rounding;
use crate::kernels::batched::Change;

/// What a layer knows when it makes its rule for batched probes.
#[derive(Debug)]
pub struct BatchedSetup<'a> {
    /// Batch-norm statistics.
    pub mode: Mode<'a>,
    /// Values read, at the base point (1, B, C, H, W); none where [`crate::nn::Layer::reads_base`] says so.
    pub inputs: &'a [Option<Tensor>],
    /// Their sizes.
    pub shapes: &'a [ActivationShape],
    /// The layer's own parameters (1, …), in the number type of the activations.
    pub params: &'a [Tensor],
    /// The same, flat, in f64.
    pub values: &'a [&'a [f64]],
    /// Batch moments (C, 2) of the first input, for a batch norm in train mode.
    pub moments: Option<&'a Tensor>,
    /// What the rule takes over.
    pub epilogue: Epilogue,
    /// Rounding of what convolutions multiply.
    pub rounding: Rounding,
}

impl BatchedSetup<'_> {
    /// The first input at the base point.
    pub(in crate::nn) fn base(&self) -> Result<Tensor> {
        match self.inputs.first() {
            Some(Some(base)) => Ok(base.clone()),
            _ => candle_core::bail!("a rule reads a value that was not kept"),
        }
    }
}

/// The difference rule of one layer, or of several fused ones, at one base point, for batched probes. What it
/// computes is what the layer's [`super::Rule`] computes for one.
pub trait BatchedRule: Send + Sync + std::fmt::Debug {
    /// As [`super::Rule::seed_channel`].
    fn seed_channel(&self, coord: usize) -> usize {
        unreachable!("coordinate {coord} of a layer without parameters")
    }

    /// Change (P, B, 1, H, W) of the channels `channels` (P) that shifts (coordinate, length) of the layer's own
    /// parameters make.
    ///
    /// # Errors
    /// If the device fails.
    fn seed(&self, seeds: &[(usize, f64)], _channels: &Tensor) -> Result<Tensor> {
        unreachable!("{} seeds of a layer without parameters", seeds.len())
    }

    /// Channels of the output that change with inputs of these supports. Channels are counted from that of the seed.
    fn support(&self, inputs: &[Support]) -> Support {
        inputs[0]
    }

    /// Change (P, B, channels stored, H, W) of the output, for changes of at least one input, over the channels
    /// `channels` (P), or over all.
    ///
    /// # Errors
    /// If the device fails.
    fn apply(&self, inputs: &[Option<&Change>], channels: Option<&Tensor>) -> Result<Tensor>;

    /// Multiplications and additions per image for inputs of these supports.
    fn flops(&self, inputs: &[Support]) -> u64;
}

/// A layer that can make its rule for batched probes.
pub trait PropagateBatched: std::fmt::Debug {
    /// The layer's rule.
    ///
    /// # Errors
    /// If a parameter or statistic is missing, or the device fails.
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>>;
}

/// A layer's only input.
pub fn only<'a>(inputs: &[Option<&'a Change>]) -> Result<&'a Change> {
    match inputs.first() {
        Some(Some(change)) => Ok(change),
        _ => candle_core::bail!("a rule was asked about a change that is not there"),
    }
}
