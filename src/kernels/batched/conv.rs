//! Convolution, and the change that a step of its own weight makes.

use candle_core::{DType, Result, Tensor, bail};

use super::{Arg, Call, Element, Operation, by_type, grid_of, numbers, run, stride_of};
use crate::kernels::Rounding;
use crate::kernels::lanes::geometry::Geometry;

/// Sizes of a convolution, and how it multiplies.
#[derive(Debug, Clone, Copy)]
pub struct Convolution {
    /// Step between outputs.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
    /// Rounding of the factors.
    pub rounding: Rounding,
}

/// x * weight, without a bias: x (P or 1, B, C, H, W) and weight (P or 1, C_out, C_in, K, K) give (P, B, C_out,
/// H', W'). With `channels` (P) x has one channel per probe, that one of the C_in. Such thin products are never
/// rounded: tensor cores would have nothing to gain.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn conv(x: &Tensor, weight: &Tensor, channels: Option<&Tensor>, how: Convolution) -> Result<Tensor> {
    let (x_probes, images, n_in, height, width) = x.dims5()?;
    let (weight_probes, c_out, c_in, kernel, _) = weight.dims5()?;
    let is_single = channels.is_some();
    if n_in != if is_single { 1 } else { c_in }
        || (x_probes != weight_probes && x_probes.min(weight_probes) != 1)
    {
        bail!("convolution of {:?} with {:?}", x.dims(), weight.dims());
    }
    let Convolution { stride, padding, rounding } = how;
    let geometry = Geometry { batch: images, c_in, height, width, c_out, kernel, stride, padding };
    let rounding = if is_single { Rounding::None } else { rounding };
    if rounding != Rounding::None && x.dtype() != DType::F32 {
        bail!("tensor cores multiply single precision");
    }
    let (x, weight) = (&x.contiguous()?, &weight.contiguous()?);
    run(&Conv { x, weight, channels, geometry, rounding, probes: x_probes.max(weight_probes) })
}

struct Conv<'a> {
    x: &'a Tensor,
    weight: &'a Tensor,
    channels: Option<&'a Tensor>,
    geometry: Geometry,
    rounding: Rounding,
    probes: usize,
}

/// Where in its plane the number lies that output `pixel` reads through `tap` of the kernel; none in the padding.
fn input_pixel(g: &Geometry, pixel: usize, tap: usize) -> Option<usize> {
    let row = (pixel / g.out_width() * g.stride + tap / g.kernel).checked_sub(g.padding)?;
    let column = (pixel % g.out_width() * g.stride + tap % g.kernel).checked_sub(g.padding)?;
    (row < g.height && column < g.width).then_some(row * g.width + column)
}

/// Output pixels of a block of threads.
const PIXELS: usize = 128;
/// Shared memory that every GPU gives a block without being asked, in bytes.
const SHARED: usize = 48 << 10;

/// Most input numbers per channel of a block: eight channels of them, and their weights, fit.
const MAX_NUMBERS: usize = 800;

/// Images, rows and columns of the output that a block of threads computes.
#[derive(Debug, Clone, Copy)]
struct Tile {
    images: usize,
    height: usize,
    width: usize,
    /// Input numbers per channel that it needs.
    numbers: usize,
}

impl Tile {
    fn new(geometry: &Geometry) -> Self {
        let width = geometry.out_width().min(PIXELS);
        let height = geometry.out_height().min(PIXELS / width);
        let images = (PIXELS / (width * height)).min(geometry.batch);
        let mut tile = Self { images, height, width, numbers: 0 };
        let extent = |outputs: usize| (outputs - 1) * geometry.stride + geometry.kernel;
        loop {
            tile.numbers = tile.images * extent(tile.height) * extent(tile.width);
            let part = [&mut tile.images, &mut tile.height, &mut tile.width].into_iter().find(|n| **n > 1);
            match part {
                Some(part) if tile.numbers > MAX_NUMBERS => *part = part.div_ceil(2),
                _ => return tile,
            }
        }
    }

    fn count(&self, geometry: &Geometry) -> usize {
        geometry.out_width().div_ceil(self.width)
            * geometry.out_height().div_ceil(self.height)
            * geometry.batch.div_ceil(self.images)
    }
}

impl Conv<'_> {
    fn taps(&self) -> usize {
        self.geometry.kernel * self.geometry.kernel
    }

    fn sizes(&self, n_in: usize) -> Vec<Arg<'_>> {
        let g = &self.geometry;
        let mut sizes = vec![g.batch, n_in];
        if self.rounding == Rounding::None {
            sizes.push(g.c_in);
        }
        sizes.extend([
            g.c_out,
            g.height,
            g.width,
            g.out_height(),
            g.out_width(),
            g.kernel,
            g.stride,
            g.padding,
        ]);
        sizes.into_iter().map(Arg::Int).collect()
    }

    fn values<T: Element>(&self) -> Result<Tensor> {
        let g = &self.geometry;
        let round = |values: Vec<T>| -> Vec<T> {
            values.into_iter().map(|value| self.rounding.apply_to(value)).collect()
        };
        let (x, weight) = (round(numbers(self.x)?), round(numbers(self.weight)?));
        let channels: Option<Vec<u32>> = self.channels.map(numbers).transpose()?;
        let (x_stride, weight_stride) = (stride_of(self.x)?, stride_of(self.weight)?);
        let n_in = self.x.dim(2)?;
        let (out_h, out_w, taps, plane) = (g.out_height(), g.out_width(), self.taps(), g.height * g.width);
        // The same for every plane.
        let places: Vec<Option<usize>> =
            (0..out_h * out_w * taps).map(|idx| input_pixel(g, idx / taps, idx % taps)).collect();
        let value = |probe: usize, image: usize, output: usize, pixel: usize| {
            let places = &places[pixel * taps..][..taps];
            let mut sum = 0.0;
            for slot in 0..n_in {
                let input = super::channel_of(&channels, probe, slot);
                let x = &x[probe * x_stride + (image * n_in + slot) * plane..][..plane];
                let weight = &weight[probe * weight_stride + (output * g.c_in + input) * taps..][..taps];
                for tap in 0..taps {
                    if let Some(at) = places[tap] {
                        sum += x[at].wide() * weight[tap].wide();
                    }
                }
            }
            T::of(sum)
        };
        super::from_fn(&[self.probes, g.batch, g.c_out, out_h, out_w], value)
    }
}

impl Operation for Conv<'_> {
    fn dims(&self) -> Vec<usize> {
        let g = &self.geometry;
        vec![self.probes, g.batch, g.c_out, g.out_height(), g.out_width()]
    }

    fn dtype(&self) -> DType {
        self.x.dtype()
    }

    fn place(&self) -> &Tensor {
        self.x
    }

    fn call(&self) -> Call<'_> {
        let g = &self.geometry;
        let tile = Tile::new(g);
        let n_in = self.x.dims()[2];
        let stride = |x: &Tensor| stride_of(x).unwrap_or(0);
        let strides = [Arg::Wide(stride(self.x)), Arg::Wide(stride(self.weight))];
        let tile_sizes = [tile.images, tile.height, tile.width].map(Arg::Int);
        let mut args = vec![Arg::In(self.x), Arg::In(self.weight)];
        if self.rounding == Rounding::None {
            let group = g.c_out.next_multiple_of(8).min(32);
            let bytes = self.dtype().size_in_bytes() * (tile.numbers + self.taps() * group);
            let chunk = (SHARED / bytes).clamp(1, n_in.min(8));
            args.extend([Arg::maybe(self.channels), Arg::Out]);
            args.extend(strides);
            args.extend(self.sizes(n_in));
            args.extend(tile_sizes);
            args.push(Arg::Int(chunk));
            let grid = [tile.count(g), g.c_out.div_ceil(group), self.probes];
            return Call {
                kernel: "conv",
                real: self.dtype(),
                grid,
                threads: 32 * group / 8,
                shared: chunk * bytes,
                args,
            };
        }
        // Rows of a step of a sum, in words of 4 bytes; planes start 8 banks apart.
        const ROWS: usize = 8;
        let plane = tile.numbers + (40 - tile.numbers % 32) % 32;
        let bytes = |group: usize| 4 * (ROWS * plane + group * (self.taps() * ROWS + 4));
        let mut group = g.c_out.next_multiple_of(16).min(64);
        while group > 16 && bytes(group) > SHARED {
            group -= 16;
        }
        args.push(Arg::Out);
        args.extend(strides);
        args.extend(self.sizes(n_in));
        args.extend(tile_sizes);
        args.extend([Arg::Int(plane), Arg::Int(group)]);
        Call {
            kernel: if self.rounding == Rounding::Tf32 { "conv_tf32" } else { "conv_bf16" },
            real: self.dtype(),
            grid: [tile.count(g), g.c_out.div_ceil(group), self.probes],
            threads: PIXELS,
            shared: bytes(group),
            args,
        }
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.dtype(), self.values)
    }
}

/// The change (P, B, 1, H', W') of one output channel for steps of a convolution's own parameters, with the
/// weight's sizes (C_out, C_in, K, K): x (1, B, C_in, H, W) shifted, times the step. `taps` and `inputs` (P) name
/// the moved weight's place in the kernel and its input channel, -1 for a bias; `steps` (P).
///
/// # Errors
/// If sizes do not fit or the device fails.
pub fn conv_seed(
    x: &Tensor,
    kernel: usize,
    how: Convolution,
    inputs: &[i32],
    taps: &[u32],
    steps: &[f64],
) -> Result<Tensor> {
    let (_, images, c_in, height, width) = x.dims5()?;
    let Convolution { stride, padding, .. } = how;
    let geometry = Geometry { batch: images, c_in, height, width, c_out: 1, kernel, stride, padding };
    let device = x.device();
    let inputs = Tensor::from_slice(inputs, inputs.len(), device)?;
    let taps = Tensor::from_slice(taps, taps.len(), device)?;
    let steps = super::norm::reals(steps, steps.len(), x)?;
    run(&Seed { x, inputs, taps, steps, geometry })
}

struct Seed<'a> {
    x: &'a Tensor,
    inputs: Tensor,
    taps: Tensor,
    steps: Tensor,
    geometry: Geometry,
}

impl Seed<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let g = &self.geometry;
        let x: Vec<T> = numbers(self.x)?;
        let (inputs, taps): (Vec<i32>, Vec<u32>) = (numbers(&self.inputs)?, numbers(&self.taps)?);
        let steps: Vec<T> = numbers(&self.steps)?;
        super::from_fn(&self.dims(), |probe, image, _, pixel| {
            let Ok(input) = usize::try_from(inputs[probe]) else { return steps[probe] };
            match input_pixel(g, pixel, taps[probe] as usize) {
                Some(at) => steps[probe] * x[(image * g.c_in + input) * g.height * g.width + at],
                None => T::ZERO,
            }
        })
    }
}

impl Operation for Seed<'_> {
    fn dims(&self) -> Vec<usize> {
        let g = &self.geometry;
        vec![self.steps.elem_count(), g.batch, 1, g.out_height(), g.out_width()]
    }

    fn dtype(&self) -> DType {
        self.x.dtype()
    }

    fn place(&self) -> &Tensor {
        self.x
    }

    fn call(&self) -> Call<'_> {
        let g = &self.geometry;
        let sizes = [
            g.batch,
            g.c_in,
            g.height,
            g.width,
            g.out_height(),
            g.out_width(),
            g.kernel,
            g.stride,
            g.padding,
        ];
        let mut args =
            vec![Arg::In(self.x), Arg::In(&self.inputs), Arg::In(&self.taps), Arg::In(&self.steps), Arg::Out];
        args.extend(sizes.map(Arg::Int));
        let grid = grid_of(g.batch * g.out_height() * g.out_width(), self.steps.elem_count());
        Call { kernel: "conv_seed", real: self.dtype(), grid, threads: super::THREADS, shared: 0, args }
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.dtype(), self.values)
    }
}
