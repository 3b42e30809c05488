//! Seconds of repeated runs.

use std::time::Instant;

use crate::Result;

/// Seconds of several runs of the same work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The fastest run.
    pub min: f64,
    /// The slowest run: far from the median when something else used the machine.
    pub max: f64,
}

impl Seconds {
    /// Summary of `runs`, of which there is at least one.
    pub(crate) fn of(mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        let n = runs.len();
        Self { median: 0.5 * (runs[(n - 1) / 2] + runs[n / 2]), min: runs[0], max: runs[n - 1] }
    }

    /// Seconds of `repeats` runs of `work`, after one that does not count.
    pub(crate) fn of_repeated(repeats: usize, mut work: impl FnMut() -> Result<()>) -> Result<Self> {
        work()?;
        let runs = (0..repeats).map(|_| Ok(timed(&mut work)?.1)).collect::<Result<_>>()?;
        Ok(Self::of(runs))
    }
}

/// What `work` returns, and its seconds.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = Instant::now();
    let value = work()?;
    Ok((value, start.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the definition of the median.
    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(Seconds::of(vec![3.0, 1.0, 2.0]), Seconds { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Seconds::of(vec![4.0, 1.0, 2.0, 3.0]), Seconds { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Seconds::of(vec![5.0]), Seconds { median: 5.0, min: 5.0, max: 5.0 });
    }
}
