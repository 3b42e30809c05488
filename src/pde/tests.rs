//! The flow against closed forms.

use super::*;
use crate::rng::{Purpose, Stream};

fn flow(resolution: usize, radius: f64, variant: Variant) -> Flow<f64> {
    Flow::new(Grid::new(resolution, Disc { radius, ..Disc::default() }).unwrap(), variant)
}

fn noise(grid: &Grid, lanes: usize, size: f64, lane: u32) -> Velocity<f64> {
    let mut state = Velocity::zeros(grid, lanes);
    let stream = Stream::new(7, Purpose::Test, 0);
    stream.lane(2 * lane).fill_normal(&mut state.v);
    stream.lane(2 * lane + 1).fill_normal(&mut state.u);
    state.v.iter_mut().chain(&mut state.u).for_each(|value| *value *= size);
    state
}

fn dot(a: &Velocity<f64>, b: &Velocity<f64>) -> f64 {
    let of = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    of(&a.v, &b.v) + of(&a.u, &b.u)
}

/// Oracle: the law of conservation: after a step no fluid cell gains or loses anything, and what flows in flows out.
#[test]
fn a_step_leaves_no_divergence_and_keeps_the_balance() {
    for resolution in [8, 16, 32] {
        let flow = flow(resolution, 10.0, Variant::Consistent);
        let mut state = Velocity::start(flow.grid(), 2);
        let mut workspace = Workspace::new(flow.grid(), 2);
        for _ in 0..20 {
            flow.step(&mut state, &[0.01, 0.001], &mut workspace);
            assert!(flow.largest_divergence(&state) < 1e-12);
        }
        let r = resolution;
        for lane in 0..2 {
            let state = state.lane(lane);
            let through = |row: usize| state.v[row * r..][..r].iter().sum::<f64>();
            let sides: f64 = (0..2 * r).map(|y| state.u[y * (r + 1)] - state.u[y * (r + 1) + r]).sum();
            assert!((through(0) + sides - through(2 * r)).abs() < 1e-10);
        }
    }
}

/// Oracle: nothing accelerates a uniform flow along y that meets no obstacle.
#[test]
fn a_uniform_flow_stays() {
    for variant in [Variant::Consistent, Variant::Replicate] {
        let flow = flow(16, 0.0, variant);
        let mut state = Velocity::zeros(flow.grid(), 1);
        state.v.fill(1.0);
        let before = state.clone();
        flow.step(&mut state, &[0.1], &mut Workspace::new(flow.grid(), 1));
        let change = state.v.iter().zip(&before.v).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(change < 1e-13 && state.u.iter().all(|u| u.abs() < 1e-13));
    }
}

/// Oracle: Taylor and Green's vortices, u = a sin(kx) cos(ky), v = −a cos(kx) sin(ky), decay as exp(−2 ν k² t) in the
/// heat equation. Far from the edges one step of diffusion comes to that with an error that falls with the fourth power
/// of the cell size at fixed α (second order in space, times the step's own α (k dx)²).
#[test]
fn diffusion_decays_taylor_green_vortices_at_second_order() {
    let errors = [32, 64, 128].map(|resolution| {
        let grid = Grid::new(resolution, Disc { radius: 0.0, ..Disc::default() }).unwrap();
        let k = std::f64::consts::TAU / WIDTH * 2.0;
        let size = grid.cell_size();
        let [rows, columns] = grid.faces(Component::U);
        let [y0, x0] = Grid::offset(Component::U);
        let at = |idx: usize| {
            let (y, x) = ((idx / columns) as f64 + y0, (idx % columns) as f64 + x0);
            (k * x * size).sin() * (k * y * size).cos()
        };
        let before: Vec<f64> = (0..rows * columns).map(at).collect();
        let mut after = before.clone();
        let alpha = 0.1;
        diffuse([rows, columns], 1, &vec![alpha; columns], &before, &mut after);
        // ν dt = α dx².
        let decay = (-2.0 * alpha * size * size * k * k).exp();
        let inner = (0..rows * columns).filter(|idx| {
            let (y, x) = (idx / columns, idx % columns);
            (1..rows - 1).contains(&y) && (1..columns - 1).contains(&x)
        });
        inner.map(|idx| (after[idx] - decay * before[idx]).abs()).fold(0.0, f64::max)
    });
    let orders = [errors[0] / errors[1], errors[1] / errors[2]].map(f64::log2);
    assert!(orders.iter().all(|order| (order - 4.0).abs() < 0.1), "{orders:?}");
}

/// Oracle: a smooth profile v(x) carried along x by u = const: after one step the profile has moved by u; bilinear
/// interpolation errs at second order.
#[test]
fn advection_moves_a_profile_at_second_order() {
    let errors = [16, 32, 64].map(|resolution| {
        let grid = Grid::new(resolution, Disc { radius: 0.0, ..Disc::default() }).unwrap();
        let (size, lanes) = (grid.cell_size(), 1);
        let profile = |x: f64| (std::f64::consts::TAU * x / WIDTH).sin() * 1e-9;
        let mut state = Velocity::<f64>::zeros(&grid, lanes);
        // Half a cell in a step at every resolution.
        let speed = 0.5 * size;
        state.u.fill(speed);
        let columns = grid.cells()[1];
        state
            .v
            .iter_mut()
            .enumerate()
            .for_each(|(idx, v)| *v = profile(((idx % columns) as f64 + 0.5) * size));
        let field = Field { resolution, lanes, v: &state.v, u: &state.u };
        let mut out = vec![0.0; state.v.len()];
        let cells = grid.cells_per_step();
        advect(field, Component::V, cells, &mut Rows::new(resolution, lanes), &mut out);
        let row = &out[10 * columns..][..columns];
        let error = |x: usize| (row[x] - profile((x as f64 + 0.5) * size - speed)).abs() / 1e-9;
        (2..columns - 2).map(error).fold(0.0, f64::max)
    });
    let orders = [errors[0] / errors[1], errors[1] / errors[2]].map(f64::log2);
    assert!(orders.iter().all(|order| (order - 2.0).abs() < 0.1), "{orders:?}");
}

/// Oracle: the definition of a transpose, ⟨J d, w⟩ = ⟨d, Jᵀ w⟩, with J d from central differences, for displacements
/// within a cell and beyond.
#[test]
fn the_transpose_of_a_step_is_one() {
    for variant in [Variant::Consistent, Variant::Replicate] {
        for size in [1.0, 20.0] {
            let flow = flow(12, 10.0, variant);
            let (grid, lanes) = (flow.grid(), 2);
            let alphas = [0.05, 0.2];
            let [state, direction, cotangent] = [0, 1, 2].map(|lane| noise(grid, lanes, 1.0, lane));
            let state = Velocity {
                v: state.v.iter().map(|v| v * size).collect(),
                u: state.u.iter().map(|u| u * size).collect(),
                ..state
            };
            let h = 1e-7;
            let mut workspace = Workspace::new(grid, lanes);
            let mut at = |shift: f64| {
                let move_by = |a: &[f64], d: &[f64]| a.iter().zip(d).map(|(a, d)| a + shift * d).collect();
                let mut moved = Velocity {
                    lanes,
                    v: move_by(&state.v, &direction.v),
                    u: move_by(&state.u, &direction.u),
                };
                flow.step(&mut moved, &alphas, &mut workspace);
                dot(&moved, &cotangent)
            };
            let slope = (at(h) - at(-h)) / (2.0 * h);
            let mut grad = cotangent.clone();
            flow.step_transpose(&state, &alphas, &mut grad, &mut Workspace::new(grid, lanes));
            let found = dot(&grad, &direction);
            assert!((found - slope).abs() < 1e-5 * slope.abs().max(10.0), "{found} {slope}");
        }
    }
}

/// Oracle: each lane alone, bit for bit, with displacements on both sides of a cell.
#[test]
fn lanes_do_not_see_each_other() {
    let flow = flow(16, 10.0, Variant::Consistent);
    let (grid, lanes) = (flow.grid(), 21);
    let mut states: Vec<Velocity<f64>> =
        (0..lanes).map(|lane| noise(grid, 1, 1.0 + 4.0 * lane as f64, lane as u32)).collect();
    let alphas: Vec<f64> = (0..lanes).map(|lane| 0.01 * lane as f64).collect();
    let mut together = Velocity::stack(&states.iter().collect::<Vec<_>>());
    flow.step(&mut together, &alphas, &mut Workspace::new(grid, lanes));
    for (lane, state) in states.iter_mut().enumerate() {
        flow.step(state, &alphas[lane..=lane], &mut Workspace::new(grid, 1));
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let found = together.lane(lane);
        assert!(bits(&found.v) == bits(&state.v) && bits(&found.u) == bits(&state.u), "lane {lane}");
    }
}

/// Oracle: the same step, stage by stage.
#[test]
fn stages_are_those_of_a_step() {
    let flow = flow(16, 10.0, Variant::Replicate);
    let mut state = noise(flow.grid(), 3, 1.0, 9);
    let mut by_stages = state.clone();
    let mut workspace = Workspace::new(flow.grid(), 3);
    flow.step(&mut state, &[0.1; 3], &mut workspace);
    let stages = flow.step_by_stages(&mut by_stages, &[0.1; 3], &mut workspace);
    assert_eq!(state, by_stages);
    assert_eq!(stages.pressure, workspace.pressure());
}

#[test]
fn what_cannot_be_is_refused() {
    let message = |resolution, disc| Grid::new(resolution, disc).unwrap_err().to_string();
    assert!(message(9, Disc::default()).contains("an even number of cells"));
    assert!(message(2, Disc::default()).contains("from 4 to 256; got 2"));
    for (center, radius) in [([50.0, 5.0], 10.0), ([195.0, 50.0], 10.0), ([50.0, 50.0], f64::NAN)] {
        assert!(message(16, Disc { center, radius }).contains("does not lie in the domain"));
    }
    let flow = flow(32, 10.0, Variant::Consistent);
    assert!(flow.stable_number("reynolds", 4096.0).is_ok());
    let error = flow.stable_number("reynolds", 4000.0).unwrap_err().to_string();
    assert!(error.contains("take 4096 or more, or a coarser grid"), "{error}");
    let mut state = Velocity::<f64>::start(flow.grid(), 2);
    assert!(state.check(flow.grid()).is_ok());
    state.u[2 * 33 * 5 + 7] = f64::NAN;
    let error = state.check(flow.grid()).unwrap_err().to_string();
    assert!(error.contains("flow 1: u is NaN at row 5, column 3"), "{error}");
    state.u[2 * 33 * 5 + 7] = 1e3;
    assert!(state.check(flow.grid()).unwrap_err().to_string().contains("more than the domain's width"));
    // A step of it still ends.
    state.u[2 * 33 * 5 + 7] = f64::NAN;
    state.v[0] = 1e300;
    flow.step(&mut state, &[0.1; 2], &mut Workspace::new(flow.grid(), 2));
}
