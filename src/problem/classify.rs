//! Classification of images by a network: mean cross-entropy with batch statistics.

use std::sync::Arc;

use candle_core::Tensor;

use super::{Minibatch, Prepared, Problem, Resources, State};
use crate::data::{self, Augmentation, Batch, Dataset, ImageNoise};
use crate::kernels::{Precision, Split};
use crate::metric::{self, Row};
use crate::nn::backprop::{self, Backprop, Slope};
use crate::nn::loss::{self, Loss};
use crate::nn::objective::{BasePass, NetworkObjective};
use crate::nn::{self, Context, Mode, Network};
use crate::params::{Init, Layout};
use crate::zo::{Base, Objective};
use crate::{Error, Result};

/// A network that learns to classify.
pub struct Classify<'a> {
    network: &'a Network,
    images: &'a Prepared,
    init: Init,
    precision: Precision,
    augment: bool,
    /// Standard deviation of the noise on training images, where pixels are from 0 to 1.
    sigma: f64,
    seed: u64,
    loss: Loss,
    resources: Resources<'a>,
}

impl<'a> Classify<'a> {
    /// `network` on `images`, plain ones, in the arithmetic and from the start that `config` says.
    #[must_use]
    pub fn new(
        network: &'a Network,
        images: &'a Prepared,
        config: &nn::Config,
        seed: u64,
        resources: Resources<'a>,
    ) -> Self {
        let (init, precision) = (config.init, config.precision);
        let (augment, sigma, loss) = (false, 0.0, Loss::default());
        Self { network, images, init, precision, augment, sigma, seed, loss, resources }
    }

    /// The same with another loss of the logits.
    #[must_use]
    pub fn with_loss(self, loss: Loss) -> Self {
        Self { loss, ..self }
    }

    /// The same on randomly cropped and flipped images, or not.
    #[must_use]
    pub fn augmented(self, augment: bool) -> Self {
        Self { augment, ..self }
    }

    /// The same with noise of standard deviation `sigma`, where pixels are from 0 to 1, on the images of steps, anew in
    /// every epoch; none for 0.
    #[must_use]
    pub fn noisy(self, sigma: f64) -> Self {
        Self { sigma, ..self }
    }

    fn minibatch(&self, rows: &[usize], augmentation: Option<&Augmentation>) -> Result<Labelled<'_>> {
        let Self { network, loss, precision, resources, .. } = *self;
        let batch =
            data::make_batch(&self.images.train, rows, augmentation, precision.dtype(), resources.device)?;
        Ok(Labelled { network, batch, loss, precision, memory: resources.memory })
    }
}

/// Images of a batch on a CPU, where they should fill the cores and fit their caches, and on a GPU. A network that
/// normalizes by the batch in evaluation too is evaluated on as many as on a CPU.
const CPU_IMAGES: usize = 100;
const GPU_IMAGES: usize = 1_000;

/// Mean loss and accuracy of a network at `at` on `data` with running statistics; NaN on no images. Of logits that are
/// scaled before their cross-entropy, that of the plain ones.
///
/// # Errors
/// If the device fails.
pub fn evaluate(
    network: &Network,
    loss: Loss,
    at: &State,
    data: &Dataset,
    precision: Precision,
    device: &candle_core::Device,
) -> Result<(f64, f64)> {
    let is_large = !device.is_cpu() && network.has_running_stats();
    let batch_size = if is_large { GPU_IMAGES } else { CPU_IMAGES };
    let dtype = precision.dtype();
    let tensors = network.tensors(&at.params, dtype, device)?;
    let context = Context { mode: Mode::Eval(&at.stats), split: Split::Threads };
    let (mut total, mut n_correct) = (0.0, 0);
    // Where batches are normalized by themselves, they are mixed ones, whatever the order of the images.
    let rows: Vec<usize> = match network.has_running_stats() {
        true => (0..data.len()).collect(),
        false => data::epoch_order(data.len(), 0, 0),
    };
    for rows in rows.chunks(batch_size) {
        let batch = data::make_batch(data, rows, None, dtype, device)?;
        let logits = network.forward(&context, &tensors, &batch.images)?;
        total += loss.value(&logits, (&batch.labels).into(), None)? * rows.len() as f64;
        n_correct += loss::n_correct(&logits, &batch.labels)?;
    }
    let n = data.len() as f64;
    Ok((total / n, n_correct as f64 / n))
}

impl Problem for Classify<'_> {
    fn layout(&self) -> &Arc<Layout> {
        self.network.layout()
    }

    fn start(&self, seed: u64) -> State {
        State { params: self.network.layout().initial(self.init, seed), stats: self.network.initial_stats() }
    }

    fn n_items(&self) -> usize {
        self.images.train.len()
    }

    fn order(&self, epoch: u32) -> Vec<usize> {
        data::epoch_order(self.n_items(), self.seed, epoch)
    }

    fn batch(&self, epoch: u32, items: &[usize]) -> Result<Box<dyn Minibatch + '_>> {
        let augmentation = self.augment.then_some(Augmentation { seed: self.seed, epoch });
        let mut labelled = self.minibatch(items, augmentation.as_ref())?;
        if self.sigma > 0.0 {
            let noise = ImageNoise { sigma: self.sigma, seed: self.seed, draw: epoch };
            let images = &labelled.batch.images;
            labelled.batch.images = noise.on(images, items, &self.images.train.normalization)?;
        }
        Ok(Box::new(labelled))
    }

    fn scoring_batch(&self, per_class: usize) -> Result<Box<dyn Minibatch + '_>> {
        let rows = data::class_batch(&self.images.train, per_class)?;
        let plain = Labelled { loss: Loss::CrossEntropy, ..self.minibatch(&rows, None)? };
        Ok(Box::new(plain))
    }

    fn measure(&self, at: &State, row: &mut Row) -> Result<()> {
        let measured = [
            (&self.images.val, &metric::VAL_LOSS, &metric::VAL_ACCURACY),
            (&self.images.test, &metric::TEST_LOSS, &metric::TEST_ACCURACY),
        ];
        for (data, loss, accuracy) in measured {
            let found = evaluate(self.network, self.loss, at, data, self.precision, self.resources.device)?;
            // The last step of an epoch can break the parameters too; no training loss would show it.
            if !data.is_empty() && !found.0.is_finite() {
                return Err(Error::Diverged { loss: found.0, at: String::new() });
            }
            row.set(loss, found.0);
            row.set(accuracy, found.1);
        }
        Ok(())
    }

    fn is_fitted(&self, at: &State) -> Result<bool> {
        let train = &self.images.train;
        Ok(evaluate(self.network, self.loss, at, train, self.precision, self.resources.device)?.1 >= 1.0)
    }
}

/// Images with labels, and the network that is to tell these.
struct Labelled<'a> {
    network: &'a Network,
    batch: Batch,
    loss: Loss,
    precision: Precision,
    memory: usize,
}

impl Labelled<'_> {
    fn network_objective(&self) -> NetworkObjective<'_> {
        NetworkObjective {
            loss: self.loss,
            memory: self.memory,
            rounding: self.precision.rounding(),
            ..NetworkObjective::new(self.network, &self.batch.images, &self.batch.labels)
        }
    }
}

impl Minibatch for Labelled<'_> {
    fn n_items(&self) -> usize {
        self.batch.labels.len()
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

    fn n_correct(&self, pass: &BasePass) -> Result<Option<usize>> {
        loss::n_correct(&pass.logits, &self.batch.labels).map(Some)
    }

    fn backprop(&self, params: &[f64]) -> Result<Backprop> {
        backprop::gradient_of(self.loss, self.network, params, &self.batch.images, &self.batch.labels, 1.0)
    }

    fn slope(&self, outputs: &Tensor) -> Result<(f64, Tensor)> {
        self.loss.gradient(outputs, (&self.batch.labels).into(), 1.0, None)
    }

    fn item_losses(&self, outputs: &Tensor) -> Result<Vec<f64>> {
        self.loss.of_items(outputs, (&self.batch.labels).into())
    }

    fn pull_back(&self, params: &[f64], outer: Slope) -> Result<Backprop> {
        backprop::pull_back(self.network, Mode::Train, params, &self.batch.images, outer)
    }

    fn pass_of(&self, exact: &Backprop) -> Result<BasePass> {
        BasePass::new(self.network, exact.loss, &exact.activations)
    }

    fn graph(&self) -> Option<(&Network, &Tensor, &[u32])> {
        Some((self.network, &self.batch.images, &self.batch.labels))
    }
}
