//! A network: layers in order, each reading the outputs of earlier ones. How it is run is said in [`crate::nn::pass`].

mod build;
mod fuse;

pub use build::{Builder, Value};
pub(super) use fuse::Fused;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::form::{ActivationShape, Mode};
use super::layer::{Forms, Layer, Norm, Running};
use super::stats::{BatchStats, NormBatch, NormStats, RunningStats};
use crate::kernels::lanes::norm::Moments;
use crate::params::Layout;
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
}

/// A network as an ordered list of layers.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Node>,
    /// In an order in which every one finds its inputs.
    fused: Vec<Fused>,
    /// By value: the last fused layer that reads it.
    last_reader: Vec<Option<usize>>,
    layout: Arc<Layout>,
    /// Sizes of every value, input first.
    shapes: Vec<ActivationShape>,
    /// By normalization: how many running means it has.
    norm_channels: Vec<usize>,
}

impl Network {
    /// Names, shapes and positions of the parameters.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Sizes of an input without the batch: (C, H, W).
    #[must_use]
    pub fn input(&self) -> ActivationShape {
        self.shapes[0]
    }

    /// Numbers that come out for one input.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.shapes[self.nodes.len()].iter().product()
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
            if let Some(norm) = node.layer.norm() {
                names[norm.idx] = &node.name;
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

    /// Which nodes' outputs depend on the parameters of node `node_idx`.
    pub(super) fn changed_from(&self, node_idx: usize) -> Vec<bool> {
        let mut changed = vec![false; self.nodes.len()];
        for idx in node_idx..self.nodes.len() {
            changed[idx] = idx == node_idx
                || self.nodes[idx].inputs.iter().any(|&value| value > 0 && changed[value - 1]);
        }
        changed
    }

    /// Whether everything that a normalization depends on beyond its own image is in the running statistics.
    #[must_use]
    pub fn has_running_stats(&self) -> bool {
        self.nodes.iter().all(|node| node.layer.norm().is_none_or(|norm| norm.running.is_some()))
    }

    /// The normalization that a fused layer is, if it is one.
    pub(super) fn norm_of(&self, fused: &Fused) -> Option<Norm> {
        self.layer(fused.node).norm()
    }

    /// Moments of the inputs of all batch norms, from moments by value.
    pub(super) fn batch_stats(&self, n_images: usize, moments: &[Option<Vec<Moments>>]) -> BatchStats {
        let mut layers = vec![NormBatch::default(); self.norm_channels.len()];
        for node in &self.nodes {
            let Some(norm) = node.layer.norm() else { continue };
            let Some(Running { momentum }) = norm.running else { continue };
            let [_, height, width] = norm.statistics.view(self.shapes[node.inputs[0]]);
            let moments = moments[node.inputs[0]].clone().unwrap_or_default();
            layers[norm.idx] = NormBatch { n: (n_images * height * width) as f64, momentum, moments };
        }
        BatchStats { layers }
    }

    /// One form of every fused layer, in order.
    ///
    /// # Errors
    /// [`Error::Setting`] with `evaluator`, naming the first layer without it; the form is called `what`.
    pub(super) fn require<'n, F>(
        &'n self,
        what: &str,
        form: impl Fn(Forms<'n>) -> Option<F>,
    ) -> Result<Vec<F>> {
        let of = |fused: &Fused| {
            let Node { name, layer, .. } = &self.nodes[fused.node];
            form(layer.forms()).ok_or_else(|| {
                let reason = format!("layer `{name}` ({}) has no {what}; use full or reuse", layer.kind());
                Error::setting("evaluator", reason)
            })
        };
        self.fused.iter().map(of).collect()
    }

    /// One form of every fused layer, in order; none if one has none.
    pub(super) fn all_have<'n, F>(&'n self, form: impl Fn(Forms<'n>) -> Option<F>) -> Option<Vec<F>> {
        self.fused.iter().map(|fused| form(self.layer(fused.node).forms())).collect()
    }

    /// Whether the tape follows every layer.
    pub(super) fn is_taped(&self) -> bool {
        self.nodes.iter().all(|node| node.layer.forms().is_taped)
    }

    /// The layer of a node.
    pub(super) fn layer(&self, node_idx: usize) -> &(dyn Layer + 'static) {
        &*self.nodes[node_idx].layer
    }

    /// Whether a fused layer takes statistics of the batch.
    pub(super) fn is_coupled(&self, fused: &Fused, mode: Mode) -> bool {
        self.norm_of(fused).is_some_and(|norm| matches!(mode, Mode::Train) || norm.running.is_none())
    }

    /// By fused layer: the number of train-mode batch norms in a row that its output depends on. Within a stage
    /// a block of images needs nothing of the others.
    pub(super) fn stages(&self, mode: Mode) -> Vec<usize> {
        let mut of_value = vec![0; self.nodes.len() + 1];
        let mut stages = Vec::new();
        for fused in &self.fused {
            let is_coupled = self.is_coupled(fused, mode);
            let first = of_value[fused.inputs[0]] + usize::from(is_coupled);
            let stage = fused.inputs[1..].iter().fold(first, |stage, &value| stage.max(of_value[value]));
            of_value[fused.output] = stage;
            stages.push(stage);
        }
        stages
    }

    /// What runs, in order.
    pub(super) fn fused(&self) -> &[Fused] {
        &self.fused
    }

    /// The fused layer that owns a parameter tensor.
    ///
    /// # Panics
    /// If none does.
    pub(super) fn fused_of(&self, param_idx: usize) -> usize {
        let owns = |fused: &Fused| self.params_of(fused.node).contains(&param_idx);
        self.fused.iter().position(owns).expect("every parameter has an owner")
    }

    /// The last fused layer that reads a value.
    pub(super) fn last_reader(&self, value: usize) -> Option<usize> {
        self.last_reader[value]
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
