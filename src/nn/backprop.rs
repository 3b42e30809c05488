//! First-order gradients by back-propagation.

use candle_core::{DType, Tensor, Var};

use crate::Result;
use crate::kernels::Split;
use crate::kernels::ops::Tape;
use crate::nn::loss::{LogitScale, Loss, Targets};
use crate::nn::{Activations, Context, Mode, Network, chain};

/// Loss and exact gradient at one point.
#[derive(Debug)]
pub struct Backprop {
    /// Mean loss (of outputs divided by the temperature).
    pub loss: f64,
    /// One value per parameter (d).
    pub gradient: Vec<f64>,
    /// All values of the forward pass.
    pub activations: Activations,
}

/// Mean cross-entropy of `network` at `params` (d) on a batch with labels (B), and its gradient, train-mode batch norm;
/// `images` (B, C, H, W) decide device and precision. Not a query: it sees more than function values.
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
    gradient_of(Loss::CrossEntropy, network, params, images, labels, temperature)
}

/// The same of any loss.
///
/// # Errors
/// If the targets do not fit the loss, or the device fails.
pub fn gradient_of<'a>(
    loss: Loss,
    network: &Network,
    params: &[f64],
    images: &Tensor,
    targets: impl Into<Targets<'a>>,
    temperature: f64,
) -> Result<Backprop> {
    let layout = network.layout();
    let scale = loss.scale(layout, params);
    let goal =
        Goal { loss, targets: targets.into(), temperature, scale: scale.as_ref().map(LogitScale::value) };
    let tensors = network.tensors(params, images.dtype(), images.device())?;
    let (value, grads, activations) = if images.device().is_cpu() && network.is_taped() {
        on_tape(network, &tensors, images, goal)?
    } else {
        by_autograd(network, &tensors, images, goal)?
    };
    let mut gradient = chain::flat(network, &grads)?;
    if let Some(scale) = scale {
        // The loss sees the weights through the factor too, whose logarithm falls by w / ‖W‖² with a weight w.
        let logits = activations.logits().detach();
        let (_, grad) = goal.gradient(&logits)?;
        let slope = (grad * logits)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        for (coord, gradient) in gradient.iter_mut().enumerate() {
            *gradient += slope * scale.log_slope(coord);
        }
    }
    Ok(Backprop { loss: value, gradient, activations })
}

/// What is differentiated.
#[derive(Clone, Copy)]
struct Goal<'a> {
    loss: Loss,
    targets: Targets<'a>,
    temperature: f64,
    scale: Option<f64>,
}

impl Goal<'_> {
    fn gradient(&self, outputs: &Tensor) -> Result<(f64, Tensor)> {
        self.loss.gradient(outputs, self.targets, self.temperature, self.scale)
    }
}

const CONTEXT: Context = Context { mode: Mode::Train, split: Split::Threads };

/// Loss, gradients of the parameter tensors, and activations.
type Parts = (f64, Vec<Option<Tensor>>, Activations);

/// Through our own operations.
fn on_tape(network: &Network, tensors: &[Tensor], images: &Tensor, goal: Goal) -> Result<Parts> {
    // The logits that a forward pass gives are the last thing on the tape.
    let (activations, tape) = Tape::record(tensors, || network.forward_all(&CONTEXT, tensors, images))?;
    let logits = activations.logits();
    let (loss, grad) = goal.gradient(logits)?;
    let grads = tape.backward(logits, grad)?;
    let grads = tensors.iter().map(|tensor| grads.get(tensor).cloned()).collect();
    Ok((loss, grads, activations))
}

/// Through candle's.
fn by_autograd(network: &Network, tensors: &[Tensor], images: &Tensor, goal: Goal) -> Result<Parts> {
    let vars: Vec<Var> = tensors.iter().map(Var::from_tensor).collect::<candle_core::Result<_>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let activations = network.forward_tracked(CONTEXT.mode, &tracked, images)?;
    let Goal { loss, targets, temperature, scale } = goal;
    let value = loss.tensor(activations.logits(), targets, temperature, scale)?;
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

    /// Oracle: candle's autograd, in f64.
    #[test]
    fn both_ways_agree_on_the_squared_error() -> Result<()> {
        let network = model::from_name("cnn-d1-w3", &model::Io::CIFAR)?;
        let params = network.layout().initial_values(3);
        let mut numbers = vec![0.0; 2 * 3 * 32 * 32 + 20];
        Stream::new(6, Purpose::Test, 0).fill_normal(&mut numbers);
        let values = Tensor::from_vec(numbers.split_off(2 * 3 * 32 * 32), (2, 10), &Device::Cpu)?;
        let images = Tensor::from_vec(numbers, (2, 3, 32, 32), &Device::Cpu)?;
        let tensors = network.tensors(&params, DType::F64, &Device::Cpu)?;
        let targets = Targets::Values(&values);
        let goal = Goal { loss: Loss::SquaredError, targets, temperature: 2.0, scale: None };
        let (loss, ours, _) = on_tape(&network, &tensors, &images, goal)?;
        let (expected, theirs, _) = by_autograd(&network, &tensors, &images, goal)?;
        assert!((loss - expected).abs() < 1e-12);
        for (ours, theirs) in ours.iter().flatten().zip(theirs.iter().flatten()) {
            assert!((ours - theirs)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
        }
        Ok(())
    }

    /// Oracle: candle's autograd over candle's operations, in f64; a batch that fills no block.
    #[test]
    fn the_tape_agrees_with_autograd() -> Result<()> {
        for name in ["resnet8-w4", "cnn-d2-w5", "resnet-b10-w3", "lenet", "wide-cnn8-w3", "ntk-cnn8-w3"] {
            let network = model::from_name(name, &model::Io::CIFAR)?;
            let params = network.layout().initial_values(3);
            let mut pixels = vec![0.0; 5 * 3 * 32 * 32];
            Stream::new(6, Purpose::Test, 0).fill_normal(&mut pixels);
            // A flat part, where the largest of a window is not alone.
            pixels[..512].fill(1.0);
            let images = Tensor::from_vec(pixels, (5, 3, 32, 32), &Device::Cpu)?;
            let labels = [1, 0, 9, 3, 3];
            let tensors = network.tensors(&params, DType::F64, &Device::Cpu)?;
            let targets = Targets::Labels(&labels);
            let loss = Loss::CrossEntropy;
            let goal = Goal { loss, targets, temperature: 2.0, scale: None };
            let (loss, ours, activations) = on_tape(&network, &tensors, &images, goal)?;
            let (expected, theirs, plain) = by_autograd(&network, &tensors, &images, goal)?;
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
