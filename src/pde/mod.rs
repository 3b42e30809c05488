//! Two-dimensional incompressible flow around an obstacle, on a staggered grid: what a corrector is trained through.
//!
//! A step is diffusion, boundary condition, advection, pressure: one term a file, each with its transpose. Many flows go
//! through a step side by side, each in a lane, the innermost index; a lane's numbers do not depend on the others, nor
//! on threads or the instruction set. Nothing here knows of networks.
//!
//! The scheme is that of the wake flow ("karman-2d") of Um et al., "Solver-in-the-Loop" (2020), as their code and
//! PhiFlow 1.x compute it.

mod advection;
mod boundary;
mod diffusion;
mod grid;
mod pressure;
#[cfg(test)]
mod tests;

use pulp::{Simd, WithSimd};

pub use diffusion::MAX_NUMBER;
pub use grid::{
    Component, Disc, Grid, LENGTH, MAX_RESOLUTION, MIN_RESOLUTION, Velocity, WIDTH, restrict, vorticity,
};
pub use pressure::Variant;

use crate::kernels::{Element, Isa};
use crate::{Error, Result};
use advection::{Field, Rows, advect, advect_transpose};
use diffusion::diffuse;
use pressure::{Line, Projection};

/// A number type of flows.
pub trait Real: Element {
    /// Largest whole number not above.
    fn floor(self) -> Self;
    /// Without the sign.
    fn magnitude(self) -> Self;
    /// The larger one; that which is a number, if one is none.
    fn largest(self, other: Self) -> Self;
}

macro_rules! real {
    ($($t:ty)*) => {
        $(impl Real for $t {
            #[inline(always)]
            fn floor(self) -> Self {
                <$t>::floor(self)
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn largest(self, other: Self) -> Self {
                // Comparison and choice are one instruction for many lanes.
                if self > other { self } else { other }
            }
        })*
    };
}

real!(f32 f64);

/// A time step on one grid.
#[derive(Debug, Clone)]
pub struct Flow<T> {
    grid: Grid,
    projection: Projection<T>,
}

/// A step's intermediate results.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages<T> {
    /// After diffusion.
    pub diffused: Velocity<T>,
    /// With the boundary condition.
    pub bounded: Velocity<T>,
    /// Advected.
    pub advected: Velocity<T>,
    /// Pressure (2R, R, lane), in cells.
    pub pressure: Vec<T>,
}

/// Memory that steps use again.
#[derive(Debug)]
pub struct Workspace<T> {
    v: Vec<T>,
    u: Vec<T>,
    p: Vec<T>,
    alphas: Vec<T>,
    rows: Rows<T>,
    line: Line<T>,
    lanes: usize,
}

impl<T: Real> Workspace<T> {
    /// For `lanes` flows on a grid.
    #[must_use]
    pub fn new(grid: &Grid, lanes: usize) -> Self {
        let Velocity { v, u, .. } = Velocity::zeros(grid, lanes);
        let r = grid.resolution();
        Self {
            v,
            u,
            p: vec![T::ZERO; 2 * r * r * lanes],
            alphas: vec![T::ZERO; (r + 1) * lanes],
            rows: Rows::new(r, lanes),
            line: Line::new(r, lanes),
            lanes,
        }
    }

    /// The pressure (2R, R, lane) of the last step, in cells.
    #[must_use]
    pub fn pressure(&self) -> &[T] {
        &self.p
    }
}

impl<T: Real> Flow<T> {
    /// Prepares the pressure solver.
    #[must_use]
    pub fn new(grid: Grid, variant: Variant) -> Self {
        let projection = Projection::new(&grid, variant);
        Self { grid, projection }
    }

    /// The grid.
    #[must_use]
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Diffusion number α of a configured Reynolds number: that of a constant viscosity of 10⁴ / `re`.
    #[must_use]
    pub fn diffusion_number(&self, re: f64) -> f64 {
        let r = self.grid.resolution() as f64;
        r * r / re
    }

    /// The same, if steps with it are stable.
    ///
    /// # Errors
    /// [`Error::Setting`] with `key` otherwise.
    pub fn stable_number(&self, key: &str, re: f64) -> Result<f64> {
        let alpha = self.diffusion_number(re);
        if alpha > 0.0 && alpha <= MAX_NUMBER {
            return Ok(alpha);
        }
        let r = self.grid.resolution();
        let reason = format!(
            "at {r} cells across, {re} makes a diffusion number of {alpha}, where explicit steps need one above 0 and \
             up to {MAX_NUMBER}: take {} or more, or a coarser grid",
            (r * r) as f64 / MAX_NUMBER
        );
        Err(Error::setting(key, reason))
    }

    /// One step of every lane, with its diffusion number.
    ///
    /// # Panics
    /// Unless there is one number a lane, and `workspace` is for so many on this grid.
    pub fn step(&self, state: &mut Velocity<T>, alphas: &[T], workspace: &mut Workspace<T>) {
        self.check(state, alphas, workspace);
        Isa::current().dispatch(Forward { flow: self, state, workspace });
    }

    fn check(&self, state: &Velocity<T>, alphas: &[T], workspace: &mut Workspace<T>) {
        let lanes = state.lanes;
        let size = |component| self.grid.faces(component).iter().product::<usize>() * lanes;
        assert_eq!([alphas.len(), workspace.lanes], [lanes; 2]);
        assert_eq!([state.v.len(), state.u.len()], [Component::V, Component::U].map(size));
        assert_eq!([workspace.v.len(), workspace.u.len()], [Component::V, Component::U].map(size));
        workspace.alphas.chunks_exact_mut(lanes).for_each(|of_column| of_column.copy_from_slice(alphas));
    }

    /// The same with everything in between.
    ///
    /// # Panics
    /// As [`Flow::step`].
    pub fn step_by_stages(
        &self,
        state: &mut Velocity<T>,
        alphas: &[T],
        workspace: &mut Workspace<T>,
    ) -> Stages<T> {
        self.check(state, alphas, workspace);
        let lanes = state.lanes;
        let diffused =
            |workspace: &Workspace<T>| Velocity { lanes, v: workspace.v.clone(), u: workspace.u.clone() };
        self.diffuse(state, workspace);
        let diffused = diffused(workspace);
        boundary::apply(self.grid.resolution(), lanes, &mut workspace.v);
        let bounded = Velocity { v: workspace.v.clone(), ..diffused.clone() };
        self.advect(state, workspace);
        let advected = state.clone();
        self.projection.project(lanes, &mut state.v, &mut state.u, &mut workspace.p, &mut workspace.line);
        Stages { diffused, bounded, advected, pressure: workspace.p.clone() }
    }

    /// The transpose of the derivative of a step from `before`, of a gradient `grad` of what comes after it, in place.
    ///
    /// # Panics
    /// As [`Flow::step`].
    pub fn step_transpose(
        &self,
        before: &Velocity<T>,
        alphas: &[T],
        grad: &mut Velocity<T>,
        workspace: &mut Workspace<T>,
    ) {
        self.check(before, alphas, workspace);
        assert_eq!([grad.v.len(), grad.u.len()], [before.v.len(), before.u.len()]);
        Isa::current().dispatch(Backward { flow: self, before, grad, workspace });
    }

    /// Largest absolute divergence of a fluid cell in any lane, per cell.
    #[must_use]
    pub fn largest_divergence(&self, state: &Velocity<T>) -> f64 {
        let [rows, columns] = self.grid.cells();
        let mut divergence = vec![T::ZERO; rows * columns * state.lanes];
        self.projection.divergence(state.lanes, &state.v, &state.u, &mut divergence);
        let cells = divergence.chunks_exact(state.lanes).zip(self.grid.obstacle());
        let fluid = cells.filter(|(_, is_solid)| !**is_solid).flat_map(|(lanes, _)| lanes);
        fluid.fold(0.0, |most, value| most.max(value.wide().abs()))
    }

    #[inline(always)]
    fn diffuse(&self, state: &Velocity<T>, workspace: &mut Workspace<T>) {
        let Workspace { v, u, alphas, .. } = workspace;
        diffuse(self.grid.faces(Component::V), state.lanes, alphas, &state.v, v);
        diffuse(self.grid.faces(Component::U), state.lanes, alphas, &state.u, u);
    }

    /// From the workspace into `state`.
    #[inline(always)]
    fn advect(&self, state: &mut Velocity<T>, workspace: &mut Workspace<T>) {
        let Workspace { v, u, rows, .. } = workspace;
        let field = Field { resolution: self.grid.resolution(), lanes: state.lanes, v, u };
        let cells = T::of(self.grid.cells_per_step());
        advect(field, Component::V, cells, rows, &mut state.v);
        advect(field, Component::U, cells, rows, &mut state.u);
    }
}

struct Forward<'a, T> {
    flow: &'a Flow<T>,
    state: &'a mut Velocity<T>,
    workspace: &'a mut Workspace<T>,
}

impl<T: Real> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { flow, state, workspace } = self;
        let lanes = state.lanes;
        flow.diffuse(state, workspace);
        boundary::apply(flow.grid.resolution(), lanes, &mut workspace.v);
        flow.advect(state, workspace);
        flow.projection.project(lanes, &mut state.v, &mut state.u, &mut workspace.p, &mut workspace.line);
    }
}

struct Backward<'a, T> {
    flow: &'a Flow<T>,
    before: &'a Velocity<T>,
    grad: &'a mut Velocity<T>,
    workspace: &'a mut Workspace<T>,
}

impl<T: Real> WithSimd for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { flow, before, grad, workspace } = self;
        let (lanes, r) = (before.lanes, flow.grid.resolution());
        flow.projection.transpose(lanes, &mut grad.v, &mut grad.u, &mut workspace.p, &mut workspace.line);
        flow.diffuse(before, workspace);
        boundary::apply(r, lanes, &mut workspace.v);
        let mut back = Velocity::zeros(&flow.grid, lanes);
        let Workspace { v, u, rows, .. } = workspace;
        let field = Field { resolution: r, lanes, v, u };
        let cells = T::of(flow.grid.cells_per_step());
        advect_transpose(field, Component::V, cells, rows, &grad.v, &mut back.v, &mut back.u);
        advect_transpose(field, Component::U, cells, rows, &grad.u, &mut back.v, &mut back.u);
        boundary::transpose(r, lanes, &mut back.v);
        // Diffusion is its own transpose.
        diffuse(flow.grid.faces(Component::V), lanes, &workspace.alphas, &back.v, &mut grad.v);
        diffuse(flow.grid.faces(Component::U), lanes, &workspace.alphas, &back.u, &mut grad.u);
    }
}
