//! The settings of one trial: every choice that can change a number, by name.
//!
//! A [`Settings`] is complete and checked. It is built from the defaults (the paper's recipe) by
//! applying named values one at a time through [`Settings::set`], so an experiment file, `--set
//! key=value` and a sweep axis all go through the same gate.

use serde::{Deserialize, Serialize};

use crate::baseline::pattern_search::Search;
use crate::data::DataSource;
use crate::kernels::Precision;
use crate::nn::model::ModelKind;
use crate::params::Init;
use crate::zo::Scheme;
use crate::zo::estimator::StepScale;
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::optimizer::{OptimizerKind, Schedule};
use crate::zo::probe::Directions;
use crate::zo::sparsity::{LayerRatios, Mask, SparseTarget};

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
    pub difference: Scheme,
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
            difference: Scheme::Forward,
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
