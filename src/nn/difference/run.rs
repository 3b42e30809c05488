//! Running probes through their paths.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Storage, Tensor};

use super::options::Options;
use super::owners::{Head, Owners};
use super::program::{ProbePath, Second, Step};
use crate::Result;
use crate::kernels::lanes::conv::STRIP;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::{Blocks, Buffer, Pool, Scratch};
use crate::kernels::ops::norm;
use crate::kernels::ops::position_norm::position_moments;
use crate::kernels::{Element, Isa, Split};
use crate::nn::form::{
    Base, Context, Delta, Mode, Place, Propagate, PropagateBoth, Rows, Rule, RuleSetup, Support,
};
use crate::nn::graph::{Fused, Network};
use crate::nn::layer::Statistics;
use crate::nn::loss::{LaneChange, Targets};
use crate::nn::pass::kept::Seen;

/// Changes in flight per thread aim at this size: probes that run together share what they read of
/// the base, until their own changes no longer fit the cache.
const CACHE: usize = 8 << 20;
/// Changes of consecutive layers are computed in strips of rows of at least so many bytes.
const STRIP_BYTES: usize = 128 << 10;
/// Most probes that run together.
pub(crate) const MAX_TOGETHER: usize = 16;

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
    /// Numbers per channel, rows, and channels, of every value.
    planes: Vec<usize>,
    heights: Vec<usize>,
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
        let norm_of = |value: usize| {
            all.iter().filter(|fused| fused.inputs[0] == value).find_map(|fused| network.norm_of(fused))
        };
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
        let logits = network.forward_visit(&context, &tensors, images, true, &mut |seen| {
            let Seen { execution, value, tensor, moments: known } = seen;
            if kept.contains(&value) {
                base[value] = Some(tensor.clone());
            }
            if let Some(norm) = norm_of(value) {
                moments[value] = Some(match (known, norm.statistics) {
                    (Some(known), _) => known.to_vec(),
                    (None, Statistics::PerChannel) => norm::moments(execution, tensor)?,
                    (None, Statistics::PerPosition) => position_moments(execution, tensor)?,
                });
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
            heights: shapes.iter().map(|shape| shape[1]).collect(),
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
            let mut workspace = Workspace::new(self.planes.len());
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
        let Workspace { states, memory } = workspace;
        states.resize_with(seeds.len().max(states.len()), State::default);
        let states = &mut states[..seeds.len()];
        for state in states.iter_mut() {
            state.reset(self.planes.len(), self.fused.len(), &mut memory.pool);
        }
        for (stage, steps) in path.stages.iter().enumerate() {
            for state in states.iter_mut() {
                self.couple(steps, state, &mut memory.pool);
            }
            // There and back, stage by stage: what was written last is still in the cache when it is read.
            let n_blocks = self.blocks.count();
            for turn in 0..n_blocks {
                let block = if stage % 2 == 0 { turn } else { n_blocks - 1 - turn };
                for (seed, state) in seeds.iter().zip(states.iter_mut()).filter(|(_, state)| !state.is_broken)
                {
                    let is_first_block = turn == 0;
                    let mut probe = Probe { base, path, seed, block, is_first_block, state, memory };
                    steps.iter().for_each(|&step| self.run_step(step, &mut probe));
                }
            }
            for (value, last) in path.kept.iter().enumerate() {
                if *last == Some(stage) {
                    let kept = states.iter_mut().map(|state| std::mem::take(&mut state.kept[value]));
                    kept.for_each(|buffer| memory.pool.give(buffer));
                }
            }
        }
    }

    /// Turns the complete sums of the last stage into rules for this one.
    fn couple(&self, steps: &[Step], state: &mut State<T>, pool: &mut Pool<T>) {
        let layers = steps.iter().flat_map(|step| [Some(step.first), step.second.map(Second::idx)]);
        for fused_idx in layers.flatten() {
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

    /// One step of one probe on one block.
    fn run_step(&self, step: Step, probe: &mut Probe<T>) {
        if let Some(Second::Pooled(second)) = step.second {
            probe.state.supports[self.fused[step.first].output] = self.support(step.first, probe);
            let mut pooled = self.begin(second, probe);
            let rows = Rows::all(pooled.height);
            self.run_rows(&mut pooled, Source::Pooled(step.first), rows, probe);
            self.end(pooled, probe);
            return;
        }
        let mut first = self.begin(step.first, probe);
        let Some(Second::ByRows(second)) = step.second else {
            let is_seed = step.first == probe.seed.fused_idx;
            let has_rows = !is_seed && self.rules[step.first].has_rows();
            let is_read = !self.coupled_readers[step.first].is_empty();
            // Strips are for their sums, which find them in the cache.
            let strip = if has_rows && is_read { first.strip() } else { first.height };
            for rows in strips(first.height, strip) {
                self.run_rows(&mut first, Source::Stored, rows, probe);
            }
            self.end(first, probe);
            return;
        };
        let mut second = self.begin(second, probe);
        let mut done = 0;
        for rows in strips(second.height, first.strip().min(second.strip())) {
            let read = self.rules[second.fused_idx].rows_read(rows).unwrap_or(Rows::all(first.height));
            if done < read.end {
                self.run_rows(&mut first, Source::Stored, Rows { start: done, end: read.end }, probe);
                done = read.end;
            }
            self.run_rows(&mut second, Source::UnderWay(&first), rows, probe);
        }
        let rest = Rows { start: done, end: first.height };
        if rest.start < rest.end {
            self.run_rows(&mut first, Source::Stored, rest, probe);
        }
        self.end(first, probe);
        self.end(second, probe);
    }

    /// Which channels of a layer's output change.
    fn support(&self, fused_idx: usize, probe: &Probe<T>) -> Support {
        let (rule, seed) = (&self.rules[fused_idx], probe.seed);
        if fused_idx == seed.fused_idx {
            return Support::one(rule.seed_channel(seed.coord));
        }
        let inputs = &self.fused[fused_idx].inputs;
        let mut supports = [Support::None; 2];
        inputs.iter().zip(&mut supports).for_each(|(&value, support)| *support = probe.state.supports[value]);
        rule.support(&supports[..inputs.len()])
    }

    /// Support of a layer's change, and a place for it.
    fn begin(&self, fused_idx: usize, probe: &mut Probe<T>) -> Change<T> {
        let support = self.support(fused_idx, probe);
        let Probe { path, state, memory, block, is_first_block, .. } = probe;
        let output = &self.fused[fused_idx].output;
        state.supports[*output] = support;
        let len = support.planes(self.channels[*output]) * self.planes[*output] * self.blocks.lanes;
        let is_kept = path.kept[*output].is_some();
        let buffer = if !is_kept {
            let mut buffer = std::mem::take(&mut memory.scratch[*output]);
            buffer.reserve(len);
            buffer
        } else if *is_first_block {
            memory.pool.take(len * self.blocks.count())
        } else {
            std::mem::take(&mut state.kept[*output])
        };
        let start = if is_kept { *block * len } else { 0 };
        Change {
            fused_idx,
            value: *output,
            height: self.heights[*output],
            support,
            is_kept,
            part: start..start + len,
            buffer,
        }
    }

    /// Rows of a layer's change, and what is summed over them.
    fn run_rows(&self, change: &mut Change<T>, source: Source<T>, rows: Rows, probe: &mut Probe<T>) {
        let Probe { base, path, seed, block, is_first_block, state, memory } = probe;
        let (block, fused_idx) = (*block, change.fused_idx);
        let place = Place { base, block, is_first_block: *is_first_block, rows };
        // The layer whose rule is run.
        let runs = if let Source::Pooled(first) = source { first } else { fused_idx };
        let rule = &self.rules[runs];
        let inputs = &self.fused[runs].inputs;
        let support = change.support;
        let out = &mut change.buffer[change.part.clone()];
        if fused_idx == seed.fused_idx {
            rule.seed(place, seed.coord, seed.shift, out);
        } else {
            let delta_of = |value: usize| {
                let support = state.supports[value];
                let len = support.planes(self.channels[value]) * self.planes[value] * self.blocks.lanes;
                let data = match (&source, path.kept[value]) {
                    _ if support == Support::None => &[],
                    (Source::UnderWay(previous), _) if previous.value == value => {
                        &previous.buffer[previous.part.clone()]
                    }
                    (_, Some(_)) => &state.kept[value][block * len..][..len],
                    (_, None) => &memory.scratch[value][..len],
                };
                Delta { support, data }
            };
            let mut deltas = [Delta::NONE; 2];
            inputs.iter().zip(&mut deltas).for_each(|(&value, delta)| *delta = delta_of(value));
            let (deltas, affine) = (&deltas[..inputs.len()], &state.affine[runs]);
            match (&source, rule.pooled()) {
                (Source::Pooled(_), Some(both)) => both.apply(place, deltas, affine, out),
                _ => rule.apply(place, deltas, affine, out, &mut memory.conv),
            }
        }
        for &reader in &self.coupled_readers[fused_idx] {
            let Some(coupling) = self.rules[reader].coupling() else { continue };
            let sums = &mut state.sums[reader];
            if sums.is_empty() {
                let len = support.planes(self.channels[change.value]) * coupling.sums_per_channel();
                *sums = memory.pool.take(len * self.blocks.lanes);
                sums.fill(T::ZERO);
            }
            coupling.add_sums(place, Delta { support, data: out }, sums);
        }
        if fused_idx + 1 == self.fused.len() {
            let first = support.first() * self.planes[change.value];
            state.loss += self.loss.of_block(block, first, out, seed.scales);
        }
    }

    /// Puts a complete change where the layers after it look for it.
    fn end(&self, change: Change<T>, probe: &mut Probe<T>) {
        let to = if change.is_kept { &mut probe.state.kept } else { &mut probe.memory.scratch };
        to[change.value] = change.buffer;
    }
}

impl<T> Change<T> {
    /// Rows to compute at a time: a multiple of [`STRIP`] that is worth a call.
    fn strip(&self) -> usize {
        let row_bytes = self.part.len() / self.height * size_of::<T>();
        STRIP * STRIP_BYTES.div_ceil((STRIP * row_bytes).max(1))
    }
}

/// Rows 0 to `height`, so many at a time.
fn strips(height: usize, rows: usize) -> impl Iterator<Item = Rows> {
    (0..height).step_by(rows).map(move |start| Rows { start, end: height.min(start + rows) })
}

/// Where the change is that a layer reads.
enum Source<'a, T> {
    /// Stored.
    Stored,
    /// Still under way.
    UnderWay(&'a Change<T>),
    /// Nowhere: this layer's rule makes the change of the maxima behind it in one go.
    Pooled(usize),
}

/// One probe on one block.
struct Probe<'a, T> {
    base: &'a Base<'a, T>,
    path: &'a ProbePath,
    seed: &'a Seed,
    block: usize,
    /// Whether its stage has gone through no other block before.
    is_first_block: bool,
    state: &'a mut State<T>,
    memory: &'a mut Memory<T>,
}

/// The change of one layer's output on one block, under way.
struct Change<T> {
    fused_idx: usize,
    value: usize,
    /// Rows of it.
    height: usize,
    support: Support,
    is_kept: bool,
    /// The block's part of the buffer.
    part: Range<usize>,
    buffer: Buffer<T>,
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
    memory: Memory<T>,
}

/// The part of it that probes share.
#[derive(Debug)]
struct Memory<T> {
    pool: Pool<T>,
    /// Changes of one block, by value.
    scratch: Vec<Buffer<T>>,
    conv: Scratch<T>,
}

impl<T> Workspace<T> {
    fn new(n_values: usize) -> Self
    where
        T: Element,
    {
        let scratch = std::iter::repeat_with(Buffer::default).take(n_values).collect();
        let memory = Memory { pool: Pool::default(), scratch, conv: Scratch::default() };
        Self { states: Vec::new(), memory }
    }
}
