//! The loss of a black box as a function of parameters of what stands in front of it.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{BlackBox, Front};
use crate::kernels::{Rounding, Split};
use crate::nn::difference::Options;
use crate::nn::{Activations, Context, Mode, Network, Propagator, RunningStats};
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::objective::{by_losses, difference};
use crate::zo::{Base, Objective};
use crate::{Error, Result};

/// Mean loss that a black box gives of a batch, as a function of the trained parameters of what stands in front of it.
pub struct Through<'a> {
    front: &'a Front<'a>,
    behind: &'a dyn BlackBox,
    whole: Option<&'a Network>,
    images: &'a Tensor,
    labels: &'a [u32],
    split: Split,
    memory: usize,
    rounding: Rounding,
}

impl<'a> Through<'a> {
    /// That of `behind` behind `front`, of noisy images (B, C, H, W) with labels (B). Where the box is known and `whole`
    /// is front and box as one network, differences can be propagated; `memory` and `rounding` are as in
    /// [`crate::nn::objective::NetworkObjective`].
    #[must_use]
    pub fn new(
        front: &'a Front<'a>,
        behind: &'a dyn BlackBox,
        whole: Option<&'a Network>,
        (images, labels): (&'a Tensor, &'a [u32]),
        (memory, rounding): (usize, Rounding),
    ) -> Self {
        Self { front, behind, whole, images, labels, split: Split::Serial, memory, rounding }
    }
}

/// What probes start from that go through the front from the moved layer on.
struct Kept {
    tensors: Vec<Tensor>,
    activations: Activations,
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

impl Through<'_> {
    fn context(&self) -> Context<'_> {
        Context { mode: self.front.mode(), split: self.split }
    }

    fn tensors(&self, params: &[f64]) -> Result<Vec<Tensor>> {
        let all = self.front.all(params);
        self.front.network.tensors(&all, self.images.dtype(), self.images.device())
    }

    /// The front's pass at `params`, with the machine for itself.
    pub(super) fn activations(&self, params: &[f64]) -> Result<Activations> {
        Ok(self.kept(params)?.activations)
    }

    fn kept(&self, params: &[f64]) -> Result<Kept> {
        let tensors = self.tensors(params)?;
        let context = Context { split: Split::Threads, ..self.context() };
        let activations = self.front.network.forward_all(&context, &tensors, self.images)?;
        Ok(Kept { tensors, activations })
    }

    /// The loss with `shift` added to a coordinate, from the layer that owns it on.
    fn loss_from(&self, kept: &Kept, params: &[f64], coord: usize, shift: f64) -> Result<f64> {
        let network = self.front.network;
        let at = self.front.trained.start + coord;
        let param_idx = network.layout().param_of(at);
        let range = network.layout().range(param_idx);
        let mut values = self.front.all(params)[range.clone()].to_vec();
        values[at - range.start] += shift;
        let mut tensors = kept.tensors.clone();
        tensors[param_idx] = network.tensor(param_idx, &values, self.images.dtype(), self.images.device())?;
        let node = network.node_of(param_idx);
        let outputs = network.forward_from(node, &self.context(), &tensors, &kept.activations)?;
        Ok(mean(&self.behind.losses(&outputs, self.labels)?))
    }

    /// The whole at `params`, ready to propagate differences.
    fn propagator(&self, params: &[f64]) -> Result<Propagator> {
        let refused = |reason: &str| Err(Error::setting("evaluator", reason));
        let (Some(whole), Some(opened)) = (self.whole, self.behind.opened()) else {
            return refused("difference needs to know what is behind the denoiser; use reuse or full");
        };
        let Mode::Eval(stats) = self.front.mode() else {
            return Err(statistics_move());
        };
        let all = [self.front.all(params), opened.params.clone()].concat();
        let layers = stats.layers.iter().chain(&opened.stats.layers).cloned().collect();
        let stats = RunningStats { layers };
        let options = Options { memory: self.memory, rounding: self.rounding, ..Options::default() };
        Propagator::with(whole, &all, self.images, self.labels, Mode::Eval(&stats), options)
    }
}

/// The error of differences that are to go through a denoiser in training.
pub(crate) fn statistics_move() -> Error {
    let reason = "difference takes a denoiser whose statistics stay (tune = last), since what is behind it takes its \
                  own; use reuse or full";
    Error::setting("evaluator", reason)
}

impl Objective for Through<'_> {
    fn n_coords(&self) -> usize {
        self.front.layout.n_coords()
    }

    fn loss(&self, params: &[f64]) -> Result<f64> {
        let outputs = self.front.network.forward(&self.context(), &self.tensors(params)?, self.images)?;
        Ok(mean(&self.behind.losses(&outputs, self.labels)?))
    }

    fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        let context = Context { split: Split::Threads, ..self.context() };
        let outputs = self.front.network.forward(&context, &self.tensors(params)?, self.images)?;
        Ok(mean(&self.behind.losses_alone(&outputs, self.labels)?))
    }

    fn base(&self, kind: EvaluatorKind, params: &[f64]) -> Result<Base> {
        match kind {
            EvaluatorKind::Full => Ok(Base::new(self.loss_alone(params)?)),
            EvaluatorKind::Reuse => {
                let kept = self.kept(params)?;
                let losses = self.behind.losses_alone(kept.activations.logits(), self.labels)?;
                Ok(Base::keeping(mean(&losses), kept))
            }
            EvaluatorKind::Difference => {
                let propagator = self.propagator(params)?;
                Ok(Base::keeping(propagator.loss(), propagator))
            }
        }
    }

    fn differences_from(&self, base: &Base, params: &[f64], moves: &[(usize, f64)]) -> Result<Vec<f64>> {
        let n_coords = self.n_coords();
        if let Some((coord, _)) = moves.iter().find(|&&(coord, _)| coord >= n_coords) {
            return Err(Error::Objective(format!("coordinate {coord} of {n_coords}")));
        }
        if let Some(propagator) = base.kept::<Propagator>() {
            let moves: Vec<(usize, f64)> =
                moves.iter().map(|&(coord, shift)| (self.front.trained.start + coord, shift)).collect();
            return propagator.differences(&moves);
        }
        let Some(kept) = base.kept::<Kept>() else { return by_losses(self, base, params, moves) };
        let of = |&(coord, shift): &(usize, f64)| {
            Ok(difference(self.loss_from(kept, params, coord, shift)?, base.loss()))
        };
        moves.par_iter().map(of).collect()
    }
}
