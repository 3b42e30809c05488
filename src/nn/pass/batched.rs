//! Passes of many points of the parameter space at once, from the images or from stored values on: how networks run on
//! GPUs.
//!
//! A stack leads every activation: (P, B, C, H, W), or (1, …) for what all members share, features being (P, B, F, 1,
//! 1). Where the other passes and [`crate::nn::difference`] take one point and one probe through the cache of a core,
//! a layer here is one operation on the whole stack, and only losses leave the device. Everything runs on the CPU
//! too, by the definitions of [`crate::kernels::batched`]: slowly, for tests.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::kernels::batched;
use crate::nn::activations::{Activations, Kind};
use crate::nn::form::{Context, LayerPass, Mode};
use crate::nn::graph::Network;
use crate::nn::loss::{Loss, Targets};

/// Values of a pass, by number of the value (see [`Network`]); a value may be dropped after its last use.
pub(in crate::nn) type Values = Vec<Option<Tensor>>;

/// A stack with one member: (1, …).
pub(in crate::nn) fn alone(tensor: &Tensor) -> Result<Tensor> {
    tensor.unsqueeze(0)
}

/// Output of one fused layer of the network for its inputs (P or 1, …) and `params` (P or 1, …), all in declared order.
fn run_one(
    network: &Network,
    idx: usize,
    mode: Mode,
    params: &[Tensor],
    inputs: &[&Tensor],
) -> Result<Tensor> {
    let fused = &network.fused()[idx];
    let pass = LayerPass { mode, epilogue: fused.epilogue, moments: None };
    network.layer(fused.node).forward_batched(&pass, &params[network.params_of(fused.node)], inputs)
}

/// All values that a pass of `images` (B, C, H, W) at one point keeps, `params` (1, …): those that `keep` asks for;
/// and the last one, the logits (1, B, classes, 1, 1).
pub(in crate::nn) fn values(
    network: &Network,
    mode: Mode,
    params: &[Tensor],
    images: &Tensor,
    keep: impl Fn(usize) -> bool,
) -> Result<Values> {
    let mut values: Values = vec![None; network.n_nodes() + 1];
    values[0] = Some(alone(images)?);
    run(network, 0, mode, params, &mut values, keep)?;
    Ok(values)
}

/// Logits (P, B, classes, 1, 1) from fused layer `start` on, with what it and later ones read of earlier ones in
/// `base`.
pub(in crate::nn) fn logits_from(
    network: &Network,
    start: usize,
    mode: Mode,
    params: &[Tensor],
    base: &Values,
) -> Result<Tensor> {
    let mut values = base.clone();
    // What is computed again must not be read before.
    for idx in changed_by(network, start) {
        values[network.fused()[idx].output] = None;
    }
    run(network, start, mode, params, &mut values, |_| false)?;
    match values.pop() {
        Some(Some(logits)) => Ok(logits),
        _ => candle_core::bail!("a network without an output"),
    }
}

/// Fused layers whose outputs depend on the parameters of fused layer `start`, in order.
pub(in crate::nn) fn changed_by(network: &Network, start: usize) -> Vec<usize> {
    let mut is_changed = vec![false; network.n_nodes() + 1];
    let mut changed = Vec::new();
    for (idx, fused) in network.fused().iter().enumerate().skip(start) {
        if idx == start || fused.inputs.iter().any(|&value| is_changed[value]) {
            is_changed[fused.output] = true;
            changed.push(idx);
        }
    }
    changed
}

/// Computes the values that are missing from fused layer `start` on; drops those of no more use, unless `keep` asks for
/// them.
fn run(
    network: &Network,
    start: usize,
    mode: Mode,
    params: &[Tensor],
    values: &mut Values,
    keep: impl Fn(usize) -> bool,
) -> Result<()> {
    for (idx, at) in network.fused().iter().enumerate().skip(start) {
        if values[at.output].is_some() {
            continue;
        }
        let inputs = at.inputs.iter().map(|&value| match &values[value] {
            Some(value) => Ok(value),
            None => candle_core::bail!("value {value} is needed after it was dropped"),
        });
        let output = run_one(network, idx, mode, params, &inputs.collect::<Result<Vec<_>>>()?)?;
        values[at.output] = Some(output);
        for &value in &at.inputs {
            if network.last_reader(value) == Some(idx) && !keep(value) {
                values[value] = None;
            }
        }
    }
    Ok(())
}

/// Numbers per image that are alive at the same time at most while `fused` run, if `size` says how many each value
/// has; values that others produced do not count.
pub(in crate::nn) fn peak_numbers(
    network: &Network,
    fused: &[usize],
    size: impl Fn(usize) -> usize,
) -> usize {
    let mut alive: Vec<usize> = Vec::new();
    let mut peak = 0;
    for &idx in fused {
        alive.push(network.fused()[idx].output);
        peak = peak.max(alive.iter().map(|&value| size(value)).sum());
        alive.retain(|&value| network.last_reader(value) > Some(idx) || network.last_reader(value).is_none());
    }
    peak
}

/// Logits (1, B, classes, 1, 1) as (B, classes).
pub(in crate::nn) fn rows(logits: &Tensor) -> Result<Tensor> {
    logits.squeeze(0)?.flatten_from(1)
}

/// Members of a stack that `memory` bytes hold, if each takes `numbers` of `dtype`; at least one.
pub(in crate::nn) fn members(memory: usize, numbers: usize, dtype: DType) -> usize {
    (memory / (numbers * dtype.size_in_bytes()).max(1)).clamp(1, MAX_MEMBERS)
}

/// A launch has at most 65,535 blocks along the axis of the stack.
const MAX_MEMBERS: usize = 65_535;

impl Network {
    /// As [`Network::tensors`], as stacks with one member, (1, …).
    pub(in crate::nn) fn batched_tensors(
        &self,
        params: &[f64],
        dtype: DType,
        device: &Device,
    ) -> crate::Result<Vec<Tensor>> {
        let tensors = self.tensors(params, dtype, device)?;
        Ok(tensors.iter().map(alone).collect::<candle_core::Result<_>>()?)
    }

    /// A pass as a stack of one, for GPUs; keeps the values that `keep` asks for.
    pub(in crate::nn) fn forward_batched(
        &self,
        context: &Context,
        params: &[Tensor],
        images: &Tensor,
        keep: impl Fn(usize) -> bool,
    ) -> crate::Result<Activations> {
        let params: Vec<Tensor> = params.iter().map(alone).collect::<candle_core::Result<_>>()?;
        let values = values(self, context.mode, &params, images, keep)?;
        let last = values.last().and_then(Option::as_ref);
        let logits = rows(last.expect("the last layer's value is never dropped"))?;
        Ok(Activations { values, moments: Vec::new(), logits, kind: Kind::Batched, n_images: images.dim(0)? })
    }
}

/// A batch on a device, and what batched points may occupy of its memory.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The network.
    pub network: &'a Network,
    /// Images (B, C, H, W).
    pub images: &'a Tensor,
    /// What the outputs are worth.
    pub loss: Loss,
    /// What they are held to.
    pub targets: Targets<'a>,
    /// Bytes that activations and parameters of a stack occupy at most; one point at a time always runs.
    pub memory: usize,
}

impl Batch<'_> {
    /// Mean loss, with batch statistics, at each of `n` points; `fill(idx, point)` writes point number `idx` (d). Points
    /// pass through the network together, as many as memory holds; the bits do not depend on how many.
    ///
    /// # Errors
    /// If sizes do not fit or the device fails.
    pub fn losses(&self, n: usize, fill: impl Fn(usize, &mut [f64]) + Sync) -> crate::Result<Vec<f64>> {
        let network = self.network;
        let layout = network.layout();
        let all: Vec<usize> = (0..network.fused().len()).collect();
        let per_image = peak_numbers(network, &all, |value| network.shape(value).iter().product());
        let numbers = per_image * self.images.dim(0)? + layout.n_coords();
        let mut base: Values = vec![None; network.n_nodes() + 1];
        base[0] = Some(alone(self.images)?);
        let mut losses = Vec::with_capacity(n);
        let together = members(self.memory, numbers, self.images.dtype());
        for first in (0..n).step_by(together) {
            let n = together.min(n - first);
            let mut points = vec![0.0; n * layout.n_coords()];
            let write = |(idx, point): (usize, &mut [f64])| {
                fill(first + idx, point);
                self.loss.scale(layout, point).map_or(1.0, |scale| scale.value())
            };
            let scales: Vec<f64> =
                points.par_chunks_exact_mut(layout.n_coords()).enumerate().map(write).collect();
            let tensor = |param_idx: usize| {
                let range = layout.range(param_idx);
                let rows = points.chunks_exact(layout.n_coords());
                let values: Vec<f64> = rows.flat_map(|row| &row[range.clone()]).copied().collect();
                self.stack(param_idx, values)
            };
            let params = (0..layout.specs().len()).map(tensor).collect::<Result<Vec<_>>>()?;
            let logits = logits_from(network, 0, Mode::Train, &params, &base)?;
            losses.extend(self.values(&logits, &scales)?);
        }
        Ok(losses)
    }

    /// The same at `params` (d) with a shift added to one coordinate, for every (coordinate, shift), from the layer
    /// that owns the coordinate on; `base` holds all values at `params`.
    ///
    /// # Errors
    /// If sizes do not fit or the device fails.
    pub fn losses_from(
        &self,
        base: &Activations,
        params: &[f64],
        probes: &[(usize, f64)],
    ) -> crate::Result<Vec<f64>> {
        let network = self.network;
        let layout = network.layout();
        let shared = network.batched_tensors(params, self.images.dtype(), self.images.device())?;
        let scale = self.loss.scale(layout, params);
        let mut order: Vec<(usize, usize)> =
            probes.iter().enumerate().map(|(idx, &(coord, _))| (layout.param_of(coord), idx)).collect();
        order.sort_unstable();
        let mut losses = vec![0.0; probes.len()];
        for same in order.chunk_by(|a, b| a.0 == b.0) {
            let param_idx = same[0].0;
            let start = network.fused_of(param_idx);
            let fused = changed_by(network, start);
            let per_image = peak_numbers(network, &fused, |value| network.shape(value).iter().product());
            let own = &params[layout.range(param_idx)];
            let numbers = per_image * self.images.dim(0)? + own.len();
            for chunk in same.chunks(members(self.memory, numbers, self.images.dtype())) {
                let mut values = Vec::with_capacity(chunk.len() * own.len());
                for &(_, idx) in chunk {
                    let (coord, shift) = probes[idx];
                    let first = values.len();
                    values.extend_from_slice(own);
                    values[first + coord - layout.range(param_idx).start] += shift;
                }
                let mut tensors = shared.clone();
                tensors[param_idx] = self.stack(param_idx, values)?;
                let logits = logits_from(network, start, Mode::Train, &tensors, base.batched())?;
                let after = |&(_, idx): &(usize, usize)| {
                    let (coord, shift) = probes[idx];
                    scale.as_ref().map_or(1.0, |scale| scale.after(coord, shift))
                };
                let found = self.values(&logits, &chunk.iter().map(after).collect::<Vec<_>>())?;
                chunk.iter().zip(found).for_each(|(&(_, idx), loss)| losses[idx] = loss);
            }
        }
        Ok(losses)
    }

    /// Parameter tensor number `param_idx` of several points (P, …), from all its values.
    fn stack(&self, param_idx: usize, values: Vec<f64>) -> Result<Tensor> {
        let spec = &self.network.layout().specs()[param_idx];
        let dims = [&[values.len() / spec.len()], spec.shape.as_slice()].concat();
        match self.images.dtype() {
            DType::F64 => Tensor::from_vec(values, dims, self.images.device()),
            _ => {
                let rounded: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
                Tensor::from_vec(rounded, dims, self.images.device())
            }
        }
    }

    /// Losses (P) of outputs (P, B, …), the factors `scales` (P) of the logits known.
    fn values(&self, outputs: &Tensor, scales: &[f64]) -> crate::Result<Vec<f64>> {
        let device = outputs.device();
        let losses = if self.loss == Loss::SquaredError {
            let n: usize = outputs.dims()[2..].iter().product();
            let targets = Tensor::from_vec(self.targets.values(n)?.concat(), (outputs.dim(1)?, n), device)?;
            batched::squared_error(outputs, &targets)?
        } else {
            let labels = self.targets.labels()?;
            let labels = Tensor::from_slice(labels, labels.len(), device)?;
            let scales = Tensor::from_slice(scales, scales.len(), device)?;
            batched::cross_entropy(outputs, &labels, Some(&scales))?
        };
        Ok(losses.to_vec1()?)
    }
}
