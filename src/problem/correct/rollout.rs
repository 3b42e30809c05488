//! Steps of a solver, each with a correction after it.

use rayon::prelude::*;

use crate::data::wake::{Simulation, TRAIN_RE, Wake};
use crate::nn::Network;
use crate::nn::form::{Blockwise, BlockwiseBoth};
use crate::nn::pass::shifted::{Memory, Shift, ShiftedPass, lanes};
use crate::pde::{Flow, Real, Variant, Velocity, Workspace, vorticity};
use crate::{Error, Result};

/// A coarse solver, and the units in which a network sees and corrects its flows.
#[derive(Debug)]
pub struct Solver<T> {
    pub(super) flow: Flow<T>,
    /// Standard deviations over the training frames of |v| and |u|, and over the training simulations of the Reynolds
    /// number.
    pub(super) scales: [f64; 3],
}

/// Lanes of flows on their way.
pub(super) struct Lanes<T> {
    pub(super) state: Velocity<T>,
    alphas: Vec<T>,
    /// What the network sees of the Reynolds numbers.
    re: Vec<T>,
    workspace: Workspace<T>,
    input: Vec<T>,
    memory: Memory<T>,
}

impl<T: Real> Solver<T>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    /// On the grid of `wake`, in the units of its training simulations.
    #[must_use]
    pub fn new(wake: &Wake, variant: Variant) -> Self {
        let flow = Flow::new(wake.grid.clone(), variant);
        Self { flow, scales: scales(wake) }
    }

    /// Standard deviations of |v|, |u| and the Reynolds number.
    #[must_use]
    pub fn scales(&self) -> [f64; 3] {
        self.scales
    }

    /// Checks that a network takes three numbers of every cell and gives two.
    ///
    /// # Errors
    /// [`Error::Setting`] otherwise.
    pub(super) fn check_network(&self, network: &Network) -> Result<()> {
        let [rows, columns] = self.flow.grid().cells();
        if network.input() == [3, rows, columns] && network.n_outputs() == 2 * rows * columns {
            return Ok(());
        }
        let reason =
            format!("a corrector takes 3 x {rows} x {columns} numbers; this takes {:?}", network.input());
        Err(Error::setting("model", reason))
    }

    /// Flows at `state`, with the Reynolds number of each.
    pub(super) fn lanes(&self, state: Velocity<T>, res: &[f64]) -> Lanes<T> {
        let [rows, columns] = self.flow.grid().cells();
        Lanes {
            alphas: res.iter().map(|&re| T::of(self.flow.diffusion_number(re))).collect(),
            re: res.iter().map(|&re| T::of(re / self.scales[2])).collect(),
            workspace: Workspace::new(self.flow.grid(), state.lanes),
            input: vec![T::ZERO; 3 * rows * columns * state.lanes],
            memory: Memory::default(),
            state,
        }
    }

    /// Other flows in the same memory.
    pub(super) fn restart(&self, lanes: &mut Lanes<T>, flows: &[&Velocity<T>], res: &[f64]) {
        for (lane, flow) in flows.iter().enumerate() {
            lanes.state.set_lane(lane, flow);
            lanes.alphas[lane] = T::of(self.flow.diffusion_number(res[lane]));
            lanes.re[lane] = T::of(res[lane] / self.scales[2]);
        }
    }

    /// One step of the solver.
    pub(super) fn step(&self, lanes: &mut Lanes<T>) {
        self.flow.step(&mut lanes.state, &lanes.alphas, &mut lanes.workspace);
    }

    /// What the network sees (3, 2R, R, lane): the velocity at the low side of every cell, and the Reynolds number.
    pub(super) fn see(&self, state: &Velocity<T>, re: &[T], input: &mut [T]) {
        let [rows, columns] = self.flow.grid().cells();
        let row = columns * state.lanes;
        let (of_v, rest) = input.split_at_mut(rows * row);
        let (of_u, of_re) = rest.split_at_mut(rows * row);
        let [v_scale, u_scale, _] = self.scales.map(T::of);
        of_v.iter_mut().zip(&state.v).for_each(|(to, v)| *to = *v / v_scale);
        for (to, u) in of_u.chunks_exact_mut(row).zip(state.u.chunks_exact(row + state.lanes)) {
            to.iter_mut().zip(u).for_each(|(to, u)| *to = *u / u_scale);
        }
        of_re.chunks_exact_mut(state.lanes).for_each(|to| to.copy_from_slice(re));
    }

    /// Adds what the network gives (2, 2R, R, lane), where it is in the grid.
    pub(super) fn add(&self, state: &mut Velocity<T>, output: &[T]) {
        let [rows, columns] = self.flow.grid().cells();
        let row = columns * state.lanes;
        let (of_v, of_u) = output.split_at(rows * row);
        let [v_scale, u_scale, _] = self.scales.map(T::of);
        state.v.iter_mut().zip(of_v).for_each(|(v, c)| *v += *c * v_scale);
        for (u, c) in state.u.chunks_exact_mut(row + state.lanes).zip(of_u.chunks_exact(row)) {
            u.iter_mut().zip(c).for_each(|(u, c)| *u += *c * u_scale);
        }
    }

    /// The correction after a step, where every lane sees its own one of `shifts`.
    pub(super) fn correct(
        &self,
        lanes: &mut Lanes<T>,
        pass: &ShiftedPass<T>,
        shifts: &[Option<Shift>],
    ) -> Result<()> {
        let Lanes { state, re, input, memory, .. } = lanes;
        self.see(state, re, input);
        self.add(state, pass.run(input, shifts, memory)?);
        Ok(())
    }

    /// The course of `simulations` from their first frame on, with a corrector or without; `visit` sees the vorticity of
    /// every frame: simulation, frame, values.
    pub(super) fn course(
        &self,
        pass: Option<&ShiftedPass<T>>,
        simulations: &[Simulation],
        visit: impl Fn(usize, usize, &[f64]) + Sync,
    ) -> Result<Vec<Course>> {
        let n = lanes::<T>();
        let blocks: Vec<Vec<Course>> = simulations
            .par_chunks(n)
            .enumerate()
            .map(|(block, part)| {
                self.course_of_block(pass, part, &|lane, frame, values: &[f64]| {
                    visit(block * n + lane, frame, values)
                })
            })
            .collect::<Result<_>>()?;
        Ok(blocks.into_iter().flatten().collect())
    }

    fn course_of_block(
        &self,
        pass: Option<&ShiftedPass<T>>,
        simulations: &[Simulation],
        visit: &dyn Fn(usize, usize, &[f64]),
    ) -> Result<Vec<Course>> {
        let n = if pass.is_some() { lanes::<T>() } else { simulations.len() };
        // Lanes without a simulation of their own go along with the first.
        let of_lane = |lane: usize| &simulations[if lane < simulations.len() { lane } else { 0 }];
        let starts: Vec<Velocity<T>> = (0..n).map(|lane| of_lane(lane).frames[0].cast()).collect();
        let res: Vec<f64> = (0..n).map(|lane| of_lane(lane).re).collect();
        let mut lanes = self.lanes(Velocity::stack(&starts.iter().collect::<Vec<_>>()), &res);
        let mut courses = vec![Course::default(); simulations.len()];
        let shifts = vec![None; n];
        for frame in 1..simulations[0].frames.len() {
            self.step(&mut lanes);
            if let Some(pass) = pass {
                self.correct(&mut lanes, pass, &shifts)?;
            }
            for (lane, simulation) in simulations.iter().enumerate() {
                let found = lanes.state.lane(lane);
                courses[lane].errors.push(mean_distance(&found, &simulation.frames[frame]));
                visit(lane, frame, &vorticity(self.flow.grid(), &found, 0));
            }
        }
        Ok(courses)
    }
}

/// How far a flow is from its simulation, frame by frame.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    /// Mean absolute difference over all faces of both components, from the second frame on; NaN or infinite once
    /// the flow is lost.
    pub errors: Vec<f64>,
}

impl Course {
    /// The mean over the frames.
    #[must_use]
    pub fn mean_error(&self) -> f64 {
        self.errors.iter().sum::<f64>() / self.errors.len() as f64
    }
}

fn mean_distance<T: Real>(found: &Velocity<T>, expected: &Velocity<f32>) -> f64 {
    let of = |found: &[T], expected: &[f32]| -> f64 {
        found.iter().zip(expected).map(|(a, b)| (a.wide() - f64::from(*b)).abs()).sum()
    };
    let n = found.v.len() + found.u.len();
    (of(&found.v, &expected.v) + of(&found.u, &expected.u)) / n as f64
}

/// Standard deviations of |v|, |u| over the training frames, with one row or column of zeros beside each component as in
/// the released code, and of all training Reynolds numbers.
fn scales(wake: &Wake) -> [f64; 3] {
    let r = wake.grid.resolution();
    // Both arrays are (2R + 1, R + 1) there.
    let padded = ((2 * r + 1) * (r + 1)) as f64;
    let frames = || wake.train.iter().flat_map(|simulation| &simulation.frames);
    let n = padded * frames().count() as f64;
    let std = |values: fn(&Velocity<f32>) -> &[f32]| {
        let sum = |of: fn(f64) -> f64| -> f64 {
            frames()
                .map(|frame| values(frame).iter().map(|&value| of(f64::from(value).abs())).sum::<f64>())
                .sum()
        };
        let mean = sum(|value| value) / n;
        (sum(|value| value * value) / n - mean * mean).max(0.0).sqrt()
    };
    let mean = TRAIN_RE.iter().sum::<f64>() / TRAIN_RE.len() as f64;
    let variance = TRAIN_RE.iter().map(|re| (re - mean).powi(2)).sum::<f64>() / TRAIN_RE.len() as f64;
    // A component that is zero everywhere has no unit of its own.
    let or_one = |std: f64| if std > 0.0 { std } else { 1.0 };
    [or_one(std(|frame| &frame.v)), or_one(std(|frame| &frame.u)), variance.sqrt()]
}
