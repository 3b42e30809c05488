//! A batch of images and labels that a user brings along.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{Normalization, Source};
use crate::{Error, Result};

/// Images (N, C, H, W), normalized in f64 as those of `source`, and labels (N), from the tensors `images` (u8) and
/// `labels` (integers) of the file at `path`.
///
/// # Errors
/// [`Error::File`] if one is missing, or has another type or shape or a label that is no class of the source.
pub fn given_batch(
    tensors: &HashMap<String, Tensor>,
    source: &Source,
    path: &Path,
) -> Result<(Tensor, Vec<u32>)> {
    let refuse = |reason: String| Error::file(path, reason);
    let get = |name: &str| tensors.get(name).ok_or_else(|| refuse(format!("no tensor `{name}`")));
    let (images, labels) = (get("images")?, get("labels")?);
    let channels = source.shape[0];
    let is_sound = images.rank() == 4 && images.dim(1)? == channels && images.elem_count() > 0;
    if images.dtype() != DType::U8 || !is_sound {
        let (dtype, dims) = (images.dtype(), images.dims());
        return Err(refuse(format!(
            "images must be u8 of shape N x {channels} x H x W, got {dtype:?} of shape {dims:?}"
        )));
    }
    if labels.dims() != [images.dim(0)?] {
        return Err(refuse(format!("{} images but labels of shape {:?}", images.dim(0)?, labels.dims())));
    }
    if labels.dtype().is_float() {
        return Err(refuse(format!("labels must be integers, such as i64; got {:?}", labels.dtype())));
    }
    let labels: Vec<i64> = labels.to_dtype(DType::I64)?.to_vec1()?;
    if let Some(label) = labels.iter().find(|&&label| !(0..source.n_classes as i64).contains(&label)) {
        return Err(refuse(format!("label {label} is not in 0..{}", source.n_classes)));
    }
    let Normalization { mean, std } = &source.normalization;
    let per_channel = |values: &[f64]| Tensor::from_slice(values, (1, channels, 1, 1), &Device::Cpu);
    let unit = (images.to_dtype(DType::F64)? / 255.0)?;
    let images = unit.broadcast_sub(&per_channel(mean)?)?.broadcast_div(&per_channel(std)?)?;
    Ok((images, labels.into_iter().map(|label| label as u32).collect()))
}
