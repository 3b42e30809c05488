//! What is minimized: a function of a flat parameter vector, and networks as such functions.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::Probe;
use crate::kernels::{Rounding, Split};
use crate::nn::difference::{DEFAULT_MEMORY, Options};
use crate::nn::stacked::forward::Batch;
use crate::nn::{Activations, Context, Mode, Network, Propagator, loss};
use crate::{Error, Result};

/// A function of parameters whose value is all that is known: a simulator, a remote model, a
/// network.
///
/// Implement it for your own black box; see `examples/black_box.rs`. Probes are evaluated on
/// several threads at once.
pub trait Objective: Sync {
    /// Number of parameters d.
    fn n_coords(&self) -> usize;

    /// Loss at `params` (d). NaN or infinity is allowed: it is counted, and the probe is left out.
    ///
    /// # Errors
    /// If the value cannot be had at all, such as [`Error::Objective`]; training stops.
    fn loss(&self, params: &[f64]) -> Result<f64>;

    /// The same number while nothing else is evaluated, so that one evaluation may use all threads.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        self.loss(params)
    }

    /// Losses at `params` (d) moved by each probe, in order. By default one call of [`Objective::loss`] for each,
    /// spread over the threads; another way is worth it where many points cost less together: on a GPU, or with a
    /// service that takes batches.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn losses(&self, params: &[f64], probes: &[Probe]) -> Result<Vec<f64>> {
        one_by_one(self, params, probes)
    }
}

/// One loss per probe, spread over the threads.
pub(crate) fn one_by_one<O: Objective + ?Sized>(
    objective: &O,
    params: &[f64],
    probes: &[Probe],
) -> Result<Vec<f64>> {
    let loss = |point: &mut Vec<f64>, probe: &Probe| {
        probe.apply(params, point);
        objective.loss(point)
    };
    probes.par_iter().map_init(|| params.to_vec(), loss).collect()
}

/// An objective made of layers, of which everything before a perturbed one can be reused.
pub trait LayeredObjective: Objective {
    /// What one evaluation leaves for others to start from.
    type Base: Sync;

    /// Loss at `params` (d), and what is reusable of its computation.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn base(&self, params: &[f64]) -> Result<(f64, Self::Base)>;

    /// Loss at `params` (d) with `step` added to coordinate `coord`, given the base at `params`.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn loss_from(&self, base: &Self::Base, params: &[f64], coord: usize, step: f64) -> Result<f64>;

    /// The same for every (coordinate, step), in order; as [`Objective::losses`].
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn losses_from(&self, base: &Self::Base, params: &[f64], probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        one_by_one_from(self, base, params, probes)
    }
}

/// One loss per (coordinate, step), spread over the threads.
fn one_by_one_from<O: LayeredObjective + ?Sized>(
    objective: &O,
    base: &O::Base,
    params: &[f64],
    probes: &[(usize, f64)],
) -> Result<Vec<f64>> {
    probes.par_iter().map(|&(coord, step)| objective.loss_from(base, params, coord, step)).collect()
}

/// An objective that can carry the change of one coordinate through its parts to the loss, instead of
/// subtracting two losses: the same differences with more digits and less work.
pub trait PropagatingObjective: Objective {
    /// What one evaluation leaves for changes to start from.
    type Propagator: Sync;

    /// Loss at `params` (d), and what changes start from. `memory` bounds the bytes that changes in
    /// flight occupy.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    fn propagator(&self, params: &[f64], memory: usize) -> Result<(f64, Self::Propagator)>;

    /// Loss at the base point with step added to coordinate coord, minus the loss there, for every
    /// (coord, step) in order. NaN where the loss is NaN or infinite.
    ///
    /// # Errors
    /// If a coordinate is not below d.
    fn propagate(&self, from: &Self::Propagator, probes: &[(usize, f64)]) -> Result<Vec<f64>>;
}

/// Mean cross-entropy of a network on one batch, with batch statistics (train mode).
#[derive(Debug, Clone, Copy)]
pub struct NetworkObjective<'a> {
    /// The network.
    pub network: &'a Network,
    /// Images (B, C, H, W) on the device and in the precision of the forward pass.
    pub images: &'a Tensor,
    /// Labels (B).
    pub labels: &'a [u32],
    /// Use of the machine by one evaluation: [`Split::Serial`] where probes fill the threads.
    pub split: Split,
    /// Bytes that points evaluated together may occupy on a GPU.
    pub memory: usize,
    /// Rounding of what convolutions multiply where differences are propagated. Complete evaluations know none:
    /// the difference of two rounded losses is noise.
    pub rounding: Rounding,
}

/// Reusable part of a network's base evaluation.
#[derive(Debug)]
pub struct NetworkBase {
    /// Parameter tensors at the base point.
    pub params: Vec<Tensor>,
    /// Every layer's output at the base point.
    pub activations: Activations,
}

impl NetworkBase {
    /// Memory of all tensors, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let of = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        self.params.iter().chain(self.activations.values()).map(of).sum()
    }
}

impl<'a> NetworkObjective<'a> {
    /// The loss of `network` on `images` (B, C, H, W) with `labels` (B): one thread per evaluation, no rounding.
    #[must_use]
    pub fn new(network: &'a Network, images: &'a Tensor, labels: &'a [u32]) -> Self {
        let (split, memory, rounding) = (Split::Serial, DEFAULT_MEMORY, Rounding::None);
        Self { network, images, labels, split, memory, rounding }
    }

    /// Points that are evaluated together, on a GPU; none on the CPU, where each has a thread.
    pub(crate) fn stacked(&self) -> Option<Batch<'a>> {
        let Self { network, images, labels, memory, .. } = *self;
        (!images.device().is_cpu()).then_some(Batch { network, images, labels, memory })
    }

    /// Options of propagation with `memory` bytes for changes in flight.
    pub(crate) fn options(&self, memory: usize) -> Options {
        Options { memory, rounding: self.rounding, ..Options::default() }
    }

    fn dtype(&self) -> DType {
        self.images.dtype()
    }

    fn device(&self) -> &Device {
        self.images.device()
    }

    fn check(&self, coord: usize) -> Result<()> {
        let n_coords = self.n_coords();
        if coord < n_coords {
            Ok(())
        } else {
            Err(Error::Objective(format!("coordinate {coord} of {n_coords}")))
        }
    }

    fn context(&self) -> Context<'static> {
        Context { mode: Mode::Train, split: self.split }
    }
}

impl Objective for NetworkObjective<'_> {
    fn n_coords(&self) -> usize {
        self.network.layout().n_coords()
    }

    fn loss(&self, params: &[f64]) -> Result<f64> {
        let tensors = self.network.tensors(params, self.dtype(), self.device())?;
        let logits = self.network.forward(&self.context(), &tensors, self.images)?;
        loss::cross_entropy(&logits, self.labels)
    }

    fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        Self { split: Split::Threads, ..*self }.loss(params)
    }

    fn losses(&self, params: &[f64], probes: &[Probe]) -> Result<Vec<f64>> {
        let Some(batch) = self.stacked() else { return one_by_one(self, params, probes) };
        batch.losses(probes.len(), |idx, point| {
            probes[idx].apply(params, point);
            1.0
        })
    }
}

impl LayeredObjective for NetworkObjective<'_> {
    type Base = NetworkBase;

    fn base(&self, params: &[f64]) -> Result<(f64, NetworkBase)> {
        let tensors = self.network.tensors(params, self.dtype(), self.device())?;
        // The base pass has the machine for itself.
        let context = Context { split: Split::Threads, ..self.context() };
        let activations = self.network.forward_all(&context, &tensors, self.images)?;
        let value = loss::cross_entropy(activations.logits(), self.labels)?;
        Ok((value, NetworkBase { params: tensors, activations }))
    }

    fn loss_from(&self, base: &NetworkBase, params: &[f64], coord: usize, step: f64) -> Result<f64> {
        self.check(coord)?;
        if let Some(batch) = self.stacked() {
            return Ok(batch.losses_from(&base.activations, params, &[(coord, step)])?[0]);
        }
        let layout = self.network.layout();
        let param_idx = layout.param_of(coord);
        let range = layout.range(param_idx);
        let mut values = params[range.clone()].to_vec();
        values[coord - range.start] += step;
        let mut tensors = base.params.clone();
        tensors[param_idx] = self.network.tensor(param_idx, &values, self.dtype(), self.device())?;
        let node_idx = self.network.node_of(param_idx);
        let logits = self.network.forward_from(node_idx, &self.context(), &tensors, &base.activations)?;
        loss::cross_entropy(&logits, self.labels)
    }

    fn losses_from(&self, base: &NetworkBase, params: &[f64], probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        probes.iter().try_for_each(|&(coord, _)| self.check(coord))?;
        match self.stacked() {
            Some(batch) => batch.losses_from(&base.activations, params, probes),
            None => one_by_one_from(self, base, params, probes),
        }
    }
}

impl PropagatingObjective for NetworkObjective<'_> {
    type Propagator = Propagator;

    fn propagator(&self, params: &[f64], memory: usize) -> Result<(f64, Propagator)> {
        let Self { network, images, labels, .. } = *self;
        let propagator =
            Propagator::with(network, params, images, labels, self.context().mode, self.options(memory))?;
        Ok((propagator.loss(), propagator))
    }

    fn propagate(&self, from: &Propagator, probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        probes.iter().try_for_each(|&(coord, _)| self.check(coord))?;
        from.differences(probes)
    }
}
