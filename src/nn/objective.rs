//! Networks as functions that are minimized: the loss on a batch, in the three ways in which it can be evaluated.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::difference::{DEFAULT_MEMORY, Options};
use super::loss::{LogitScale, Loss, Targets};
use super::pass::Passes;
use super::pass::batched::Batch;
use super::{Activations, BatchStats, Context, Mode, Network, Propagator};
use crate::kernels::{Precision, Rounding, Split};
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::objective::{by_losses, difference, one_by_one};
use crate::zo::{Base, Objective, Probe};
use crate::{Error, Result};

/// Mean loss of a network on one batch, with batch statistics (train mode).
#[derive(Debug, Clone, Copy)]
pub struct NetworkObjective<'a> {
    /// The network.
    pub network: &'a Network,
    /// Images (B, C, H, W) on the device and in the precision of the forward pass.
    pub images: &'a Tensor,
    /// What the outputs are held to.
    pub targets: Targets<'a>,
    /// What they are worth.
    pub loss: Loss,
    /// Use of the machine by one evaluation: [`Split::Serial`] where probes fill the threads.
    pub split: Split,
    /// Bytes that changes in flight may occupy, and points evaluated together on a GPU.
    pub memory: usize,
    /// Rounding of what convolutions multiply where differences are propagated. Complete evaluations know none:
    /// the difference of two rounded losses is noise.
    pub rounding: Rounding,
}

/// What probes that reuse features start from: everything at the base point.
#[derive(Debug)]
struct Features {
    params: Vec<Tensor>,
    activations: Activations,
    scale: Option<LogitScale>,
}

impl Features {
    fn size_bytes(&self) -> usize {
        let of = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        self.params.iter().chain(self.activations.values()).map(of).sum()
    }
}

/// What a pass of a batch at one point gave, beside what probes start from.
#[derive(Debug, Clone)]
pub struct BasePass {
    /// Loss.
    pub loss: f64,
    /// Logits (B, classes).
    pub logits: Tensor,
    /// Statistics of the batch, which move the running ones.
    pub stats: BatchStats,
}

impl BasePass {
    /// Of a pass of `network` that kept its `activations`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn new(network: &Network, loss: f64, activations: &Activations) -> Result<Self> {
        let stats = network.batch_stats_of(activations)?;
        Ok(Self { loss, logits: activations.logits().clone(), stats })
    }
}

impl<'a> NetworkObjective<'a> {
    /// The cross-entropy of `network` on `images` (B, C, H, W) with labels (B) as `targets`: one thread per evaluation,
    /// no rounding.
    #[must_use]
    pub fn new(network: &'a Network, images: &'a Tensor, targets: impl Into<Targets<'a>>) -> Self {
        let (split, memory, rounding) = (Split::Serial, DEFAULT_MEMORY, Rounding::None);
        Self { network, images, targets: targets.into(), loss: Loss::default(), split, memory, rounding }
    }

    /// Points that are evaluated together, on a GPU; none on the CPU, where each has a thread.
    fn batched(&self) -> Option<Batch<'a>> {
        let Self { network, images, targets, loss, memory, .. } = *self;
        (!images.device().is_cpu()).then_some(Batch { network, images, loss, targets, memory })
    }

    /// Options of propagation.
    fn options(&self) -> Options {
        Options { memory: self.memory, loss: self.loss, rounding: self.rounding, ..Options::default() }
    }

    /// What the evaluation at `params` (d) that left `base` gave beside its loss. Where nothing was kept this takes one
    /// more forward pass, as in the released code; it moves the running statistics and gives the training accuracy, no
    /// estimate sees it, and it is not counted.
    ///
    /// # Errors
    /// If sizes do not fit or the device fails.
    pub fn pass_at(&self, params: &[f64], base: &Base) -> Result<BasePass> {
        let loss = base.loss();
        if let Some(propagator) = base.kept::<Propagator>() {
            return Ok(BasePass {
                loss,
                logits: propagator.logits().clone(),
                stats: propagator.stats().clone(),
            });
        }
        match base.kept::<Features>() {
            Some(features) => BasePass::new(self.network, loss, &features.activations),
            None => BasePass::new(self.network, loss, &self.features(params)?.activations),
        }
    }

    /// Bytes that a base keeps.
    #[must_use]
    pub fn bytes_kept(&self, base: &Base) -> usize {
        match (base.kept::<Propagator>(), base.kept::<Features>()) {
            (Some(propagator), _) => propagator.size_bytes(),
            (None, Some(features)) => features.size_bytes(),
            (None, None) => 0,
        }
    }

    /// Multiplications and additions per image that a probe of coordinate `coord` costs from a base.
    ///
    /// # Panics
    /// If the coordinate is not below d.
    #[must_use]
    pub fn probe_flops(&self, base: &Base, coord: usize) -> u64 {
        let network = self.network;
        match (base.kept::<Propagator>(), base.kept::<Features>()) {
            (Some(propagator), _) => propagator.flops_of(coord),
            (None, Some(_)) => network.flops_from(network.node_of(network.layout().param_of(coord))),
            (None, None) => network.flops(),
        }
    }

    /// Loss at `params` (d), by one of `passes`.
    fn loss_of(&self, passes: &Passes, params: &[f64]) -> Result<f64> {
        let tensors = self.network.tensors(params, self.dtype(), self.device())?;
        let logits = passes.forward(&self.context(), &tensors)?;
        self.loss.value(&logits, self.targets, self.scale(params).map(|scale| scale.value()))
    }

    /// A pass that keeps everything. It has the machine for itself.
    fn features(&self, params: &[f64]) -> Result<Features> {
        let tensors = self.network.tensors(params, self.dtype(), self.device())?;
        let context = Context { split: Split::Threads, ..self.context() };
        let activations = self.network.forward_all(&context, &tensors, self.images)?;
        Ok(Features { params: tensors, activations, scale: self.scale(params) })
    }

    /// Loss with `shift` added to coordinate `coord`, from the layer that owns it on.
    fn loss_from(&self, features: &Features, params: &[f64], coord: usize, shift: f64) -> Result<f64> {
        let layout = self.network.layout();
        let param_idx = layout.param_of(coord);
        let range = layout.range(param_idx);
        let mut values = params[range.clone()].to_vec();
        values[coord - range.start] += shift;
        let mut tensors = features.params.clone();
        tensors[param_idx] = self.network.tensor(param_idx, &values, self.dtype(), self.device())?;
        let node_idx = self.network.node_of(param_idx);
        let logits = self.network.forward_from(node_idx, &self.context(), &tensors, &features.activations)?;
        let scale = features.scale.as_ref().map(|scale| scale.after(coord, shift));
        self.loss.value(&logits, self.targets, scale)
    }

    /// The factor that the loss multiplies the logits with, if it does.
    fn scale(&self, params: &[f64]) -> Option<LogitScale> {
        self.loss.scale(self.network.layout(), params)
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
        self.loss_of(&Passes::new(self.network, self.images, self.split)?, params)
    }

    fn loss_alone(&self, params: &[f64]) -> Result<f64> {
        Self { split: Split::Threads, ..*self }.loss(params)
    }

    fn losses(&self, params: &[f64], probes: &[Probe]) -> Result<Vec<f64>> {
        let Some(batch) = self.batched() else {
            let passes = Passes::new(self.network, self.images, Split::Threads)?;
            return one_by_one(params, probes, |point| self.loss_of(&passes, point));
        };
        batch.losses(probes.len(), |idx, point| {
            probes[idx].apply(params, point);
        })
    }

    fn base(&self, kind: EvaluatorKind, params: &[f64]) -> Result<Base> {
        match kind {
            EvaluatorKind::Full => Ok(Base::new(self.loss_alone(params)?)),
            EvaluatorKind::Reuse => {
                let features = self.features(params)?;
                let scale = features.scale.as_ref().map(LogitScale::value);
                let loss = self.loss.value(features.activations.logits(), self.targets, scale)?;
                Ok(Base::keeping(loss, features))
            }
            EvaluatorKind::Difference => {
                let Self { network, images, targets, .. } = *self;
                let mode = self.context().mode;
                let propagator = Propagator::with(network, params, images, targets, mode, self.options())?;
                Ok(Base::keeping(propagator.loss(), propagator))
            }
        }
    }

    fn differences_from(&self, base: &Base, params: &[f64], moves: &[(usize, f64)]) -> Result<Vec<f64>> {
        moves.iter().try_for_each(|&(coord, _)| self.check(coord))?;
        if let Some(propagator) = base.kept::<Propagator>() {
            return propagator.differences(moves);
        }
        let Some(features) = base.kept::<Features>() else { return by_losses(self, base, params, moves) };
        let losses = match self.batched() {
            Some(batch) => batch.losses_from(&features.activations, params, moves)?,
            None => moves
                .par_iter()
                .map(|&(coord, shift)| self.loss_from(features, params, coord, shift))
                .collect::<Result<_>>()?,
        };
        Ok(losses.into_iter().map(|loss| difference(loss, base.loss())).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{backprop, model};
    use crate::rng::{Purpose, Stream};
    use crate::zo::evaluate::{self, Evaluator};
    use crate::zo::{Metered, QueryCount};

    const LOSSES: [Loss; 3] = [Loss::CrossEntropy, Loss::NormalizedCrossEntropy, Loss::SquaredError];
    const LABELS: &[u32] = &[7, 0, 3];

    /// A network whose last layer is linear, a point, three images, and values to aim at.
    struct Scene {
        network: Network,
        params: Vec<f64>,
        images: Tensor,
        values: Tensor,
    }

    impl Scene {
        fn new() -> Result<Self> {
            let network = model::cnn(2, 4, &model::Io::CIFAR)?;
            let params = network.layout().initial_values(5);
            let noise = |lane: u32, dims: &[usize]| -> Result<Tensor> {
                let mut numbers = vec![0.0; dims.iter().product()];
                Stream::new(6, Purpose::Test, 0).lane(lane).fill_normal(&mut numbers);
                Ok(Tensor::from_vec(numbers, dims, &Device::Cpu)?)
            };
            let (images, values) = (noise(0, &[3, 3, 32, 32])?, noise(1, &[3, 10])?);
            Ok(Self { network, params, images, values })
        }

        fn objective(&self, loss: Loss) -> NetworkObjective<'_> {
            let targets = if loss == Loss::SquaredError {
                Targets::Values(&self.values)
            } else {
                Targets::Labels(LABELS)
            };
            NetworkObjective {
                loss,
                memory: 1 << 28,
                ..NetworkObjective::new(&self.network, &self.images, targets)
            }
        }
    }

    /// Oracle: complete forward passes in f64, for every loss and evaluator, probes batched or not.
    #[test]
    fn evaluators_agree_on_every_loss() -> Result<()> {
        let scene = Scene::new()?;
        let n_coords = scene.params.len();
        let moves: Vec<(usize, f64)> =
            (0..n_coords).step_by(7).flat_map(|coord| [1.0, -0.25].map(|shift| (coord, shift))).collect();
        let probes: Vec<Probe> =
            moves.iter().map(|&(coord, shift)| Probe::Coordinate { coord, shift }).collect();
        for loss in LOSSES {
            let objective = scene.objective(loss);
            let count = QueryCount::default();
            let metered = Metered::new(&objective, &count);
            let at = |kind| evaluate::at(&metered, kind, &scene.params);
            let full = at(EvaluatorKind::Full)?;
            let expected = full.differences(&probes)?;
            let close = |base: f64, found: Vec<f64>| {
                assert!((base - full.base_loss()).abs() < 1e-12, "{loss:?}: {base}");
                for ((found, expected), probe) in found.iter().zip(&expected).zip(&probes) {
                    assert!((found - expected).abs() < 1e-11, "{loss:?} {probe:?}: {found} {expected}");
                }
            };
            for kind in [EvaluatorKind::Reuse, EvaluatorKind::Difference] {
                let evaluator = at(kind)?;
                close(evaluator.base_loss(), evaluator.differences(&probes)?);
            }
            assert_eq!(count.queries(), 3 * (1 + probes.len() as u64));

            let NetworkObjective { network, images, targets, memory, .. } = objective;
            let options = Options { is_batched: true, ..objective.options() };
            let batched = Propagator::with(network, &scene.params, images, targets, Mode::Train, options)?;
            close(batched.loss(), batched.differences(&moves)?);
            let batch = Batch { network, images, loss, targets, memory };
            let base = full.base_loss();
            let losses = batch.losses(moves.len(), |idx, point| probes[idx].apply(&scene.params, point))?;
            close(base, losses.into_iter().map(|loss| loss - base).collect());
            let tensors = network.tensors(&scene.params, DType::F64, &Device::Cpu)?;
            let values = network.forward_batched(&objective.context(), &tensors, images, |_| true)?;
            let losses = batch.losses_from(&values, &scene.params, &moves)?;
            close(base, losses.into_iter().map(|loss| loss - base).collect());
        }
        Ok(())
    }

    /// Oracle: central differences, so short that no ReLU of the batch changes sides; propagated, they keep their digits.
    #[test]
    fn gradients_are_slopes_of_every_loss() -> Result<()> {
        let scene = Scene::new()?;
        for loss in LOSSES {
            let objective = scene.objective(loss);
            let NetworkObjective { network, images, targets, .. } = objective;
            let exact = backprop::gradient_of(loss, network, &scene.params, images, targets, 1.0)?;
            let base = objective.base(EvaluatorKind::Difference, &scene.params)?;
            assert!((exact.loss - base.loss()).abs() < 1e-12);
            for coord in (0..scene.params.len()).step_by(5) {
                let moves = [1e-9, -1e-9].map(|shift| (coord, shift));
                let found = objective.differences_from(&base, &scene.params, &moves)?;
                let (slope, expected) = (exact.gradient[coord], (found[0] - found[1]) / 2e-9);
                assert!(
                    (slope - expected).abs() < 1e-6 * (1.0 + slope.abs()),
                    "{loss:?} {coord}: {slope} {expected}"
                );
            }
        }
        Ok(())
    }

    /// Oracle: by hand. Errors 1, −2 and 3, 0 of two images: (1 + 4 + 9 + 0) / 4.
    #[test]
    fn squared_error_is_the_mean_over_all_numbers() -> Result<()> {
        let outputs = Tensor::new(&[[2.0, -1.0], [3.0, 5.0]], &Device::Cpu)?;
        let values = Tensor::new(&[[1.0, 1.0], [0.0, 5.0]], &Device::Cpu)?;
        let targets = Targets::Values(&values);
        let value = Loss::SquaredError.value(&outputs, targets, None)?;
        assert!((value - 3.5).abs() < 1e-15);
        let (value, grad) = Loss::SquaredError.gradient(&outputs, targets, 1.0, None)?;
        assert!((value - 3.5).abs() < 1e-15);
        assert_eq!(grad.to_vec2::<f64>()?, [[0.5, -1.0], [1.5, 0.0]]);
        // Labels stand for 1 and 0 less a half: errors 1.5, −0.5 and 3.5, 4.5.
        let value = Loss::SquaredError.value(&outputs, Targets::Labels(&[0, 1]), None)?;
        assert!((value - (2.25 + 0.25 + 12.25 + 20.25) / 4.0).abs() < 1e-15, "{value}");
        assert!(Loss::SquaredError.value(&outputs, Targets::Labels(&[0, 2]), None).is_err());
        assert!(Loss::CrossEntropy.value(&outputs, targets, None).is_err());
        Ok(())
    }
}
