//! The difference rule of a layer: how a change of its input becomes a change of its output.

use super::{ActivationShape, Epilogue, Mode};
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::{Blocks, Scratch};
use crate::kernels::{Element, Isa, Rounding};

/// Channels of an activation that a change touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Nothing changes.
    None,
    /// Some neighbours.
    Channels {
        /// The first of them.
        first: usize,
        /// How many.
        count: usize,
    },
    /// Possibly all.
    Dense,
}

impl Support {
    /// One channel.
    #[must_use]
    pub fn one(channel: usize) -> Self {
        Self::Channels { first: channel, count: 1 }
    }

    /// Channels that either touches.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, some) | (some, Self::None) => some,
            _ if self == other => self,
            _ => Self::Dense,
        }
    }

    /// The first channel stored.
    #[must_use]
    pub fn first(self) -> usize {
        match self {
            Self::Channels { first, .. } => first,
            Self::None | Self::Dense => 0,
        }
    }

    /// Channel of the stored plane `idx`.
    #[must_use]
    pub fn channel(self, idx: usize) -> usize {
        self.first() + idx
    }

    /// Planes stored, of `channels`.
    #[must_use]
    pub fn planes(self, channels: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Channels { count, .. } => count,
            Self::Dense => channels,
        }
    }
}

/// Change of an activation for one block of images.
#[derive(Debug, Clone, Copy)]
pub struct Delta<'a, T> {
    /// Channels stored.
    pub support: Support,
    /// (channels stored, H, W, lane)
    pub data: &'a [T],
}

impl<'a, T> Delta<'a, T> {
    /// No change.
    pub const NONE: Self = Self { support: Support::None, data: &[] };

    /// The plane of `len` numbers of a channel, if it is stored.
    #[must_use]
    pub fn plane(&self, channel: usize, len: usize) -> Option<&'a [T]> {
        let stored = match self.support {
            Support::None => None,
            Support::Channels { first, count } => channel.checked_sub(first).filter(|&idx| idx < count),
            Support::Dense => Some(channel),
        };
        stored.map(|idx| &self.data[idx * len..][..len])
    }
}

/// Activations at the base point that rules read, by number of the value.
#[derive(Debug)]
pub struct Base<'a, T> {
    pub(in crate::nn) blocks: Blocks,
    pub(in crate::nn) values: Vec<&'a [T]>,
}

/// Some rows of planes: `start` and those up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// First row.
    pub start: usize,
    /// First row after them.
    pub end: usize,
}

impl Rows {
    /// All rows of planes of this height.
    #[must_use]
    pub fn all(height: usize) -> Self {
        Self { start: 0, end: height }
    }

    /// The part of a plane (H, W, lane) with `row` numbers per row.
    #[must_use]
    pub fn of<T>(self, plane: &[T], row: usize) -> &[T] {
        &plane[self.start * row..self.end * row]
    }

    /// The same, to write to.
    #[must_use]
    pub fn of_mut<T>(self, plane: &mut [T], row: usize) -> &mut [T] {
        &mut plane[self.start * row..self.end * row]
    }
}

/// Where a rule is applied: one block of images at the base point, and rows of the rule's output.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a, T> {
    pub(in crate::nn) base: &'a Base<'a, T>,
    pub(in crate::nn) block: usize,
    /// Whether its stage has gone through no other block before.
    pub(in crate::nn) is_first_block: bool,
    pub(in crate::nn) rows: Rows,
}

impl<'a, T> Place<'a, T> {
    /// Images in the block.
    #[must_use]
    pub fn n_images(&self) -> usize {
        self.base.blocks.images_in(self.block)
    }

    /// Rows that are asked for.
    #[must_use]
    pub fn rows(&self) -> Rows {
        self.rows
    }

    /// Whether these are the first rows of the first block that comes by.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.is_first_block && self.rows.start == 0
    }

    /// Whether this is the first block that comes by, which need not be the first of the batch.
    #[must_use]
    pub fn is_in_first_block(&self) -> bool {
        self.is_first_block
    }

    /// A value (C, H, W, lane) that the network was asked to keep.
    #[must_use]
    pub fn value(&self, value: usize) -> &'a [T] {
        let values = self.base.values[value];
        let len = values.len() / self.base.blocks.count();
        &values[self.block * len..][..len]
    }

    /// One channel of `len` numbers of a value.
    #[must_use]
    pub fn plane(&self, value: usize, channel: usize, len: usize) -> &'a [T] {
        &self.value(value)[channel * len..][..len]
    }
}

/// What a layer knows when it makes its rule.
#[derive(Debug, Clone, Copy)]
pub struct RuleSetup<'a> {
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// Cut of the batch.
    pub blocks: Blocks,
    /// Batch-norm statistics.
    pub mode: Mode<'a>,
    /// Numbers of the values read.
    pub inputs: &'a [usize],
    /// Their sizes.
    pub shapes: &'a [ActivationShape],
    /// The layer's own parameter tensors, flat.
    pub params: &'a [&'a [f64]],
    /// Batch moments of the first input, for a batch norm in train mode.
    pub moments: Option<&'a [Moments]>,
    /// What the rule takes over.
    pub epilogue: Epilogue,
    /// Rounding of what convolutions multiply.
    pub rounding: Rounding,
}

/// The difference rule of one layer (or of several fused ones) at one base point.
pub trait Rule<T: Element>: Send + Sync + std::fmt::Debug {
    /// Channel that a shift of the layer's own coordinate changes; coordinates are numbered over the
    /// layer's tensors in declared order.
    fn seed_channel(&self, coord: usize) -> usize {
        unreachable!("coordinate {coord} of a layer without parameters")
    }

    /// Writes to `out` (H, W, lane) the change of that channel for a shift by `shift`.
    fn seed(&self, _place: Place<T>, coord: usize, _shift: f64, _out: &mut [T]) {
        unreachable!("coordinate {coord} of a layer without parameters")
    }

    /// Channels of the output that change with inputs of these supports.
    fn support(&self, inputs: &[Support]) -> Support {
        inputs[0]
    }

    /// Rows of the inputs that rows of the output depend on, if the rule can compute some rows alone. None if it
    /// is asked for whole planes only.
    fn rows_read(&self, _rows: Rows) -> Option<Rows> {
        None
    }

    /// Whether it can.
    fn has_rows(&self) -> bool {
        self.rows_read(Rows::all(1)).is_some()
    }

    /// Writes to the rows of `out` (channels of [`Rule::support`], H, W, lane) that `place` asks for the change of
    /// the output. `coupled` has one entry per stored channel of the first input if the rule is
    /// [coupled](Rule::coupling).
    fn apply(
        &self,
        place: Place<T>,
        inputs: &[Delta<T>],
        coupled: &[Affine<T>],
        out: &mut [T],
        scratch: &mut Scratch<T>,
    );

    /// The same with maxima over 2x2 windows behind it, if it can.
    fn pooled(&self) -> Option<&dyn Pooled<T>> {
        None
    }

    /// Whether it is that of maxima over 2x2 windows with stride 2.
    fn is_max_pool2(&self) -> bool {
        false
    }

    /// How it depends on statistics of the batch, if it does.
    fn coupling(&self) -> Option<&dyn Coupling<T>> {
        None
    }

    /// Multiplications and additions per image for inputs of these supports.
    fn flops(&self, inputs: &[Support]) -> u64;
}

/// A rule and that of maxima over 2x2 windows behind it as one: the change in between is never stored.
pub trait Pooled<T> {
    /// Writes to `out` (channels of [`Rule::support`], H/2, W/2, lane) the change of the maxima, as one rule after the other
    /// would, but that the values before the change are computed anew; the rest as in [`Rule::apply`], of whole planes.
    fn apply(&self, place: Place<T>, inputs: &[Delta<T>], coupled: &[Affine<T>], out: &mut [T]);
}

/// Dependence on the whole batch: sums are taken block by block over the first input, then one rule
/// per channel follows from them.
pub trait Coupling<T> {
    /// Registers of sums per channel.
    fn sums_per_channel(&self) -> usize;

    /// Adds the sums of the rows of one block to `sums` (channels stored, sums, lane); blocks come in order, and
    /// rows within them.
    fn add_sums(&self, place: Place<T>, input: Delta<T>, sums: &mut [T]);

    /// One entry per stored channel, from the complete `sums`.
    fn affine(&self, support: Support, sums: &[T], out: &mut Vec<Affine<T>>);
}

/// A layer that can make its rule for one number type.
pub trait Propagate<T: Element> {
    /// The layer's rule.
    ///
    /// # Errors
    /// If a parameter or statistic is missing.
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>>;
}

/// The same for both number types.
pub trait PropagateBoth: Propagate<f32> + Propagate<f64> + std::fmt::Debug {}

impl<L: Propagate<f32> + Propagate<f64> + std::fmt::Debug> PropagateBoth for L {}
