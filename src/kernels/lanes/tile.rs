//! The one multiplication loop of the convolutions: weights times registers of images.

use pulp::Simd;

use super::Buffer;
use super::Out;
use crate::kernels::{Element, Isa};

/// Registers of outputs per register tile, at most.
pub(super) const PIXELS: usize = 4;
/// The same with few registers, or where few outputs at a time keep the data in the cache.
pub(super) const FEW_PIXELS: usize = 2;
/// Most output channels per register tile.
const MAX_CHANNELS: usize = 12;

/// Registers of outputs per tile and most output channels, where `n` outputs at a time are wanted. With
/// AVX-512 and NEON 24 of 32 registers hold sums, else 12 of 16: two outputs of six channels leave room
/// for the inputs and a weight, four of three would not.
fn shape(isa: Isa, n: usize) -> (usize, usize) {
    let (pixels, sums) =
        if matches!(isa, Isa::Avx512 | Isa::Neon) { (n, 24) } else { (n.min(FEW_PIXELS), 12) };
    (pixels, (sums / pixels).min(MAX_CHANNELS))
}

/// Outputs at a time for rows of `columns` of them: no more than there are.
pub(super) fn pixels(columns: usize) -> usize {
    match columns {
        0 | 1 => 1,
        2 => FEW_PIXELS,
        _ => PIXELS,
    }
}

/// A matrix (output channels, depth) in the order in which the tiles read it: blocks of output
/// channels, in a block the depth, then the channel.
#[derive(Debug)]
pub(super) struct Packed<T> {
    /// Registers of outputs per tile.
    pixels: usize,
    /// Widths of the blocks.
    widths: Vec<usize>,
    depth: usize,
    values: Buffer<T>,
}

impl<T: Element> Packed<T> {
    /// A matrix with entries `at(channel, k)`, for products of `n` outputs at a time.
    pub(super) fn new(
        isa: Isa,
        n: usize,
        channels: usize,
        depth: usize,
        at: impl Fn(usize, usize) -> T,
    ) -> Self {
        let (pixels, max_channels) = shape(isa, n);
        let n_blocks = channels.div_ceil(max_channels);
        // Blocks of nearly equal width: 16 channels are 6, 5 and 5.
        let widths: Vec<usize> = (0..n_blocks).map(|block| (channels + block) / n_blocks).rev().collect();
        let mut values = Buffer::zeroed(channels * depth);
        let mut rest = &mut values[..];
        let mut first = 0;
        for &width in &widths {
            let (block, others) = rest.split_at_mut(width * depth);
            for (k, entries) in block.chunks_exact_mut(width).enumerate() {
                for (o, entry) in entries.iter_mut().enumerate() {
                    *entry = at(first + o, k);
                }
            }
            (rest, first) = (others, first + width);
        }
        Self { pixels, widths, depth, values }
    }

    /// Number of output channels.
    pub(super) fn channels(&self) -> usize {
        self.widths.iter().sum()
    }
}

/// Distances in registers, with the largest of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets<'a> {
    values: &'a [usize],
    max: usize,
}

impl<'a> Offsets<'a> {
    pub(super) fn new(values: &'a [usize]) -> Self {
        Self { values, max: values.iter().copied().max().unwrap_or(0) }
    }
}

/// Where the outputs of a product lie and which inputs they read, in registers. Output (o, y, x) is
/// the sum over k of weight(o, first + k) · input\[offsets\[k\] + y · in_row + x · in_step\].
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) offsets: Offsets<'a>,
    /// Entry of the depth that the first offset is for.
    pub(super) first: usize,
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
    out: &mut Out<T::Vector<S>>,
) {
    match weight.pixels {
        PIXELS => product_in::<S, T, PIXELS>(simd, weight, walk, input, out),
        FEW_PIXELS => product_in::<S, T, FEW_PIXELS>(simd, weight, walk, input, out),
        _ => product_in::<S, T, 1>(simd, weight, walk, input, out),
    }
}

#[inline(always)]
fn product_in<S: Simd, T: Element, const PIXELS: usize>(
    simd: S,
    weight: &Packed<T>,
    walk: &Walk,
    input: &[T::Vector<S>],
    out: &mut Out<T::Vector<S>>,
) {
    let depth = walk.offsets.values.len();
    for y in 0..walk.rows {
        let mut x = 0;
        while x < walk.columns {
            let n = PIXELS.min(walk.columns - x);
            let (mut weights, mut first) = (0, 0);
            for block in 0..weight.widths.len() {
                let width = weight.widths[block];
                let values = &weight.values[weights + walk.first * width..][..depth * width];
                let tile = Tile { walk, y, x, n, first };
                match width {
                    1 => tile.run::<S, T, PIXELS, 1>(simd, values, input, out),
                    2 => tile.run::<S, T, PIXELS, 2>(simd, values, input, out),
                    3 => tile.run::<S, T, PIXELS, 3>(simd, values, input, out),
                    4 => tile.run::<S, T, PIXELS, 4>(simd, values, input, out),
                    5 => tile.run::<S, T, PIXELS, 5>(simd, values, input, out),
                    6 => tile.run::<S, T, PIXELS, 6>(simd, values, input, out),
                    7 => tile.run::<S, T, PIXELS, 7>(simd, values, input, out),
                    8 => tile.run::<S, T, PIXELS, 8>(simd, values, input, out),
                    9 => tile.run::<S, T, PIXELS, 9>(simd, values, input, out),
                    10 => tile.run::<S, T, PIXELS, 10>(simd, values, input, out),
                    11 => tile.run::<S, T, PIXELS, 11>(simd, values, input, out),
                    _ => tile.run::<S, T, PIXELS, 12>(simd, values, input, out),
                }
                weights += width * weight.depth;
                first += width;
            }
            x += n;
        }
    }
}

/// `n` ≤ PIXELS outputs of one row for the channels from `first` on.
struct Tile<'a> {
    walk: &'a Walk<'a>,
    y: usize,
    x: usize,
    n: usize,
    first: usize,
}

impl Tile<'_> {
    /// What is done to outputs afterwards has no place here: with more than stores behind the sums the compiler leaves the
    /// loop over channels as it stands, and the sums in memory, which costs a factor of two to three.
    #[inline(always)]
    fn run<S: Simd, T: Element, const PIXELS: usize, const CHANNELS: usize>(
        &self,
        simd: S,
        weight: &[T],
        input: &[T::Vector<S>],
        out: &mut Out<T::Vector<S>>,
    ) {
        let walk = self.walk;
        let start = self.y * walk.in_row + self.x * walk.in_step;
        // A narrow tile computes its last output several times.
        let mut at = [start; PIXELS];
        for p in 0..PIXELS {
            at[p] = start + p.min(self.n - 1) * walk.in_step;
        }
        let mut sums = [[T::splat(simd, T::ZERO); PIXELS]; CHANNELS];
        for p in 0..PIXELS {
            assert!(at[p] + walk.offsets.max < input.len(), "every output has its inputs");
        }
        let offsets = walk.offsets.values;
        for k in 0..offsets.len() {
            let offset = offsets[k];
            let mut x = [T::splat(simd, T::ZERO); PIXELS];
            for p in 0..PIXELS {
                // SAFETY: at[p] + max is below the length, and no offset is above max.
                x[p] = unsafe { *input.get_unchecked(at[p] + offset) };
            }
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
            let start = self.y * walk.out_row + self.x;
            let start_of_channel = (self.first + c) * walk.out_channel + start;
            let mut out = out.part(start_of_channel..start_of_channel + self.n);
            if self.n == PIXELS {
                // One check for all of them.
                let mut out = out.part(0..PIXELS);
                for p in 0..PIXELS {
                    out.put(p, sums[c][p]);
                }
            } else {
                for p in 0..self.n {
                    out.put(p, sums[c][p]);
                }
            }
        }
    }
}
