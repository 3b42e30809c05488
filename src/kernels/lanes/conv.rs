//! Convolution without bias on blocks of images.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::finish::{Finish, Finisher};
use super::geometry::Geometry;
use super::tile::{Offsets, Packed, Walk, pixels, product};
use super::winograd::Winograd;
use super::{Out, Scratch};
use crate::kernels::{Element, Isa};

/// How to convolve an input whose channels are all there.
#[derive(Debug)]
enum Dense<T> {
    Direct(Packed<T>),
    Winograd(Winograd<T>),
}

/// A convolution prepared for repeated use with the same weights.
#[derive(Debug)]
pub struct Conv<T> {
    isa: Isa,
    lanes: usize,
    geometry: Geometry,
    dense: Dense<T>,
    /// The weights again, for an input that is zero but for some channels, where minimal filtering has those of
    /// dense ones. None unless asked for.
    part: Option<Packed<T>>,
    /// Where tap k of input channel i lies in the padded planes: `offsets[i · K² + k]`.
    offsets: Vec<usize>,
}

/// Rows that go through consecutive layers together, a multiple of those of a tile of minimal filtering: few
/// enough that they stay in the second-level cache, enough that memory is read in long runs.
pub const STRIP: usize = 8;

/// Minimal filtering pays from this many 4x4 tiles per plane and channels on.
const WINOGRAD_TILES: usize = 4;
const WINOGRAD_CHANNELS: usize = 8;

impl<T: Element> Conv<T> {
    /// Prepares `weight` (C_out, C_in, K, K) for inputs of `geometry`, whose batch is not used; by
    /// minimal filtering where that pays.
    #[must_use]
    pub fn new(isa: Isa, lanes: usize, geometry: Geometry, weight: &[f64]) -> Self {
        let g = geometry;
        let tiles = g.height.div_ceil(4) * g.width.div_ceil(4);
        let pays = (g.kernel, g.stride, g.padding) == (3, 1, 1)
            && tiles >= WINOGRAD_TILES
            && g.c_in.min(g.c_out) >= WINOGRAD_CHANNELS;
        if !pays {
            return Self::direct(isa, lanes, geometry, weight);
        }
        let dense = Dense::Winograd(Winograd::new(isa, [g.c_out, g.c_in], [g.height, g.width], weight));
        Self { isa, lanes, geometry, dense, part: None, offsets: offsets(&g) }
    }

    /// The same without minimal filtering, which rounds a few times more.
    #[must_use]
    pub fn direct(isa: Isa, lanes: usize, geometry: Geometry, weight: &[f64]) -> Self {
        let (dense, offsets) = (Dense::Direct(packed(isa, &geometry, weight)), offsets(&geometry));
        Self { isa, lanes, geometry, dense, part: None, offsets }
    }

    /// As [`Conv::new`], prepared for [`Conv::run_channels`] too.
    #[must_use]
    pub fn with_channels(isa: Isa, lanes: usize, geometry: Geometry, weight: &[f64]) -> Self {
        let conv = Self::new(isa, lanes, geometry, weight);
        let is_direct = matches!(conv.dense, Dense::Direct(_));
        Self { part: (!is_direct).then(|| packed(isa, &geometry, weight)), ..conv }
    }

    /// Numbers per image of the output.
    fn out_plane(&self) -> usize {
        self.geometry.out_height() * self.geometry.out_width()
    }

    /// Multiplications and additions that one image costs, for a dense input.
    #[must_use]
    pub fn flops(&self) -> u64 {
        match &self.dense {
            Dense::Direct(_) => self.flops_of(self.geometry.c_in),
            Dense::Winograd(op) => op.flops(),
        }
    }

    /// The same for an input of so many channels.
    #[must_use]
    pub fn flops_of(&self, channels: usize) -> u64 {
        let g = &self.geometry;
        2 * (g.c_out * self.out_plane() * channels * g.kernel * g.kernel) as u64
    }

    /// `out` (C_out, H', W', lane) of a dense `input` (C_in, H, W, lane).
    pub fn run<'o>(&self, input: &[T], out: impl Into<Out<'o, T>>, scratch: &mut Scratch<T>) {
        self.run_rows(input, 0..self.geometry.out_height(), out, scratch);
    }

    /// Rows `rows` of it; the first must be a multiple of [`STRIP`].
    pub fn run_rows<'o>(
        &self,
        input: &[T],
        rows: Range<usize>,
        out: impl Into<Out<'o, T>>,
        scratch: &mut Scratch<T>,
    ) {
        let out = out.into();
        match &self.dense {
            Dense::Direct(weight) => self.run_direct(weight, 0, input, rows, None, out, scratch),
            Dense::Winograd(op) => op.run(self.isa, self.lanes, input, rows, None, out, scratch),
        }
    }

    /// As [`Conv::run`], and what follows, at once.
    ///
    /// # Panics
    /// If `finish` has fewer maps than there are output channels.
    pub fn run_finished(&self, input: &[T], finish: &Finish<T>, out: &mut [T], scratch: &mut Scratch<T>) {
        let (rows, finish) = (0..self.geometry.out_height(), Some(finish));
        match &self.dense {
            Dense::Direct(weight) => self.run_direct(weight, 0, input, rows, finish, out.into(), scratch),
            Dense::Winograd(op) => op.run(self.isa, self.lanes, input, rows, finish, out.into(), scratch),
        }
    }

    /// Rows `rows` of `out` (C_out, H', W', lane), of an input that is `planes` (channel, H, W, lane) from channel
    /// `first` on, for as many as there are, and zero elsewhere.
    ///
    /// # Panics
    /// If made by [`Conv::new`] for minimal filtering.
    pub fn run_channels(
        &self,
        first: usize,
        planes: &[T],
        rows: Range<usize>,
        out: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let weight = match (&self.dense, &self.part) {
            (Dense::Direct(weight), _) | (_, Some(weight)) => weight,
            (Dense::Winograd(_), None) => panic!("weights for some channels only were not asked for"),
        };
        self.run_direct(weight, first, planes, rows, None, out.into(), scratch);
    }

    /// `input` has channels from `first` on.
    #[expect(clippy::too_many_arguments, reason = "one call, of three convolutions")]
    fn run_direct(
        &self,
        weight: &Packed<T>,
        first: usize,
        input: &[T],
        rows: Range<usize>,
        finish: Option<&Finish<T>>,
        mut out: Out<T>,
        scratch: &mut Scratch<T>,
    ) {
        let g = &self.geometry;
        let row = g.width + 2 * g.padding;
        let channels = input.len() / (g.height * g.width * self.lanes);
        let padded = if g.padding == 0 {
            input
        } else {
            let padded = scratch.padded.reserve(channels * (g.height + 2 * g.padding) * row * self.lanes);
            let read = rows.start * g.stride..(rows.end - 1) * g.stride + g.kernel;
            pad(g, self.lanes, input, read, padded);
            padded
        };
        let input = &padded[rows.start * g.stride * row * self.lanes..];
        let out = out.part(rows.start * g.out_width() * self.lanes..out.len());
        let walk = Walk {
            offsets: Offsets::new(&self.offsets[..channels * g.kernel * g.kernel]),
            first: first * g.kernel * g.kernel,
            rows: rows.len(),
            columns: g.out_width(),
            in_row: g.stride * row,
            in_step: g.stride,
            out_channel: self.out_plane(),
            out_row: g.out_width(),
        };
        self.isa.dispatch(Direct { weight, walk, input, finish, out });
    }

    /// Adds to lane `lane` of `out` (C_out, H', W', lane) what a shift of the weight at flat index `at` adds to the
    /// convolution of `input` (C_in, H, W, lane).
    pub fn shift_lane(&self, input: &[T], at: usize, shift: T, lane: usize, out: &mut [T]) {
        let (g, lanes) = (&self.geometry, self.lanes);
        let taps = g.kernel * g.kernel;
        let (o, i, tap) = (at / (g.c_in * taps), at / taps % g.c_in, at % taps);
        let plane = &input[i * g.height * g.width * lanes..][..g.height * g.width * lanes];
        let out = &mut out[o * self.out_plane() * lanes..][..self.out_plane() * lanes];
        let inside = |at: usize, tap: usize, n: usize| {
            (at * g.stride + tap).checked_sub(g.padding).filter(|&place| place < n)
        };
        for oy in 0..g.out_height() {
            let Some(y) = inside(oy, tap / g.kernel, g.height) else { continue };
            for ox in 0..g.out_width() {
                let Some(x) = inside(ox, tap % g.kernel, g.width) else { continue };
                out[(oy * g.out_width() + ox) * lanes + lane] +=
                    shift * plane[(y * g.width + x) * lanes + lane];
            }
        }
    }

    /// Writes to `out` (H', W', lane) what a shift of weight (i, kh, kw) adds to its output channel:
    /// `shift` times plane i of the input, moved by the tap.
    pub fn shifted_plane(&self, plane: &[T], tap: usize, shift: T, out: &mut [T]) {
        let g = &self.geometry;
        self.isa.dispatch(Shift {
            g,
            lanes: self.lanes,
            plane,
            kh: tap / g.kernel,
            kw: tap % g.kernel,
            shift,
            out,
        });
    }
}

/// Weights (C_out, C_in, K, K) as [`product`] reads them.
fn packed<T: Element>(isa: Isa, g: &Geometry, weight: &[f64]) -> Packed<T> {
    let depth = g.c_in * g.kernel * g.kernel;
    Packed::new(isa, pixels(g.out_width()), g.c_out, depth, |o, k| T::of(weight[o * depth + k]))
}

/// Copies (C, H, W, lane) into planes with zeros around them; of these only rows `rows`.
fn pad<T: Element>(g: &Geometry, lanes: usize, input: &[T], rows: Range<usize>, padded: &mut [T]) {
    let (height, row) = (g.height + 2 * g.padding, (g.width + 2 * g.padding) * lanes);
    let (side, line) = (g.padding * lanes, g.width * lanes);
    for (input, padded) in input.chunks_exact(g.height * line).zip(padded.chunks_exact_mut(height * row)) {
        for y in rows.clone() {
            let padded = &mut padded[y * row..][..row];
            match y.checked_sub(g.padding).filter(|&y| y < g.height) {
                Some(y) => {
                    padded[..side].fill(T::ZERO);
                    padded[side..side + line].copy_from_slice(&input[y * line..][..line]);
                    padded[side + line..].fill(T::ZERO);
                }
                None => padded.fill(T::ZERO),
            }
        }
    }
}

struct Direct<'a, T> {
    weight: &'a Packed<T>,
    walk: Walk<'a>,
    input: &'a [T],
    finish: Option<&'a Finish<'a, T>>,
    out: Out<'a, T>,
}

impl<T: Element> WithSimd for Direct<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weight, walk, input, finish, out } = self;
        let (input, mut out) = (T::vectors::<S>(input), out.vectors::<S>());
        // What is finished is so row by row, while it is in the first-level cache.
        let n_rows = if finish.is_some() { 1 } else { walk.rows };
        for y in (0..walk.rows).step_by(n_rows) {
            let (input, start) = (&input[y * walk.in_row..], y * walk.out_row);
            let mut rows = out.part(start..out.len());
            product::<S, T>(simd, weight, &Walk { rows: n_rows, ..walk }, input, &mut rows);
            let Some(finish) = finish else { continue };
            for channel in 0..weight.channels() {
                let finisher = Finisher::new::<S, T>(simd, finish, channel, walk.out_channel, start);
                let mut row =
                    rows.part(channel * walk.out_channel..channel * walk.out_channel + walk.columns);
                for at in 0..walk.columns {
                    // SAFETY: `product` has written all columns of this row for every channel.
                    unsafe { row.update(at, |value| finisher.apply::<S, T>(simd, value, at)) };
                }
            }
        }
    }
}

struct Shift<'a, T> {
    g: &'a Geometry,
    lanes: usize,
    plane: &'a [T],
    kh: usize,
    kw: usize,
    shift: T,
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Shift<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (g, lanes, shift) = (self.g, self.lanes, self.shift);
        let line = g.out_width() * lanes;
        for oy in 0..g.out_height() {
            let out = &mut self.out[oy * line..][..line];
            let Some(y) = (oy * g.stride + self.kh).checked_sub(g.padding).filter(|&y| y < g.height) else {
                out.fill(T::ZERO);
                continue;
            };
            let row = &self.plane[y * g.width * lanes..][..g.width * lanes];
            for ox in 0..g.out_width() {
                let out = &mut out[ox * lanes..][..lanes];
                match (ox * g.stride + self.kw).checked_sub(g.padding).filter(|&x| x < g.width) {
                    Some(x) => {
                        let from = &row[x * lanes..][..lanes];
                        for lane in 0..lanes {
                            out[lane] = shift * from[lane];
                        }
                    }
                    None => out.fill(T::ZERO),
                }
            }
        }
    }
}

/// Outputs per strip of rows: enough that sums over lanes are rare, few enough that a strip stays in
/// the cache for all tiles.
const GRAD_PIXELS: usize = 128;

/// Adds to `sums` (C_out, C_in, K, K) the gradient of the weight over one block: `input`
/// (C_in, H, W, lane), `grad` (C_out, H', W', lane). Lanes without an image must hold zeros in one of
/// them.
pub fn add_weight_grad<T: Element>(
    isa: Isa,
    lanes: usize,
    g: &Geometry,
    input: &[T],
    grad: &[T],
    sums: &mut [f64],
    scratch: &mut Scratch<T>,
) {
    let (rows, row) = (g.height + 2 * g.padding, g.width + 2 * g.padding);
    let input = if g.padding == 0 {
        input
    } else {
        let padded = scratch.padded.reserve(g.c_in * rows * row * lanes);
        pad(g, lanes, input, 0..rows, padded);
        padded
    };
    let offsets = offsets(g);
    // Sums, outputs and an input of a tile fill the registers.
    if matches!(isa, Isa::Avx512 | Isa::Neon) {
        isa.dispatch(WeightGrad::<T, 4, 5> { g, row, offsets: &offsets, input, grad, sums });
    } else {
        isa.dispatch(WeightGrad::<T, 2, 6> { g, row, offsets: &offsets, input, grad, sums });
    }
}

/// Where tap k of input channel i lies in padded planes, in registers, by i · K² + k.
fn offsets(g: &Geometry) -> Vec<usize> {
    let (rows, row) = (g.height + 2 * g.padding, g.width + 2 * g.padding);
    let n_taps = g.kernel * g.kernel;
    (0..g.c_in * n_taps).map(|k| (k / n_taps * rows + k % n_taps / g.kernel) * row + k % g.kernel).collect()
}

/// In tiles of `CHANNELS` output channels by `DEPTH` taps.
struct WeightGrad<'a, T, const CHANNELS: usize, const DEPTH: usize> {
    g: &'a Geometry,
    /// Registers per row of the padded input.
    row: usize,
    offsets: &'a [usize],
    input: &'a [T],
    grad: &'a [T],
    sums: &'a mut [f64],
}

impl<T: Element, const CHANNELS: usize, const DEPTH: usize> WithSimd for WeightGrad<'_, T, CHANNELS, DEPTH> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let g = self.g;
        let (input, grad) = (T::vectors::<S>(self.input), T::vectors::<S>(self.grad));
        let (height, width) = (g.out_height(), g.out_width());
        let strip = GRAD_PIXELS.div_ceil(width).min(height);
        let mut top = 0;
        while top < height {
            let bottom = (top + strip).min(height);
            self.strip(simd, input, grad, top, bottom);
            top = bottom;
        }
    }
}

impl<T: Element, const CHANNELS: usize, const DEPTH: usize> WeightGrad<'_, T, CHANNELS, DEPTH> {
    /// The part of rows `top` to `bottom` of the outputs.
    #[inline(always)]
    fn strip<S: Simd>(
        &mut self,
        simd: S,
        input: &[T::Vector<S>],
        grad: &[T::Vector<S>],
        top: usize,
        bottom: usize,
    ) {
        let g = self.g;
        let (height, width) = (g.out_height(), g.out_width());
        let depth = self.offsets.len();
        let mut o = 0;
        while o < g.c_out {
            let mut k = 0;
            while k < depth {
                // The last tile of a row or column of tiles computes its last member several times.
                let (mut grads, mut offsets) = ([0; CHANNELS], [0; DEPTH]);
                for j in 0..CHANNELS {
                    grads[j] = (o + j).min(g.c_out - 1) * height * width;
                }
                for j in 0..DEPTH {
                    offsets[j] = self.offsets[(k + j).min(depth - 1)];
                }
                let mut sums = [[T::splat(simd, T::ZERO); DEPTH]; CHANNELS];
                let end = bottom * width;
                let last = ((bottom - 1) * self.row + width - 1) * g.stride;
                for c in 0..CHANNELS {
                    assert!(grads[c] + end <= grad.len(), "the gradient has every output");
                }
                for j in 0..DEPTH {
                    assert!(offsets[j] + last < input.len(), "the padded input has every tap");
                }
                for y in top..bottom {
                    for x in 0..width {
                        let at = y * width + x;
                        let from = y * g.stride * self.row + x * g.stride;
                        // A check of bounds would send the sums through memory.
                        let mut outputs = [T::splat(simd, T::ZERO); CHANNELS];
                        for c in 0..CHANNELS {
                            // SAFETY: at < end, and grads[c] + end is at most the length.
                            outputs[c] = unsafe { *grad.get_unchecked(grads[c] + at) };
                        }
                        for j in 0..DEPTH {
                            // SAFETY: from <= last, and offsets[j] + last is below the length.
                            let input = unsafe { *input.get_unchecked(offsets[j] + from) };
                            for c in 0..CHANNELS {
                                sums[c][j] = T::mul_add(simd, outputs[c], input, sums[c][j]);
                            }
                        }
                    }
                }
                for c in 0..CHANNELS.min(g.c_out - o) {
                    for j in 0..DEPTH.min(depth - k) {
                        self.sums[(o + c) * depth + k + j] += T::reduce_sum(simd, sums[c][j]).wide();
                    }
                }
                k += DEPTH;
            }
            o += CHANNELS;
        }
    }
}

/// The convolution with stride 1 that takes the gradient of the output, dilated by [`dilate`], to the
/// gradient of the input: its geometry and its weight.
///
/// # Errors
/// If the padding is not smaller than the kernel.
pub fn transposed(g: &Geometry, weight: &[f64]) -> candle_core::Result<(Geometry, Vec<f64>)> {
    if g.padding >= g.kernel {
        candle_core::bail!("no gradient of a {0}x{0} convolution with padding {1}", g.kernel, g.padding);
    }
    let geometry = Geometry {
        batch: g.batch,
        c_in: g.c_out,
        height: g.height + 2 * g.padding - g.kernel + 1,
        width: g.width + 2 * g.padding - g.kernel + 1,
        c_out: g.c_in,
        kernel: g.kernel,
        stride: 1,
        padding: g.kernel - 1 - g.padding,
    };
    let n_taps = g.kernel * g.kernel;
    let mut turned = vec![0.0; weight.len()];
    for (at, value) in turned.iter_mut().enumerate() {
        let (i, o, tap) = (at / (g.c_out * n_taps), at / n_taps % g.c_out, at % n_taps);
        *value = weight[(o * g.c_in + i) * n_taps + n_taps - 1 - tap];
    }
    Ok((geometry, turned))
}

/// Spreads `grad` (C, H', W', lane) over planes of the input size of `to`, its numbers `stride` apart
/// and zeros between.
pub fn dilate<T: Element>(
    to: &Geometry,
    [height, width]: [usize; 2],
    stride: usize,
    lanes: usize,
    grad: &[T],
    out: &mut [T],
) {
    out.fill(T::ZERO);
    for (row, grad) in grad.chunks_exact(width * lanes).enumerate() {
        let start = (row / height * to.height + row % height * stride) * to.width * lanes;
        for (x, grad) in grad.chunks_exact(lanes).enumerate() {
            out[start + x * stride * lanes..][..lanes].copy_from_slice(grad);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Split;
    use crate::kernels::lanes::finish::ChannelMap;
    use crate::kernels::lanes::{Blocks, Buffer, norm, pointwise, reference};
    use crate::rng::{Purpose, Stream};

    /// Oracle: the definition of convolution in f64, for dense inputs, one channel and two, on
    /// every instruction set; odd sizes, strides and kernels; partly filled blocks.
    fn check<T: Element>(tolerance: f64) {
        for (batch, c_in, height, width, c_out, kernel, stride, padding) in [
            (1, 1, 5, 5, 1, 3, 1, 1),
            (3, 3, 9, 7, 5, 3, 2, 1),
            (17, 8, 8, 8, 8, 3, 1, 1),
            (5, 9, 13, 11, 18, 3, 1, 1),
            (2, 16, 16, 16, 7, 3, 1, 1),
            (4, 2, 6, 5, 13, 5, 1, 2),
            (3, 3, 9, 12, 6, 5, 1, 0),
            (2, 5, 2, 2, 31, 1, 1, 0),
            (2, 9, 1, 1, 30, 1, 1, 0),
            (2, 4, 5, 5, 6, 1, 2, 0),
            (3, 10, 1, 1, 4, 1, 1, 0),
            (2, 3, 4, 4, 2, 3, 1, 0),
        ] {
            let g = Geometry { batch, c_in, height, width, c_out, kernel, stride, padding };
            let draw = |n: usize, lane| {
                let mut draws = vec![0.0; n];
                Stream::new(5, Purpose::Test, 0).lane(lane).fill_normal(&mut draws);
                draws
            };
            let (n_in, n_out) = (c_in * height * width, c_out * g.out_height() * g.out_width());
            let weight = draw(c_out * c_in * kernel * kernel, 1);
            let dense = draw(batch * n_in, 0);
            let plane = height * width;
            let first = c_in / 2;
            let part = |count: usize| {
                let kept = first..first + count;
                let inside = |idx: usize| kept.contains(&(idx / plane % c_in));
                let part: Vec<f64> =
                    dense.iter().enumerate().map(|(idx, &x)| if inside(idx) { x } else { 0.0 }).collect();
                (part, Some(count))
            };
            let inputs = [(dense.clone(), None), part(1), part(2.min(c_in - first))];
            for isa in Isa::available() {
                let blocks = Blocks::new::<T>(isa, batch);
                let lanes = blocks.lanes;
                let conv = Conv::<T>::with_channels(isa, lanes, g, &weight);
                let mut scratch = Scratch::default();
                for (input, count) in &inputs {
                    let mut expected = vec![0.0; batch * n_out];
                    reference::forward(&g, input, &weight, &mut expected);
                    let scale = expected.iter().fold(0.0, |max: f64, e| max.max(e.abs()));
                    let rounded: Vec<T> = input.iter().map(|&value| T::of(value)).collect();
                    let rearranged = blocks.rearrange(Split::Serial, &rounded, n_in);
                    for block in 0..blocks.count() {
                        let mut out = Buffer::zeroed(n_out * lanes);
                        let input = &rearranged[block * n_in * lanes..][..n_in * lanes];
                        let planes =
                            count.map(|count| &input[first * plane * lanes..][..count * plane * lanes]);
                        match planes {
                            Some(planes) => {
                                conv.run_channels(first, planes, 0..g.out_height(), &mut out, &mut scratch);
                            }
                            None => conv.run(input, &mut out[..], &mut scratch),
                        }
                        // In strips, to the last bit.
                        let mut again = Buffer::zeroed(n_out * lanes);
                        for start in (0..g.out_height()).step_by(STRIP) {
                            let rows = start..g.out_height().min(start + STRIP);
                            match planes {
                                Some(planes) => {
                                    conv.run_channels(first, planes, rows, &mut again, &mut scratch);
                                }
                                None => conv.run_rows(input, rows, &mut again[..], &mut scratch),
                            }
                        }
                        assert!(out[..] == again[..], "{isa:?} {g:?} in strips");
                        for lane in 0..blocks.images_in(block) {
                            for position in 0..n_out {
                                let found = out[position * lanes + lane].wide();
                                let expected = expected[(block * lanes + lane) * n_out + position];
                                assert!(
                                    (found - expected).abs() <= tolerance * scale,
                                    "{isa:?} {g:?} {count:?} channels, {position}: {found} not {expected}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    /// Oracle: the convolution, then passes of their own over its outputs, to the last bit.
    fn check_finished<T: Element>() {
        for (batch, c_in, height, width, c_out, kernel, stride) in [
            (17, 8, 8, 8, 8, 3, 1),
            (5, 9, 13, 11, 18, 3, 1),
            (3, 3, 9, 7, 5, 3, 2),
            (2, 9, 1, 1, 30, 1, 1),
            (2, 2, 3, 3, 13, 3, 1),
        ] {
            let g = Geometry { batch, c_in, height, width, c_out, kernel, stride, padding: kernel / 2 };
            let draw = |n: usize, lane| {
                let mut draws = vec![0.0; n];
                Stream::new(6, Purpose::Test, 0).lane(lane).fill_normal(&mut draws);
                draws
            };
            let weight = draw(c_out * c_in * kernel * kernel, 1);
            for isa in Isa::available() {
                let lanes = Blocks::new::<T>(isa, batch).lanes;
                let conv = Conv::<T>::new(isa, lanes, g, &weight);
                let (n_in, n_out) = (c_in * height * width, c_out * g.out_height() * g.out_width());
                let of = |n: usize, lane| draw(n * lanes, lane).iter().map(|&x| T::of(x)).collect::<Vec<T>>();
                let filled = |n: usize, lane| {
                    let mut buffer = Buffer::zeroed(n * lanes);
                    buffer.copy_from_slice(&of(n, lane));
                    buffer
                };
                let (input, added) = (filled(n_in, 2), filled(n_out, 3));
                let numbers = draw(4 * c_out, 4);
                let map = |numbers: &[f64]| ChannelMap {
                    bias: T::of(numbers[0]),
                    scale: T::of(numbers[1]),
                    mean: T::of(numbers[2]),
                    shift: T::of(numbers[3]),
                };
                let maps: Vec<ChannelMap<T>> = numbers.chunks(4).map(map).collect();
                let mut scratch = Scratch::default();
                let mut plain = Buffer::zeroed(n_out * lanes);
                conv.run(&input, &mut plain[..], &mut scratch);
                for (has_other, is_relu) in [(false, false), (true, false), (false, true), (true, true)] {
                    let other = has_other.then_some(&added[..]);
                    let mut expected = Buffer::zeroed(n_out * lanes);
                    let plane = n_out / c_out * lanes;
                    for (channel, &ChannelMap { bias, scale, mean, shift }) in maps.iter().enumerate() {
                        let at = channel * plane..(channel + 1) * plane;
                        let mut biased = Buffer::zeroed(plane);
                        biased.copy_from_slice(&plain[at.clone()]);
                        pointwise::offset(isa, bias, &mut biased);
                        let other = other.map(|other| &other[at.clone()]);
                        norm::Map { scale, mean, shift, other, is_relu }.run(isa, &biased, &mut expected[at]);
                    }
                    let mut found = Buffer::zeroed(n_out * lanes);
                    let finish = Finish { maps: &maps, other, is_relu, clears_nan: false };
                    conv.run_finished(&input, &finish, &mut found, &mut scratch);
                    assert!(found[..] == expected[..], "{isa:?} {g:?} {has_other} {is_relu}");
                }
            }
        }
    }

    #[test]
    fn finishing_equals_passes_of_their_own() {
        check_finished::<f32>();
        check_finished::<f64>();
    }

    /// Inputs and weights rounded to f32; minimal filtering multiplies rounding by about ten.
    #[test]
    fn equals_the_definition_in_f32() {
        check::<f32>(1e-5);
    }

    #[test]
    fn equals_the_definition_in_f64() {
        check::<f64>(1e-14);
    }
}
