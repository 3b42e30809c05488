//! Which coordinates a measurement of CGE takes: a small sample that costs per query what all of them
//! would.

use crate::params::Layout;
use crate::rng::{Purpose, Stream};
use crate::zo::sparsity::{self, Rule, Uncovered, ZoGrasp, ZoGraspReleased};
use crate::{Error, Result};

/// The set that coordinates are sampled from. It decides how queries spread over the layers, and so
/// what an evaluator can save.
///
/// The layer-wise sets are active sets of sparse-CGE: weights with the ratios that ZO-GraSP is
/// expected to find, and every batch-norm parameter and bias.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// All convolution and linear weights.
    Uniform,
    /// Layer-wise ratios of ZO-GraSP as in the paper.
    LprPaper {
        /// Fraction of the weights left out, in [0, 1).
        sparsity: f64,
    },
    /// Layer-wise ratios of ZO-GraSP as released.
    LprReleased {
        /// Fraction of the weights left out, in [0, 1).
        sparsity: f64,
    },
}

/// Coordinates of one measurement.
pub(super) struct Sample {
    /// Coordinates in the whole set.
    pub(super) n_population: usize,
    /// Those chosen, sorted.
    pub(super) coords: Vec<usize>,
}

impl Distribution {
    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::LprPaper { .. } => "lpr-paper",
            Self::LprReleased { .. } => "lpr-released",
        }
    }

    /// Fraction of the weights left out, if any is.
    #[must_use]
    pub fn sparsity(self) -> Option<f64> {
        match self {
            Self::Uniform => None,
            Self::LprPaper { sparsity } | Self::LprReleased { sparsity } => Some(sparsity),
        }
    }

    /// `n` coordinates of a network with this `layout`.
    pub(super) fn sample(self, layout: &Layout, n: usize, seed: u64) -> Result<Sample> {
        let population = match self {
            Self::Uniform => weights(layout),
            Self::LprPaper { sparsity } => active(layout, &ZoGrasp, sparsity, seed)?,
            Self::LprReleased { sparsity } => active(layout, &ZoGraspReleased, sparsity, seed)?,
        };
        if n > population.len() {
            let reason = format!("{n} asked for, but there are {} to choose from", population.len());
            return Err(Error::setting("coords", reason));
        }
        let coords = stratified(&population, n, Stream::new(seed, Purpose::Subset, 0));
        Ok(Sample { n_population: population.len(), coords })
    }
}

fn weights(layout: &Layout) -> Vec<usize> {
    let is_weight = |param_idx: &usize| layout.specs()[*param_idx].kind.is_prunable();
    (0..layout.specs().len()).filter(is_weight).flat_map(|param_idx| layout.range(param_idx)).collect()
}

fn active(layout: &Layout, rule: &dyn Rule, sparsity: f64, seed: u64) -> Result<Vec<usize>> {
    let keep = rule.forecast(layout, sparsity).ok_or_else(|| {
        Error::setting(
            "distribution",
            format!("the layer-wise ratios of {} cannot be predicted", rule.name()),
        )
    })?;
    Ok(sparsity::random_active(layout, &keep, Uncovered::Active, seed, 0).to_vec())
}

/// `n` members of the sorted `population`: a random one from each of `n` slices of equal length (to
/// within one). Every layer thus has its share to within two coordinates, which keeps the luck of the
/// draw out of the timings: what a query costs depends on its layer.
pub(super) fn stratified(population: &[usize], n: usize, stream: Stream) -> Vec<usize> {
    let bound = |slice: usize| slice * population.len() / n;
    (0..n)
        .map(|slice| {
            let (start, end) = (bound(slice), bound(slice + 1));
            population[start + stream.below_at(slice as u64, (end - start) as u64) as usize]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model;

    const ALL: [Distribution; 3] = [
        Distribution::Uniform,
        Distribution::LprPaper { sparsity: 0.9 },
        Distribution::LprReleased { sparsity: 0.9 },
    ];

    /// Oracle: the set's own shares of the layers.
    #[test]
    fn every_layer_has_its_share() {
        let network = model::from_name("resnet8", &model::Io::CIFAR).unwrap();
        let layout = network.layout();
        for distribution in ALL {
            let n = 300;
            let sample = distribution.sample(layout, n, 1).unwrap();
            let all = distribution.sample(layout, sample.n_population, 1).unwrap().coords;
            assert!(sample.coords.windows(2).all(|pair| pair[0] < pair[1]), "{distribution:?}");
            assert_eq!(sample.coords.len(), n);
            for param_idx in 0..layout.specs().len() {
                let range = layout.range(param_idx);
                let count = |coords: &[usize]| coords.iter().filter(|&c| range.contains(c)).count() as f64;
                let expected = count(&all) * n as f64 / all.len() as f64;
                let found = count(&sample.coords);
                assert!((found - expected).abs() < 2.0, "{distribution:?} {param_idx}: {found} {expected}");
            }
            assert_ne!(sample.coords, distribution.sample(layout, n, 2).unwrap().coords);
        }
    }

    /// Oracle: parameter kinds. Batch norm and biases belong to active sets, not to the weights.
    #[test]
    fn sets_hold_what_they_say() {
        let network = model::from_name("resnet8-w2", &model::Io::CIFAR).unwrap();
        let layout = network.layout();
        let n_uncovered: usize =
            layout.specs().iter().filter(|spec| !spec.kind.is_prunable()).map(|spec| spec.len()).sum();
        let n_weights = layout.n_coords() - n_uncovered;
        for distribution in ALL {
            let n = distribution.sample(layout, 1, 0).unwrap().n_population;
            match distribution.sparsity() {
                None => assert_eq!(n, n_weights),
                // Rounded to a whole weight in each of ten layers.
                Some(sparsity) => {
                    let expected = n_uncovered as f64 + (1.0 - sparsity) * n_weights as f64;
                    assert!((n as f64 - expected).abs() <= 10.0, "{distribution:?}: {n}, {expected}");
                }
            }
            assert!(distribution.sample(layout, n + 1, 0).is_err());
        }
    }
}
