//! Two-dimensional convolution.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Context, Layer, elements};
use crate::kernels::{conv, elementwise};
use crate::nn::params::{ParamKind, ParamSpec};

/// Convolution with a square kernel.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
    /// Whether a bias is added.
    pub has_bias: bool,
}

impl Layer for Conv2d {
    fn params(&self) -> Vec<ParamSpec> {
        let fan_in = self.c_in * self.kernel * self.kernel;
        let mut specs = vec![ParamSpec {
            name: "weight".to_owned(),
            kind: ParamKind::ConvWeight,
            shape: vec![self.c_out, self.c_in, self.kernel, self.kernel],
            fan_in,
        }];
        if self.has_bias {
            specs.push(ParamSpec {
                name: "bias".to_owned(),
                kind: ParamKind::Bias,
                shape: vec![self.c_out],
                fan_in,
            });
        }
        specs
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        let size = |n: usize| (n + 2 * self.padding - self.kernel) / self.stride + 1;
        [self.c_out, size(inputs[0][1]), size(inputs[0][2])]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        2 * elements(self.output_shape(inputs)) * (self.c_in * self.kernel * self.kernel) as u64
    }

    fn forward(&self, context: &Context, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let input = inputs[0];
        let out = if input.device().is_cpu() {
            conv::conv2d(input, &params[0], self.stride, self.padding, context.split)?
        } else {
            input.conv2d(&params[0], self.padding, self.stride, 1, 1)?
        };
        match params.get(1) {
            Some(bias) if out.device().is_cpu() => elementwise::add_bias(&out, bias, context.split),
            Some(bias) => out.broadcast_add(&bias.reshape((1, self.c_out, 1, 1))?),
            None => Ok(out),
        }
    }
}
