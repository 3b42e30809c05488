//! Pooling.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Context, Layer, elements};
use crate::kernels::pool;

/// Maximum over 2 x 2 windows with stride 2.
#[derive(Debug, Clone)]
pub struct MaxPool2;

impl Layer for MaxPool2 {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        let [channels, height, width] = inputs[0];
        [channels, height / 2, width / 2]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, context: &Context, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        if x.device().is_cpu() {
            return pool::max_pool2(x, context.split);
        }
        // candle's own pooling loses a factor of four in its backward pass; the maximum over
        // reshaped windows does not.
        let (batch, channels, height, width) = x.dims4()?;
        x.narrow(2, 0, height / 2 * 2)?
            .narrow(3, 0, width / 2 * 2)?
            .contiguous()?
            .reshape((batch, channels, height / 2, 2, width / 2, 2))?
            .max(5)?
            .max(3)
    }
}

/// Mean over rows and columns: (B, C, H, W) to (B, C).
#[derive(Debug, Clone)]
pub struct GlobalAvgPool;

impl Layer for GlobalAvgPool {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        [inputs[0][0], 1, 1]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, _: &Context, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].flatten_from(2)?.mean(2)
    }
}
