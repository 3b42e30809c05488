//! SGD with momentum: m ← β m + g, θ ← θ − η m, as in PyTorch.

use super::{Moments, Now, Rule};

/// `optimizer = sgd`.
#[derive(Debug)]
pub struct Sgd;

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn step(&self, slope: f64, moments: &mut Moments, now: &Now) -> f64 {
        moments.first = now.momentum * moments.first + slope;
        now.rate * moments.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zo::optimizer::Optimizer;

    /// Oracle: two steps by hand: lr 0.1, momentum 0.9, weight decay 0.5, θ = 1, g = 1, 2.
    #[test]
    fn sgd_by_hand() {
        let mut sgd = Optimizer::new(&Sgd, 0.9, 0.5, 1);
        let mut params = [1.0];
        sgd.step(&mut params, &[1.0], 0.1, None);
        assert!((params[0] - 0.85).abs() < 1e-15);
        sgd.step(&mut params, &[2.0], 0.1, None);
        let momentum = 0.9 * 1.5 + 2.0 + 0.5 * 0.85;
        assert!((params[0] - (0.85 - 0.1 * momentum)).abs() < 1e-15);
    }
}
