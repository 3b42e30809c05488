//! From sparsity settings to the active set of an epoch.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device};

use crate::Result;
use crate::data::{self, Dataset, Normalization};
use crate::kernels::Split;
use crate::nn::{Network, ParamSpec};
use crate::results::TensorRecord;
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

    /// The number of the active set that holds in `epoch` (1-based), from 0.
    #[must_use]
    pub fn draw(&self, epoch: usize, settings: &Settings) -> u32 {
        match self {
            Self::All | Self::Fixed(_) => 0,
            Self::Drawn(_) => ((epoch - 1) / settings.redraw_every) as u32,
        }
    }

    /// The active coordinates in `epoch` (1-based), sorted.
    #[must_use]
    pub fn in_epoch(&self, epoch: usize, settings: &Settings, seed: u64, network: &Network) -> Arc<[usize]> {
        let layout = network.layout();
        match self {
            Self::All => (0..layout.n_coords()).collect(),
            Self::Fixed(active) => active.clone(),
            Self::Drawn(keep) => {
                let draw = self.draw(epoch, settings);
                sparsity::random_active(layout, keep, uncovered(settings), seed, draw)
            }
        }
    }

    /// Which coordinates are kept for good (d), if that is decided once.
    #[must_use]
    pub fn mask(&self, network: &Network) -> Option<Vec<bool>> {
        let Self::Fixed(active) = self else { return None };
        let mut kept = vec![false; network.layout().n_coords()];
        active.iter().for_each(|&coord| kept[coord] = true);
        Some(kept)
    }

    /// Coordinates that are pruned for good (d), if the settings prune weights.
    #[must_use]
    pub fn pruned(&self, settings: &Settings, network: &Network) -> Option<Vec<bool>> {
        let kept = self.mask(network).filter(|_| settings.sparse_target == SparseTarget::Weights)?;
        Some(kept.into_iter().map(|kept| !kept).collect())
    }
}

/// How much of every parameter tensor is in an active set (sorted).
pub(super) fn tensors(network: &Network, active: &[usize]) -> Vec<TensorRecord> {
    let layout = network.layout();
    let tensor = |(param_idx, spec): (usize, &ParamSpec)| {
        let range = layout.range(param_idx);
        TensorRecord {
            name: spec.name.clone(),
            n: spec.len() as u64,
            n_active: within(active, &range).len() as u64,
            cosine: f64::NAN,
            relative_error: f64::NAN,
        }
    };
    layout.specs().iter().enumerate().map(tensor).collect()
}

/// The part of an active set (sorted) that lies in a range.
pub(super) fn within<'a>(active: &'a [usize], range: &Range<usize>) -> &'a [usize] {
    let start = active.partition_point(|&coord| coord < range.start);
    let end = active.partition_point(|&coord| coord < range.end);
    &active[start..end]
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
