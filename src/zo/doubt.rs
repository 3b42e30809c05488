//! Estimates that can hardly be right, whatever they are for: those of a smoothing parameter μ that is out of the range
//! of the arithmetic.

use super::Estimate;

/// Why `estimate` over the coordinates `active` can hardly be right, if so, in words for a user.
///
/// `loss` is that of the point and `mu` the smoothing parameter. `resolution` is the unit roundoff of losses that are
/// subtracted from each other, for estimates of single coordinates; `None` where no losses are subtracted, or where
/// many estimates are averaged.
#[must_use]
pub fn doubt(
    estimate: &Estimate,
    active: &[usize],
    loss: f64,
    mu: f64,
    resolution: Option<f64>,
) -> Option<String> {
    if active.is_empty() {
        return None;
    }
    // Stateful estimators ask for some of the coordinates at a time.
    let values = active.iter().map(|&coord| estimate.gradient[coord]).filter(|value| *value != 0.0);
    let (n, squares) = values.fold((0_u32, 0.0), |(n, sum), value| (n + 1, sum + value * value));
    if n == 0 {
        return Some(match estimate.n_left_out {
            0 => format!(
                "the estimate is zero: no probe changed the loss; either mu = {mu} is too small for the arithmetic, or \
                 the loss does not depend on these parameters"
            ),
            n => format!(
                "the estimate is zero: the loss of {n} probes is NaN or infinite, and no other probe changed it; \
                 mu = {mu} does not suit these parameters"
            ),
        });
    }
    let rms = (squares / f64::from(n)).sqrt();
    let error = resolution? * loss.abs() / mu;
    (error >= rms).then(|| {
        format!(
            "mu = {mu} is too small to subtract losses: rounding a loss of {loss:.3} alone makes errors near {error:.1e} \
             in estimates near {rms:.1e}; use a larger mu, evaluator = difference or precision = f64"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(gradient: &[f64], n_left_out: usize, mu: f64, resolution: Option<f64>) -> String {
        let estimate = Estimate { gradient: gradient.to_vec(), n_left_out };
        doubt(&estimate, &[0, 2], 2.0, mu, resolution).unwrap_or_default()
    }

    /// Oracle: arithmetic. Rounding errors of 2^-23 times 2 over μ, beside estimates of 1e-3.
    #[test]
    fn what_rounding_or_zeros_leave_is_doubted() {
        let single = Some(f64::from(f32::EPSILON));
        assert_eq!(of(&[1e-3, 0.0, 1e-3], 0, 1e-3, single), "");
        assert!(of(&[1e-3, 0.0, 1e-3], 0, 1e-4, single).contains("errors near 2.4e-3"));
        assert_eq!(of(&[1e-3, 0.0, 1e-3], 0, 1e-4, None), "");
        // Only what is estimated counts.
        assert!(of(&[0.0, 5.0, 0.0], 0, 1e-3, None).contains("no probe changed the loss"));
        assert!(of(&[0.0, 5.0, 0.0], 7, 1e300, None).contains("loss of 7 probes is NaN"));
        let nothing = Estimate { gradient: vec![0.0], n_left_out: 0 };
        assert_eq!(doubt(&nothing, &[], 2.0, 1e-3, single), None);
    }
}
