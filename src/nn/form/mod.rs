//! The forms in which a layer takes part in what is done with a network, as far as they do not know layers: what a
//! pass tells it, and what it hands back.
//!
//! - `streamed`: a layer ready for a pass block by block;
//! - `rule`: its difference rule for one probe;
//! - `batched`: the same for batched probes.

mod batched;
mod rule;
mod streamed;

pub use batched::{BatchedRule, BatchedSetup, PropagateBatched, only};
pub use rule::{
    Base, Coupling, Delta, Place, Pooled, Propagate, PropagateBoth, Rows, Rule, RuleSetup, Support,
};
pub use streamed::{Blockwise, BlockwiseBoth, LaneShift, StreamSetup, Streamed, StreamedRows};

use super::stats::RunningStats;
use crate::kernels::Split;
use crate::kernels::lanes::norm::Moments;

/// Which statistics batch norm uses.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// Those of the batch. Running statistics are neither read nor moved.
    Train,
    /// The running ones.
    Eval(&'a RunningStats),
}

/// What a forward pass of a network needs besides parameters and images.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Batch-norm statistics.
    pub mode: Mode<'a>,
    /// Use of the machine by each operation.
    pub split: Split,
}

/// What a layer takes over from the layers after it, so that one pass over memory does all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// A ReLU of its output.
    Relu,
    /// The addition of its last input, and a ReLU of the sum.
    AddRelu,
}

/// One pass through one layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerPass<'a> {
    /// Batch-norm statistics.
    pub mode: Mode<'a>,
    /// What the layer takes over.
    pub epilogue: Epilogue,
    /// Moments of the first input's channels over the batch, where they are known already.
    pub moments: Option<&'a [Moments]>,
}

/// Sizes of one activation without the batch: (C, H, W), or (features, 1, 1).
pub type ActivationShape = [usize; 3];
