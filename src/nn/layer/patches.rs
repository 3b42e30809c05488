//! From images to tokens.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Layer, LayerPass};

/// (B, C, H, W) to tokens (B, T, F, 1): one per square patch of `size` x `size` pixels, row by row, with its
/// F = C · size² numbers in the order row, column, channel. It has no difference rule: `full` and `reuse` serve.
#[derive(Debug, Clone)]
pub struct Patches {
    /// Pixels of a side.
    pub size: usize,
}

impl Patches {
    /// Tokens (B, T, F) of images (B, C, H, W).
    ///
    /// # Errors
    /// If the sides are no multiples of the patch's.
    pub(crate) fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = images.dims4()?;
        let (size, rows, columns) = (self.size, height / self.size, width / self.size);
        images
            .reshape(vec![batch, channels, rows, size, columns, size])?
            .permute(vec![0, 2, 4, 3, 5, 1])?
            .reshape((batch, rows * columns, size * size * channels))
    }
}

impl Layer for Patches {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        let [channels, height, width] = inputs[0];
        [(height / self.size) * (width / self.size), channels * self.size * self.size, 1]
    }

    fn flops(&self, _: &[ActivationShape]) -> u64 {
        0
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        self.tokens(inputs[0])?.unsqueeze(3)
    }
}
