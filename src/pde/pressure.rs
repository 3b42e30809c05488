//! Pressure: the projection of a velocity onto those that neither leave nor enter a fluid cell more than they should.
//!
//! Faces that touch a solid cell are closed. With the divergence of what is left, in cells, the pressure p solves A p =
//! div: A has one for every two neighbouring fluid cells and on its diagonal minus the number of open faces of a cell;
//! beside the domain p is zero. Then the differences of p are subtracted from the velocity on open faces.
//!
//! **Solution.** Row by row of cells A is block tridiagonal: tridiagonal blocks D_k of a row and diagonal ones N_k
//! between rows, of zeros and ones. Elimination leaves S_0 = D_0 and S_k = D_k − N_{k−1} S_{k−1}⁻¹ N_{k−1}, whose
//! inverses are kept: 2R dense blocks of R x R, exact up to rounding. A solve is two products with each of them, for
//! all lanes together, 4 R³ multiplications a lane: with R = 32 a thirty-second of what the inverse of A takes. Sums run
//! in one order for any number of lanes on any instruction set, without fused operations, so that the same flow has the
//! same bits wherever it is computed.

use super::{Component, Grid, Real};

crate::choice! {
    /// How the velocity through the edge of the domain is projected.
    pub enum Variant {
        /// By the pressure's difference to the zero beside the domain: every fluid cell is free of divergence.
        Consistent = "consistent",
        /// Not at all, as PhiFlow 1.x does, whose matrix assumes otherwise: cells at the edge keep some divergence.
        Replicate = "replicate",
    }
}

/// Prepared for one grid.
#[derive(Debug, Clone)]
pub(super) struct Projection<T> {
    resolution: usize,
    variant: Variant,
    /// By face: 0 where it is closed, else 1.
    open_v: Vec<T>,
    open_u: Vec<T>,
    /// Inverses of the blocks S_k: (row of cells, R, R), symmetric.
    inverses: Vec<T>,
}

impl<T: Real> Projection<T> {
    /// Factors the matrix in f64.
    pub(super) fn new(grid: &Grid, variant: Variant) -> Self {
        let resolution = grid.resolution();
        let [rows, n] = grid.cells();
        let (open_v, open_u) = (grid.open::<f64>(Component::V), grid.open::<f64>(Component::U));
        let mut inverses: Vec<T> = Vec::with_capacity(rows * n * n);
        let mut inverse = vec![0.0; n * n];
        for row in 0..rows {
            let through = |column: usize| open_v[row * n + column];
            let mut block = vec![0.0; n * n];
            for column in 0..n {
                let sides = [open_u[row * (n + 1) + column], open_u[row * (n + 1) + column + 1]];
                let open = open_v[row * n + column] + open_v[(row + 1) * n + column] + sides[0] + sides[1];
                // A solid cell stands alone, with pressure zero.
                block[column * n + column] = if grid.obstacle()[row * n + column] { -1.0 } else { -open };
                if column > 0 {
                    block[column * n + column - 1] = sides[0];
                    block[(column - 1) * n + column] = sides[0];
                }
            }
            if row > 0 {
                for (i, block) in block.chunks_exact_mut(n).enumerate() {
                    for (j, entry) in block.iter_mut().enumerate() {
                        *entry -= through(i) * inverse[i * n + j] * through(j);
                    }
                }
            }
            inverse = inverted(n, block);
            inverses.extend(inverse.iter().map(|&value| T::of(value)));
        }
        let cast = |open: Vec<f64>| open.into_iter().map(T::of).collect();
        Self { resolution, variant, open_v: cast(open_v), open_u: cast(open_u), inverses }
    }

    fn n_cells(&self) -> usize {
        2 * self.resolution * self.resolution
    }

    /// Closes the faces that touch the obstacle.
    #[inline(always)]
    pub(super) fn close(&self, lanes: usize, v: &mut [T], u: &mut [T]) {
        for (values, open) in [(v, &self.open_v), (u, &self.open_u)] {
            for (values, open) in values.chunks_exact_mut(lanes).zip(open) {
                if *open == T::ZERO {
                    values.fill(T::ZERO);
                }
            }
        }
    }

    /// Divergence of the cells (2R, R, lane), per cell.
    #[inline(always)]
    pub(super) fn divergence(&self, lanes: usize, v: &[T], u: &[T], out: &mut [T]) {
        let row = self.resolution * lanes;
        for (y, out) in out.chunks_exact_mut(row).enumerate() {
            let (low, high) = (&v[y * row..][..row], &v[(y + 1) * row..][..row]);
            let u = &u[y * (row + lanes)..][..row + lanes];
            let (left, right) = (&u[..row], &u[lanes..][..row]);
            for (idx, out) in out.iter_mut().enumerate() {
                *out = (high[idx] - low[idx]) + (right[idx] - left[idx]);
            }
        }
    }

    /// Solves A p = `p` in place (2R, R, lane); `row` holds R lanes of numbers.
    #[inline(always)]
    pub(super) fn solve(&self, lanes: usize, p: &mut [T], line: &mut Line<T>) {
        let n = self.resolution;
        let row = n * lanes;
        let inverse = |y: usize| &self.inverses[y * n * n..][..n * n];
        let rows = 2 * n;
        for y in 0..rows - 1 {
            let (done, rest) = p.split_at_mut((y + 1) * row);
            product(n, lanes, inverse(y), &done[y * row..], &mut line.product, &mut line.column);
            self.subtract_through(lanes, y + 1, &line.product, &mut rest[..row]);
        }
        for y in (0..rows).rev() {
            let (before, after) = p.split_at_mut((y + 1) * row);
            let here = &mut before[y * row..];
            if y + 1 < rows {
                self.subtract_through(lanes, y + 1, &after[..row], here);
            }
            product(n, lanes, inverse(y), here, &mut line.product, &mut line.column);
            here.copy_from_slice(&line.product);
        }
    }

    /// `to` −= `from` where the faces of row `y` are open.
    #[inline(always)]
    fn subtract_through(&self, lanes: usize, y: usize, from: &[T], to: &mut [T]) {
        let open = &self.open_v[y * self.resolution..][..self.resolution];
        for ((to, from), open) in to.chunks_exact_mut(lanes).zip(from.chunks_exact(lanes)).zip(open) {
            for (to, from) in to.iter_mut().zip(from) {
                *to -= *open * *from;
            }
        }
    }

    /// Whether row or column `at` of `n` faces lies on the edge and is left alone.
    fn is_skipped(&self, at: usize, n: usize) -> bool {
        self.variant == Variant::Replicate && (at == 0 || at + 1 == n)
    }

    /// Subtracts the differences of the pressure (2R, R, lane).
    #[inline(always)]
    pub(super) fn subtract_gradient(&self, lanes: usize, p: &[T], v: &mut [T], u: &mut [T]) {
        let n = self.resolution;
        let row = n * lanes;
        for (y, v) in v.chunks_exact_mut(row).enumerate() {
            if self.is_skipped(y, 2 * n + 1) {
                continue;
            }
            let open = &self.open_v[y * n..][..n];
            for (x, v) in v.chunks_exact_mut(lanes).enumerate() {
                if open[x] == T::ZERO {
                    continue;
                }
                let at = |y: usize| &p[y * row + x * lanes..][..lanes];
                for (lane, v) in v.iter_mut().enumerate() {
                    let low = if y > 0 { at(y - 1)[lane] } else { T::ZERO };
                    let high = if y < 2 * n { at(y)[lane] } else { T::ZERO };
                    *v -= high - low;
                }
            }
        }
        for (y, u) in u.chunks_exact_mut(row + lanes).enumerate() {
            let p = &p[y * row..][..row];
            let open = &self.open_u[y * (n + 1)..][..n + 1];
            for (x, u) in u.chunks_exact_mut(lanes).enumerate() {
                if open[x] == T::ZERO || self.is_skipped(x, n + 1) {
                    continue;
                }
                for (lane, u) in u.iter_mut().enumerate() {
                    let left = if x > 0 { p[(x - 1) * lanes + lane] } else { T::ZERO };
                    let right = if x < n { p[x * lanes + lane] } else { T::ZERO };
                    *u -= right - left;
                }
            }
        }
    }

    /// The transpose of what [`Projection::subtract_gradient`] does to the pressure: its gradient (2R, R, lane), into
    /// `out`, from that of the velocity.
    #[inline(always)]
    fn gradient_transpose(&self, lanes: usize, v: &[T], u: &[T], out: &mut [T]) {
        let n = self.resolution;
        let row = n * lanes;
        // −(high − low): a face adds its gradient to the cell before it and subtracts it from the one behind.
        for (idx, out) in out.iter_mut().enumerate() {
            let (y, x, lane) = (idx / row, idx % row / lanes, idx % lanes);
            let v_at = |y: usize| {
                let face = y * n + x;
                if self.is_skipped(y, 2 * n + 1) {
                    T::ZERO
                } else {
                    self.open_v[face] * v[face * lanes + lane]
                }
            };
            let u_at = |x: usize| {
                let face = y * (n + 1) + x;
                if self.is_skipped(x, n + 1) { T::ZERO } else { self.open_u[face] * u[face * lanes + lane] }
            };
            *out = v_at(y + 1) - v_at(y) + u_at(x + 1) - u_at(x);
        }
    }

    /// Projects a velocity; the pressure is left in `p`.
    #[inline(always)]
    pub(super) fn project(&self, lanes: usize, v: &mut [T], u: &mut [T], p: &mut [T], line: &mut Line<T>) {
        self.close(lanes, v, u);
        self.divergence(lanes, v, u, p);
        self.solve(lanes, p, line);
        self.subtract_gradient(lanes, p, v, u);
    }

    /// The transpose of [`Projection::project`], of a gradient (v, u) in place: A is symmetric, so that it takes
    /// another solve.
    #[inline(always)]
    pub(super) fn transpose(&self, lanes: usize, v: &mut [T], u: &mut [T], p: &mut [T], line: &mut Line<T>) {
        self.gradient_transpose(lanes, v, u, p);
        self.solve(lanes, p, line);
        let n = self.resolution;
        let row = n * lanes;
        debug_assert_eq!(p.len(), self.n_cells() * lanes);
        // The transpose of the divergence.
        for y in 0..2 * n {
            for idx in 0..row {
                let p = p[y * row + idx];
                let (low, high) = (y * row + idx, (y + 1) * row + idx);
                v[low] -= p;
                v[high] += p;
                let (left, right) = (y * (row + lanes) + idx, y * (row + lanes) + idx + lanes);
                u[left] -= p;
                u[right] += p;
            }
        }
        self.close(lanes, v, u);
    }
}

/// Memory of a solve.
#[derive(Debug)]
pub(super) struct Line<T> {
    /// (R, lane).
    product: Vec<T>,
    /// Two columns of R.
    column: Vec<T>,
}

impl<T: Real> Line<T> {
    pub(super) fn new(resolution: usize, lanes: usize) -> Self {
        Self { product: vec![T::ZERO; resolution * lanes], column: vec![T::ZERO; 2 * resolution] }
    }
}

/// Outputs that are summed up together in registers.
const TILE: usize = 4;

/// `out` (n, lane) = `matrix` (n, n), symmetric, times `input` (n, lane). Every sum begins with the first column,
/// whatever the number of lanes.
#[inline(always)]
fn product<T: Real>(n: usize, lanes: usize, matrix: &[T], input: &[T], out: &mut [T], column: &mut [T]) {
    let mut lane = 0;
    while lanes - lane >= 16 {
        product_of::<T, 16>(n, lanes, lane, matrix, input, out);
        lane += 16;
    }
    if lanes - lane >= 8 {
        product_of::<T, 8>(n, lanes, lane, matrix, input, out);
        lane += 8;
    }
    if lanes - lane >= 4 {
        product_of::<T, 4>(n, lanes, lane, matrix, input, out);
        lane += 4;
    }
    // What is left goes one by one, as vectors along the outputs: the matrix is symmetric.
    while lane < lanes {
        let sums = &mut column[..n];
        sums.fill(T::ZERO);
        for j in 0..n {
            let (row, x) = (&matrix[j * n..][..n], input[j * lanes + lane]);
            for i in 0..n {
                sums[i] += row[i] * x;
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            out[i * lanes + lane] = *sum;
        }
        lane += 1;
    }
}

/// The product for lanes `lane` to `lane + N`.
#[inline(always)]
fn product_of<T: Real, const N: usize>(
    n: usize,
    lanes: usize,
    lane: usize,
    matrix: &[T],
    input: &[T],
    out: &mut [T],
) {
    let mut i = 0;
    while i < n {
        // The resolution is even, so that two rows are left at least.
        if n - i >= TILE {
            tile::<T, N, TILE>(n, lanes, lane, i, matrix, input, out);
            i += TILE;
        } else {
            tile::<T, N, 2>(n, lanes, lane, i, matrix, input, out);
            i += 2;
        }
    }
}

/// Outputs `i` to `i + M` of it.
#[inline(always)]
fn tile<T: Real, const N: usize, const M: usize>(
    n: usize,
    lanes: usize,
    lane: usize,
    i: usize,
    matrix: &[T],
    input: &[T],
    out: &mut [T],
) {
    let mut sums = [[T::ZERO; N]; M];
    let rows = &matrix[i * n..][..M * n];
    for j in 0..n {
        let x: [T; N] = input[j * lanes + lane..][..N].try_into().expect("N numbers");
        for o in 0..M {
            let entry = rows[o * n + j];
            for l in 0..N {
                sums[o][l] += entry * x[l];
            }
        }
    }
    for o in 0..M {
        out[(i + o) * lanes + lane..][..N].copy_from_slice(&sums[o]);
    }
}

/// The inverse of a symmetric matrix (n, n) that is negative definite, by Cholesky's factors of its negative.
fn inverted(n: usize, matrix: Vec<f64>) -> Vec<f64> {
    // −matrix = L Lᵀ.
    let mut l = matrix;
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = -l[i * n + j] - dot;
            l[i * n + j] = if i == j { rest.sqrt() } else { rest / l[j * n + j] };
        }
    }
    // Columns of L⁻¹, then −L⁻ᵀ L⁻¹.
    let mut lower = vec![0.0; n * n];
    for j in 0..n {
        for i in j..n {
            let dot: f64 = (j..i).map(|k| l[i * n + k] * lower[k * n + j]).sum();
            lower[i * n + j] = (f64::from(u8::from(i == j)) - dot) / l[i * n + i];
        }
    }
    let mut inverse = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (i..n).map(|k| lower[k * n + i] * lower[k * n + j]).sum();
            inverse[i * n + j] = -dot;
            inverse[j * n + i] = -dot;
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pde::Disc;
    use crate::rng::{Purpose, Stream};

    /// Oracle: A itself, applied entry by entry, with and without an obstacle, for numbers of lanes that take every
    /// way through the product; and the same bits for a lane alone.
    #[test]
    fn solutions_solve() {
        for (resolution, radius) in [(8, 10.0), (14, 0.0), (16, 10.0)] {
            let grid = Grid::new(resolution, Disc { radius, ..Disc::default() }).unwrap();
            let projection = Projection::<f64>::new(&grid, Variant::Consistent);
            let [rows, n] = grid.cells();
            for lanes in [1, 5, 16, 29] {
                let mut b = vec![0.0; rows * n * lanes];
                Stream::new(1, Purpose::Test, lanes as u32).fill_normal(&mut b);
                for (cell, b) in b.chunks_exact_mut(lanes).enumerate() {
                    if grid.obstacle()[cell] {
                        b.fill(0.0);
                    }
                }
                let mut p = b.clone();
                projection.solve(lanes, &mut p, &mut Line::new(resolution, lanes));
                // A p is the divergence of the differences of p on open faces.
                let (mut v, mut u) = (vec![0.0; (rows + 1) * n * lanes], vec![0.0; rows * (n + 1) * lanes]);
                projection.subtract_gradient(lanes, &p, &mut v, &mut u);
                let mut applied = vec![0.0; p.len()];
                projection.divergence(lanes, &v, &u, &mut applied);
                for (cell, (applied, b)) in applied.iter().zip(&b).enumerate() {
                    assert!((applied + b).abs() < 1e-12, "{resolution} {lanes} {cell}: {applied} {b}");
                }
                for lane in 0..lanes {
                    let mut alone: Vec<f64> = b.iter().skip(lane).step_by(lanes).copied().collect();
                    projection.solve(1, &mut alone, &mut Line::new(resolution, 1));
                    let bits = |value: &f64| value.to_bits();
                    let found = p.iter().skip(lane).step_by(lanes).map(bits);
                    assert!(found.eq(alone.iter().map(bits)), "{resolution} {lanes} {lane}");
                }
            }
        }
    }
}
