//! 3x3 convolution with stride 1 and padding 1 by minimal filtering F(4x4, 3x3) (Lavin and Gray,
//! 2016): a 4x4 tile of outputs costs 36 multiplications per pair of channels instead of 144.

use pulp::{Simd, WithSimd};

use super::Scratch;
use super::tile::{FEW_PIXELS, Offsets, PIXELS, Packed, Walk, product};
use crate::kernels::{Element, Isa};

/// Positions of a transformed tile.
const POSITIONS: usize = 36;
/// Numbers per lane that the transformed inputs and outputs of a group of tiles may occupy: about
/// half of a second-level cache.
const GROUP_NUMBERS: usize = 10 * 1024;

/// Registers from one position to the next, for the tiles of so many channels. One register row more
/// than needed keeps the positions of a tile, which are written together, out of the same cache sets.
fn position_stride(channels: usize, group: usize) -> usize {
    (channels + 1) * group
}

/// Tiles transformed together.
fn group(c_in: usize, c_out: usize) -> usize {
    if POSITIONS * (c_in + c_out) * PIXELS <= GROUP_NUMBERS { PIXELS } else { FEW_PIXELS }
}

/// Transformed weights.
#[derive(Debug)]
pub(super) struct Winograd<T> {
    c_in: usize,
    c_out: usize,
    height: usize,
    width: usize,
    /// Tiles transformed together.
    group: usize,
    /// One matrix (C_out, C_in) per position.
    weights: Vec<Packed<T>>,
    /// Distances of the input channels within a position, in registers.
    offsets: Vec<usize>,
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
        let group = group(c_in, c_out);
        let transformed: Vec<[T; POSITIONS]> =
            weight.chunks_exact(9).map(|weight| transform_weight(weight).map(T::of)).collect();
        let at = |position: usize| {
            let transformed = &transformed;
            move |o: usize, i: usize| transformed[o * c_in + i][position]
        };
        let weights =
            (0..POSITIONS).map(|position| Packed::new(isa, group, c_out, c_in, at(position))).collect();
        Self { c_in, c_out, height, width, group, weights, offsets: (0..c_in).map(|c| c * group).collect() }
    }

    /// Multiplications and additions of the products for one image.
    pub(super) fn flops(&self) -> u64 {
        let tiles = self.height.div_ceil(4) * self.width.div_ceil(4);
        (2 * POSITIONS * tiles * self.c_in * self.c_out) as u64
    }

    /// `out` (C_out, H, W, lane) from `input` (C_in, H, W, lane).
    pub(super) fn run(&self, isa: Isa, lanes: usize, input: &[T], out: &mut [T], scratch: &mut Scratch<T>) {
        let transformed =
            scratch.transformed.reserve(POSITIONS * position_stride(self.c_in, self.group) * lanes);
        let products = scratch.products.reserve(POSITIONS * position_stride(self.c_out, self.group) * lanes);
        isa.dispatch(Run { op: self, input, out, transformed, products });
    }
}

/// G w Gᵀ of one 3x3 weight.
fn transform_weight(w: &[f64]) -> [f64; POSITIONS] {
    let mut half = [[0.0; 3]; 6];
    for (half, g) in half.iter_mut().zip(&G) {
        for kw in 0..3 {
            half[kw] = g[0] * w[kw] + g[1] * w[3 + kw] + g[2] * w[6 + kw];
        }
    }
    let mut out = [0.0; POSITIONS];
    for (position, out) in out.iter_mut().enumerate() {
        let (half, g) = (half[position / 6], G[position % 6]);
        *out = half[0] * g[0] + half[1] * g[1] + half[2] * g[2];
    }
    out
}

struct Run<'a, T> {
    op: &'a Winograd<T>,
    input: &'a [T],
    out: &'a mut [T],
    /// (position, C_in, tile)
    transformed: &'a mut [T],
    /// (position, C_out, tile)
    products: &'a mut [T],
}

impl<T: Element> WithSimd for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.op.group == PIXELS {
            self.run::<S, PIXELS>(simd);
        } else {
            self.run::<S, FEW_PIXELS>(simd);
        }
    }
}

impl<T: Element> Run<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const GROUP: usize>(self, simd: S) {
        let op = self.op;
        let input = T::vectors::<S>(self.input);
        let out = T::vectors_mut::<S>(self.out);
        let transformed = T::vectors_mut::<S>(self.transformed);
        let products = T::vectors_mut::<S>(self.products);
        let (in_stride, out_stride) = (position_stride(op.c_in, GROUP), position_stride(op.c_out, GROUP));
        let columns = op.width.div_ceil(4);
        let n_tiles = op.height.div_ceil(4) * columns;
        let plane = op.height * op.width;
        let mut first = 0;
        while first < n_tiles {
            let n = GROUP.min(n_tiles - first);
            for c in 0..op.c_in {
                let input = &input[c * plane..][..plane];
                for t in 0..n {
                    let (ty, tx) = ((first + t) / columns, (first + t) % columns);
                    let tile = load_tile::<S, T>(simd, input, [op.height, op.width], ty, tx);
                    let tile = transform_input::<S, T>(simd, tile);
                    for position in 0..POSITIONS {
                        transformed[position * in_stride + c * GROUP + t] = tile[position / 6][position % 6];
                    }
                }
            }
            let walk = Walk {
                offsets: Offsets::new(&op.offsets),
                rows: 1,
                columns: n,
                in_row: 0,
                in_step: 1,
                out_channel: GROUP,
                out_row: 0,
            };
            for position in 0..POSITIONS {
                let from = &transformed[position * in_stride..][..op.c_in * GROUP];
                let to = &mut products[position * out_stride..][..op.c_out * GROUP];
                product::<S, T>(simd, &op.weights[position], &walk, from, to);
            }
            for o in 0..op.c_out {
                let out = &mut out[o * plane..][..plane];
                for t in 0..n {
                    let (ty, tx) = ((first + t) / columns, (first + t) % columns);
                    let mut tile = [[T::splat(simd, T::ZERO); 6]; 6];
                    for position in 0..POSITIONS {
                        tile[position / 6][position % 6] = products[position * out_stride + o * GROUP + t];
                    }
                    let tile = transform_output::<S, T>(simd, tile);
                    store_tile::<S, T>(tile, out, [op.height, op.width], ty, tx);
                }
            }
            first += n;
        }
    }
}

/// Inputs of the 4x4 outputs of tile (ty, tx): rows and columns -1 to 4, zero outside the image.
#[inline(always)]
fn load_tile<S: Simd, T: Element>(
    simd: S,
    input: &[T::Vector<S>],
    [height, width]: [usize; 2],
    ty: usize,
    tx: usize,
) -> [[T::Vector<S>; 6]; 6] {
    let mut tile = [[T::splat(simd, T::ZERO); 6]; 6];
    let inside = tx > 0 && 4 * tx + 5 <= width;
    for dy in 0..6 {
        let Some(y) = (4 * ty + dy).checked_sub(1).filter(|&y| y < height) else { continue };
        if inside {
            let row = &input[y * width + 4 * tx - 1..][..6];
            for dx in 0..6 {
                tile[dy][dx] = row[dx];
            }
        } else {
            let row = &input[y * width..][..width];
            for dx in 0..6 {
                if let Some(x) = (4 * tx + dx).checked_sub(1).filter(|&x| x < width) {
                    tile[dy][dx] = row[x];
                }
            }
        }
    }
    tile
}

#[inline(always)]
fn store_tile<S: Simd, T: Element>(
    tile: [[T::Vector<S>; 4]; 4],
    out: &mut [T::Vector<S>],
    [height, width]: [usize; 2],
    ty: usize,
    tx: usize,
) {
    for dy in 0..4.min(height - 4 * ty) {
        let row = &mut out[(4 * ty + dy) * width..][..width];
        if 4 * tx + 4 <= width {
            row[4 * tx..][..4].copy_from_slice(&tile[dy]);
        } else {
            for dx in 0..width - 4 * tx {
                row[4 * tx + dx] = tile[dy][dx];
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

/// Bᵀ d B.
#[inline(always)]
fn transform_input<S: Simd, T: Element>(simd: S, mut tile: [[T::Vector<S>; 6]; 6]) -> [[T::Vector<S>; 6]; 6] {
    for dy in 0..6 {
        tile[dy] = input_line::<S, T>(simd, tile[dy]);
    }
    for dx in 0..6 {
        let column = [tile[0][dx], tile[1][dx], tile[2][dx], tile[3][dx], tile[4][dx], tile[5][dx]];
        let column = input_line::<S, T>(simd, column);
        for dy in 0..6 {
            tile[dy][dx] = column[dy];
        }
    }
    tile
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

/// Aᵀ m A.
#[inline(always)]
fn transform_output<S: Simd, T: Element>(simd: S, tile: [[T::Vector<S>; 6]; 6]) -> [[T::Vector<S>; 4]; 4] {
    let zero = T::splat(simd, T::ZERO);
    let mut half = [[zero; 4]; 6];
    for dy in 0..6 {
        half[dy] = output_line::<S, T>(simd, tile[dy]);
    }
    let mut out = [[zero; 4]; 4];
    for dx in 0..4 {
        let column = [half[0][dx], half[1][dx], half[2][dx], half[3][dx], half[4][dx], half[5][dx]];
        let column = output_line::<S, T>(simd, column);
        for dy in 0..4 {
            out[dy][dx] = column[dy];
        }
    }
    out
}
