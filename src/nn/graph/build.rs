//! From layers, one after the other, to a network.

use std::ops::Range;
use std::sync::Arc;

use super::fuse::fuse;
use super::{Network, Node};
use crate::nn::form::ActivationShape;
use crate::nn::layer::{BatchNorm, EPSILON, Layer, PositionNorm, Scaling};
use crate::nn::stats::MOMENTUM;
use crate::params::{Layout, ParamSpec, Start};

/// Collects layers into a [`Network`].
#[derive(Debug)]
pub struct Builder {
    /// Before the names of what is appended.
    prefix: String,
    nodes: Vec<Node>,
    specs: Vec<ParamSpec>,
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
            Self {
                prefix: String::new(),
                nodes: Vec::new(),
                specs: Vec::new(),
                shapes: vec![input],
                norm_channels: Vec::new(),
            },
            Value(0),
        )
    }

    /// The network for inputs (C, H, W) whose layers `append` appends.
    #[must_use]
    pub fn built(input: ActivationShape, append: impl FnOnce(&mut Self, Value) -> Value) -> Network {
        let (mut builder, value) = Self::new(input);
        append(&mut builder, value);
        builder.build()
    }

    /// Puts `prefix` before the names of all layers that come; a part of a larger network has one.
    pub fn set_prefix(&mut self, prefix: impl Into<String>) {
        self.prefix = prefix.into();
    }

    /// Appends a layer that reads `inputs`; its parameters get `name` as a prefix.
    pub fn push(&mut self, name: impl Into<String>, layer: impl Layer + 'static, inputs: &[Value]) -> Value {
        let name = format!("{}{}", self.prefix, name.into());
        let first = self.specs.len();
        self.specs.extend(layer.params().into_iter().map(|mut spec| {
            spec.name = format!("{name}.{}", spec.name);
            spec
        }));
        let inputs: Vec<usize> = inputs.iter().map(|value| value.0).collect();
        let shapes: Vec<ActivationShape> = inputs.iter().map(|&value| self.shapes[value]).collect();
        self.shapes.push(layer.output_shape(&shapes));
        if let Some(norm) = layer.norm() {
            let n_norms = self.norm_channels.len().max(norm.idx + 1);
            self.norm_channels.resize(n_norms, 0);
            if norm.running.is_some() {
                self.norm_channels[norm.idx] = norm.statistics.view(shapes[0])[0];
            }
        }
        let idx = self.nodes.len();
        let params = first..self.specs.len();
        self.nodes.push(Node { name, layer: Box::new(layer), inputs, params });
        Value(idx + 1)
    }

    /// Appends a batch norm.
    pub fn push_norm(&mut self, name: impl Into<String>, input: Value) -> Value {
        self.push_norm_with(name, input, EPSILON, MOMENTUM)
    }

    /// Appends a batch norm that adds `epsilon` to variances, and whose running statistics give a new batch the weight
    /// `momentum`.
    pub fn push_norm_with(
        &mut self,
        name: impl Into<String>,
        input: Value,
        epsilon: f64,
        momentum: f64,
    ) -> Value {
        let channels = self.shapes[input.0][0];
        let norm_idx = self.norm_channels.len();
        self.push(name, BatchNorm { channels, norm_idx, epsilon, momentum }, &[input])
    }

    /// Appends a normalization of every position over the images alone, without running statistics.
    pub fn push_position_norm(&mut self, name: impl Into<String>, input: Value) -> Value {
        let norm_idx = self.norm_channels.len();
        self.push(name, PositionNorm { norm_idx }, &[input])
    }

    /// Has the parameters of the layer appended last start as said, in their order.
    pub fn start_last(&mut self, starts: &[Start]) {
        let last = self.nodes.last().map_or(0..0, |node| node.params.clone());
        for (spec, &start) in self.specs[last].iter_mut().zip(starts) {
            spec.start = start;
        }
    }

    /// Sizes of a value.
    #[must_use]
    pub fn shape(&self, value: Value) -> ActivationShape {
        self.shapes[value.0]
    }

    /// Channels of a value.
    #[must_use]
    pub fn channels(&self, value: Value) -> usize {
        self.shapes[value.0][0]
    }

    /// The finished network.
    #[must_use]
    pub fn build(self) -> Network {
        let free = free_lengths(&self.nodes);
        let fused = fuse(&self.nodes);
        let mut last_reader = vec![None; self.nodes.len() + 1];
        for (idx, one) in fused.iter().enumerate() {
            one.inputs.iter().for_each(|&value| last_reader[value] = Some(idx));
        }
        Network {
            nodes: self.nodes,
            fused,
            last_reader,
            layout: Arc::new(Layout::new(self.specs).with_free_lengths(free)),
            shapes: self.shapes,
            norm_channels: self.norm_channels,
        }
    }
}

/// By layer that has them: its parameter tensors, if they are a normalization's scales and shifts on whose common length the
/// loss of a batch does not depend, since all that reads its output ends in normalizations that undo a factor.
fn free_lengths(nodes: &[Node]) -> Vec<Range<usize>> {
    let is_free = |(idx, node): &(usize, &Node)| {
        node.layer.norm().is_some() && !node.params.is_empty() && forgets(nodes, idx + 1, false)
    };
    nodes.iter().enumerate().filter(is_free).map(|(_, node)| node.params.clone()).collect()
}

/// Whether nothing becomes of a factor on a value, to which `has_offset` adds a constant for every channel.
fn forgets(nodes: &[Node], value: usize, has_offset: bool) -> bool {
    let mut readers = nodes.iter().enumerate().filter(|(_, node)| node.inputs.contains(&value)).peekable();
    readers.peek().is_some()
        && readers.all(|(idx, node)| match node.layer.scaling() {
            Scaling::Forgets => true,
            Scaling::Follows if !has_offset => forgets(nodes, idx + 1, false),
            Scaling::FollowsBesideOffset if !has_offset => forgets(nodes, idx + 1, true),
            _ => false,
        })
}
