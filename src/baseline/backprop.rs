//! First-order gradients by back-propagation through candle's autograd.

use candle_core::{Tensor, Var};

use crate::Result;
use crate::kernels::Split;
use crate::nn::{Activations, Context, Mode, Network, loss};

/// Loss and exact gradient at one point.
#[derive(Debug)]
pub struct Backprop {
    /// Mean cross-entropy (of logits divided by the temperature).
    pub loss: f64,
    /// One value per parameter (d).
    pub gradient: Vec<f64>,
    /// All values of the forward pass.
    pub activations: Activations,
}

/// Loss and gradient of `network` at `params` (d) on a batch, train-mode batch norm; `images`
/// (B, C, H, W) decide device and precision. Not a query: it sees more than function values.
///
/// # Errors
/// If the device fails.
pub fn gradient(
    network: &Network,
    params: &[f64],
    images: &Tensor,
    labels: &[u32],
    temperature: f64,
) -> Result<Backprop> {
    let vars: Vec<Var> = network
        .tensors(params, images.dtype(), images.device())?
        .iter()
        .map(Var::from_tensor)
        .collect::<candle_core::Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let context = Context { mode: Mode::Train, split: Split::Threads };
    let activations = network.forward_all(&context, &tensors, images)?;
    let value = loss::cross_entropy_tensor(activations.logits(), labels, temperature)?;
    let grads = value.backward()?;
    let mut gradient = Vec::with_capacity(params.len());
    for (var, spec) in vars.iter().zip(network.layout().specs()) {
        match grads.get(var) {
            Some(grad) => {
                gradient.extend(grad.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
            }
            None => gradient.resize(gradient.len() + spec.len(), 0.0),
        }
    }
    let loss = value.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
    Ok(Backprop { loss, gradient, activations })
}
