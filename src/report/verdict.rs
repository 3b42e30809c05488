//! What the numbers say about the paper's values and claims.
//!
//! A published value is judged at paper scale only, and an accuracy on the pixels of the source only, against the tolerance fixed in the experiment
//! file. Nothing is dropped, rounded or smoothed before a comparison, and a check with missing data is "not run".

use crate::experiment::Scale;

use super::check::{CheckResult, known, on_line};
use super::decide::{Decision, Demand, Estimate, decide, holm};
use super::measured::{Measured, Point};

/// Verdict on one published value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointVerdict {
    /// Paper scale: the 90 % interval is within the tolerance.
    Reproduced,
    /// Paper scale: the 95 % interval, corrected for the values of the series, is outside the tolerance.
    NotReproduced,
    /// Paper scale, neither.
    Undecided,
    /// Paper scale, no finished trial.
    NotRun,
    /// Reduced scale or no published value: there is nothing to judge.
    None,
}

impl PointVerdict {
    /// As in tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not reproduced",
            Self::Undecided => "undecided",
            Self::NotRun => "not run",
            Self::None => "—",
        }
    }
}

/// Outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It holds wherever it applies, by more than its uncertainty.
    Confirmed,
    /// It fails somewhere, by more than its uncertainty.
    Contradicted,
    /// Neither.
    Undecided,
    /// Something needed for it has no finished trial.
    NotRun,
}

impl Outcome {
    /// As in reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed at this scale",
            Self::Contradicted => "contradicted at this scale",
            Self::Undecided => "undecided",
            Self::NotRun => "not run",
        }
    }
}

/// Verdict on an experiment at one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Paper scale: every published value within its tolerance, every check confirmed.
    Reproduced,
    /// Paper scale: a published value missed or a check contradicted.
    NotReproduced,
    /// Every check confirmed.
    Confirmed,
    /// A check contradicted.
    Contradicted,
    /// Neither.
    Undecided,
    /// Planned trials are missing, and nothing is contradicted.
    NotRun,
    /// The experiment claims nothing.
    NoClaim,
    /// Points of other experiments, which are judged there.
    NotJudged,
}

impl Verdict {
    /// As in reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not reproduced",
            Self::Confirmed => "confirmed at this scale",
            Self::Contradicted => "contradicted at this scale",
            Self::Undecided => "undecided",
            Self::NotRun => "not run",
            Self::NoClaim => "no claim to test",
            Self::NotJudged => "not judged here",
        }
    }
}

/// Judges the points of a figure, in their order, and the probability of numbers so far off if the published value is
/// met: 1 where nothing is judged.
#[must_use]
pub fn judge_points(measured: &Measured) -> Vec<(PointVerdict, f64)> {
    let asked = |point: &Point| {
        // Another pixel is another experiment: METHODOLOGY says by how much.
        let is_judged = measured.scale == Scale::Paper && !(point.is_lossy && measured.metric.is_quality);
        let published = point.published.as_ref().filter(|_| is_judged)?;
        Some((published.value, published.tolerance?))
    };
    let judge = |point: &Point| {
        let Some((value, tolerance)) = asked(point) else { return (PointVerdict::None, 1.0) };
        if point.values.is_empty() {
            return (PointVerdict::NotRun, 1.0);
        }
        let of_series = measured.points.iter().filter(|other| other.series_idx == point.series_idx);
        let n_asked = of_series.filter(|other| asked(other).is_some()).count() as f64;
        let values: Vec<f64> = point.values.values().copied().collect();
        let (line, plain) = (measured.range(), known(measured, Estimate::of(&values)));
        let placed = on_line(line, &plain);
        let (estimate, demand) = match placed.mean.is_finite() {
            true => {
                (placed, Demand::Between(line.on_line(value - tolerance), line.on_line(value + tolerance)))
            }
            false => (plain, Demand::Between(value - tolerance, value + tolerance)),
        };
        let judgement = decide(&[(estimate, demand)]);
        let p_against = (n_asked * judgement.p_against).min(1.0);
        let verdict = match judgement.decision {
            Decision::Confirmed => PointVerdict::Reproduced,
            _ if p_against < super::decide::LEVEL => PointVerdict::NotReproduced,
            _ => PointVerdict::Undecided,
        };
        (verdict, p_against)
    };
    measured.points.iter().map(judge).collect()
}

/// Judges the experiment from the points of all its figures and its checks, and counts them in a
/// sentence.
#[must_use]
pub fn judge(panels: &[Measured], checks: &[CheckResult]) -> (Verdict, String) {
    let points: Vec<(PointVerdict, f64)> =
        panels.iter().flat_map(judge_points).filter(|(v, _)| *v != PointVerdict::None).collect();
    let has_point = |v| points.iter().any(|(other, _)| *other == v);
    let has_check = |o| checks.iter().any(|c| c.outcome == o);
    let of_checks: Vec<f64> = checks.iter().map(|check| check.p_against).collect();
    let all: Vec<f64> = points.iter().map(|(_, p)| *p).chain(of_checks).collect();
    let contradicted = holm(&all);
    let verdict = if panels.iter().all(|measured| measured.finished().next().is_none()) {
        Verdict::NotRun
    } else if points.is_empty() && checks.is_empty() {
        let is_compiled = panels.iter().any(|measured| measured.experiment.is_compiled());
        if is_compiled { Verdict::NotJudged } else { Verdict::NoClaim }
    } else if contradicted.contains(&true) {
        if points.is_empty() { Verdict::Contradicted } else { Verdict::NotReproduced }
    } else if !panels.iter().all(Measured::is_whole)
        || has_point(PointVerdict::NotRun)
        || has_check(Outcome::NotRun)
    {
        Verdict::NotRun
    } else if points.iter().all(|(v, _)| *v == PointVerdict::Reproduced)
        && checks.iter().all(|c| c.outcome == Outcome::Confirmed)
    {
        if points.is_empty() { Verdict::Confirmed } else { Verdict::Reproduced }
    } else {
        Verdict::Undecided
    };
    let mut parts = Vec::new();
    let listed = |counts: [(usize, &str); 3]| {
        let shown: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if shown.is_empty() { String::new() } else { format!(", {}", shown.join(", ")) }
    };
    if !points.is_empty() {
        let count = |v| points.iter().filter(|(other, _)| *other == v).count();
        let rest = listed([
            (count(PointVerdict::NotReproduced), "missed"),
            (count(PointVerdict::Undecided), "undecided"),
            (count(PointVerdict::NotRun), "not run"),
        ]);
        parts.push(format!(
            "{} of {} published values reproduced{rest}",
            count(PointVerdict::Reproduced),
            points.len()
        ));
    }
    if !checks.is_empty() {
        let count = |outcome| checks.iter().filter(|c| c.outcome == outcome).count();
        let n_contradicted = count(Outcome::Contradicted);
        let n_after = contradicted[points.len()..].iter().filter(|is| **is).count();
        let after = match n_after == n_contradicted {
            true => "contradicted".to_owned(),
            false => format!("contradicted ({n_after} after Holm's correction)"),
        };
        let rest = listed([
            (n_contradicted, &after),
            (count(Outcome::Undecided), "undecided"),
            (count(Outcome::NotRun), "not run"),
        ]);
        parts.push(format!("{} of {} checks confirmed{rest}", count(Outcome::Confirmed), checks.len()));
    }
    (verdict, parts.join("; "))
}
