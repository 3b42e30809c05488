//! Semi-Lagrangian advection: a face takes the value found where its fluid was one step before, by bilinear
//! interpolation; what lies beside the domain has the value at its edge.
//!
//! With displacements d = (dy, dx) in cells the value at (j, i) is taken at (j − dy, i − dx). Where both are at most one
//! cell, the usual case, bilinear interpolation is a sum over the 3 x 3 faces around with hat functions as weights, of
//! which five or more are zero: no index depends on the data, so that all lanes do the same. A row in which some
//! displacement is longer goes face by face; both ways do the same arithmetic where both apply.

use super::{Component, Real};

/// The two components (rows, columns, lane) of a velocity.
#[derive(Clone, Copy)]
pub(super) struct Field<'a, T> {
    pub(super) resolution: usize,
    pub(super) lanes: usize,
    pub(super) v: &'a [T],
    pub(super) u: &'a [T],
}

impl<'a, T: Real> Field<'a, T> {
    fn shape(&self, component: Component) -> [usize; 2] {
        match component {
            Component::V => [2 * self.resolution + 1, self.resolution],
            Component::U => [2 * self.resolution, self.resolution + 1],
        }
    }

    fn of(&self, component: Component) -> &'a [T] {
        match component {
            Component::V => self.v,
            Component::U => self.u,
        }
    }

    /// A row of a component; beyond the first and the last one these.
    #[inline(always)]
    fn row(&self, component: Component, y: isize) -> &'a [T] {
        let [rows, columns] = self.shape(component);
        let y = y.clamp(0, rows as isize - 1) as usize;
        &self.of(component)[y * columns * self.lanes..][..columns * self.lanes]
    }

    /// Displacements of row `y` of faces of a component into `dy` and `dx`, in cells: the component itself is there,
    /// the other one is the mean of the four around. `cells` a step at velocity 1.
    #[inline(always)]
    fn displacements(&self, component: Component, y: usize, cells: T, dy: &mut [T], dx: &mut [T]) {
        let lanes = self.lanes;
        let own = self.row(component, y as isize);
        let quarter = T::of(0.25);
        let (along, across) = match component {
            Component::V => (dy, dx),
            Component::U => (dx, dy),
        };
        for (to, from) in along.iter_mut().zip(own) {
            *to = cells * *from;
        }
        match component {
            Component::V => {
                let (low, high) =
                    (self.row(Component::U, y as isize - 1), self.row(Component::U, y as isize));
                let n = across.len();
                let (low_left, low_right) = (&low[..n], &low[lanes..][..n]);
                let (high_left, high_right) = (&high[..n], &high[lanes..][..n]);
                for (idx, to) in across.iter_mut().enumerate() {
                    let sum = high_right[idx] + high_left[idx] + low_right[idx] + low_left[idx];
                    *to = cells * (sum * quarter);
                }
            }
            Component::U => {
                let (low, high) =
                    (self.row(Component::V, y as isize), self.row(Component::V, y as isize + 1));
                let n = low.len() - lanes;
                let mean = |left: usize, right: usize| {
                    cells * ((high[right] + high[left] + low[right] + low[left]) * quarter)
                };
                for lane in 0..lanes {
                    across[lane] = mean(lane, lane);
                    across[n + lanes + lane] = mean(n + lane, n + lane);
                }
                let (low_left, low_right) = (&low[..n], &low[lanes..][..n]);
                let (high_left, high_right) = (&high[..n], &high[lanes..][..n]);
                for (idx, to) in across[lanes..][..n].iter_mut().enumerate() {
                    let sum = high_right[idx] + high_left[idx] + low_right[idx] + low_left[idx];
                    *to = cells * (sum * quarter);
                }
            }
        }
    }

    /// The transpose of [`Field::displacements`]: adds to the gradients of both components.
    #[inline(always)]
    fn displacements_transpose(
        &self,
        component: Component,
        y: usize,
        cells: T,
        [dy, dx]: [&[T]; 2],
        grad_v: &mut [T],
        grad_u: &mut [T],
    ) {
        let lanes = self.lanes;
        let quarter = T::of(0.25);
        let (along, across) = match component {
            Component::V => (dy, dx),
            Component::U => (dx, dy),
        };
        let (own, other) = match component {
            Component::V => (grad_v, grad_u),
            Component::U => (grad_u, grad_v),
        };
        let [_, columns] = self.shape(component);
        let row = columns * lanes;
        for (to, from) in own[y * row..][..row].iter_mut().zip(along) {
            *to += cells * *from;
        }
        let other_component = if component == Component::V { Component::U } else { Component::V };
        let [other_rows, other_columns] = self.shape(other_component);
        // Faces of the other component around column x: rows `ys`, columns x + `left` and x + `left` + 1.
        let (ys, left) = match component {
            Component::V => ([y as isize - 1, y as isize], 0),
            Component::U => ([y as isize, y as isize + 1], -1),
        };
        for other_y in ys {
            let other_y = other_y.clamp(0, other_rows as isize - 1) as usize;
            for x in 0..columns {
                for step in 0..2 {
                    let other_x = (x as isize + left + step).clamp(0, other_columns as isize - 1) as usize;
                    let to = &mut other[(other_y * other_columns + other_x) * lanes..][..lanes];
                    for (to, from) in to.iter_mut().zip(&across[x * lanes..][..lanes]) {
                        *to += cells * (*from * quarter);
                    }
                }
            }
        }
    }
}

/// Numbers that one row needs.
#[derive(Debug)]
pub(super) struct Rows<T> {
    dy: Vec<T>,
    dx: Vec<T>,
}

impl<T: Real> Rows<T> {
    pub(super) fn new(resolution: usize, lanes: usize) -> Self {
        let row = || vec![T::ZERO; (resolution + 1) * lanes];
        Self { dy: row(), dx: row() }
    }
}

/// The largest size of a number, of those that are some.
#[inline(always)]
fn longest_of<T: Real>(values: &[T]) -> T {
    /// Numbers that are compared side by side.
    const N: usize = 16;
    let mut most = [T::ZERO; N];
    let chunks = values.chunks_exact(N);
    for &value in chunks.remainder() {
        most[0] = most[0].largest(value.magnitude());
    }
    for chunk in chunks {
        for idx in 0..N {
            most[idx] = most[idx].largest(chunk[idx].magnitude());
        }
    }
    let mut longest = T::ZERO;
    for value in most {
        longest = longest.largest(value);
    }
    longest
}

/// Weights of the faces before, at and after one for a displacement of at most a cell.
#[inline(always)]
fn hats<T: Real>(d: T) -> [T; 3] {
    [d.largest(T::ZERO), T::of(1.0) - d.magnitude(), (T::ZERO - d).largest(T::ZERO)]
}

/// The weighted sum over 3 x 3 faces.
#[inline(always)]
fn weighted<T: Real>(wy: [T; 3], wx: [T; 3], below: [T; 3], here: [T; 3], above: [T; 3]) -> T {
    let along = |c: [T; 3]| wx[0] * c[0] + wx[1] * c[1] + wx[2] * c[2];
    wy[0] * along(below) + wy[1] * along(here) + wy[2] * along(above)
}

/// First of the two faces that a displacement leads between, relative to the own one, and the share of the second.
#[inline(always)]
fn between<T: Real>(d: T) -> (isize, T) {
    let at = T::ZERO - d;
    let floor = at.floor();
    // A number that is none becomes 0, one beyond all bounds the last there is.
    (floor.wide() as isize, at - floor)
}

/// `out` = the component `component` of `field` advected by `field`, where `cells` are passed in a step at velocity 1.
#[inline(always)]
pub(super) fn advect<T: Real>(
    field: Field<T>,
    component: Component,
    cells: T,
    rows: &mut Rows<T>,
    out: &mut [T],
) {
    let lanes = field.lanes;
    let [n_rows, columns] = field.shape(component);
    let row = columns * lanes;
    let (dy, dx) = (&mut rows.dy[..row], &mut rows.dx[..row]);
    let one = T::of(1.0);
    for y in 0..n_rows {
        field.displacements(component, y, cells, dy, dx);
        let out = &mut out[y * row..][..row];
        let longest = longest_of(dy).largest(longest_of(dx));
        let at = |step: isize| field.row(component, y as isize + step);
        let (below, here, above) = (at(-1), at(0), at(1));
        if longest <= one {
            let edge = |idx: usize, left: usize, right: usize| {
                let of = |c: &[T]| [c[left], c[idx], c[right]];
                weighted(hats(dy[idx]), hats(dx[idx]), of(below), of(here), of(above))
            };
            let last = row - lanes;
            for lane in 0..lanes {
                out[lane] = edge(lane, lane, lane + lanes);
                out[last + lane] = edge(last + lane, last + lane - lanes, last + lane);
            }
            let n = row - 2 * lanes;
            let (b0, b1, b2) = (&below[..n], &below[lanes..][..n], &below[2 * lanes..][..n]);
            let (h0, h1, h2) = (&here[..n], &here[lanes..][..n], &here[2 * lanes..][..n]);
            let (a0, a1, a2) = (&above[..n], &above[lanes..][..n], &above[2 * lanes..][..n]);
            let (dy, dx, out) = (&dy[lanes..][..n], &dx[lanes..][..n], &mut out[lanes..][..n]);
            for idx in 0..n {
                out[idx] = weighted(
                    hats(dy[idx]),
                    hats(dx[idx]),
                    [b0[idx], b1[idx], b2[idx]],
                    [h0[idx], h1[idx], h2[idx]],
                    [a0[idx], a1[idx], a2[idx]],
                );
            }
        } else {
            for x in 0..columns {
                for lane in 0..lanes {
                    let idx = x * lanes + lane;
                    out[idx] = look_up(field, component, [y, x], lane, [dy[idx], dx[idx]]);
                }
            }
        }
    }
}

/// The value of one face, whatever its displacement: the definition, but that short ones go by hats.
#[inline(always)]
fn look_up<T: Real>(field: Field<T>, component: Component, [y, x]: [usize; 2], lane: usize, d: [T; 2]) -> T {
    let [_, columns] = field.shape(component);
    let at = |step_y: isize, step_x: isize| {
        let x = (x as isize).saturating_add(step_x).clamp(0, columns as isize - 1) as usize;
        field.row(component, (y as isize).saturating_add(step_y))[x * field.lanes + lane]
    };
    let one = T::of(1.0);
    if d[0].magnitude() <= one && d[1].magnitude() <= one {
        let of = |step: isize| [at(step, -1), at(step, 0), at(step, 1)];
        return weighted(hats(d[0]), hats(d[1]), of(-1), of(0), of(1));
    }
    let ((j, fy), (i, fx)) = (between(d[0]), between(d[1]));
    let (j1, i1) = (j.saturating_add(1), i.saturating_add(1));
    (one - fy) * ((one - fx) * at(j, i) + fx * at(j, i1)) + fy * ((one - fx) * at(j1, i) + fx * at(j1, i1))
}

/// The transpose of the derivative of [`advect`] at `field`: adds to `grad_v` and `grad_u` what a gradient `grad` of the
/// advected component gives, through the values looked up and through the places where.
#[inline(always)]
pub(super) fn advect_transpose<T: Real>(
    field: Field<T>,
    component: Component,
    cells: T,
    rows: &mut Rows<T>,
    grad: &[T],
    grad_v: &mut [T],
    grad_u: &mut [T],
) {
    let lanes = field.lanes;
    let [n_rows, columns] = field.shape(component);
    let row = columns * lanes;
    let (dy, dx) = (&mut rows.dy[..row], &mut rows.dx[..row]);
    let one = T::of(1.0);
    let clamp = |at: usize, step: isize, n: usize| {
        (at as isize).saturating_add(step).clamp(0, n as isize - 1) as usize
    };
    for y in 0..n_rows {
        field.displacements(component, y, cells, dy, dx);
        for x in 0..columns {
            for lane in 0..lanes {
                let idx = x * lanes + lane;
                let ((j, fy), (i, fx)) = (between(dy[idx]), between(dx[idx]));
                let (j1, i1) = (j.saturating_add(1), i.saturating_add(1));
                let place = |j: isize, i: isize| {
                    (clamp(y, j, n_rows) * columns + clamp(x, i, columns)) * lanes + lane
                };
                let g = grad[y * row + idx];
                let own = match component {
                    Component::V => &mut *grad_v,
                    Component::U => &mut *grad_u,
                };
                let mut corner = |j: isize, i: isize, weight: T| {
                    let at = place(j, i);
                    own[at] += weight * g;
                    field.of(component)[at]
                };
                let c00 = corner(j, i, (one - fy) * (one - fx));
                let c01 = corner(j, i1, (one - fy) * fx);
                let c10 = corner(j1, i, fy * (one - fx));
                let c11 = corner(j1, i1, fy * fx);
                // The place moves against the displacement.
                dy[idx] = g * ((one - fx) * (c00 - c10) + fx * (c01 - c11));
                dx[idx] = g * ((one - fy) * (c00 - c01) + fy * (c10 - c11));
            }
        }
        field.displacements_transpose(component, y, cells, [dy, dx], grad_v, grad_u);
    }
}
