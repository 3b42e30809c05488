//! Direct convolution on flattened, padded planes.
//!
//! An image is copied once into zero-padded planes, one per channel and stride phase, so that for
//! every tap (kh, kw) the inputs of consecutive outputs are consecutive in memory: output `p` of a
//! plane reads `plane[p + offset(tap)]`. Rows run into each other, which computes a few unused
//! outputs at row ends and makes one loop serve every image size, kernel size and stride. A
//! register tile holds `CHANNELS` output channels by `VECTORS` registers of outputs.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Geometry;
use crate::kernels::{Element, Isa, Split};

/// Where a tap reads, relative to an output's position.
#[derive(Debug, Clone, Copy)]
struct Tap {
    /// Offset from the start of the channel's planes.
    offset: usize,
}

/// Shape of the padded planes of one image.
struct Planes {
    /// Distance between rows.
    row: usize,
    /// Numbers per phase plane.
    plane: usize,
    /// Numbers per channel: stride² phase planes.
    channel: usize,
    /// Outputs computed per channel, unused ones at row ends included.
    flat: usize,
    taps: Vec<Tap>,
}

impl Planes {
    fn new(g: &Geometry) -> Self {
        let rows = (g.height + 2 * g.padding).div_ceil(g.stride);
        let row = (g.width + 2 * g.padding).div_ceil(g.stride);
        let plane = rows * row;
        let taps = (0..g.kernel * g.kernel)
            .map(|tap| {
                let (kh, kw) = (tap / g.kernel, tap % g.kernel);
                let phase = (kh % g.stride) * g.stride + kw % g.stride;
                Tap { offset: phase * plane + (kh / g.stride) * row + kw / g.stride }
            })
            .collect();
        let flat = (g.out_height() - 1) * row + g.out_width();
        Self { row, plane, channel: plane * g.stride * g.stride, flat, taps }
    }

    /// Copies one image (C, H, W) into zeroed planes.
    fn pack<T: Element>(&self, g: &Geometry, image: &[T], planes: &mut [T]) {
        for (c, channel) in image.chunks_exact(g.height * g.width).enumerate() {
            let planes = &mut planes[c * self.channel..][..self.channel];
            for (y, line) in channel.chunks_exact(g.width).enumerate() {
                let padded_y = y + g.padding;
                let (phase_y, row) = (padded_y % g.stride, padded_y / g.stride);
                if g.stride == 1 {
                    planes[row * self.row + g.padding..][..g.width].copy_from_slice(line);
                    continue;
                }
                for (x, &value) in line.iter().enumerate() {
                    let padded_x = x + g.padding;
                    let phase = phase_y * g.stride + padded_x % g.stride;
                    planes[phase * self.plane + row * self.row + padded_x / g.stride] = value;
                }
            }
        }
    }
}

/// A register tile: output channels by registers of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    channels: usize,
    vectors: usize,
}

/// Tiles that fit the register file: 32 registers with AVX-512 and NEON, 16 otherwise.
const TILES_32: [Tile; 4] = [
    Tile { channels: 8, vectors: 3 },
    Tile { channels: 6, vectors: 4 },
    Tile { channels: 4, vectors: 5 },
    Tile { channels: 10, vectors: 2 },
];
const TILES_16: [Tile; 3] =
    [Tile { channels: 4, vectors: 3 }, Tile { channels: 6, vectors: 2 }, Tile { channels: 12, vectors: 1 }];

/// The tile that computes the fewest unused outputs for this shape.
fn best_tile(isa: Isa, lanes: usize, c_out: usize, flat: usize) -> Tile {
    let tiles: &[Tile] = if matches!(isa, Isa::Avx512 | Isa::Neon) { &TILES_32 } else { &TILES_16 };
    *tiles
        .iter()
        .min_by_key(|tile| {
            c_out.next_multiple_of(tile.channels) * flat.next_multiple_of(tile.vectors * lanes)
        })
        .expect("the list is not empty")
}

/// Weights in the order the kernel reads them: blocks of `channels` outputs, then input channel,
/// tap, output channel in the block; missing channels of the last block are zero.
fn pack_weight<T: Element>(g: &Geometry, weight: &[T], channels: usize) -> Vec<T> {
    let n_taps = g.kernel * g.kernel;
    let n_blocks = g.c_out.div_ceil(channels);
    let mut packed = vec![T::ZERO; n_blocks * g.c_in * n_taps * channels];
    for o in 0..g.c_out {
        for (tap, &w) in weight[o * g.c_in * n_taps..][..g.c_in * n_taps].iter().enumerate() {
            packed[((o / channels) * g.c_in * n_taps + tap) * channels + o % channels] = w;
        }
    }
    packed
}

/// One block of output channels of one image: `out` is (CHANNELS, stride of `out_row`).
struct Block<'a, T, const CHANNELS: usize, const VECTORS: usize> {
    planes: &'a [T],
    channel: usize,
    taps: &'a [Tap],
    weight: &'a [T],
    flat: usize,
    out_row: usize,
    out: &'a mut [T],
}

// Loops over constant ranges instead of iterators: they are what unrolls into registers reliably.
#[expect(clippy::needless_range_loop, reason = "see above")]
impl<T: Element, const CHANNELS: usize, const VECTORS: usize> WithSimd for Block<'_, T, CHANNELS, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = VECTORS * T::lanes::<S>();
        let n_taps = self.taps.len();
        let c_in = self.weight.len() / (n_taps * CHANNELS);
        let mut start = 0;
        while start < self.flat {
            let mut sums = [[T::splat(simd, T::ZERO); VECTORS]; CHANNELS];
            for c in 0..c_in {
                let base = c * self.channel + start;
                for tap in 0..n_taps {
                    let inputs = T::vectors::<S>(&self.planes[base + self.taps[tap].offset..][..width]);
                    let inputs: &[T::Vector<S>; VECTORS] =
                        inputs.try_into().expect("width is VECTORS registers");
                    let inputs = *inputs;
                    let weights: &[T; CHANNELS] = self.weight[(c * n_taps + tap) * CHANNELS..][..CHANNELS]
                        .try_into()
                        .expect("a block has CHANNELS weights per tap");
                    for o in 0..CHANNELS {
                        let weight = T::splat(simd, weights[o]);
                        for v in 0..VECTORS {
                            sums[o][v] = T::mul_add(simd, weight, inputs[v], sums[o][v]);
                        }
                    }
                }
            }
            for o in 0..CHANNELS {
                let out = &mut self.out[o * self.out_row + start..][..width];
                let out: &mut [T::Vector<S>; VECTORS] =
                    T::vectors_mut::<S>(out).try_into().expect("width is VECTORS registers");
                *out = sums[o];
            }
            start += width;
        }
    }
}

/// Lanes of the widest register: the zeros that must follow an image's output gradient.
const MAX_LANES: usize = 16;

/// Numbers read or written past the end of a plane by the last tile.
const SLACK: usize = 128;

/// `out` (B, C_out, H', W') = `input` (B, C_in, H, W) * `weight` (C_out, C_in, K, K), no bias.
pub(super) fn forward<T: Element>(
    isa: Isa,
    split: Split,
    geometry: &Geometry,
    input: &[T],
    weight: &[T],
    out: &mut [T],
) {
    let g = geometry;
    let planes = Planes::new(g);
    let lanes = isa.dispatch(Lanes::<T>(std::marker::PhantomData));
    let tile = best_tile(isa, lanes, g.c_out, planes.flat);
    let weight = pack_weight(g, weight, tile.channels);
    let (in_len, out_len) = (g.c_in * g.height * g.width, g.c_out * g.out_height() * g.out_width());
    let scratch = || {
        let padded = vec![T::ZERO; g.c_in * planes.channel + SLACK];
        (padded, vec![T::ZERO; tile.channels * (planes.flat + SLACK)])
    };
    let image = |(padded, flat_out): &mut (Vec<T>, Vec<T>), input: &[T], out: &mut [T]| {
        planes.pack(g, input, padded);
        forward_image(isa, tile, g, &planes, padded, &weight, flat_out, out);
    };
    match split {
        Split::Serial => {
            let mut scratch = scratch();
            for (input, out) in input.chunks_exact(in_len).zip(out.chunks_exact_mut(out_len)) {
                image(&mut scratch, input, out);
            }
        }
        Split::Threads => {
            input
                .par_chunks_exact(in_len)
                .zip(out.par_chunks_exact_mut(out_len))
                .for_each_init(scratch, |scratch, (input, out)| image(scratch, input, out));
        }
    }
}

struct Lanes<T>(std::marker::PhantomData<T>);

impl<T: Element> WithSimd for Lanes<T> {
    type Output = usize;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        T::lanes::<S>()
    }
}

#[expect(clippy::too_many_arguments, reason = "one call site; the arguments are the loop's invariants")]
fn forward_image<T: Element>(
    isa: Isa,
    tile: Tile,
    g: &Geometry,
    planes: &Planes,
    padded: &[T],
    weight: &[T],
    flat_out: &mut [T],
    out: &mut [T],
) {
    let (out_h, out_w) = (g.out_height(), g.out_width());
    let block_len = g.c_in * g.kernel * g.kernel * tile.channels;
    for (block, out) in out.chunks_mut(tile.channels * out_h * out_w).enumerate() {
        let weight = &weight[block * block_len..][..block_len];
        match (tile.channels, tile.vectors) {
            (8, 3) => isa.dispatch(block_of::<T, 8, 3>(planes, padded, weight, flat_out)),
            (6, 4) => isa.dispatch(block_of::<T, 6, 4>(planes, padded, weight, flat_out)),
            (4, 5) => isa.dispatch(block_of::<T, 4, 5>(planes, padded, weight, flat_out)),
            (10, 2) => isa.dispatch(block_of::<T, 10, 2>(planes, padded, weight, flat_out)),
            (4, 3) => isa.dispatch(block_of::<T, 4, 3>(planes, padded, weight, flat_out)),
            (6, 2) => isa.dispatch(block_of::<T, 6, 2>(planes, padded, weight, flat_out)),
            (12, 1) => isa.dispatch(block_of::<T, 12, 1>(planes, padded, weight, flat_out)),
            other => unreachable!("tile {other:?} is in no list"),
        }
        for (flat, plane) in
            flat_out.chunks_exact(planes.flat + SLACK).zip(out.chunks_exact_mut(out_h * out_w))
        {
            for (line, flat) in plane.chunks_exact_mut(out_w).zip(flat.chunks(planes.row)) {
                line.copy_from_slice(&flat[..out_w]);
            }
        }
    }
}

fn block_of<'a, T, const CHANNELS: usize, const VECTORS: usize>(
    planes: &'a Planes,
    padded: &'a [T],
    weight: &'a [T],
    out: &'a mut [T],
) -> Block<'a, T, CHANNELS, VECTORS> {
    Block {
        planes: padded,
        channel: planes.channel,
        taps: &planes.taps,
        weight,
        flat: planes.flat,
        out_row: planes.flat + SLACK,
        out,
    }
}

/// Gradient with respect to the input: the convolution of the (dilated) output gradient with the
/// weights turned by half a circle and transposed.
pub(super) fn grad_input<T: Element>(
    isa: Isa,
    split: Split,
    geometry: &Geometry,
    grad_out: &[T],
    weight: &[T],
    grad_input: &mut [T],
) {
    let g = geometry;
    let n_taps = g.kernel * g.kernel;
    let mut turned = vec![T::ZERO; weight.len()];
    for o in 0..g.c_out {
        for i in 0..g.c_in {
            for tap in 0..n_taps {
                turned[(i * g.c_out + o) * n_taps + n_taps - 1 - tap] =
                    weight[(o * g.c_in + i) * n_taps + tap];
            }
        }
    }
    // The gradient, spread out by the stride, with enough zero rows that the result is as large as
    // the input even where the last input rows were never read.
    let (out_h, out_w) = (g.out_height(), g.out_width());
    let (height, width) = (g.height + 2 * g.padding + 1 - g.kernel, g.width + 2 * g.padding + 1 - g.kernel);
    let dilated;
    let grad_out = if g.stride == 1 {
        grad_out
    } else {
        let mut spread = vec![T::ZERO; g.batch * g.c_out * height * width];
        for (plane, spread) in
            grad_out.chunks_exact(out_h * out_w).zip(spread.chunks_exact_mut(height * width))
        {
            for (y, line) in plane.chunks_exact(out_w).enumerate() {
                for (x, &value) in line.iter().enumerate() {
                    spread[y * g.stride * width + x * g.stride] = value;
                }
            }
        }
        dilated = spread;
        &dilated
    };
    let transposed = Geometry {
        batch: g.batch,
        c_in: g.c_out,
        height,
        width,
        c_out: g.c_in,
        kernel: g.kernel,
        stride: 1,
        padding: g.kernel - 1,
    };
    if g.padding == 0 {
        return forward(isa, split, &transposed, grad_out, &turned, grad_input);
    }
    // Gradients of the padding are computed and dropped.
    let (padded_h, padded_w) = (transposed.out_height(), transposed.out_width());
    let mut padded = vec![T::ZERO; g.batch * g.c_in * padded_h * padded_w];
    forward(isa, split, &transposed, grad_out, &turned, &mut padded);
    for (padded, plane) in
        padded.chunks_exact(padded_h * padded_w).zip(grad_input.chunks_exact_mut(g.height * g.width))
    {
        for (y, line) in plane.chunks_exact_mut(g.width).enumerate() {
            line.copy_from_slice(&padded[(y + g.padding) * padded_w + g.padding..][..g.width]);
        }
    }
}

/// Images whose planes are laid side by side for the weight gradient. Fixed, so that the order of
/// additions does not depend on the number of threads.
const IMAGES_PER_CHUNK: usize = 8;

/// Gradient with respect to the weight: dot products of shifted input planes with the output
/// gradient, over the planes of several images at a time.
pub(super) fn grad_weight<T: Element>(
    isa: Isa,
    split: Split,
    geometry: &Geometry,
    grad_out: &[T],
    input: &[T],
    grad_weight: &mut [T],
) {
    let g = geometry;
    let planes = Planes::new(g);
    let (in_len, out_len) = (g.c_in * g.height * g.width, g.c_out * g.out_height() * g.out_width());
    let chunk = |(input, grad_out): (&[T], &[T])| {
        let n_images = input.len() / in_len;
        grad_weight_chunk(isa, g, &planes, n_images, grad_out, input)
    };
    let inputs = input.chunks(in_len * IMAGES_PER_CHUNK);
    let grads = grad_out.chunks(out_len * IMAGES_PER_CHUNK);
    let partial: Vec<Vec<T>> = match split {
        Split::Serial => inputs.zip(grads).map(chunk).collect(),
        Split::Threads => inputs.zip(grads).collect::<Vec<_>>().into_par_iter().map(chunk).collect(),
    };
    for (idx, grad) in grad_weight.iter_mut().enumerate() {
        *grad = T::of(partial.iter().map(|sums| sums[idx].wide()).sum());
    }
}

fn grad_weight_chunk<T: Element>(
    isa: Isa,
    g: &Geometry,
    planes: &Planes,
    n_images: usize,
    grad_out: &[T],
    input: &[T],
) -> Vec<T> {
    let (in_len, out_len) = (g.c_in * g.height * g.width, g.c_out * g.out_height() * g.out_width());
    let (out_h, out_w) = (g.out_height(), g.out_width());
    // Channel-major planes, images side by side; the output gradient in the same positions as the
    // outputs, with zeros where no output is, so that one dot product runs over all images.
    let image_len = planes.channel.max(planes.flat + MAX_LANES);
    let run = n_images * image_len;
    let mut x = vec![T::ZERO; g.c_in * run + SLACK];
    let mut grad = vec![T::ZERO; g.c_out * run + SLACK];
    let mut padded = vec![T::ZERO; g.c_in * planes.channel];
    for image in 0..n_images {
        planes.pack(g, &input[image * in_len..][..in_len], &mut padded);
        for (c, channel) in padded.chunks_exact(planes.channel).enumerate() {
            x[c * run + image * image_len..][..planes.channel].copy_from_slice(channel);
        }
        for (o, plane) in grad_out[image * out_len..][..out_len].chunks_exact(out_h * out_w).enumerate() {
            for (y, line) in plane.chunks_exact(out_w).enumerate() {
                grad[o * run + image * image_len + y * planes.row..][..out_w].copy_from_slice(line);
            }
        }
    }
    let mut sums = vec![T::ZERO; g.c_out * g.c_in * g.kernel * g.kernel];
    isa.dispatch(Correlate {
        g,
        taps: &planes.taps,
        run,
        image_len,
        n_images,
        used: planes.flat,
        x: &x,
        grad: &grad,
        sums: &mut sums,
    });
    sums
}

struct Correlate<'a, T> {
    g: &'a Geometry,
    taps: &'a [Tap],
    run: usize,
    image_len: usize,
    n_images: usize,
    used: usize,
    x: &'a [T],
    grad: &'a [T],
    sums: &'a mut [T],
}

/// Output channels and taps per register tile of the weight gradient.
const CORRELATE_CHANNELS: usize = 4;
const CORRELATE_TAPS: usize = 3;

#[expect(clippy::needless_range_loop, reason = "as in Block")]
impl<T: Element> WithSimd for Correlate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = T::lanes::<S>();
        let n_taps = self.taps.len();
        for o in (0..self.g.c_out).step_by(CORRELATE_CHANNELS) {
            // The last block repeats its last channel rather than read past the end.
            let grads: [usize; CORRELATE_CHANNELS] =
                std::array::from_fn(|j| (o + j).min(self.g.c_out - 1) * self.run);
            for i in 0..self.g.c_in {
                for first_tap in (0..n_taps).step_by(CORRELATE_TAPS) {
                    let inputs: [usize; CORRELATE_TAPS] = std::array::from_fn(|j| {
                        i * self.run + self.taps[(first_tap + j).min(n_taps - 1)].offset
                    });
                    let mut sums = [[T::splat(simd, T::ZERO); CORRELATE_TAPS]; CORRELATE_CHANNELS];
                    for image in 0..self.n_images {
                        let mut p = image * self.image_len;
                        let end = p + self.used;
                        while p < end {
                            let mut x = [T::splat(simd, T::ZERO); CORRELATE_TAPS];
                            for k in 0..CORRELATE_TAPS {
                                x[k] = T::vectors::<S>(&self.x[inputs[k] + p..][..lanes])[0];
                            }
                            for j in 0..CORRELATE_CHANNELS {
                                let grad = T::vectors::<S>(&self.grad[grads[j] + p..][..lanes])[0];
                                for k in 0..CORRELATE_TAPS {
                                    sums[j][k] = T::mul_add(simd, grad, x[k], sums[j][k]);
                                }
                            }
                            p += lanes;
                        }
                    }
                    for j in 0..CORRELATE_CHANNELS.min(self.g.c_out - o) {
                        for k in 0..CORRELATE_TAPS.min(n_taps - first_tap) {
                            self.sums[((o + j) * self.g.c_in + i) * n_taps + first_tap + k] =
                                T::reduce_sum(simd, sums[j][k]);
                        }
                    }
                }
            }
        }
    }
}
