//! First-order gradients by back-propagation.

use candle_core::{DType, Tensor, Var};

use crate::Result;
use crate::kernels::Split;
use crate::kernels::ops::Tape;
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
    let tensors = network.tensors(params, images.dtype(), images.device())?;
    let (loss, grads, activations) = if images.device().is_cpu() && network.is_taped() {
        on_tape(network, &tensors, images, labels, temperature)?
    } else {
        by_autograd(network, &tensors, images, labels, temperature)?
    };
    let mut gradient = Vec::with_capacity(params.len());
    for (grad, spec) in grads.iter().zip(network.layout().specs()) {
        match grad {
            Some(grad) => gradient.extend(grad.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?),
            None => gradient.resize(gradient.len() + spec.len(), 0.0),
        }
    }
    Ok(Backprop { loss, gradient, activations })
}

const CONTEXT: Context = Context { mode: Mode::Train, split: Split::Threads };

/// Loss, gradients of the parameter tensors, and activations.
type Parts = (f64, Vec<Option<Tensor>>, Activations);

/// Through our own operations.
fn on_tape(
    network: &Network,
    tensors: &[Tensor],
    images: &Tensor,
    labels: &[u32],
    temperature: f64,
) -> Result<Parts> {
    // The logits that a forward pass gives are the last thing on the tape.
    let (activations, tape) = Tape::record(tensors, || network.forward_all(&CONTEXT, tensors, images))?;
    let logits = activations.logits();
    let (loss, grad) = loss::cross_entropy_gradient(logits, labels, temperature)?;
    let grads = tape.backward(logits, grad)?;
    let grads = tensors.iter().map(|tensor| grads.get(tensor).cloned()).collect();
    Ok((loss, grads, activations))
}

/// Through candle's.
fn by_autograd(
    network: &Network,
    tensors: &[Tensor],
    images: &Tensor,
    labels: &[u32],
    temperature: f64,
) -> Result<Parts> {
    let vars: Vec<Var> = tensors.iter().map(Var::from_tensor).collect::<candle_core::Result<_>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let activations = network.forward_tracked(CONTEXT.mode, &tracked, images)?;
    let value = loss::cross_entropy_tensor(activations.logits(), labels, temperature)?;
    let grads = value.backward()?;
    let grads = vars.iter().map(|var| grads.get(var).cloned()).collect();
    Ok((value.to_dtype(DType::F64)?.to_scalar::<f64>()?, grads, activations))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model;
    use crate::rng::{Purpose, Stream};
    use candle_core::Device;

    /// Oracle: candle's autograd over candle's operations, in f64; a batch that fills no block.
    #[test]
    fn the_tape_agrees_with_autograd() -> Result<()> {
        for name in ["resnet8-w4", "cnn-d2-w5", "resnet-b10-w3", "lenet"] {
            let network = model::from_name(name)?;
            let params = network.layout().initial_values(3);
            let mut pixels = vec![0.0; 5 * 3 * 32 * 32];
            Stream::new(6, Purpose::Test, 0).fill_normal(&mut pixels);
            let images = Tensor::from_vec(pixels, (5, 3, 32, 32), &Device::Cpu)?;
            let labels = [1, 0, 9, 3, 3];
            let tensors = network.tensors(&params, DType::F64, &Device::Cpu)?;
            let (loss, ours, activations) = on_tape(&network, &tensors, &images, &labels, 2.0)?;
            let (expected, theirs, plain) = by_autograd(&network, &tensors, &images, &labels, 2.0)?;
            let moved = |activations: &Activations| -> Result<Vec<f64>> {
                let mut stats = network.initial_stats();
                stats.update(&network.batch_stats_of(activations)?);
                Ok(stats
                    .layers
                    .into_iter()
                    .flat_map(|layer| [layer.mean, layer.variance])
                    .flatten()
                    .collect())
            };
            for (ours, theirs) in moved(&activations)?.into_iter().zip(moved(&plain)?) {
                assert!((ours - theirs).abs() < 1e-12 * (1.0 + theirs.abs()), "{name}: {ours} {theirs}");
            }
            assert!((loss - expected).abs() < 1e-12);
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let (ours, theirs) =
                    (ours.as_ref().expect("all are used"), theirs.as_ref().expect("all are used"));
                let error = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f64>()?;
                assert!(error < 1e-12, "{name}: {error}");
            }
        }
        Ok(())
    }
}
