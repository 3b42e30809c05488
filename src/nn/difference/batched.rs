//! Propagated differences of batched probes.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::options::Options;
use super::owners::{Head, Owners};
use crate::kernels::batched::Change;
use crate::nn::form::{BatchedRule, BatchedSetup, Mode, Support};
use crate::nn::graph::{Fused, Network};
use crate::nn::loss::{BatchedChange, Targets};
use crate::nn::pass::batched::{self as forward, Values};
use crate::nn::pass::statistics;
use crate::{Error, Result};

/// A network at one base point and batch, ready to propagate differences of batched probes.
#[derive(Debug)]
pub(super) struct Engine {
    memory: usize,
    base: Values,
    fused: Vec<Fused>,
    rules: Vec<Box<dyn BatchedRule>>,
    /// One per fused layer that owns parameters.
    paths: Vec<Option<BatchedPath>>,
    owners: Owners,
    /// By value: the last fused layer that reads it.
    last_reader: Vec<Option<usize>>,
    loss: BatchedChange,
    device: Device,
    dtype: DType,
    n_images: usize,
}

/// What a change of one fused layer's parameters runs through.
#[derive(Debug)]
struct BatchedPath {
    /// Fused layers, in order; the first is where it starts.
    fused: Vec<usize>,
    /// By value: channels that change, counted from that of the seed.
    supports: Vec<Support>,
    /// Most numbers per image at a time.
    live: usize,
    /// Multiplications and additions per image.
    flops: u64,
}

impl BatchedPath {
    fn new(network: &Network, rules: &[Box<dyn BatchedRule>], start: usize) -> Self {
        let mut supports = vec![Support::None; network.n_nodes() + 1];
        let fused = forward::changed_by(network, start);
        let mut flops = 0;
        for &idx in &fused {
            let one = &network.fused()[idx];
            let inputs: Vec<Support> = one.inputs.iter().map(|&value| supports[value]).collect();
            supports[one.output] = if idx == start {
                Support::one(0)
            } else {
                flops += rules[idx].flops(&inputs);
                rules[idx].support(&inputs)
            };
        }
        let size = |value: usize| {
            let [channels, height, width] = network.shape(value);
            supports[value].planes(channels) * height * width
        };
        let live = forward::peak_numbers(network, &fused, size);
        Self { fused, supports, live, flops }
    }
}

impl Engine {
    /// As [`crate::nn::Propagator::with`], where the images are.
    pub(super) fn new(
        network: &Network,
        params: &[f64],
        images: &Tensor,
        targets: Targets,
        mode: Mode,
        options: Options,
    ) -> Result<(Head, Self)> {
        let forms = network.require("difference rule for batched probes", |forms| forms.batched_rule)?;
        let device = images.device();
        let n_images = targets.n_images(images)?;
        let all = network.fused().to_vec();
        let tensors = network.batched_tensors(params, images.dtype(), device)?;
        let mut is_kept = vec![false; network.n_nodes() + 1];
        for fused in all.iter().filter(|fused| network.layer(fused.node).reads_base()) {
            fused.inputs.iter().for_each(|&value| is_kept[value] = true);
        }
        let base = forward::values(network, mode, &tensors, images, |value| is_kept[value])?;
        let moments = statistics::moments(network, &base)?;
        let logits = forward::rows(base.last().and_then(Option::as_ref).ok_or_else(no_output)?)?;
        let loss = options.loss.at(network.layout(), params, &logits, targets)?;
        let base_loss = loss.value;
        let rules = all
            .iter()
            .zip(forms)
            .map(|(fused, form)| {
                let own = network.params_of(fused.node);
                let values: Vec<&[f64]> =
                    own.clone().map(|idx| &params[network.layout().range(idx)]).collect();
                let shapes: Vec<_> = fused.inputs.iter().map(|&value| network.shape(value)).collect();
                let inputs: Vec<_> = fused.inputs.iter().map(|&value| base[value].clone()).collect();
                let setup = BatchedSetup {
                    mode,
                    inputs: &inputs,
                    shapes: &shapes,
                    params: &tensors[own],
                    values: &values,
                    moments: moments[fused.inputs[0]].as_ref(),
                    epilogue: fused.epilogue,
                    rounding: options.rounding,
                };
                form.batched_rule(&setup)
            })
            .collect::<Result<Vec<_>>>()?;
        let path = |idx: usize| {
            let has_params = !network.params_of(all[idx].node).is_empty();
            has_params.then(|| BatchedPath::new(network, &rules, idx))
        };
        let stats = network.device_stats(n_images, &moments)?;
        let engine = Self {
            memory: options.memory,
            paths: (0..all.len()).map(path).collect(),
            owners: Owners::new(network),
            last_reader: (0..=network.n_nodes()).map(|value| network.last_reader(value)).collect(),
            loss: loss.batched(device)?,
            device: device.clone(),
            dtype: images.dtype(),
            base,
            fused: all,
            rules,
            n_images,
        };
        Ok(((base_loss, logits, stats), engine))
    }

    pub(super) fn base_bytes(&self) -> usize {
        self.base.iter().flatten().map(|value| value.elem_count() * self.dtype.size_in_bytes()).sum()
    }

    pub(super) fn flops_of(&self, coord: usize) -> u64 {
        self.path(self.owners.of(coord).0).flops
    }

    fn path(&self, fused_idx: usize) -> &BatchedPath {
        self.paths[fused_idx].as_ref().expect("a fused layer with coordinates has a path")
    }

    /// As [`crate::nn::Propagator::differences`]. The bits do not depend on how probes are batched.
    pub(super) fn differences(&self, probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        let mut seeds: Vec<(usize, usize, usize)> = probes
            .iter()
            .enumerate()
            .map(|(idx, &(coord, _))| {
                let (fused_idx, own) = self.owners.of(coord);
                (fused_idx, own, idx)
            })
            .collect();
        seeds.sort_unstable();
        let mut results = vec![0.0; probes.len()];
        for same in seeds.chunk_by(|a, b| a.0 == b.0) {
            let path = self.path(same[0].0);
            for chunk in same.chunks(forward::members(self.memory, path.live * self.n_images, self.dtype)) {
                let shifts: Vec<(usize, f64)> =
                    chunk.iter().map(|&(_, own, idx)| (own, probes[idx].1)).collect();
                let outputs = self.run(path, &shifts)?;
                let moves = chunk.iter().map(|&(_, _, idx)| probes[idx]);
                let found = self.loss.of(&outputs, moves)?.to_vec1::<f64>()?;
                for (&(_, _, idx), found) in chunk.iter().zip(found) {
                    results[idx] = if found.is_finite() { found } else { f64::NAN };
                }
            }
        }
        Ok(results)
    }

    /// Changes of the outputs that shifts (own coordinate, length) of one layer's parameters make.
    fn run(&self, path: &BatchedPath, seeds: &[(usize, f64)]) -> Result<Change> {
        let first = path.fused[0];
        let seeded: Vec<u32> =
            seeds.iter().map(|&(own, _)| self.rules[first].seed_channel(own) as u32).collect();
        // Few layers move the channel, so that there are few different lists.
        let mut lists: BTreeMap<usize, Tensor> = BTreeMap::new();
        let mut changes: Vec<Option<Change>> = self.base.iter().map(|_| None).collect();
        for &idx in &path.fused {
            let Fused { inputs, output, .. } = &self.fused[idx];
            let channels = match path.supports[*output] {
                // Batched rules know one channel or all.
                Support::Channels { first: offset, .. } => Some(match lists.get(&offset) {
                    Some(list) => list.clone(),
                    None => {
                        let moved: Vec<u32> = seeded.iter().map(|channel| channel + offset as u32).collect();
                        let list = Tensor::from_slice(&moved, moved.len(), &self.device)?;
                        lists.insert(offset, list.clone());
                        list
                    }
                }),
                Support::None | Support::Dense => None,
            };
            let rule = &self.rules[idx];
            let data = match &channels {
                Some(channels) if idx == first => rule.seed(seeds, channels)?,
                _ => {
                    let inputs: Vec<_> = inputs.iter().map(|&value| changes[value].as_ref()).collect();
                    rule.apply(&inputs, channels.as_ref())?
                }
            };
            changes[*output] = Some(Change { data, channels });
            for &value in inputs {
                if self.last_reader[value] == Some(idx) {
                    changes[value] = None;
                }
            }
        }
        changes.pop().flatten().ok_or_else(no_output)
    }
}

fn no_output() -> Error {
    Error::Objective("a network without an output".to_owned())
}
