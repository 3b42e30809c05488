//! Convolution without bias.

use candle_core::{Result, Shape, Tensor};

use super::{Execution, Input, Op, View, apply, apply_detached, shape, sizes};
use crate::kernels::Element;
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::conv::{Conv, add_weight_grad, dilate, transposed};
use crate::kernels::lanes::conv_transpose::ConvTranspose;
use crate::kernels::lanes::geometry::Geometry;

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
    apply_detached(GradInput { execution, geometry }, &[grad, weight])
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
    apply_detached(GradWeight { execution, geometry }, &[grad, input])
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
        let out = self.execution.compute(shape.elem_count(), Scratch::default, |scratch, block, out| {
            conv.run(self.execution.block(inputs[0].data, block), out, scratch);
        });
        Ok((out, shape))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (execution, geometry) = (self.execution, self.geometry);
        // The images themselves need no gradient, and theirs would be the most expensive one.
        let of_input = if inputs[0].needs_grad {
            Some(grad_input(execution, geometry, grad, inputs[1].tensor)?)
        } else {
            None
        };
        let of_weight = if inputs[1].needs_grad {
            Some(grad_weight(execution, geometry, grad, inputs[0].tensor)?)
        } else {
            None
        };
        Ok(vec![of_input, of_weight])
    }
}

struct GradInput {
    execution: Execution,
    geometry: Geometry,
}

impl Op for GradInput {
    const NAME: &'static str = "conv2d-grad-input";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let Execution { isa, blocks, .. } = self.execution;
        let g = self.geometry;
        let (turned, weight) = transposed(&g, &wide(inputs[1].data))?;
        let make = if self.execution.is_exact { Conv::<T>::direct } else { Conv::<T>::new };
        let conv = make(isa, blocks.lanes, turned, &weight);
        let shape = shape(blocks, [g.c_in, g.height, g.width]);
        let dilated_len = turned.c_in * turned.height * turned.width * blocks.lanes;
        let memory = || (Scratch::default(), crate::kernels::lanes::Buffer::default());
        let out = self.execution.compute(shape.elem_count(), memory, |(scratch, dilated), block, out| {
            let grad = self.execution.block(inputs[0].data, block);
            if g.stride == 1 {
                conv.run(grad, out, scratch);
            } else {
                let dilated = dilated.reserve(dilated_len);
                dilate(&turned, [g.out_height(), g.out_width()], g.stride, blocks.lanes, grad, dilated);
                conv.run(dilated, out, scratch);
            }
        });
        Ok((out, shape))
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

struct GradWeight {
    execution: Execution,
    geometry: Geometry,
}

impl Op for GradWeight {
    const NAME: &'static str = "conv2d-grad-weight";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let Execution { isa, blocks, .. } = self.execution;
        let g = self.geometry;
        let shape = [g.c_out, g.c_in, g.kernel, g.kernel];
        // Sums of blocks, added in their order, whatever thread they came from.
        let parts = self.execution.map_blocks(|block| {
            let mut sums = vec![0.0; shape.iter().product()];
            let (grad, input) =
                (self.execution.block(inputs[0].data, block), self.execution.block(inputs[1].data, block));
            add_weight_grad(isa, blocks.lanes, &g, input, grad, &mut sums, &mut Scratch::default());
            sums
        });
        let mut total = vec![0.0; shape.iter().product()];
        for part in &parts {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
        Ok((total.into_iter().map(T::of).collect(), Shape::from(&shape[..])))
    }
}
