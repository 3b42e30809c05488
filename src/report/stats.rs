//! Means, spreads and intervals over seeds.
//!
//! Formulas: standard deviation with n − 1, two-sided Student-t interval of the mean, and the
//! paired t test, as in the NIST/SEMATECH e-Handbook of Statistical Methods, sections 1.3.5.2
//! ("Confidence Limits for the Mean") and 7.3.1 ("Do two processes have the same mean?", paired
//! observations). Quantiles come from `statrs`.

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
        let ci95_half = std.map(|std| t_quantile(n - 1) * std / (n as f64).sqrt());
        Some(Self { n, mean, std, ci95_half })
    }
}

/// The difference of two quantities measured at the same seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedTest {
    /// Number of pairs.
    pub n: usize,
    /// Mean of left − right.
    pub mean_difference: f64,
    /// Half width of the 95 % interval of the mean difference.
    pub ci95_half: f64,
    /// t statistic with n − 1 degrees of freedom; infinite or NaN if all differences are equal.
    pub t: f64,
    /// Two-sided p value of "no difference".
    pub p_value: f64,
}

impl PairedTest {
    /// Whether the interval of the mean difference leaves out zero.
    #[must_use]
    pub fn exceeds_uncertainty(&self) -> bool {
        self.mean_difference.abs() > self.ci95_half
    }
}

/// Paired t test of two series whose entries belong to the same seeds, in the same order.
///
/// `None` for fewer than two pairs.
///
/// # Panics
/// If the series have different lengths.
#[must_use]
pub fn paired_t_test(left: &[f64], right: &[f64]) -> Option<PairedTest> {
    assert_eq!(left.len(), right.len(), "pairs need equal seeds");
    let differences: Vec<f64> = left.iter().zip(right).map(|(l, r)| l - r).collect();
    let summary = Summary::of(&differences)?;
    let ci95_half = summary.ci95_half?;
    let t = summary.mean / (summary.std? / (summary.n as f64).sqrt());
    let p_value = if t.is_nan() { 1.0 } else { 2.0 * student(summary.n - 1).sf(t.abs()) };
    Some(PairedTest { n: summary.n, mean_difference: summary.mean, ci95_half, t, p_value })
}

/// Two-sided quantile of Student's t for [`CONFIDENCE`].
fn t_quantile(degrees: usize) -> f64 {
    student(degrees).inverse_cdf(0.5 + CONFIDENCE / 2.0)
}

fn student(degrees: usize) -> StudentsT {
    StudentsT::new(0.0, 1.0, degrees as f64).expect("there is at least one degree of freedom")
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
            assert!((t_quantile(degrees) - expected).abs() < TABLE_PRECISION, "{degrees} degrees");
        }
    }

    /// Oracle: by hand. Values 1, 2, 3: mean 2, std 1, half width 4.303 / sqrt(3) = 2.484.
    #[test]
    fn summary_of_three_values() {
        let s = Summary::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((s.n, s.mean, s.std), (3, 2.0, Some(1.0)));
        assert!((s.ci95_half.unwrap() - 2.484).abs() < TABLE_PRECISION);
    }

    #[test]
    fn one_value_has_no_spread_and_none_no_summary() {
        assert_eq!(Summary::of(&[4.0]), Some(Summary { n: 1, mean: 4.0, std: None, ci95_half: None }));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(paired_t_test(&[1.0], &[2.0]), None);
    }

    /// Oracle: Student's sleep data (Student, "The Probable Error of a Mean", Biometrika 1908; the
    /// data set `sleep` of R): t = −4.0621 at 9 degrees, p = 0.002833, interval (−2.4599, −0.7001).
    #[test]
    fn paired_test_on_students_sleep_data() {
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let test = paired_t_test(&first, &second).unwrap();
        assert!((test.t + 4.0621).abs() < 1e-4);
        assert!((test.p_value - 0.002_833).abs() < 1e-6);
        assert!((test.mean_difference - test.ci95_half + 2.4599).abs() < 1e-4);
        assert!((test.mean_difference + test.ci95_half + 0.7001).abs() < 1e-4);
        assert!(test.exceeds_uncertainty());
    }

    #[test]
    fn equal_differences_are_certain() {
        let same = paired_t_test(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        assert!(!same.exceeds_uncertainty());
        assert!(same.p_value > 0.999);
        let shifted = paired_t_test(&[2.0, 3.0], &[1.0, 2.0]).unwrap();
        assert!(shifted.exceeds_uncertainty());
        assert!(shifted.p_value < 1e-9);
    }
}
