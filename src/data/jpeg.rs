//! Images that lose what a JPEG file loses.

use image::ImageFormat;
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};
use rayon::prelude::*;

use super::Dataset;
use crate::error::{Error, Result};

/// The same images after each was stored as a baseline JPEG file and read again: quality from 1 to 100 in the scale of the
/// Independent JPEG Group, colors at half the resolution in both directions (4:2:0), as most programs store photographs.
///
/// # Errors
/// [`Error::Data`] if the images are not red, green and blue, or one cannot be stored.
pub fn stored_as_jpeg(mut data: Dataset, quality: u8) -> Result<Dataset> {
    let [channels, height, width] = data.shape;
    let mut images = std::mem::take(&mut data.images);
    let failed =
        |what: &dyn std::fmt::Display| Error::data(&data.name, format!("cannot be stored as JPEG: {what}"));
    let (Ok(short_height), Ok(short_width), 3) = (u16::try_from(height), u16::try_from(width), channels)
    else {
        return Err(failed(&format!("images of {channels} channels, {height}x{width} pixels")));
    };
    images.par_chunks_mut(data.image_len()).try_for_each(|planes| {
        let n = height * width;
        let interleaved: Vec<u8> = (0..3 * n).map(|idx| planes[idx % 3 * n + idx / 3]).collect();
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, quality);
        encoder.set_sampling_factor(SamplingFactor::F_2_2);
        encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
        encoder
            .encode(&interleaved, short_width, short_height, ColorType::Rgb)
            .map_err(|error| failed(&error))?;
        let read =
            image::load_from_memory_with_format(&file, ImageFormat::Jpeg).map_err(|error| failed(&error))?;
        for (position, rgb) in read.into_rgb8().as_raw().chunks_exact(3).enumerate() {
            for (channel, &value) in rgb.iter().enumerate() {
                planes[channel * n + position] = value;
            }
        }
        Ok::<(), Error>(())
    })?;
    Ok(Dataset { images, is_lossy: true, ..data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Normalization;

    /// An image (3, 32, 32) of slopes, an edge and a little unrest.
    fn image() -> Dataset {
        let pixel = |idx: usize| {
            let (channel, row, column) = (idx / 1024, idx / 32 % 32, idx % 32);
            let slope = 4 * row + (channel + 1) * column;
            let edge = if row + column > 36 { 60 } else { 0 };
            ((slope + edge + idx * 7919 % 13) % 256) as u8
        };
        let norm = Normalization::constant(&[0.5; 3], &[0.25; 3]);
        Dataset::new("one", [3, 32, 32], 2, norm, (0..3 * 1024).map(pixel).collect(), vec![1]).unwrap()
    }

    fn rms(a: &[u8], b: &[u8]) -> f64 {
        let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        (squares.sum::<f64>() / a.len() as f64).sqrt()
    }

    /// Oracle: Pillow (libjpeg), which stored the same image with `quality=75` and read it again. Encoders and decoders round
    /// differently, by a level here and there, far less than what is lost.
    #[test]
    fn what_is_lost_is_what_pillow_loses() {
        let expected = include_bytes!("../../tests/golden/pillow-quality-75.rgb");
        let (before, after) = (image(), stored_as_jpeg(image(), 75).unwrap());
        let (lost, apart) = (rms(&before.images, &after.images), rms(expected, &after.images));
        assert!(apart < 0.15 * lost && apart < 1.5, "{apart} levels from Pillow's, {lost} lost");
        assert!(after.is_lossy && after.labels == before.labels && !before.is_lossy);
    }

    #[test]
    fn less_is_lost_with_higher_quality() {
        let lost = [95, 75, 50, 10]
            .map(|quality| rms(&image().images, &stored_as_jpeg(image(), quality).unwrap().images));
        assert!(lost.windows(2).all(|pair| pair[0] < pair[1]), "{lost:?}");
        let gray =
            Dataset::new("gray", [1, 2, 2], 2, Normalization::constant(&[0.5], &[0.25]), vec![0; 4], vec![0]);
        assert!(stored_as_jpeg(gray.unwrap(), 75).unwrap_err().to_string().contains("1 channels"));
    }
}
