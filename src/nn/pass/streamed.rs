//! A forward pass that keeps nothing: block by block through all layers that need no statistics of the
//! batch, so that activations stay in the cache.
//!
//! The same kernels in the same order as [`Network::forward_all`] give the same bits; what differs is that a block goes on
//! to the next layer before the next block comes, strip by strip where layers can compute some rows alone, and that memory
//! is used again, also by the next pass over the same batch. Where a batch norm with running statistics or a ReLU alone
//! reads a convolution, it is applied before outputs are written.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::kernels::lanes::conv::STRIP;
use crate::kernels::lanes::finish::{ChannelMap, Finish};
use crate::kernels::lanes::norm::{Moments, Partial, partial};
use crate::kernels::lanes::{Blocks, Buffer, Pool, Scratch};
use crate::kernels::{Element, Isa, Split};
use crate::nn::form::{
    ActivationShape, Blockwise, BlockwiseBoth, Context, Mode, Rows, StreamSetup, Streamed, StreamedRows,
};
use crate::nn::graph::{Fused, Network};

/// One block of images on its way.
struct State<T> {
    block: usize,
    /// Values that outlive their stage, by value.
    kept: Vec<Buffer<T>>,
    /// Moments of this block, by value.
    partials: Vec<Vec<Partial>>,
}

/// Memory of one thread.
#[derive(Debug)]
struct Workspace<T> {
    /// Values that live within a stage, by value.
    scratch: Vec<Buffer<T>>,
    /// What one block no longer needs, still in the cache, for the outputs of the next.
    pool: Pool<T>,
    conv: Scratch<T>,
}

/// The parts of a pass that all threads read.
struct StreamPass<'a, T> {
    network: &'a Network,
    batch: &'a StreamedBatch<T>,
    layers: Vec<Box<dyn Streamed<T>>>,
    /// By fused layer, if it finishes one before it: that one, and how.
    finished: Vec<Option<Finished<T>>>,
    /// By fused layer: whether a later one finishes it, and runs it.
    is_taken: Vec<bool>,
    /// By fused layer: those that run strip by strip with it, which is the first; and whether it is a later one of a chain.
    chains: Vec<Vec<usize>>,
    is_led: Vec<bool>,
    /// By value: the stage that produces it, and the last that reads it.
    produced: Vec<usize>,
    last_read: Vec<usize>,
    /// By fused layer: whether it is a batch norm in train mode; by value: whether such a one reads it.
    is_coupled: Vec<bool>,
    is_measured: Vec<bool>,
    stage_of: Vec<usize>,
}

/// How a layer finishes an earlier one.
struct Finished<T> {
    /// The earlier one.
    layer: usize,
    maps: Vec<ChannelMap<T>>,
    is_relu: bool,
    clears_nan: bool,
}

/// A batch made ready for passes: its images block by block, and memory that goes from one pass to the next.
#[derive(Debug)]
pub(super) struct StreamedBatch<T> {
    isa: Isa,
    blocks: Blocks,
    /// Images (block, C, H, W, lane).
    images: Buffer<T>,
    /// What passes that ended have left, by thread of a pass.
    idle: Mutex<Vec<Vec<Workspace<T>>>>,
}

impl<T: Element> StreamedBatch<T> {
    /// `images` (B, C, H, W) on the CPU; none if a layer of the network has no streamed form.
    pub(super) fn new(network: &Network, images: &Tensor, split: Split) -> Result<Option<Self>> {
        if network.all_have(|forms| forms.streamed).is_none() {
            return Ok(None);
        }
        let isa = Isa::current();
        let blocks = Blocks::new::<T>(isa, images.dim(0)?);
        let images = images.contiguous()?;
        let (storage, layout) = images.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { unreachable!("only batches on the CPU are streamed") };
        let (images, n) = (T::slice(storage, layout)?, network.shape(0).iter().product());
        Ok(Some(Self { isa, blocks, images: blocks.rearrange(split, images, n), idle: Mutex::default() }))
    }

    /// Logits (B, classes) of `network`, the one that the batch was made ready for.
    pub(super) fn forward(&self, network: &Network, context: &Context, params: &[Tensor]) -> Result<Tensor>
    where
        for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
    {
        let Some(layers) = network.all_have(|forms| forms.streamed) else {
            unreachable!("`new` has found that all layers have a streamed form")
        };
        let blocks = self.blocks;
        let pass = StreamPass::new(network, &layers, context.mode, params, self)?;
        let n_values = pass.produced.len();
        let mut states: Vec<State<T>> = (0..blocks.count())
            .map(|block| State {
                block,
                kept: std::iter::repeat_with(Buffer::default).take(n_values).collect(),
                partials: vec![Vec::new(); n_values],
            })
            .collect();
        let n_parts = match context.split {
            Split::Serial => 1,
            Split::Threads => rayon::current_num_threads().min(states.len()),
        };
        let per_part = states.len().div_ceil(n_parts);
        let mut workspaces =
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if workspaces.len() < n_parts {
            workspaces.resize_with(n_parts, || Workspace {
                scratch: std::iter::repeat_with(Buffer::default).take(n_values).collect(),
                pool: Pool::default(),
                conv: Scratch::default(),
            });
        }
        for stage in 0..=pass.stage_of.iter().copied().max().unwrap_or(0) {
            let moments = pass.moments(stage, &states);
            let run = |(states, workspace): (&mut [State<T>], &mut Workspace<T>)| {
                states.iter_mut().for_each(|state| pass.run(stage, &moments, state, workspace));
            };
            match context.split {
                Split::Serial => run((&mut states, &mut workspaces[0])),
                Split::Threads => {
                    states.par_chunks_mut(per_part).zip(workspaces.par_iter_mut()).for_each(run);
                }
            }
        }
        let n_classes: usize = network.shape(n_values - 1).iter().product();
        let at = |image: usize, class: usize| {
            states[image / blocks.lanes].kept[n_values - 1][class * blocks.lanes + image % blocks.lanes]
        };
        let logits = (0..blocks.images).flat_map(|image| (0..n_classes).map(move |class| (image, class)));
        let logits: Vec<T> = logits.map(|(image, class)| at(image, class)).collect();
        for (part, workspace) in states.chunks_mut(per_part).zip(&mut workspaces) {
            part.iter_mut()
                .for_each(|state| workspace.pool.give(std::mem::take(&mut state.kept[n_values - 1])));
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(workspaces);
        Ok(Tensor::from_vec(logits, (blocks.images, n_classes), &Device::Cpu)?)
    }
}

/// Whether fused layer `idx` is a map of what an earlier one computes for it alone, and how that one applies it.
fn finished<T: Element>(
    all: &[Fused],
    layers: &[Box<dyn Streamed<T>>],
    idx: usize,
    n_channels: impl Fn(usize) -> usize,
) -> Option<Finished<T>> {
    let (maps, is_relu) = layers[idx].maps()?;
    let value = all[idx].inputs[0];
    let layer = all[..idx].iter().position(|fused| fused.output == value)?;
    let bias = layers[layer].finishes()?;
    let n_readers: usize =
        all.iter().map(|fused| fused.inputs.iter().filter(|&&read| read == value).count()).sum();
    if n_readers != 1 || all[layer].inputs.len() != 1 {
        return None;
    }
    let clears_nan = maps.is_none();
    let mut maps = maps.unwrap_or_else(|| vec![ChannelMap::identity(); n_channels(value)]);
    maps.iter_mut().zip(bias).for_each(|(map, &bias)| map.bias = bias);
    Some(Finished { layer, maps, is_relu, clears_nan })
}

/// By fused layer the chain that it leads, and whether it is a later one of a chain. In a chain each layer but the first
/// reads nothing but the one before it; a value that is measured ends it, as does a layer whose rows begin where strips do.
/// Of one layer alone there is a chain if it is measured.
fn chains<'l, T: 'l>(
    all: &[Fused],
    stage_of: &[usize],
    is_measured: &[bool],
    by_rows: impl Fn(usize) -> Option<&'l dyn StreamedRows<T>>,
) -> (Vec<Vec<usize>>, Vec<bool>) {
    let (mut chains, mut is_led) = (vec![Vec::new(); all.len()], vec![false; all.len()]);
    for first in 0..all.len() {
        let mut chain = Vec::new();
        let mut next = Some(first).filter(|&idx| !is_led[idx]);
        while let Some((idx, rows)) = next.and_then(|idx| Some((idx, by_rows(idx)?))) {
            chain.push(idx);
            let value = all[idx].output;
            let follows = |&later: &usize| {
                all[later].inputs == [value] && stage_of[later] == stage_of[first] && !is_led[later]
            };
            let is_end = is_measured[value] || rows.is_aligned();
            next = (idx + 1..all.len()).find(follows).filter(|_| !is_end);
        }
        if chain.len() > 1 || chain.last().is_some_and(|&idx| is_measured[all[idx].output]) {
            chain[1..].iter().for_each(|&idx| is_led[idx] = true);
            chains[first] = chain;
        }
    }
    (chains, is_led)
}

impl<'a, T: Element> StreamPass<'a, T> {
    fn new(
        network: &'a Network,
        forms: &[&dyn BlockwiseBoth],
        mode: Mode,
        params: &[Tensor],
        batch: &'a StreamedBatch<T>,
    ) -> Result<Self>
    where
        for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
    {
        let StreamedBatch { isa, blocks, .. } = *batch;
        let stage_of = network.stages(mode);
        let n_values = network.n_nodes() + 1;
        let (mut produced, mut last_read) = (vec![0; n_values], vec![0; n_values]);
        let (mut is_coupled, mut is_measured) = (Vec::new(), vec![false; n_values]);
        let mut layers = Vec::new();
        for (idx, fused) in network.fused().iter().enumerate() {
            produced[fused.output] = stage_of[idx];
            for &value in &fused.inputs {
                last_read[value] = last_read[value].max(stage_of[idx]);
            }
            is_coupled.push(network.is_coupled(fused, mode));
            is_measured[fused.inputs[0]] |= is_coupled[idx];
            let shapes: Vec<ActivationShape> =
                fused.inputs.iter().map(|&value| network.shape(value)).collect();
            let params = params[network.params_of(fused.node)]
                .iter()
                .map(|tensor| Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?))
                .collect::<Result<Vec<_>>>()?;
            let epilogue = fused.epilogue;
            let setup = StreamSetup { isa, blocks, mode, shapes: &shapes, params: &params, epilogue };
            layers.push(Blockwise::<T>::streamed(forms[idx], &setup)?);
        }
        // The logits outlive everything.
        last_read[n_values - 1] = usize::MAX;
        let n_channels = |value| network.shape(value)[0];
        let finished: Vec<_> =
            (0..layers.len()).map(|idx| finished(network.fused(), &layers, idx, n_channels)).collect();
        let mut is_taken = vec![false; layers.len()];
        finished.iter().flatten().for_each(|found| is_taken[found.layer] = true);
        let can_chain = |idx: usize| {
            let is_plain = finished[idx].is_none() && !is_taken[idx];
            layers[idx].by_rows().filter(|_| is_plain)
        };
        let (chains, is_led) = chains(network.fused(), &stage_of, &is_measured, can_chain);
        Ok(Self {
            network,
            batch,
            layers,
            finished,
            is_taken,
            chains,
            is_led,
            produced,
            last_read,
            is_coupled,
            is_measured,
            stage_of,
        })
    }

    /// By fused layer: moments of the batch for the batch norms of a stage, parts joined in the order of blocks.
    fn moments(&self, stage: usize, states: &[State<T>]) -> Vec<Vec<Moments>> {
        let of = |(idx, fused): (usize, &Fused)| {
            if self.stage_of[idx] != stage || !self.is_coupled[idx] {
                return Vec::new();
            }
            let parts = || states.iter().map(|state| &state.partials[fused.inputs[0]]);
            let n_channels = self.network.shape(fused.inputs[0])[0];
            let join = |channel: usize| parts().fold(Partial::default(), |all, part| all.join(part[channel]));
            (0..n_channels).map(|channel| join(channel).moments()).collect()
        };
        self.network.fused().iter().enumerate().map(of).collect()
    }

    fn len(&self, value: usize) -> usize {
        self.network.shape(value).iter().product::<usize>() * self.batch.blocks.lanes
    }

    fn is_kept(&self, value: usize) -> bool {
        self.last_read[value] > self.produced[value]
    }

    /// A place for a value.
    fn take(&self, value: usize, workspace: &mut Workspace<T>) -> Buffer<T> {
        if self.is_kept(value) {
            return workspace.pool.take(self.len(value));
        }
        let mut buffer = std::mem::take(&mut workspace.scratch[value]);
        buffer.reserve(self.len(value));
        buffer
    }

    fn put(&self, value: usize, buffer: Buffer<T>, state: &mut State<T>, workspace: &mut Workspace<T>) {
        if self.is_kept(value) {
            state.kept[value] = buffer;
        } else {
            workspace.scratch[value] = buffer;
        }
    }

    /// Notes the moments of rows of a value, after those before them, if a batch norm needs them.
    fn measure(&self, value: usize, rows: Rows, data: &[T], block: usize, partials: &mut Vec<Partial>) {
        if self.is_measured[value] {
            let ([channels, _, width], StreamedBatch { isa, blocks, .. }) =
                (self.network.shape(value), self.batch);
            partials.resize(channels, Partial::default());
            let n_images = blocks.images_in(block);
            for (plane, moments) in data.chunks_exact(data.len() / channels).zip(partials) {
                *moments = partial(*isa, *moments, rows.of(plane, width * blocks.lanes), width, n_images);
            }
        }
    }

    /// The images of a block.
    fn images(&self, block: usize) -> &'a [T] {
        &self.batch.images[block * self.len(0)..][..self.len(0)]
    }

    /// A value that is there.
    fn read<'s>(&'s self, value: usize, state: &'s State<T>, scratch: &'s [Buffer<T>]) -> &'s [T] {
        match value {
            0 => self.images(state.block),
            _ if self.is_kept(value) => &state.kept[value][..self.len(value)],
            _ => &scratch[value][..self.len(value)],
        }
    }

    /// All rows of a value.
    fn rows(&self, value: usize) -> Rows {
        Rows::all(self.network.shape(value)[1])
    }

    /// One stage for one block.
    fn run(
        &self,
        stage: usize,
        moments: &[Vec<Moments>],
        state: &mut State<T>,
        workspace: &mut Workspace<T>,
    ) {
        if stage == 0 {
            self.measure(0, self.rows(0), self.images(state.block), state.block, &mut state.partials[0]);
        }
        let is_run = |idx: &usize| self.stage_of[*idx] == stage && !self.is_taken[*idx] && !self.is_led[*idx];
        for idx in (0..self.layers.len()).filter(is_run) {
            let alone = [idx];
            let chain = if self.chains[idx].is_empty() { &alone[..] } else { &self.chains[idx] };
            let value_of = |&idx: &usize| self.network.fused()[idx].output;
            let mut outs: Vec<Buffer<T>> =
                chain.iter().map(|idx| self.take(value_of(idx), workspace)).collect();
            if self.chains[idx].is_empty() {
                self.run_alone(idx, &moments[idx], state, workspace, &mut outs[0]);
            } else {
                self.run_chain(chain, moments, state, workspace, &mut outs);
            }
            for (value, out) in chain.iter().map(value_of).zip(outs) {
                self.put(value, out, state, workspace);
            }
        }
        for value in 0..self.last_read.len() {
            if self.last_read[value] == stage && self.is_kept(value) {
                workspace.pool.give(std::mem::take(&mut state.kept[value]));
            }
        }
    }

    /// A layer, with what it finishes.
    fn run_alone(
        &self,
        idx: usize,
        moments: &[Moments],
        state: &mut State<T>,
        Workspace { scratch, conv, .. }: &mut Workspace<T>,
        out: &mut [T],
    ) {
        let fused = &self.network.fused()[idx];
        let out = &mut out[..self.len(fused.output)];
        let read = |value: usize| self.read(value, state, scratch);
        let other = fused.inputs.get(1).map(|&value| read(value));
        if let Some(Finished { layer, maps, is_relu, clears_nan }) = &self.finished[idx] {
            let input = read(self.network.fused()[*layer].inputs[0]);
            let finish = Finish { maps, other, is_relu: *is_relu, clears_nan: *clears_nan };
            self.layers[*layer].run_finished(&[input], &finish, out, conv);
        } else {
            let inputs = [read(fused.inputs[0]), other.unwrap_or_default()];
            self.layers[idx].run(&inputs[..fused.inputs.len()], moments, out, conv);
        }
        let (rows, block) = (self.rows(fused.output), state.block);
        self.measure(fused.output, rows, out, block, &mut state.partials[fused.output]);
    }

    /// Layers of a chain in strips of rows of the last one, so that what one writes is in the cache still when the next
    /// reads it, and what the last one writes when it is measured. One of `outs` for each.
    fn run_chain(
        &self,
        chain: &[usize],
        moments: &[Vec<Moments>],
        state: &mut State<T>,
        Workspace { scratch, conv, .. }: &mut Workspace<T>,
        outs: &mut [Buffer<T>],
    ) {
        let all = self.network.fused();
        let values: Vec<usize> = chain.iter().map(|&idx| all[idx].output).collect();
        let layers: Vec<&dyn StreamedRows<T>> =
            chain.iter().map(|&idx| self.layers[idx].by_rows().expect("chains are of such layers")).collect();
        let (last, block) = (chain.len() - 1, state.block);
        let height = self.rows(values[last]).end;
        // Of each layer, the end of the rows that are there, and of those that are wanted.
        let (mut there, mut wanted) = (vec![0; chain.len()], vec![0; chain.len()]);
        for start in (0..height).step_by(STRIP) {
            let end = height.min(start + STRIP);
            wanted[last] = end;
            for at in (0..last).rev() {
                let next = Rows { start: there[at + 1], end: wanted[at + 1] };
                wanted[at] = if end == height {
                    // Others may read rows that the chain does not.
                    self.rows(values[at]).end
                } else if next.start < next.end {
                    layers[at + 1].rows_read(next).end.max(there[at])
                } else {
                    there[at]
                };
            }
            for at in 0..chain.len() {
                let rows = Rows { start: std::mem::replace(&mut there[at], wanted[at]), end: wanted[at] };
                if rows.start == rows.end {
                    continue;
                }
                let (before, from_here) = outs.split_at_mut(at);
                let out = &mut from_here[0][..self.len(values[at])];
                let moments = &moments[chain[at]];
                if let Some(input) = before.last() {
                    layers[at].run_rows(&[&input[..self.len(values[at - 1])]], moments, rows, out, conv);
                } else {
                    let read = |&value: &usize| self.read(value, state, scratch);
                    let inputs: Vec<&[T]> = all[chain[0]].inputs.iter().map(read).collect();
                    layers[0].run_rows(&inputs, moments, rows, out, conv);
                }
            }
            let (value, rows) = (values[last], Rows { start, end });
            let out = &outs[last][..self.len(value)];
            self.measure(value, rows, out, block, &mut state.partials[value]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model;
    use crate::nn::pass::Passes;
    use crate::rng::{Purpose, Stream};

    /// Oracle: the pass that keeps every value, bit for bit, in both modes and for both splits.
    #[test]
    fn equals_the_pass_that_keeps_everything() -> Result<()> {
        for name in ["resnet8-w4", "cnn-d2-w5", "resnet-b10-w3", "lenet"] {
            let network = model::from_name(name, &model::Io::CIFAR)?;
            let params = network.tensors(&network.layout().initial_values(1), DType::F32, &Device::Cpu)?;
            let mut pixels = vec![0.0; 37 * 3 * 32 * 32];
            Stream::new(7, Purpose::Test, 0).fill_normal(&mut pixels);
            let images = Tensor::from_vec(pixels, (37, 3, 32, 32), &Device::Cpu)?.to_dtype(DType::F32)?;
            let stats = network.initial_stats();
            for mode in [Mode::Train, Mode::Eval(&stats)] {
                for split in [Split::Serial, Split::Threads] {
                    let context = Context { mode, split };
                    let streamed = network.forward(&context, &params, &images)?;
                    let kept = network.forward_all(&context, &params, &images)?;
                    assert_eq!(streamed.to_vec2::<f32>()?, kept.logits().to_vec2::<f32>()?, "{name}");
                }
            }
            // What one pass leaves, the next one uses, in another mode and split too.
            let passes = Passes::new(&network, &images, Split::Serial)?;
            let others = network.tensors(&network.layout().initial_values(2), DType::F32, &Device::Cpu)?;
            for mode in [Mode::Train, Mode::Eval(&stats), Mode::Train] {
                for (split, params) in [(Split::Serial, &others), (Split::Threads, &params)] {
                    let context = Context { mode, split };
                    let again = passes.forward(&context, params)?;
                    let fresh = network.forward(&context, params, &images)?;
                    assert_eq!(again.to_vec2::<f32>()?, fresh.to_vec2::<f32>()?, "{name}");
                }
            }
        }
        Ok(())
    }
}
