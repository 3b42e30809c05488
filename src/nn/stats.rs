//! Statistics of batch norms: the running ones, and those of a batch.

use crate::kernels::lanes::norm::Moments;

/// Weight of a new batch in the running statistics where nothing else is said, as in PyTorch.
pub const MOMENTUM: f64 = 0.1;

/// Running statistics of one batch norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormStats {
    /// Running mean per channel.
    pub mean: Vec<f64>,
    /// Running unbiased variance per channel.
    pub variance: Vec<f64>,
}

impl NormStats {
    /// By channel.
    pub(super) fn moments(&self) -> Vec<Moments> {
        let pairs = self.mean.iter().zip(&self.variance);
        pairs.map(|(&mean, &variance)| Moments { mean, variance }).collect()
    }
}

/// Running statistics of all batch norms, in order. They are state of training, not parameters:
/// only [`RunningStats::update`] moves them.
#[derive(Debug, Clone, PartialEq)]
pub struct RunningStats {
    /// One per batch norm.
    pub layers: Vec<NormStats>,
}

/// Moments of the inputs of all batch norms on one batch; by default of none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchStats {
    /// Per batch norm.
    pub(super) layers: Vec<NormBatch>,
}

/// One batch norm on a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct NormBatch {
    /// Numbers per channel.
    pub(super) n: f64,
    /// Weight in the running statistics.
    pub(super) momentum: f64,
    /// Of every channel.
    pub(super) moments: Vec<Moments>,
}

impl RunningStats {
    /// All numbers, layer by layer: means, then variances.
    #[must_use]
    pub fn values(&self) -> Vec<f64> {
        self.layers.iter().flat_map(|layer| layer.mean.iter().chain(&layer.variance)).copied().collect()
    }

    /// Takes back what [`RunningStats::values`] gave.
    pub fn restore(&mut self, values: &[f64]) {
        let mut values = values.iter();
        for layer in &mut self.layers {
            for (to, from) in layer.mean.iter_mut().chain(&mut layer.variance).zip(&mut values) {
                *to = *from;
            }
        }
    }

    /// Moves towards the moments of a batch, with PyTorch's meaning of momentum and unbiased variance. A batch without
    /// moments moves nothing.
    pub fn update(&mut self, batch: &BatchStats) {
        for (running, NormBatch { n, momentum, moments }) in self.layers.iter_mut().zip(&batch.layers) {
            for (channel, moments) in moments.iter().enumerate() {
                let unbiased = if *n > 1.0 { moments.variance * n / (n - 1.0) } else { moments.variance };
                let blend = |old: f64, new: f64| (1.0 - momentum) * old + momentum * new;
                running.mean[channel] = blend(running.mean[channel], moments.mean);
                running.variance[channel] = blend(running.variance[channel], unbiased);
            }
        }
    }

    pub(super) fn layer(&self, norm_idx: usize) -> &NormStats {
        &self.layers[norm_idx]
    }
}
