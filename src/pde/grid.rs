//! The staggered grid: where numbers stand, in which units, and which cells are solid.
//!
//! The domain is 200 units long, along y, in which the fluid moves, and 100 wide, along x. A grid of resolution R has R
//! cells across and 2R along it. Pressure stands in the middle of cells; the velocity along y (called v) on the faces
//! between cells that follow each other in y, the one along x (called u) likewise. A time step is one unit of time at
//! every resolution, and velocities are in domain units per unit of time.

use super::Real;
use crate::{Error, Result};

/// Length of the domain, along y.
pub const LENGTH: f64 = 200.0;
/// Width of the domain, along x.
pub const WIDTH: f64 = 100.0;

/// A solid disc, in domain units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disc {
    /// Center (y, x).
    pub center: [f64; 2],
    /// Radius; 0 for no obstacle.
    pub radius: f64,
}

impl Default for Disc {
    /// That of the wake flow.
    fn default() -> Self {
        Self { center: [50.0, 50.0], radius: 10.0 }
    }
}

/// A component of the velocity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Along y.
    V,
    /// Along x.
    U,
}

/// Cells, faces, and which of them are solid.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    resolution: usize,
    obstacle: Vec<bool>,
}

/// The coarsest and the finest grid.
pub const MIN_RESOLUTION: usize = 4;
/// See [`MIN_RESOLUTION`].
pub const MAX_RESOLUTION: usize = 256;

impl Grid {
    /// The grid of `resolution` cells across with this obstacle: a cell is solid if its center is in the disc.
    ///
    /// # Errors
    /// [`Error::Setting`] if the resolution is odd or out of range, or the obstacle does not lie in the domain.
    pub fn new(resolution: usize, disc: Disc) -> Result<Self> {
        if !resolution.is_multiple_of(2) || !(MIN_RESOLUTION..=MAX_RESOLUTION).contains(&resolution) {
            let reason = format!(
                "expected an even number of cells from {MIN_RESOLUTION} to {MAX_RESOLUTION}; got {resolution}"
            );
            return Err(Error::setting("resolution", reason));
        }
        let Disc { center: [cy, cx], radius } = disc;
        let fits = |center: f64, side: f64| center - radius >= 0.0 && center + radius <= side;
        if !(radius >= 0.0 && fits(cy, LENGTH) && fits(cx, WIDTH)) {
            let reason = format!(
                "a disc of radius {radius} around ({cy}, {cx}) does not lie in the domain of {LENGTH} x {WIDTH}"
            );
            return Err(Error::setting("obstacle-radius", reason));
        }
        let size = WIDTH / resolution as f64;
        let center = |idx: usize| (idx as f64 + 0.5) * size;
        let is_solid = |row: usize, column: usize| {
            radius > 0.0 && (center(row) - cy).powi(2) + (center(column) - cx).powi(2) <= radius * radius
        };
        let cells = (0..2 * resolution).flat_map(|row| (0..resolution).map(move |column| (row, column)));
        let obstacle = cells.map(|(row, column)| is_solid(row, column)).collect();
        Ok(Self { resolution, obstacle })
    }

    /// Cells across, R.
    #[must_use]
    pub fn resolution(&self) -> usize {
        self.resolution
    }

    /// Rows and columns of cells.
    #[must_use]
    pub fn cells(&self) -> [usize; 2] {
        [2 * self.resolution, self.resolution]
    }

    /// Rows and columns of faces that hold a component.
    #[must_use]
    pub fn faces(&self, component: Component) -> [usize; 2] {
        let [rows, columns] = self.cells();
        match component {
            Component::V => [rows + 1, columns],
            Component::U => [rows, columns + 1],
        }
    }

    /// Place (y, x) of the first face of a component, in cells.
    #[must_use]
    pub fn offset(component: Component) -> [f64; 2] {
        match component {
            Component::V => [0.0, 0.5],
            Component::U => [0.5, 0.0],
        }
    }

    /// Side of a cell in domain units.
    #[must_use]
    pub fn cell_size(&self) -> f64 {
        WIDTH / self.resolution as f64
    }

    /// Cells that something of velocity 1 passes in a step.
    #[must_use]
    pub fn cells_per_step(&self) -> f64 {
        self.resolution as f64 / WIDTH
    }

    /// Which cells are solid, row by row.
    #[must_use]
    pub fn obstacle(&self) -> &[bool] {
        &self.obstacle
    }

    /// Whether a cell is solid; beside the domain none is.
    fn is_solid(&self, row: isize, column: isize) -> bool {
        let [rows, columns] = self.cells().map(|n| n as isize);
        let is_inside = (0..rows).contains(&row) && (0..columns).contains(&column);
        is_inside && self.obstacle[(row * columns + column) as usize]
    }

    /// By face of a component: 0 where it touches a solid cell, else 1.
    pub(super) fn open<T: Real>(&self, component: Component) -> Vec<T> {
        let [rows, columns] = self.faces(component);
        let mut open = Vec::with_capacity(rows * columns);
        for row in 0..rows as isize {
            for column in 0..columns as isize {
                let (y, x) = match component {
                    Component::V => (row - 1, column),
                    Component::U => (row, column - 1),
                };
                let touches = self.is_solid(row, column) || self.is_solid(y, x);
                open.push(if touches { T::ZERO } else { T::of(1.0) });
            }
        }
        open
    }
}

/// Velocities of several flows on one grid, each flow in a lane: (row, column, lane).
#[derive(Debug, Clone, PartialEq)]
pub struct Velocity<T> {
    /// Number of flows.
    pub lanes: usize,
    /// Along y: (2R + 1, R, lane).
    pub v: Vec<T>,
    /// Along x: (2R, R + 1, lane).
    pub u: Vec<T>,
}

impl<T: Real> Velocity<T> {
    /// All at rest.
    #[must_use]
    pub fn zeros(grid: &Grid, lanes: usize) -> Self {
        let of = |component| vec![T::ZERO; grid.faces(component).iter().product::<usize>() * lanes];
        Self { lanes, v: of(Component::V), u: of(Component::U) }
    }

    /// Flow along y at velocity 1, with the kick from the side behind the obstacle that starts the shedding of
    /// vortices: it stands at fixed cells, so that its place in the domain depends on the resolution.
    #[must_use]
    pub fn start(grid: &Grid, lanes: usize) -> Self {
        let mut start = Self::zeros(grid, lanes);
        start.v.fill(T::of(1.0));
        let r = grid.resolution();
        for row in r + 10..(r + 20).min(2 * r) {
            start.u[(row * (r + 1) + r / 2 - 2) * lanes..][..4 * lanes].fill(T::of(1.0));
        }
        start
    }

    /// One flow, as if it were alone.
    ///
    /// # Panics
    /// If there is no such lane.
    #[must_use]
    pub fn lane(&self, lane: usize) -> Self {
        assert!(lane < self.lanes, "lane {lane} of {}", self.lanes);
        let pick = |values: &[T]| values.iter().skip(lane).step_by(self.lanes).copied().collect();
        Self { lanes: 1, v: pick(&self.v), u: pick(&self.u) }
    }

    /// Puts a flow that is alone into a lane.
    ///
    /// # Panics
    /// If there is no such lane, or the grids differ.
    pub fn set_lane(&mut self, lane: usize, from: &Self) {
        assert!(lane < self.lanes && from.lanes == 1 && self.v.len() == from.v.len() * self.lanes);
        for (to, from) in [(&mut self.v, &from.v), (&mut self.u, &from.u)] {
            to.iter_mut().skip(lane).step_by(self.lanes).zip(from).for_each(|(to, from)| *to = *from);
        }
    }

    /// Flows that are alone, side by side.
    ///
    /// # Panics
    /// If there are none, or the grids differ.
    #[must_use]
    pub fn stack(flows: &[&Self]) -> Self {
        let lanes = flows.len();
        let (v, u) = (vec![T::ZERO; flows[0].v.len() * lanes], vec![T::ZERO; flows[0].u.len() * lanes]);
        let mut stacked = Self { lanes, v, u };
        flows.iter().enumerate().for_each(|(lane, flow)| stacked.set_lane(lane, flow));
        stacked
    }

    /// The numbers in another type.
    #[must_use]
    pub fn cast<U: Real>(&self) -> Velocity<U> {
        let cast = |values: &[T]| values.iter().map(|value| U::of(value.wide())).collect();
        Velocity { lanes: self.lanes, v: cast(&self.v), u: cast(&self.u) }
    }

    /// What is wrong with a state, if anything: a number that is none, or a speed that leads through the whole domain
    /// in one step.
    ///
    /// # Errors
    /// [`Error::Objective`], naming the lane and the face.
    pub fn check(&self, grid: &Grid) -> Result<()> {
        let fastest = WIDTH;
        for (name, component, values) in [("v", Component::V, &self.v), ("u", Component::U, &self.u)] {
            let is_sound = |value: &T| value.wide().abs() <= fastest;
            if let Some(idx) = values.iter().position(|value| !is_sound(value)) {
                let [_, columns] = grid.faces(component);
                let (face, lane) = (idx / self.lanes, idx % self.lanes);
                let value = values[idx].wide();
                let why = if value.is_finite() {
                    format!("a step would lead through more than the domain's width of {WIDTH}")
                } else {
                    "the flow is lost; a smaller diffusion number or smaller corrections may help".to_owned()
                };
                return Err(Error::Objective(format!(
                    "flow {lane}: {name} is {value} at row {}, column {}: {why}",
                    face / columns,
                    face % columns
                )));
            }
        }
        Ok(())
    }
}

/// The restriction to a grid of half the resolution: every second face along the component, means of two across it.
///
/// # Panics
/// If the velocity is not one on a grid of this resolution, or the resolution is odd.
#[must_use]
pub fn restrict<T: Real>(resolution: usize, fine: &Velocity<T>) -> Velocity<T> {
    assert!(resolution.is_multiple_of(2) && fine.v.len() == (2 * resolution + 1) * resolution * fine.lanes);
    let (half, lanes, two) = (resolution / 2, fine.lanes, T::of(2.0));
    let at_v = |row: usize, column: usize| &fine.v[(row * resolution + column) * lanes..][..lanes];
    let at_u = |row: usize, column: usize| &fine.u[(row * (resolution + 1) + column) * lanes..][..lanes];
    let mut v = Vec::with_capacity((2 * half + 1) * half * lanes);
    for row in 0..2 * half + 1 {
        for column in 0..half {
            let pair = at_v(2 * row, 2 * column).iter().zip(at_v(2 * row, 2 * column + 1));
            v.extend(pair.map(|(a, b)| (*a + *b) / two));
        }
    }
    let mut u = Vec::with_capacity(2 * half * (half + 1) * lanes);
    for row in 0..2 * half {
        for column in 0..half + 1 {
            let pair = at_u(2 * row, 2 * column).iter().zip(at_u(2 * row + 1, 2 * column));
            u.extend(pair.map(|(a, b)| (*a + *b) / two));
        }
    }
    Velocity { lanes, v, u }
}

/// Vorticity of one lane at the inner corners of cells, (2R − 1, R − 1), in units of one over time: ∂v/∂x − ∂u/∂y.
///
/// # Panics
/// If there is no such lane.
#[must_use]
pub fn vorticity<T: Real>(grid: &Grid, velocity: &Velocity<T>, lane: usize) -> Vec<f64> {
    let flow = velocity.lane(lane);
    let [rows, columns] = grid.cells();
    let size = grid.cell_size();
    let corners = (1..rows).flat_map(|row| (1..columns).map(move |column| (row, column)));
    let at = |(row, column): (usize, usize)| {
        let v = |column: usize| flow.v[row * columns + column].wide();
        let u = |row: usize| flow.u[row * (columns + 1) + column].wide();
        ((v(column) - v(column - 1)) - (u(row) - u(row - 1))) / size
    };
    corners.map(at).collect()
}
