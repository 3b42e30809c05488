//! Gradients on their way back along the tape.
//!
//! What a batch norm hands back to the convolution before it would be written once and read twice, a sum of two
//! gradients written and read by whom it goes to. Both are as easily made block by block where they are needed, while
//! a block is in the cache; a [`Grad`] may therefore be unfinished. It has the same bits either way.

use std::sync::Arc;

use candle_core::{Device, Result, Storage, Tensor, bail};

use super::pointwise::Add;
use super::{Execution, apply_detached};
use crate::kernels::Element;
use crate::kernels::lanes::norm::{Gradient, Incoming, Mask};
use crate::kernels::lanes::{Buffer, Out};

/// A gradient that may have to be finished.
#[derive(Debug, Clone)]
pub(super) enum Grad {
    /// All there.
    Whole(Tensor),
    /// The sum of both, of a value that was read twice.
    Sum(Tensor, Tensor),
    /// Of the input of a batch norm.
    OfNorm(Arc<NormGrad>),
}

impl Grad {
    /// The gradient itself.
    pub(super) fn whole(self) -> Result<Tensor> {
        match self {
            Self::Whole(grad) => Ok(grad),
            Self::Sum(a, b) => apply_detached(Add::over_first_dim(&a), &[&a, &b]),
            Self::OfNorm(grad) => grad.whole(),
        }
    }

    /// To be read block by block.
    pub(super) fn by_block(self) -> Result<ByBlock> {
        match self {
            Self::OfNorm(grad) => Ok(ByBlock::OfNorm(grad)),
            grad => Ok(ByBlock::Whole(grad.whole()?.contiguous()?)),
        }
    }

    /// The sum of two gradients of the same value.
    pub(super) fn plus(self, other: Self) -> Result<Self> {
        Ok(Self::Sum(self.whole()?.contiguous()?, other.whole()?.contiguous()?))
    }
}

/// The gradient of the input x of a batch norm, still to be computed from that of its output.
#[derive(Debug)]
pub(super) struct NormGrad {
    pub execution: Execution,
    /// Input (block, C, H, W, lane).
    pub x: Tensor,
    /// Gradient of the output, of the same shape.
    pub grad: Tensor,
    pub channels: Vec<NormChannel>,
}

/// One channel of it. All numbers are of the tensors' type.
#[derive(Debug, Clone, Copy)]
pub(super) struct NormChannel {
    pub mean: f64,
    pub of_grad: f64,
    pub of_x: f64,
    pub constant: f64,
    /// Scale and shift, where the gradient is to be masked by the ReLU after the batch norm.
    pub relu: Option<[f64; 2]>,
}

impl NormGrad {
    fn whole(&self) -> Result<Tensor> {
        match self.x.dtype() {
            candle_core::DType::F64 => self.whole_as::<f64>(),
            _ => self.whole_as::<f32>(),
        }
    }

    fn whole_as<T: Element>(&self) -> Result<Tensor> {
        let out = with_slices(&[&self.x, &self.grad], |slices: &[&[T]]| {
            let body = |(): &mut (), block, out: Out<T>| self.run_block(slices, block, out);
            // SAFETY: a block is written channel by channel.
            Ok(unsafe { self.execution.compute_all(self.x.elem_count(), || (), body).0 })
        })?;
        Tensor::from_vec(out, self.x.shape(), &Device::Cpu)
    }

    /// Writes block `block` to `out`, from the numbers of x and of the gradient of the output.
    fn run_block<T: Element>(&self, slices: &[&[T]], block: usize, out: Out<T>) {
        let Execution { isa, blocks, .. } = self.execution;
        let (x, grad) = (self.execution.block(slices[0], block), self.execution.block(slices[1], block));
        let plane = out.len() / self.channels.len();
        for ((channel, out), (x, grad)) in self
            .channels
            .iter()
            .zip(out.chunks_exact(plane))
            .zip(x.chunks_exact(plane).zip(grad.chunks_exact(plane)))
        {
            let mask = match channel.relu {
                Some([scale, shift]) => Mask::Input { scale: T::of(scale), shift: T::of(shift) },
                None => Mask::All,
            };
            let incoming = Incoming { x, mean: T::of(channel.mean), grad, other: None, mask };
            let NormChannel { of_grad, of_x, constant, .. } = *channel;
            Gradient { of_grad: T::of(of_grad), of_x: T::of(of_x), constant: T::of(constant) }.run(
                isa,
                blocks.lanes,
                blocks.images_in(block),
                incoming,
                out,
            );
        }
    }
}

/// A gradient that is read block by block.
#[derive(Debug)]
pub(super) enum ByBlock {
    Whole(Tensor),
    OfNorm(Arc<NormGrad>),
}

impl ByBlock {
    /// The tensors that blocks are made from.
    pub(super) fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Whole(grad) => vec![grad],
            Self::OfNorm(grad) => vec![&grad.x, &grad.grad],
        }
    }

    /// Block `block`, from the numbers of these tensors; in `memory`, if it has to be made.
    pub(super) fn block<'a, T: Element>(
        &self,
        slices: &[&'a [T]],
        execution: Execution,
        block: usize,
        memory: &'a mut Buffer<T>,
    ) -> &'a [T] {
        match self {
            Self::Whole(_) => execution.block(slices[0], block),
            Self::OfNorm(grad) => {
                let out = memory.reserve(slices[0].len() / execution.blocks.count());
                grad.run_block(slices, block, Out::from(&mut *out));
                out
            }
        }
    }
}

/// Runs `body` on the numbers of contiguous tensors on the CPU.
pub(super) fn with_slices<T: Element, R>(
    tensors: &[&Tensor],
    body: impl FnOnce(&[&[T]]) -> Result<R>,
) -> Result<R> {
    let stored: Vec<_> = tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let slices = stored
        .iter()
        .map(|(storage, layout)| match &**storage {
            Storage::Cpu(storage) => T::slice(storage, layout),
            _ => bail!("gradients along the tape are computed on the CPU"),
        })
        .collect::<Result<Vec<_>>>()?;
    body(&slices)
}
