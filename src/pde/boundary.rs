//! The boundary condition of the velocity: inflow at speed 1 through the first two rows of faces, and speed 1 along
//! both sides. The component across is left as it is.

use super::Real;

/// Rows of faces that the inflow fixes.
const INFLOW_ROWS: usize = 2;

/// Sets v (2R + 1, R, lane) where the condition holds: to 1, and in the transpose, of changes, to 0.
#[inline(always)]
fn fix<T: Real>(resolution: usize, lanes: usize, v: &mut [T], value: T) {
    let row = resolution * lanes;
    v[..INFLOW_ROWS * row].fill(value);
    for line in v[INFLOW_ROWS * row..].chunks_exact_mut(row) {
        line[..lanes].fill(value);
        line[row - lanes..].fill(value);
    }
}

/// Applies the condition.
#[inline(always)]
pub(super) fn apply<T: Real>(resolution: usize, lanes: usize, v: &mut [T]) {
    fix(resolution, lanes, v, T::of(1.0));
}

/// Its transpose: what is fixed depends on nothing.
#[inline(always)]
pub(super) fn transpose<T: Real>(resolution: usize, lanes: usize, v: &mut [T]) {
    fix(resolution, lanes, v, T::ZERO);
}
