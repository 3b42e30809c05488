//! A layer ready for one forward pass, block by block.

use super::{ActivationShape, Epilogue, Mode, Rows};
use crate::Result;
use crate::kernels::lanes::finish::{ChannelMap, Finish};
use crate::kernels::lanes::norm::Moments;
use crate::kernels::lanes::{Blocks, Scratch};
use crate::kernels::{Element, Isa};

/// What a layer knows when it gets ready.
#[derive(Debug, Clone, Copy)]
pub struct StreamSetup<'a> {
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// Cut of the batch.
    pub blocks: Blocks,
    /// Batch-norm statistics.
    pub mode: Mode<'a>,
    /// Sizes of the values read.
    pub shapes: &'a [ActivationShape],
    /// The layer's own parameter tensors, flat.
    pub params: &'a [Vec<f64>],
    /// What it takes over.
    pub epilogue: Epilogue,
}

/// A layer ready for one forward pass.
pub trait Streamed<T>: Send + Sync {
    /// Output (C', H', W', lane) of one block, from its inputs (C, H, W, lane) and, for a batch norm in
    /// train mode, the moments of the batch.
    fn run(&self, inputs: &[&[T]], moments: &[Moments], out: &mut [T], scratch: &mut Scratch<T>);

    /// Of a layer that is a map of every channel of its first input, without a bias, to which its second is added: the
    /// maps, none for those that leave everything as it is, and whether negative results become zero.
    fn maps(&self) -> Option<(Option<Vec<ChannelMap<T>>>, bool)> {
        None
    }

    /// By output channel its bias, of a layer that can apply maps to what it computes; empty if there is none.
    fn finishes(&self) -> Option<&[T]> {
        None
    }

    /// As [`Streamed::run`] of such a layer, with maps that contain its bias.
    fn run_finished(&self, _inputs: &[&[T]], _finish: &Finish<T>, _out: &mut [T], _scratch: &mut Scratch<T>) {
        unreachable!("only layers that finish are asked to");
    }

    /// What can compute some rows of the output alone; by default nothing.
    fn by_rows(&self) -> Option<&dyn StreamedRows<T>> {
        None
    }

    /// What single lanes can have that the others do not; by default nothing.
    fn lane_shift(&self) -> Option<&dyn LaneShift<T>> {
        None
    }
}

/// A layer that can compute some rows of its output alone.
pub trait StreamedRows<T> {
    /// Rows of the first input that rows of the output read.
    fn rows_read(&self, rows: Rows) -> Rows;

    /// Whether rows have to begin at multiples of [`STRIP`](crate::kernels::lanes::conv::STRIP).
    fn is_aligned(&self) -> bool {
        false
    }

    /// As [`Streamed::run`], of these rows. Others of the first input need not be there yet.
    fn run_rows(
        &self,
        inputs: &[&[T]],
        moments: &[Moments],
        rows: Rows,
        out: &mut [T],
        scratch: &mut Scratch<T>,
    );
}

/// A layer whose parameters can be shifted in single lanes.
pub trait LaneShift<T> {
    /// Adds to lane `lane` of `out` (C', H', W', lane) what `shift` in coordinate `coord` of the layer's own parameters
    /// adds to the output, given the input (C, H, W, lane).
    fn shift(&self, input: &[T], coord: usize, shift: T, lane: usize, out: &mut [T]);
}

/// A layer that can get ready, for one number type.
pub trait Blockwise<T: Element> {
    /// The layer with these parameters.
    ///
    /// # Errors
    /// If sizes do not fit.
    fn streamed(&self, setup: &StreamSetup) -> Result<Box<dyn Streamed<T>>>;
}

/// The same for both number types.
pub trait BlockwiseBoth: Blockwise<f32> + Blockwise<f64> + std::fmt::Debug {}

impl<L: Blockwise<f32> + Blockwise<f64> + std::fmt::Debug> BlockwiseBoth for L {}
