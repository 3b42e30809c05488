//! From sparsity settings to the active set of an epoch.

use std::sync::Arc;

use candle_core::{DType, Device};

use crate::Result;
use crate::data::{self, Dataset, Normalization};
use crate::kernels::Split;
use crate::nn::Network;
use crate::spec::{LayerRatios, Mask, Precision, Settings, SparseTarget};
use crate::zo::sparsity::{self, KeepCounts, Uncovered};
use crate::zo::{Metered, NetworkObjective, QueryCount};

/// What the active sets of a trial are drawn from; fixed at initialization.
#[derive(Debug, Clone, PartialEq)]
pub enum ActiveSets {
    /// Every coordinate, always.
    All,
    /// A random set with these counts per layer, drawn anew every few epochs.
    Drawn(KeepCounts),
    /// One set.
    Fixed(Arc<[usize]>),
}

impl ActiveSets {
    /// Scores the initial parameters `params` (d) as the settings ask. ZO-GraSP's queries are
    /// counted in `count`.
    ///
    /// # Errors
    /// If the data has too few images per class, or a query fails.
    pub fn at_initialization(
        settings: &Settings,
        seed: u64,
        network: &Network,
        train: &Dataset,
        params: &[f64],
        count: &QueryCount,
        device: &Device,
    ) -> Result<Self> {
        if settings.sparsity == 0.0 {
            return Ok(Self::All);
        }
        let layout = network.layout();
        let uncovered = uncovered(settings);
        let scores = match settings.layer_ratios {
            LayerRatios::Uniform => {
                let keep = KeepCounts::uniform(layout, settings.sparsity);
                return Ok(match settings.mask {
                    Mask::Redraw | Mask::Rescore => Self::Drawn(keep),
                    Mask::Fixed => Self::Fixed(sparsity::random_active(layout, &keep, uncovered, seed, 0)),
                });
            }
            LayerRatios::Snip | LayerRatios::Magnitude | LayerRatios::SmartRatio => {
                return Err(crate::Error::setting("layer-ratios", "this rule does not exist yet"));
            }
            form => {
                let rows = data::class_batch(train, settings.grasp_images_per_class)?;
                let dtype = dtype(settings.precision);
                let batch = data::make_batch(train, &rows, None, &Normalization::CIFAR10, dtype, device)?;
                if form == LayerRatios::FoGrasp {
                    sparsity::fo_scores(network, &batch.images, &batch.labels, params)?
                } else {
                    let objective = NetworkObjective {
                        network,
                        images: &batch.images,
                        labels: &batch.labels,
                        split: Split::Serial,
                    };
                    let metered = Metered::new(objective, count);
                    let n_dirs = u32::try_from(settings.grasp_queries).unwrap_or(u32::MAX);
                    sparsity::zo_scores(form, network, &metered, params, settings.mu, n_dirs, seed)?
                }
            }
        };
        let mask = sparsity::global_mask(layout, &scores, settings.sparsity)?;
        Ok(match settings.mask {
            Mask::Redraw | Mask::Rescore => Self::Drawn(KeepCounts::of_mask(layout, &mask)),
            Mask::Fixed => Self::Fixed(sparsity::fixed_active(layout, &mask, uncovered, seed)),
        })
    }

    /// The active coordinates in `epoch` (1-based), sorted.
    #[must_use]
    pub fn in_epoch(&self, epoch: usize, settings: &Settings, seed: u64, network: &Network) -> Arc<[usize]> {
        let layout = network.layout();
        match self {
            Self::All => (0..layout.n_coords()).collect(),
            Self::Fixed(active) => active.clone(),
            Self::Drawn(keep) => {
                let draw = (epoch - 1) / settings.redraw_every;
                sparsity::random_active(layout, keep, uncovered(settings), seed, draw as u32)
            }
        }
    }

    /// Coordinates that are pruned for good (d), if the settings prune weights.
    #[must_use]
    pub fn pruned(&self, settings: &Settings, network: &Network) -> Option<Vec<bool>> {
        match self {
            Self::Fixed(active) if settings.sparse_target == SparseTarget::Weights => {
                let mut pruned = vec![true; network.layout().n_coords()];
                active.iter().for_each(|&coord| pruned[coord] = false);
                Some(pruned)
            }
            _ => None,
        }
    }
}

fn uncovered(settings: &Settings) -> Uncovered {
    // Pruned weights never take batch norm and biases with them.
    if settings.always_active || settings.sparse_target == SparseTarget::Weights {
        Uncovered::Active
    } else {
        Uncovered::Sparse(settings.sparsity)
    }
}

/// candle's name for a precision.
pub(super) fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::F64 => DType::F64,
    }
}
