//! Adam (Kingma and Ba, 2015): m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², and with m̂ = m / (1 − β₁ᵗ),
//! v̂ = v / (1 − β₂ᵗ) at step t, θ ← θ − η m̂ / (√v̂ + ε).

use super::{EPSILON, Moments, Now, Rule, SECOND_DECAY};

/// `optimizer = adam`.
#[derive(Debug)]
pub struct Adam;

impl Rule for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn has_second(&self) -> bool {
        true
    }

    fn step(&self, slope: f64, moments: &mut Moments, now: &Now) -> f64 {
        let Moments { first, second } = moments;
        *first = now.momentum * *first + (1.0 - now.momentum) * slope;
        *second = SECOND_DECAY * *second + (1.0 - SECOND_DECAY) * slope * slope;
        let scale = (*second / now.second_weight).sqrt() + EPSILON;
        now.rate * (*first / now.first_weight) / scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zo::optimizer::Optimizer;

    /// Oracle: the first step moves by lr · sign(g), up to ε (Kingma and Ba, Sec. 2.1).
    #[test]
    fn adam_first_step_is_the_learning_rate() {
        let mut adam = Optimizer::new(&Adam, 0.9, 0.0, 2);
        let mut params = [0.0, 0.0];
        adam.step(&mut params, &[3.0, -0.01], 0.1, None);
        assert!((params[0] + 0.1).abs() < 1e-6 && (params[1] - 0.1).abs() < 1e-6, "{params:?}");
    }
}
