//! Sizes of a convolution.

use candle_core::Result;

/// Where tap `tap` of a kernel of `small` rows and columns stands in the last ones of a kernel of `large`.
#[must_use]
pub fn tap_in_larger(tap: usize, small: usize, large: usize) -> usize {
    let before = large - small;
    (before + tap / small) * large + before + tap % small
}

/// Sizes of one convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Input channels.
    pub c_in: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Output channels.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

impl Geometry {
    /// Output rows.
    #[must_use]
    pub fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Output columns.
    #[must_use]
    pub fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Floating-point operations of a forward pass (a multiplication and an addition each).
    #[must_use]
    pub fn flops(&self) -> u64 {
        let outputs = self.batch * self.c_out * self.out_height() * self.out_width();
        2 * (outputs * self.c_in * self.kernel * self.kernel) as u64
    }

    /// Of `batch` images (C_in, H, W) with a weight (C_out, C_in, K, K).
    ///
    /// # Errors
    /// If the sizes do not fit.
    pub fn new(
        batch: usize,
        input: [usize; 3],
        weight: &[usize],
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let [c_in, height, width] = input;
        let &[c_out, weight_in, kernel, kernel_w] = weight else {
            candle_core::bail!("convolution of {input:?} with {weight:?}: a weight has four dimensions");
        };
        if weight_in != c_in || kernel != kernel_w {
            candle_core::bail!("convolution of {input:?} with {weight:?}: channels or kernel do not fit");
        }
        if height.min(width) + 2 * padding < kernel || kernel == 0 || stride == 0 {
            candle_core::bail!(
                "convolution of {input:?} with {weight:?}: the kernel is larger than the image"
            );
        }
        Ok(Self { batch, c_in, height, width, c_out, kernel, stride, padding })
    }
}
