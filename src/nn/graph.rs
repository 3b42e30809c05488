//! A network: layers in order, each reading the outputs of earlier ones.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::layer::{ActivationShape, Context, Layer, MOMENTUM};
use super::params::Layout;
use crate::kernels::Split;
use crate::kernels::norm::{self, Moments};
use crate::{Error, Result};

/// A layer in its place. Value 0 is the network's input; node k produces value k + 1.
#[derive(Debug)]
struct Node {
    name: String,
    layer: Box<dyn Layer>,
    /// Values read.
    inputs: Vec<usize>,
    /// Parameter tensors owned, as positions in the layout.
    params: std::ops::Range<usize>,
    /// Last node that reads this node's value (itself for the network's output).
    last_use: usize,
}

/// A network as an ordered list of layers.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Node>,
    layout: Arc<Layout>,
    /// Sizes of every value, input first.
    shapes: Vec<ActivationShape>,
    norm_channels: Vec<usize>,
}

/// All values of a forward pass, input first, logits last.
#[derive(Debug, Clone)]
pub struct Activations {
    values: Vec<Tensor>,
}

impl Activations {
    /// Output of the last layer (B, classes).
    #[must_use]
    pub fn logits(&self) -> &Tensor {
        self.values.last().expect("the input is always there")
    }

    /// All values, input first, logits last.
    #[must_use]
    pub fn values(&self) -> &[Tensor] {
        &self.values
    }
}

/// Running statistics of one batch norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormStats {
    /// Running mean per channel.
    pub mean: Vec<f64>,
    /// Running unbiased variance per channel.
    pub variance: Vec<f64>,
}

/// Running statistics of all batch norms, in order. They are state of training, not parameters:
/// only [`RunningStats::update`] moves them.
#[derive(Debug, Clone, PartialEq)]
pub struct RunningStats {
    /// One per batch norm.
    pub layers: Vec<NormStats>,
}

/// Moments of the inputs of all batch norms on one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStats {
    /// Per batch norm: numbers per channel, and the moments of its channels.
    layers: Vec<(f64, Vec<Moments>)>,
}

impl RunningStats {
    /// Moves towards the moments of a batch, with PyTorch's momentum and unbiased variance.
    pub fn update(&mut self, batch: &BatchStats) {
        for (running, (n, moments)) in self.layers.iter_mut().zip(&batch.layers) {
            for (channel, moments) in moments.iter().enumerate() {
                let unbiased = if *n > 1.0 { moments.variance * n / (n - 1.0) } else { moments.variance };
                let blend = |old: f64, new: f64| (1.0 - MOMENTUM) * old + MOMENTUM * new;
                running.mean[channel] = blend(running.mean[channel], moments.mean);
                running.variance[channel] = blend(running.variance[channel], unbiased);
            }
        }
    }

    pub(super) fn layer(&self, norm_idx: usize) -> &NormStats {
        &self.layers[norm_idx]
    }
}

/// Collects layers into a [`Network`].
#[derive(Debug)]
pub struct Builder {
    nodes: Vec<Node>,
    specs: Vec<super::params::ParamSpec>,
    shapes: Vec<ActivationShape>,
    norm_channels: Vec<usize>,
}

/// The output of a layer, to be read by later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value(usize);

impl Builder {
    /// A network without layers for inputs (C, H, W), and its input.
    #[must_use]
    pub fn new(input: ActivationShape) -> (Self, Value) {
        (
            Self { nodes: Vec::new(), specs: Vec::new(), shapes: vec![input], norm_channels: Vec::new() },
            Value(0),
        )
    }

    /// Appends a layer that reads `inputs`; its parameters get `name` as a prefix.
    pub fn push(&mut self, name: impl Into<String>, layer: impl Layer + 'static, inputs: &[Value]) -> Value {
        let name = name.into();
        let first = self.specs.len();
        self.specs.extend(layer.params().into_iter().map(|mut spec| {
            spec.name = format!("{name}.{}", spec.name);
            spec
        }));
        let inputs: Vec<usize> = inputs.iter().map(|value| value.0).collect();
        let shapes: Vec<ActivationShape> = inputs.iter().map(|&value| self.shapes[value]).collect();
        self.shapes.push(layer.output_shape(&shapes));
        let idx = self.nodes.len();
        for &value in inputs.iter().filter(|&&value| value > 0) {
            self.nodes[value - 1].last_use = idx;
        }
        let params = first..self.specs.len();
        self.nodes.push(Node { name, layer: Box::new(layer), inputs, params, last_use: idx });
        Value(idx + 1)
    }

    /// Appends a batch norm.
    pub fn push_norm(&mut self, name: impl Into<String>, input: Value) -> Value {
        let channels = self.shapes[input.0][0];
        let norm_idx = self.norm_channels.len();
        self.norm_channels.push(channels);
        self.push(name, super::layer::BatchNorm { channels, norm_idx }, &[input])
    }

    /// Channels of a value.
    #[must_use]
    pub fn channels(&self, value: Value) -> usize {
        self.shapes[value.0][0]
    }

    /// The finished network.
    #[must_use]
    pub fn build(self) -> Network {
        Network {
            nodes: self.nodes,
            layout: Arc::new(Layout::new(self.specs)),
            shapes: self.shapes,
            norm_channels: self.norm_channels,
        }
    }
}

impl Network {
    /// Names, shapes and positions of the parameters.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Layers.
    #[must_use]
    pub fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The layer that owns a parameter tensor.
    ///
    /// # Panics
    /// If no layer does.
    #[must_use]
    pub fn node_of(&self, param_idx: usize) -> usize {
        self.nodes
            .iter()
            .position(|node| node.params.contains(&param_idx))
            .expect("every parameter has an owner")
    }

    /// Floating-point operations per image of a complete forward pass.
    #[must_use]
    pub fn flops(&self) -> u64 {
        self.flops_from(0)
    }

    /// Floating-point operations per image when only what follows from node `node_idx` changes.
    #[must_use]
    pub fn flops_from(&self, node_idx: usize) -> u64 {
        let mut changed = self.changed_from(node_idx);
        if node_idx == 0 {
            changed.fill(true);
        }
        self.nodes
            .iter()
            .zip(changed)
            .filter(|(_, changed)| *changed)
            .map(|(node, _)| self.node_flops(node))
            .sum()
    }

    fn node_flops(&self, node: &Node) -> u64 {
        let shapes: Vec<ActivationShape> = node.inputs.iter().map(|&value| self.shapes[value]).collect();
        node.layer.flops(&shapes)
    }

    /// Running statistics as before any training: mean 0, variance 1.
    #[must_use]
    pub fn initial_stats(&self) -> RunningStats {
        let layers = self
            .norm_channels
            .iter()
            .map(|&channels| NormStats { mean: vec![0.0; channels], variance: vec![1.0; channels] })
            .collect();
        RunningStats { layers }
    }

    /// Names of the running statistics in PyTorch's manner, one prefix per batch norm.
    #[must_use]
    pub fn norm_names(&self) -> Vec<&str> {
        let mut names = vec![""; self.norm_channels.len()];
        for node in &self.nodes {
            if let Some(norm_idx) = node.layer.norm_idx() {
                names[norm_idx] = &node.name;
            }
        }
        names
    }

    /// Tensors of the flat vector `params` (d) in declared order.
    ///
    /// # Errors
    /// If the length is not d or the device fails.
    pub fn tensors(&self, params: &[f64], dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        if params.len() != self.layout.n_coords() {
            return Err(Error::Parameter {
                name: "all".to_owned(),
                expected: format!("{} values", self.layout.n_coords()),
                got: params.len().to_string(),
            });
        }
        (0..self.layout.specs().len())
            .map(|param_idx| self.tensor(param_idx, &params[self.layout.range(param_idx)], dtype, device))
            .collect()
    }

    /// One parameter tensor from its values.
    ///
    /// # Errors
    /// If the device fails.
    pub fn tensor(&self, param_idx: usize, values: &[f64], dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = self.layout.specs()[param_idx].shape.as_slice();
        Ok(match dtype {
            DType::F64 => Tensor::from_slice(values, shape, device)?,
            _ => {
                let rounded: Vec<f32> = values.iter().map(|&value| value as f32).collect();
                Tensor::from_vec(rounded, shape, device)?
            }
        })
    }

    fn run_node(
        &self,
        node_idx: usize,
        context: &Context,
        params: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let node = &self.nodes[node_idx];
        Ok(node.layer.forward(context, &params[node.params.clone()], inputs)?)
    }

    /// Logits (B, classes) of `images` (B, C, H, W).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward(&self, context: &Context, params: &[Tensor], images: &Tensor) -> Result<Tensor> {
        self.forward_visit(context, params, images, &mut |_, _| Ok(()))
    }

    /// As [`Network::forward`]; `visit` sees every value with its number, the input's being 0, before
    /// it is dropped.
    pub(super) fn forward_visit(
        &self,
        context: &Context,
        params: &[Tensor],
        images: &Tensor,
        visit: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.nodes.len() + 1];
        visit(0, images)?;
        values[0] = Some(images.clone());
        for node_idx in 0..self.nodes.len() {
            let output = {
                let inputs: Vec<&Tensor> = self.nodes[node_idx]
                    .inputs
                    .iter()
                    .map(|&value| values[value].as_ref().expect("kept until its last use"))
                    .collect();
                self.run_node(node_idx, context, params, &inputs)?
            };
            visit(node_idx + 1, &output)?;
            values[node_idx + 1] = Some(output);
            self.drop_unused(node_idx, &mut values);
        }
        Ok(values.pop().flatten().expect("the last node's value is never dropped"))
    }

    fn drop_unused(&self, node_idx: usize, values: &mut [Option<Tensor>]) {
        for &value in self.nodes[node_idx].inputs.iter().filter(|&&value| value > 0) {
            if self.nodes[value - 1].last_use == node_idx {
                values[value] = None;
            }
        }
    }

    /// All values of a forward pass on `images` (B, C, H, W).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward_all(&self, context: &Context, params: &[Tensor], images: &Tensor) -> Result<Activations> {
        let mut values = Vec::with_capacity(self.nodes.len() + 1);
        values.push(images.clone());
        for node_idx in 0..self.nodes.len() {
            let inputs: Vec<&Tensor> =
                self.nodes[node_idx].inputs.iter().map(|&value| &values[value]).collect();
            let output = self.run_node(node_idx, context, params, &inputs)?;
            values.push(output);
        }
        Ok(Activations { values })
    }

    /// Logits when only the parameters of node `node_idx` differ from those that gave `base`: the
    /// paper's feature reuse, at layer granularity. Nodes that do not depend on that node are not
    /// computed again.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward_from(
        &self,
        node_idx: usize,
        context: &Context,
        params: &[Tensor],
        base: &Activations,
    ) -> Result<Tensor> {
        let changed = self.changed_from(node_idx);
        let mut values: Vec<Option<Tensor>> = vec![None; self.nodes.len() + 1];
        for idx in (node_idx..self.nodes.len()).filter(|&idx| changed[idx]) {
            let output = {
                let inputs: Vec<&Tensor> = self.nodes[idx]
                    .inputs
                    .iter()
                    .map(|&value| values[value].as_ref().unwrap_or(&base.values[value]))
                    .collect();
                self.run_node(idx, context, params, &inputs)?
            };
            values[idx + 1] = Some(output);
            self.drop_unused(idx, &mut values);
        }
        Ok(values.pop().flatten().expect("the output depends on every node"))
    }

    /// Which nodes' outputs depend on the parameters of node `node_idx`.
    fn changed_from(&self, node_idx: usize) -> Vec<bool> {
        let mut changed = vec![false; self.nodes.len()];
        for idx in node_idx..self.nodes.len() {
            changed[idx] = idx == node_idx
                || self.nodes[idx].inputs.iter().any(|&value| value > 0 && changed[value - 1]);
        }
        changed
    }

    /// Moments of the inputs of all batch norms, from the values of a forward pass.
    ///
    /// # Errors
    /// If the activations are not of this network.
    pub fn batch_stats_of(&self, activations: &Activations) -> Result<BatchStats> {
        let n_images = activations.values[0].dim(0)?;
        let mut moments = vec![None; activations.values.len()];
        for node in self.nodes.iter().filter(|node| node.layer.norm_idx().is_some()) {
            let input = activations.values[node.inputs[0]].to_device(&Device::Cpu)?;
            moments[node.inputs[0]] = Some(norm::moments(&input, Split::Threads)?);
        }
        Ok(self.batch_stats(n_images, &moments))
    }

    /// The same from moments by value.
    pub(super) fn batch_stats(&self, n_images: usize, moments: &[Option<Vec<Moments>>]) -> BatchStats {
        let mut layers = vec![(0.0, Vec::new()); self.norm_channels.len()];
        for node in &self.nodes {
            let Some(norm_idx) = node.layer.norm_idx() else { continue };
            let [_, height, width] = self.shapes[node.inputs[0]];
            let moments = moments[node.inputs[0]].clone().unwrap_or_default();
            layers[norm_idx] = ((n_images * height * width) as f64, moments);
        }
        BatchStats { layers }
    }

    /// The layer of a node.
    pub(super) fn layer(&self, node_idx: usize) -> &(dyn Layer + 'static) {
        &*self.nodes[node_idx].layer
    }

    /// Values that a node reads.
    pub(super) fn inputs(&self, node_idx: usize) -> &[usize] {
        &self.nodes[node_idx].inputs
    }

    /// Parameter tensors of a node.
    pub(super) fn params_of(&self, node_idx: usize) -> std::ops::Range<usize> {
        self.nodes[node_idx].params.clone()
    }

    /// Sizes of a value.
    pub(super) fn shape(&self, value: usize) -> ActivationShape {
        self.shapes[value]
    }
}
