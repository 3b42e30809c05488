//! A pass of a network whose layers stand in a row, that learning rules go back through link by link.
//!
//! Back-propagation hands the gradient of the loss from the last layer to the first. Other rules hand on something else,
//! or hand nothing on: they ask each link for the gradients of its own parameters and of its input, from whatever they
//! have for the gradient of its output.

use candle_core::{DType, Tensor, Var};

use crate::kernels::Split;
use crate::kernels::ops::{self, Execution, Tape};
use crate::nn::activations::{Activations, Kind};
use crate::nn::form::{Context, LayerPass, Mode};
use crate::nn::graph::Network;
use crate::{Error, Result};

/// What gradients are wanted of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Parameters.
    pub weights: bool,
    /// Inputs of layers with weights, which are convolutions and linear layers. Those of others always are.
    pub through: bool,
}

/// A train-mode pass through a row of layers.
#[derive(Debug)]
pub struct Chain<'a> {
    network: &'a Network,
    input: Tensor,
    links: Vec<Link>,
    way: Way,
    n_images: usize,
}

/// How a pass is recorded.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// On our tape, images in lanes.
    Lanes(Execution),
    /// By candle's autograd, on any device.
    Plain,
}

#[derive(Debug)]
struct Link {
    node: usize,
    pass: LayerPass<'static>,
    out: Tensor,
    record: Record,
}

/// What is needed to go back through a link once.
#[derive(Debug)]
enum Record {
    /// Nothing was asked for, or it was given already.
    None,
    Tape {
        tape: Tape,
        input: Option<Tensor>,
        params: Vec<Tensor>,
    },
    Graph {
        input: Option<Var>,
        params: Vec<Var>,
    },
}

/// Gradients of one link.
#[derive(Debug)]
pub struct LinkGradients {
    /// Of its parameter tensors; none if they were not wanted.
    pub params: Vec<Tensor>,
    /// Of its input, if it was wanted.
    pub input: Option<Tensor>,
}

const MODE: Mode<'static> = Mode::Train;

impl<'a> Chain<'a> {
    /// A pass of `network` with these parameter tensors on `images` (B, C, H, W).
    ///
    /// # Errors
    /// If the layers of the network do not stand in a row, shapes do not fit, or the device fails.
    pub fn run(network: &'a Network, params: &[Tensor], images: &Tensor, wanted: Wanted) -> Result<Self> {
        let is_taped = images.device().is_cpu() && network.is_taped();
        Self::run_on(network, params, images, wanted, is_taped, false)
    }

    /// A pass that everything is wanted of, the gradient of the images included.
    ///
    /// # Errors
    /// As [`Chain::run`].
    pub fn run_through(network: &'a Network, params: &[Tensor], images: &Tensor) -> Result<Self> {
        let is_taped = images.device().is_cpu() && network.is_taped();
        let wanted = Wanted { weights: true, through: true };
        Self::run_on(network, params, images, wanted, is_taped, true)
    }

    /// The same on the tape, or by autograd.
    pub(in crate::nn) fn run_on(
        network: &'a Network,
        params: &[Tensor],
        images: &Tensor,
        wanted: Wanted,
        is_taped: bool,
        of_images: bool,
    ) -> Result<Self> {
        let fused = network.fused();
        let is_row = |idx: usize| fused[idx].inputs == [if idx == 0 { 0 } else { fused[idx - 1].output }];
        if !(0..fused.len()).all(is_row) {
            return Err(Error::setting("method", "this rule takes networks whose layers stand in a row"));
        }
        let context = Context { mode: MODE, split: Split::Threads };
        let (way, input) = if is_taped {
            let execution = Network::execution(&context, images)?;
            (Way::Lanes(execution), ops::to_lanes(images, execution.blocks)?)
        } else {
            (Way::Plain, images.clone())
        };
        let mut links: Vec<Link> = Vec::new();
        for one in fused {
            let pass = LayerPass { mode: MODE, epilogue: one.epilogue, moments: None };
            let input = links.last().map_or(&input, |link| &link.out);
            let own = &params[network.params_of(one.node)];
            // Images usually need no gradient.
            let of_input =
                (of_images || !links.is_empty()) && (wanted.through || !has_weights(network, one.node));
            let of_params = wanted.weights && !own.is_empty();
            let (out, record) = match way {
                Way::Lanes(execution) => {
                    let (input, own) = (input.detach(), own.iter().map(Tensor::detach).collect::<Vec<_>>());
                    let leaves: Vec<Tensor> = of_input
                        .then(|| input.clone())
                        .into_iter()
                        .chain(own.iter().filter(|_| of_params).cloned())
                        .collect();
                    let layer = network.layer(one.node);
                    let (out, tape) =
                        Tape::record(&leaves, || layer.forward_lanes(&pass, execution, &own, &[&input]))?;
                    let params = if of_params { own } else { Vec::new() };
                    (out, Record::Tape { tape, input: of_input.then_some(input), params })
                }
                Way::Plain => {
                    let var = |tensor: &Tensor| Var::from_tensor(&tensor.detach());
                    let input_var = of_input.then(|| var(input)).transpose()?;
                    let vars: Vec<Var> = if of_params {
                        own.iter().map(var).collect::<candle_core::Result<_>>()?
                    } else {
                        Vec::new()
                    };
                    let own: Vec<Tensor> = if of_params {
                        vars.iter().map(|var| var.as_tensor().clone()).collect()
                    } else {
                        own.to_vec()
                    };
                    let input =
                        input_var.as_ref().map_or_else(|| input.detach(), |var| var.as_tensor().clone());
                    let out = network.layer(one.node).forward(&pass, &own, &[&input])?;
                    (out, Record::Graph { input: input_var, params: vars })
                }
            };
            links.push(Link { node: one.node, pass, out, record });
        }
        Ok(Self { network, input, links, way, n_images: images.dim(0)? })
    }

    /// Number of links.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Parameter tensors of a link, as positions in the layout.
    #[must_use]
    pub fn params_of(&self, link: usize) -> std::ops::Range<usize> {
        self.network.params_of(self.links[link].node)
    }

    /// Whether a link is a convolution or a linear layer.
    #[must_use]
    pub fn has_weights(&self, link: usize) -> bool {
        has_weights(self.network, self.links[link].node)
    }

    /// The links whose output a ReLU made, first to last.
    #[must_use]
    pub fn relus(&self) -> Vec<usize> {
        let is_relu = |&link: &usize| {
            let Link { node, pass, .. } = &self.links[link];
            pass.epilogue != crate::nn::form::Epilogue::None
                || self.network.layer(*node).role() == crate::nn::layer::Role::Relu
        };
        (0..self.links.len()).filter(is_relu).collect()
    }

    /// Sizes (C, H, W) of a link's output.
    #[must_use]
    pub fn shape(&self, link: usize) -> [usize; 3] {
        self.network.shape(self.network.fused()[link].output)
    }

    /// Output of the last link (B, numbers).
    ///
    /// # Errors
    /// If the device fails.
    pub fn outputs(&self) -> Result<Tensor> {
        let last = self.links.last().map_or(&self.input, |link| &link.out).detach();
        Ok(match self.way {
            Way::Lanes(execution) => ops::to_rows(&ops::as_features(&last)?, execution.blocks)?,
            Way::Plain => last.flatten_from(1)?,
        })
    }

    /// A gradient of the input, as [`Chain::back`] gives it, image by image (B, C, H, W).
    ///
    /// # Errors
    /// If the shape does not fit.
    pub fn of_images(&self, grad: &Tensor) -> Result<Tensor> {
        Ok(match self.way {
            Way::Lanes(execution) => ops::from_lanes(grad, execution.blocks)?,
            Way::Plain => grad.clone(),
        })
    }

    /// Numbers of every image (B, C · H · W) as a gradient of a link's output.
    ///
    /// # Errors
    /// If there are not as many.
    pub fn place(&self, link: usize, rows: &Tensor) -> Result<Tensor> {
        let [channels, height, width] = self.shape(link);
        let plain = rows.reshape((self.n_images, channels, height, width))?;
        Ok(match self.way {
            Way::Lanes(execution) => ops::to_lanes(&plain, execution.blocks)?,
            Way::Plain => plain,
        })
    }

    /// The gradients that were wanted of a link, from the gradient of its output. Only once.
    ///
    /// # Errors
    /// If the device fails.
    pub fn back(&mut self, link: usize, grad: &Tensor) -> Result<LinkGradients> {
        let record = std::mem::replace(&mut self.links[link].record, Record::None);
        let out = &self.links[link].out;
        match record {
            Record::None => Ok(LinkGradients { params: Vec::new(), input: None }),
            Record::Tape { tape, input, params } => {
                let gradients = tape.backward(out, grad.clone())?;
                let of = |leaf: &Tensor| gradients.get(leaf).cloned().map_or_else(|| leaf.zeros_like(), Ok);
                Ok(LinkGradients {
                    params: params.iter().map(of).collect::<candle_core::Result<_>>()?,
                    input: input.as_ref().map(of).transpose()?,
                })
            }
            Record::Graph { input, params } => {
                let gradients = (out * grad)?.sum_all()?.backward()?;
                let of = |var: &Var| gradients.get(var).cloned().map_or_else(|| var.zeros_like(), Ok);
                Ok(LinkGradients {
                    params: params.iter().map(of).collect::<candle_core::Result<_>>()?,
                    input: input.as_ref().map(of).transpose()?,
                })
            }
        }
    }

    /// The gradient of the input of a link with weights, as if these were `params`; none where there is none.
    ///
    /// # Errors
    /// If the layer is not linear in its input, or the device fails.
    pub fn transport(&self, link: usize, params: &[Tensor], grad: &Tensor) -> Result<Option<Tensor>> {
        if link == 0 {
            return Ok(None);
        }
        let Link { node, pass, .. } = &self.links[link];
        let layer = self.network.layer(*node);
        let input = &self.links[link - 1].out;
        match self.way {
            Way::Lanes(execution) => {
                match layer.transport_lanes(execution, params, self.shape(link - 1), grad)? {
                    Some(moved) => Ok(Some(moved)),
                    None => Err(Error::setting("method", format!("{} carries no feedback", layer.kind()))),
                }
            }
            Way::Plain => {
                let var = Var::from_tensor(&input.detach())?;
                let out = layer.forward(pass, params, &[var.as_tensor()])?;
                Ok((out * grad)?.sum_all()?.backward()?.get(&var).cloned())
            }
        }
    }

    /// The values of the pass.
    ///
    /// # Errors
    /// If the device fails.
    pub fn activations(&self) -> Result<Activations> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.network.n_nodes() + 1];
        values[0] = Some(self.input.clone());
        for (link, fused) in self.links.iter().zip(self.network.fused()) {
            values[fused.output] = Some(link.out.detach());
        }
        let kind = match self.way {
            Way::Lanes(execution) => Kind::Lanes(execution),
            Way::Plain => Kind::Plain,
        };
        Ok(Activations {
            values,
            moments: Vec::new(),
            logits: self.outputs()?,
            kind,
            n_images: self.n_images,
        })
    }
}

fn has_weights(network: &Network, node: usize) -> bool {
    let specs = &network.layout().specs()[network.params_of(node)];
    specs.iter().any(|spec| spec.kind.is_prunable())
}

/// A gradient of parameter tensors as a flat list in f64; zeros for tensors without one.
///
/// # Errors
/// If the device fails.
pub fn flat(network: &Network, gradients: &[Option<Tensor>]) -> Result<Vec<f64>> {
    let mut values = Vec::with_capacity(network.layout().n_coords());
    for (gradient, spec) in gradients.iter().zip(network.layout().specs()) {
        match gradient {
            Some(gradient) => values.extend(gradient.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?),
            None => values.resize(values.len() + spec.len(), 0.0),
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::loss::Loss;
    use crate::nn::{backprop, model};
    use crate::rng::{Purpose, Stream};
    use candle_core::Device;

    /// Handing the gradient on, link by link, is back-propagation, on the tape and by candle's autograd; carrying errors
    /// through other weights is the same either way. A batch that fills no block; f64.
    #[test]
    fn a_chain_of_gradients_is_back_propagation() -> Result<()> {
        for name in ["ntk-cnn8-w3", "wide-cnn8-w2", "cnn-d2-w5", "lenet"] {
            let network = model::from_name(name, &model::Io::CIFAR)?;
            let params = network.layout().initial_values(3);
            let mut pixels = vec![0.0; 5 * 3 * 32 * 32];
            Stream::new(6, Purpose::Test, 0).fill_normal(&mut pixels);
            let images = Tensor::from_vec(pixels, (5, 3, 32, 32), &Device::Cpu)?;
            let labels = [1, 0, 9, 3, 3];
            let tensors = network.tensors(&params, DType::F64, &Device::Cpu)?;
            let other = network.layout().drawn(crate::params::Init::Kaiming, 3, Purpose::Feedback);
            let other = network.tensors(&other, DType::F64, &Device::Cpu)?;
            let exact = backprop::gradient(&network, &params, &images, &labels, 1.0)?;
            let go_back = |is_taped: bool, through: bool| -> Result<(f64, Vec<f64>)> {
                let wanted = Wanted { weights: true, through };
                let mut chain = Chain::run_on(&network, &tensors, &images, wanted, is_taped, false)?;
                let (loss, grad) =
                    Loss::CrossEntropy.gradient(&chain.outputs()?, (&labels).into(), 1.0, None)?;
                let mut found: Vec<Option<Tensor>> = vec![None; tensors.len()];
                let mut grad = Some(chain.place(chain.len() - 1, &grad)?);
                for link in (0..chain.len()).rev() {
                    let Some(of_output) = grad else { break };
                    let LinkGradients { params, input } = chain.back(link, &of_output)?;
                    let own = chain.params_of(link);
                    own.clone().zip(params).for_each(|(idx, gradient)| found[idx] = Some(gradient));
                    let is_carried = !through && chain.has_weights(link);
                    grad = if is_carried { chain.transport(link, &other[own], &of_output)? } else { input };
                }
                Ok((loss, flat(&network, &found)?))
            };
            let close = |a: &[f64], b: &[f64], what: &str| {
                let most = b.iter().fold(0.0f64, |most, value| most.max(value.abs()));
                for (a, b) in a.iter().zip(b) {
                    assert!((a - b).abs() < 1e-10 * most, "{name}, {what}: {a} {b}");
                }
            };
            for is_taped in [true, false] {
                let (loss, gradient) = go_back(is_taped, true)?;
                assert!((loss - exact.loss).abs() < 1e-12);
                close(&gradient, &exact.gradient, "through");
            }
            let ((_, taped), (_, plain)) = (go_back(true, false)?, go_back(false, false)?);
            close(&taped, &plain, "carried");
            assert!(taped.iter().zip(&exact.gradient).any(|(a, b)| (a - b).abs() > 1e-6));
        }
        Ok(())
    }

    #[test]
    fn layers_that_branch_are_refused() -> Result<()> {
        let network = model::from_name("resnet8-w4", &model::Io::CIFAR)?;
        let tensors = network.tensors(&network.layout().initial_values(1), DType::F32, &Device::Cpu)?;
        let images = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
        let wanted = Wanted { weights: true, through: true };
        let refused = Chain::run(&network, &tensors, &images, wanted).unwrap_err();
        assert!(refused.to_string().contains("in a row"), "{refused}");
        Ok(())
    }
}
