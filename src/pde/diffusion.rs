//! Diffusion: one explicit step of c += α ∇²c with the five-point Laplacian, in cells; beside the domain stands the value
//! at its edge.
//!
//! The matrix of that is symmetric, so that the step is its own transpose. It is stable for α up to 1/4.

use super::Real;

/// The largest stable diffusion number α.
pub const MAX_NUMBER: f64 = 0.25;

/// `out` = `c` + α ∇²`c` on (rows, columns, lane), where `alphas` has α of every lane, repeated for at least `columns`
/// columns.
#[inline(always)]
pub(super) fn diffuse<T: Real>(
    [rows, columns]: [usize; 2],
    lanes: usize,
    alphas: &[T],
    c: &[T],
    out: &mut [T],
) {
    let row = columns * lanes;
    let four = T::of(4.0);
    for y in 0..rows {
        let at = |y: usize| &c[y * row..][..row];
        let (below, here, above) = (at(y.saturating_sub(1)), at(y), at((y + 1).min(rows - 1)));
        let out = &mut out[y * row..][..row];
        let new = |idx: usize, left: T, right: T| {
            let c = here[idx];
            c + alphas[idx] * (above[idx] + below[idx] + right + left - four * c)
        };
        let last = row - lanes;
        for idx in 0..lanes {
            out[idx] = new(idx, here[idx], here[idx + lanes]);
            out[last + idx] = new(last + idx, here[last + idx - lanes], here[last + idx]);
        }
        let n = row - 2 * lanes;
        let (left, mid, right) = (&here[..n], &here[lanes..][..n], &here[2 * lanes..][..n]);
        let (above, below) = (&above[lanes..][..n], &below[lanes..][..n]);
        let (alphas, out) = (&alphas[lanes..][..n], &mut out[lanes..][..n]);
        for idx in 0..n {
            let c = mid[idx];
            out[idx] = c + alphas[idx] * (above[idx] + below[idx] + right[idx] + left[idx] - four * c);
        }
    }
}
