//! A network: layers in order, each reading the outputs of earlier ones.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::layer::{ActivationShape, Context, Epilogue, Layer, MOMENTUM, Mode, Pass, Role};
use super::stacked::forward as stacked;
use super::stream;
use crate::kernels::lanes::Blocks;
use crate::kernels::lanes::norm::Moments;
use crate::kernels::ops::{self, Schedule};
use crate::kernels::{Isa, Split};
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

/// What runs as one: a layer, with what it takes over from the layers after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// The layer.
    pub(super) node: usize,
    /// Values read: those of the layer, and the other term of an addition that it takes over.
    pub(super) inputs: Vec<usize>,
    /// Value produced.
    pub(super) output: usize,
    /// What the layer takes over.
    pub(super) epilogue: Epilogue,
}

/// A network as an ordered list of layers.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Node>,
    /// In an order in which every step finds its inputs.
    steps: Vec<Step>,
    /// By value: the last step that reads it.
    last_reader: Vec<Option<usize>>,
    layout: Arc<Layout>,
    /// Sizes of every value, input first.
    shapes: Vec<ActivationShape>,
    norm_channels: Vec<usize>,
}

/// What a forward pass leaves: the values that other steps read, and the logits.
#[derive(Debug, Clone)]
pub struct Activations {
    /// By value; none where a layer's output was never there on its own.
    values: Vec<Option<Tensor>>,
    logits: Tensor,
    kind: Kind,
    n_images: usize,
}

/// How activations are laid out.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Images in lanes.
    Lanes(Schedule),
    /// Stacks of one (1, B, C, H, W).
    Stacked,
    /// (B, C, H, W), or (B, features).
    Plain,
}

impl Activations {
    /// Output of the last layer (B, classes).
    #[must_use]
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// By value: stacks of one, where the pass was stacked.
    pub(super) fn stacked(&self) -> &Vec<Option<Tensor>> {
        &self.values
    }

    /// The values kept, input first: in lanes on the CPU, stacks of one or plain on a GPU.
    pub fn values(&self) -> impl Iterator<Item = &Tensor> {
        self.values.iter().flatten()
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

impl NormStats {
    /// By channel.
    pub(super) fn moments(&self) -> Vec<Moments> {
        let pairs = self.mean.iter().zip(&self.variance);
        pairs.map(|(&mean, &variance)| Moments { mean, variance }).collect()
    }
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

    /// All numbers, layer by layer: means, then variances.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        self.layers.iter().flat_map(|layer| layer.mean.iter().chain(&layer.variance)).copied().collect()
    }

    /// Takes back what [`RunningStats::values`] gave.
    pub fn restore(&mut self, values: &[f64]) {
        let mut values = values.iter();
        for layer in &mut self.layers {
            for (to, from) in layer.mean.iter_mut().chain(&mut layer.variance).zip(&mut values) {
                *to = *from;
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
    specs: Vec<crate::params::ParamSpec>,
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
        let params = first..self.specs.len();
        self.nodes.push(Node { name, layer: Box::new(layer), inputs, params });
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
        let steps = fuse(&self.nodes);
        let mut last_reader = vec![None; self.nodes.len() + 1];
        for (idx, step) in steps.iter().enumerate() {
            step.inputs.iter().for_each(|&value| last_reader[value] = Some(idx));
        }
        Network {
            nodes: self.nodes,
            steps,
            last_reader,
            layout: Arc::new(Layout::new(self.specs)),
            shapes: self.shapes,
            norm_channels: self.norm_channels,
        }
    }
}

/// Steps of a list of layers: batch norms take over the ReLU, or the addition and the ReLU, that alone
/// read their output.
fn fuse(nodes: &[Node]) -> Vec<Step> {
    let only_reader = |node: usize, role: Role| {
        let mut readers = (0..nodes.len()).filter(|&reader| nodes[reader].inputs.contains(&(node + 1)));
        let reader = readers.next()?;
        (readers.next().is_none() && nodes[reader].layer.role() == role).then_some(reader)
    };
    let mut is_taken = vec![false; nodes.len()];
    let mut steps = Vec::new();
    for (idx, node) in nodes.iter().enumerate() {
        if is_taken[idx] {
            continue;
        }
        let mut step =
            Step { node: idx, inputs: node.inputs.clone(), output: idx + 1, epilogue: Epilogue::None };
        if node.layer.role() == Role::Norm {
            if let Some(relu) = only_reader(idx, Role::Relu) {
                step.epilogue = Epilogue::Relu;
                step.output = relu + 1;
                is_taken[relu] = true;
            } else if let Some(add) = only_reader(idx, Role::Add).filter(|&add| !is_taken[add])
                && let Some(relu) = only_reader(add, Role::Relu)
                // What is added to itself has no other term.
                && let Some(&other) = nodes[add].inputs.iter().find(|&&value| value != idx + 1)
            {
                step.inputs.push(other);
                step.epilogue = Epilogue::AddRelu;
                step.output = relu + 1;
                is_taken[add] = true;
                is_taken[relu] = true;
            }
        }
        steps.push(step);
    }
    // An addition that was taken over needs its other term first.
    steps.sort_by_key(|step| step.output);
    steps
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

    /// The same as stacks with one member, (1, …).
    pub(super) fn stacked_tensors(
        &self,
        params: &[f64],
        dtype: DType,
        device: &Device,
    ) -> Result<Vec<Tensor>> {
        let tensors = self.tensors(params, dtype, device)?;
        Ok(tensors.iter().map(stacked::alone).collect::<candle_core::Result<_>>()?)
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

    /// How operations on `images` run.
    fn schedule(context: &Context, images: &Tensor) -> Result<Schedule> {
        let isa = Isa::current();
        let n_images = images.dim(0)?;
        let blocks = match images.dtype() {
            DType::F64 => Blocks::new::<f64>(isa, n_images),
            _ => Blocks::new::<f32>(isa, n_images),
        };
        // Who asks for double precision asks for digits, not for speed.
        let is_exact = images.dtype() == DType::F64;
        Ok(Schedule { isa, blocks, split: context.split, is_exact })
    }

    fn run_step<'v>(
        &self,
        idx: usize,
        context: &Context,
        schedule: Schedule,
        params: &[Tensor],
        value: impl Fn(usize) -> &'v Tensor,
    ) -> Result<Tensor> {
        let step = &self.steps[idx];
        let inputs: Vec<&Tensor> = step.inputs.iter().map(|&input| value(input)).collect();
        let pass = Pass { mode: context.mode, schedule: Some(schedule), epilogue: step.epilogue };
        let node = &self.nodes[step.node];
        Ok(node.layer.forward(&pass, &params[node.params.clone()], &inputs)?)
    }

    /// Logits (B, classes) of `images` (B, C, H, W).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward(&self, context: &Context, params: &[Tensor], images: &Tensor) -> Result<Tensor> {
        match (images.device().is_cpu(), images.dtype()) {
            (true, DType::F32) => stream::forward::<f32>(self, context, params, images),
            (true, DType::F64) => stream::forward::<f64>(self, context, params, images),
            _ => Ok(self.forward_stacked(context, params, images, |_| false)?.logits),
        }
    }

    /// As [`Network::forward`] on the CPU; `visit` sees every value with its number, the input's being 0, before
    /// it is dropped. `is_exact` as in [`Schedule`].
    pub(super) fn forward_visit(
        &self,
        context: &Context,
        params: &[Tensor],
        images: &Tensor,
        is_exact: bool,
        visit: &mut dyn FnMut(Schedule, usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let schedule = Self::schedule(context, images)?;
        let schedule = Schedule { is_exact: is_exact || schedule.is_exact, ..schedule };
        let mut values: Vec<Option<Tensor>> = vec![None; self.nodes.len() + 1];
        let input = ops::to_lanes(images, schedule.blocks)?;
        visit(schedule, 0, &input)?;
        values[0] = Some(input);
        for (idx, step) in self.steps.iter().enumerate() {
            let read = |value: usize| values[value].as_ref().expect("kept until its last use");
            let output = self.run_step(idx, context, schedule, params, read)?;
            visit(schedule, step.output, &output)?;
            values[step.output] = Some(output);
            self.drop_unused(idx, &mut values);
        }
        let last = values.pop().flatten().expect("the last step's value is never dropped");
        Ok(ops::to_rows(&last, schedule.blocks)?)
    }

    fn drop_unused(&self, idx: usize, values: &mut [Option<Tensor>]) {
        for &value in &self.steps[idx].inputs {
            if self.last_reader[value] == Some(idx) {
                values[value] = None;
            }
        }
    }

    /// A pass as a stack of one, for GPUs; keeps the values that `keep` asks for.
    pub(super) fn forward_stacked(
        &self,
        context: &Context,
        params: &[Tensor],
        images: &Tensor,
        keep: impl Fn(usize) -> bool,
    ) -> Result<Activations> {
        let params: Vec<Tensor> = params.iter().map(stacked::alone).collect::<candle_core::Result<_>>()?;
        let values = stacked::values(self, context.mode, &params, images, keep)?;
        let last = values.last().and_then(Option::as_ref);
        let logits = stacked::rows(last.expect("the last step's value is never dropped"))?;
        Ok(Activations { values, logits, kind: Kind::Stacked, n_images: images.dim(0)? })
    }

    /// A pass through candle's own operations, which its autograd follows on any device.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub(crate) fn forward_tracked(
        &self,
        mode: Mode,
        params: &[Tensor],
        images: &Tensor,
    ) -> Result<Activations> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.nodes.len() + 1];
        values[0] = Some(images.clone());
        for step in &self.steps {
            let node = &self.nodes[step.node];
            let inputs: Vec<&Tensor> =
                step.inputs.iter().filter_map(|&value| values[value].as_ref()).collect();
            let pass = Pass { mode, schedule: None, epilogue: step.epilogue };
            values[step.output] = Some(node.layer.forward(&pass, &params[node.params.clone()], &inputs)?);
        }
        let logits = values.last().cloned().flatten().expect("a network has an output");
        Ok(Activations { values, logits, kind: Kind::Plain, n_images: images.dim(0)? })
    }

    /// All values of a forward pass on `images` (B, C, H, W).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward_all(&self, context: &Context, params: &[Tensor], images: &Tensor) -> Result<Activations> {
        if !images.device().is_cpu() {
            return self.forward_stacked(context, params, images, |_| true);
        }
        let mut values: Vec<Option<Tensor>> = vec![None; self.nodes.len() + 1];
        let logits = self.forward_visit(context, params, images, false, &mut |_, value, tensor| {
            values[value] = Some(tensor.clone());
            Ok(())
        })?;
        let kind = Kind::Lanes(Self::schedule(context, images)?);
        Ok(Activations { values, logits, kind, n_images: images.dim(0)? })
    }

    /// Logits when only the parameters of node `node_idx` differ from those that gave `base`: the
    /// paper's feature reuse, at layer granularity. What does not depend on that node is not computed
    /// again.
    ///
    /// # Errors
    /// If `base` is not of [`Network::forward_all`] on the CPU, or shapes do not fit.
    pub fn forward_from(
        &self,
        node_idx: usize,
        context: &Context,
        params: &[Tensor],
        base: &Activations,
    ) -> Result<Tensor> {
        let changed = self.changed_from(node_idx);
        let Kind::Lanes(schedule) = base.kind else {
            return Err(Error::Objective("activations of a GPU serve stacked points only".to_owned()));
        };
        let schedule = Schedule { split: context.split, ..schedule };
        let mut values: Vec<Option<Tensor>> = vec![None; self.nodes.len() + 1];
        for (idx, step) in self.steps.iter().enumerate().filter(|(_, step)| changed[step.output - 1]) {
            let read = |value: usize| {
                values[value].as_ref().or(base.values[value].as_ref()).expect("kept or computed again")
            };
            let output = self.run_step(idx, context, schedule, params, read)?;
            values[step.output] = Some(output);
            self.drop_unused(idx, &mut values);
        }
        let last = values.pop().flatten().expect("the output depends on every node");
        Ok(ops::to_rows(&last, schedule.blocks)?)
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
        let schedule = match activations.kind {
            Kind::Lanes(schedule) => Schedule { split: Split::Threads, ..schedule },
            Kind::Stacked => {
                let moments = stacked::moments(self, &activations.values)?;
                return self.device_stats(activations.n_images, &moments);
            }
            Kind::Plain => {
                let alone = |value: &Option<Tensor>| {
                    value.as_ref().map(|value| stacked::alone(&value.detach())).transpose()
                };
                let values = activations.values.iter().map(alone).collect::<candle_core::Result<Vec<_>>>()?;
                return self.device_stats(activations.n_images, &stacked::moments(self, &values)?);
            }
        };
        let mut moments = vec![None; activations.values.len()];
        for node in self.nodes.iter().filter(|node| node.layer.norm_idx().is_some()) {
            let Some(input) = &activations.values[node.inputs[0]] else { continue };
            moments[node.inputs[0]] = Some(ops::norm::moments(schedule, input)?);
        }
        Ok(self.batch_stats(schedule.blocks.images, &moments))
    }

    /// The same from moments (C, 2) by value, on a device.
    pub(super) fn device_stats(&self, n_images: usize, moments: &[Option<Tensor>]) -> Result<BatchStats> {
        let of = |moments: &Tensor| -> candle_core::Result<Vec<Moments>> {
            let rows = moments.to_vec2::<f64>()?;
            Ok(rows.iter().map(|row| Moments { mean: row[0], variance: row[1] }).collect())
        };
        let moments = moments.iter().map(|moments| moments.as_ref().map(of).transpose());
        Ok(self.batch_stats(n_images, &moments.collect::<candle_core::Result<Vec<_>>>()?))
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

    /// By step: the number of train-mode batch norms in a row that its output depends on. Within a stage
    /// a block of images needs nothing of the others.
    pub(super) fn stages(&self, mode: Mode) -> Vec<usize> {
        let mut of_value = vec![0; self.nodes.len() + 1];
        let mut stages = Vec::new();
        for step in &self.steps {
            let is_coupled = self.layer(step.node).role() == Role::Norm && matches!(mode, Mode::Train);
            let first = of_value[step.inputs[0]] + usize::from(is_coupled);
            let stage = step.inputs[1..].iter().fold(first, |stage, &value| stage.max(of_value[value]));
            of_value[step.output] = stage;
            stages.push(stage);
        }
        stages
    }

    /// What runs, in order.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The step that owns a parameter tensor.
    ///
    /// # Panics
    /// If none does.
    pub(super) fn step_of(&self, param_idx: usize) -> usize {
        let owns = |step: &Step| self.params_of(step.node).contains(&param_idx);
        self.steps.iter().position(owns).expect("every parameter has an owner")
    }

    /// The last step that reads a value.
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
