//! 3x3 convolution with stride 1 and padding 1 by minimal filtering F(4x4, 3x3) (Lavin and Gray,
//! 2016): a 4x4 tile of outputs costs 36 multiplications per pair of channels instead of 144.
//!
//! Tiles go in pairs of horizontal neighbours. All input channels of a pair are transformed into
//! (position, C_in, tile), which stays in the second-level cache; then, for a few output channels at a
//! time, the 36 products are taken in registers and transformed back along columns and rows within the
//! first-level cache. No number that was multiplied is stored farther away.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::finish::{Finish, Finisher};
use super::{Buffer, Out, Scratch};
use crate::kernels::memory::prefetch;
use crate::kernels::{Element, Isa};

/// Positions of a transformed tile, and of one of its rows.
const POSITIONS: usize = 36;
const LINE: usize = 6;
/// Tiles transformed and multiplied together, and their columns of outputs.
const PAIR: usize = 2;
const COLUMNS: usize = 4 * PAIR;
/// Columns of inputs that a pair of tiles reads.
const READ: usize = COLUMNS + 2;
/// Most output channels per register tile, with 32 registers and with 16.
const MAX_CHANNELS: usize = 8;
const FEW_CHANNELS: usize = 6;

/// Input channels whose transformed tiles are asked for ahead of the one that is multiplied.
const AHEAD: usize = 8;

/// Registers from one position to the next. Three more than needed keep the positions of a tile, which are
/// written together, out of the same cache sets.
fn position_stride(c_in: usize) -> usize {
    c_in * PAIR + 3
}

/// Transformed weights.
#[derive(Debug)]
pub(super) struct Winograd<T> {
    c_in: usize,
    height: usize,
    width: usize,
    /// Output channels of the register tiles.
    widths: Vec<usize>,
    /// Per register tile (position, C_in, output channel).
    weights: Buffer<T>,
}

/// Rows of the weight transform G.
const G: [[f64; 3]; 6] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

impl<T: Element> Winograd<T> {
    /// Weights (C_out, C_in, 3, 3) transformed in f64 for images of `height` x `width`.
    pub(super) fn new(
        isa: Isa,
        [c_out, c_in]: [usize; 2],
        [height, width]: [usize; 2],
        weight: &[f64],
    ) -> Self {
        let most = if matches!(isa, Isa::Avx512 | Isa::Neon) { MAX_CHANNELS } else { FEW_CHANNELS };
        let n_blocks = c_out.div_ceil(most);
        // Blocks of nearly equal width: 9 channels are 5 and 4.
        let widths: Vec<usize> = (0..n_blocks).map(|block| (c_out + block) / n_blocks).rev().collect();
        let mut weights = Buffer::zeroed(POSITIONS * c_in * c_out);
        isa.dispatch(TransformWeights { c_in, widths: &widths, weight, out: &mut weights });
        Self { c_in, height, width, widths, weights }
    }

    /// Multiplications and additions of the products for one image.
    pub(super) fn flops(&self) -> u64 {
        let tiles = self.height.div_ceil(4) * self.width.div_ceil(4);
        (2 * POSITIONS * tiles * self.c_in * self.widths.iter().sum::<usize>()) as u64
    }

    /// Rows `rows`, from a multiple of four on, of `out` (C_out, H, W, lane) from `input` (C_in, H, W, lane), after
    /// `finish` if there is one.
    #[expect(clippy::too_many_arguments, reason = "one call, of two convolutions")]
    pub(super) fn run(
        &self,
        isa: Isa,
        lanes: usize,
        input: &[T],
        rows: Range<usize>,
        finish: Option<&Finish<T>>,
        out: Out<T>,
        scratch: &mut Scratch<T>,
    ) {
        debug_assert!(
            rows.start.is_multiple_of(4) && (rows.end.is_multiple_of(4) || rows.end == self.height)
        );
        let transformed = scratch.transformed.reserve(POSITIONS * position_stride(self.c_in) * lanes);
        let products = scratch.products.reserve(MAX_CHANNELS * PAIR * (LINE + LINE * 4) * lanes);
        isa.dispatch(Run { op: self, input, rows, finish, out, transformed, products });
    }
}

/// G w Gᵀ of all 3x3 weights.
struct TransformWeights<'a, T> {
    c_in: usize,
    widths: &'a [usize],
    /// (C_out, C_in, 3, 3)
    weight: &'a [f64],
    /// As [`Winograd::weights`].
    out: &'a mut [T],
}

impl<T: Element> WithSimd for TransformWeights<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let c_in = self.c_in;
        let (mut first, mut start) = (0, 0);
        for block in 0..self.widths.len() {
            let width = self.widths[block];
            let out = &mut self.out[start..start + POSITIONS * c_in * width];
            for c in 0..c_in {
                // Output channels side by side, so that one operation serves all.
                let mut w = [[0.0; MAX_CHANNELS]; 9];
                for o in 0..width {
                    let from = &self.weight[((first + o) * c_in + c) * 9..][..9];
                    for k in 0..9 {
                        w[k][o] = from[k];
                    }
                }
                for i in 0..LINE {
                    let mut half = [[0.0; MAX_CHANNELS]; 3];
                    for kw in 0..3 {
                        for o in 0..MAX_CHANNELS {
                            half[kw][o] =
                                G[i][0] * w[kw][o] + G[i][1] * w[3 + kw][o] + G[i][2] * w[6 + kw][o];
                        }
                    }
                    for j in 0..LINE {
                        let mut line = [0.0; MAX_CHANNELS];
                        for o in 0..MAX_CHANNELS {
                            line[o] = half[0][o] * G[j][0] + half[1][o] * G[j][1] + half[2][o] * G[j][2];
                        }
                        let out = &mut out[((i * LINE + j) * c_in + c) * width..][..width];
                        for o in 0..width {
                            out[o] = T::of(line[o]);
                        }
                    }
                }
            }
            (first, start) = (first + width, start + POSITIONS * c_in * width);
        }
    }
}

struct Run<'a, T> {
    op: &'a Winograd<T>,
    input: &'a [T],
    rows: Range<usize>,
    finish: Option<&'a Finish<'a, T>>,
    out: Out<'a, T>,
    /// (position, C_in, tile)
    transformed: &'a mut [T],
    /// One row of positions (position, channel, tile) of a register tile's channels, and all of them
    /// transformed back along columns (row, channel, tile, column).
    products: &'a mut [T],
}

impl<T: Element> WithSimd for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let op = self.op;
        let input = T::vectors::<S>(self.input);
        let mut out = self.out.vectors::<S>();
        let transformed = T::vectors_mut::<S>(self.transformed);
        let products = T::vectors_mut::<S>(self.products);
        let size @ [height, width] = [op.height, op.width];
        let plane = height * width;
        for top in self.rows.start / 4..self.rows.end.div_ceil(4) {
            for pair in 0..width.div_ceil(COLUMNS) {
                let corner = [4 * top, COLUMNS * pair];
                for c in 0..op.c_in {
                    let input = &input[c * plane..][..plane];
                    transform_pair::<S, T>(simd, input, size, corner, op.c_in, c, transformed);
                }
                let (mut first, mut start) = (0, 0);
                for block in 0..op.widths.len() {
                    let n = op.widths[block];
                    let weights = &op.weights[start..start + POSITIONS * op.c_in * n];
                    let mut out = out.part(first * plane..(first + n) * plane);
                    let tile = Channels { c_in: op.c_in, weights, size, corner, finish: self.finish, first };
                    match n {
                        1 => tile.run::<S, 1>(simd, transformed, products, &mut out),
                        2 => tile.run::<S, 2>(simd, transformed, products, &mut out),
                        3 => tile.run::<S, 3>(simd, transformed, products, &mut out),
                        4 => tile.run::<S, 4>(simd, transformed, products, &mut out),
                        5 => tile.run::<S, 5>(simd, transformed, products, &mut out),
                        6 => tile.run::<S, 6>(simd, transformed, products, &mut out),
                        7 => tile.run::<S, 7>(simd, transformed, products, &mut out),
                        _ => tile.run::<S, MAX_CHANNELS>(simd, transformed, products, &mut out),
                    }
                    (first, start) = (first + n, start + POSITIONS * op.c_in * n);
                }
            }
        }
    }
}

/// One row of inputs of a pair of tiles: what is left of its columns, they, and what is right of them.
#[derive(Clone, Copy)]
struct Row<'a, V> {
    left: &'a V,
    middle: &'a [V; COLUMNS],
    right: &'a V,
}

impl<'a, V: Copy> Row<'a, V> {
    /// Row `y` less one of an image, zero outside it.
    #[inline(always)]
    fn inside(
        input: &'a [V],
        [height, width]: [usize; 2],
        y: usize,
        x: usize,
        zeros: &'a [V; COLUMNS],
    ) -> Self {
        if y == 0 || y > height {
            return Self { left: &zeros[0], middle: zeros, right: &zeros[0] };
        }
        let row = &input[(y - 1) * width..][..width];
        let middle = (&row[x..x + COLUMNS]).try_into().expect("as many as columns");
        let left = if x > 0 { &row[x - 1] } else { &zeros[0] };
        let right = if x + COLUMNS < width { &row[x + COLUMNS] } else { &zeros[0] };
        Self { left, middle, right }
    }

    #[inline(always)]
    fn at(self, k: usize) -> V {
        match k {
            0 => *self.left,
            k if k <= COLUMNS => self.middle[k - 1],
            _ => *self.right,
        }
    }
}

/// Writes Bᵀ d B of both tiles at `corner` for channel `c` to `transformed`.
#[inline(always)]
fn transform_pair<S: Simd, T: Element>(
    simd: S,
    input: &[T::Vector<S>],
    size @ [height, width]: [usize; 2],
    [y, x]: [usize; 2],
    c_in: usize,
    c: usize,
    transformed: &mut [T::Vector<S>],
) {
    let zeros = [T::splat(simd, T::ZERO); COLUMNS];
    if x + COLUMNS <= width {
        let mut rows = [Row { left: &zeros[0], middle: &zeros, right: &zeros[0] }; LINE];
        for r in 0..LINE {
            rows[r] = Row::inside(input, size, y + r, x, &zeros);
        }
        transform_rows::<S, T>(simd, rows, c_in, c, transformed);
        return;
    }
    // The last pair of a row is cut off.
    let n = width - x;
    let mut middle = [zeros; LINE];
    let mut left = zeros;
    for r in 0..LINE {
        if y + r > 0 && y + r <= height {
            let row = &input[(y + r - 1) * width..][..width];
            for k in 0..n {
                middle[r][k] = row[x + k];
            }
            if x > 0 {
                left[r] = row[x - 1];
            }
        }
    }
    let mut rows = [Row { left: &zeros[0], middle: &zeros, right: &zeros[0] }; LINE];
    for r in 0..LINE {
        rows[r] = Row { left: &left[r], middle: &middle[r], right: &zeros[0] };
    }
    transform_rows::<S, T>(simd, rows, c_in, c, transformed);
}

/// Along columns first, whose results both tiles share, then along rows. Rows 1 and 2 of the result, and 3
/// and 4, share terms.
#[inline(always)]
fn transform_rows<S: Simd, T: Element>(
    simd: S,
    rows: [Row<T::Vector<S>>; LINE],
    c_in: usize,
    c: usize,
    transformed: &mut [T::Vector<S>],
) {
    let zero = T::splat(simd, T::ZERO);
    let (two, minus_two) = (T::splat(simd, T::of(2.0)), T::splat(simd, T::of(-2.0)));
    let (four, minus_four) = (T::splat(simd, T::of(4.0)), T::splat(simd, T::of(-4.0)));
    let minus_five = T::splat(simd, T::of(-5.0));
    let to = Transformed { first: c * PAIR, stride: position_stride(c_in) };
    let (mut a, mut b) = ([zero; READ], [zero; READ]);
    for k in 0..READ {
        let inner = T::mul_add(simd, minus_five, rows[2].at(k), rows[4].at(k));
        a[k] = T::mul_add(simd, four, rows[0].at(k), inner);
    }
    to.store::<S, T>(simd, 0, &a, transformed);
    for k in 0..READ {
        let even = T::mul_add(simd, minus_four, rows[2].at(k), rows[4].at(k));
        let odd = T::mul_add(simd, minus_four, rows[1].at(k), rows[3].at(k));
        (a[k], b[k]) = (T::vadd(simd, even, odd), T::vsub(simd, even, odd));
    }
    to.store::<S, T>(simd, 1, &a, transformed);
    to.store::<S, T>(simd, 2, &b, transformed);
    for k in 0..READ {
        let even = T::vsub(simd, rows[4].at(k), rows[2].at(k));
        let odd = T::vsub(simd, rows[3].at(k), rows[1].at(k));
        (a[k], b[k]) = (T::mul_add(simd, two, odd, even), T::mul_add(simd, minus_two, odd, even));
    }
    to.store::<S, T>(simd, 3, &a, transformed);
    to.store::<S, T>(simd, 4, &b, transformed);
    for k in 0..READ {
        let inner = T::mul_add(simd, minus_five, rows[3].at(k), rows[5].at(k));
        a[k] = T::mul_add(simd, four, rows[1].at(k), inner);
    }
    to.store::<S, T>(simd, 5, &a, transformed);
}

/// Where the transformed tiles of a channel go.
#[derive(Clone, Copy)]
struct Transformed {
    first: usize,
    stride: usize,
}

impl Transformed {
    /// Transforms row `i` of both tiles along the row and stores it.
    #[inline(always)]
    fn store<S: Simd, T: Element>(
        self,
        simd: S,
        i: usize,
        row: &[T::Vector<S>; READ],
        transformed: &mut [T::Vector<S>],
    ) {
        let first = self.first + i * LINE * self.stride;
        assert!(first + (LINE - 1) * self.stride + PAIR <= transformed.len(), "every position has its place");
        for t in 0..PAIR {
            let d =
                [row[4 * t], row[4 * t + 1], row[4 * t + 2], row[4 * t + 3], row[4 * t + 4], row[4 * t + 5]];
            let line = input_line::<S, T>(simd, d);
            for j in 0..LINE {
                // SAFETY: j is at most LINE - 1 and t at most PAIR - 1; the largest place was checked.
                unsafe { *transformed.get_unchecked_mut(first + j * self.stride + t) = line[j] };
            }
        }
    }
}

/// A few output channels of one pair of tiles.
struct Channels<'a, T> {
    c_in: usize,
    /// (position, C_in, channel)
    weights: &'a [T],
    /// Of the images.
    size: [usize; 2],
    /// First row and column of the outputs.
    corner: [usize; 2],
    /// What is done to outputs, and the number of the first channel.
    finish: Option<&'a Finish<'a, T>>,
    first: usize,
}

impl<T: Element> Channels<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const CHANNELS: usize>(
        &self,
        simd: S,
        transformed: &[T::Vector<S>],
        products: &mut [T::Vector<S>],
        out: &mut Out<T::Vector<S>>,
    ) {
        let ([height, width], [y, x]) = (self.size, self.corner);
        let (line, rows) = products.split_at_mut(LINE * CHANNELS * PAIR);
        let rows = &mut rows[..LINE * CHANNELS * COLUMNS];
        for i in 0..LINE {
            for j in 0..LINE {
                // What will be written is far away; asked for now, it is here when the products are done.
                let row = i * LINE + j;
                if row < 4 * CHANNELS {
                    let start = (row / 4 * height + y + row % 4) * width + x;
                    for k in 0..COLUMNS {
                        out.prefetch(start + k);
                    }
                }
                let line = &mut line[j * CHANNELS * PAIR..][..CHANNELS * PAIR];
                self.multiply::<S, CHANNELS>(simd, i * LINE + j, transformed, line);
            }
            for at in 0..CHANNELS * PAIR {
                let mut m = [line[at]; LINE];
                for j in 1..LINE {
                    m[j] = line[j * CHANNELS * PAIR + at];
                }
                let to: &mut [T::Vector<S>; 4] =
                    (&mut rows[(i * CHANNELS * PAIR + at) * 4..][..4]).try_into().expect("four outputs");
                *to = output_line::<S, T>(simd, m);
            }
        }
        let (n_rows, n_columns) = (4.min(height - y), COLUMNS.min(width - x));
        for o in 0..CHANNELS {
            let (plane, start) = (height * width, y * width + x);
            let first = o * plane + start;
            let mut out = out.part(first..first + (n_rows - 1) * width + n_columns);
            let finisher =
                self.finish.map(|finish| Finisher::new::<S, T>(simd, finish, self.first + o, plane, start));
            let mut m = [&rows[o * COLUMNS..][..COLUMNS]; LINE];
            for i in 1..LINE {
                m[i] = &rows[(i * CHANNELS + o) * COLUMNS..][..COLUMNS];
            }
            if n_rows == 4 && n_columns == COLUMNS {
                for k in 0..COLUMNS {
                    let column =
                        output_line::<S, T>(simd, [m[0][k], m[1][k], m[2][k], m[3][k], m[4][k], m[5][k]]);
                    for r in 0..4 {
                        let at = r * width + k;
                        let value = match &finisher {
                            Some(finisher) => finisher.apply::<S, T>(simd, column[r], at),
                            None => column[r],
                        };
                        out.put(at, value);
                    }
                }
            } else {
                for k in 0..n_columns {
                    let column =
                        output_line::<S, T>(simd, [m[0][k], m[1][k], m[2][k], m[3][k], m[4][k], m[5][k]]);
                    for r in 0..n_rows {
                        let at = r * width + k;
                        let value = match &finisher {
                            Some(finisher) => finisher.apply::<S, T>(simd, column[r], at),
                            None => column[r],
                        };
                        out.put(at, value);
                    }
                }
            }
        }
    }

    /// The products of one position (channel, tile).
    #[inline(always)]
    fn multiply<S: Simd, const CHANNELS: usize>(
        &self,
        simd: S,
        position: usize,
        transformed: &[T::Vector<S>],
        out: &mut [T::Vector<S>],
    ) {
        let start = position * position_stride(self.c_in);
        let inputs = &transformed[start..][..self.c_in * PAIR].as_chunks::<PAIR>().0[..self.c_in];
        let weights = &self.weights[position * self.c_in * CHANNELS..][..self.c_in * CHANNELS];
        let weights = &weights.as_chunks::<CHANNELS>().0[..self.c_in];
        let mut sums = [[T::splat(simd, T::ZERO); PAIR]; CHANNELS];
        for k in 0..self.c_in {
            for t in 0..PAIR {
                prefetch(transformed, start + (k + AHEAD) * PAIR + t);
            }
            for o in 0..CHANNELS {
                let w = T::splat(simd, weights[k][o]);
                for t in 0..PAIR {
                    sums[o][t] = T::mul_add(simd, w, inputs[k][t], sums[o][t]);
                }
            }
        }
        for o in 0..CHANNELS {
            for t in 0..PAIR {
                out[o * PAIR + t] = sums[o][t];
            }
        }
    }
}

/// Bᵀ d of one column of six.
#[inline(always)]
fn input_line<S: Simd, T: Element>(simd: S, d: [T::Vector<S>; 6]) -> [T::Vector<S>; 6] {
    let (two, minus_two) = (T::splat(simd, T::of(2.0)), T::splat(simd, T::of(-2.0)));
    let (four, minus_four) = (T::splat(simd, T::of(4.0)), T::splat(simd, T::of(-4.0)));
    let minus_five = T::splat(simd, T::of(-5.0));
    let a = T::mul_add(simd, minus_four, d[2], d[4]);
    let b = T::mul_add(simd, minus_four, d[1], d[3]);
    let c = T::vsub(simd, d[4], d[2]);
    let e = T::vsub(simd, d[3], d[1]);
    [
        T::mul_add(simd, four, d[0], T::mul_add(simd, minus_five, d[2], d[4])),
        T::vadd(simd, a, b),
        T::vsub(simd, a, b),
        T::mul_add(simd, two, e, c),
        T::mul_add(simd, minus_two, e, c),
        T::mul_add(simd, four, d[1], T::mul_add(simd, minus_five, d[3], d[5])),
    ]
}

/// Aᵀ m of one column of six.
#[inline(always)]
fn output_line<S: Simd, T: Element>(simd: S, m: [T::Vector<S>; 6]) -> [T::Vector<S>; 4] {
    let (two, four) = (T::splat(simd, T::of(2.0)), T::splat(simd, T::of(4.0)));
    let eight = T::splat(simd, T::of(8.0));
    let (s1, d1) = (T::vadd(simd, m[1], m[2]), T::vsub(simd, m[1], m[2]));
    let (s2, d2) = (T::vadd(simd, m[3], m[4]), T::vsub(simd, m[3], m[4]));
    [
        T::vadd(simd, T::vadd(simd, m[0], s1), s2),
        T::mul_add(simd, two, d2, d1),
        T::mul_add(simd, four, s2, s1),
        T::vadd(simd, T::mul_add(simd, eight, d2, d1), m[5]),
    ]
}
