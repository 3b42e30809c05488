//! Values with their tangents: forward-mode differentiation of what a LocalMixer consists of.
//!
//! A [`Dual`] is a value x and the derivative dx of it along some direction. Each operation here maps both:
//!
//! ```text
//! linear         y = x Wᵀ + b         dy = dx Wᵀ + x dWᵀ + db
//! layer norm     y = (x − mean) s     dy = s (dx − mean(dx) − y mean(y dx)),  s = 1 / sqrt(variance + ε)
//! ReLU           y = max(x, 0)        dy = dx where y > 0
//! sum, mean      linear in x          the same of dx
//! cross-entropy  l = −log p_label     dl = ⟨p − onehot, dx⟩,  p = softmax(x)
//! ```
//!
//! The Jacobian of a layer norm is symmetric: the same map takes tangents forward and errors back. A tangent that is
//! zero is not there, and costs nothing.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::{log_softmax, softmax};

use crate::nn::layer::{ChannelMixing, GroupedLinear, TokenMean, TokenMixing, normalize, normalize_jacobian};
use crate::nn::model::local_mixer::Mixing;

/// A value and its tangent, of the same shape; none is zero.
#[derive(Debug, Clone)]
pub struct Dual {
    /// The value.
    pub value: Tensor,
    /// Its derivative.
    pub tangent: Option<Tensor>,
}

impl Dual {
    /// A value that does not move.
    #[must_use]
    pub fn constant(value: Tensor) -> Self {
        Self { value, tangent: None }
    }

    /// The same with `more` added to its tangent.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn nudged(self, more: Tensor) -> Result<Self> {
        Ok(Self { tangent: sum(self.tangent, Some(more))?, value: self.value })
    }

    /// This operation, linear in its operand, on both.
    fn map(&self, linear: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { value: linear(&self.value)?, tangent: self.tangent.as_ref().map(linear).transpose()? })
    }
}

fn sum(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a + b)?)),
        (a, b) => Ok(a.or(b)),
    }
}

/// x W in the manner of `mixing`: (B, T, D') of x (B, T, D).
fn product(mixing: Mixing, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match mixing {
        Mixing::Tokens => TokenMixing::product(x, weight),
        Mixing::Channels => ChannelMixing::product(x, weight),
        Mixing::Groups => GroupedLinear::product(x, weight),
    }
}

/// A bias, (T), (D) or (G, D/G), so that it can be added to an output (B, T, D).
fn aligned(mixing: Mixing, bias: &Tensor) -> Result<Tensor> {
    match mixing {
        Mixing::Tokens => bias.unsqueeze(1),
        Mixing::Channels => Ok(bias.clone()),
        Mixing::Groups => bias.flatten_all(),
    }
}

/// A linear layer (B, T, D') of x (B, T, D), whose weight and bias may move too.
///
/// # Errors
/// If shapes do not fit or the device fails.
pub fn linear(mixing: Mixing, x: &Dual, weight: &Dual, bias: &Dual) -> Result<Dual> {
    let value = product(mixing, &x.value, &weight.value)?.broadcast_add(&aligned(mixing, &bias.value)?)?;
    let of_input = x.tangent.as_ref().map(|dx| product(mixing, dx, &weight.value)).transpose()?;
    let of_weight = weight.tangent.as_ref().map(|dw| product(mixing, &x.value, dw)).transpose()?;
    let tangent = match (sum(of_input, of_weight)?, &bias.tangent) {
        (Some(moved), Some(db)) => Some(moved.broadcast_add(&aligned(mixing, db)?)?),
        (None, Some(db)) => Some(aligned(mixing, db)?.broadcast_as(value.shape())?.contiguous()?),
        (moved, None) => moved,
    };
    Ok(Dual { value, tangent })
}

/// Gradients of the weight and the bias of a linear layer with input x (B, T, D) and error (B, T, D') at its output.
///
/// # Errors
/// If shapes do not fit or the device fails.
pub fn linear_gradients(mixing: Mixing, weight: &Tensor, x: &Tensor, error: &Tensor) -> Result<[Tensor; 2]> {
    match mixing {
        Mixing::Tokens => Ok([error.matmul(&x.t()?)?.sum(0)?, error.sum(D::Minus1)?.sum(0)?]),
        Mixing::Channels => {
            let (x, error) = (x.flatten(0, 1)?, error.flatten(0, 1)?);
            Ok([error.t()?.matmul(&x)?, column_sums(&error)?])
        }
        Mixing::Groups => {
            let (groups, n_out, _) = weight.dims3()?;
            let of_bias = column_sums(&error.flatten(0, 1)?)?.reshape((groups, n_out))?;
            let (x, error) = (GroupedLinear::by_group(x, groups)?, GroupedLinear::by_group(error, groups)?);
            Ok([error.t()?.matmul(&x)?, of_bias])
        }
    }
}

/// Sums (D) over the rows of (R, D). As a product: candle's own sum over a first axis divides for every number.
fn column_sums(rows: &Tensor) -> Result<Tensor> {
    Tensor::ones((1, rows.dim(0)?), rows.dtype(), rows.device())?.matmul(rows)?.squeeze(0)
}

/// The error (B, T, D) at the input of a linear layer with this error (B, T, D') at its output.
///
/// # Errors
/// If shapes do not fit or the device fails.
pub fn linear_backward(mixing: Mixing, weight: &Tensor, error: &Tensor) -> Result<Tensor> {
    product(mixing, error, &weight.t()?)
}

/// A layer norm at one input.
#[derive(Debug, Clone)]
pub struct Normalized {
    /// Its output y (B, T, D).
    pub value: Tensor,
    x: Tensor,
    groups: usize,
}

impl Normalized {
    /// Of x (B, T, D), by groups of channels.
    ///
    /// # Errors
    /// If the groups do not divide the channels, or the device fails.
    pub fn new(x: &Tensor, groups: usize) -> Result<Self> {
        Ok(Self { value: normalize(x, groups)?, x: x.clone(), groups })
    }

    /// Its Jacobian times t (B, T, D): a tangent that goes forward, or an error that comes back.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn jacobian(&self, t: &Tensor) -> Result<Tensor> {
        normalize_jacobian(&self.x, t, self.groups)
    }
}

/// A layer norm of x (B, T, D) by groups of channels, and what it was there.
///
/// # Errors
/// If the groups do not divide the channels, or the device fails.
pub fn layer_norm(x: &Dual, groups: usize) -> Result<(Dual, Normalized)> {
    let normalized = Normalized::new(&x.value, groups)?;
    let tangent = x.tangent.as_ref().map(|dx| normalized.jacobian(dx)).transpose()?;
    Ok((Dual { value: normalized.value.clone(), tangent }, normalized))
}

/// ReLU of x, and where it is not zero: 1 or 0, as a tensor of the same type.
///
/// # Errors
/// If the device fails.
pub fn relu(x: &Dual) -> Result<(Dual, Tensor)> {
    let value = x.value.relu()?;
    let mask = value.gt(0.0)?.to_dtype(value.dtype())?;
    let tangent = x.tangent.as_ref().map(|dx| dx * &mask).transpose()?;
    Ok((Dual { value, tangent }, mask))
}

/// The sum of two values of equal shape.
///
/// # Errors
/// If shapes do not fit or the device fails.
pub fn add(a: &Dual, b: &Dual) -> Result<Dual> {
    Ok(Dual { value: (&a.value + &b.value)?, tangent: sum(a.tangent.clone(), b.tangent.clone())? })
}

/// The mean over the tokens: (B, 1, D) of x (B, T, D).
///
/// # Errors
/// If the device fails.
pub fn token_mean(x: &Dual) -> Result<Dual> {
    x.map(TokenMean::of)
}

/// Cross-entropy of a batch.
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    /// The mean over the images.
    pub loss: f64,
    /// Its gradient with respect to the logits (B, K): (p − onehot) / B.
    pub error: Tensor,
    /// What each image adds to the derivative of the mean (B), if the logits move.
    pub slopes: Option<Tensor>,
}

/// Cross-entropy of logits (B, K) with labels (B).
///
/// # Errors
/// If there is a label for which there is no logit, or the device fails.
pub fn cross_entropy(logits: &Dual, labels: &[u32]) -> Result<CrossEntropy> {
    let (batch, classes) = logits.value.dims2()?;
    let device = logits.value.device();
    let labels = Tensor::from_slice(labels, batch, device)?;
    let numbers = Tensor::arange(0, classes as u32, device)?;
    let onehot = labels.unsqueeze(1)?.broadcast_eq(&numbers.unsqueeze(0)?)?.to_dtype(logits.value.dtype())?;
    let chosen = log_softmax(&logits.value, 1)?.gather(&labels.unsqueeze(1)?, 1)?;
    let loss = -chosen.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
    let error = ((softmax(&logits.value, 1)? - onehot)? / batch as f64)?;
    let slopes = logits.tangent.as_ref().map(|moved| (moved * &error)?.sum(1)).transpose()?;
    Ok(CrossEntropy { loss, error, slopes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    use candle_core::Device;

    use crate::rng::{Purpose, Stream};

    const STEP: f64 = 1e-5;
    /// A central difference errs by about STEP² and by rounding / STEP.
    const TOLERANCE: f64 = 1e-8;

    fn normal(lane: u32, dims: &[usize]) -> Tensor {
        let mut numbers = vec![0.0; dims.iter().product()];
        Stream::new(5, Purpose::Test, 0).lane(lane).fill_normal(&mut numbers);
        Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()
    }

    fn dual(lane: u32, dims: &[usize]) -> Dual {
        Dual { value: normal(2 * lane, dims), tangent: Some(normal(2 * lane + 1, dims)) }
    }

    /// Oracle: central differences in f64, along the tangents of all operands.
    fn check(operands: &[Dual], operation: &dyn Fn(&[Dual]) -> Result<Dual>) {
        let at = |factor: f64| {
            let moved = operands.iter().map(|x| {
                let value = match &x.tangent {
                    Some(dx) => (&x.value + (dx * factor).unwrap()).unwrap(),
                    None => x.value.clone(),
                };
                Dual::constant(value)
            });
            let output = operation(&moved.collect::<Vec<_>>()).unwrap();
            assert!(output.tangent.is_none(), "what does not move has no tangent");
            output.value
        };
        let expected = ((at(STEP) - at(-STEP)).unwrap() / (2.0 * STEP)).unwrap();
        let found = operation(operands).unwrap().tangent.unwrap();
        assert_eq!(found.dims(), expected.dims());
        let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
        let error = norm(&(&found - &expected).unwrap()) / norm(&expected);
        assert!(error < TOLERANCE, "{error}");
    }

    const MIXINGS: [(Mixing, &[usize], &[usize], usize); 3] = [
        (Mixing::Tokens, &[4, 4], &[4], 6),
        (Mixing::Channels, &[5, 6], &[5], 5),
        (Mixing::Groups, &[2, 3, 3], &[2, 3], 6),
    ];

    #[test]
    fn linear_layers() {
        for (mixing, weight, bias, _) in MIXINGS {
            let all = [dual(0, &[3, 4, 6]), dual(1, weight), dual(2, bias)];
            for moving in 1..8 {
                let operands: Vec<Dual> = (all.iter().enumerate())
                    .map(
                        |(idx, x)| {
                            if moving >> idx & 1 == 1 { x.clone() } else { Dual::constant(x.value.clone()) }
                        },
                    )
                    .collect();
                check(&operands, &|x| linear(mixing, &x[0], &x[1], &x[2]));
            }
        }
    }

    /// Oracle: ⟨error, J t⟩ = ⟨Jᵀ error, t⟩, J t being what is checked above.
    #[test]
    fn linear_layers_backward() {
        let dot = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        for (mixing, weight, bias, n_out) in MIXINGS {
            let (x, weight, bias) = (dual(0, &[3, 4, 6]), dual(1, weight), dual(2, bias));
            let error = normal(9, &[3, 4, n_out]);
            let moved = linear(mixing, &x, &weight, &bias).unwrap().tangent.unwrap();
            let [dw, db] = linear_gradients(mixing, &weight.value, &x.value, &error).unwrap();
            let dx = linear_backward(mixing, &weight.value, &error).unwrap();
            let pairs = [(dx, x), (dw, weight), (db, bias)];
            let found: f64 =
                pairs.iter().map(|(gradient, at)| dot(gradient, at.tangent.as_ref().unwrap())).sum();
            assert!((found - dot(&error, &moved)).abs() < 1e-12 * found.abs().max(1.0), "{mixing:?}");
        }
    }

    #[test]
    fn the_other_operations() {
        let (x, y) = (dual(0, &[3, 4, 24]), dual(1, &[3, 4, 24]));
        for groups in [1, 2, 3] {
            check(from_ref(&x), &|x| Ok(layer_norm(&x[0], groups)?.0));
        }
        check(from_ref(&x), &|x| Ok(relu(&x[0])?.0));
        check(from_ref(&x), &|x| token_mean(&x[0]));
        check(&[x.clone(), y.clone()], &|x| add(&x[0], &x[1]));
        check(&[x, Dual::constant(y.value)], &|x| add(&x[0], &x[1]));
    }

    /// Oracle: central differences in f64; the mean of the loss by its definition.
    #[test]
    fn the_loss() {
        let (logits, labels) = (dual(0, &[3, 5]), [4, 0, 2]);
        let at = |factor: f64| {
            let moved = (&logits.value + (logits.tangent.as_ref().unwrap() * factor).unwrap()).unwrap();
            cross_entropy(&Dual::constant(moved), &labels).unwrap().loss
        };
        let found = cross_entropy(&logits, &labels).unwrap();
        let slope = found.slopes.unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        assert!((slope - (at(STEP) - at(-STEP)) / (2.0 * STEP)).abs() < TOLERANCE);
        let rows = logits.value.to_vec2::<f64>().unwrap();
        let losses = rows
            .iter()
            .zip(labels)
            .map(|(row, label)| row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[label as usize]);
        assert!((found.loss - losses.sum::<f64>() / 3.0).abs() < 1e-14);
        assert!(cross_entropy(&logits, &[5, 0, 0]).is_err());
    }
}
