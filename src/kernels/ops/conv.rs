//! Convolution without bias.

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::gradient::{ByBlock, Grad, with_slices};
use super::{Execution, Input, Op, View, apply, apply_detached, finished, shape, sizes};
use crate::kernels::Element;
use crate::kernels::lanes::conv::{Conv, add_weight_grad, dilate, transposed};
use crate::kernels::lanes::conv_transpose::ConvTranspose;
use crate::kernels::lanes::geometry::Geometry;
use crate::kernels::lanes::{Buffer, Out, Scratch};

/// Convolution of `input` (block, C_in, H, W, lane) with `weight` (C_out, C_in, K, K).
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn conv2d(
    execution: Execution,
    input: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let geometry =
        Geometry::new(execution.blocks.images, sizes(input.dims())?, weight.dims(), stride, padding)?;
    apply(Forward { execution, geometry }, &[input, weight])
}

/// Transposed convolution of `input` (block, C_out, H', W', lane) with `weight` (C_out, C_in, K, K): the transpose of
/// the convolution of this geometry.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn conv_transpose2d(
    execution: Execution,
    geometry: Geometry,
    input: &Tensor,
    weight: &Tensor,
) -> Result<Tensor> {
    apply(Transpose { execution, geometry }, &[input, weight])
}

/// Gradient of the input of a convolution of this geometry, from the gradient of its output
/// (block, C_out, H', W', lane) and its weight.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn grad_input(
    execution: Execution,
    geometry: Geometry,
    grad: &Tensor,
    weight: &Tensor,
) -> Result<Tensor> {
    let wanted = Wanted { input_from: Some(weight), weight_from: None };
    let (grad, _) = gradients(execution, geometry, Grad::Whole(grad.clone()), wanted)?;
    grad.ok_or_else(|| candle_core::Error::msg("the gradient of the input was asked for"))
}

/// Gradient of the weight, from the gradient of the output and the input.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn grad_weight(
    execution: Execution,
    geometry: Geometry,
    grad: &Tensor,
    input: &Tensor,
) -> Result<Tensor> {
    let wanted = Wanted { input_from: None, weight_from: Some(input) };
    let (_, grad) = gradients(execution, geometry, Grad::Whole(grad.clone()), wanted)?;
    grad.ok_or_else(|| candle_core::Error::msg("the gradient of the weight was asked for"))
}

/// Which gradients are wanted, by what else each takes.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    /// That of the input: the weight.
    input_from: Option<&'a Tensor>,
    /// That of the weight: the input.
    weight_from: Option<&'a Tensor>,
}

/// Gradients of input and weight. Both are made block by block from the same block of the gradient of the output.
fn gradients(
    execution: Execution,
    geometry: Geometry,
    grad: Grad,
    wanted: Wanted,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let grad = grad.by_block()?;
    match grad.tensors()[0].dtype() {
        DType::F32 => gradients_as::<f32>(execution, &geometry, &grad, wanted),
        DType::F64 => gradients_as::<f64>(execution, &geometry, &grad, wanted),
        other => candle_core::bail!("gradients of {other:?}: only f32 and f64 are supported"),
    }
}

fn gradients_as<T: Element>(
    execution: Execution,
    g: &Geometry,
    grad: &ByBlock,
    wanted: Wanted,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let Execution { isa, blocks, .. } = execution;
    let values = match wanted.weight_from {
        Some(input) => Some(input.contiguous()?),
        None => None,
    };
    let mut tensors = grad.tensors();
    let n_parts = tensors.len();
    tensors.extend(&values);
    let back = match wanted.input_from {
        Some(weight) => Some(Back::<T>::new(execution, g, weight)?),
        None => None,
    };
    let to = shape(blocks, [g.c_in, g.height, g.width]);
    let n_weights = g.c_out * g.c_in * g.kernel * g.kernel;
    let (of_input, parts) = with_slices(&tensors, |slices: &[&[T]]| {
        let (of_output, input) = slices.split_at(n_parts);
        let memory = <(Scratch<T>, Buffer<T>, Buffer<T>)>::default;
        let len = if back.is_some() { to.elem_count() } else { 0 };
        let body = |(scratch, made, dilated): &mut (_, _, _), block, out: Out<T>| {
            let grad = grad.block(of_output, execution, block, made);
            if let Some(back) = &back {
                back.run(grad, out, dilated, scratch);
            }
            let mut sums = Vec::new();
            if let [input] = input {
                sums.resize(n_weights, 0.0);
                let input = execution.block(input, block);
                add_weight_grad(isa, blocks.lanes, g, input, grad, &mut sums, scratch);
            }
            sums
        };
        // SAFETY: a convolution writes all of its outputs, and without one there is no room.
        Ok(unsafe { execution.compute_all(len, memory, body) })
    })?;
    let of_input = match back {
        Some(_) => Some(Tensor::from_vec(of_input, to, &Device::Cpu)?),
        None => None,
    };
    if values.is_none() {
        return Ok((of_input, None));
    }
    // Sums of blocks, added in their order, whatever thread they came from.
    let mut total = vec![0.0; n_weights];
    for part in &parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    let total: Vec<T> = total.into_iter().map(T::of).collect();
    let of_weight = Tensor::from_vec(total, (g.c_out, g.c_in, g.kernel, g.kernel), &Device::Cpu)?;
    Ok((of_input, Some(of_weight)))
}

/// The way back to the input: a convolution with stride 1 of the gradient of the output, spread apart.
struct Back<T> {
    conv: Conv<T>,
    turned: Geometry,
    from: [usize; 2],
    stride: usize,
    lanes: usize,
}

impl<T: Element> Back<T> {
    fn new(execution: Execution, g: &Geometry, weight: &Tensor) -> Result<Self> {
        let (isa, lanes) = (execution.isa, execution.blocks.lanes);
        let weight = weight.contiguous()?;
        let weight = with_slices(&[&weight], |slices: &[&[T]]| Ok(wide(slices[0])))?;
        let (turned, weight) = transposed(g, &weight)?;
        let make = if execution.is_exact { Conv::<T>::direct } else { Conv::<T>::new };
        let conv = make(isa, lanes, turned, &weight);
        Ok(Self { conv, turned, from: [g.out_height(), g.out_width()], stride: g.stride, lanes })
    }

    fn run(&self, grad: &[T], out: Out<T>, dilated: &mut Buffer<T>, scratch: &mut Scratch<T>) {
        if self.stride == 1 {
            return self.conv.run(grad, out, scratch);
        }
        let len = self.turned.c_in * self.turned.height * self.turned.width * self.lanes;
        let dilated = dilated.reserve(len);
        dilate(&self.turned, self.from, self.stride, self.lanes, grad, dilated);
        self.conv.run(dilated, out, scratch);
    }
}

fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.wide()).collect()
}

struct Forward {
    execution: Execution,
    geometry: Geometry,
}

impl Op for Forward {
    const NAME: &'static str = "conv2d";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let Execution { isa, blocks, .. } = self.execution;
        let g = self.geometry;
        let make = if self.execution.is_exact { Conv::<T>::direct } else { Conv::<T>::new };
        let conv = make(isa, blocks.lanes, g, &wide(inputs[1].data));
        let shape = shape(blocks, [g.c_out, g.out_height(), g.out_width()]);
        let body = |scratch: &mut Scratch<T>, block, out: Out<T>| {
            conv.run(self.execution.block(inputs[0].data, block), out, scratch);
        };
        // SAFETY: a convolution writes all of its outputs.
        let (out, _) = unsafe { self.execution.compute_all(shape.elem_count(), Scratch::default, body) };
        Ok((out, shape))
    }

    fn backward(&self, inputs: &[Input], out: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        finished(self.backward_on_tape(inputs, out, Grad::Whole(grad.clone()))?)
    }

    fn backward_on_tape(&self, inputs: &[Input], _: &Tensor, grad: Grad) -> Result<Vec<Option<Grad>>> {
        let (input, weight) = (inputs[0], inputs[1]);
        // The images themselves need no gradient, and theirs would be the most expensive one.
        let wanted = Wanted {
            input_from: input.needs_grad.then_some(weight.tensor),
            weight_from: weight.needs_grad.then_some(input.tensor),
        };
        let (of_input, of_weight) = gradients(self.execution, self.geometry, grad, wanted)?;
        Ok(vec![of_input.map(Grad::Whole), of_weight.map(Grad::Whole)])
    }
}

struct Transpose {
    execution: Execution,
    geometry: Geometry,
}

impl Op for Transpose {
    const NAME: &'static str = "conv-transpose2d";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let Execution { isa, blocks, .. } = self.execution;
        let g = self.geometry;
        let op = ConvTranspose::<T>::new(isa, g, &wide(inputs[1].data))?;
        let shape = shape(blocks, [g.c_in, g.height, g.width]);
        let run = |(): &mut (), block, out: &mut [T]| {
            op.run(self.execution.block(inputs[0].data, block), out);
        };
        Ok((self.execution.compute(shape.elem_count(), || (), run), shape))
    }

    /// The transpose of the transpose is the convolution. The gradient of the weight is that of the convolution, whose
    /// input is the gradient here, and the gradient of whose output the input.
    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (execution, geometry) = (self.execution, self.geometry);
        let of_input = if inputs[0].needs_grad {
            Some(apply_detached(Forward { execution, geometry }, &[grad, inputs[1].tensor])?)
        } else {
            None
        };
        let of_weight = if inputs[1].needs_grad {
            Some(grad_weight(execution, geometry, inputs[0].tensor, grad)?)
        } else {
            None
        };
        Ok(vec![of_input, of_weight])
    }
}
