//! Networks as functions that are minimized: the loss on a batch, in the three ways in which it can be evaluated.

use candle_core::{DType, Device, Tensor};

use super::difference::{DEFAULT_MEMORY, Options};
use super::pass::stacked::Batch;
use super::{Activations, Context, Mode, Network, Propagator, loss};
use crate::kernels::{Precision, Rounding, Split};
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::objective::{one_by_one, one_by_one_from};
use crate::zo::{LayeredObjective, Objective, Probe, PropagatingObjective};
use crate::{Error, Result};

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

/// Checks that an estimate survives the rounding: a propagated difference is as accurate as what it is
/// multiplied with, the difference of two rounded losses is noise. `moves_coordinates` says whether probes move
/// single coordinates.
///
/// # Errors
/// [`Error::Setting`] if losses are rounded and subtracted.
pub fn check_rounding(precision: Precision, evaluator: EvaluatorKind, moves_coordinates: bool) -> Result<()> {
    let is_propagated = evaluator == EvaluatorKind::Difference && moves_coordinates;
    if precision.rounding() == Rounding::None || is_propagated {
        return Ok(());
    }
    let name = format!("{precision:?}").to_lowercase();
    Err(Error::setting(
        "precision",
        format!(
            "{name} rounds what convolutions multiply. Propagated differences of single coordinates stand that, \
             the difference of two losses drowns in it: use f32, or evaluator = difference with a method that moves \
             single coordinates"
        ),
    ))
}
