//! What counts of classes certify: Clopper-Pearson's bound, the radius, the binomial test (Cohen et al., ICML 2019).

use statrs::distribution::{Beta, ContinuousCDF, Normal};
use statrs::function::beta::beta_reg;

/// A class, and how far from the image it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// The class that most of the first copies were given; the lower one on ties.
    pub selected: usize,
    /// How many of the other copies were given it.
    pub n_a: u64,
    /// Lower bound of the probability that a copy is given it, at confidence 1 − alpha.
    pub p_lower: f64,
    /// The certified class; none if the bound is below 1/2, where the smoothed classifier abstains.
    pub class: Option<usize>,
    /// The Euclidean norm below which no change of the image changes the class; 0 without one.
    pub radius: f64,
}

/// The standard normal law.
fn normal() -> Normal {
    Normal::standard()
}

/// One-sided lower confidence bound of Clopper and Pearson (1934) for a probability, at confidence 1 − `alpha`, from
/// `n_a` successes of `n`: the `alpha` quantile of Beta(n_a, n − n_a + 1).
#[must_use]
pub fn lower_bound(n_a: u64, n: u64, alpha: f64) -> f64 {
    if n_a == 0 || n_a > n {
        return 0.0;
    }
    if n_a == n {
        return alpha.powf(1.0 / n as f64);
    }
    match Beta::new(n_a as f64, (n - n_a + 1) as f64) {
        Ok(law) => law.inverse_cdf(alpha.clamp(0.0, 1.0)),
        Err(_) => 0.0,
    }
}

/// The radius that a probability of at least `p_lower` certifies under noise of standard deviation `sigma`: sigma times
/// the normal quantile; 0 at or below 1/2.
#[must_use]
pub fn radius(sigma: f64, p_lower: f64) -> f64 {
    if p_lower > 0.5 { sigma * normal().inverse_cdf(p_lower.min(1.0)) } else { 0.0 }
}

/// The largest radius that `n` copies certify: where all of them are given one class.
#[must_use]
pub fn largest_radius(sigma: f64, n: u64, alpha: f64) -> f64 {
    radius(sigma, lower_bound(n, n, alpha))
}

/// How many copies it takes at least to certify the radius `r`.
#[must_use]
pub fn copies_needed(sigma: f64, r: f64, alpha: f64) -> f64 {
    // alpha^(1/n) ≥ Φ(r / sigma), in which ln Φ(z) = ln(1 − Φ(−z)) keeps its digits.
    (alpha.ln() / (-normal().cdf(-r / sigma)).ln_1p()).ceil().max(1.0)
}

/// What `counts0` and `counts`, by class, of the classes of noisy copies decide.
#[must_use]
pub fn decide(counts0: &[u64], counts: &[u64], sigma: f64, alpha: f64) -> Decision {
    let selected = first_most(counts0).unwrap_or(0);
    let n_a = counts.get(selected).copied().unwrap_or(0);
    let n = counts.iter().fold(0, |sum: u64, &count| sum.saturating_add(count));
    let p_lower = lower_bound(n_a, n, alpha);
    let is_certain = p_lower >= 0.5;
    Decision { selected, n_a, p_lower, class: is_certain.then_some(selected), radius: radius(sigma, p_lower) }
}

/// The class of the smoothed classifier by Cohen's prediction rule: that of most copies, if a binomial test at level
/// `alpha` tells it from the next; else none.
#[must_use]
pub fn predict(counts: &[u64], alpha: f64) -> Option<usize> {
    let best = first_most(counts)?;
    let others = counts.iter().enumerate().filter(|&(class, _)| class != best);
    let next = others.map(|(_, &count)| count).max().unwrap_or(0);
    (p_value(counts[best], next) <= alpha).then_some(best)
}

/// The two-sided binomial test of `n_1` successes and `n_2` failures at probability 1/2.
#[must_use]
pub fn p_value(n_1: u64, n_2: u64) -> f64 {
    let (more, less) = (n_1.max(n_2), n_1.min(n_2));
    if more == less {
        return 1.0;
    }
    // P(X ≥ more), twice by symmetry.
    (2.0 * beta_reg(more as f64, less as f64 + 1.0, 0.5)).min(1.0)
}

/// The first of the largest.
fn first_most(counts: &[u64]) -> Option<usize> {
    (0..counts.len()).reduce(|best, class| if counts[class] > counts[best] { class } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the values of SciPy's beta.ppf and norm.ppf at alpha = 0.001, to as many digits as are written.
    #[test]
    fn bounds_and_radii_are_those_of_scipy() {
        for (n_a, n, sigma, p_lower, r) in [
            (600, 1_000, 0.25, 0.551075, 0.03209),
            (990, 1_000, 0.25, 0.976036, 0.49450),
            (9_000, 10_000, 0.25, 0.89041, 0.30718),
            (9_900, 10_000, 0.25, 0.986531, 0.55310),
            (90, 100, 0.5, 0.77533, 0.37826),
        ] {
            let found = lower_bound(n_a, n, 0.001);
            assert!((found - p_lower).abs() < 5e-6, "{n_a} of {n}: {found}");
            assert!((radius(sigma, found) - r).abs() < 5e-6, "{n_a} of {n}: {}", radius(sigma, found));
        }
        assert!((lower_bound(55, 100, 0.001) - 0.392).abs() < 5e-4);
        for (n, sigma, r) in
            [(100, 0.25, 0.375), (1_000, 0.5, 1.232), (10_000, 1.0, 3.199), (100_000, 0.12, 0.457)]
        {
            assert!((largest_radius(sigma, n, 0.001) - r).abs() < 5e-4);
        }
    }

    /// Oracle: the definition: at the bound, as many successes or more have probability alpha.
    #[test]
    fn the_bound_is_the_quantile() {
        for n in [10u64, 1_000, 100_000, 1_000_000] {
            for share in [0.3, 0.5, 0.7, 0.99] {
                let n_a = (n as f64 * share) as u64;
                for alpha in [0.05, 0.001] {
                    let p = lower_bound(n_a, n, alpha);
                    let found = beta_reg(n_a as f64, (n - n_a + 1) as f64, p);
                    assert!((found / alpha - 1.0).abs() < 1e-4, "{n_a} of {n}: {found} {alpha}");
                }
            }
        }
    }

    /// Oracle: the bound itself, one copy fewer and as many as that.
    #[test]
    fn so_many_copies_are_needed() {
        for (sigma, r) in [(0.25, 0.75), (0.25, 0.25), (1.0, 3.0), (0.5, 0.0)] {
            let n = copies_needed(sigma, r, 0.001);
            assert!(largest_radius(sigma, n as u64, 0.001) >= r);
            assert!(lower_bound(n as u64 - 1, n as u64 - 1, 0.001) < normal().cdf(r / sigma));
        }
        assert_eq!(copies_needed(0.25, 0.75, 0.001) as u64, 5_114);
    }

    #[test]
    fn ties_go_to_the_first_class_and_one_half_is_enough() {
        assert_eq!(decide(&[0, 5, 5], &[0, 90, 10], 1.0, 0.05).selected, 1);
        // Of one copy at alpha = 1/2 the bound is 1/2.
        let found = decide(&[1, 0], &[1, 0], 1.0, 0.5);
        assert_eq!((found.class, found.radius), (Some(0), 0.0));
        let none = decide(&[1, 0], &[0, 1], 1.0, 0.5);
        assert_eq!((none.class, none.p_lower, none.radius), (None, 0.0, 0.0));
        assert_eq!(predict(&[4, 4], 0.9), None);
        assert_eq!(predict(&[], 0.9), None);
        assert!((p_value(0, 0) - 1.0).abs() < f64::EPSILON);
    }

    /// Oracle: sums of binomial coefficients.
    #[test]
    fn p_values_are_two_tails() {
        for (n_1, n_2) in [(3u64, 1u64), (7, 2), (2, 9), (12, 12), (20, 0)] {
            let n = n_1 + n_2;
            let choose = |k: u64| (1..=k).fold(1.0, |product, i| product * (n - k + i) as f64 / i as f64);
            let tail: f64 = (n_1.max(n_2)..=n).map(choose).sum::<f64>() * 0.5f64.powi(n as i32);
            assert!((p_value(n_1, n_2) / (2.0 * tail).min(1.0) - 1.0).abs() < 1e-12, "{n_1} {n_2}");
        }
    }
}
