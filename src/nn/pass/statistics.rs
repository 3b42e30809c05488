//! Moments of the inputs of batch norms, from what a pass kept.

use candle_core::Tensor;

use crate::Result;
use crate::kernels::lanes::norm::Moments;
use crate::kernels::ops::{self, Execution};
use crate::kernels::{Split, batched};
use crate::nn::activations::{Activations, Kind};
use crate::nn::graph::{Fused, Network};
use crate::nn::stats::BatchStats;

impl Network {
    /// Moments of the inputs of all batch norms, from the values of a forward pass.
    ///
    /// # Errors
    /// If the activations are not of this network.
    pub fn batch_stats_of(&self, activations: &Activations) -> Result<BatchStats> {
        let execution = match activations.kind {
            Kind::Lanes(execution) => Execution { split: Split::Threads, ..execution },
            Kind::Batched => {
                return self.device_stats(activations.n_images, &moments(self, &activations.values)?);
            }
            Kind::Plain => {
                let alone = |value: &Option<Tensor>| {
                    value.as_ref().map(|value| value.detach().unsqueeze(0)).transpose()
                };
                let values = activations.values.iter().map(alone).collect::<candle_core::Result<Vec<_>>>()?;
                return self.device_stats(activations.n_images, &moments(self, &values)?);
            }
        };
        let mut moments = vec![None; activations.values.len()];
        for fused in running(self) {
            let value = fused.inputs[0];
            moments[value] = match (activations.moments.get(value), &activations.values[value]) {
                (Some(Some(known)), _) => Some(known.clone()),
                (_, Some(input)) => Some(ops::norm::moments(execution, input)?),
                (_, None) => None,
            };
        }
        Ok(self.batch_stats(execution.blocks.images, &moments))
    }

    /// The same from moments (C, 2) by value, on a device.
    pub(in crate::nn) fn device_stats(
        &self,
        n_images: usize,
        moments: &[Option<Tensor>],
    ) -> Result<BatchStats> {
        let of = |moments: &Tensor| -> candle_core::Result<Vec<Moments>> {
            let rows = moments.to_vec2::<f64>()?;
            Ok(rows.iter().map(|row| Moments { mean: row[0], variance: row[1] }).collect())
        };
        let moments = moments.iter().map(|moments| moments.as_ref().map(of).transpose());
        Ok(self.batch_stats(n_images, &moments.collect::<candle_core::Result<Vec<_>>>()?))
    }
}

/// Moments (C, 2), in f64 on the device, of every value that a train-mode batch norm reads.
pub(in crate::nn) fn moments(network: &Network, values: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
    let mut moments = vec![None; values.len()];
    for fused in running(network) {
        if let Some(input) = &values[fused.inputs[0]] {
            moments[fused.inputs[0]] = Some(batched::moments(input)?.squeeze(0)?);
        }
    }
    Ok(moments)
}

/// Fused layers of whose inputs running statistics are kept.
fn running(network: &Network) -> impl Iterator<Item = &Fused> {
    network.fused().iter().filter(|fused| network.norm_of(fused).is_some_and(|norm| norm.running.is_some()))
}
