//! How many seeds a difference needs: the noncentral t distribution and the power of the rules in [`decide`](super::decide).
//!
//! T with ν degrees of freedom and noncentrality δ is (Z + δ)/U with Z standard normal and U² chi-squared over ν,
//! independent (Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions", volume 2, chapter 31). So P(T ≤ c)
//! is the mean of Φ(c·U − δ), which Simpson's rule integrates over the density of U.

use statrs::function::erf::erfc;
use statrs::function::gamma::ln_gamma;

use super::stats::t_quantile;

/// Probability with which a difference is to be seen.
pub const POWER: f64 = 0.8;

/// More seeds than this are not asked for.
const MAX_SEEDS: usize = 10_000;

/// Intervals of Simpson's rule.
const N_INTERVALS: usize = 400;

/// P(T ≤ `value`) for Student's t with `degrees` of freedom and the given noncentrality.
#[must_use]
pub fn noncentral_t_cdf(value: f64, degrees: usize, noncentrality: f64) -> f64 {
    let degrees = degrees as f64;
    // U is within ten of its standard deviations of 1, which is at most 1/√(2ν), and its density falls like exp(−νu²/2).
    let reach = 10.0 / (2.0 * degrees).sqrt();
    let (low, high) = ((1.0 - reach).max(0.0), 1.0 + reach);
    let ln_scale = 2f64.ln() + 0.5 * degrees * (0.5 * degrees).ln() - ln_gamma(0.5 * degrees);
    let integrand = |u: f64| {
        let density = match u > 0.0 {
            true => (ln_scale + (degrees - 1.0) * u.ln() - 0.5 * degrees * u * u).exp(),
            // Only with one degree is there a density at 0.
            false if degrees < 1.5 => ln_scale.exp(),
            false => 0.0,
        };
        density * normal_cdf(value * u - noncentrality)
    };
    let step = (high - low) / N_INTERVALS as f64;
    let inner: f64 = (1..N_INTERVALS)
        .map(|idx| if idx % 2 == 0 { 2.0 } else { 4.0 } * integrand(low + idx as f64 * step))
        .sum();
    ((integrand(low) + inner + integrand(high)) * step / 3.0).clamp(0.0, 1.0)
}

fn normal_cdf(value: f64) -> f64 {
    0.5 * erfc(-value / std::f64::consts::SQRT_2)
}

/// What a check asks of the mean of `n` values, when their true mean is a distance away from its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// Beyond a limit, by this much.
    Beyond(f64),
    /// Between two limits, by this much from either.
    Between(f64, f64),
}

impl Aim {
    /// Probability that `n` values with this spread confirm it. Between two limits it is a lower bound: what two tests
    /// miss is at most what each of them misses.
    #[must_use]
    pub fn power(self, spread: f64, n: usize) -> f64 {
        if n < 3 {
            return 0.0;
        }
        let passes = |distance: f64, probability: f64| match spread > 0.0 {
            true => {
                let noncentrality = distance * (n as f64).sqrt() / spread;
                1.0 - noncentral_t_cdf(t_quantile(probability, (n - 1) as f64), n - 1, noncentrality)
            }
            false => f64::from(u8::from(distance > 0.0)),
        };
        match self {
            Self::Beyond(distance) => passes(distance, 0.975),
            Self::Between(low, high) => (passes(low, 0.95) + passes(high, 0.95) - 1.0).max(0.0),
        }
    }

    fn is_possible(self) -> bool {
        match self {
            Self::Beyond(distance) => distance > 0.0,
            Self::Between(low, high) => low > 0.0 && high > 0.0,
        }
    }
}

/// The fewest seeds at which everything aimed at, each with its spread, is confirmed together with probability
/// [`POWER`] at least; `None` where no number of seeds is enough, or none below ten thousand. What is missed together is
/// at most the sum of what each misses.
#[must_use]
pub fn seeds_needed(aims: &[(Aim, f64)]) -> Option<usize> {
    if aims.iter().any(|(aim, _)| !aim.is_possible()) {
        return None;
    }
    let missed = |n: usize| aims.iter().map(|(aim, spread)| 1.0 - aim.power(*spread, n)).sum::<f64>();
    let is_enough = |n: usize| missed(n) <= 1.0 - POWER;
    let mut enough = 3;
    while !is_enough(enough) {
        enough *= 2;
        if enough > MAX_SEEDS {
            return None;
        }
    }
    let mut too_few = 2;
    while enough - too_few > 1 {
        let middle = usize::midpoint(too_few, enough);
        if is_enough(middle) { enough = middle } else { too_few = middle }
    }
    Some(enough)
}

/// The distance beyond a limit that `n` values with this spread show with probability [`POWER`]; `None` for fewer than
/// three.
#[must_use]
pub fn seen_distance(spread: f64, n: usize) -> Option<f64> {
    if n < 3 {
        return None;
    }
    if spread <= 0.0 {
        return Some(0.0);
    }
    let (quantile, root) = (t_quantile(0.975, (n - 1) as f64), (n as f64).sqrt());
    let is_seen = |in_spreads: f64| 1.0 - noncentral_t_cdf(quantile, n - 1, in_spreads * root) >= POWER;
    let (mut low, mut high) = (0.0, 1.0);
    while !is_seen(high) {
        high *= 2.0;
    }
    for _ in 0..25 {
        let middle = f64::midpoint(low, high);
        if is_seen(middle) { high = middle } else { low = middle }
    }
    Some(high * spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: with no noncentrality it is Student's t, whose distribution function is known in closed form at one and
    /// two degrees of freedom.
    #[test]
    fn without_noncentrality_it_is_students() {
        for value in [-3.0, -0.5, 0.0, 1.0, 4.303, 12.706] {
            let one = 0.5 + f64::atan(value) / std::f64::consts::PI;
            assert!((noncentral_t_cdf(value, 1, 0.0) - one).abs() < 1e-6, "{value}");
            let two = 0.5 + value / (2.0 * (2.0 + value * value).sqrt());
            assert!((noncentral_t_cdf(value, 2, 0.0) - two).abs() < 1e-6, "{value}");
        }
    }

    /// Oracle: at 0 it is Φ(−δ), whatever the degrees.
    #[test]
    fn at_zero_it_is_normal() {
        for (degrees, noncentrality) in [(1, 0.7), (2, 1.5), (19, 2.0), (200, -1.0)] {
            let found = noncentral_t_cdf(0.0, degrees, noncentrality);
            assert!((found - normal_cdf(-noncentrality)).abs() < 1e-7, "{degrees} {noncentrality}: {found}");
        }
    }

    /// Oracle: the documentation of R's `power.t.test`: two samples of 20, a difference of one standard deviation, level
    /// 0.05 (two-sided): power 0.8689528.
    #[test]
    fn power_of_a_documented_example() {
        let power = 1.0 - noncentral_t_cdf(t_quantile(0.975, 38.0), 38, 10f64.sqrt());
        assert!((power - 0.868_952_8).abs() < 1e-6, "{power}");
    }

    /// Oracle: the definition; one seed fewer is not enough, and what is not there needs no end of seeds.
    #[test]
    fn seeds_are_the_fewest() {
        let aims = [(Aim::Beyond(1.0), 1.2), (Aim::Between(2.0, 3.0), 1.0)];
        let n = seeds_needed(&aims).unwrap();
        let missed =
            |n| aims.iter().map(|(aim, spread): &(Aim, f64)| 1.0 - aim.power(*spread, n)).sum::<f64>();
        assert!(missed(n) <= 0.2 && missed(n - 1) > 0.2, "{n}");
        assert_eq!(seeds_needed(&[(Aim::Beyond(-0.1), 1.0)]), None);
        assert_eq!(seeds_needed(&[(Aim::Beyond(1e-9), 1.0)]), None);
        assert_eq!(seeds_needed(&[(Aim::Beyond(1.0), 0.0)]), Some(3));
        let seen = seen_distance(2.0, 5).unwrap();
        assert!((Aim::Beyond(seen).power(2.0, 5) - 0.8).abs() < 1e-6);
        assert_eq!(seen_distance(2.0, 2), None);
    }
}
