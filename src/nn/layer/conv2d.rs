//! Two-dimensional convolution.

use candle_core::{DType, Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, Scaling, elements};
use crate::kernels::batched::{self, Change, Convolution};
use crate::kernels::lanes::conv::Conv;
use crate::kernels::lanes::finish::Finish;
use crate::kernels::lanes::geometry::Geometry;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::{Buffer, Scratch, pointwise};
use crate::kernels::ops::Execution;
use crate::kernels::{Element, Isa, Rounding, ops};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Delta, LaneShift, Place, Propagate, PropagateBatched, Rows, Rule,
    RuleSetup, StreamSetup, Streamed, StreamedRows, Support, only,
};
use crate::params::{ParamKind, ParamSpec, Start};

/// Convolution with a square kernel.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
    /// Whether a bias is added.
    pub has_bias: bool,
}

impl Conv2d {
    fn geometry(&self, batch: usize, [_, height, width]: ActivationShape) -> Geometry {
        let Self { c_in, c_out, kernel, stride, padding, .. } = *self;
        Geometry { batch, c_in, height, width, c_out, kernel, stride, padding }
    }
}

impl Layer for Conv2d {
    fn params(&self) -> Vec<ParamSpec> {
        let fan_in = self.c_in * self.kernel * self.kernel;
        let mut specs = vec![ParamSpec {
            name: "weight".to_owned(),
            kind: ParamKind::ConvWeight,
            shape: vec![self.c_out, self.c_in, self.kernel, self.kernel],
            fan_in,
            start: Start::Usual,
        }];
        if self.has_bias {
            specs.push(ParamSpec {
                name: "bias".to_owned(),
                kind: ParamKind::Bias,
                shape: vec![self.c_out],
                fan_in,
                start: Start::Usual,
            });
        }
        specs
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        let size = |n: usize| (n + 2 * self.padding - self.kernel) / self.stride + 1;
        [self.c_out, size(inputs[0][1]), size(inputs[0][2])]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        2 * elements(self.output_shape(inputs)) * (self.c_in * self.kernel * self.kernel) as u64
    }

    fn forward(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let out = inputs[0].conv2d(&params[0], self.padding, self.stride, 1, 1)?;
        match params.get(1) {
            Some(bias) => out.broadcast_add(&bias.reshape((1, self.c_out, 1, 1))?),
            None => Ok(out),
        }
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        params: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let out = ops::conv::conv2d(execution, inputs[0], &params[0], self.stride, self.padding)?;
        match params.get(1) {
            Some(bias) => ops::pointwise::add_bias(execution, &out, bias),
            None => Ok(out),
        }
    }

    fn transport_lanes(
        &self,
        execution: Execution,
        params: &[Tensor],
        input: ActivationShape,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let geometry = self.geometry(execution.blocks.images, input);
        ops::conv::grad_input(execution, geometry, grad, &params[0]).map(Some)
    }

    fn forward_batched(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let out = batched::conv(inputs[0], &params[0], None, self.how(Rounding::None))?;
        match params.get(1) {
            Some(bias) => out.broadcast_add(&bias.reshape((bias.dim(0)?, 1, self.c_out, 1, 1))?),
            None => Ok(out),
        }
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn reads_base(&self) -> bool {
        true
    }

    fn scaling(&self) -> Scaling {
        if self.has_bias { Scaling::FollowsBesideOffset } else { Scaling::Follows }
    }
}

impl PropagateBatched for Conv2d {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        self.batched_rule_with(setup, setup.params[0].clone())
    }
}

impl Conv2d {
    fn how(&self, rounding: Rounding) -> Convolution {
        Convolution { stride: self.stride, padding: self.padding, rounding }
    }

    /// The rule with a weight (1, C_out, C_in, K, K).
    pub(super) fn batched_rule_with(
        &self,
        setup: &BatchedSetup,
        weight: Tensor,
    ) -> crate::Result<Box<dyn BatchedRule>> {
        let pixels = self.output_shape(setup.shapes)[1..].iter().product();
        let how = self.how(setup.rounding);
        Ok(Box::new(BatchedConv { base: setup.base()?, weight, layer: self.clone(), how, pixels }))
    }
}

/// As [`ConvRule`], for batched probes.
#[derive(Debug)]
struct BatchedConv {
    /// Input at the base point.
    base: Tensor,
    weight: Tensor,
    layer: Conv2d,
    how: Convolution,
    /// Of an output channel.
    pixels: usize,
}

impl BatchedConv {
    fn taps(&self) -> usize {
        self.layer.kernel * self.layer.kernel
    }

    /// Input channel and place in the kernel of a weight; none of a bias.
    fn place_of(&self, coord: usize) -> Option<(usize, usize)> {
        let n_weights = self.layer.c_out * self.layer.c_in * self.taps();
        (coord < n_weights).then(|| (coord / self.taps() % self.layer.c_in, coord % self.taps()))
    }
}

impl BatchedRule for BatchedConv {
    fn seed_channel(&self, coord: usize) -> usize {
        let per_output = self.layer.c_in * self.taps();
        match self.place_of(coord) {
            Some(_) => coord / per_output,
            None => coord - self.layer.c_out * per_output,
        }
    }

    fn seed(&self, seeds: &[(usize, f64)], _: &Tensor) -> Result<Tensor> {
        let places = || seeds.iter().map(|&(coord, _)| self.place_of(coord));
        let inputs: Vec<i32> = places().map(|place| place.map_or(-1, |(input, _)| input as i32)).collect();
        let taps: Vec<u32> = places().map(|place| place.map_or(0, |(_, tap)| tap as u32)).collect();
        let shifts: Vec<f64> = seeds.iter().map(|&(_, shift)| shift).collect();
        batched::conv_seed(&self.base, self.layer.kernel, self.how, &inputs, &taps, &shifts)
    }

    fn support(&self, inputs: &[Support]) -> Support {
        match inputs[0] {
            Support::None => Support::None,
            Support::Channels { .. } | Support::Dense => Support::Dense,
        }
    }

    fn apply(&self, inputs: &[Option<&Change>], _: Option<&Tensor>) -> Result<Tensor> {
        let Change { data, channels } = only(inputs)?;
        batched::conv(data, &self.weight, channels.as_ref(), self.how)
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        (2 * self.layer.c_out * inputs[0].planes(self.layer.c_in) * self.taps() * self.pixels) as u64
    }
}

/// δ_out = W * δ_in over the channels that change. A shift of weight (o, i, kh, kw) changes channel o
/// by itself times input plane i, moved by the tap; a shift of a bias, by itself.
#[derive(Debug)]
pub(super) struct ConvRule<T> {
    op: Conv<T>,
    /// With rounded weights, where products are rounded of changes of more than one channel.
    rounded: Option<Conv<T>>,
    rounding: Rounding,
    input: usize,
    geometry: Geometry,
    lanes: usize,
}

impl<T: Element> ConvRule<T> {
    pub(super) fn new(setup: &RuleSetup, geometry: Geometry) -> Self {
        let (lanes, rounding) = (setup.blocks.lanes, setup.rounding);
        let op = Conv::with_channels(setup.isa, lanes, geometry, setup.params[0]);
        let rounded = (rounding != Rounding::None).then(|| {
            let round = |&weight: &f64| f64::from(rounding.apply(weight as f32));
            let weight: Vec<f64> = setup.params[0].iter().map(round).collect();
            Conv::with_channels(setup.isa, lanes, geometry, &weight)
        });
        Self { op, rounded, rounding, input: setup.inputs[0], geometry, lanes }
    }

    fn taps(&self) -> usize {
        self.geometry.kernel * self.geometry.kernel
    }

    fn n_weights(&self) -> usize {
        self.geometry.c_out * self.geometry.c_in * self.taps()
    }
}

impl<T: Element> Propagate<T> for Conv2d {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        Ok(Box::new(ConvRule::new(setup, self.geometry(setup.blocks.images, setup.shapes[0]))))
    }
}

impl<T: Element> Rule<T> for ConvRule<T> {
    fn seed_channel(&self, coord: usize) -> usize {
        match coord.checked_sub(self.n_weights()) {
            Some(bias) => bias,
            None => coord / (self.geometry.c_in * self.taps()),
        }
    }

    fn seed(&self, place: Place<T>, coord: usize, shift: f64, out: &mut [T]) {
        if coord >= self.n_weights() {
            out.fill(T::of(shift));
            return;
        }
        let channel = coord / self.taps() % self.geometry.c_in;
        let plane = place.plane(self.input, channel, self.geometry.height * self.geometry.width * self.lanes);
        self.op.shifted_plane(plane, coord % self.taps(), T::of(shift), out);
    }

    fn support(&self, inputs: &[Support]) -> Support {
        match inputs[0] {
            Support::None => Support::None,
            Support::Channels { .. } | Support::Dense => Support::Dense,
        }
    }

    fn rows_read(&self, rows: Rows) -> Option<Rows> {
        // Rounding copies its input.
        self.rounded.is_none().then(|| rows_read(&self.geometry, rows))
    }

    fn apply(
        &self,
        place: Place<T>,
        inputs: &[Delta<T>],
        _: &[Affine<T>],
        out: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let Rows { start, end } = place.rows();
        let Delta { support, data } = inputs[0];
        let mut input = Buffer::default();
        let (op, data) = match &self.rounded {
            Some(op) if !matches!(support, Support::Channels { count: 1, .. }) => {
                input.reserve(data.len());
                let round = |(to, &from): (&mut T, &T)| *to = self.rounding.apply_to(from);
                input.iter_mut().zip(data).for_each(round);
                (op, &input[..])
            }
            _ => (&self.op, data),
        };
        match support {
            Support::Channels { first, .. } => op.run_channels(first, data, start..end, out, scratch),
            Support::None | Support::Dense => op.run_rows(data, start..end, out, scratch),
        }
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        match inputs[0] {
            Support::Channels { count, .. } => self.op.flops_of(count),
            Support::None | Support::Dense => self.op.flops(),
        }
    }
}

/// Rows of the input that rows of the output read.
fn rows_read(geometry: &Geometry, rows: Rows) -> Rows {
    let Geometry { height, kernel, stride, padding, .. } = *geometry;
    let start = (rows.start * stride).saturating_sub(padding);
    let end = (rows.end - 1) * stride + kernel;
    Rows { start, end: end.saturating_sub(padding).min(height) }
}

/// The convolution itself, and its bias.
pub(super) struct StreamedConv<T> {
    isa: Isa,
    op: Conv<T>,
    bias: Vec<T>,
    n_weights: usize,
    geometry: Geometry,
    lanes: usize,
}

impl<T: Element> StreamedConv<T> {
    pub(super) fn new(setup: &StreamSetup, geometry: Geometry) -> Self {
        // As in the pass that keeps every value: minimal filtering in single precision only.
        let make = if T::DTYPE == DType::F64 { Conv::direct } else { Conv::new };
        let op = make(setup.isa, setup.blocks.lanes, geometry, &setup.params[0]);
        let bias = setup.params.get(1).into_iter().flatten().map(|&bias| T::of(bias)).collect();
        let (n_weights, lanes) = (setup.params[0].len(), setup.blocks.lanes);
        Self { isa: setup.isa, op, bias, n_weights, geometry, lanes }
    }
}

impl<T: Element> Blockwise<T> for Conv2d {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        Ok(Box::new(StreamedConv::new(setup, self.geometry(setup.blocks.images, setup.shapes[0]))))
    }
}

impl<T: Element> LaneShift<T> for StreamedConv<T> {
    fn shift(&self, input: &[T], coord: usize, shift: T, lane: usize, out: &mut [T]) {
        let Some(channel) = coord.checked_sub(self.n_weights) else {
            return self.op.shift_lane(input, coord, shift, lane, out);
        };
        let plane = out.len() / self.bias.len();
        let out = &mut out[channel * plane..][..plane];
        out.iter_mut().skip(lane).step_by(self.lanes).for_each(|value| *value += shift);
    }
}

impl<T: Element> StreamedRows<T> for StreamedConv<T> {
    fn rows_read(&self, rows: Rows) -> Rows {
        rows_read(&self.geometry, rows)
    }

    fn is_aligned(&self) -> bool {
        true
    }

    fn run_rows(&self, inputs: &[&[T]], _: &[Moments], rows: Rows, out: &mut [T], scratch: &mut Scratch<T>) {
        self.op.run_rows(inputs[0], rows.start..rows.end, &mut *out, scratch);
        if self.bias.is_empty() {
            return;
        }
        let plane = out.len() / self.bias.len();
        for (out, &bias) in out.chunks_exact_mut(plane).zip(&self.bias) {
            pointwise::offset(self.isa, bias, rows.of_mut(out, self.geometry.out_width() * self.lanes));
        }
    }
}

impl<T: Element> Streamed<T> for StreamedConv<T> {
    fn lane_shift(&self) -> Option<&dyn LaneShift<T>> {
        Some(self)
    }

    fn run(&self, inputs: &[&[T]], moments: &[Moments], out: &mut [T], scratch: &mut Scratch<T>) {
        self.run_rows(inputs, moments, Rows::all(self.geometry.out_height()), out, scratch);
    }

    fn by_rows(&self) -> Option<&dyn StreamedRows<T>> {
        Some(self)
    }

    fn finishes(&self) -> Option<&[T]> {
        Some(&self.bias)
    }

    fn run_finished(&self, inputs: &[&[T]], finish: &Finish<T>, out: &mut [T], scratch: &mut Scratch<T>) {
        self.op.run_finished(inputs[0], finish, out, scratch);
    }
}
