//! Losses: what a network's outputs are worth.
//!
//! A loss is a part of its own: its value, its gradient with respect to the outputs, and its change when outputs
//! change, for one probe at a time (`LossAt::in_lanes`) and for batched ones (`LossAt::batched`).

mod change;
mod scale;

use candle_core::{D, DType, Tensor};

use crate::params::Layout;
use crate::{Error, Result};

pub(super) use change::{BatchedChange, LaneChange};
pub use scale::LogitScale;

/// What is made of outputs and targets. Numbers are averaged over the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loss {
    /// Cross-entropy of labels.
    #[default]
    CrossEntropy,
    /// Cross-entropy of logits times a factor that makes it blind to the size of the weights ([`LogitScale`]).
    NormalizedCrossEntropy,
    /// Square of output less target, averaged over the numbers of an image too. Labels stand for one-hot targets less
    /// one over the number of classes, which have mean zero.
    SquaredError,
}

/// What outputs are held to.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// Classes (B).
    Labels(&'a [u32]),
    /// Values (B, …), as many per image as there are outputs, in their order.
    Values(&'a Tensor),
}

impl<'a> From<&'a [u32]> for Targets<'a> {
    fn from(labels: &'a [u32]) -> Self {
        Self::Labels(labels)
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for Targets<'a> {
    fn from(labels: &'a [u32; N]) -> Self {
        Self::Labels(labels)
    }
}

impl<'a> From<&'a Vec<u32>> for Targets<'a> {
    fn from(labels: &'a Vec<u32>) -> Self {
        Self::Labels(labels)
    }
}

impl<'a> From<&'a Tensor> for Targets<'a> {
    fn from(values: &'a Tensor) -> Self {
        Self::Values(values)
    }
}

impl<'a> Targets<'a> {
    /// Number of images of a batch with these targets.
    pub(super) fn n_images(self, images: &Tensor) -> Result<usize> {
        let n_images = images.dim(0)?;
        let (n, what) = match self {
            Self::Labels(labels) => (labels.len(), "labels"),
            Self::Values(values) => (values.dim(0)?, "targets"),
        };
        if n_images != n || n_images == 0 {
            return Err(Error::Objective(format!("{n_images} images but {n} {what}")));
        }
        Ok(n_images)
    }

    pub(super) fn labels(self) -> Result<&'a [u32]> {
        match self {
            Self::Labels(labels) => Ok(labels),
            Self::Values(_) => Err(Error::Objective("cross-entropy needs labels, not values".to_owned())),
        }
    }

    /// Values as numbers, one list of `n` per image.
    pub(super) fn values(self, n: usize) -> Result<Vec<Vec<f64>>> {
        let values = match self {
            Self::Values(values) => values,
            Self::Labels(labels) => return one_hot(labels, n),
        };
        let rows = rows(&values.flatten_from(1)?)?;
        match rows.iter().find(|row| row.len() != n) {
            None => Ok(rows),
            Some(row) => Err(Error::Objective(format!("{n} outputs per image but {} targets", row.len()))),
        }
    }
}

/// One for the label, zero for the other classes of `n`, less 1/n.
fn one_hot(labels: &[u32], n: usize) -> Result<Vec<Vec<f64>>> {
    if let Some(label) = labels.iter().find(|&&label| label as usize >= n) {
        return Err(Error::Objective(format!("label {label} of {n} classes")));
    }
    let row = |&label: &u32| {
        let hot = |class| if class == label as usize { 1.0 } else { 0.0 };
        (0..n).map(|class| hot(class) - (n as f64).recip()).collect()
    };
    Ok(labels.iter().map(row).collect())
}

impl Loss {
    /// The factor that the loss multiplies the logits with at `params` (d) of a network with this layout, if it does.
    #[must_use]
    pub fn scale(self, layout: &Layout, params: &[f64]) -> Option<LogitScale> {
        (self == Self::NormalizedCrossEntropy).then(|| LogitScale::new(layout, params))
    }

    /// The loss of `outputs` (B, numbers), in f64 on the host; `scale` is the factor of [`Loss::scale`], if there is
    /// one.
    ///
    /// # Errors
    /// If the targets are not of the kind or number that the loss needs, or the device fails.
    pub fn value(self, outputs: &Tensor, targets: Targets, scale: Option<f64>) -> Result<f64> {
        match (self, scale) {
            (Self::SquaredError, _) => {
                let rows = rows(&outputs.flatten_from(1)?)?;
                let targets = targets.values(rows.first().map_or(0, Vec::len))?;
                Ok(squared_error_of(&rows, &targets))
            }
            (_, None) => cross_entropy(outputs, targets.labels()?),
            (_, Some(scale)) => cross_entropy(&(outputs * scale)?, targets.labels()?),
        }
    }

    /// The loss of every image's `outputs` (k · B, numbers), the targets (B) being repeated k times; without the scale
    /// of a loss that has one, which is the whole batch's.
    ///
    /// # Errors
    /// As [`Loss::value`].
    pub fn of_items(self, outputs: &Tensor, targets: Targets) -> Result<Vec<f64>> {
        if self != Self::SquaredError {
            return cross_entropies(outputs, targets.labels()?);
        }
        let rows = rows(&outputs.flatten_from(1)?)?;
        let targets = targets.values(rows.first().map_or(0, Vec::len))?;
        let of_item = |(row, target): (&Vec<f64>, &Vec<f64>)| {
            row.iter().zip(target).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / row.len() as f64
        };
        Ok(rows.iter().zip(targets.iter().cycle()).map(of_item).collect())
    }

    /// The loss of `outputs / temperature`, and its gradient with respect to the outputs (B, numbers). The factor
    /// `scale` of the outputs, if there is one, is held fixed.
    ///
    /// # Errors
    /// As [`Loss::value`].
    pub fn gradient(
        self,
        outputs: &Tensor,
        targets: Targets,
        temperature: f64,
        scale: Option<f64>,
    ) -> Result<(f64, Tensor)> {
        let temperature = temperature / scale.unwrap_or(1.0);
        if self != Self::SquaredError {
            return cross_entropy_gradient(outputs, targets.labels()?, temperature);
        }
        let rows = rows(&(outputs.flatten_from(1)? / temperature)?)?;
        let n = rows.first().map_or(0, Vec::len);
        let targets = targets.values(n)?;
        let factor = 2.0 / ((rows.len() * n) as f64 * temperature);
        let pairs = rows.iter().flatten().zip(targets.iter().flatten());
        let grad: Vec<f64> = pairs.map(|(output, target)| factor * (output - target)).collect();
        let grad = Tensor::from_vec(grad, outputs.shape(), outputs.device())?.to_dtype(outputs.dtype())?;
        Ok((squared_error_of(&rows, &targets), grad))
    }

    /// The same loss as a scalar tensor with backward.
    ///
    /// # Errors
    /// As [`Loss::value`].
    pub fn tensor(
        self,
        outputs: &Tensor,
        targets: Targets,
        temperature: f64,
        scale: Option<f64>,
    ) -> Result<Tensor> {
        let temperature = temperature / scale.unwrap_or(1.0);
        if self != Self::SquaredError {
            return cross_entropy_tensor(outputs, targets.labels()?, temperature);
        }
        let n = outputs.elem_count() / outputs.dim(0)?.max(1);
        let targets = Tensor::from_vec(targets.values(n)?.concat(), outputs.shape(), outputs.device())?;
        let targets = targets.to_dtype(outputs.dtype())?;
        Ok(((outputs / temperature)? - targets)?.sqr()?.mean_all()?)
    }
}

/// Mean over all numbers of the square of output less target.
fn squared_error_of(outputs: &[Vec<f64>], targets: &[Vec<f64>]) -> f64 {
    let of_image = |(outputs, targets): (&Vec<f64>, &Vec<f64>)| {
        let squares = outputs.iter().zip(targets).map(|(output, target)| (output - target).powi(2));
        squares.sum::<f64>() / outputs.len() as f64
    };
    outputs.iter().zip(targets).map(of_image).sum::<f64>() / outputs.len() as f64
}

/// Mean cross-entropy of `logits` (B, classes), computed and averaged in f64 on the host.
///
/// # Errors
/// If the device fails.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    Ok(cross_entropy_of(&rows(logits)?, labels))
}

/// Cross-entropy of every image's `logits` (B, classes), in f64 on the host. Labels (b) are repeated where B is a
/// multiple of their number.
///
/// # Errors
/// If a label is no class, or the device fails.
pub fn cross_entropies(logits: &Tensor, labels: &[u32]) -> Result<Vec<f64>> {
    let n_classes = logits.dim(1)?;
    if let Some(label) = labels.iter().find(|&&label| label as usize >= n_classes) {
        return Err(Error::Objective(format!("label {label} of {n_classes} classes")));
    }
    Ok(rows(logits)?
        .iter()
        .zip(labels.iter().cycle())
        .map(|(row, &label)| image_entropy(row, label))
        .collect())
}

/// The class with the largest of `logits` (B, classes), the first on ties, for every image.
///
/// # Errors
/// If the device fails.
pub fn classes(logits: &Tensor) -> Result<Vec<u32>> {
    Ok(rows(logits)?.iter().map(|row| largest(row).unwrap_or(0) as u32).collect())
}

fn image_entropy(row: &[f64], label: u32) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|logit| (logit - max).exp()).sum();
    max + sum.ln() - row[label as usize]
}

/// The place of the largest number, the first on ties.
fn largest(row: &[f64]) -> Option<usize> {
    (0..row.len()).reduce(|best, idx| if row[idx] > row[best] { idx } else { best })
}

/// The same of logits as numbers, one list per image.
fn cross_entropy_of(rows: &[Vec<f64>], labels: &[u32]) -> f64 {
    let total: f64 = rows.iter().zip(labels).map(|(row, &label)| image_entropy(row, label)).sum();
    total / labels.len() as f64
}

/// Logarithms of the probabilities of one image's logits.
fn log_probabilities(row: &[f64]) -> impl Iterator<Item = f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_total = row.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln();
    row.iter().map(move |logit| logit - max - log_total)
}

/// Number of rows of `logits` (B, classes) whose largest entry (the first, on ties) is the label.
///
/// # Errors
/// If the device fails.
pub fn n_correct(logits: &Tensor, labels: &[u32]) -> Result<usize> {
    let correct = |(row, &label): (&Vec<f64>, &u32)| largest(row) == Some(label as usize);
    Ok(rows(logits)?.iter().zip(labels).filter(|&pair| correct(pair)).count())
}

/// Logits as numbers, one list per image.
fn rows(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(logits.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?)
}

/// Mean cross-entropy of `logits / temperature`, and its gradient with respect to the logits
/// (B, classes): softmax minus one-hot, over B · temperature.
///
/// # Errors
/// If the device fails.
fn cross_entropy_gradient(logits: &Tensor, labels: &[u32], temperature: f64) -> Result<(f64, Tensor)> {
    let rows = rows(&(logits / temperature)?)?;
    let loss = cross_entropy(&(logits / temperature)?, labels)?;
    let factor = (labels.len() as f64 * temperature).recip();
    let mut grad = Vec::with_capacity(logits.elem_count());
    for (row, &label) in rows.iter().zip(labels) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|logit| (logit - max).exp()).sum();
        for (class, logit) in row.iter().enumerate() {
            let hot = if class == label as usize { 1.0 } else { 0.0 };
            grad.push(factor * ((logit - max).exp() / total - hot));
        }
    }
    let grad = Tensor::from_vec(grad, logits.shape(), logits.device())?.to_dtype(logits.dtype())?;
    Ok((loss, grad))
}

/// Mean cross-entropy of `logits / temperature` as a scalar tensor with backward.
///
/// # Errors
/// If the device fails.
fn cross_entropy_tensor(logits: &Tensor, labels: &[u32], temperature: f64) -> Result<Tensor> {
    let labels = Tensor::from_slice(labels, labels.len(), logits.device())?;
    let log_probabilities = candle_nn::ops::log_softmax(&(logits / temperature)?, D::Minus1)?;
    let picked = log_probabilities.gather(&labels.unsqueeze(1)?, 1)?;
    Ok(picked.mean_all()?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Oracle: −ln softmax by hand: rows (0, ln 3) and (0, 0) with labels 1 and 0 give
    /// (ln(4/3) + ln 2) / 2.
    #[test]
    fn cross_entropy_matches_closed_form() -> Result<()> {
        let logits = Tensor::new(&[[0f64, 3f64.ln()], [0.0, 0.0]], &Device::Cpu)?;
        let expected = ((4.0f64 / 3.0).ln() + 2f64.ln()) / 2.0;
        assert!((cross_entropy(&logits, &[1, 0])? - expected).abs() < 1e-15);
        let tensor = cross_entropy_tensor(&logits, &[1, 0], 1.0)?.to_scalar::<f64>()?;
        assert!((tensor - expected).abs() < 1e-12);
        assert_eq!(n_correct(&logits, &[1, 0])?, 2);
        assert_eq!(n_correct(&logits, &[0, 1])?, 0);
        Ok(())
    }

    #[test]
    fn huge_logits_do_not_overflow() -> Result<()> {
        let logits = Tensor::new(&[[1e4f32, -1e4]], &Device::Cpu)?;
        assert!((cross_entropy(&logits, &[1])? - 2e4).abs() < 1e-9);
        Ok(())
    }
}
