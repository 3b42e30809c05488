//! Cross-entropy and accuracy from logits.

use candle_core::{D, DType, Tensor};

use crate::Result;

/// Mean cross-entropy of `logits` (B, classes), computed and averaged in f64 on the host.
///
/// # Errors
/// If the device fails.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    Ok(cross_entropy_of(&rows(logits)?, labels))
}

/// The same of logits as numbers, one list per image.
pub(super) fn cross_entropy_of(rows: &[Vec<f64>], labels: &[u32]) -> f64 {
    let total: f64 = rows
        .iter()
        .zip(labels)
        .map(|(row, &label)| {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|logit| (logit - max).exp()).sum();
            max + sum.ln() - row[label as usize]
        })
        .sum();
    total / labels.len() as f64
}

/// Logarithms of the probabilities of one image's logits.
pub(super) fn log_probabilities(row: &[f64]) -> impl Iterator<Item = f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_total = row.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln();
    row.iter().map(move |logit| logit - max - log_total)
}

/// Number of rows of `logits` (B, classes) whose largest entry (the first, on ties) is the label.
///
/// # Errors
/// If the device fails.
pub fn n_correct(logits: &Tensor, labels: &[u32]) -> Result<usize> {
    let correct = |(row, &label): (&Vec<f64>, &u32)| {
        let best = (0..row.len()).reduce(|best, idx| if row[idx] > row[best] { idx } else { best });
        best == Some(label as usize)
    };
    Ok(rows(logits)?.iter().zip(labels).filter(|&pair| correct(pair)).count())
}

/// Logits as numbers, one list per image.
pub(super) fn rows(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(logits.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?)
}

/// Mean cross-entropy of `logits / temperature`, and its gradient with respect to the logits
/// (B, classes): softmax minus one-hot, over B · temperature.
///
/// # Errors
/// If the device fails.
pub fn cross_entropy_gradient(logits: &Tensor, labels: &[u32], temperature: f64) -> Result<(f64, Tensor)> {
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
pub fn cross_entropy_tensor(logits: &Tensor, labels: &[u32], temperature: f64) -> Result<Tensor> {
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
