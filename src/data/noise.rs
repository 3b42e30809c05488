//! Gaussian noise on images.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::Normalization;
use crate::Result;
use crate::rng::{Purpose, Stream};

/// Normal noise of one standard deviation on every pixel, a pure function of seed, draw and image.
#[derive(Debug, Clone, Copy)]
pub struct ImageNoise {
    /// Standard deviation σ, where pixels are from 0 to 1.
    pub sigma: f64,
    /// Of everything random.
    pub seed: u64,
    /// Number of the draw: an epoch, say.
    pub draw: u32,
}

impl ImageNoise {
    /// `images` (B, C, H, W), normalised in this way, with the noise of the images numbered `rows` added. Nothing is
    /// cut off at 0 or 1.
    ///
    /// # Errors
    /// If the device fails.
    pub fn on(&self, images: &Tensor, rows: &[usize], normalization: &Normalization) -> Result<Tensor> {
        let (_, channels, height, width) = images.dims4()?;
        let (len, plane) = (channels * height * width, height * width);
        let stream = Stream::new(self.seed, Purpose::ImageNoise, self.draw);
        let mut values = vec![0.0; rows.len() * len];
        values.par_chunks_mut(len.max(1)).zip(rows).for_each(|(values, &row)| {
            stream.lane(row as u32).fill_normal(values);
            for (values, std) in values.chunks_mut(plane.max(1)).zip(normalization.std.iter()) {
                values.iter_mut().for_each(|value| *value *= self.sigma / std);
            }
        });
        let noise = match images.dtype() {
            DType::F64 => Tensor::from_vec(values, images.shape(), images.device())?,
            dtype => {
                let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
                Tensor::from_vec(values, images.shape(), images.device())?.to_dtype(dtype)?
            }
        };
        Ok((images + noise)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Oracle: mean 0 and the variance asked for, within five standard errors; the same image has the same noise in any
    /// batch.
    #[test]
    fn noise_has_its_size_and_depends_on_the_image_alone() -> Result<()> {
        let normalization = Normalization::constant(&[0.5, 0.5], &[0.25, 0.5]);
        let noise = ImageNoise { sigma: 0.5, seed: 3, draw: 1 };
        let images = Tensor::zeros((2, 2, 64, 64), DType::F64, &Device::Cpu)?;
        let both = noise.on(&images, &[7, 9], &normalization)?;
        let alone = noise.on(&images.narrow(0, 0, 1)?, &[9], &normalization)?;
        let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f64>();
        assert_eq!(flat(&both.narrow(0, 1, 1)?)?, flat(&alone)?);
        for (channel, std) in [(0, 2.0), (1, 1.0)] {
            let values = flat(&both.narrow(1, channel, 1)?)?;
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|value| value * value).sum::<f64>() / n;
            assert!(mean.abs() < 5.0 * std / n.sqrt(), "{mean}");
            assert!((variance / (std * std) - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "{variance}");
        }
        Ok(())
    }
}
