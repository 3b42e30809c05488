//! Running probes through their paths.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Storage, Tensor};

use super::options::Options;
use super::owners::{Head, Owners};
use super::program::ProbePath;
use crate::Result;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::{Blocks, Buffer, Pool, Scratch};
use crate::kernels::ops::norm;
use crate::kernels::{Element, Isa, Split};
use crate::nn::form::{
    Base, Context, Delta, Mode, Place, Propagate, PropagateBoth, Rule, RuleSetup, Support,
};
use crate::nn::graph::{Fused, Network};
use crate::nn::loss::{LaneChange, Targets};

/// Changes in flight per thread aim at this size: probes that run together share what they read of
/// the base, until their own changes no longer fit the cache.
const CACHE: usize = 8 << 20;
/// Most probes that run together.
const MAX_TOGETHER: usize = 16;

/// A network at one base point and batch, in lanes.
#[derive(Debug)]
pub(super) struct Engine<T> {
    memory: usize,
    blocks: Blocks,
    /// Values that rules read at the base point, images in lanes.
    base: Vec<Option<Tensor>>,
    fused: Vec<Fused>,
    rules: Vec<Box<dyn Rule<T>>>,
    /// Fused layers with a coupled rule that read the output of one.
    coupled_readers: Vec<Vec<usize>>,
    /// One per fused layer that owns parameters.
    paths: Vec<Option<ProbePath>>,
    /// Numbers per channel, and channels, of every value.
    planes: Vec<usize>,
    channels: Vec<usize>,
    owners: Owners,
    loss: LaneChange,
}

impl<T: Element> Engine<T>
where
    for<'f> dyn PropagateBoth + 'f: Propagate<T>,
{
    pub(super) fn new(
        network: &Network,
        params: &[f64],
        images: &Tensor,
        targets: Targets,
        mode: Mode,
        options: Options,
    ) -> Result<(Head, Self)> {
        let Options { memory, loss, rounding, .. } = options;
        let forms = network.require("difference rule", |forms| forms.rule)?;
        let isa = Isa::current();
        let n_images = targets.n_images(images)?;
        let blocks = Blocks::new::<T>(isa, n_images);
        let all = network.fused().to_vec();
        let is_norm = |fused: &Fused| network.layer(fused.node).norm().is_some();
        let reads = |fused: &Fused| {
            let n = if network.layer(fused.node).reads_base() { fused.inputs.len() } else { 0 };
            fused.inputs[..n].to_vec()
        };
        let kept: Vec<usize> = all.iter().flat_map(reads).collect();
        let mut base = vec![None; network.n_nodes() + 1];
        let mut moments: Vec<Option<Vec<Moments>>> = vec![None; network.n_nodes() + 1];
        let tensors = network.tensors(params, T::DTYPE, images.device())?;
        let context = Context { mode, split: Split::Threads };
        // All probes share the rounding of the base: it is worth a slower convolution.
        let logits =
            network.forward_visit(&context, &tensors, images, true, &mut |execution, value, tensor| {
                if kept.contains(&value) {
                    base[value] = Some(tensor.clone());
                }
                if all.iter().any(|fused| is_norm(fused) && fused.inputs[0] == value) {
                    moments[value] = Some(norm::moments(execution, tensor)?);
                }
                Ok(())
            })?;
        let loss = loss.at(network.layout(), params, &logits, targets)?;
        let base_loss = loss.value;
        let rules = all
            .iter()
            .zip(forms)
            .map(|(fused, form)| {
                let own = network.params_of(fused.node);
                let own: Vec<&[f64]> = own.map(|idx| &params[network.layout().range(idx)]).collect();
                let shapes: Vec<_> = fused.inputs.iter().map(|&value| network.shape(value)).collect();
                let setup = RuleSetup {
                    isa,
                    blocks,
                    mode,
                    inputs: &fused.inputs,
                    shapes: &shapes,
                    params: &own,
                    moments: moments[fused.inputs[0]].as_deref(),
                    epilogue: fused.epilogue,
                    rounding,
                };
                Propagate::<T>::rule(form, &setup)
            })
            .collect::<Result<Vec<Box<dyn Rule<T>>>>>()?;
        let stage_of = network.stages(mode);
        let mut paths = Vec::new();
        for (idx, fused) in all.iter().enumerate() {
            let own = network.params_of(fused.node);
            paths.push((!own.is_empty()).then(|| ProbePath::new(network, &stage_of, &rules, idx)));
        }
        let coupled_readers = all
            .iter()
            .map(|fused| {
                let reads =
                    |&idx: &usize| rules[idx].coupling().is_some() && all[idx].inputs[0] == fused.output;
                (0..all.len()).filter(reads).collect()
            })
            .collect();
        let shapes: Vec<_> = (0..=network.n_nodes()).map(|value| network.shape(value)).collect();
        let stats = network.batch_stats(n_images, &moments);
        let engine = Self {
            memory,
            blocks,
            base,
            fused: all,
            rules,
            coupled_readers,
            paths,
            planes: shapes.iter().map(|[_, height, width]| height * width).collect(),
            channels: shapes.iter().map(|shape| shape[0]).collect(),
            owners: Owners::new(network),
            loss: loss.in_lanes(isa, blocks),
        };
        Ok(((base_loss, logits, stats), engine))
    }
}

impl<T: Element> Engine<T> {
    pub(super) fn flops_of(&self, coord: usize) -> u64 {
        self.path(self.owners.of(coord).0).flops
    }

    fn path(&self, fused_idx: usize) -> &ProbePath {
        self.paths[fused_idx].as_ref().expect("a fused layer with coordinates has a path")
    }

    pub(super) fn base_bytes(&self) -> usize {
        self.base.iter().flatten().map(|value| value.elem_count() * size_of::<T>()).sum()
    }

    pub(super) fn differences(&self, probes: &[(usize, f64)]) -> Vec<f64> {
        let guards: Vec<_> =
            self.base.iter().map(|value| value.as_ref().map(Tensor::storage_and_layout)).collect();
        let values = guards.iter().map(|guard| match guard {
            Some((storage, layout)) => match &**storage {
                Storage::Cpu(storage) => {
                    T::slice(storage, layout).expect("made contiguous by our operations")
                }
                _ => unreachable!("the base is on the CPU"),
            },
            None => &[],
        });
        let base = Base { blocks: self.blocks, values: values.collect() };
        let mut seeds: Vec<Seed> = probes
            .iter()
            .enumerate()
            .map(|(idx, &(coord, shift))| {
                let scales = self.loss.scales(coord, shift);
                let (fused_idx, coord) = self.owners.of(coord);
                Seed { idx, fused_idx, coord, shift, scales }
            })
            .collect();
        // Probes of one layer run together, the long paths first, so that the threads end together.
        seeds.sort_by_key(|seed| seed.fused_idx);
        let n_threads = rayon::current_num_threads();
        let mut chunks: Vec<&[Seed]> = Vec::new();
        let mut n_workers = n_threads;
        for same in seeds.chunk_by(|a, b| a.fused_idx == b.fused_idx) {
            let bytes = self.bytes_of(self.path(same[0].fused_idx));
            n_workers = n_workers.min((self.memory / bytes).max(1));
            let together = (CACHE / bytes).min(self.memory / n_threads / bytes).clamp(1, MAX_TOGETHER);
            chunks.extend(same.chunks(together));
        }
        let n_images = self.blocks.images as f64;
        let next = AtomicUsize::new(0);
        let results = Mutex::new(vec![0.0; probes.len()]);
        rayon::broadcast(|thread| {
            if thread.index() >= n_workers {
                return;
            }
            let mut workspace = Workspace::default();
            workspace.scratch.resize_with(self.planes.len(), Buffer::default);
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.run(&base, chunk, &mut workspace);
                let mut results = results.lock().expect("no thread panics while it holds the lock");
                for (seed, state) in chunk.iter().zip(&workspace.states) {
                    results[seed.idx] = if state.is_broken || !state.loss.is_finite() {
                        f64::NAN
                    } else {
                        state.loss / n_images
                    };
                }
            }
        });
        results.into_inner().expect("no thread panics while it holds the lock")
    }

    /// Bytes that one probe's changes occupy on a path.
    fn bytes_of(&self, path: &ProbePath) -> usize {
        (path.live * self.blocks.count() * self.blocks.lanes * size_of::<T>()).max(1)
    }

    /// Runs probes of one fused layer; the loss changes stand in the workspace's states.
    fn run(&self, base: &Base<T>, seeds: &[Seed], workspace: &mut Workspace<T>) {
        let path = self.path(seeds[0].fused_idx);
        let Workspace { states, pool, scratch, conv } = workspace;
        states.resize_with(seeds.len().max(states.len()), State::default);
        let states = &mut states[..seeds.len()];
        for state in states.iter_mut() {
            state.reset(self.planes.len(), self.fused.len(), pool);
        }
        for (stage, fused) in path.stages.iter().enumerate() {
            for state in states.iter_mut() {
                self.couple(fused, state, pool);
            }
            for block in 0..self.blocks.count() {
                let place = Place { base, block };
                for (seed, state) in seeds.iter().zip(states.iter_mut()).filter(|(_, state)| !state.is_broken)
                {
                    for &fused_idx in fused {
                        self.run_fused(path, fused_idx, seed, place, state, pool, scratch, conv);
                    }
                }
            }
            for (value, last) in path.kept.iter().enumerate() {
                if *last == Some(stage) {
                    states.iter_mut().for_each(|state| pool.give(std::mem::take(&mut state.kept[value])));
                }
            }
        }
    }

    /// Turns the complete sums of the last stage into rules for this one.
    fn couple(&self, fused: &[usize], state: &mut State<T>, pool: &mut Pool<T>) {
        for &fused_idx in fused {
            let Some(coupling) = self.rules[fused_idx].coupling() else { continue };
            let affine = &mut state.affine[fused_idx];
            affine.clear();
            let sums = std::mem::take(&mut state.sums[fused_idx]);
            if sums.is_empty() {
                continue;
            }
            coupling.affine(state.supports[self.fused[fused_idx].inputs[0]], &sums, affine);
            let is_finite = |a: &Affine<T>| {
                (a.delta.wide() + a.pivot.wide() + a.base.wide() + a.constant.wide()).is_finite()
            };
            state.is_broken |= !affine.iter().all(is_finite);
            pool.give(sums);
        }
    }

    /// One fused layer of one probe on one block.
    #[expect(clippy::too_many_arguments, reason = "the parts of a workspace, borrowed apart")]
    fn run_fused(
        &self,
        path: &ProbePath,
        fused_idx: usize,
        seed: &Seed,
        place: Place<T>,
        state: &mut State<T>,
        pool: &mut Pool<T>,
        scratch: &mut [Buffer<T>],
        conv: &mut Scratch<T>,
    ) {
        let rule = &self.rules[fused_idx];
        let Fused { inputs, output, .. } = &self.fused[fused_idx];
        let (lanes, block) = (self.blocks.lanes, place.block);
        let support = if fused_idx == seed.fused_idx {
            Support::Channel(rule.seed_channel(seed.coord))
        } else {
            let mut supports = [Support::None; 2];
            inputs.iter().zip(&mut supports).for_each(|(&value, support)| *support = state.supports[value]);
            rule.support(&supports[..inputs.len()])
        };
        state.supports[*output] = support;
        let len = support.planes(self.channels[*output]) * self.planes[*output] * lanes;
        let is_kept = path.kept[*output].is_some();
        let mut whole = if is_kept {
            if block == 0 {
                pool.take(len * self.blocks.count())
            } else {
                std::mem::take(&mut state.kept[*output])
            }
        } else {
            std::mem::take(&mut scratch[*output])
        };
        let out = if is_kept { &mut whole[block * len..][..len] } else { whole.reserve(len) };
        if fused_idx == seed.fused_idx {
            rule.seed(place, seed.coord, seed.shift, out);
        } else {
            let delta_of = |value: usize| {
                let support = state.supports[value];
                let len = support.planes(self.channels[value]) * self.planes[value] * lanes;
                let data = match path.kept[value] {
                    _ if support == Support::None => &[],
                    Some(_) => &state.kept[value][block * len..][..len],
                    None => &scratch[value][..len],
                };
                Delta { support, data }
            };
            let mut deltas = [Delta::NONE; 2];
            inputs.iter().zip(&mut deltas).for_each(|(&value, delta)| *delta = delta_of(value));
            rule.apply(place, &deltas[..inputs.len()], &state.affine[fused_idx], out, conv);
        }
        for &reader in &self.coupled_readers[fused_idx] {
            let Some(coupling) = self.rules[reader].coupling() else { continue };
            let sums = &mut state.sums[reader];
            if sums.is_empty() {
                *sums =
                    pool.take(support.planes(self.channels[*output]) * coupling.sums_per_channel() * lanes);
                sums.fill(T::ZERO);
            }
            coupling.add_sums(place, Delta { support, data: out }, sums);
        }
        if fused_idx + 1 == self.fused.len() {
            let only = if let Support::Channel(channel) = support { Some(channel) } else { None };
            state.loss += self.loss.of_block(block, only, out, seed.scales);
        }
        if is_kept {
            state.kept[*output] = whole;
        } else {
            scratch[*output] = whole;
        }
    }
}

/// A probe: its number, the fused layer it starts in, the coordinate within it, the shift, and the scale of the
/// logits before and after it.
#[derive(Debug, Clone, Copy)]
struct Seed {
    idx: usize,
    fused_idx: usize,
    coord: usize,
    shift: f64,
    scales: Option<[f64; 2]>,
}

/// Changes of one probe.
#[derive(Debug)]
struct State<T> {
    /// By value.
    supports: Vec<Support>,
    /// Changes that outlive a stage, by value; block by block.
    kept: Vec<Buffer<T>>,
    /// By fused layer.
    sums: Vec<Buffer<T>>,
    affine: Vec<Vec<Affine<T>>>,
    loss: f64,
    /// A statistic became NaN or infinite.
    is_broken: bool,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            supports: Vec::new(),
            kept: Vec::new(),
            sums: Vec::new(),
            affine: Vec::new(),
            loss: 0.0,
            is_broken: false,
        }
    }
}

impl<T: Element> State<T> {
    fn reset(&mut self, n_values: usize, n_fused: usize, pool: &mut Pool<T>) {
        self.supports.clear();
        self.supports.resize(n_values, Support::None);
        // Only a broken probe leaves something behind.
        for buffer in self.kept.iter_mut().chain(&mut self.sums) {
            pool.give(std::mem::take(buffer));
        }
        self.kept.resize_with(n_values, Buffer::default);
        self.sums.resize_with(n_fused, Buffer::default);
        self.affine.resize_with(n_fused, Vec::new);
        self.affine.iter_mut().for_each(Vec::clear);
        self.loss = 0.0;
        self.is_broken = false;
    }
}

/// Memory of one thread, used again from probe to probe.
#[derive(Debug)]
struct Workspace<T> {
    states: Vec<State<T>>,
    pool: Pool<T>,
    /// Changes of one block, by value.
    scratch: Vec<Buffer<T>>,
    conv: Scratch<T>,
}

impl<T: Element> Default for Workspace<T> {
    fn default() -> Self {
        Self { states: Vec::new(), pool: Pool::default(), scratch: Vec::new(), conv: Scratch::default() }
    }
}
