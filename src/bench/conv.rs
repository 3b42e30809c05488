//! Speed of the convolution kernels alone, at the sizes of ResNet-20's layers.

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::{GIGA, Machine, Seconds};
use crate::Result;
use crate::kernels::lanes::Blocks;
use crate::kernels::lanes::geometry::Geometry;
use crate::kernels::ops::{Execution, conv, to_lanes};
use crate::kernels::{Isa, Split};
use crate::rng::{Purpose, Stream};

/// A measurement of the convolution kernels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Where it was taken.
    #[serde(flatten)]
    pub machine: Machine,
    /// Images in the batch B.
    pub batch_size: usize,
    /// Runs of which the medians are given.
    pub repeats: usize,
    /// One per size.
    pub layers: Vec<LayerSpeed>,
}

/// Speeds of one size, in 10⁹ operations per second and as part of the machine's peak. A gradient
/// counts as many operations as the forward pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerSpeed {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Input rows and columns.
    pub size: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Forward pass.
    pub forward_gflops: f64,
    /// Forward pass, part of the peak.
    pub forward_share: f64,
    /// Gradient with respect to the input.
    pub grad_input_gflops: f64,
    /// Gradient with respect to the input, part of the peak.
    pub grad_input_share: f64,
    /// Gradient with respect to the weight.
    pub grad_weight_gflops: f64,
    /// Gradient with respect to the weight, part of the peak.
    pub grad_weight_share: f64,
}

/// Measures the kernels on batches of `batch_size` images in f32, each `repeats` times after one run
/// to warm up.
///
/// # Errors
/// If a kernel fails.
///
/// # Panics
/// If `repeats` is 0.
pub fn measure(batch_size: usize, repeats: usize) -> Result<Measurement> {
    let machine = Machine::measure(&Device::Cpu)?;
    let layers = geometries(batch_size)
        .iter()
        .map(|geometry| measure_layer(geometry, repeats, &machine))
        .collect::<Result<_>>()?;
    Ok(Measurement { machine, batch_size, repeats, layers })
}

/// The 3x3 layers of the three stages, a transition between two, and a 1x1 layer.
fn geometries(batch: usize) -> [Geometry; 5] {
    let layer = |c_in, c_out, size, kernel, stride| Geometry {
        batch,
        c_in,
        height: size,
        width: size,
        c_out,
        kernel,
        stride,
        padding: kernel / 2,
    };
    [
        layer(16, 16, 32, 3, 1),
        layer(32, 32, 16, 3, 1),
        layer(64, 64, 8, 3, 1),
        layer(16, 32, 32, 3, 2),
        layer(64, 64, 8, 1, 1),
    ]
}

fn measure_layer(g: &Geometry, repeats: usize, machine: &Machine) -> Result<LayerSpeed> {
    let isa = Isa::current();
    let blocks = Blocks::new::<f32>(isa, g.batch);
    let execution = Execution { isa, blocks, split: Split::Threads, is_exact: false };
    let input = to_lanes(&noise(&[g.batch, g.c_in, g.height, g.width], 0)?, blocks)?;
    let weight = noise(&[g.c_out, g.c_in, g.kernel, g.kernel], 1)?;
    let grad_out = to_lanes(&noise(&[g.batch, g.c_out, g.out_height(), g.out_width()], 2)?, blocks)?;
    let gflops = |work: &dyn Fn() -> candle_core::Result<Tensor>| -> Result<f64> {
        let seconds = Seconds::of_repeated(repeats, || {
            work()?;
            Ok(())
        })?;
        Ok(g.flops() as f64 / seconds.median / GIGA)
    };
    let forward = gflops(&|| conv::conv2d(execution, &input, &weight, g.stride, g.padding))?;
    let grad_input = gflops(&|| conv::grad_input(execution, *g, &grad_out, &weight))?;
    let grad_weight = gflops(&|| conv::grad_weight(execution, *g, &grad_out, &input))?;
    Ok(LayerSpeed {
        c_in: g.c_in,
        c_out: g.c_out,
        size: g.height,
        kernel: g.kernel,
        stride: g.stride,
        forward_gflops: forward,
        forward_share: machine.share_of_peak(forward),
        grad_input_gflops: grad_input,
        grad_input_share: machine.share_of_peak(grad_input),
        grad_weight_gflops: grad_weight,
        grad_weight_share: machine.share_of_peak(grad_weight),
    })
}

/// Standard normal numbers in f32.
fn noise(shape: &[usize], lane: u32) -> Result<Tensor> {
    let mut values = vec![0.0; shape.iter().product()];
    Stream::new(0, Purpose::Init, 0).lane(lane).fill_normal(&mut values);
    let values = values.into_iter().map(|value| value as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
