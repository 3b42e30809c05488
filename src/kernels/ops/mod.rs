//! Operations of candle on activations with images in lanes, with backward.
//!
//! An activation is a tensor (block, C, H, W, lane), as [`crate::kernels::lanes`] describes. Lanes of
//! the last block that hold no image hold anything going forward, and zeros in every gradient.
//!
//! candle's own operations on the CPU lay images out one after the other, and hand large tensors to
//! a pool of spinning threads, which stalls when several probes run at once; these stay on the
//! calling thread unless told otherwise.

pub mod conv;
mod gradient;
pub mod layer_norm;
pub mod norm;
pub mod pointwise;
pub mod position_norm;
mod tape;
#[cfg(test)]
mod tests;

pub use tape::{Gradients, Tape};

use std::mem::MaybeUninit;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::lanes::geometry::tap_in_larger;
use super::lanes::{Blocks, Out};
use super::{Element, Isa, Split};
use gradient::Grad;

/// How operations on one batch run.
#[derive(Debug, Clone, Copy)]
pub struct Execution {
    /// Instruction set.
    pub isa: Isa,
    /// Cut of the batch.
    pub blocks: Blocks,
    /// Use of the machine.
    pub split: Split,
    /// Whether convolutions take the way with the fewest roundings instead of the fewest operations.
    pub is_exact: bool,
}

impl Execution {
    /// An output of `len` numbers: `body(memory, block, output of the block)` writes every block, which
    /// starts as zeros; `memory` is made once per thread.
    fn compute<T: Element, M>(
        &self,
        len: usize,
        memory: impl Fn() -> M + Sync,
        body: impl Fn(&mut M, usize, &mut [T]) + Sync,
    ) -> Vec<T> {
        // A block is cleared just before it is computed, while it is in the cache.
        let body = |memory: &mut M, block, out: Out<T>| body(memory, block, out.cleared(T::ZERO));
        // SAFETY: every number was cleared.
        unsafe { self.compute_all(len, memory, body).0 }
    }

    /// The same from fresh memory, with what `body` returns for every block, in their order. Blocks of no numbers count
    /// too.
    ///
    /// # Safety
    /// `body` must write every number of its block.
    unsafe fn compute_all<T: Element, M, R: Send>(
        &self,
        len: usize,
        memory: impl Fn() -> M + Sync,
        body: impl Fn(&mut M, usize, Out<T>) -> R + Sync,
    ) -> (Vec<T>, Vec<R>) {
        let count = self.blocks.count();
        let per_block = len / count;
        let mut numbers = Vec::with_capacity(len);
        let mut spare = &mut numbers.spare_capacity_mut()[..len];
        if cfg!(test) {
            // What is not written shall be seen.
            spare.fill(MaybeUninit::new(T::of(f64::NAN)));
        }
        let mut blocks = Vec::with_capacity(count);
        for block in 0..count {
            let (head, tail) = spare.split_at_mut(if block + 1 < count { per_block } else { spare.len() });
            blocks.push((block, head));
            spare = tail;
        }
        let per_part = match self.split {
            Split::Serial => count,
            Split::Threads => count.div_ceil(rayon::current_num_threads()),
        };
        let run = |part: &mut [(usize, &mut [MaybeUninit<T>])]| -> Vec<R> {
            let mut memory = memory();
            part.iter_mut().map(|(block, out)| body(&mut memory, *block, Out::fresh(out))).collect()
        };
        let results: Vec<Vec<R>> = match self.split {
            Split::Serial => vec![run(&mut blocks)],
            Split::Threads => blocks.par_chunks_mut(per_part).map(run).collect(),
        };
        // SAFETY: the capacity is at least `len`; the blocks cover all of the first `len` numbers, every one is in one
        // part, and the caller promises that `body` wrote all of its own.
        unsafe { numbers.set_len(len) };
        (numbers, results.into_iter().flatten().collect())
    }

    /// Results of `body(block)` in order.
    fn map_blocks<R: Send>(&self, body: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
        match self.split {
            Split::Serial => (0..self.blocks.count()).map(body).collect(),
            Split::Threads => (0..self.blocks.count()).into_par_iter().map(body).collect(),
        }
    }

    /// Block `block` of an activation.
    fn block<'a, T>(&self, values: &'a [T], block: usize) -> &'a [T] {
        let len = values.len() / self.blocks.count();
        &values[block * len..][..len]
    }
}

/// Sizes (C, H, W) of an activation.
fn sizes(dims: &[usize]) -> Result<[usize; 3]> {
    match *dims {
        [_, channels, height, width, _] => Ok([channels, height, width]),
        _ => bail!("expected an activation (block, C, H, W, lane), got {dims:?}"),
    }
}

/// Shape of an activation of these sizes.
fn shape(blocks: Blocks, [channels, height, width]: [usize; 3]) -> Shape {
    Shape::from(&[blocks.count(), channels, height, width, blocks.lanes][..])
}

/// A batch (B, C, H, W) of images on the CPU, rearranged. There is no gradient of images.
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn to_lanes(images: &Tensor, blocks: Blocks) -> Result<Tensor> {
    let (_, channels, height, width) = images.dims4()?;
    apply(ToLanes { blocks, sizes: [channels, height, width] }, &[&images.detach()])
}

/// An activation (block, C, H, W, lane) as a batch (B, C, H, W): the way back from [`to_lanes`].
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn from_lanes(x: &Tensor, blocks: Blocks) -> Result<Tensor> {
    let [channels, height, width] = sizes(x.dims())?;
    to_rows(&as_features(x)?, blocks)?.reshape((blocks.images, channels, height, width))
}

/// Features (block, F, 1, 1, lane) as rows (B, F).
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn to_rows(features: &Tensor, blocks: Blocks) -> Result<Tensor> {
    apply(ToRows { blocks }, &[features])
}

/// Two lists of the same length as the rows of one.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn stack(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply(Stack, &[a, b])
}

/// A convolution weight (F_out, F_in, 1, 1) from a linear one (F_out, F_in).
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn as_conv(weight: &Tensor) -> Result<Tensor> {
    apply(AsConv, &[weight])
}

/// A weight (F_out, F_in, K, K) times `scale`, in the last rows and columns of a larger kernel (F_out, F_in, `kernel`,
/// `kernel`) of zeros. A convolution pads before and after alike; with a row and a column of zeros in front it reads
/// one place further on.
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn grown(weight: &Tensor, kernel: usize, scale: f64) -> Result<Tensor> {
    apply(Grown { kernel, scale }, &[weight])
}

/// Features (block, C · H · W, 1, 1, lane) from planes (block, C, H, W, lane).
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn as_features(x: &Tensor) -> Result<Tensor> {
    apply(AsFeatures, &[x])
}

struct ToRows {
    blocks: Blocks,
}

impl Op for ToRows {
    const NAME: &'static str = "to-rows";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let [n, _, _] = sizes(inputs[0].dims)?;
        let Blocks { images, lanes } = self.blocks;
        let at = |row: usize, column: usize| ((row / lanes) * n + column) * lanes + row % lanes;
        let rows = (0..images).flat_map(|row| (0..n).map(move |column| (row, column)));
        Ok((rows.map(|(row, column)| inputs[0].data[at(row, column)]).collect(), Shape::from((images, n))))
    }

    fn backward(&self, _: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let op = ToLanes { blocks: self.blocks, sizes: [grad.dim(1)?, 1, 1] };
        Ok(vec![Some(apply_detached(op, &[grad])?)])
    }
}

struct Stack;

impl Op for Stack {
    const NAME: &'static str = "stack";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let (a, b) = (inputs[0].data, inputs[1].data);
        if a.len() != b.len() {
            bail!("stack of {} and {} numbers", a.len(), b.len());
        }
        Ok(([a, b].concat(), Shape::from((2, a.len()))))
    }

    fn backward(&self, _: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.get(0)?), Some(grad.get(1)?)])
    }
}

struct AsConv;

impl Op for AsConv {
    const NAME: &'static str = "as-conv";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        Ok((inputs[0].data.to_vec(), Shape::from([inputs[0].dims, &[1, 1]].concat())))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.reshape(inputs[0].tensor.shape())?)])
    }
}

struct Grown {
    kernel: usize,
    scale: f64,
}

impl Op for Grown {
    const NAME: &'static str = "grown";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let &[c_out, c_in, small, columns] = inputs[0].dims else {
            bail!("expected a weight (C_out, C_in, K, K), got {:?}", inputs[0].dims);
        };
        if small != columns || small == 0 || self.kernel < small {
            bail!("a kernel of {small} x {columns} does not fit into one of {0} x {0}", self.kernel);
        }
        let taps = self.kernel * self.kernel;
        let mut out = vec![T::ZERO; c_out * c_in * taps];
        for (to, from) in out.chunks_exact_mut(taps).zip(inputs[0].data.chunks_exact(small * small)) {
            for (tap, &value) in from.iter().enumerate() {
                to[tap_in_larger(tap, small, self.kernel)] = T::of(self.scale * value.wide());
            }
        }
        Ok((out, Shape::from((c_out, c_in, self.kernel, self.kernel))))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (_, _, small, _) = inputs[0].tensor.dims4()?;
        let before = self.kernel - small;
        let part = grad.narrow(2, before, small)?.narrow(3, before, small)?;
        Ok(vec![Some((part * self.scale)?.contiguous()?)])
    }
}

struct AsFeatures;

impl Op for AsFeatures {
    const NAME: &'static str = "as-features";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let [channels, height, width] = sizes(inputs[0].dims)?;
        let (count, lanes) = (inputs[0].dims[0], inputs[0].dims[4]);
        let to = [count, channels * height * width, 1, 1, lanes];
        Ok((inputs[0].data.to_vec(), Shape::from(&to[..])))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.reshape(inputs[0].tensor.shape())?)])
    }
}

struct ToLanes {
    blocks: Blocks,
    sizes: [usize; 3],
}

impl Op for ToLanes {
    const NAME: &'static str = "to-lanes";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let n = self.sizes.iter().product();
        Ok((
            self.blocks.rearrange(Split::Threads, inputs[0].data, n).to_vec(),
            shape(self.blocks, self.sizes),
        ))
    }
}

/// A contiguous tensor as an operation sees it.
#[derive(Debug, Clone, Copy)]
struct View<'a, T> {
    data: &'a [T],
    dims: &'a [usize],
}

/// An operation on one to three tensors of the same type, f32 or f64, on the CPU.
trait Op: Send + Sync + 'static {
    const NAME: &'static str;

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)>;

    /// Gradients of the inputs, from inputs, output and the gradient of the output; those that are not
    /// needed may be left out.
    fn backward(&self, _inputs: &[Input], _out: &Tensor, _grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        bail!("{} has no gradient", Self::NAME)
    }

    /// The same along the tape, where a gradient may come unfinished and be handed on so.
    fn backward_on_tape(&self, inputs: &[Input], out: &Tensor, grad: Grad) -> Result<Vec<Option<Grad>>> {
        let grads = self.backward(inputs, out, &grad.whole()?)?;
        Ok(grads.into_iter().map(|grad| grad.map(Grad::Whole)).collect())
    }
}

/// What [`Op::backward`] returns, from what [`Op::backward_on_tape`] does.
fn finished(grads: Vec<Option<Grad>>) -> Result<Vec<Option<Tensor>>> {
    grads.into_iter().map(|grad| grad.map(Grad::whole).transpose()).collect()
}

/// An input of an operation, going backward.
#[derive(Debug, Clone, Copy)]
struct Input<'a> {
    tensor: &'a Tensor,
    needs_grad: bool,
}

/// Applies an operation, with backward through candle's autograd.
fn apply<O: Op>(op: O, inputs: &[&Tensor]) -> Result<Tensor> {
    if Tape::is_recording() {
        return tape::apply(op, inputs);
    }
    run(Wrapped(op), inputs)
}

/// Applies an operation and leaves no trace in any graph.
fn apply_detached<O: Op>(op: O, inputs: &[&Tensor]) -> Result<Tensor> {
    let detached: Vec<Tensor> = inputs.iter().map(|input| input.detach()).collect();
    run(Wrapped(op), &detached.iter().collect::<Vec<_>>())
}

fn run<O: Op>(wrapped: Wrapped<O>, inputs: &[&Tensor]) -> Result<Tensor> {
    match inputs {
        [a] => a.contiguous()?.apply_op1(wrapped),
        [a, b] => a.contiguous()?.apply_op2(&b.contiguous()?, wrapped),
        [a, b, c] => a.contiguous()?.apply_op3(&b.contiguous()?, &c.contiguous()?, wrapped),
        _ => bail!("{} of {} tensors", O::NAME, inputs.len()),
    }
}

struct Wrapped<O>(O);

type Stored<'a> = (&'a CpuStorage, &'a Layout);

/// Inputs as candle's autograd has them.
fn tracked<'a>(inputs: &[&'a Tensor]) -> Vec<Input<'a>> {
    inputs.iter().map(|&tensor| Input { tensor, needs_grad: tensor.track_op() }).collect()
}

impl<O: Op> Wrapped<O> {
    fn run(&self, inputs: &[Stored]) -> Result<(CpuStorage, Shape)> {
        match inputs[0].0.dtype() {
            DType::F32 => self.run_as::<f32>(inputs),
            DType::F64 => self.run_as::<f64>(inputs),
            other => bail!("{} of {other:?}: only f32 and f64 are supported", O::NAME),
        }
    }

    fn run_as<T: Element>(&self, inputs: &[Stored]) -> Result<(CpuStorage, Shape)> {
        let views = inputs
            .iter()
            .map(|&(storage, layout)| Ok(View { data: T::slice(storage, layout)?, dims: layout.dims() }))
            .collect::<Result<Vec<_>>>()?;
        let (out, shape) = self.0.forward::<T>(&views)?;
        Ok((T::to_cpu_storage_owned(out), shape))
    }
}

impl<O: Op> CustomOp1 for Wrapped<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(&[(s, l)])
    }

    fn bwd(&self, a: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut grads = self.0.backward(&tracked(&[a]), out, &grad.contiguous()?)?;
        Ok(grads.swap_remove(0))
    }
}

impl<O: Op> CustomOp2 for Wrapped<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(&[(s1, l1), (s2, l2)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut grads = self.0.backward(&tracked(&[a, b]), out, &grad.contiguous()?)?.into_iter();
        Ok((grads.next().flatten(), grads.next().flatten()))
    }
}

impl<O: Op> CustomOp3 for Wrapped<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(&[(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut grads = self.0.backward(&tracked(&[a, b, c]), out, &grad.contiguous()?)?.into_iter();
        Ok((grads.next().flatten(), grads.next().flatten(), grads.next().flatten()))
    }
}
