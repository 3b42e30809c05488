//! Batch normalization (Ioffe and Szegedy, 2015).

use candle_core::{Device, Result, Tensor};

use super::{
    ActivationShape, Epilogue, Forms, Layer, LayerPass, Mode, Norm, Role, Running, Scaling, Statistics,
    elements,
};
use crate::Error;
use crate::kernels::batched::{self, Change, NormBase, NormChange};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::finish::ChannelMap;
use crate::kernels::lanes::norm::{self, Affine, Plane, PlaneChange, Relu, SUMS, add_sums};
use crate::kernels::ops::norm::{Stats, affine, batch_norm, batch_norm_composed};
use crate::kernels::ops::{Execution, stack as joined};
use crate::kernels::{Element, Isa};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Coupling, Delta, Place, Pooled, Propagate, PropagateBatched, Rows,
    Rule, RuleSetup, StreamSetup, Streamed, StreamedRows, Support,
};
use crate::params::{ParamKind, ParamSpec, Start};

/// Added to the variance where nothing else is said, as in PyTorch.
pub const EPSILON: f64 = 1e-5;

/// Batch normalization of (B, C, H, W) per channel.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// Channels.
    pub channels: usize,
    /// Number of this layer among the network's batch norms.
    pub norm_idx: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Weight of a new batch in the running statistics.
    pub momentum: f64,
}

impl Layer for BatchNorm {
    fn params(&self) -> Vec<ParamSpec> {
        [("weight", ParamKind::NormScale), ("bias", ParamKind::NormShift)]
            .map(|(name, kind)| ParamSpec {
                name: name.to_owned(),
                kind,
                shape: vec![self.channels],
                fan_in: 1,
                start: Start::Usual,
            })
            .into()
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        // Mean, centered square, scale and shift.
        6 * elements(inputs[0])
    }

    fn forward(&self, pass: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, other) = (inputs[0], inputs.get(1).copied());
        let is_relu = pass.epilogue != Epilogue::None;
        let (scale, shift) = (&params[0], &params[1]);
        let out = match pass.mode {
            Mode::Train => batch_norm_composed(x, scale, shift, self.epsilon)?,
            Mode::Eval(running) => {
                // scale · (x − m) / sqrt(v + ε) + shift as one factor and one offset per channel.
                let stats = running.layer(self.norm_idx);
                let inverse_std: Vec<f64> =
                    stats.variance.iter().map(|v| (v + self.epsilon).sqrt().recip()).collect();
                let tensor = |values: &[f64]| {
                    Tensor::from_slice(values, self.channels, x.device())?.to_dtype(x.dtype())
                };
                let factor = (scale * tensor(&inverse_std)?)?;
                let offset = (shift - (tensor(&stats.mean)? * &factor)?)?;
                affine(x, &factor, &offset)?
            }
        };
        let out = match other {
            Some(other) => (out + other)?,
            None => out,
        };
        if is_relu { out.relu() } else { Ok(out) }
    }

    fn forward_lanes(
        &self,
        pass: &LayerPass,
        execution: Execution,
        params: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let stats = match pass.mode {
            Mode::Train => Stats::Batch(pass.moments.map(<[norm::Moments]>::to_vec)),
            Mode::Eval(running) => Stats::Given(running.layer(self.norm_idx).moments()),
        };
        let params = joined(&params[0], &params[1])?;
        let (other, is_relu) = (inputs.get(1).copied(), pass.epilogue != Epilogue::None);
        batch_norm(execution, inputs[0], &params, stats, self.epsilon, other, is_relu)
    }

    fn forward_batched(&self, pass: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let (x, other) = (inputs[0], inputs.get(1).copied());
        let moments = match pass.mode {
            Mode::Train => batched::moments(x)?,
            Mode::Eval(running) => {
                moments_tensor(&running.layer(self.norm_idx).moments(), x.device())?.unsqueeze(0)?
            }
        };
        let is_relu = pass.epilogue != Epilogue::None;
        batched::normalize(x, &moments, [&params[0], &params[1]], self.epsilon, other, is_relu)
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn norm(&self) -> Option<Norm> {
        Some(Norm {
            idx: self.norm_idx,
            statistics: Statistics::PerChannel,
            running: Some(Running { momentum: self.momentum }),
        })
    }

    fn role(&self) -> Role {
        Role::Norm
    }

    fn reads_base(&self) -> bool {
        true
    }

    fn scaling(&self) -> Scaling {
        Scaling::Forgets
    }
}

impl PropagateBatched for BatchNorm {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        Ok(Box::new(BatchedNorm::new(self, setup)?))
    }
}

/// One channel at the base point.
#[derive(Debug, Clone, Copy)]
struct Channel {
    mean: f64,
    variance: f64,
    scale: f64,
    shift: f64,
    epsilon: f64,
}

impl Channel {
    /// 1 / sqrt(v + ε).
    fn inverse_std(&self) -> f64 {
        (self.variance + self.epsilon).sqrt().recip()
    }
}

/// With batch statistics: δm = mean δ, δv = mean(2 (z − m) δ + δ²) − δm², r = (v + ε)^-1/2,
/// r' = (v + δv + ε)^-1/2, r' − r = −δv r r' / (1/r + 1/r'), and
/// δ_out = γ [(δ − δm) r' + (z − m)(r' − r)]. With running ones: δ_out = γ r δ.
/// A number near δ, the pivot, is subtracted from δ throughout; it cancels, since mean(z − m) = 0.
#[derive(Debug)]
struct BatchNormRule {
    isa: Isa,
    input: usize,
    lanes: usize,
    /// Numbers per channel and image, and per row of it.
    plane: usize,
    width: usize,
    n_images: usize,
    channels: Vec<Channel>,
    is_train: bool,
    epilogue: Epilogue,
    /// The other term of an addition that the rule took over.
    other: Option<usize>,
}

impl<T: Element> Propagate<T> for BatchNorm {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        let (scale, shift) = (setup.params[0], setup.params[1]);
        let epsilon = self.epsilon;
        let at = |idx: usize, mean, variance| Channel {
            mean,
            variance,
            scale: scale[idx],
            shift: shift[idx],
            epsilon,
        };
        let channels = match (setup.mode, setup.moments) {
            (Mode::Eval(running), _) => {
                let stats = running.layer(self.norm_idx);
                (0..self.channels).map(|idx| at(idx, stats.mean[idx], stats.variance[idx])).collect()
            }
            (Mode::Train, Some(moments)) => {
                moments.iter().enumerate().map(|(idx, m)| at(idx, m.mean, m.variance)).collect()
            }
            (Mode::Train, None) => {
                return Err(no_moments(self));
            }
        };
        Ok(Box::new(BatchNormRule {
            isa: setup.isa,
            input: setup.inputs[0],
            lanes: setup.blocks.lanes,
            plane: setup.shapes[0][1] * setup.shapes[0][2],
            width: setup.shapes[0][2],
            n_images: setup.blocks.images,
            channels,
            is_train: matches!(setup.mode, Mode::Train),
            epilogue: setup.epilogue,
            other: setup.inputs.get(1).copied(),
        }))
    }
}

impl BatchNormRule {
    fn len(&self) -> usize {
        self.plane * self.lanes
    }

    /// Numbers per row.
    fn row(&self) -> usize {
        self.width * self.lanes
    }

    /// How a changed channel changes, by what is coupled or by running statistics.
    fn affine_of<T: Element>(&self, channel: usize, coupled: &[Affine<T>]) -> Affine<T> {
        if self.is_train {
            return coupled[if coupled.len() == 1 { 0 } else { channel }];
        }
        let at = &self.channels[channel];
        Affine { delta: T::of(at.scale * at.inverse_std()), ..Affine::default() }
    }

    /// Change of rows of one channel of the output, and of what the rule took over.
    fn run_plane<T: Element>(
        &self,
        place: Place<T>,
        channel: usize,
        affine: Affine<T>,
        delta: Option<&[T]>,
        added: Option<&[T]>,
        out: &mut [T],
    ) {
        let at = &self.channels[channel];
        let (scale, shift) = (T::of(at.scale * at.inverse_std()), T::of(at.shift));
        let part = |value: usize| place.rows().of(place.plane(value, channel, self.len()), self.row());
        let relu = match (self.epilogue, self.other) {
            (Epilogue::None, _) => Relu::No,
            (_, None) => Relu::OfNorm { scale, shift },
            (_, Some(other)) => Relu::OfSum { scale, shift, other: part(other) },
        };
        let z = part(self.input);
        Plane { z, mean: T::of(at.mean), affine, delta, added, relu }.run(self.isa, out);
    }
}

impl<T: Element> Rule<T> for BatchNormRule {
    fn seed_channel(&self, coord: usize) -> usize {
        coord % self.channels.len()
    }

    fn seed(&self, place: Place<T>, coord: usize, shift: f64, out: &mut [T]) {
        let channel = coord % self.channels.len();
        let (base, constant) = if coord < self.channels.len() {
            (shift * self.channels[channel].inverse_std(), 0.0)
        } else {
            (0.0, shift)
        };
        let affine = Affine { base: T::of(base), constant: T::of(constant), ..Affine::default() };
        self.run_plane(place, channel, affine, None, None, out);
    }

    fn support(&self, inputs: &[Support]) -> Support {
        inputs.iter().fold(Support::None, |support, &input| support.union(input))
    }

    fn apply(
        &self,
        place: Place<T>,
        inputs: &[Delta<T>],
        coupled: &[Affine<T>],
        out: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let added = inputs.get(1).copied().unwrap_or(Delta::NONE);
        let support = inputs[0].support.union(added.support);
        let (len, rows) = (self.len(), place.rows());
        for (idx, out) in out.chunks_exact_mut(len).enumerate() {
            let channel = support.channel(idx);
            let out = rows.of_mut(out, self.row());
            let delta = inputs[0].plane(channel, len).map(|plane| rows.of(plane, self.row()));
            let added = added.plane(channel, len).map(|plane| rows.of(plane, self.row()));
            let affine = match delta {
                None => Affine::default(),
                Some(_) => self.affine_of(channel, coupled),
            };
            if delta.is_none() && added.is_none() {
                out.fill(T::ZERO);
            } else {
                self.run_plane(place, channel, affine, delta, added, out);
            }
        }
    }

    fn rows_read(&self, rows: Rows) -> Option<Rows> {
        Some(rows)
    }

    fn pooled(&self) -> Option<&dyn Pooled<T>> {
        (self.epilogue == Epilogue::Relu && self.other.is_none()).then_some(self)
    }

    fn coupling(&self) -> Option<&dyn Coupling<T>> {
        self.is_train.then_some(self)
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        let support = Rule::<T>::support(self, inputs);
        change_flops(support.planes(self.channels.len()) * self.plane)
    }
}

impl<T: Element> Pooled<T> for BatchNormRule {
    fn apply(&self, place: Place<T>, inputs: &[Delta<T>], coupled: &[Affine<T>], out: &mut [T]) {
        let (len, half_width) = (self.len(), self.width / 2);
        let half = self.plane / self.width / 2 * half_width * self.lanes;
        for (idx, out) in out.chunks_exact_mut(half).enumerate() {
            let channel = inputs[0].support.channel(idx);
            let at = &self.channels[channel];
            let plane = Plane {
                z: place.plane(self.input, channel, len),
                mean: T::of(at.mean),
                affine: self.affine_of(channel, coupled),
                delta: inputs[0].plane(channel, len),
                added: None,
                relu: Relu::OfNorm { scale: T::of(at.scale * at.inverse_std()), shift: T::of(at.shift) },
            };
            plane.run_pooled(self.isa, self.width, out);
        }
    }
}

impl<T: Element> Coupling<T> for BatchNormRule {
    fn sums_per_channel(&self) -> usize {
        SUMS
    }

    fn add_sums(&self, place: Place<T>, input: Delta<T>, sums: &mut [T]) {
        let planes = input.data.chunks_exact(self.len()).zip(sums.chunks_exact_mut(SUMS * self.lanes));
        for (idx, (delta, sums)) in planes.enumerate() {
            let channel = input.support.channel(idx);
            let rows = place.rows();
            let (z, delta) = (place.plane(self.input, channel, self.len()), rows.of(delta, self.row()));
            let (z, mean) = (rows.of(z, self.row()), T::of(self.channels[channel].mean));
            add_sums(self.isa, PlaneChange { z, mean, delta }, place.is_first(), place.n_images(), sums);
        }
    }

    fn affine(&self, support: Support, sums: &[T], out: &mut Vec<Affine<T>>) {
        let n = (self.plane * self.n_images) as f64;
        let total = |sums: &[T]| sums.iter().map(|sum| sum.wide()).sum::<f64>();
        for (idx, sums) in sums.chunks_exact(SUMS * self.lanes).enumerate() {
            let at = &self.channels[support.channel(idx)];
            let (sum, rest) = sums.split_at(self.lanes);
            let (sum_square, pivot) = rest.split_at(self.lanes);
            // Mean of δ less the pivot.
            let mean = total(sum) / n;
            let variance = total(sum_square) / n - mean * mean;
            let r = at.inverse_std();
            // A variance is not negative; rounding may say otherwise where it vanishes.
            let moved = ((at.variance + variance).max(0.0) + at.epsilon).sqrt().recip();
            let change = -variance * r * moved / (r.recip() + moved.recip());
            out.push(Affine {
                delta: T::of(at.scale * moved),
                pivot: pivot[0],
                base: T::of(at.scale * change),
                constant: T::of(-at.scale * moved * mean),
            });
        }
    }
}

/// Mean and variance (C, 2).
fn moments_tensor(moments: &[norm::Moments], device: &Device) -> Result<Tensor> {
    let flat: Vec<f64> = moments.iter().flat_map(|m| [m.mean, m.variance]).collect();
    Tensor::from_vec(flat, (moments.len(), 2), device)
}

/// As [`BatchNormRule`], for batched probes.
#[derive(Debug)]
struct BatchedNorm {
    base: NormBase,
    channels: Vec<Channel>,
    /// Numbers per channel and image.
    plane: usize,
    /// With running statistics: the map of every channel's change (1, C, 4).
    eval: Option<Tensor>,
    epilogue: Epilogue,
    /// The other term of an addition that the rule took over, at the base point.
    other: Option<Tensor>,
}

impl BatchedNorm {
    fn new(layer: &BatchNorm, setup: &BatchedSetup) -> crate::Result<Self> {
        let z = setup.base()?;
        let (device, dtype) = (z.device().clone(), z.dtype());
        let moments = match (setup.mode, setup.moments) {
            (Mode::Eval(running), _) => moments_tensor(&running.layer(layer.norm_idx).moments(), &device)?,
            (Mode::Train, Some(moments)) => moments.clone(),
            (Mode::Train, None) => return Err(no_moments(layer)),
        };
        let (scale, shift, epsilon) = (setup.values[0], setup.values[1], layer.epsilon);
        let channels: Vec<Channel> = moments
            .to_vec2::<f64>()?
            .iter()
            .zip(scale.iter().zip(shift))
            .map(|(m, (&scale, &shift))| Channel { mean: m[0], variance: m[1], scale, shift, epsilon })
            .collect();
        let n = channels.len();
        let tensor = |rows: Vec<f64>, dims: &[usize]| Tensor::from_vec(rows, dims, &device)?.to_dtype(dtype);
        let row = |at: &Channel| [at.mean, at.scale * at.inverse_std(), at.shift];
        let table = tensor(channels.iter().flat_map(row).collect(), &[n, 3])?;
        let map = |at: &Channel| [at.scale * at.inverse_std(), 0.0, 0.0, 0.0];
        let eval = match setup.mode {
            Mode::Train => None,
            Mode::Eval(_) => Some(tensor(channels.iter().flat_map(map).collect(), &[1, n, 4])?),
        };
        let scales = Tensor::from_slice(scale, n, &device)?;
        let [_, height, width] = setup.shapes[0];
        Ok(Self {
            base: NormBase { z, moments, scales, table, epsilon },
            channels,
            plane: height * width,
            eval,
            epilogue: setup.epilogue,
            other: setup.inputs.get(1).cloned().flatten(),
        })
    }

    /// The change with what the epilogue says.
    fn plain(&self) -> NormChange<'_> {
        NormChange {
            delta: None,
            affine: None,
            is_seed: false,
            added: None,
            other: self.other.as_ref(),
            is_relu: self.epilogue != Epilogue::None,
            channels: None,
            probes: 0,
        }
    }
}

impl BatchedRule for BatchedNorm {
    fn seed_channel(&self, coord: usize) -> usize {
        coord % self.channels.len()
    }

    fn seed(&self, seeds: &[(usize, f64)], channels: &Tensor) -> Result<Tensor> {
        let n = self.channels.len();
        let map = |&(coord, shift): &(usize, f64)| match self.channels.get(coord) {
            Some(at) => [0.0, 0.0, shift * at.inverse_std(), 0.0],
            None => [0.0, 0.0, 0.0, shift],
        };
        debug_assert!(seeds.iter().all(|&(coord, _)| coord < 2 * n));
        let maps: Vec<f64> = seeds.iter().flat_map(map).collect();
        let z = &self.base.z;
        let maps = Tensor::from_vec(maps, (seeds.len(), 1, 4), z.device())?.to_dtype(z.dtype())?;
        let change = NormChange {
            affine: Some(&maps),
            is_seed: true,
            channels: Some(channels),
            probes: seeds.len(),
            ..self.plain()
        };
        batched::norm_change(&change, &self.base)
    }

    fn support(&self, inputs: &[Support]) -> Support {
        inputs.iter().fold(Support::None, |support, &input| support.union(input))
    }

    fn apply(&self, inputs: &[Option<&Change>], channels: Option<&Tensor>) -> Result<Tensor> {
        let (delta, added) = (inputs[0], inputs.get(1).copied().flatten());
        let Some(any) = delta.or(added) else { candle_core::bail!("a batch norm of no changes") };
        let affine = match (delta, &self.eval) {
            (Some(delta), None) => Some(batched::norm_affine(delta, &self.base)?),
            (_, eval) => eval.clone(),
        };
        let (affine, probes) = (affine.as_ref(), any.data.dim(0)?);
        let change = NormChange { delta, affine, added, channels, probes, ..self.plain() };
        batched::norm_change(&change, &self.base)
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        change_flops(self.support(inputs).planes(self.channels.len()) * self.plane)
    }
}

/// Of a change of so many numbers: sums, affine map, and about six operations for what follows.
fn change_flops(numbers: usize) -> u64 {
    16 * numbers as u64
}

fn no_moments(layer: &BatchNorm) -> Error {
    Error::Objective(format!("batch norm {} has no batch moments", layer.norm_idx))
}

/// The map itself, with what it takes over.
struct StreamedBatchNorm<T> {
    isa: Isa,
    /// γ, then β.
    params: Vec<T>,
    /// Running statistics; none where those of the batch are used.
    given: Option<Vec<norm::Moments>>,
    epsilon: f64,
    is_relu: bool,
    /// Numbers per row.
    row: usize,
}

impl<T: Element> Blockwise<T> for BatchNorm {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        let given = match setup.mode {
            Mode::Train => None,
            Mode::Eval(running) => Some(running.layer(self.norm_idx).moments()),
        };
        let params = setup.params.iter().flatten().map(|&param| T::of(param)).collect();
        let is_relu = setup.epilogue != Epilogue::None;
        let row = setup.shapes[0][2] * setup.blocks.lanes;
        Ok(Box::new(StreamedBatchNorm { isa: setup.isa, params, given, epsilon: self.epsilon, is_relu, row }))
    }
}

impl<T: Element> StreamedBatchNorm<T> {
    fn map<'a>(&'a self, inputs: &[&'a [T]], moments: &'a [norm::Moments]) -> norm::MapBlock<'a, T> {
        let Self { params, epsilon, is_relu, .. } = self;
        norm::MapBlock {
            params,
            moments: self.given.as_deref().unwrap_or(moments),
            epsilon: *epsilon,
            other: inputs.get(1).copied(),
            is_relu: *is_relu,
        }
    }
}

impl<T: Element> StreamedRows<T> for StreamedBatchNorm<T> {
    fn rows_read(&self, rows: Rows) -> Rows {
        rows
    }

    fn run_rows(
        &self,
        inputs: &[&[T]],
        moments: &[norm::Moments],
        rows: Rows,
        out: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let part = rows.start * self.row..rows.end * self.row;
        self.map(inputs, moments).run_part(self.isa, inputs[0], part, out);
    }
}

impl<T: Element> Streamed<T> for StreamedBatchNorm<T> {
    fn run(&self, inputs: &[&[T]], moments: &[norm::Moments], out: &mut [T], _: &mut Scratch<T>) {
        self.map(inputs, moments).run(self.isa, inputs[0], out);
    }

    fn by_rows(&self) -> Option<&dyn StreamedRows<T>> {
        Some(self)
    }

    fn maps(&self) -> Option<(Option<Vec<ChannelMap<T>>>, bool)> {
        let given = self.given.as_deref()?;
        let (scales, shifts) = self.params.split_at(given.len());
        let map = |(channel, &norm::Moments { mean, variance }): (usize, &norm::Moments)| ChannelMap {
            scale: norm::factor(scales[channel], variance, self.epsilon),
            mean: T::of(mean),
            shift: shifts[channel],
            ..ChannelMap::identity()
        };
        Some((Some(given.iter().enumerate().map(map).collect()), self.is_relu))
    }
}
