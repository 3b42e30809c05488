//! Gradient signal preservation (GraSP, Wang et al. 2020) in three forms.
//!
//! All score weights by θ ⊙ (H g), the change of the gradient's norm when a weight is removed, and
//! are ranked by magnitude:
//! - ZO-GraSP as in the paper (DeepZero, Eq. 3): Ŝ = −θ ⊙ (ĝ(θ + μ ĝ) − ĝ(θ)) / μ, with ĝ the RGE
//!   of q = 192 Gaussian directions over the whole vector;
//! - ZO-GraSP as released: the same with one unit direction per convolution and linear weight
//!   tensor and ĝ without the division by μ, so that the step is μ² in the paper's units;
//! - first-order GraSP: g and H g from back-propagation, logits divided by 200.
//!
//! Cost of the ZO forms: 2 (q + 1) queries.

use std::sync::Arc;

use crate::Result;
use crate::baseline::backprop;
use crate::nn::Network;
use crate::rng::Purpose;
use crate::spec::{Difference, Directions, LayerRatios};
use crate::zo::estimator::Rge;
use crate::zo::evaluate::{Evaluator, Full};
use crate::zo::{DirectionSource, Estimate, Estimator, Metered, Objective};

/// How ZO-GraSP scores.
#[derive(Debug, Clone, Copy)]
pub struct ZoGrasp {
    /// The paper's form ([`LayerRatios::ZoGrasp`]) or the released one
    /// ([`LayerRatios::ZoGraspReleased`]).
    pub form: LayerRatios,
    /// Smoothing parameter μ.
    pub mu: f64,
    /// Random directions q.
    pub n_dirs: u32,
    /// Seed of the directions.
    pub seed: u64,
    /// Number of the scoring in the run, from 0; each has its own directions.
    pub draw: u32,
}

/// Makes an estimate: [`crate::zo::estimate`], or what shares its probes first.
pub type MakeEstimate<'a> = dyn Fn(&dyn Estimator, &dyn Evaluator) -> Result<Estimate> + 'a;

/// ZO-GraSP scores Ŝ (d) of `params` (d). The second estimate draws new directions.
///
/// # Errors
/// If a query fails or the loss is not finite.
pub fn zo_scores<O: Objective>(
    how: &ZoGrasp,
    network: &Network,
    objective: &Metered<O>,
    params: &[f64],
    make: &MakeEstimate,
) -> Result<Vec<f64>> {
    let ZoGrasp { form, mu, n_dirs, seed, draw } = *how;
    let layout = network.layout();
    let (law, coords): (_, Arc<[usize]>) = if form == LayerRatios::ZoGraspReleased {
        (Directions::PerTensor, super::prunable(layout).flat_map(|idx| layout.range(idx)).collect())
    } else {
        (Directions::Gaussian, (0..layout.n_coords()).collect())
    };
    let gradient_at = |params: &[f64], step: u32| -> Result<Vec<f64>> {
        let source = DirectionSource::new(law, seed, Purpose::Grasp, step, coords.clone(), Some(layout));
        let rge = Rge::new(layout.n_coords(), Arc::new(source), n_dirs, mu, Difference::Forward);
        Ok(make(&rge, &Full::new(objective, params)?)?.gradient)
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

/// First-order GraSP scores −θ ⊙ H g (d) with train-mode batch norm, from exact gradients in f64:
/// H g is their central difference along g.
///
/// # Errors
/// If the device fails.
pub fn fo_scores(
    network: &Network,
    images: &candle_core::Tensor,
    labels: &[u32],
    params: &[f64],
) -> Result<Vec<f64>> {
    let images = images.to_dtype(candle_core::DType::F64)?;
    let gradient_at =
        |params: &[f64]| Ok(backprop::gradient(network, params, &images, labels, TEMPERATURE)?.gradient);
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let gradient: Vec<f64> = gradient_at(params)?;
    let step = RELATIVE_STEP * norm(params) / norm(&gradient).max(f64::MIN_POSITIVE);
    let shifted = |sign: f64| -> Result<Vec<f64>> {
        gradient_at(&params.iter().zip(&gradient).map(|(p, g)| p + sign * step * g).collect::<Vec<_>>())
    };
    let (plus, minus) = (shifted(1.0)?, shifted(-1.0)?);
    let score = |((p, plus), minus): ((&f64, &f64), &f64)| -p * (plus - minus) / (2.0 * step);
    Ok(params.iter().zip(&plus).zip(&minus).map(score).collect())
}
