//! R-AdaZO (Shu et al., ICML 2025, arXiv 2502.01014), Adam for noisy estimates: the second moment is fed by the first,
//! whose variance is lower, instead of by the estimate.
//!
//! m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) m², θ ← θ − η m / (√v + ε), with neither moment corrected for its start
//! at zero. That is the released code; the paper has √(v + ε). Released defaults: β₁ = 0.9, β₂ = 0.999, ε = 1e-8,
//! η = 1e-3, estimates of two unit directions per tensor with μ = 5e-3. Any estimate can be fed to it; as a whole it is
//! `method = rge` with `directions = per-tensor`, `queries = 2`, `optimizer = r-adazo` and no weight decay. (A factor
//! on all estimates cancels, but for ε: that `per-tensor` leaves out the division by μ is seen where √v is not far
//! above 1e-8.)

use super::{EPSILON, Moments, Now, Rule, SECOND_DECAY};

/// `optimizer = r-adazo`.
#[derive(Debug)]
pub struct RAdaZo;

impl Rule for RAdaZo {
    fn name(&self) -> &'static str {
        "r-adazo"
    }

    fn has_second(&self) -> bool {
        true
    }

    fn step(&self, slope: f64, moments: &mut Moments, now: &Now) -> f64 {
        let Moments { first, second } = moments;
        *first = now.momentum * *first + (1.0 - now.momentum) * slope;
        *second = SECOND_DECAY * *second + (1.0 - SECOND_DECAY) * *first * *first;
        now.rate * *first / (second.sqrt() + EPSILON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zo::optimizer::Optimizer;

    /// Oracle: by hand. The first step is lr / √(1 − β₂) whatever the slope, the second has
    /// m = 0.09 + 0.2 = 0.29 of slopes 1 and 2, and v = 0.001 (0.999 · 0.01 + 0.0841).
    #[test]
    fn r_adazo_by_hand() {
        let mut rule = Optimizer::new(&RAdaZo, 0.9, 0.0, 1);
        let mut params = [0.0];
        rule.step(&mut params, &[1.0], 0.01, None);
        assert!((params[0] + 0.01 / 0.001_f64.sqrt()).abs() < 1e-5, "{params:?}");
        let before = params[0];
        rule.step(&mut params, &[2.0], 0.01, None);
        let second: f64 = 0.001 * (0.999 * 0.01 + 0.0841);
        assert!((params[0] - before + 0.01 * 0.29 / (second.sqrt() + 1e-8)).abs() < 1e-12, "{params:?}");
    }
}
