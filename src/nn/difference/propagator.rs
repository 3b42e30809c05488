//! The propagator, over engines of either precision, or of batched probes.

use candle_core::{DType, Tensor};

use super::options::Options;
use super::{batched, run};
use crate::Result;
use crate::nn::form::Mode;
use crate::nn::graph::Network;
use crate::nn::loss::Targets;
use crate::nn::stats::BatchStats;

/// A network at one base point θ and batch, ready to propagate differences of the loss.
#[derive(Debug)]
pub struct Propagator {
    loss: f64,
    logits: Tensor,
    stats: BatchStats,
    engine: Precise,
}

#[derive(Debug)]
enum Precise {
    F32(run::Engine<f32>),
    F64(run::Engine<f64>),
    Batched(batched::Engine),
}

impl Propagator {
    /// Runs `network` at `params` (d) on `images` (B, C, H, W, f32 or f64) with `targets` of its cross-entropy, and
    /// keeps what differences start from, where the images are. `memory` as in [`Options::memory`].
    ///
    /// # Errors
    /// If sizes do not fit or the device fails.
    pub fn new<'a>(
        network: &Network,
        params: &[f64],
        images: &Tensor,
        targets: impl Into<Targets<'a>>,
        mode: Mode,
        memory: usize,
    ) -> Result<Self> {
        Self::with(network, params, images, targets, mode, Options { memory, ..Options::default() })
    }

    /// The same with all options.
    ///
    /// # Errors
    /// As [`Propagator::new`].
    pub fn with<'a>(
        network: &Network,
        params: &[f64],
        images: &Tensor,
        targets: impl Into<Targets<'a>>,
        mode: Mode,
        options: Options,
    ) -> Result<Self> {
        let targets = targets.into();
        let ((loss, logits, stats), engine) = if options.is_batched || !images.device().is_cpu() {
            let (head, engine) = batched::Engine::new(network, params, images, targets, mode, options)?;
            (head, Precise::Batched(engine))
        } else if images.dtype() == DType::F64 {
            let (head, engine) = run::Engine::new(network, params, images, targets, mode, options)?;
            (head, Precise::F64(engine))
        } else {
            let (head, engine) = run::Engine::new(network, params, images, targets, mode, options)?;
            (head, Precise::F32(engine))
        };
        Ok(Self { loss, logits, stats, engine })
    }

    /// Loss at the base point.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// Logits (B, classes) at the base point.
    #[must_use]
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Batch statistics at the base point.
    #[must_use]
    pub fn stats(&self) -> &BatchStats {
        &self.stats
    }

    /// Bytes that the activations at the base point occupy.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match &self.engine {
            Precise::F32(engine) => engine.base_bytes(),
            Precise::F64(engine) => engine.base_bytes(),
            Precise::Batched(engine) => engine.base_bytes(),
        }
    }

    /// l(θ + shift · e_coord) − l(θ) for every (coord, shift), in order; NaN where an activation
    /// becomes NaN or infinite. The bits do not depend on the number of threads.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If a coordinate is not below d.
    pub fn differences(&self, probes: &[(usize, f64)]) -> Result<Vec<f64>> {
        match &self.engine {
            Precise::F32(engine) => Ok(engine.differences(probes)),
            Precise::F64(engine) => Ok(engine.differences(probes)),
            Precise::Batched(engine) => engine.differences(probes),
        }
    }

    /// Multiplications and additions per image that a probe of this coordinate costs.
    ///
    /// # Panics
    /// If the coordinate is not below d.
    #[must_use]
    pub fn flops_of(&self, coord: usize) -> u64 {
        match &self.engine {
            Precise::F32(engine) => engine.flops_of(coord),
            Precise::F64(engine) => engine.flops_of(coord),
            Precise::Batched(engine) => engine.flops_of(coord),
        }
    }
}
