//! The one multiplication loop of the convolutions: weights times registers of images.

use pulp::Simd;

use super::Buffer;
use crate::kernels::{Element, Isa};

/// Registers of outputs per register tile.
const PIXELS: usize = 4;

/// Most output channels per register tile: with AVX-512 and NEON 24 of 32 registers hold sums, else
/// 12 of 16.
fn max_channels(isa: Isa) -> usize {
    if matches!(isa, Isa::Avx512 | Isa::Neon) { 6 } else { 3 }
}

/// A matrix (output channels, depth) in the order in which the tiles read it.
#[derive(Debug)]
pub(super) struct Packed<T> {
    /// Widths of the blocks of output channels; within a block: depth, then channel.
    widths: Vec<usize>,
    depth: usize,
    values: Buffer<T>,
}

impl<T: Element> Packed<T> {
    pub(super) fn new(isa: Isa, channels: usize, depth: usize, at: impl Fn(usize, usize) -> T) -> Self {
        let n_blocks = channels.div_ceil(max_channels(isa));
        // Blocks of nearly equal width: 16 channels are 6, 5 and 5.
        let widths: Vec<usize> = (0..n_blocks).map(|block| (channels + block) / n_blocks).rev().collect();
        let mut values = Buffer::zeroed(channels * depth);
        let mut packed = values.iter_mut();
        let mut first = 0;
        for &width in &widths {
            for k in 0..depth {
                for (o, value) in (first..first + width).zip(&mut packed) {
                    *value = at(o, k);
                }
            }
            first += width;
        }
        Self { widths, depth, values }
    }
}

/// Where the outputs of a product lie and which inputs they read, in registers. Output (o, y, x) is
/// the sum over k of weight(o, k) · input\[offsets\[k\] + y · in_row + x · in_step\].
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) offsets: &'a [usize],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) in_row: usize,
    pub(super) in_step: usize,
    pub(super) out_channel: usize,
    pub(super) out_row: usize,
}

#[inline(always)]
pub(super) fn product<S: Simd, T: Element>(
    simd: S,
    weight: &Packed<T>,
    walk: &Walk,
    input: &[T::Vector<S>],
    out: &mut [T::Vector<S>],
) {
    debug_assert_eq!(weight.depth, walk.offsets.len());
    for y in 0..walk.rows {
        let mut x = 0;
        while x < walk.columns {
            let n = PIXELS.min(walk.columns - x);
            let (mut weights, mut first) = (0, 0);
            for block in 0..weight.widths.len() {
                let width = weight.widths[block];
                let values = &weight.values[weights..weights + width * weight.depth];
                let tile = Tile { walk, y, x, n, first };
                match width {
                    1 => tile.run::<S, T, 1>(simd, values, input, out),
                    2 => tile.run::<S, T, 2>(simd, values, input, out),
                    3 => tile.run::<S, T, 3>(simd, values, input, out),
                    4 => tile.run::<S, T, 4>(simd, values, input, out),
                    5 => tile.run::<S, T, 5>(simd, values, input, out),
                    _ => tile.run::<S, T, 6>(simd, values, input, out),
                }
                weights += width * weight.depth;
                first += width;
            }
            x += n;
        }
    }
}

/// `n` ≤ [`PIXELS`] outputs of one row for the channels from `first` on.
struct Tile<'a> {
    walk: &'a Walk<'a>,
    y: usize,
    x: usize,
    n: usize,
    first: usize,
}

impl Tile<'_> {
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "constant ranges are what unrolls into registers reliably"
    )]
    fn run<S: Simd, T: Element, const CHANNELS: usize>(
        &self,
        simd: S,
        weight: &[T],
        input: &[T::Vector<S>],
        out: &mut [T::Vector<S>],
    ) {
        let walk = self.walk;
        let start = self.y * walk.in_row + self.x * walk.in_step;
        // A narrow tile computes its last output several times.
        let mut at = [start; PIXELS];
        for p in 0..PIXELS {
            at[p] = start + p.min(self.n - 1) * walk.in_step;
        }
        let mut sums = [[T::splat(simd, T::ZERO); PIXELS]; CHANNELS];
        for k in 0..walk.offsets.len() {
            let offset = walk.offsets[k];
            let x: [T::Vector<S>; PIXELS] =
                [input[at[0] + offset], input[at[1] + offset], input[at[2] + offset], input[at[3] + offset]];
            let weights: &[T; CHANNELS] =
                weight[k * CHANNELS..][..CHANNELS].try_into().expect("as many weights as channels");
            for c in 0..CHANNELS {
                let w = T::splat(simd, weights[c]);
                for p in 0..PIXELS {
                    sums[c][p] = T::mul_add(simd, w, x[p], sums[c][p]);
                }
            }
        }
        for c in 0..CHANNELS {
            let out = &mut out[(self.first + c) * walk.out_channel + self.y * walk.out_row + self.x..];
            if self.n == PIXELS {
                let out: &mut [T::Vector<S>; PIXELS] =
                    (&mut out[..PIXELS]).try_into().expect("as many outputs as pixels");
                *out = sums[c];
            } else {
                for p in 0..self.n {
                    out[p] = sums[c][p];
                }
            }
        }
    }
}
