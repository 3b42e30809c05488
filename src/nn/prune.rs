//! Pruning scores that need more than function values: first-order GraSP (Wang et al. 2020) and SNIP (Lee et al.
//! 2019), which says how much the loss depends on each weight's presence.

use super::{Network, backprop};
use crate::Result;

/// Temperature of the released code's first-order GraSP.
const TEMPERATURE: f64 = 200.0;

/// Length of the step along g in the difference that gives H g, relative to θ. It must be so short
/// that no ReLU of the batch changes sides: back-propagation's Hessian does not see the kinks, and a
/// single one outweighs the rest. Of the 50 million ReLU inputs of a ResNet-20 and 250 images, one
/// can lie within 1e-10 (the scores are then off by a factor of 40,000); at 1e-12 rounding in f64
/// still leaves them four digits.
const RELATIVE_STEP: f64 = 1e-12;

/// First-order GraSP scores −θ ⊙ H g (d) with train-mode batch norm, from exact gradients in f64:
/// H g is their central difference along g.
///
/// # Errors
/// If the device fails.
pub fn fo_scores(
    network: &Network,
    images: &candle_core::Tensor,
    labels: &[u32],
    params: &[f64],
) -> Result<Vec<f64>> {
    let images = images.to_dtype(candle_core::DType::F64)?;
    let gradient_at =
        |params: &[f64]| Ok(backprop::gradient(network, params, &images, labels, TEMPERATURE)?.gradient);
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let gradient: Vec<f64> = gradient_at(params)?;
    let step = RELATIVE_STEP * norm(params) / norm(&gradient).max(f64::MIN_POSITIVE);
    let shifted = |sign: f64| -> Result<Vec<f64>> {
        gradient_at(&params.iter().zip(&gradient).map(|(p, g)| p + sign * step * g).collect::<Vec<_>>())
    };
    let (plus, minus) = (shifted(1.0)?, shifted(-1.0)?);
    let score = |((p, plus), minus): ((&f64, &f64), &f64)| -p * (plus - minus) / (2.0 * step);
    Ok(params.iter().zip(&plus).zip(&minus).map(score).collect())
}

/// SNIP scores θ ⊙ ∂ℓ/∂θ (d) with train-mode batch norm, by back-propagation in f64.
///
/// # Errors
/// If the device fails.
pub fn snip_scores(
    network: &Network,
    images: &candle_core::Tensor,
    labels: &[u32],
    params: &[f64],
) -> Result<Vec<f64>> {
    let images = images.to_dtype(candle_core::DType::F64)?;
    let gradient = backprop::gradient(network, params, &images, labels, 1.0)?.gradient;
    Ok(params.iter().zip(&gradient).map(|(p, g)| p * g).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::nn::graph::Builder;
    use crate::nn::layer::{Flatten, Linear};

    /// Oracle: by hand. For a linear layer ∂ℓ/∂w_oi is the mean over images of (p_o − 1[label = o]) x_i;
    /// with two classes p_1 = 1 / (1 + exp(z_0 − z_1)).
    #[test]
    fn scores_of_a_linear_layer_by_hand() -> Result<()> {
        let (mut builder, input) = Builder::new([2, 1, 1]);
        let flat = builder.push("flatten", Flatten, &[input]);
        builder.push("fc", Linear { n_in: 2, n_out: 2 }, &[flat]);
        let network = builder.build();
        let (weight, bias) = ([[0.3, -0.2], [0.1, 0.4]], [0.05, -0.1]);
        let params = [weight[0][0], weight[0][1], weight[1][0], weight[1][1], bias[0], bias[1]];
        let (pixels, labels) = ([[1.0, 2.0], [-0.5, 3.0]], [0, 1]);
        let images = Tensor::new(&pixels, &Device::Cpu)?.reshape((2, 2, 1, 1))?;
        let mut expected = [0.0; 6];
        for (x, label) in pixels.iter().zip(labels) {
            let logit = |o: usize| weight[o][0] * x[0] + weight[o][1] * x[1] + bias[o];
            let p = 1.0 / (1.0 + f64::exp(logit(0) - logit(1)));
            for (o, p) in [1.0 - p, p].into_iter().enumerate() {
                let slope = (p - if label as usize == o { 1.0 } else { 0.0 }) / 2.0;
                for i in 0..2 {
                    expected[2 * o + i] += weight[o][i] * slope * x[i];
                }
                expected[4 + o] += bias[o] * slope;
            }
        }
        // Single-precision images: the scores are taken in double precision all the same.
        let found = snip_scores(&network, &images.to_dtype(candle_core::DType::F32)?, &labels, &params)?;
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-14, "{found} instead of {expected}");
        }
        Ok(())
    }
}
