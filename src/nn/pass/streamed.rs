//! A forward pass that keeps nothing: block by block through all layers that need no statistics of the
//! batch, so that activations stay in the cache.
//!
//! The same kernels in the same order as [`Network::forward_all`] give the same bits; what differs is
//! that a block goes on to the next layer before the next block comes, and that memory is used again. Where a
//! batch norm with running statistics or a ReLU alone reads a convolution, it is applied before outputs are written.

use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::kernels::lanes::finish::{ChannelMap, Finish};
use crate::kernels::lanes::norm::{Moments, Partial, partial};
use crate::kernels::lanes::{Blocks, Buffer, Pool, Scratch};
use crate::kernels::{Element, Isa, Split};
use crate::nn::form::{ActivationShape, Blockwise, BlockwiseBoth, Context, Mode, StreamSetup, Streamed};
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
    isa: Isa,
    blocks: Blocks,
    images: &'a [T],
    layers: Vec<Box<dyn Streamed<T>>>,
    /// By fused layer, if it finishes one before it: that one, and how.
    finished: Vec<Option<Finished<T>>>,
    /// By fused layer: whether a later one finishes it, and runs it.
    is_taken: Vec<bool>,
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

/// Logits (B, classes) of `images` (B, C, H, W) on the CPU; none if a layer of the network has no streamed form.
pub(super) fn forward<T: Element>(
    network: &Network,
    context: &Context,
    params: &[Tensor],
    images: &Tensor,
) -> Result<Option<Tensor>>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    let Some(layers) = network.all_have(|forms| forms.streamed) else { return Ok(None) };
    let isa = Isa::current();
    let n_images = images.dim(0)?;
    let blocks = Blocks::new::<T>(isa, n_images);
    let images = images.contiguous()?;
    let (storage, layout) = images.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { unreachable!("only batches on the CPU are streamed") };
    let pass =
        StreamPass::new(network, &layers, context.mode, params, isa, blocks, T::slice(storage, layout)?)?;

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
    let mut workspaces: Vec<Workspace<T>> = std::iter::repeat_with(|| Workspace {
        scratch: std::iter::repeat_with(Buffer::default).take(n_values).collect(),
        pool: Pool::default(),
        conv: Scratch::default(),
    })
    .take(n_parts)
    .collect();
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
    let logits = (0..n_images).flat_map(|image| (0..n_classes).map(move |class| (image, class)));
    let logits: Vec<T> = logits.map(|(image, class)| at(image, class)).collect();
    Ok(Some(Tensor::from_vec(logits, (n_images, n_classes), &Device::Cpu)?))
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

impl<'a, T: Element> StreamPass<'a, T> {
    fn new(
        network: &'a Network,
        forms: &[&dyn BlockwiseBoth],
        mode: Mode,
        params: &[Tensor],
        isa: Isa,
        blocks: Blocks,
        images: &'a [T],
    ) -> Result<Self>
    where
        for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
    {
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
        Ok(Self {
            network,
            isa,
            blocks,
            images,
            layers,
            finished,
            is_taken,
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
        self.network.shape(value).iter().product::<usize>() * self.blocks.lanes
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

    /// Notes the moments of a value, if a batch norm needs them.
    fn measure(&self, value: usize, data: &[T], state: &mut State<T>) {
        if self.is_measured[value] {
            let n_images = self.blocks.images_in(state.block);
            let planes = data.chunks_exact(data.len() / self.network.shape(value)[0]);
            state.partials[value] = planes.map(|plane| partial(self.isa, plane, n_images)).collect();
        }
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
            let mut input = self.take(0, workspace);
            let len = self.len(0);
            self.blocks.rearrange_block(self.images, len / self.blocks.lanes, state.block, &mut input[..len]);
            self.measure(0, &input[..len], state);
            self.put(0, input, state, workspace);
        }
        let is_run = |idx: &usize| self.stage_of[*idx] == stage && !self.is_taken[*idx];
        for (idx, fused) in self.network.fused().iter().enumerate().filter(|(idx, _)| is_run(idx)) {
            let mut out = self.take(fused.output, workspace);
            let len = self.len(fused.output);
            let read = |value: usize| {
                let from = if self.is_kept(value) { &state.kept[value] } else { &workspace.scratch[value] };
                &from[..self.len(value)]
            };
            let other = fused.inputs.get(1).map(|&value| read(value));
            if let Some(Finished { layer, maps, is_relu, clears_nan }) = &self.finished[idx] {
                let input = read(self.network.fused()[*layer].inputs[0]);
                let finish = Finish { maps, other, is_relu: *is_relu, clears_nan: *clears_nan };
                self.layers[*layer].run_finished(&[input], &finish, &mut out[..len], &mut workspace.conv);
            } else {
                let inputs = [read(fused.inputs[0]), other.unwrap_or_default()];
                let inputs = &inputs[..fused.inputs.len()];
                self.layers[idx].run(inputs, &moments[idx], &mut out[..len], &mut workspace.conv);
            }
            self.measure(fused.output, &out[..len], state);
            self.put(fused.output, out, state, workspace);
        }
        for value in 0..self.last_read.len() {
            if self.last_read[value] == stage && self.is_kept(value) {
                workspace.pool.give(std::mem::take(&mut state.kept[value]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model;
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
        }
        Ok(())
    }
}
