//! Estimates that can hardly be right, whatever they are for: those of a smoothing parameter μ that is out of the range
//! of the arithmetic.

use super::Estimate;

/// How an estimate was made.
#[derive(Debug, Clone, Copy)]
pub struct Probing {
    /// Smoothing parameter μ.
    pub mu: f64,
    /// Unit roundoff of parameters and losses; `None` where changes are propagated, and nothing is subtracted.
    pub resolution: Option<f64>,
    /// Whether each number of the estimate comes from losses of its own, rather than from an average of many.
    pub moves_coordinates: bool,
}

/// Why `estimate` over the coordinates `active` can hardly be right, if so, in words for a user.
///
/// `params` (d) are the point, `loss` is its loss.
#[must_use]
pub fn doubt(
    estimate: &Estimate,
    active: &[usize],
    params: &[f64],
    loss: f64,
    probing: Probing,
) -> Option<String> {
    let Probing { mu, resolution, moves_coordinates } = probing;
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
    let resolution = resolution?;
    // Half the distance to the next number is at least a quarter of the unit roundoff.
    let is_lost = |coord: &&usize| mu < resolution / 4.0 * params[**coord].abs();
    let n_lost = active.iter().filter(is_lost).count();
    if 2 * n_lost > active.len() {
        let n = active.len();
        return Some(format!(
            "mu = {mu} is too small: added to {n_lost} of {n} parameters it is rounded away; use a larger mu or \
             precision = f64"
        ));
    }
    let rms = (squares / f64::from(n)).sqrt();
    let error = resolution * loss.abs() / mu;
    (moves_coordinates && error >= rms).then(|| {
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
        let estimate = Estimate::new(gradient.to_vec(), n_left_out);
        let probing = Probing { mu, resolution, moves_coordinates: true };
        doubt(&estimate, &[0, 2], &[0.0; 3], 2.0, probing).unwrap_or_default()
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
        let nothing = Estimate::new(vec![0.0], 0);
        let probing = Probing { mu: 1e-3, resolution: single, moves_coordinates: true };
        assert_eq!(doubt(&nothing, &[], &[0.0], 2.0, probing), None);
    }

    /// Oracle: single precision itself.
    #[test]
    fn steps_that_are_rounded_away_are_doubted() {
        let estimate = Estimate::new(vec![1.0; 3], 0);
        let params = [1.0, -2.0, 1e-3];
        for (mu, n_lost) in [(1e-9_f64, 2), (1e-12, 3), (1e-6, 0)] {
            let is_lost = |p: &&f64| ((**p + mu) as f32).to_bits() == (**p as f32).to_bits();
            assert_eq!(params.iter().filter(is_lost).count(), n_lost);
            let resolution = Some(f64::from(f32::EPSILON));
            let found = doubt(
                &estimate,
                &[0, 1, 2],
                &params,
                2.0,
                Probing { mu, resolution, moves_coordinates: false },
            );
            let expected = format!("added to {n_lost} of 3 parameters");
            assert_eq!(found.is_some_and(|text| text.contains(&expected)), n_lost > 0, "{mu}");
        }
    }
}
