//! Means, spreads and intervals over seeds.
//!
//! Formulas: standard deviation with n − 1 and two-sided Student-t interval of the mean, as in the NIST/SEMATECH
//! e-Handbook of Statistical Methods, section 1.3.5.2 ("Confidence Limits for the Mean"). Quantiles come from `statrs`.
//! Intervals of what cannot be below 0 or above 100 % are made where there are no such ends, on logarithms or logits, to
//! first order in the error of the mean.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Probability that the intervals cover.
pub const CONFIDENCE: f64 = 0.95;

/// One quantity measured at several seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Number of values.
    pub n: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation with n − 1; `None` for a single value.
    pub std: Option<f64>,
    /// Half width of the 95 % Student-t interval of the mean; `None` for a single value.
    pub ci95_half: Option<f64>,
}

impl Summary {
    /// Summarizes `values`; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let std = (n > 1).then(|| {
            let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
            (squares / (n - 1) as f64).sqrt()
        });
        let ci95_half = std.map(|std| two_sided(n - 1) * std / (n as f64).sqrt());
        Some(Self { n, mean, std, ci95_half })
    }
}

/// Two-sided quantile of Student's t for [`CONFIDENCE`].
fn two_sided(degrees: usize) -> f64 {
    t_quantile(0.5 + CONFIDENCE / 2.0, degrees as f64)
}

/// Quantile of Student's t.
pub(super) fn t_quantile(probability: f64, degrees: f64) -> f64 {
    student(degrees).inverse_cdf(probability)
}

/// Probability that Student's t is larger than `value`.
pub(super) fn t_tail(value: f64, degrees: f64) -> f64 {
    student(degrees).sf(value)
}

fn student(degrees: f64) -> StudentsT {
    StudentsT::new(0.0, 1.0, degrees).expect("there is at least one degree of freedom")
}

/// Where values of a quantity can lie, and so its intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Anywhere.
    Free,
    /// From 0 to 100.
    Percent,
    /// From 0 up.
    Positive,
}

impl Range {
    /// The value on a line without ends: its logit, its logarithm, itself. What lies at an end or beyond is infinitely far.
    #[must_use]
    pub fn on_line(self, value: f64) -> f64 {
        match self {
            Self::Free => value,
            Self::Percent if value <= 0.0 => f64::NEG_INFINITY,
            Self::Percent if value >= 100.0 => f64::INFINITY,
            Self::Percent => (value / (100.0 - value)).ln(),
            Self::Positive if value <= 0.0 => f64::NEG_INFINITY,
            Self::Positive => value.ln(),
        }
    }

    /// The value at a place on that line.
    pub(super) fn off_line(self, place: f64) -> f64 {
        match self {
            Self::Free => place,
            Self::Percent => 100.0 / (1.0 + (-place).exp()),
            Self::Positive => place.exp(),
        }
    }

    /// How much faster the line is passed than the values, at `value`.
    #[must_use]
    pub fn rate(self, value: f64) -> f64 {
        match self {
            Self::Free => 1.0,
            Self::Percent => 100.0 / (value * (100.0 - value)),
            Self::Positive => 1.0 / value,
        }
    }

    /// The interval around a mean that has this half width where there are no ends: made on the line and brought back, so
    /// that it stays within the range. A mean at an end has none to bring back.
    #[must_use]
    pub fn interval(self, mean: f64, half: f64) -> (f64, f64) {
        let (place, width) = (self.on_line(mean), half * self.rate(mean));
        match place.is_finite() && width.is_finite() {
            true => (self.off_line(place - width), self.off_line(place + width)),
            false => (mean, mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The printed values have three decimals.
    const TABLE_PRECISION: f64 = 5e-4;

    /// Oracle: NIST/SEMATECH e-Handbook, table 1.3.6.7.2 (critical values of t), column 0.975.
    #[test]
    fn t_quantiles_match_the_printed_table() {
        for (degrees, expected) in
            [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (100, 1.984)]
        {
            assert!((two_sided(degrees) - expected).abs() < TABLE_PRECISION, "{degrees} degrees");
        }
    }

    /// Oracle: by hand. Values 1, 2, 3: mean 2, std 1, half width 4.303 / sqrt(3) = 2.484.
    #[test]
    fn summary_of_three_values() {
        let s = Summary::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((s.n, s.mean, s.std), (3, 2.0, Some(1.0)));
        assert!((s.ci95_half.unwrap() - 2.484).abs() < TABLE_PRECISION);
    }

    /// Oracle: logit(50 %) = 0 and its rate there 4 / 100, so that 50 ± 25 becomes 100 / (1 + e^∓1); ln 2 ± 1.
    #[test]
    fn intervals_stay_within_their_range() {
        let (low, high) = Range::Percent.interval(50.0, 25.0);
        assert!((low - 26.894_142).abs() < 1e-6 && (high - 73.105_858).abs() < 1e-6, "{low} {high}");
        let (low, high) = Range::Positive.interval(2.0, 2.0);
        let e = std::f64::consts::E;
        assert!((low - 2.0 / e).abs() < 1e-12 && (high - 2.0 * e).abs() < 1e-12, "{low} {high}");
        assert_eq!(Range::Free.interval(2.0, 3.0), (-1.0, 5.0));
        for (range, mean, end) in
            [(Range::Percent, 99.9, 100.0), (Range::Percent, 100.0, 100.0), (Range::Positive, 1e9, f64::MAX)]
        {
            let (low, high) = range.interval(mean, 50.0);
            assert!(low >= 0.0 && low <= mean && high >= mean && high <= end, "{low} {high}");
        }
    }

    #[test]
    fn one_value_has_no_spread_and_none_no_summary() {
        assert_eq!(Summary::of(&[4.0]), Some(Summary { n: 1, mean: 4.0, std: None, ci95_half: None }));
        assert_eq!(Summary::of(&[]), None);
    }
}
