//! A LocalMixer as learning rules see it: its linear layers with what stands around them, value and tangent together.

use candle_core::{DType, Tensor};

use super::tangent::{
    CrossEntropy, Dual, Normalized, add, cross_entropy, layer_norm, linear, linear_backward,
    linear_gradients, relu, token_mean,
};
use crate::nn::Network;
use crate::nn::layer::Patches;
use crate::nn::model::local_mixer::{Mixing, Sizes, linear_layers};
use crate::params::Layout;
use crate::{Error, Result};

/// Noise (B, T, D) of these sizes for the linear layer whose weight is this parameter tensor.
pub type Noise<'n> = dyn Fn(usize, (usize, usize, usize)) -> Result<Tensor> + 'n;

/// What moves in a forward pass.
#[derive(Clone, Copy)]
pub enum Moving<'m> {
    /// Nothing: the pass gives values alone.
    Nothing,
    /// The parameters, along one tangent for each tensor of the layout; none stays.
    Weights(&'m [Option<Tensor>]),
    /// What stands behind the layer norm of every linear layer, before the addition and the ReLU.
    Activities(&'m Noise<'m>),
}

/// A LocalMixer at one point, with a batch.
#[derive(Debug)]
pub struct Mixer<'a> {
    layout: &'a Layout,
    sizes: Sizes,
    params: Vec<Tensor>,
    /// (B, T, F).
    tokens: Tensor,
    labels: &'a [u32],
    blocks: Vec<Vec<Linear>>,
    heads: Vec<usize>,
    classifier: usize,
    normalizes_features: bool,
}

/// A linear layer; its bias is the next parameter tensor after its weight.
#[derive(Debug, Clone, Copy)]
struct Linear {
    weight: usize,
    mixing: Mixing,
    groups: usize,
}

/// A linear layer after a forward pass.
#[derive(Debug)]
pub struct Passed {
    layer: Linear,
    norm_in: Normalized,
    norm_out: Normalized,
    /// 1 where the ReLU let its input through, else 0 (B, T, D).
    mask: Tensor,
    /// The noise there, 0 elsewhere.
    noise: Option<Tensor>,
}

/// What a head makes of features.
#[derive(Debug)]
pub struct Readout {
    /// (B, K).
    pub logits: Tensor,
    /// What they are worth.
    pub entropy: CrossEntropy,
    /// Of the features (B, 1, D).
    pub error: Tensor,
}

/// What a rule makes of a batch.
#[derive(Debug)]
pub struct Estimate {
    /// One for each tensor of the layout; none is zero.
    pub gradients: Vec<Option<Tensor>>,
    /// The mean loss of the network's own output.
    pub loss: f64,
    /// That output (B, K).
    pub logits: Tensor,
    /// The mean local losses, if the rule has such.
    pub local_losses: Vec<f64>,
    /// What noise is multiplied with: one number, one for each image (B), or one for each image, token and group
    /// (B, T, G) of every block.
    pub scalars: Vec<Tensor>,
}

impl<'a> Mixer<'a> {
    /// `network` at `params` (d) with images (B, C, H, W), which decide device and precision, and labels (B).
    ///
    /// # Errors
    /// If it is no LocalMixer, or the device fails.
    pub fn new(network: &'a Network, params: &[f64], images: &Tensor, labels: &'a [u32]) -> Result<Self> {
        let sizes = Sizes::of(network)?;
        let layout: &Layout = network.layout();
        let position = |name: &str| {
            let found = layout.specs().iter().position(|spec| spec.name == name);
            found.ok_or_else(|| Error::setting("model", format!("this local-mixer has no `{name}`")))
        };
        let block = |block: usize| {
            let layers = linear_layers(block).iter().map(|&(name, mixing)| {
                let groups = if mixing == Mixing::Groups { sizes.groups } else { 1 };
                Ok(Linear { weight: position(&format!("blocks.{block}.{name}.weight"))?, mixing, groups })
            });
            layers.collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            layout,
            sizes,
            params: network.tensors(params, images.dtype(), images.device())?,
            tokens: Patches { size: sizes.patch }.tokens(images)?,
            labels,
            blocks: (0..sizes.blocks).map(block).collect::<Result<_>>()?,
            heads: (0..sizes.blocks)
                .map(|block| position(&format!("heads.{block}.weight")))
                .collect::<Result<_>>()?,
            classifier: position("fc.weight")?,
            normalizes_features: true,
        })
    }

    /// The same without the layer norms of features before heads and classifier. [`Network`] has the latter: this is
    /// another function.
    #[must_use]
    pub fn without_feature_norms(self) -> Self {
        Self { normalizes_features: false, ..self }
    }

    /// The parameters of the network.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.layout
    }

    /// Number of blocks.
    #[must_use]
    pub fn n_blocks(&self) -> usize {
        self.sizes.blocks
    }

    /// The input of the first block (B, T, F).
    #[must_use]
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    /// The parameter tensors of the blocks, heads and classifier left out.
    pub fn block_params(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().flatten().flat_map(|layer| [layer.weight, layer.weight + 1])
    }

    /// The biases that the released code counts twice: those of linear layers whose input has three axes.
    pub fn twofold_biases(&self) -> impl Iterator<Item = usize> {
        let layers = self.blocks.iter().flatten().filter(|layer| layer.mixing != Mixing::Groups);
        layers.map(|layer| layer.weight + 1)
    }

    /// Weight and bias of the classifier.
    #[must_use]
    pub fn classifier(&self) -> [usize; 2] {
        [self.classifier, self.classifier + 1]
    }

    /// Data type and device of everything.
    #[must_use]
    pub fn place(&self) -> (DType, &candle_core::Device) {
        (self.tokens.dtype(), self.tokens.device())
    }

    fn param(&self, idx: usize, moving: Moving) -> Dual {
        let tangent = match moving {
            Moving::Weights(tangents) => tangents[idx].clone(),
            _ => None,
        };
        Dual { value: self.params[idx].clone(), tangent }
    }

    /// Output (B, T, D) of block number `block` for its input h (B, T, D), and what its layers were there.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn block(&self, block: usize, h: &Dual, moving: Moving) -> Result<(Dual, Vec<Passed>)> {
        let mut passed = Vec::new();
        let mut x = h.clone();
        for &layer in &self.blocks[block] {
            let (weight, bias) = (self.param(layer.weight, moving), self.param(layer.weight + 1, moving));
            let (input, norm_in) = layer_norm(&x, layer.groups)?;
            let (mut z, norm_out) = layer_norm(&linear(layer.mixing, &input, &weight, &bias)?, layer.groups)?;
            let mut noise = None;
            if let Moving::Activities(draw) = moving {
                let drawn = draw(layer.weight, z.value.dims3()?)?;
                z = z.nudged(drawn.clone())?;
                noise = Some(drawn);
            }
            if block > 0 && layer.mixing == Mixing::Groups {
                z = add(&z, h)?;
            }
            let mask;
            (x, mask) = relu(&z)?;
            let noise = noise.map(|noise| noise * &mask).transpose()?;
            passed.push(Passed { layer, norm_in, norm_out, mask, noise });
        }
        Ok((x, passed))
    }

    /// The whole network with `moving`, no loss in between: what all layers were, and the classifier's output.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward(&self, moving: Moving) -> Result<(Vec<Passed>, Readout, [Tensor; 2])> {
        let mut h = Dual::constant(self.tokens.clone());
        let mut passed = Vec::new();
        for block in 0..self.n_blocks() {
            let more;
            (h, more) = self.block(block, &h, moving)?;
            passed.extend(more);
        }
        let (readout, gradients) = self.classify(&h)?;
        Ok((passed, readout, gradients))
    }

    /// The classifier's output for the last block's (B, T, D), and the exact gradients of its weight and bias.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn classify(&self, h: &Dual) -> Result<(Readout, [Tensor; 2])> {
        let mean = token_mean(h)?;
        let features = if self.normalizes_features { layer_norm(&mean, 1)?.0 } else { mean };
        self.readout(&features, self.classifier)
    }

    /// The local loss of block number `block` at its output (B, T, D): the head's readout, the exact gradients of its
    /// weight and bias, the features (B, T, D) before the mean, and the layer norm that made them.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn local_loss(&self, block: usize, output: &Dual) -> Result<Local> {
        let (features, norm) = if self.normalizes_features {
            let (features, norm) = layer_norm(output, self.sizes.groups)?;
            (features, Some(norm))
        } else {
            (output.clone(), None)
        };
        let mean = token_mean(&Dual::constant(features.value.clone()))?;
        let (readout, gradients) = self.readout(&mean, self.heads[block])?;
        let params = [self.heads[block], self.heads[block] + 1];
        Ok(Local { params, readout, gradients, features, norm, groups: self.sizes.groups })
    }

    fn readout(&self, features: &Dual, weight: usize) -> Result<(Readout, [Tensor; 2])> {
        let [weight, bias] = [weight, weight + 1].map(|idx| Dual::constant(self.params[idx].clone()));
        let logits = linear(Mixing::Channels, features, &weight, &bias)?;
        let logits = Dual {
            value: logits.value.squeeze(1)?,
            tangent: logits.tangent.map(|tangent| tangent.squeeze(1)).transpose()?,
        };
        let entropy = cross_entropy(&logits, self.labels)?;
        let at_logits = entropy.error.unsqueeze(1)?;
        let gradients = linear_gradients(Mixing::Channels, &weight.value, &features.value, &at_logits)?;
        let error = linear_backward(Mixing::Channels, &weight.value, &at_logits)?;
        Ok((Readout { logits: logits.value, entropy, error }, gradients))
    }

    /// Gradients of weight and bias of a layer with this error (B, T, D) behind its layer norm.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn gradients(&self, passed: &Passed, error: &Tensor) -> Result<[(usize, Tensor); 2]> {
        self.gradients_and_error(passed, error).map(|(gradients, _)| gradients)
    }

    fn gradients_and_error(&self, passed: &Passed, error: &Tensor) -> Result<([(usize, Tensor); 2], Tensor)> {
        let Linear { weight, mixing, .. } = passed.layer;
        let error = passed.norm_out.jacobian(error)?;
        let [of_weight, of_bias] =
            linear_gradients(mixing, &self.params[weight], &passed.norm_in.value, &error)?;
        Ok(([(weight, of_weight), (weight + 1, of_bias)], error))
    }

    /// The same, and the error (B, T, D) at the output of the layer before.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn backward(&self, passed: &Passed, error: &Tensor) -> Result<([(usize, Tensor); 2], Tensor)> {
        let (gradients, error) = self.gradients_and_error(passed, error)?;
        let Linear { weight, mixing, .. } = passed.layer;
        let before = passed.norm_in.jacobian(&linear_backward(mixing, &self.params[weight], &error)?)?;
        Ok((gradients, before))
    }
}

impl Passed {
    /// The noise where the ReLU let it through (B, T, D), if there was any.
    #[must_use]
    pub fn noise(&self) -> Option<&Tensor> {
        self.noise.as_ref()
    }

    /// What the layer mixes.
    #[must_use]
    pub fn mixing(&self) -> Mixing {
        self.layer.mixing
    }

    /// An error (B, T, D) behind the ReLU, as it stands before.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn through_relu(&self, error: &Tensor) -> Result<Tensor> {
        Ok((error * &self.mask)?)
    }
}

/// A local loss.
#[derive(Debug)]
pub struct Local {
    /// Weight and bias of its head.
    pub params: [usize; 2],
    /// What the head makes of the features.
    pub readout: Readout,
    /// Exact, of weight and bias.
    pub gradients: [Tensor; 2],
    features: Dual,
    norm: Option<Normalized>,
    groups: usize,
}

impl Local {
    /// What each token and group adds to the derivative of the mean loss (B, T, G), if the block's output moves.
    ///
    /// # Errors
    /// If it does not move, shapes do not fit or the device fails.
    pub fn scalars(&self) -> Result<Tensor> {
        let Some(moved) = &self.features.tangent else {
            return Err(Error::Objective("nothing moves along a tangent".to_owned()));
        };
        let (batch, tokens, channels) = moved.dims3()?;
        let products = moved.broadcast_mul(&(&self.readout.error / tokens as f64)?)?;
        Ok(products.reshape((batch, tokens, self.groups, channels / self.groups))?.sum(3)?)
    }

    /// The gradient of the mean loss with respect to the block's output (B, T, D).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn error(&self) -> Result<Tensor> {
        let (_, tokens, _) = self.features.value.dims3()?;
        let shared = (&self.readout.error / tokens as f64)?;
        let error = shared.broadcast_as(self.features.value.shape())?.contiguous()?;
        match &self.norm {
            Some(norm) => Ok(norm.jacobian(&error)?),
            None => Ok(error),
        }
    }
}

impl Estimate {
    /// Of a network with this output, no gradient being known yet.
    #[must_use]
    pub fn new(layout: &Layout, readout: Readout) -> Self {
        Self {
            gradients: vec![None; layout.specs().len()],
            loss: readout.entropy.loss,
            logits: readout.logits,
            local_losses: Vec::new(),
            scalars: Vec::new(),
        }
    }

    /// Sets gradients of parameter tensors.
    pub fn set(&mut self, gradients: impl IntoIterator<Item = (usize, Tensor)>) {
        gradients.into_iter().for_each(|(idx, gradient)| self.gradients[idx] = Some(gradient));
    }

    /// Multiplies the gradients of these parameter tensors.
    ///
    /// # Errors
    /// If the device fails.
    pub fn scale(&mut self, params: impl IntoIterator<Item = usize>, factor: f64) -> Result<()> {
        for idx in params {
            if let Some(gradient) = &mut self.gradients[idx] {
                *gradient = (&*gradient * factor)?;
            }
        }
        Ok(())
    }

    /// All gradients as one vector (d).
    ///
    /// # Errors
    /// If the device fails.
    pub fn values(&self, layout: &Layout) -> Result<Vec<f64>> {
        let mut values = Vec::with_capacity(layout.n_coords());
        for (gradient, spec) in self.gradients.iter().zip(layout.specs()) {
            match gradient {
                Some(gradient) => {
                    values.extend(gradient.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?)
                }
                None => values.resize(values.len() + spec.len(), 0.0),
            }
        }
        Ok(values)
    }
}
