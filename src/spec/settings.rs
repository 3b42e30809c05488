//! The settings of one trial: every choice that can change a number, by name.
//!
//! A [`Settings`] is complete and checked. It is built from the defaults (the paper's recipe) by
//! applying named values one at a time through [`Settings::set`], so an experiment file, `--set
//! key=value` and a sweep axis all go through the same gate.

use candle_core::DType;
use serde::{Deserialize, Serialize};

use crate::kernels::Rounding;
use crate::{Error, Result};

/// What a trial does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Trains the network and tests it.
    Train,
    /// Times the four stages of one estimate, once per epoch (Tab. A1).
    Stages,
    /// Compares one estimate per epoch with back-propagation.
    Quality,
    /// Times training steps by a job of processes, once per epoch (Fig. A6).
    Workers,
}

/// Which images to train on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSource {
    /// Procedural images, built in.
    Synthetic,
    /// CIFAR-10.
    Cifar10,
}

/// Which network family to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// The depth-D CNN of the paper's Appendix B; `depth` blocks, `width` channels.
    Cnn,
    /// The CIFAR ResNet of depth 6n+2 with option-A shortcuts; `width` channels in the first stage.
    Resnet,
    /// The CIFAR ResNet of depth 8n+2 with four stages and option-B shortcuts (1x1 convolution and
    /// batch norm); `width` channels in the first stage. Depth 18 with 64 channels is ResNet-18.
    ResnetB,
    /// LeNet-5 for CIFAR-10 without batch norm: 62,006 parameters; `depth` and `width` play no part.
    Lenet,
}

/// How parameters start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Weights from Kaiming's normal law, batch norm at one and zero, other biases as PyTorch has them.
    Kaiming,
    /// Every parameter uniform in [-1, 1], as Pattern Search's authors do.
    Uniform,
}

/// Where gradients come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Zeroth order, coordinate-wise estimator (CGE; sparse-CGE when `sparsity` > 0).
    Cge,
    /// Zeroth order, randomized estimator (RGE).
    Rge,
    /// First order: back-propagation.
    Fo,
    /// Zeroth order, coherent coordinate descent (CoCD): estimates of a cyclic block of coordinates,
    /// stale ones of the others.
    Cocd,
    /// Pattern Search: moves of single coordinates that are kept if the loss falls.
    PatternSearch,
}

/// Finite-difference scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// (l(θ + μu) − l(θ)) / μ: one query per probe and one for the base.
    Forward,
    /// (l(θ + μu) − l(θ − μu)) / 2μ: two queries per probe.
    Central,
}

/// How loss differences are computed; all give the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EvaluatorKind {
    /// One complete forward pass per query.
    Full,
    /// Forward from the perturbed layer on (the paper's feature reuse).
    Reuse,
    /// The change of every activation, propagated exactly to the loss.
    Difference,
}

/// Law of the random directions of RGE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Directions {
    /// u ~ N(0, I), as in Eq. (1) of the paper.
    Gaussian,
    /// u uniform on the unit sphere, estimate times d.
    Sphere,
    /// One unit direction per parameter tensor, no dimension factor, as in the released code.
    PerTensor,
    /// u of independent random signs.
    Rademacher,
}

/// What the learning rate multiplies (ZO).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepScale {
    /// The estimate.
    Estimate,
    /// The estimate times μ over the standard deviation of the losses (FZOO).
    LossSpread,
}

/// Which moves Pattern Search keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Search {
    /// The first that lowers the loss.
    First,
    /// The best of the next `population` - 1, if it lowers the loss.
    Best,
}

/// Where the layer-wise pruning ratios of the active set come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerRatios {
    /// The same ratio in every layer.
    Uniform,
    /// ZO-GraSP with Gaussian directions (the paper's form).
    ZoGrasp,
    /// ZO-GraSP as the authors' released code computes it (per-tensor unit directions).
    ZoGraspReleased,
    /// First-order GraSP.
    FoGrasp,
    /// SNIP: |θ ∂ℓ/∂θ|.
    Snip,
    /// |θ|.
    Magnitude,
    /// The closed form of Su et al.: decreasing with the layer's position, whatever the data.
    SmartRatio,
}

/// How the active set is chosen from the ratios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    /// A fresh random set with the layer ratios every `redraw_every` epochs (the paper's choice).
    Redraw,
    /// The scored mask itself, fixed at initialization (the paper's M2).
    Fixed,
    /// A fresh scored mask every `redraw_every` epochs (the paper's M1).
    Rescore,
}

/// What sparsity applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SparseTarget {
    /// Only the gradient is sparse; the model stays dense.
    Gradient,
    /// Pruned weights are zero and stay zero.
    Weights,
}

/// Update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// SGD with momentum.
    Sgd,
    /// Adam.
    Adam,
}

/// Learning-rate schedule after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Cosine to zero.
    Cosine,
    /// Constant.
    Constant,
}

/// Arithmetic of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Single precision; where differences are propagated, convolutions multiply numbers rounded to TF32.
    Tf32,
    /// Single precision; where differences are propagated, convolutions multiply numbers rounded to bfloat16.
    Bf16,
}

impl Precision {
    /// Number type of activations.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Tf32 | Self::Bf16 => DType::F32,
            Self::F64 => DType::F64,
        }
    }

    /// What is rounded where differences are propagated.
    #[must_use]
    pub fn rounding(self) -> Rounding {
        match self {
            Self::F32 | Self::F64 => Rounding::None,
            Self::Tf32 => Rounding::Tf32,
            Self::Bf16 => Rounding::Bf16,
        }
    }

    /// Checks that an estimate survives the rounding: a propagated difference is as accurate as what it is
    /// multiplied with, the difference of two rounded losses is noise.
    ///
    /// # Errors
    /// [`Error::Setting`] if losses are rounded and subtracted.
    pub fn check(self, evaluator: EvaluatorKind, method: Method) -> Result<()> {
        let is_propagated = evaluator == EvaluatorKind::Difference
            && matches!(method, Method::Cge | Method::Cocd | Method::PatternSearch);
        if self.rounding() == Rounding::None || is_propagated {
            return Ok(());
        }
        Err(Error::setting(
            "precision",
            format!(
                "{self:?} rounds what convolutions multiply. Propagated differences of single coordinates stand \
                 that, the difference of two losses drowns in it: use f32, or evaluator = difference with method = \
                 cge, cocd or pattern-search; got evaluator = {evaluator:?} with method = {method:?}"
            )
            .to_lowercase()
            .replacen("propagated", "Propagated", 1),
        ))
    }
}

/// Every choice that can change a number in a trial. Field order is the order in files and tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Training images.
    pub data: DataSource,
    /// Training images used, class-balanced; 0 for all (after the validation images are set aside).
    pub n_train: usize,
    /// Images set aside from the training set to choose the best epoch; 0 for none.
    pub n_val: usize,
    /// Test images used, class-balanced; 0 for all.
    pub n_test: usize,
    /// Crop-4 and flip augmentation.
    pub augment: bool,
    /// Network family.
    pub model: ModelKind,
    /// Depth: blocks of the CNN, 6n+2 of the ResNet, 8n+2 of ResNet-B.
    pub depth: usize,
    /// Channels of the CNN, or of a ResNet's first stage.
    pub width: usize,
    /// Gradient source.
    pub method: Method,
    /// Finite-difference scheme (ZO).
    pub difference: Difference,
    /// Smoothing parameter μ (ZO).
    pub mu: f64,
    /// Directions (RGE), coordinates (CoCD) or moves (Pattern Search) per step; 0 for all, a search: one step.
    pub queries: usize,
    /// Law of RGE's directions.
    pub directions: Directions,
    /// How loss differences are computed (ZO).
    pub evaluator: EvaluatorKind,
    /// Fraction of conv and linear weights left out of the active set, in [0, 1).
    pub sparsity: f64,
    /// Source of the layer-wise ratios.
    pub layer_ratios: LayerRatios,
    /// How the active set follows from the ratios.
    pub mask: Mask,
    /// Epochs between re-draws of the active set (K_sparse).
    pub redraw_every: usize,
    /// Sparse gradient or sparse weights.
    pub sparse_target: SparseTarget,
    /// Whether batch-norm parameters and biases are always active, outside the ratio.
    pub always_active: bool,
    /// Random directions of ZO-GraSP.
    pub grasp_queries: usize,
    /// Images per class in the batch that GraSP scores.
    pub grasp_images_per_class: usize,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images per step; all if there are fewer.
    pub batch_size: usize,
    /// Update rule.
    pub optimizer: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Momentum of SGD, β₁ of Adam.
    pub momentum: f64,
    /// Weight decay on all parameters.
    pub weight_decay: f64,
    /// Epochs of linear warm-up.
    pub warmup_epochs: usize,
    /// Schedule after the warm-up.
    pub schedule: Schedule,
    /// Arithmetic of the forward pass.
    pub precision: Precision,
    /// What the trial does.
    pub task: Task,
    /// How parameters start.
    pub init: Init,
    /// Epochs of first-order training before an estimate's quality is measured (task = quality).
    pub pretrain_epochs: usize,
    /// Factor on stale estimates per step, in [0, 1]; 0 is block-cyclic coordinate descent (CoCD).
    pub decay: f64,
    /// What the learning rate multiplies (ZO).
    pub step_scale: StepScale,
    /// Which moves are kept (Pattern Search).
    pub search: Search,
    /// Initial size of a move (Pattern Search).
    pub radius: f64,
    /// Points compared at a time with search = best, the present one included; 0 for 50,000 / n-train.
    pub population: usize,
    /// Moves kept, or halvings of the radius, per batch (Pattern Search).
    pub search_steps: usize,
    /// Whether the loss sees logits over the product of all weights' norms / 3 (Pattern Search).
    pub normalize_logits: bool,
    /// Whether training ends once all training images are classified rightly (Pattern Search).
    pub stop_when_fitted: bool,
    /// Processes, with one thread each, that share the probes of a step (task = workers).
    pub workers: usize,
    /// Whether the times are those of a model, made of measured parts, instead of a job's (task = workers).
    pub modeled: bool,
}

impl Default for Settings {
    /// The paper's recipe for ResNet-20 on CIFAR-10 at 90 % sparsity.
    fn default() -> Self {
        Self {
            data: DataSource::Cifar10,
            n_train: 0,
            n_val: 0,
            n_test: 0,
            augment: true,
            model: ModelKind::Resnet,
            depth: 20,
            width: 16,
            method: Method::Cge,
            difference: Difference::Forward,
            mu: 5e-3,
            queries: 0,
            directions: Directions::Gaussian,
            evaluator: EvaluatorKind::Difference,
            sparsity: 0.9,
            layer_ratios: LayerRatios::ZoGrasp,
            mask: Mask::Redraw,
            redraw_every: 5,
            sparse_target: SparseTarget::Gradient,
            always_active: true,
            grasp_queries: 192,
            grasp_images_per_class: 25,
            epochs: 50,
            batch_size: 256,
            optimizer: OptimizerKind::Sgd,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 5e-4,
            warmup_epochs: 3,
            schedule: Schedule::Cosine,
            precision: Precision::F32,
            task: Task::Train,
            init: Init::Kaiming,
            pretrain_epochs: 0,
            decay: 0.0,
            step_scale: StepScale::Estimate,
            search: Search::First,
            radius: 1.0,
            population: 0,
            search_steps: 1,
            normalize_logits: false,
            stop_when_fitted: false,
            workers: 1,
            modeled: false,
        }
    }
}
