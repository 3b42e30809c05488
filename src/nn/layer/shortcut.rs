//! The parameter-free shortcut of CIFAR ResNets (He et al. 2015, option A).

use candle_core::{Result, Tensor};

use super::{ActivationShape, Context, Layer};

/// Takes every second row and column and pads the channels with zeros on both sides.
#[derive(Debug, Clone)]
pub struct ShortcutA {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
}

impl Layer for ShortcutA {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        [self.c_out, inputs[0][1].div_ceil(2), inputs[0][2].div_ceil(2)]
    }

    fn flops(&self, _: &[ActivationShape]) -> u64 {
        0
    }

    fn forward(&self, _: &Context, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        let (batch, channels, height, width) = x.dims4()?;
        // Rows and columns 0, 2, 4, …: pad to even sizes, then keep the first of each pair.
        let x = x.pad_with_zeros(2, 0, height % 2)?.pad_with_zeros(3, 0, width % 2)?;
        let (half_h, half_w) = (height.div_ceil(2), width.div_ceil(2));
        let x = x
            .reshape((batch, channels, half_h, 2, half_w, 2))?
            .narrow(3, 0, 1)?
            .narrow(5, 0, 1)?
            .contiguous()?
            .reshape((batch, channels, half_h, half_w))?;
        let before = (self.c_out - self.c_in) / 2;
        x.pad_with_zeros(1, before, self.c_out - self.c_in - before)
    }
}
