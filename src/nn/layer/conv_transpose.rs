//! Transposed two-dimensional convolution: the gradient of a convolution with respect to its input, as a layer. It has
//! no difference rule: `evaluator = full` or `reuse` serves networks with it.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, elements};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::conv_transpose::ConvTranspose;
use crate::kernels::lanes::geometry::Geometry;
use crate::kernels::lanes::norm::Moments;
use crate::kernels::lanes::pointwise;
use crate::kernels::ops::Execution;
use crate::kernels::{Element, Isa, ops};
use crate::nn::form::{Blockwise, StreamSetup, Streamed};
use crate::params::{ParamKind, ParamSpec, Start};

/// Transposed convolution with a square kernel and a bias.
#[derive(Debug, Clone)]
pub struct ConvTranspose2d {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between the outputs of neighbouring inputs.
    pub stride: usize,
    /// Rows and columns cut off around the output.
    pub padding: usize,
}

impl ConvTranspose2d {
    /// The convolution that this is the transpose of: from the output to the input.
    fn mirrored(&self, batch: usize, input: ActivationShape) -> Geometry {
        let Self { c_in, c_out, kernel, stride, padding } = *self;
        let [_, height, width] = self.output_shape(&[input]);
        Geometry { batch, c_in: c_out, height, width, c_out: c_in, kernel, stride, padding }
    }
}

impl Layer for ConvTranspose2d {
    fn params(&self) -> Vec<ParamSpec> {
        // PyTorch counts the outputs as fan-in here, since they stand second in the weight's shape.
        let fan_in = self.c_out * self.kernel * self.kernel;
        let spec = |name: &str, kind, shape| ParamSpec {
            name: name.to_owned(),
            kind,
            shape,
            fan_in,
            start: Start::Usual,
        };
        vec![
            spec("weight", ParamKind::ConvWeight, vec![self.c_in, self.c_out, self.kernel, self.kernel]),
            spec("bias", ParamKind::Bias, vec![self.c_out]),
        ]
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        let size = |n: usize| (n - 1) * self.stride + self.kernel - 2 * self.padding;
        [self.c_out, size(inputs[0][1]), size(inputs[0][2])]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        2 * elements(inputs[0]) * (self.c_out * self.kernel * self.kernel) as u64
    }

    fn forward(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let out = inputs[0].conv_transpose2d(&params[0], self.padding, 0, self.stride, 1)?;
        out.broadcast_add(&params[1].reshape((1, self.c_out, 1, 1))?)
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        params: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let dims = inputs[0].dims();
        let geometry = self.mirrored(execution.blocks.images, [dims[1], dims[2], dims[3]]);
        let out = ops::conv::conv_transpose2d(execution, geometry, inputs[0], &params[0])?;
        ops::pointwise::add_bias(execution, &out, &params[1])
    }

    fn forms(&self) -> Forms<'_> {
        Forms { is_taped: true, streamed: Some(self), ..Forms::default() }
    }
}

/// The map itself, and its bias.
struct StreamedConvTranspose<T> {
    isa: Isa,
    op: ConvTranspose<T>,
    bias: Vec<T>,
}

impl<T: Element> Blockwise<T> for ConvTranspose2d {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        let geometry = self.mirrored(setup.blocks.images, setup.shapes[0]);
        let op = ConvTranspose::new(setup.isa, geometry, &setup.params[0])?;
        let bias = setup.params[1].iter().map(|&bias| T::of(bias)).collect();
        Ok(Box::new(StreamedConvTranspose { isa: setup.isa, op, bias }))
    }
}

impl<T: Element> Streamed<T> for StreamedConvTranspose<T> {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        self.op.run(inputs[0], out);
        let plane = out.len() / self.bias.len();
        for (out, &bias) in out.chunks_exact_mut(plane).zip(&self.bias) {
            pointwise::offset(self.isa, bias, out);
        }
    }
}
