//! Pooling.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, Scaling, elements};
use crate::kernels::batched::{self, Change};
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::pointwise;
use crate::kernels::ops::Execution;
use crate::kernels::{Element, Isa, ops};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Delta, Place, Propagate, PropagateBatched, Rows, Rule, RuleSetup,
    StreamSetup, Streamed, StreamedRows, Support, only,
};
use crate::nn::layer::{Epilogue, Mode};

/// The larger of the two along a dimension of size two, which goes away; the first if they are equal.
fn larger(x: &Tensor, dim: usize) -> Result<Tensor> {
    let part = |idx| x.narrow(dim, idx, 1)?.squeeze(dim)?.contiguous();
    let (first, second) = (part(0)?, part(1)?);
    second.gt(&first)?.where_cond(&second, &first)
}

/// Maximum over 2 x 2 windows with stride 2.
#[derive(Debug, Clone)]
pub struct MaxPool2;

impl Layer for MaxPool2 {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        let [channels, height, width] = inputs[0];
        [channels, height / 2, width / 2]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let x = inputs[0];
        // candle's own pooling loses a factor of four in its backward pass, and its maximum gives the gradient to
        // all that are equal, as pixels of flat parts of an image are. A choice gives it to the first.
        let (batch, channels, height, width) = x.dims4()?;
        let windows = x
            .narrow(2, 0, height / 2 * 2)?
            .narrow(3, 0, width / 2 * 2)?
            .contiguous()?
            .reshape((batch, channels, height / 2, 2, width / 2, 2))?;
        larger(&larger(&windows, 5)?, 3)
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::pointwise::max_pool2(execution, inputs[0])
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn reads_base(&self) -> bool {
        true
    }

    fn scaling(&self) -> Scaling {
        Scaling::Follows
    }
}

impl PropagateBatched for MaxPool2 {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        Ok(Box::new(BatchedMaxPool { base: setup.base()?, shape: setup.shapes[0] }))
    }
}

/// As [`MaxPoolRule`], for batched probes.
#[derive(Debug)]
struct BatchedMaxPool {
    /// Input at the base point.
    base: Tensor,
    shape: ActivationShape,
}

impl BatchedRule for BatchedMaxPool {
    fn apply(&self, inputs: &[Option<&Change>], _: Option<&Tensor>) -> Result<Tensor> {
        batched::max_pool_change(only(inputs)?, &self.base)
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        4 * numbers(self.shape, inputs[0])
    }
}

/// Numbers of an activation that change, per image.
fn numbers([channels, height, width]: ActivationShape, support: Support) -> u64 {
    (support.planes(channels) * height * width) as u64
}

/// New maximum of each window minus the old one.
#[derive(Debug)]
struct MaxPoolRule {
    isa: Isa,
    input: usize,
    shape: ActivationShape,
    lanes: usize,
}

impl<T: Element> Propagate<T> for MaxPool2 {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        let (input, shape, lanes) = (setup.inputs[0], setup.shapes[0], setup.blocks.lanes);
        Ok(Box::new(MaxPoolRule { isa: setup.isa, input, shape, lanes }))
    }
}

impl<T: Element> Rule<T> for MaxPoolRule {
    fn apply(
        &self,
        place: Place<T>,
        inputs: &[Delta<T>],
        _: &[Affine<T>],
        out: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let [_, height, width] = self.shape;
        let len = height * width * self.lanes;
        let Delta { support, data } = inputs[0];
        let base = &place.value(self.input)[support.first() * len..][..data.len()];
        pointwise::max_pool2(self.isa, [height, width], base, data, out);
    }

    fn is_max_pool2(&self) -> bool {
        true
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        4 * numbers(self.shape, inputs[0])
    }
}

/// Mean over rows and columns: (B, C, H, W) to (B, C).
#[derive(Debug, Clone)]
pub struct GlobalAvgPool;

impl Layer for GlobalAvgPool {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        [inputs[0][0], 1, 1]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].flatten_from(2)?.mean(2)?.unsqueeze(2)?.unsqueeze(3)
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::pointwise::plane_means(execution, inputs[0])
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn scaling(&self) -> Scaling {
        Scaling::Follows
    }
}

impl PropagateBatched for GlobalAvgPool {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        Ok(Box::new(BatchedAvgPool { shape: setup.shapes[0] }))
    }
}

/// As [`GlobalAvgPoolRule`], for batched probes.
#[derive(Debug)]
struct BatchedAvgPool {
    shape: ActivationShape,
}

impl BatchedRule for BatchedAvgPool {
    fn apply(&self, inputs: &[Option<&Change>], _: Option<&Tensor>) -> Result<Tensor> {
        let pass = LayerPass { mode: Mode::Train, epilogue: Epilogue::None, moments: None };
        GlobalAvgPool.forward_batched(&pass, &[], &[&only(inputs)?.data])
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        numbers(self.shape, inputs[0])
    }
}

/// The same map applied to δ.
#[derive(Debug)]
struct GlobalAvgPoolRule {
    isa: Isa,
    shape: ActivationShape,
}

impl<T: Element> Propagate<T> for GlobalAvgPool {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        Ok(Box::new(GlobalAvgPoolRule { isa: setup.isa, shape: setup.shapes[0] }))
    }
}

impl<T: Element> Rule<T> for GlobalAvgPoolRule {
    fn apply(&self, _: Place<T>, inputs: &[Delta<T>], _: &[Affine<T>], out: &mut [T], _: &mut Scratch<T>) {
        let [_, height, width] = self.shape;
        pointwise::plane_means(self.isa, height * width, inputs[0].data, out);
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        numbers(self.shape, inputs[0])
    }
}

impl<T: Element> Blockwise<T> for MaxPool2 {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        let [_, height, width] = setup.shapes[0];
        Ok(Box::new(StreamedMaxPool { isa: setup.isa, size: [height, width], lanes: setup.blocks.lanes }))
    }
}

struct StreamedMaxPool {
    isa: Isa,
    size: [usize; 2],
    lanes: usize,
}

impl<T: Element> Streamed<T> for StreamedMaxPool {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        pointwise::max_pool2_forward(self.isa, self.size, inputs[0], out);
    }

    fn by_rows(&self) -> Option<&dyn StreamedRows<T>> {
        Some(self)
    }
}

impl<T: Element> StreamedRows<T> for StreamedMaxPool {
    fn rows_read(&self, rows: Rows) -> Rows {
        Rows { start: 2 * rows.start, end: 2 * rows.end }
    }

    fn run_rows(&self, inputs: &[&[T]], _: &[Moments], rows: Rows, out: &mut [T], _: &mut Scratch<T>) {
        let [height, width] = self.size;
        let (row, half) = (width * self.lanes, width / 2 * self.lanes);
        let planes = inputs[0].chunks_exact(height * row).zip(out.chunks_exact_mut(height / 2 * half));
        for (input, out) in planes {
            let read = StreamedRows::<T>::rows_read(self, rows);
            let size = [read.end - read.start, width];
            pointwise::max_pool2_forward(self.isa, size, read.of(input, row), rows.of_mut(out, half));
        }
    }
}

impl<T: Element> Blockwise<T> for GlobalAvgPool {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        let [_, height, width] = setup.shapes[0];
        Ok(Box::new(StreamedAvgPool { isa: setup.isa, plane: height * width }))
    }
}

struct StreamedAvgPool {
    isa: Isa,
    plane: usize,
}

impl<T: Element> Streamed<T> for StreamedAvgPool {
    fn run(&self, inputs: &[&[T]], _: &[Moments], out: &mut [T], _: &mut Scratch<T>) {
        pointwise::plane_means(self.isa, self.plane, inputs[0], out);
    }
}
