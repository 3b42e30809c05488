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
use crate::params::Layout;
use crate::rng::Purpose;
use crate::zo::Scheme;
use crate::zo::estimator::Rge;
use crate::zo::evaluate::{self, Evaluator, EvaluatorKind};
use crate::zo::probe::Directions;
use crate::zo::{DirectionSource, Estimate, Estimator, Metered};

/// Form of ZO-GraSP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraspForm {
    /// Gaussian directions over the whole vector, as in the paper.
    Paper,
    /// One unit direction per convolution and linear weight tensor, as in the released code.
    Released,
}

/// How ZO-GraSP scores.
#[derive(Debug, Clone, Copy)]
pub struct ZoGrasp {
    /// Which of the two forms.
    pub form: GraspForm,
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
pub fn zo_scores(
    how: &ZoGrasp,
    layout: &Layout,
    objective: &Metered,
    params: &[f64],
    make: &MakeEstimate,
) -> Result<Vec<f64>> {
    let ZoGrasp { form, mu, n_dirs, seed, draw } = *how;
    let (law, coords): (_, Arc<[usize]>) = match form {
        GraspForm::Paper => (Directions::Gaussian, (0..layout.n_coords()).collect()),
        GraspForm::Released => {
            (Directions::PerTensor, super::prunable(layout).flat_map(|idx| layout.range(idx)).collect())
        }
    };
    let gradient_at = |params: &[f64], step: u32| -> Result<Vec<f64>> {
        let source = DirectionSource::new(law, seed, Purpose::Grasp, step, coords.clone(), Some(layout));
        let rge = Rge::new(layout.n_coords(), Arc::new(source), n_dirs, mu, Scheme::Forward);
        Ok(make(&rge, &evaluate::at(objective, EvaluatorKind::Full, params)?)?.gradient)
    };
    let gradient = gradient_at(params, 2 * draw)?;
    let moved: Vec<f64> = params.iter().zip(&gradient).map(|(p, g)| p + mu * g).collect();
    let gradient_moved = gradient_at(&moved, 2 * draw + 1)?;
    let score = |((p, g), moved): ((&f64, &f64), &f64)| -p * (moved - g) / mu;
    Ok(params.iter().zip(&gradient).zip(&gradient_moved).map(score).collect())
}
