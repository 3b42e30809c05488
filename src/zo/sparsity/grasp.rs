//! Gradient signal preservation (GraSP, Wang et al. 2020) in three forms.
//!
//! All score weights by θ ⊙ (H g), the change of the gradient's norm when a weight is removed, and
//! are ranked by magnitude:
//! - ZO-GraSP as in the paper (DeepZero, Eq. 3): Ŝ = −θ ⊙ (ĝ(θ + μ ĝ) − ĝ(θ)) / μ, with ĝ the RGE
//!   of q = 192 Gaussian directions over the whole vector;
//! - ZO-GraSP as released: the same with one unit direction per convolution and linear weight
//!   tensor and ĝ without the division by μ, so that the step is μ² in the paper's units;
//! - first-order GraSP: g and H g from back-propagation with train-mode batch norm, logits divided by 200 as in
//!   the released code.
//!
//! Cost of the ZO forms: 2 (q + 1) queries.

use std::sync::Arc;

use super::predicted::noise_counts;
use super::{Basis, ByScores, Config, KeepCounts, Rule, Scoring, prunable};
use crate::Result;
use crate::params::{Layout, ParamSpec};
use crate::rng::Purpose;
use crate::zo::estimator::Rge;
use crate::zo::probe::Directions;
use crate::zo::{DirectionSource, Scheme};

/// ZO-GraSP with Gaussian directions over the whole vector, as in the paper.
#[derive(Debug)]
pub struct ZoGrasp;

/// ZO-GraSP with one unit direction per convolution and linear weight tensor, as in the released code.
#[derive(Debug)]
pub struct ZoGraspReleased;

/// First-order GraSP.
#[derive(Debug)]
pub struct FoGrasp;

impl Rule for ZoGrasp {
    fn name(&self) -> &'static str {
        "zo-grasp"
    }

    fn basis(&self) -> Basis<'_> {
        Basis::Scores(self)
    }

    fn forecast(&self, layout: &Layout, sparsity: f64) -> Option<KeepCounts> {
        Some(noise_counts(layout, sparsity, |spec: &ParamSpec| (spec.fan_in as f64).sqrt()))
    }

    fn queries(&self, config: &Config) -> u64 {
        zo_queries(config)
    }
}

impl ByScores for ZoGrasp {
    fn scores(&self, scoring: &Scoring) -> Result<Vec<f64>> {
        zo_scores(scoring, Directions::Gaussian, (0..scoring.layout.n_coords()).collect())
    }
}

impl Rule for ZoGraspReleased {
    fn name(&self) -> &'static str {
        "zo-grasp-released"
    }

    fn basis(&self) -> Basis<'_> {
        Basis::Scores(self)
    }

    fn forecast(&self, layout: &Layout, sparsity: f64) -> Option<KeepCounts> {
        let scale = |spec: &ParamSpec| (spec.fan_in as f64 * spec.len() as f64).sqrt();
        Some(noise_counts(layout, sparsity, scale))
    }

    fn queries(&self, config: &Config) -> u64 {
        zo_queries(config)
    }
}

impl ByScores for ZoGraspReleased {
    fn scores(&self, scoring: &Scoring) -> Result<Vec<f64>> {
        let layout = scoring.layout;
        let weights = prunable(layout).flat_map(|idx| layout.range(idx)).collect();
        zo_scores(scoring, Directions::PerTensor, weights)
    }
}

fn zo_queries(config: &Config) -> u64 {
    2 * (config.grasp_queries as u64 + 1)
}

/// Scores Ŝ (d). The second estimate draws new directions.
fn zo_scores(scoring: &Scoring, law: Directions, coords: Arc<[usize]>) -> Result<Vec<f64>> {
    let Scoring { layout, params, loss, mu, n_dirs, seed, draw } = *scoring;
    let gradient_at = |params: &[f64], step: u32| -> Result<Vec<f64>> {
        let source = DirectionSource::new(law, seed, Purpose::Grasp, step, coords.clone(), Some(layout));
        loss.estimate(&Rge::new(layout.n_coords(), Arc::new(source), n_dirs, mu, Scheme::Forward), params)
    };
    let gradient = gradient_at(params, 2 * draw)?;
    let moved: Vec<f64> = params.iter().zip(&gradient).map(|(p, g)| p + mu * g).collect();
    let gradient_moved = gradient_at(&moved, 2 * draw + 1)?;
    let score = |((p, g), moved): ((&f64, &f64), &f64)| -p * (moved - g) / mu;
    Ok(params.iter().zip(&gradient).zip(&gradient_moved).map(score).collect())
}

/// Temperature of the released code's first-order GraSP.
const TEMPERATURE: f64 = 200.0;

/// Length of the step along g in the difference that gives H g, relative to θ. It must be so short
/// that no ReLU of the batch changes sides: back-propagation's Hessian does not see the kinks, and a
/// single one outweighs the rest. Of the 50 million ReLU inputs of a ResNet-20 and 250 images, one
/// can lie within 1e-10 (the scores are then off by a factor of 40,000); at 1e-12 rounding in f64
/// still leaves them four digits.
const RELATIVE_STEP: f64 = 1e-12;

impl Rule for FoGrasp {
    fn name(&self) -> &'static str {
        "fo-grasp"
    }

    fn basis(&self) -> Basis<'_> {
        Basis::Scores(self)
    }

    fn looks_inside(&self) -> bool {
        true
    }
}

impl ByScores for FoGrasp {
    /// −θ ⊙ H g, H g being the central difference of exact gradients along g.
    fn scores(&self, scoring: &Scoring) -> Result<Vec<f64>> {
        let params = scoring.params;
        let gradient_at = |params: &[f64]| scoring.loss.gradient(params, TEMPERATURE);
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let gradient = gradient_at(params)?;
        let step = RELATIVE_STEP * norm(params) / norm(&gradient).max(f64::MIN_POSITIVE);
        let shifted = |sign: f64| -> Result<Vec<f64>> {
            gradient_at(&params.iter().zip(&gradient).map(|(p, g)| p + sign * step * g).collect::<Vec<_>>())
        };
        let (plus, minus) = (shifted(1.0)?, shifted(-1.0)?);
        let score = |((p, plus), minus): ((&f64, &f64), &f64)| -p * (plus - minus) / (2.0 * step);
        Ok(params.iter().zip(&plus).zip(&minus).map(score).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ScoredLoss, layouts};
    use super::*;
    use crate::zo::Estimator;

    /// ½ Σ cᵢ θᵢ², logits or not.
    struct Quadratic(Vec<f64>);

    impl ScoredLoss for Quadratic {
        fn estimate(&self, _: &dyn Estimator, _: &[f64]) -> Result<Vec<f64>> {
            unreachable!("exact gradients are asked for")
        }

        fn gradient(&self, params: &[f64], temperature: f64) -> Result<Vec<f64>> {
            assert!([1.0, TEMPERATURE].contains(&temperature));
            Ok(params.iter().zip(&self.0).map(|(p, c)| p * c).collect())
        }
    }

    /// Oracle: with Hessian diag(c) the scores of GraSP are −c² θ², those of SNIP c θ².
    #[test]
    fn scores_of_a_quadratic_by_hand() -> Result<()> {
        let layout = layouts::cnn(1, 2);
        let params: Vec<f64> = (0..layout.n_coords()).map(|i| 0.3 + 0.01 * i as f64).collect();
        let curvatures: Vec<f64> = (0..layout.n_coords()).map(|i| 0.5 + (i % 7) as f64).collect();
        let loss = Quadratic(curvatures.clone());
        let scoring =
            Scoring { layout: &layout, params: &params, loss: &loss, mu: 1e-3, n_dirs: 1, seed: 1, draw: 0 };
        let (grasp, snip) = (FoGrasp.scores(&scoring)?, super::super::Snip.scores(&scoring)?);
        for (((p, c), grasp), snip) in params.iter().zip(&curvatures).zip(&grasp).zip(&snip) {
            let expected = -c * c * p * p;
            assert!((grasp / expected - 1.0).abs() < 1e-2, "{grasp} instead of {expected}");
            assert!((snip / (c * p * p) - 1.0).abs() < 1e-14);
        }
        Ok(())
    }
}
