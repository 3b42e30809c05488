//! ReLU, addition, bias, pooling and the option-A shortcut.

use candle_core::{Result, Shape, Tensor};

use super::{Execution, Input, Op, View, apply, apply_detached, shape, sizes};
use crate::kernels::lanes::pointwise::{self as kernels, Elementwise};
use crate::kernels::lanes::{Blocks, Out};
use crate::kernels::{Element, Isa, Split};

/// max(x, 0).
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn relu(execution: Execution, x: &Tensor) -> Result<Tensor> {
    apply(Relu(execution), &[x])
}

/// Gradient of a ReLU with output `out`, from the gradient of the output.
pub(super) fn relu_grad(execution: Execution, out: &Tensor, grad: &Tensor) -> Result<Tensor> {
    apply_detached(ReluGrad(execution), &[out, grad])
}

/// a + b for equal shapes.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn add(execution: Execution, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply(Add { execution }, &[a, b])
}

/// a − b for equal shapes.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn subtract(execution: Execution, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    apply(Subtract(execution), &[a, b])
}

/// 1 / (1 + exp(−x)).
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn sigmoid(execution: Execution, x: &Tensor) -> Result<Tensor> {
    apply(Sigmoid(execution), &[x])
}

/// Adds `bias` (C) to every number of its channel.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn add_bias(execution: Execution, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    apply(AddBias(execution), &[x, bias])
}

/// Maximum over 2x2 windows; an odd last row or column is left out, as in PyTorch. The gradient goes
/// to the first maximum in row-major order.
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn max_pool2(execution: Execution, x: &Tensor) -> Result<Tensor> {
    apply(MaxPool(execution), &[x])
}

/// Means of planes: (block, C, 1, 1, lane).
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn plane_means(execution: Execution, x: &Tensor) -> Result<Tensor> {
    apply(PlaneMeans(execution), &[x])
}

/// Every second row and column, with channels of zeros before and after.
///
/// # Errors
/// If the shape or the data type does not fit.
pub fn shortcut(execution: Execution, x: &Tensor, before: usize, after: usize) -> Result<Tensor> {
    apply(Shortcut { execution, before, after }, &[x])
}

/// Output of an operation that works on blocks on their own.
fn by_block<T: Element>(
    execution: Execution,
    to: [usize; 3],
    body: impl Fn(usize, &mut [T]) + Sync,
) -> (Vec<T>, Shape) {
    let shape = shape(execution.blocks, to);
    (execution.compute(shape.elem_count(), || (), |(), block, out| body(block, out)), shape)
}

/// The same of one that writes every number of a block.
///
/// # Safety
/// `body` must do so.
unsafe fn by_block_all<T: Element>(
    execution: Execution,
    to: [usize; 3],
    body: impl Fn(usize, Out<T>) + Sync,
) -> (Vec<T>, Shape) {
    let shape = shape(execution.blocks, to);
    let body = |(): &mut (), block, out: Out<T>| body(block, out);
    // SAFETY: as the caller promises.
    (unsafe { execution.compute_all(shape.elem_count(), || (), body).0 }, shape)
}

/// `function` of every number of (first, second).
fn elementwise<T: Element>(
    function: Elementwise<T>,
    execution: Execution,
    to: [usize; 3],
    [a, b]: [&[T]; 2],
) -> (Vec<T>, Shape) {
    let run = |block, out: Out<T>| {
        let b = if b.is_empty() { b } else { execution.block(b, block) };
        function.run(execution.isa, execution.block(a, block), b, out);
    };
    // SAFETY: an elementwise function writes every number.
    unsafe { by_block_all(execution, to, run) }
}

struct Relu(Execution);

impl Op for Relu {
    const NAME: &'static str = "relu";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        Ok(elementwise(Elementwise::Relu, self.0, sizes(inputs[0].dims)?, [inputs[0].data, &[]]))
    }

    fn backward(&self, _: &[Input], out: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(relu_grad(self.0, out, grad)?)])
    }
}

/// Of (output, gradient of the output).
struct ReluGrad(Execution);

impl Op for ReluGrad {
    const NAME: &'static str = "relu-grad";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let (y, grad) = (inputs[0].data, inputs[1].data);
        Ok(elementwise(Elementwise::ReluGrad, self.0, sizes(inputs[0].dims)?, [y, grad]))
    }
}

pub(super) struct Add {
    execution: Execution,
}

impl Add {
    /// For tensors of the shape of `like`, whatever they hold.
    pub(super) fn over_first_dim(like: &Tensor) -> Self {
        let blocks = Blocks { images: like.dims().first().map_or(1, |&n| n.max(1)), lanes: 1 };
        Self { execution: Execution { isa: Isa::current(), blocks, split: Split::Threads, is_exact: false } }
    }
}

impl Op for Add {
    const NAME: &'static str = "add";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        if inputs[0].dims != inputs[1].dims {
            candle_core::bail!("addition of {:?} and {:?}", inputs[0].dims, inputs[1].dims);
        }
        let execution = self.execution;
        let body = |(): &mut (), block, out: Out<T>| {
            let (a, b) = (execution.block(inputs[0].data, block), execution.block(inputs[1].data, block));
            Elementwise::Add.run(execution.isa, a, b, out);
        };
        // SAFETY: an elementwise function writes every number.
        let (out, _) = unsafe { execution.compute_all(inputs[0].data.len(), || (), body) };
        Ok((out, Shape::from(inputs[0].dims)))
    }

    fn backward(&self, _: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.clone()), Some(grad.clone())])
    }
}

struct Subtract(Execution);

impl Op for Subtract {
    const NAME: &'static str = "subtract";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        if inputs[0].dims != inputs[1].dims {
            candle_core::bail!("difference of {:?} and {:?}", inputs[0].dims, inputs[1].dims);
        }
        let (a, b) = (inputs[0].data, inputs[1].data);
        Ok(elementwise(Elementwise::Subtract, self.0, sizes(inputs[0].dims)?, [a, b]))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let of_second = if inputs[1].needs_grad {
            Some(apply_detached(Self(self.0), &[&grad.zeros_like()?, grad])?)
        } else {
            None
        };
        Ok(vec![Some(grad.clone()), of_second])
    }
}

struct Sigmoid(Execution);

impl Op for Sigmoid {
    const NAME: &'static str = "sigmoid";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        Ok(elementwise(Elementwise::Sigmoid, self.0, sizes(inputs[0].dims)?, [inputs[0].data, &[]]))
    }

    fn backward(&self, _: &[Input], out: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply_detached(SigmoidGrad(self.0), &[out, grad])?)])
    }
}

/// Of (output, gradient of the output).
struct SigmoidGrad(Execution);

impl Op for SigmoidGrad {
    const NAME: &'static str = "sigmoid-grad";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let (y, grad) = (inputs[0].data, inputs[1].data);
        Ok(elementwise(Elementwise::SigmoidGrad, self.0, sizes(inputs[0].dims)?, [y, grad]))
    }
}

struct AddBias(Execution);

impl Op for AddBias {
    const NAME: &'static str = "add-bias";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let sizes = sizes(inputs[0].dims)?;
        let bias = inputs[1].data;
        if bias.len() != sizes[0] {
            candle_core::bail!("{} channels but {} biases", sizes[0], bias.len());
        }
        let run = |block, out: Out<T>| {
            let plane = out.len() / bias.len();
            let x = self.0.block(inputs[0].data, block).chunks_exact(plane);
            for ((x, out), &bias) in x.zip(out.chunks_exact(plane)).zip(bias) {
                Elementwise::Offset(bias).run(self.0.isa, x, &[], out);
            }
        };
        // SAFETY: a block is written channel by channel.
        Ok(unsafe { by_block_all(self.0, sizes, run) })
    }

    fn backward(&self, _: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.clone()), Some(apply_detached(ChannelSums(self.0), &[grad])?)])
    }
}

/// Sums of channels of a gradient.
struct ChannelSums(Execution);

impl Op for ChannelSums {
    const NAME: &'static str = "channel-sums";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let [channels, _, _] = sizes(inputs[0].dims)?;
        let parts = self.0.map_blocks(|block| {
            let grad = self.0.block(inputs[0].data, block);
            let sum = |plane: &[T]| plane.iter().map(|g| g.wide()).sum::<f64>();
            grad.chunks_exact(grad.len() / channels).map(sum).collect::<Vec<f64>>()
        });
        let total = |channel: usize| T::of(parts.iter().map(|part| part[channel]).sum());
        Ok(((0..channels).map(total).collect(), Shape::from(channels)))
    }
}

struct MaxPool(Execution);

impl Op for MaxPool {
    const NAME: &'static str = "max-pool";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let [channels, height, width] = sizes(inputs[0].dims)?;
        if height < 2 || width < 2 {
            candle_core::bail!("2x2 pooling of {height}x{width} images");
        }
        let run = |block, out: &mut [T]| {
            kernels::max_pool2_forward(self.0.isa, [height, width], self.0.block(inputs[0].data, block), out);
        };
        Ok(by_block(self.0, [channels, height / 2, width / 2], run))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(apply_detached(MaxPoolGrad(self.0), &[inputs[0].tensor, grad])?)])
    }
}

/// Of (input, gradient of the output).
struct MaxPoolGrad(Execution);

impl Op for MaxPoolGrad {
    const NAME: &'static str = "max-pool-grad";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let sizes = sizes(inputs[0].dims)?;
        let run = |block, out: Out<T>| {
            let (x, grad) = (self.0.block(inputs[0].data, block), self.0.block(inputs[1].data, block));
            kernels::max_pool2_grad(self.0.isa, [sizes[1], sizes[2]], x, grad, out);
        };
        // SAFETY: every place of a window is written, and where some are in none, all were before.
        Ok(unsafe { by_block_all(self.0, sizes, run) })
    }
}

struct PlaneMeans(Execution);

impl Op for PlaneMeans {
    const NAME: &'static str = "plane-means";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let [channels, height, width] = sizes(inputs[0].dims)?;
        let run = |block, out: &mut [T]| {
            kernels::plane_means(self.0.isa, height * width, self.0.block(inputs[0].data, block), out);
        };
        Ok(by_block(self.0, [channels, 1, 1], run))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let op = PlaneMeansGrad { execution: self.0, sizes: sizes(inputs[0].tensor.dims())? };
        Ok(vec![Some(apply_detached(op, &[grad])?)])
    }
}

/// Of the gradient of the output.
struct PlaneMeansGrad {
    execution: Execution,
    sizes: [usize; 3],
}

impl Op for PlaneMeansGrad {
    const NAME: &'static str = "plane-means-grad";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let [_, height, width] = self.sizes;
        let lanes = self.execution.blocks.lanes;
        let share = T::of(((height * width) as f64).recip());
        let run = |block, out: &mut [T]| {
            let grad = self.execution.block(inputs[0].data, block).chunks_exact(lanes);
            for (grad, out) in grad.zip(out.chunks_exact_mut(height * width * lanes)) {
                for out in out.chunks_exact_mut(lanes) {
                    for lane in 0..lanes {
                        out[lane] = grad[lane] * share;
                    }
                }
            }
        };
        Ok(by_block(self.execution, self.sizes, run))
    }
}

struct Shortcut {
    execution: Execution,
    before: usize,
    after: usize,
}

impl Op for Shortcut {
    const NAME: &'static str = "shortcut";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let [channels, height, width] = sizes(inputs[0].dims)?;
        let to = [self.before + channels + self.after, height.div_ceil(2), width.div_ceil(2)];
        let lanes = self.execution.blocks.lanes;
        let plane = to[1] * to[2] * lanes;
        let run = |block, out: &mut [T]| {
            let out = &mut out[self.before * plane..(self.before + channels) * plane];
            kernels::every_second([height, width], lanes, self.execution.block(inputs[0].data, block), out);
        };
        Ok(by_block(self.execution, to, run))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let sizes = sizes(inputs[0].tensor.dims())?;
        let op = ShortcutGrad { execution: self.execution, before: self.before, sizes };
        Ok(vec![Some(apply_detached(op, &[grad])?)])
    }
}

/// Of the gradient of the output.
struct ShortcutGrad {
    execution: Execution,
    before: usize,
    sizes: [usize; 3],
}

impl Op for ShortcutGrad {
    const NAME: &'static str = "shortcut-grad";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let [channels, height, width] = self.sizes;
        let lanes = self.execution.blocks.lanes;
        let plane = height.div_ceil(2) * width.div_ceil(2) * lanes;
        let run = |block, out: &mut [T]| {
            let grad = self.execution.block(inputs[0].data, block);
            let grad = &grad[self.before * plane..(self.before + channels) * plane];
            kernels::spread_every_second([height, width], lanes, grad, out);
        };
        Ok(by_block(self.execution, self.sizes, run))
    }
}
