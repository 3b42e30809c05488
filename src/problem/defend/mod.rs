//! Defense of a black-box classifier: a denoiser in front of it, or a denoiser and an encoder, is trained so that the
//! classifier says of noisy images what it says of clean ones (STAB of Salman et al., NeurIPS 2020; ZO-AE-DS of Zhang et
//! al., ICLR 2022; DeepZero, Sec. 6.2).
//!
//! The objective is the mean over images x of CE(f(D_θ(x + δ)), argmax f(x)), δ normal with standard deviation σ on
//! pixels in [0, 1] and drawn anew for every image and epoch.

mod black_box;
mod through;

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

pub use black_box::{BlackBox, Opened};
pub use through::Through;
pub(crate) use through::statistics_move;

use super::{Minibatch, Prepared, Problem, Resources, State};
use crate::data::{self, Augmentation, Dataset, ImageNoise};
use crate::kernels::{Precision, Split};
use crate::metric::{self, Row};
use crate::nn::backprop::{self, Backprop, Slope};
use crate::nn::objective::BasePass;
use crate::nn::{BatchStats, Context, Mode, Network};
use crate::params::Layout;
use crate::zo::{Base, Objective};
use crate::{Error, Result};

/// A network whose inside is known, in front of a black box, and which of its parameters are trained.
pub struct Front<'a> {
    network: &'a Network,
    /// Parameters and statistics that training starts from.
    start: State,
    trained: Range<usize>,
    layout: Arc<Layout>,
    is_whole: bool,
}

impl<'a> Front<'a> {
    /// All of `network`, from `start` on. Batches pass with their own statistics, which move the running ones.
    #[must_use]
    pub fn whole(network: &'a Network, start: State) -> Self {
        let layout = network.layout().clone();
        Self { network, start, trained: 0..layout.n_coords(), layout, is_whole: true }
    }

    /// The tensor called `name` alone. Batches pass with the running statistics, which stay: what does not depend on the
    /// tensor is the same for all its values.
    ///
    /// # Errors
    /// [`Error::Parameter`] if there is no such tensor.
    pub fn tensor(network: &'a Network, start: State, name: &str) -> Result<Self> {
        let first = network.layout().coord(name, 0)?;
        let idx = network.layout().param_of(first);
        let layout = Arc::new(Layout::new(vec![network.layout().specs()[idx].clone()]));
        Ok(Self { network, start, trained: network.layout().range(idx), layout, is_whole: false })
    }

    /// All parameters of the network, where those that are trained are `params`.
    #[must_use]
    pub fn all(&self, params: &[f64]) -> Vec<f64> {
        let mut all = self.start.params.clone();
        all[self.trained.clone()].copy_from_slice(params);
        all
    }

    fn mode(&self) -> Mode<'_> {
        if self.is_whole { Mode::Train } else { Mode::Eval(&self.start.stats) }
    }
}

/// Training of what stands in front of a black box.
pub struct Defend<'a> {
    front: Front<'a>,
    /// What reads the front's outputs.
    behind: &'a dyn BlackBox,
    /// What labels clean images.
    classifier: &'a dyn BlackBox,
    /// Front and what is behind as one network, for propagated differences.
    whole: Option<&'a Network>,
    images: &'a Prepared,
    noise: ImageNoise,
    augment: bool,
    precision: Precision,
    resources: Resources<'a>,
}

/// The draw of the noise that measures; epochs begin with 1.
const MEASURED: u32 = 0;
/// Images that are measured at a time.
const AT_ONCE: usize = 100;

impl<'a> Defend<'a> {
    /// `front` before `behind` on `images` in [0, 1] with noise of standard deviation `sigma`; `classifier` labels
    /// clean images. The seed is that of noise and order.
    #[must_use]
    pub fn new(
        front: Front<'a>,
        [behind, classifier]: [&'a dyn BlackBox; 2],
        images: &'a Prepared,
        precision: Precision,
        (sigma, seed): (f64, u64),
        resources: Resources<'a>,
    ) -> Self {
        let noise = ImageNoise { sigma, seed, draw: MEASURED };
        Self { front, behind, classifier, whole: None, images, noise, augment: false, precision, resources }
    }

    /// With the network that front and what is behind make together ([`crate::nn::model::Defended::whole`]), through
    /// which differences may be propagated if what is behind is known.
    #[must_use]
    pub fn with_whole(self, whole: &'a Network) -> Self {
        Self { whole: Some(whole), ..self }
    }

    /// The same on randomly cropped and flipped images, or not.
    #[must_use]
    pub fn augmented(self, augment: bool) -> Self {
        Self { augment, ..self }
    }

    /// The front's parameters and statistics where training stands.
    #[must_use]
    pub fn whole_front(&self, at: &State) -> State {
        State { params: self.front.all(&at.params), stats: at.stats.clone() }
    }

    /// Clean and noisy images (B, C, H, W).
    fn pair(
        &self,
        data: &Dataset,
        rows: &[usize],
        augmentation: Option<&Augmentation>,
        draw: u32,
    ) -> Result<[Tensor; 2]> {
        let (dtype, device) = (self.precision.dtype(), self.resources.device);
        let clean = data::make_batch(data, rows, augmentation, dtype, device)?.images;
        let noisy = ImageNoise { draw, ..self.noise }.on(&clean, rows, &data.normalization)?;
        Ok([clean, noisy])
    }

    /// Mean cross-entropy and accuracy on `data`, with one draw of noise, of the images' own labels.
    fn measured(&self, at: &State, data: &Dataset) -> Result<(f64, f64)> {
        let params = self.front.all(&at.params);
        let (dtype, device) = (self.precision.dtype(), self.resources.device);
        let tensors = self.front.network.tensors(&params, dtype, device)?;
        let context = Context { mode: Mode::Eval(&at.stats), split: Split::Threads };
        let (mut total, mut n_correct) = (0.0, 0);
        let rows: Vec<usize> = (0..data.len()).collect();
        for rows in rows.chunks(AT_ONCE) {
            let [_, noisy] = self.pair(data, rows, None, MEASURED)?;
            let outputs = self.front.network.forward(&context, &tensors, &noisy)?;
            let labels: Vec<u32> = rows.iter().map(|&row| u32::from(data.labels[row])).collect();
            total += self.behind.losses_alone(&outputs, &labels)?.iter().sum::<f64>();
            let classes = self.behind.classes(&outputs)?;
            n_correct += classes.iter().zip(&labels).filter(|(class, label)| class == label).count();
        }
        Ok((total / data.len() as f64, n_correct as f64 / data.len() as f64))
    }

    fn minibatch(
        &self,
        rows: &[usize],
        augmentation: Option<&Augmentation>,
        draw: u32,
    ) -> Result<Box<dyn Minibatch + '_>> {
        let [clean, noisy] = self.pair(&self.images.train, rows, augmentation, draw)?;
        let labels = self.classifier.classes(&clean.flatten_from(1)?)?;
        Ok(Box::new(Noisy { problem: self, images: noisy, labels }))
    }
}

impl Problem for Defend<'_> {
    fn layout(&self) -> &Arc<Layout> {
        &self.front.layout
    }

    fn start(&self, _: u64) -> State {
        let State { params, stats } = &self.front.start;
        State { params: params[self.front.trained.clone()].to_vec(), stats: stats.clone() }
    }

    fn n_items(&self) -> usize {
        self.images.train.len()
    }

    fn order(&self, epoch: u32) -> Vec<usize> {
        data::epoch_order(self.n_items(), self.noise.seed, epoch)
    }

    fn batch(&self, epoch: u32, items: &[usize]) -> Result<Box<dyn Minibatch + '_>> {
        let augmentation = self.augment.then_some(Augmentation { seed: self.noise.seed, epoch });
        self.minibatch(items, augmentation.as_ref(), epoch)
    }

    fn scoring_batch(&self, per_class: usize) -> Result<Box<dyn Minibatch + '_>> {
        self.minibatch(&data::class_batch(&self.images.train, per_class)?, None, MEASURED)
    }

    fn measure(&self, at: &State, row: &mut Row) -> Result<()> {
        let measured = [
            (&self.images.val, &metric::VAL_LOSS, &metric::VAL_ACCURACY),
            (&self.images.test, &metric::TEST_LOSS, &metric::TEST_ACCURACY),
        ];
        for (data, loss, accuracy) in measured {
            let found = self.measured(at, data)?;
            if !data.is_empty() && !found.0.is_finite() {
                return Err(Error::Diverged { loss: found.0, at: String::new() });
            }
            row.set(loss, found.0);
            row.set(accuracy, found.1);
        }
        Ok(())
    }

    fn is_fitted(&self, _: &State) -> Result<bool> {
        Ok(false)
    }
}

/// Noisy images, and what the classifier says of the clean ones.
struct Noisy<'a> {
    problem: &'a Defend<'a>,
    images: Tensor,
    labels: Vec<u32>,
}

impl Noisy<'_> {
    fn through(&self) -> Through<'_> {
        let Defend { front, behind, whole, resources, precision, .. } = self.problem;
        let how = (resources.memory, precision.rounding());
        Through::new(front, *behind, *whole, (&self.images, &self.labels), how)
    }

    /// Statistics of the batch; none where the running ones stay.
    fn stats(&self, stats: impl FnOnce() -> Result<BatchStats>) -> Result<BatchStats> {
        if self.problem.front.is_whole { stats() } else { Ok(BatchStats::default()) }
    }

    fn opened(&self) -> Result<&Opened> {
        self.problem.behind.opened().ok_or_else(|| {
            let reason = "fo needs the gradient of what is behind the denoiser, and a black box shows none; use method = \
                          cge, output-cge or output-rge";
            Error::setting("method", reason)
        })
    }
}

impl Minibatch for Noisy<'_> {
    fn n_items(&self) -> usize {
        self.labels.len()
    }

    fn layout(&self) -> &Layout {
        &self.problem.front.layout
    }

    fn objective(&self) -> Box<dyn Objective + '_> {
        Box::new(self.through())
    }

    fn pass(&self, params: &[f64], base: &Base) -> Result<BasePass> {
        let activations = self.through().activations(params)?;
        let stats = self.stats(|| self.problem.front.network.batch_stats_of(&activations))?;
        Ok(BasePass { loss: base.loss(), logits: activations.logits().clone(), stats })
    }

    fn backprop(&self, params: &[f64]) -> Result<Backprop> {
        let opened = self.opened()?;
        self.pull_back(params, &|outputs| opened.slope(outputs, &self.labels))
    }

    fn slope(&self, outputs: &Tensor) -> Result<(f64, Tensor)> {
        self.opened()?.slope(outputs, &self.labels)
    }

    fn item_losses(&self, outputs: &Tensor) -> Result<Vec<f64>> {
        self.problem.behind.losses_alone(outputs, &self.labels)
    }

    fn pull_back(&self, params: &[f64], outer: Slope) -> Result<Backprop> {
        let front = &self.problem.front;
        let all = front.all(params);
        let exact = backprop::pull_back(front.network, front.mode(), &all, &self.images, outer)?;
        Ok(Backprop { gradient: exact.gradient[front.trained.clone()].to_vec(), ..exact })
    }

    fn pass_of(&self, exact: &Backprop) -> Result<BasePass> {
        let stats = self.stats(|| self.problem.front.network.batch_stats_of(&exact.activations))?;
        Ok(BasePass { loss: exact.loss, logits: exact.activations.logits().clone(), stats })
    }
}
