//! The loss of short rollouts as a function of the corrector's parameters.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::Sample;
use super::rollout::{Lanes, Solver};
use crate::data::wake::Wake;
use crate::nn::backprop::{Backprop, Slope};
use crate::nn::form::{Blockwise, BlockwiseBoth};
use crate::nn::objective::BasePass;
use crate::nn::pass::shifted::{Shift, ShiftedPass, lanes};
use crate::nn::{Activations, BatchStats, Chain, Network};
use crate::params::Layout;
use crate::pde::{Real, Velocity, Workspace};
use crate::problem::Minibatch;
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::{Base, Objective, Probe};
use crate::{Error, Result};

/// Rollouts from some frames: the sum over them of the mean over the steps of half the squared distance to the
/// simulation, each component in its unit.
///
/// Probes of single coordinates and rollouts fill the lanes of blocks together, through network and solver. The first
/// step of the solver, before which nothing was corrected, is the same for all and made once.
pub struct Unrolled<'a, T> {
    network: &'a Network,
    wake: &'a Wake,
    solver: &'a Solver<T>,
    unroll: usize,
    samples: Vec<Sample>,
    res: Vec<f64>,
    /// Before and after the first step, a rollout a lane.
    start: Velocity<T>,
    first: Velocity<T>,
    /// The latter one by one.
    firsts: Vec<Velocity<T>>,
}

/// A rollout in a lane, and the shift that it sees.
type Passenger = (usize, Option<Shift>);

impl<'a, T: Real> Unrolled<'a, T>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    pub(super) fn new(
        network: &'a Network,
        wake: &'a Wake,
        solver: &'a Solver<T>,
        unroll: usize,
        samples: Vec<Sample>,
    ) -> Self {
        let frame = |sample: &Sample| wake.train[sample.simulation].frames[sample.frame].cast::<T>();
        let frames: Vec<Velocity<T>> = samples.iter().map(frame).collect();
        let start = Velocity::stack(&frames.iter().collect::<Vec<_>>());
        let res: Vec<f64> = samples.iter().map(|sample| wake.train[sample.simulation].re).collect();
        let mut moved = solver.lanes(start.clone(), &res);
        solver.step(&mut moved);
        let first = moved.state;
        let firsts = (0..samples.len()).map(|idx| first.lane(idx)).collect();
        Self { network, wake, solver, unroll, samples, res, start, first, firsts }
    }

    /// What rollout `idx` is held to after `step` steps.
    fn target(&self, idx: usize, step: usize) -> &Velocity<f32> {
        let Sample { simulation, frame } = self.samples[idx];
        &self.wake.train[simulation].frames[frame + step]
    }

    /// Losses of all `passengers`, in order: in blocks, spread over the threads.
    fn losses_of(&self, pass: &ShiftedPass<T>, passengers: &[Passenger]) -> Result<Vec<f64>> {
        let blocks = passengers
            .par_chunks(pass.lanes())
            .map_init(|| self.memory(pass), |lanes, part| self.block(pass, part, lanes));
        Ok(blocks.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Memory of a block.
    fn memory(&self, pass: &ShiftedPass<T>) -> Lanes<T> {
        let n = pass.lanes();
        self.solver.lanes(Velocity::zeros(self.solver.flow.grid(), n), &vec![self.res[0]; n])
    }

    /// Losses of as many as a block has lanes, or fewer.
    fn block(
        &self,
        pass: &ShiftedPass<T>,
        passengers: &[Passenger],
        lanes: &mut Lanes<T>,
    ) -> Result<Vec<f64>> {
        let n = pass.lanes();
        // Lanes that are left go along with the first.
        let rollout = |lane: usize| passengers.get(lane).map_or(passengers[0].0, |&(rollout, _)| rollout);
        let shifts: Vec<Option<Shift>> =
            (0..n).map(|lane| passengers.get(lane).and_then(|&(_, shift)| shift)).collect();
        let flows: Vec<&Velocity<T>> = (0..n).map(|lane| &self.firsts[rollout(lane)]).collect();
        let res: Vec<f64> = (0..n).map(|lane| self.res[rollout(lane)]).collect();
        self.solver.restart(lanes, &flows, &res);
        let mut sums = vec![0.0; n];
        for step in 1..=self.unroll {
            if step > 1 {
                self.solver.step(lanes);
            }
            self.solver.correct(lanes, pass, &shifts)?;
            let targets: Vec<&Velocity<f32>> = (0..n).map(|lane| self.target(rollout(lane), step)).collect();
            self.add_distances(lanes, &targets, &mut sums);
        }
        sums.truncate(passengers.len());
        Ok(sums.into_iter().map(|sum| sum / (2.0 * self.unroll as f64)).collect())
    }

    /// Adds to `sums` the squared distances of all lanes from their targets.
    fn add_distances(&self, lanes: &Lanes<T>, targets: &[&Velocity<f32>], sums: &mut [f64]) {
        let [v_scale, u_scale, _] = self.solver.scales;
        let n = sums.len();
        let mut of = |values: &[T], scale: f64, target: fn(&Velocity<f32>) -> &[f32]| {
            let targets: Vec<&[f32]> = targets.iter().map(|velocity| target(velocity)).collect();
            let per_unit = 1.0 / scale;
            for (face, values) in values.chunks_exact(n).enumerate() {
                for ((sum, value), target) in sums.iter_mut().zip(values).zip(&targets) {
                    let distance = (f64::from(target[face]) - value.wide()) * per_unit;
                    *sum += distance * distance;
                }
            }
        };
        of(&lanes.state.v, v_scale, |velocity| &velocity.v);
        of(&lanes.state.u, u_scale, |velocity| &velocity.u);
    }

    /// All rollouts without a shift.
    fn plain(&self) -> Vec<Passenger> {
        (0..self.samples.len()).map(|idx| (idx, None)).collect()
    }

    /// Loss and gradient at `params` (d), back through network and solver.
    fn gradient(&self, params: &[f64]) -> Result<(f64, Vec<f64>)> {
        let (n, solver) = (self.samples.len(), self.solver);
        let [rows, columns] = solver.flow.grid().cells();
        let tensors = self.network.tensors(params, T::DTYPE, &Device::Cpu)?;
        let mut lanes = solver.lanes(self.first.clone(), &self.res);
        let alphas: Vec<T> = self.res.iter().map(|&re| T::of(solver.flow.diffusion_number(re))).collect();
        let re: Vec<T> = self.res.iter().map(|&re| T::of(re / solver.scales[2])).collect();
        let (mut befores, mut chains, mut afters) = (Vec::new(), Vec::new(), Vec::new());
        let mut sums = vec![0.0; n];
        let mut input = vec![T::ZERO; 3 * rows * columns * n];
        for step in 1..=self.unroll {
            befores.push(if step > 1 { lanes.state.clone() } else { self.start.clone() });
            if step > 1 {
                solver.step(&mut lanes);
            }
            solver.see(&lanes.state, &re, &mut input);
            let images = Tensor::from_vec(rows_of(&input, n), (n, 3, rows, columns), &Device::Cpu)?;
            let chain = Chain::run_through(self.network, &tensors, &images)?;
            let output = chain.outputs()?.flatten_all()?.to_vec1::<T>()?;
            solver.add(&mut lanes.state, &lanes_of(&output, n));
            let targets: Vec<&Velocity<f32>> = (0..n).map(|idx| self.target(idx, step)).collect();
            self.add_distances(&lanes, &targets, &mut sums);
            chains.push(chain);
            afters.push(lanes.state.clone());
        }
        let loss = sums.iter().map(|sum| sum / (2.0 * self.unroll as f64)).sum();
        let mut gradient = vec![0.0; params.len()];
        let mut grad = Velocity::zeros(solver.flow.grid(), n);
        let mut workspace = Workspace::new(solver.flow.grid(), n);
        for step in (1..=self.unroll).rev() {
            self.add_slope(&afters[step - 1], step, &mut grad);
            let chain = &mut chains[step - 1];
            let of_output = self.of_output(&grad);
            let of_output = Tensor::from_vec(rows_of(&of_output, n), (n, 2 * rows * columns), &Device::Cpu)?;
            let mut back = chain.place(chain.len() - 1, &of_output)?;
            for link in (0..chain.len()).rev() {
                let found = chain.back(link, &back)?;
                for (idx, tensor) in chain.params_of(link).zip(&found.params) {
                    let values = tensor.flatten_all()?.to_vec1::<T>()?;
                    let own = &mut gradient[self.network.layout().range(idx)];
                    own.iter_mut().zip(values).for_each(|(sum, value)| *sum += value.wide());
                }
                back =
                    found.input.ok_or_else(|| Error::Objective("a layer hands no gradient on".to_owned()))?;
            }
            if step > 1 {
                let of_input = chain.of_images(&back)?.flatten_all()?.to_vec1::<T>()?;
                self.add_of_input(&lanes_of(&of_input, n), &mut grad);
                solver.flow.step_transpose(&befores[step - 1], &alphas, &mut grad, &mut workspace);
            }
        }
        Ok((loss, gradient))
    }

    /// Adds the gradient of the loss of one step with respect to the state after it.
    fn add_slope(&self, after: &Velocity<T>, step: usize, grad: &mut Velocity<T>) {
        let n = self.samples.len();
        let [v_scale, u_scale, _] = self.solver.scales;
        let of = |grad: &mut [T], after: &[T], scale: f64, target: fn(&Velocity<f32>) -> &[f32]| {
            let per_unit = 1.0 / (scale * scale * self.unroll as f64);
            for (idx, (grad, after)) in grad.iter_mut().zip(after).enumerate() {
                let target = f64::from(target(self.target(idx % n, step))[idx / n]);
                *grad += T::of((after.wide() - target) * per_unit);
            }
        };
        of(&mut grad.v, &after.v, v_scale, |velocity| &velocity.v);
        of(&mut grad.u, &after.u, u_scale, |velocity| &velocity.u);
    }

    /// The gradient of the network's output (2, 2R, R, lane), from that of the state: the transpose of [`Solver::add`].
    fn of_output(&self, grad: &Velocity<T>) -> Vec<T> {
        let [rows, columns] = self.solver.flow.grid().cells();
        let (lanes, [v_scale, u_scale, _]) = (grad.lanes, self.solver.scales.map(T::of));
        let row = columns * lanes;
        let mut out: Vec<T> = grad.v[..rows * row].iter().map(|v| *v * v_scale).collect();
        for u in grad.u.chunks_exact(row + lanes) {
            out.extend(u[..row].iter().map(|u| *u * u_scale));
        }
        out
    }

    /// Adds the gradient of the network's input (3, 2R, R, lane) to that of the state: the transpose of
    /// [`Solver::see`].
    fn add_of_input(&self, of_input: &[T], grad: &mut Velocity<T>) {
        let [rows, columns] = self.solver.flow.grid().cells();
        let (lanes, [v_scale, u_scale, _]) = (grad.lanes, self.solver.scales.map(T::of));
        let row = columns * lanes;
        let (of_v, rest) = of_input.split_at(rows * row);
        grad.v.iter_mut().zip(of_v).for_each(|(v, g)| *v += *g / v_scale);
        for (u, g) in grad.u.chunks_exact_mut(row + lanes).zip(rest.chunks_exact(row)).take(rows) {
            u.iter_mut().zip(g).for_each(|(u, g)| *u += *g / u_scale);
        }
    }
}

/// From (number, lane) to (lane, number).
fn rows_of<T: Real>(values: &[T], lanes: usize) -> Vec<T> {
    (0..lanes).flat_map(|lane| values.iter().skip(lane).step_by(lanes).copied()).collect()
}

/// And back.
fn lanes_of<T: Real>(values: &[T], lanes: usize) -> Vec<T> {
    let n = values.len() / lanes;
    (0..n).flat_map(|at| (0..lanes).map(move |lane| values[lane * n + at])).collect()
}

impl<T: Real> Objective for Unrolled<'_, T>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    fn n_coords(&self) -> usize {
        self.network.layout().n_coords()
    }

    fn loss(&self, params: &[f64]) -> Result<f64> {
        let pass = ShiftedPass::new(self.network, params)?;
        let (parts, mut lanes) = (self.plain(), self.memory(&pass));
        let parts: Vec<f64> = parts
            .chunks(pass.lanes())
            .map(|part| self.block(&pass, part, &mut lanes))
            .collect::<Result<Vec<_>>>()?
            .concat();
        Ok(parts.iter().sum())
    }

    fn losses(&self, params: &[f64], probes: &[Probe]) -> Result<Vec<f64>> {
        let n = self.samples.len();
        let mut losses = vec![f64::NAN; probes.len()];
        // Probes of coordinates, all in one.
        let mut passengers: Vec<Passenger> = Vec::new();
        let mut moved = Vec::new();
        for (idx, probe) in probes.iter().enumerate() {
            if let Probe::Coordinate { coord, shift } = *probe {
                moved.push(idx);
                passengers.extend((0..n).map(|rollout| (rollout, Some((coord, shift)))));
            }
        }
        if !moved.is_empty() {
            let found = self.losses_of(&ShiftedPass::new(self.network, params)?, &passengers)?;
            for (&idx, parts) in moved.iter().zip(found.chunks_exact(n)) {
                losses[idx] = parts.iter().sum();
            }
        }
        // Directions move all weights: each has a network of its own.
        let others: Vec<usize> =
            (0..probes.len()).filter(|&idx| matches!(probes[idx], Probe::Direction { .. })).collect();
        let of_others = others.par_iter().map_init(
            || params.to_vec(),
            |point, &idx| {
                probes[idx].apply(params, point);
                self.loss(point)
            },
        );
        for (idx, loss) in others.iter().zip(of_others.collect::<Result<Vec<f64>>>()?) {
            losses[*idx] = loss;
        }
        Ok(losses)
    }

    fn base(&self, kind: EvaluatorKind, params: &[f64]) -> Result<Base> {
        match kind {
            EvaluatorKind::Full => Ok(Base::new(self.loss_alone(params)?)),
            EvaluatorKind::Reuse | EvaluatorKind::Difference => Err(refused(kind)),
        }
    }
}

/// Why rollouts have complete evaluations alone.
pub(crate) fn refused(kind: EvaluatorKind) -> Error {
    let reason = format!(
        "{} follows a change through one pass of a network; the steps of a solver take complete evaluations: use full",
        kind.name()
    );
    Error::setting("evaluator", reason)
}

impl<T: Real> Minibatch for Unrolled<'_, T>
where
    for<'f> dyn BlockwiseBoth + 'f: Blockwise<T>,
{
    fn n_items(&self) -> usize {
        self.samples.len()
    }

    fn layout(&self) -> &Layout {
        self.network.layout()
    }

    fn objective(&self) -> Box<dyn Objective + '_> {
        Box::new(self)
    }

    fn pass(&self, _: &[f64], base: &Base) -> Result<BasePass> {
        plain_pass(base.loss())
    }

    fn backprop(&self, params: &[f64]) -> Result<Backprop> {
        let (loss, gradient) = self.gradient(params)?;
        Ok(Backprop { loss, gradient, activations: Activations::none()? })
    }

    fn slope(&self, _: &Tensor) -> Result<(f64, Tensor)> {
        Err(no_outputs())
    }

    fn item_losses(&self, _: &Tensor) -> Result<Vec<f64>> {
        Err(no_outputs())
    }

    fn pull_back(&self, _: &[f64], _: Slope) -> Result<Backprop> {
        Err(no_outputs())
    }

    fn pass_of(&self, exact: &Backprop) -> Result<BasePass> {
        plain_pass(exact.loss)
    }
}

/// What a method that looks at a network's outputs hears.
fn no_outputs() -> Error {
    let reason = "a rollout has no loss of a network's outputs, which come back after every step; use cge, rge, cocd or fo";
    Error::setting("method", reason)
}

/// A loss with no outputs beside it.
fn plain_pass(loss: f64) -> Result<BasePass> {
    let logits = Activations::none()?.logits().clone();
    Ok(BasePass { loss, logits, stats: BatchStats::default() })
}

/// Lanes that a block of rollouts has, for plans.
#[must_use]
pub fn lanes_per_block<T: Real>() -> usize {
    lanes::<T>()
}
