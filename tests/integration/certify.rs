//! Certification by randomized smoothing. Values computed with SciPy are the oracle (`certify`, see
//! tests/golden/README.md). Another folder of such values can be tested by `DEEPZERO_GOLDEN`.

use std::path::PathBuf;

use deepzero::certify;
use serde::Deserialize;

use super::cli::golden;

/// Absolute tolerance of bounds and radii.
const BOUND: f64 = 1e-6;
/// Relative tolerance of p-values.
const P_VALUE: f64 = 1e-9;

#[derive(Deserialize)]
struct Expected {
    certify: Vec<Certify>,
    predict: Vec<Predict>,
}

#[derive(Deserialize)]
struct Certify {
    counts0: Vec<u64>,
    counts: Vec<u64>,
    n: u64,
    alpha: f64,
    sigma: f64,
    selected: usize,
    n_a: u64,
    p_a_lower: f64,
    abstain: bool,
    prediction: i64,
    radius: f64,
}

#[derive(Deserialize)]
struct Predict {
    counts: Vec<u64>,
    alpha: f64,
    n1: u64,
    n2: u64,
    p_value: f64,
    prediction: i64,
}

fn folder() -> PathBuf {
    std::env::var_os("DEEPZERO_GOLDEN").map_or_else(|| golden(""), PathBuf::from)
}

fn expected() -> Expected {
    let text = std::fs::read_to_string(folder().join("certify.expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn class(prediction: i64) -> Option<usize> {
    usize::try_from(prediction).ok()
}

#[test]
fn certificates_are_those_of_scipy() {
    let cases = expected().certify;
    assert!(!cases.is_empty());
    for case in cases {
        let found = certify::decide(&case.counts0, &case.counts, case.sigma, case.alpha);
        assert_eq!(case.counts.iter().sum::<u64>(), case.n);
        assert_eq!((found.selected, found.n_a), (case.selected, case.n_a));
        assert_eq!((found.class, found.class.is_none()), (class(case.prediction), case.abstain));
        let what = format!("{} of {} at {}", case.n_a, case.n, case.alpha);
        assert!(
            (found.p_lower - case.p_a_lower).abs() < BOUND,
            "{what}: {} {}",
            found.p_lower,
            case.p_a_lower
        );
        assert!((found.radius - case.radius).abs() < BOUND, "{what}: {} {}", found.radius, case.radius);
    }
}

#[test]
fn predictions_are_those_of_scipy() {
    let cases = expected().predict;
    assert!(!cases.is_empty());
    for case in cases {
        assert_eq!(certify::predict(&case.counts, case.alpha), class(case.prediction));
        let found = certify::p_value(case.n1, case.n2);
        let error = (found - case.p_value).abs();
        assert!(error <= P_VALUE * case.p_value, "{} and {}: {found} {}", case.n1, case.n2, case.p_value);
    }
}
