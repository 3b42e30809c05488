//! When a check is confirmed, when contradicted, and when neither: `docs/METHODOLOGY.md` has the table.
//!
//! Everything here is about means of values that seeds have in common. To be confirmed, a check has to hold at every
//! position at its own level, so that confirming at all of them needs no correction (Berger, "Multiparameter hypothesis
//! testing and acceptance sampling", Technometrics 1982; for equivalence Schuirmann, J. Pharmacokin. Biopharm. 1987). To be
//! contradicted, it has to fail at some position, where the level is divided by their number (Bonferroni), and over the
//! checks of an experiment by Holm's procedure (Scand. J. Statist. 1979).

use super::stats::{t_quantile, t_tail};

/// Error of each side of what is contradicted, and of what is confirmed to lie beyond a limit.
pub const LEVEL: f64 = 0.025;
/// Error of each side of what is confirmed to lie between two limits.
const LEVEL_BETWEEN: f64 = 0.05;
/// Fewer common seeds than this decide nothing.
pub const MIN_SEEDS: usize = 3;

/// A mean over seeds, with what is known of its error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Seeds.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of one value; with n − 1, unless it comes from a layout of more series.
    pub spread: f64,
    /// Degrees of freedom of the spread.
    pub degrees: f64,
}

impl Estimate {
    /// Of the values of common seeds. Of fewer than two the spread is not a number, of none the mean as well.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let summary = super::stats::Summary::of(values);
        let (n, mean) = summary.map_or((0, f64::NAN), |summary| (summary.n, summary.mean));
        let spread = summary.and_then(|summary| summary.std).unwrap_or(f64::NAN);
        Self { n, mean, spread, degrees: n.saturating_sub(1) as f64 }
    }

    /// Standard error of the mean.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.spread / (self.n as f64).sqrt()
    }

    /// Half width of the interval that leaves out `tail` on each side.
    #[must_use]
    pub fn half(&self, tail: f64) -> f64 {
        let error = self.error();
        // What is not a number stays none.
        if error > 0.0 && error.is_finite() { t_quantile(1.0 - tail, self.degrees) * error } else { error }
    }

    /// Probability of a mean as low as this one or lower, if the true one is `limit`.
    fn p_below(&self, limit: f64) -> f64 {
        let (distance, error) = (limit - self.mean, self.error());
        if !(distance.is_finite() && error.is_finite()) {
            return 1.0;
        }
        match error > 0.0 {
            true => t_tail(distance / error, self.degrees),
            // Without any spread it is certain, but for rounding.
            false => f64::from(u8::from(distance <= ROUNDING * limit.abs().max(1.0))),
        }
    }
}

/// Values that differ by less than this, relatively, are equal.
const ROUNDING: f64 = 1e-12;

/// What a check asks of a mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Demand {
    /// To be above this.
    Above(f64),
    /// To be between these; infinite ones are no limits.
    Between(f64, f64),
}

/// What became of a demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The interval lies where it should.
    Confirmed,
    /// The interval lies where it should not.
    Contradicted,
    /// Neither.
    Undecided,
}

impl Demand {
    fn is_confirmed(self, estimate: &Estimate) -> bool {
        match self {
            Self::Above(limit) => estimate.mean - estimate.half(LEVEL) > limit,
            Self::Between(low, high) => {
                let half = estimate.half(LEVEL_BETWEEN);
                estimate.mean - half > low && estimate.mean + half < high
            }
        }
    }

    /// Probability of a mean as far on the wrong side, if the true one is just on the right one.
    fn p_against(self, estimate: &Estimate) -> f64 {
        match self {
            Self::Above(limit) => estimate.p_below(limit),
            Self::Between(low, high) => {
                let mirrored = Estimate { mean: -estimate.mean, ..*estimate };
                let sides = [(low, estimate), (-high, &mirrored)];
                let p = sides
                    .iter()
                    .filter(|(limit, _)| limit.is_finite())
                    .map(|(limit, one)| one.p_below(*limit));
                p.fold(1.0, f64::min)
            }
        }
    }
}

/// A decision over the positions of a check.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Over all positions, as if it were the only check.
    pub decision: Decision,
    /// At each position, contradictions with the correction for their number.
    pub each: Vec<Decision>,
    /// Probability of so strong a contradiction at some position if the check holds at all; 1 if nothing can be decided.
    pub p_against: f64,
}

/// Decides a check from its estimates and what is asked of each. Fewer than [`MIN_SEEDS`] seeds anywhere decide nothing
/// there.
#[must_use]
pub fn decide(asked: &[(Estimate, Demand)]) -> Judgement {
    let n_positions = asked.len() as f64;
    let p_at = |(estimate, demand): &(Estimate, Demand)| match estimate.n >= MIN_SEEDS {
        true => (n_positions * demand.p_against(estimate)).min(1.0),
        false => 1.0,
    };
    let decided = |one: &(Estimate, Demand)| match one {
        _ if p_at(one) < LEVEL => Decision::Contradicted,
        (estimate, demand) if estimate.n >= MIN_SEEDS && demand.is_confirmed(estimate) => Decision::Confirmed,
        _ => Decision::Undecided,
    };
    let each: Vec<Decision> = asked.iter().map(decided).collect();
    let decision = if each.contains(&Decision::Contradicted) {
        Decision::Contradicted
    } else if each.is_empty() || each.contains(&Decision::Undecided) {
        Decision::Undecided
    } else {
        Decision::Confirmed
    };
    Judgement { decision, each, p_against: asked.iter().map(p_at).fold(1.0, f64::min) }
}

/// Which of several probabilities are below [`LEVEL`] after Holm's correction for their number.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut is_below = vec![false; p_values.len()];
    for (rank, idx) in order.into_iter().enumerate() {
        if p_values[idx] * ((p_values.len() - rank) as f64) >= LEVEL {
            break;
        }
        is_below[idx] = true;
    }
    is_below
}

/// The slope of the least-squares line through `ys` over `xs`; `None` if all x are one.
#[must_use]
pub fn slope(xs: &[f64], ys: &[f64]) -> Option<f64> {
    let n = xs.len() as f64;
    let (x_mean, y_mean) = (xs.iter().sum::<f64>() / n, ys.iter().sum::<f64>() / n);
    let squares: f64 = xs.iter().map(|x| (x - x_mean).powi(2)).sum();
    let products: f64 = xs.iter().zip(ys).map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    (squares > 0.0).then(|| products / squares)
}

/// The spread of a difference of two series from the residuals of the two-way layout, series by seeds, and its degrees of
/// freedom: `None` for fewer than three series or two seeds. `values` has a row of equal length for each series.
#[must_use]
pub fn layout_spread(values: &[Vec<f64>]) -> Option<(f64, f64)> {
    let (n_series, n_seeds) = (values.len(), values.first()?.len());
    if n_series < 3 || n_seeds < 2 {
        return None;
    }
    let mean = |all: &mut dyn Iterator<Item = f64>, n: usize| all.sum::<f64>() / n as f64;
    let rows: Vec<f64> = values.iter().map(|row| mean(&mut row.iter().copied(), n_seeds)).collect();
    let columns: Vec<f64> =
        (0..n_seeds).map(|seed| mean(&mut values.iter().map(|row| row[seed]), n_series)).collect();
    let all = mean(&mut rows.iter().copied(), n_series);
    let mut squares = 0.0;
    for (row, row_mean) in values.iter().zip(&rows) {
        for (value, column_mean) in row.iter().zip(&columns) {
            squares += (value - row_mean - column_mean + all).powi(2);
        }
    }
    let degrees = ((n_series - 1) * (n_seeds - 1)) as f64;
    // Two independent residuals make a difference.
    Some(((2.0 * squares / degrees).sqrt(), degrees))
}

#[cfg(test)]
mod tests {
    use super::super::power::{Aim, seeds_needed};
    use super::*;
    use crate::rng::{Purpose, Stream};

    /// Experiments drawn for each probability that is estimated.
    const N_DRAWS: u32 = 2000;

    /// Normal values with this mean and spread.
    fn drawn(draw: u32, lane: u32, n: usize, mean: f64, spread: f64) -> Vec<f64> {
        let mut values = vec![0.0; 2 * n.div_ceil(2)];
        Stream::new(7, Purpose::Test, draw).lane(lane).fill_normal(&mut values);
        values.truncate(n);
        values.into_iter().map(|value| mean + spread * value).collect()
    }

    /// How often `judge` says something over many draws.
    fn share(decision: Decision, judge: impl Fn(u32) -> Judgement) -> f64 {
        let n = (0..N_DRAWS).filter(|draw| judge(*draw).decision == decision).count();
        n as f64 / f64::from(N_DRAWS)
    }

    fn one(values: &[f64], demand: Demand) -> Judgement {
        decide(&[(Estimate::of(values), demand)])
    }

    /// Oracle: Student's sleep data (Student, "The Probable Error of a Mean", Biometrika 1908; the data set `sleep` of R):
    /// t = −4.0621 at 9 degrees, p = 0.002833 two-sided, interval (−2.4599, −0.7001).
    #[test]
    fn the_interval_of_students_sleep_data() {
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let differences: Vec<f64> = first.iter().zip(second).map(|(left, right)| left - right).collect();
        let estimate = Estimate::of(&differences);
        let half = estimate.half(0.025);
        assert!((estimate.mean - half + 2.4599).abs() < 1e-4 && (estimate.mean + half + 0.7001).abs() < 1e-4);
        let judged = one(&differences, Demand::Above(0.0));
        assert!((judged.p_against - 0.002_833 / 2.0).abs() < 1e-6);
        assert_eq!(judged.decision, Decision::Contradicted);
        assert_eq!(one(&differences, Demand::Between(-3.0, 0.0)).decision, Decision::Confirmed);
        assert_eq!(one(&differences, Demand::Between(-2.0, 2.0)).decision, Decision::Undecided);
    }

    /// At the limit itself nothing is confirmed more often than its level allows, nor contradicted, however many
    /// positions there are.
    #[test]
    fn without_an_effect_little_is_decided() {
        /// 5 % of so many draws are known to 0.3 %.
        const N_DRAWS: u32 = 6000;
        let shares = |judge: &dyn Fn(u32) -> Judgement| {
            let decisions: Vec<Decision> = (0..N_DRAWS).map(|draw| judge(draw).decision).collect();
            [Decision::Confirmed, Decision::Contradicted].map(|decision| {
                decisions.iter().filter(|other| **other == decision).count() as f64 / f64::from(N_DRAWS)
            })
        };
        for n in [3, 12] {
            let above = shares(&|draw| one(&drawn(draw, 0, n, 2.0, 1.5), Demand::Above(2.0)));
            assert!(above[0] <= 0.031 && above[1] <= 0.031, "above, {n}: {above:?}");
            let close = shares(&|draw| one(&drawn(draw, 1, n, 2.0, 0.7), Demand::Between(-2.0, 2.0)));
            assert!(close[0] <= 0.058 && close[1] <= 0.031, "close, {n}: {close:?}");
        }
        let several = shares(&|draw| {
            let asked =
                (0..4).map(|lane| (Estimate::of(&drawn(draw, lane, 5, 0.0, 1.0)), Demand::Above(0.0)));
            decide(&asked.collect::<Vec<_>>())
        });
        assert!(several[0] <= 0.005 && several[1] <= 0.031, "{several:?}");
    }

    /// With the seeds that are printed, an effect is confirmed about as often as is said.
    #[test]
    fn the_printed_seeds_have_the_power() {
        for (effect, spread) in [(1.0, 1.0), (1.0, 2.0), (3.0, 1.0)] {
            let n = seeds_needed(&[(Aim::Beyond(effect), spread)]).unwrap();
            let power = share(Decision::Confirmed, |draw| {
                one(&drawn(draw, 0, n, 5.0 + effect, spread), Demand::Above(5.0))
            });
            assert!((0.75..0.97).contains(&power), "above, {n} seeds: {power}");
            let n = seeds_needed(&[(Aim::Between(effect, effect + 0.5), spread)]).unwrap();
            let power = share(Decision::Confirmed, |draw| {
                one(&drawn(draw, 0, n, 0.0, spread), Demand::Between(-effect, effect + 0.5))
            });
            assert!(power >= 0.75, "close, {n} seeds: {power}");
            // Several positions at once.
            let n = seeds_needed(&[(Aim::Beyond(effect), spread); 3]).unwrap();
            let power = share(Decision::Confirmed, |draw| {
                let asked = (0..3)
                    .map(|lane| (Estimate::of(&drawn(draw, lane, n, effect, spread)), Demand::Above(0.0)));
                decide(&asked.collect::<Vec<_>>())
            });
            assert!(power >= 0.75, "three positions, {n} seeds: {power}");
        }
    }

    /// A slope that is not there is confirmed in 2.5 % of cases, one that is there by the printed seeds.
    #[test]
    fn slopes_are_tested_over_seeds() {
        let xs = [0.0, 1.0, 3.0];
        let change = |draw, n, rise: f64| {
            let noise: Vec<Vec<f64>> = (0..3).map(|lane| drawn(draw, lane, n, 0.0, 1.0)).collect();
            let of_seed = |seed: usize| {
                let ys: Vec<f64> = xs.iter().zip(&noise).map(|(x, row)| rise * x + row[seed]).collect();
                slope(&xs, &ys).unwrap()
            };
            (0..n).map(of_seed).collect::<Vec<f64>>()
        };
        let level = share(Decision::Confirmed, |draw| one(&change(draw, 6, 0.0), Demand::Above(0.0)));
        assert!(level <= 0.04, "{level}");
        // The slope of independent noise has the variance of the noise over Σ(x − x̄)² = 14/3.
        let n = seeds_needed(&[(Aim::Beyond(0.5), (3.0_f64 / 14.0).sqrt())]).unwrap();
        let power = share(Decision::Confirmed, |draw| one(&change(draw, n, 0.5), Demand::Above(0.0)));
        assert!((0.75..0.97).contains(&power), "{n} seeds: {power}");
        // Oracle, by hand: the line through (0, 1), (1, 2), (3, 4) has slope 1; one x has none.
        assert!((slope(&xs, &[1.0, 2.0, 4.0]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(slope(&[2.0, 2.0], &[1.0, 3.0]), None);
    }

    /// Oracle: rows that differ by constants have no residual; independent noise of spread 1 has differences of √2.
    #[test]
    fn the_layout_gives_the_spread_of_differences() {
        let rows = vec![vec![1.0, 2.0, 4.0], vec![3.0, 4.0, 6.0], vec![0.0, 1.0, 3.0]];
        let (spread, degrees) = layout_spread(&rows).unwrap();
        assert!(spread < 1e-12 && (degrees - 4.0).abs() < 1e-12);
        assert_eq!(layout_spread(&rows[..2]), None);
        let mut squares = 0.0;
        for draw in 0..N_DRAWS {
            // What all series share in a seed plays no part.
            let shared = drawn(draw, 9, 5, 0.0, 10.0);
            let row = |lane| {
                let own = drawn(draw, lane, 5, f64::from(lane), 1.0);
                own.iter().zip(&shared).map(|(own, shared)| own + shared).collect::<Vec<f64>>()
            };
            squares += layout_spread(&(0..4).map(row).collect::<Vec<_>>()).unwrap().0.powi(2);
        }
        assert!((squares / f64::from(N_DRAWS) - 2.0).abs() < 0.05);
    }

    #[test]
    fn too_few_seeds_decide_nothing() {
        for values in [&[][..], &[9.0], &[9.0, 9.1]] {
            let judged = one(values, Demand::Above(0.0));
            assert_eq!((judged.decision, judged.p_against), (Decision::Undecided, 1.0));
        }
        assert_eq!(decide(&[]).decision, Decision::Undecided);
    }

    /// Sums that overflow decide nothing either.
    #[test]
    fn what_is_not_finite_decides_nothing() {
        for values in [[f64::MAX; 3], [-f64::MAX; 3], [f64::MAX, -f64::MAX, 1.0]] {
            for demand in [Demand::Above(0.0), Demand::Between(-1.0, 1.0)] {
                assert_eq!(one(&values, demand).decision, Decision::Undecided, "{values:?}");
            }
        }
    }

    /// Differences without any spread are beyond a limit or not.
    #[test]
    fn equal_differences_are_certain() {
        for (value, decision) in
            [(2.0, Decision::Confirmed), (1.0, Decision::Undecided), (0.5, Decision::Contradicted)]
        {
            assert_eq!(one(&[value; 3], Demand::Above(1.0)).decision, decision, "{value}");
        }
        assert_eq!(one(&[1.0; 3], Demand::Between(0.0, 2.0)).decision, Decision::Confirmed);
        assert_eq!(one(&[3.0; 3], Demand::Between(0.0, 2.0)).decision, Decision::Contradicted);
    }

    /// Oracle: by hand. 0.004 · 4 < 0.025, 0.008 · 3 < 0.025, 0.02 · 2 is not, and what comes after is not either.
    #[test]
    fn holms_correction() {
        assert_eq!(holm(&[0.02, 0.004, 0.5, 0.008]), [false, true, false, true]);
        assert_eq!(holm(&[0.009, 0.008, 0.024]), [true, true, true]);
        assert_eq!(holm(&[0.009, 0.009, 0.001]), [true, true, true]);
        assert!(holm(&[]).is_empty());
    }
}
