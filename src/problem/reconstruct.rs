//! Reconstruction of images: a network learns to give the clean image back from a noisy one (a denoiser, with mean
//! squared error as in DnCNN), or from itself (an auto-encoder, without noise).

use std::sync::Arc;

use candle_core::Tensor;

use super::{Minibatch, Prepared, Problem, Resources, State};
use crate::data::{self, Augmentation, Dataset, ImageNoise};
use crate::kernels::{Precision, Split};
use crate::metric::{self, Row};
use crate::nn::backprop::{self, Backprop, Slope};
use crate::nn::loss::Loss;
use crate::nn::objective::{BasePass, NetworkObjective};
use crate::nn::{Context, Mode, Network};
use crate::params::{Init, Layout};
use crate::zo::{Base, Objective};
use crate::{Error, Result};

/// A network from images to images of the same size, in [0, 1], and the mean over pixels of the squared error.
pub struct Reconstruct<'a> {
    network: &'a Network,
    images: &'a Prepared,
    /// Standard deviation of the noise on what the network sees; none for 0.
    sigma: f64,
    augment: bool,
    precision: Precision,
    seed: u64,
    resources: Resources<'a>,
}

/// The draw of the noise that measures; epochs begin with 1.
const MEASURED: u32 = 0;
/// Images that are measured at a time.
const AT_ONCE: usize = 100;

impl<'a> Reconstruct<'a> {
    /// `network` on `images` in [0, 1] with noise of standard deviation `sigma`, randomly cropped and flipped if
    /// `augment` says so. The seed is that of start, noise and order.
    #[must_use]
    pub fn new(
        network: &'a Network,
        images: &'a Prepared,
        (sigma, seed): (f64, u64),
        augment: bool,
        precision: Precision,
        resources: Resources<'a>,
    ) -> Self {
        Self { network, images, sigma, augment, precision, seed, resources }
    }

    fn minibatch(
        &self,
        data: &Dataset,
        rows: &[usize],
        augmentation: Option<&Augmentation>,
        draw: u32,
    ) -> Result<Pair<'_>> {
        let (dtype, device) = (self.precision.dtype(), self.resources.device);
        let clean = data::make_batch(data, rows, augmentation, dtype, device)?.images;
        let seen = if self.sigma > 0.0 {
            ImageNoise { sigma: self.sigma, seed: self.seed, draw }.on(&clean, rows, &data.normalization)?
        } else {
            clean.clone()
        };
        Ok(Pair { network: self.network, seen, clean })
    }

    fn measured(&self, at: &State, data: &Dataset) -> Result<f64> {
        let (dtype, device) = (self.precision.dtype(), self.resources.device);
        let tensors = self.network.tensors(&at.params, dtype, device)?;
        let context = Context { mode: Mode::Eval(&at.stats), split: Split::Threads };
        let rows: Vec<usize> = (0..data.len()).collect();
        let mut total = 0.0;
        for rows in rows.chunks(AT_ONCE) {
            let Pair { seen, clean, .. } = self.minibatch(data, rows, None, MEASURED)?;
            let outputs = self.network.forward(&context, &tensors, &seen)?;
            total += Loss::SquaredError.value(&outputs, (&clean).into(), None)? * rows.len() as f64;
        }
        Ok(total / data.len() as f64)
    }
}

impl Problem for Reconstruct<'_> {
    fn layout(&self) -> &Arc<Layout> {
        self.network.layout()
    }

    fn start(&self, seed: u64) -> State {
        State {
            params: self.network.layout().initial(Init::Kaiming, seed),
            stats: self.network.initial_stats(),
        }
    }

    fn n_items(&self) -> usize {
        self.images.train.len()
    }

    fn order(&self, epoch: u32) -> Vec<usize> {
        data::epoch_order(self.n_items(), self.seed, epoch)
    }

    fn batch(&self, epoch: u32, items: &[usize]) -> Result<Box<dyn Minibatch + '_>> {
        let augmentation = self.augment.then_some(Augmentation { seed: self.seed, epoch });
        Ok(Box::new(self.minibatch(&self.images.train, items, augmentation.as_ref(), epoch)?))
    }

    fn scoring_batch(&self, per_class: usize) -> Result<Box<dyn Minibatch + '_>> {
        let rows = data::class_batch(&self.images.train, per_class)?;
        Ok(Box::new(self.minibatch(&self.images.train, &rows, None, MEASURED)?))
    }

    fn measure(&self, at: &State, row: &mut Row) -> Result<()> {
        let measured = [(&self.images.val, &metric::VAL_LOSS), (&self.images.test, &metric::TEST_LOSS)];
        for (data, loss) in measured.into_iter().filter(|(data, _)| !data.is_empty()) {
            let found = self.measured(at, data)?;
            if !found.is_finite() {
                return Err(Error::Diverged { loss: found, at: String::new() });
            }
            row.set(loss, found);
        }
        Ok(())
    }

    fn is_fitted(&self, _: &State) -> Result<bool> {
        Ok(false)
    }
}

/// What the network sees, and what it is to give.
struct Pair<'a> {
    network: &'a Network,
    seen: Tensor,
    clean: Tensor,
}

impl Pair<'_> {
    fn network_objective(&self) -> NetworkObjective<'_> {
        NetworkObjective {
            loss: Loss::SquaredError,
            ..NetworkObjective::new(self.network, &self.seen, &self.clean)
        }
    }
}

impl Minibatch for Pair<'_> {
    fn n_items(&self) -> usize {
        self.seen.dim(0).unwrap_or(0)
    }

    fn layout(&self) -> &Layout {
        self.network.layout()
    }

    fn objective(&self) -> Box<dyn Objective + '_> {
        Box::new(self.network_objective())
    }

    fn pass(&self, params: &[f64], base: &Base) -> Result<BasePass> {
        self.network_objective().pass_at(params, base)
    }

    fn backprop(&self, params: &[f64]) -> Result<Backprop> {
        backprop::gradient_of(Loss::SquaredError, self.network, params, &self.seen, &self.clean, 1.0)
    }

    fn slope(&self, outputs: &Tensor) -> Result<(f64, Tensor)> {
        Loss::SquaredError.gradient(outputs, (&self.clean).into(), 1.0, None)
    }

    fn item_losses(&self, outputs: &Tensor) -> Result<Vec<f64>> {
        Loss::SquaredError.of_items(outputs, (&self.clean).into())
    }

    fn pull_back(&self, params: &[f64], outer: Slope) -> Result<Backprop> {
        backprop::pull_back(self.network, Mode::Train, params, &self.seen, outer)
    }

    fn pass_of(&self, exact: &Backprop) -> Result<BasePass> {
        BasePass::new(self.network, exact.loss, &exact.activations)
    }
}
