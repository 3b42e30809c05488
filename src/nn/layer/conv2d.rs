//! Two-dimensional convolution.

use candle_core::{DType, Result, Tensor};

use super::{ActivationShape, Layer, Pass, elements};
use crate::kernels::lanes::conv::{Conv, Scratch};
use crate::kernels::lanes::geometry::Geometry;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::pointwise;
use crate::kernels::{Element, Isa, ops};
use crate::nn::difference::{Delta, Place, Propagate, Rule, Setup, Support};
use crate::nn::params::{ParamKind, ParamSpec};
use crate::nn::stream::{Stream, StreamSetup, Streamed};

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
        }];
        if self.has_bias {
            specs.push(ParamSpec {
                name: "bias".to_owned(),
                kind: ParamKind::Bias,
                shape: vec![self.c_out],
                fan_in,
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

    fn forward(&self, pass: &Pass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let out = match pass.schedule {
            Some(schedule) => ops::conv::conv2d(schedule, inputs[0], &params[0], self.stride, self.padding)?,
            None => inputs[0].conv2d(&params[0], self.padding, self.stride, 1, 1)?,
        };
        match (params.get(1), pass.schedule) {
            (Some(bias), Some(schedule)) => ops::pointwise::add_bias(schedule, &out, bias),
            (Some(bias), None) => out.broadcast_add(&bias.reshape((1, self.c_out, 1, 1))?),
            (None, _) => Ok(out),
        }
    }

    fn reads_base(&self) -> bool {
        true
    }
}

/// δ_out = W * δ_in over the channels that change. A step of weight (o, i, kh, kw) changes channel o
/// by the step times a shifted copy of input plane i; a step of a bias, by the step.
#[derive(Debug)]
pub(super) struct ConvRule<T> {
    op: Conv<T>,
    input: usize,
    geometry: Geometry,
    lanes: usize,
}

impl<T: Element> ConvRule<T> {
    pub(super) fn new(setup: &Setup, geometry: Geometry) -> Self {
        let lanes = setup.blocks.lanes;
        let op = Conv::with_single(setup.isa, lanes, geometry, setup.params[0]);
        Self { op, input: setup.inputs[0], geometry, lanes }
    }

    fn taps(&self) -> usize {
        self.geometry.kernel * self.geometry.kernel
    }

    fn n_weights(&self) -> usize {
        self.geometry.c_out * self.geometry.c_in * self.taps()
    }
}

impl<T: Element> Propagate<T> for Conv2d {
    fn rule(&self, setup: &Setup) -> crate::Result<Box<dyn Rule<T>>> {
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

    fn seed(&self, place: Place<T>, coord: usize, step: f64, out: &mut [T]) {
        if coord >= self.n_weights() {
            out.fill(T::of(step));
            return;
        }
        let channel = coord / self.taps() % self.geometry.c_in;
        let plane = place.plane(self.input, channel, self.geometry.height * self.geometry.width * self.lanes);
        self.op.shifted_plane(plane, coord % self.taps(), T::of(step), out);
    }

    fn support(&self, inputs: &[Support]) -> Support {
        match inputs[0] {
            Support::None => Support::None,
            Support::Channel(_) | Support::Dense => Support::Dense,
        }
    }

    fn apply(
        &self,
        _: Place<T>,
        inputs: &[Delta<T>],
        _: &[Affine<T>],
        out: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        match inputs[0].support {
            Support::Channel(channel) => self.op.run_single(channel, inputs[0].data, out, scratch),
            Support::None | Support::Dense => self.op.run(inputs[0].data, out, scratch),
        }
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        self.op.flops(matches!(inputs[0], Support::Channel(_)))
    }
}

/// The convolution itself, and its bias.
pub(super) struct StreamedConv<T> {
    isa: Isa,
    op: Conv<T>,
    bias: Vec<T>,
}

impl<T: Element> StreamedConv<T> {
    pub(super) fn new(setup: &StreamSetup, geometry: Geometry) -> Self {
        // As in the pass that keeps every value: minimal filtering in single precision only.
        let make = if T::DTYPE == DType::F64 { Conv::direct } else { Conv::new };
        let op = make(setup.isa, setup.blocks.lanes, geometry, &setup.params[0]);
        let bias = setup.params.get(1).into_iter().flatten().map(|&bias| T::of(bias)).collect();
        Self { isa: setup.isa, op, bias }
    }
}

impl<T: Element> Stream<T> for Conv2d {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        Ok(Box::new(StreamedConv::new(setup, self.geometry(setup.blocks.images, setup.shapes[0]))))
    }
}

impl<T: Element> Streamed<T> for StreamedConv<T> {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], scratch: &mut Scratch<T>) {
        self.op.run(inputs[0], out, scratch);
        if self.bias.is_empty() {
            return;
        }
        let plane = out.len() / self.bias.len();
        for (out, &bias) in out.chunks_exact_mut(plane).zip(&self.bias) {
            pointwise::offset(self.isa, bias, out);
        }
    }
}
