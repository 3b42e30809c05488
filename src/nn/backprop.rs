//! First-order gradients by back-propagation.

use candle_core::{DType, Tensor, Var};

use crate::Result;
use crate::kernels::Split;
use crate::kernels::ops::{Tape, from_lanes};
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

/// What an outer function makes of a network's outputs (B, numbers): its value, and its gradient with respect to them.
pub type Slope<'a> = &'a dyn Fn(&Tensor) -> Result<(f64, Tensor)>;

/// Value and gradient with respect to the parameters (d) of `outer` of the outputs of `network` on `images`
/// (B, C, H, W), which decide device and precision.
///
/// # Errors
/// If `outer` fails, or the device does.
pub fn pull_back(
    network: &Network,
    mode: Mode,
    params: &[f64],
    images: &Tensor,
    outer: Slope,
) -> Result<Backprop> {
    let tensors = network.tensors(params, images.dtype(), images.device())?;
    let context = Context { mode, split: Split::Threads };
    let (loss, grads, activations) = if images.device().is_cpu() && network.is_taped() {
        let (activations, tape) = Tape::record(&tensors, || network.forward_all(&context, &tensors, images))?;
        let (loss, grad) = outer(activations.logits())?;
        let grads = tape.backward(activations.logits(), grad)?;
        (loss, tensors.iter().map(|tensor| grads.get(tensor).cloned()).collect(), activations)
    } else {
        let vars: Vec<Var> = tensors.iter().map(Var::from_tensor).collect::<candle_core::Result<_>>()?;
        let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let activations = network.forward_tracked(mode, &tracked, images)?;
        let (loss, grad) = outer(&activations.logits().detach())?;
        // Whose gradient by the outputs is `grad`.
        let grads = (activations.logits() * grad)?.sum_all()?.backward()?;
        (loss, vars.iter().map(|var| grads.get(var).cloned()).collect::<Vec<_>>(), activations)
    };
    Ok(Backprop { loss, gradient: chain::flat(network, &grads)?, activations })
}

/// Value and gradient with respect to the `images` (B, C, H, W) of `outer` of the outputs of a network at `params` (d).
///
/// # Errors
/// If `outer` fails, or the device does.
pub fn input_gradient(
    network: &Network,
    mode: Mode,
    params: &[f64],
    images: &Tensor,
    outer: Slope,
) -> Result<(f64, Tensor)> {
    let tensors = network.tensors(params, images.dtype(), images.device())?;
    let context = Context { mode, split: Split::Threads };
    if images.device().is_cpu() && network.is_taped() {
        let mut leaf = None;
        let run = || {
            network.forward_visit(&context, &tensors, images, false, &mut |seen| {
                if seen.value == 0 {
                    Tape::add_leaf(seen.tensor);
                    leaf = Some((seen.execution, seen.tensor.clone()));
                }
                Ok(())
            })
        };
        let (outputs, tape) = Tape::record(&[], run)?;
        let (value, grad) = outer(&outputs)?;
        let grads = tape.backward(&outputs, grad)?;
        let (execution, leaf) = leaf.expect("the input is visited");
        let grad = match grads.get(&leaf) {
            Some(grad) => from_lanes(grad, execution.blocks)?,
            None => images.zeros_like()?,
        };
        return Ok((value, grad));
    }
    let var = Var::from_tensor(images)?;
    let activations = network.forward_tracked(mode, &tensors, var.as_tensor())?;
    let (value, grad) = outer(&activations.logits().detach())?;
    let grads = (activations.logits() * grad)?.sum_all()?.backward()?;
    let grad = grads.get(&var).cloned().map_or_else(|| images.zeros_like(), Ok)?;
    Ok((value, grad))
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
    use crate::nn::graph::Builder;
    use crate::nn::layer::{Flatten, Linear};
    use crate::nn::model;
    use crate::rng::{Purpose, Stream};
    use candle_core::Device;

    /// Oracle: by hand. For a linear layer ∂ℓ/∂w_oi is the mean over images of (p_o − 1[label = o]) x_i;
    /// with two classes p_1 = 1 / (1 + exp(z_0 − z_1)).
    #[test]
    fn the_gradient_of_a_linear_layer_by_hand() -> Result<()> {
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
                    expected[2 * o + i] += slope * x[i];
                }
                expected[4 + o] += slope;
            }
        }
        let found = gradient(&network, &params, &images, &labels, 1.0)?.gradient;
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-14, "{found} instead of {expected}");
        }
        Ok(())
    }

    /// Oracle: the gradient of the loss, and central differences in f64 for the images'; on the tape and by autograd.
    #[test]
    fn gradients_are_pulled_back_through_networks() -> Result<()> {
        for name in ["resnet8-w4", "local-mixer-d1-w32"] {
            let network = model::from_name(name, &model::Io::CIFAR)?;
            let params = network.layout().drawn(crate::params::Init::Uniform, 3, Purpose::Test);
            let params: Vec<f64> = params.iter().map(|param| 0.2 * param).collect();
            let mut pixels = vec![0.0; 3 * 3 * 32 * 32];
            Stream::new(6, Purpose::Test, 0).fill_normal(&mut pixels);
            let at = |pixels: &[f64]| Tensor::from_slice(pixels, (3, 3, 32, 32), &Device::Cpu);
            let (images, labels) = (at(&pixels)?, [1, 0, 9]);
            let slope =
                |outputs: &Tensor| Loss::CrossEntropy.gradient(outputs, Targets::Labels(&labels), 1.0, None);
            let found = pull_back(&network, Mode::Train, &params, &images, &slope)?;
            let expected = gradient(&network, &params, &images, &labels, 1.0)?;
            assert!((found.loss - expected.loss).abs() < 1e-13);
            for (found, expected) in found.gradient.iter().zip(&expected.gradient) {
                assert!((found - expected).abs() < 1e-12, "{name}: {found} {expected}");
            }
            let stats = network.initial_stats();
            let mode = Mode::Eval(&stats);
            let (_, grad) = input_gradient(&network, mode, &params, &images, &slope)?;
            let grad = grad.flatten_all()?.to_vec1::<f64>()?;
            let tensors = network.tensors(&params, DType::F64, &Device::Cpu)?;
            let context = Context { mode, split: Split::Threads };
            for place in (0..pixels.len()).step_by(1_234) {
                let loss = |shift: f64| -> Result<f64> {
                    let mut moved = pixels.clone();
                    moved[place] += shift;
                    let outputs = network.forward(&context, &tensors, &at(&moved)?)?;
                    Loss::CrossEntropy.value(&outputs, Targets::Labels(&labels), None)
                };
                let expected = (loss(1e-6)? - loss(-1e-6)?) / 2e-6;
                assert!((grad[place] - expected).abs() < 1e-8, "{name} {place}: {} {expected}", grad[place]);
            }
        }
        Ok(())
    }

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
