//! From rows of a [`Dataset`] to normalised tensors.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::{Augmentation, Dataset, Normalization};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};

/// Images and labels of one step.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Normalised images: (B, C, H, W).
    pub images: Tensor,
    /// Labels: (B).
    pub labels: Vec<u32>,
}

/// The order of `n` training images in `epoch`, a pure function of (`seed`, `epoch`).
#[must_use]
pub fn epoch_order(n: usize, seed: u64, epoch: u32) -> Vec<usize> {
    Stream::new(seed, Purpose::Shuffle, epoch).permutation(n)
}

/// The first `per_class` rows of every class, class after class: the batch that GraSP scores.
///
/// # Errors
/// [`Error::Data`] if a class has fewer images.
pub fn class_batch(data: &Dataset, per_class: usize) -> Result<Vec<usize>> {
    let mut indices = Vec::with_capacity(per_class * data.n_classes);
    for class in 0..data.n_classes {
        let before = indices.len();
        let rows = (0..data.len()).filter(|&row| usize::from(data.labels[row]) == class);
        indices.extend(rows.take(per_class));
        let found = indices.len() - before;
        if found < per_class {
            let reason = format!("{per_class} images of class {class} asked for, but there are {found}");
            return Err(Error::data(&data.name, reason));
        }
    }
    Ok(indices)
}

/// The images at `indices` as a normalised tensor (B, C, H, W) of `dtype` on `device`, augmented if
/// an augmentation is given (its image index is the index into `data`). Values are computed in
/// double precision and rounded once to `dtype`, F32 or F64.
///
/// # Errors
/// [`Error::Data`] if an index is out of range; [`Error::Tensor`] for another `dtype`, or if the tensor cannot be made on `device`.
pub fn make_batch(
    data: &Dataset,
    indices: &[usize],
    augmentation: Option<&Augmentation>,
    dtype: DType,
    device: &Device,
) -> Result<Batch> {
    if let Some(idx) = indices.iter().find(|&&idx| idx >= data.len()) {
        return Err(Error::data(&data.name, format!("image {idx} asked for, but there are {}", data.len())));
    }
    let images = match dtype {
        DType::F32 => tensor(data, indices, augmentation, &table(&data.normalization, |z| z as f32), device)?,
        DType::F64 => tensor(data, indices, augmentation, &table(&data.normalization, |z| z), device)?,
        other => return Err(candle_core::Error::Msg(format!("batches are f32 or f64, not {other:?}")).into()),
    };
    let labels = indices.iter().map(|&idx| u32::from(data.labels[idx])).collect();
    Ok(Batch { images, labels })
}

/// The normalised value of every byte of every channel.
fn table<T>(normalization: &Normalization, round: impl Fn(f64) -> T) -> Vec<[T; 256]> {
    let of_channel = |channel| std::array::from_fn(|value| round(normalization.apply(channel, value as u8)));
    (0..normalization.mean.len()).map(of_channel).collect()
}

fn tensor<T: candle_core::WithDType + Default>(
    data: &Dataset,
    indices: &[usize],
    augmentation: Option<&Augmentation>,
    table: &[[T; 256]],
    device: &Device,
) -> Result<Tensor> {
    let [channels, height, width] = data.shape;
    let mut values = vec![T::default(); indices.len() * data.image_len()];
    values.par_chunks_mut(data.image_len().max(1)).zip(indices).for_each_init(
        || vec![0; data.image_len()],
        |placed, (target, &idx)| {
            let pixels = match augmentation {
                Some(augmentation) => {
                    augmentation.placement(idx).apply(data.image(idx), data.shape, placed);
                    placed
                }
                None => data.image(idx),
            };
            let planes = target.chunks_mut(height * width).zip(pixels.chunks(height * width));
            for ((to, from), lookup) in planes.zip(table) {
                to.iter_mut().zip(from).for_each(|(value, &byte)| *value = lookup[usize::from(byte)]);
            }
        },
    );
    Ok(Tensor::from_vec(values, (indices.len(), channels, height, width), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Dataset {
        let images = (0..4 * 3 * 2 * 2).map(|i| (i * 5) as u8).collect();
        let norm = Normalization::constant(&[0.4914, 0.4822, 0.4465], &[0.2471, 0.2435, 0.2616]);
        Dataset::new("test", [3, 2, 2], 2, norm, images, vec![0, 1, 1, 0]).unwrap()
    }

    fn values(batch: &Batch) -> Vec<f64> {
        batch.images.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Oracle: the formula (u8 / 255 − mean) / std, element by element; exact for f64, and for f32
    /// within half a unit in the last place (values stay below 4).
    #[test]
    fn a_batch_holds_normalised_pixels() {
        const F32_HALF_ULP: f64 = 2.4e-7 / 2.0;
        let data = data();
        let indices = [2, 0, 2];
        for (dtype, tolerance) in [(DType::F64, 0.0), (DType::F32, F32_HALF_ULP)] {
            let norm = &data.normalization;
            let batch = make_batch(&data, &indices, None, dtype, &Device::Cpu).unwrap();
            assert_eq!(batch.images.dims(), [3, 3, 2, 2]);
            assert_eq!(batch.images.dtype(), dtype);
            assert_eq!(batch.labels, [1, 0, 1]);
            for (i, value) in values(&batch).into_iter().enumerate() {
                let (channel, byte) = (i % 12 / 4, data.image(indices[i / 12])[i % 12]);
                let expected = (f64::from(byte) / 255.0 - norm.mean[channel]) / norm.std[channel];
                assert!((value - expected).abs() <= tolerance, "{value} {expected}");
            }
        }
    }

    /// Oracle: the same image alone in a batch.
    #[test]
    fn augmentation_does_not_depend_on_the_batch() {
        let (data, augmentation) = (data(), Augmentation { seed: 9, epoch: 1 });
        let batch = |indices: &[usize]| {
            make_batch(&data, indices, Some(&augmentation), DType::F64, &Device::Cpu).unwrap()
        };
        let together = values(&batch(&[3, 1, 0, 2]));
        for (place, idx) in [3, 1, 0, 2].into_iter().enumerate() {
            assert_eq!(together[place * 12..][..12], values(&batch(&[idx])));
        }
    }

    #[test]
    fn orders_are_permutations_that_change_with_seed_and_epoch() {
        let mut order = epoch_order(50, 1, 2);
        assert_eq!(order, epoch_order(50, 1, 2));
        assert_ne!(order, epoch_order(50, 1, 3));
        assert_ne!(order, epoch_order(50, 2, 2));
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn class_batch_takes_the_first_rows_of_each_class() {
        assert_eq!(class_batch(&data(), 2).unwrap(), [0, 3, 1, 2]);
        assert_eq!(class_batch(&data(), 1).unwrap(), [0, 1]);
        assert!(class_batch(&data(), 3).unwrap_err().to_string().contains("class 0"));
    }

    #[test]
    fn bad_requests_are_errors() {
        let data = data();
        let error = make_batch(&data, &[4], None, DType::F32, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("image 4"), "{error}");
        assert!(make_batch(&data, &[0], None, DType::U8, &Device::Cpu).is_err());
        // One channel is as good as three.
        let norm = Normalization::constant(&[0.5], &[0.25]);
        let gray = Dataset::new("gray", [1, 2, 2], 2, norm, vec![0, 255, 0, 51], vec![0]).unwrap();
        let batch = make_batch(&gray, &[0], None, DType::F64, &Device::Cpu).unwrap();
        assert_eq!(batch.images.dims(), [1, 1, 2, 2]);
        assert_eq!(values(&batch)[..3], [-2.0, 2.0, -2.0]);
        assert_eq!(make_batch(&data, &[], None, DType::F32, &Device::Cpu).unwrap().images.dims()[0], 0);
    }
}
