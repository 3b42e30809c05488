//! The zeroth-order engine: an estimator proposes probes, an evaluator turns them into loss
//! differences, the estimator digests these into a gradient estimate.
//!
//! The parts know nothing of each other beyond [`Probe`]s and numbers, so that any estimator runs
//! over any evaluator: a network with feature reuse, a black box, threads.

pub mod cma_es;
mod doubt;
pub mod estimator;
pub mod evaluate;
pub mod meter;
pub mod objective;
pub mod optimizer;
pub mod probe;
pub mod sparsity;

pub use doubt::{Probing, doubt};
pub use estimator::{Estimate, Estimator, Scheme};
pub use evaluate::Evaluator;
pub use meter::{Metered, QueryCount};
pub use objective::{Base, Objective};
pub use probe::{DirectionSource, Family, Probe};

use crate::Result;
use crate::setting::Domain::Above;

crate::section! {
    /// How far a probe goes: of estimates, and of ZO-GraSP's scores.
    pub struct Smoothing {
        /// Smoothing parameter μ (ZO).
        pub mu: f64 = 5e-3 => Above(0.0, f64::INFINITY),
    }
}

/// One gradient estimate: ask, evaluate, tell.
///
/// ```
/// use deepzero::zo::evaluate::{self, EvaluatorKind};
/// use deepzero::zo::{self, estimator::Cge, Metered, Objective, QueryCount};
///
/// struct Bowl;
/// impl Objective for Bowl {
///     fn n_coords(&self) -> usize { 2 }
///     fn loss(&self, params: &[f64]) -> deepzero::Result<f64> {
///         Ok(params[0].powi(2) + 3.0 * params[1].powi(2))
///     }
/// }
///
/// let count = QueryCount::default();
/// let bowl = Metered::new(&Bowl, &count);
/// let evaluator = evaluate::at(&bowl, EvaluatorKind::Full, &[1.0, 1.0])?;
/// let cge = Cge::dense(2, 1e-6, deepzero::zo::Scheme::Central);
/// let gradient = zo::estimate(&cge, &evaluator)?.gradient;
/// assert!((gradient[0] - 2.0).abs() < 1e-6 && (gradient[1] - 6.0).abs() < 1e-6);
/// assert_eq!(count.queries(), 5);
/// # Ok::<(), deepzero::Error>(())
/// ```
///
/// # Errors
/// If a query fails.
pub fn estimate(estimator: &dyn Estimator, evaluator: &dyn Evaluator) -> Result<Estimate> {
    let probes = estimator.ask();
    let differences = evaluator.differences(&probes)?;
    Ok(estimator.tell(&differences))
}
