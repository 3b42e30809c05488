//! What network measurements run on.

use std::path::Path;

use candle_core::{DType, Device};

use crate::Result;
use crate::data::{self, Batch, Dataset};
use crate::nn::model::Io;
use crate::nn::objective::NetworkObjective;
use crate::nn::{Network, model, weights};

/// A network, a point in its parameter space and one batch of procedural images.
#[derive(Debug)]
pub struct Workload {
    /// Short name of the network, as [`model::from_name`] reads it.
    pub model: String,
    /// The network.
    pub network: Network,
    /// Parameters (d).
    pub params: Vec<f64>,
    /// Seed of the initial weights and of the choice of coordinates and directions.
    pub seed: u64,
    /// Where tensors live.
    pub device: Device,
    images: Dataset,
}

impl Workload {
    /// The network called `model` with the `weights` of a safetensors file, or else initial ones, on
    /// the first `batch_size` procedural training images.
    ///
    /// # Errors
    /// If there is no such network, or the file does not hold its weights.
    pub fn new(model: &str, batch_size: usize, seed: u64, weights: Option<&Path>) -> Result<Self> {
        let images = data::synthetic(batch_size, 0).train;
        let network = model::from_name(model, &Io { input: images.shape, n_outputs: images.n_classes })?;
        let params = match weights {
            Some(path) => weights::load(&network, path)?.0,
            None => network.layout().initial_values(seed),
        };
        Ok(Self { model: model.to_owned(), network, params, seed, device: Device::Cpu, images })
    }

    /// The same on another device.
    #[must_use]
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Images in the batch.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.images.len()
    }

    /// Operations of one complete forward pass over the batch.
    #[must_use]
    pub fn forward_flops(&self) -> f64 {
        self.network.flops() as f64 * self.batch_size() as f64
    }

    /// The normalized images (B, C, H, W) in `dtype`, and their labels (B).
    ///
    /// # Errors
    /// If `dtype` is neither f32 nor f64.
    pub fn batch(&self, dtype: DType) -> Result<Batch> {
        let rows: Vec<usize> = (0..self.images.len()).collect();
        data::make_batch(&self.images, &rows, None, dtype, &self.device)
    }

    /// The network's loss on `batch`, one thread per probe.
    pub(super) fn objective<'a>(&'a self, batch: &'a Batch) -> NetworkObjective<'a> {
        NetworkObjective::new(&self.network, &batch.images, &batch.labels)
    }
}
