//! What the numbers say about the paper's values and claims.
//!
//! A published value is judged at paper scale only, against the tolerance fixed in the experiment
//! file. Checks compare means over the seeds of finished trials at equal x; nothing is dropped,
//! rounded or smoothed before the comparison, and a check with missing data is "not run".

use crate::spec::{Check, Rule, Scale};

use super::measured::{Measured, Point, same_x, series_idx};
use super::metric::Metric;
use super::stats::{PairedTest, Summary, paired_t_test};
use super::text::signed;

/// Rounding of binary fractions must not decide whether a difference of exactly the tolerance counts.
const ROUNDING: f64 = 1e-9;

/// Verdict on one published value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointVerdict {
    /// Paper scale, within the tolerance.
    Reproduced,
    /// Paper scale, outside the tolerance.
    NotReproduced,
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
            Self::NotRun => "not run",
            Self::None => "—",
        }
    }
}

/// Outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It holds wherever it applies.
    Confirmed,
    /// It fails somewhere.
    NotConfirmed,
    /// Something needed for it has no finished trial.
    NotRun,
}

impl Outcome {
    /// As in reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Confirmed => "trend confirmed",
            Self::NotConfirmed => "trend not confirmed",
            Self::NotRun => "not run",
        }
    }
}

/// A check with its outcome and the numbers behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckResult {
    /// The check's own sentence.
    pub text: String,
    /// What came out.
    pub outcome: Outcome,
    /// Why, in a sentence.
    pub reason: String,
    /// The comparison at each x, a sentence each.
    pub details: Vec<String>,
}

/// Verdict on an experiment at one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Paper scale: every published value within its tolerance, every check confirmed.
    Reproduced,
    /// Paper scale: a published value missed or a check not confirmed.
    NotReproduced,
    /// Every check confirmed.
    TrendConfirmed,
    /// A check not confirmed.
    TrendNotConfirmed,
    /// Trials are missing.
    NotRun,
    /// The experiment claims nothing.
    NoClaim,
}

impl Verdict {
    /// As in reports.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not reproduced",
            Self::TrendConfirmed => "trend confirmed",
            Self::TrendNotConfirmed => "trend not confirmed",
            Self::NotRun => "not run",
            Self::NoClaim => "no claim to test",
        }
    }
}

/// Judges one point.
#[must_use]
pub fn judge_point(scale: Scale, point: &Point) -> PointVerdict {
    let Some(published) = point.published.as_ref().filter(|_| scale == Scale::Paper) else {
        return PointVerdict::None;
    };
    match point.summary() {
        None => PointVerdict::NotRun,
        Some(ours) if (ours.mean - published.value).abs() <= published.tolerance + ROUNDING => {
            PointVerdict::Reproduced
        }
        Some(_) => PointVerdict::NotReproduced,
    }
}

/// Judges the experiment from its points and checks, and counts them in a sentence.
#[must_use]
pub fn judge(measured: &Measured, checks: &[CheckResult]) -> (Verdict, String) {
    let points: Vec<PointVerdict> = (measured.points.iter())
        .map(|p| judge_point(measured.scale, p))
        .filter(|v| *v != PointVerdict::None)
        .collect();
    let has_point = |v| points.contains(&v);
    let has_check = |o| checks.iter().any(|c| c.outcome == o);
    let verdict = if measured.finished().next().is_none() {
        Verdict::NotRun
    } else if points.is_empty() && checks.is_empty() {
        Verdict::NoClaim
    } else if points.is_empty() {
        match () {
            () if has_check(Outcome::NotConfirmed) => Verdict::TrendNotConfirmed,
            () if has_check(Outcome::NotRun) => Verdict::NotRun,
            () => Verdict::TrendConfirmed,
        }
    } else if has_point(PointVerdict::NotReproduced) || has_check(Outcome::NotConfirmed) {
        Verdict::NotReproduced
    } else if has_point(PointVerdict::NotRun) || has_check(Outcome::NotRun) {
        Verdict::NotRun
    } else {
        Verdict::Reproduced
    };
    let count = |outcome| checks.iter().filter(|c| c.outcome == outcome).count();
    let mut parts = Vec::new();
    if !points.is_empty() {
        let n = points.iter().filter(|v| **v == PointVerdict::Reproduced).count();
        let missing = points.iter().filter(|v| **v == PointVerdict::NotRun).count();
        let not_run = if missing > 0 { format!(" ({missing} not run)") } else { String::new() };
        parts.push(format!("{n} of {} published values reproduced{not_run}", points.len()));
    }
    if !checks.is_empty() {
        let missing = count(Outcome::NotRun);
        let not_run = if missing > 0 { format!(" ({missing} not run)") } else { String::new() };
        parts.push(format!("{} of {} checks confirmed{not_run}", count(Outcome::Confirmed), checks.len()));
    }
    (verdict, parts.join("; "))
}

/// Evaluates every check of the experiment.
#[must_use]
pub fn evaluate_checks(measured: &Measured) -> Vec<CheckResult> {
    measured.experiment.checks.iter().map(|check| evaluate(measured, check)).collect()
}

/// Evaluates one check.
#[must_use]
pub fn evaluate(measured: &Measured, check: &Check) -> CheckResult {
    let judged = match &check.rule {
        Rule::Above { left, right, margin, min_x, max_x } => pairs(measured, left, right)
            .map(|mut pairs| {
                pairs.retain(|pair| pair.x().is_none_or(|x| (*min_x..=*max_x).contains(&x)));
                pairs
            })
            .and_then(|pairs| above(measured, &pairs, *margin)),
        Rule::Close { left, right, margin } => {
            pairs(measured, left, right).and_then(|pairs| close(measured, &pairs, *margin))
        }
        Rule::Widens { left, right } => {
            pairs(measured, left, right).and_then(|pairs| widens(measured, &pairs))
        }
    };
    let text = check.text.clone();
    match judged {
        Ok((outcome, reason, details)) => CheckResult { text, outcome, reason, details },
        Err(reason) => CheckResult { text, outcome: Outcome::NotRun, reason, details: Vec::new() },
    }
}

/// Outcome, reason and details, or why there is none.
type Judged = Result<(Outcome, String, Vec<String>), String>;

/// Two series at the same x.
struct Pair<'p> {
    left: &'p Point,
    right: &'p Point,
}

impl Pair<'_> {
    fn x(&self) -> Option<f64> {
        self.left.x.or(self.right.x)
    }

    fn x_text(&self) -> &str {
        if self.left.x.is_some() { &self.left.x_text } else { &self.right.x_text }
    }

    /// Both means, if both sides have a finished trial.
    fn means(&self) -> Option<(Summary, Summary)> {
        Some((self.left.summary()?, self.right.summary()?))
    }

    fn test(&self) -> Option<PairedTest> {
        let (_, left, right) = self.at_common_seeds();
        paired_t_test(&left, &right)
    }

    /// Seeds that both sides have, and their values there.
    fn at_common_seeds(&self) -> (Vec<u64>, Vec<f64>, Vec<f64>) {
        let common = self.left.values.iter().filter_map(|(seed, left)| {
            let right = self.right.values.get(seed)?;
            Some((*seed, *left, *right))
        });
        let mut columns = (Vec::new(), Vec::new(), Vec::new());
        for (seed, left, right) in common {
            columns.0.push(seed);
            columns.1.push(left);
            columns.2.push(right);
        }
        columns
    }
}

/// All x at which both series stand, a constant series standing everywhere; an error if there is none.
fn pairs<'p>(measured: &'p Measured, left: &str, right: &str) -> Result<Vec<Pair<'p>>, String> {
    let find = |id: &str| series_idx(measured.experiment, id).ok_or(format!("there is no series `{id}`"));
    let (left_idx, right_idx) = (find(left)?, find(right)?);
    let mut pairs = Vec::new();
    for left in measured.points_of(left_idx) {
        for right in measured.points_of(right_idx) {
            if left.x.is_none() || right.x.is_none() || same_x(left.x, right.x) {
                pairs.push(Pair { left, right });
            }
        }
    }
    pairs.sort_by(|a, b| {
        let x = |p: &Pair| p.x().unwrap_or(f64::NEG_INFINITY);
        x(a).total_cmp(&x(b))
    });
    Ok(pairs)
}

fn above(measured: &Measured, pairs: &[Pair], margin: f64) -> Judged {
    let required = requirement(measured.metric, "above", margin);
    let (outcome, mut reason, details) = each(measured, pairs, &required, |difference| difference > margin)?;
    let tests: Vec<PairedTest> = pairs.iter().filter_map(Pair::test).collect();
    let n_unsure = tests.iter().filter(|test| !test.exceeds_uncertainty()).count();
    if outcome == Outcome::Confirmed && n_unsure > 0 {
        reason.push_str(&format!(" At {n_unsure} of {} it does not exceed its uncertainty.", pairs.len()));
    }
    if outcome == Outcome::Confirmed && tests.is_empty() {
        reason.push_str(" With fewer than two common seeds its uncertainty is unknown.");
    }
    Ok((outcome, reason, details))
}

fn close(measured: &Measured, pairs: &[Pair], margin: f64) -> Judged {
    let required = requirement(measured.metric, "within ±", margin);
    each(measured, pairs, &required, |difference| difference.abs() <= margin + ROUNDING)
}

/// Confirmed if `holds` for the difference of means at every pair.
fn each(measured: &Measured, pairs: &[Pair], required: &str, holds: impl Fn(f64) -> bool) -> Judged {
    let mut details = Vec::new();
    let mut failures = Vec::new();
    for (pair, (left, right)) in pairs.iter().zip(complete(measured, pairs)?) {
        let holds = holds(left.mean - right.mean);
        if !holds {
            failures.push(position(measured, pair));
        }
        details.push(format!(
            "{} ({}). {}",
            sides(measured, pair, &left, &right),
            uncertainty(measured.metric, pair.test()),
            if holds { "Holds." } else { "Fails." },
        ));
    }
    let everywhere =
        if pairs.len() == 1 { String::new() } else { format!(" at all {} positions", pairs.len()) };
    Ok(if failures.is_empty() {
        (Outcome::Confirmed, format!("The difference is {required}{everywhere}."), details)
    } else {
        let places = failures.join(", ");
        let reason = format!(
            "The difference is not {required}{}.",
            if places.is_empty() { places } else { format!(" at {places}") }
        );
        (Outcome::NotConfirmed, reason, details)
    })
}

fn widens(measured: &Measured, pairs: &[Pair]) -> Judged {
    let (Some(first), Some(last)) = (pairs.first(), pairs.last().filter(|_| pairs.len() > 1)) else {
        return Err("The two series share fewer than two positions at this scale.".into());
    };
    let ends = [Pair { ..*first }, Pair { ..*last }];
    let means = complete(measured, &ends)?;
    let metric = measured.metric;
    let gaps: Vec<f64> = means.iter().map(|(left, right)| left.mean - right.mean).collect();
    let growth = gaps[1] - gaps[0];
    let mut details: Vec<String> =
        ends.iter().zip(&means).map(|(pair, (l, r))| format!("{}.", sides(measured, pair, l, r))).collect();
    details.push(format!("Growth of the difference: {}.", uncertainty(metric, paired_growth(&ends))));
    let outcome = if growth > 0.0 { Outcome::Confirmed } else { Outcome::NotConfirmed };
    let reason = format!(
        "From {} to {} the difference goes from {} to {} ({}{}).",
        position(measured, first),
        position(measured, last),
        difference(metric, gaps[0]),
        difference(metric, gaps[1]),
        difference(metric, growth),
        metric.difference_unit(),
    );
    Ok((outcome, reason, details))
}

/// Paired test of "gap at the last x" against "gap at the first x" over seeds that all four have.
fn paired_growth(ends: &[Pair; 2]) -> Option<PairedTest> {
    let [first, last] = ends.each_ref().map(Pair::at_common_seeds);
    let gap = |columns: &(Vec<u64>, Vec<f64>, Vec<f64>), seed: u64| {
        let idx = columns.0.iter().position(|s| *s == seed)?;
        Some(columns.1[idx] - columns.2[idx])
    };
    let gaps: Vec<(f64, f64)> =
        first.0.iter().filter_map(|seed| Some((gap(&last, *seed)?, gap(&first, *seed)?))).collect();
    let (late, early): (Vec<f64>, Vec<f64>) = gaps.into_iter().unzip();
    paired_t_test(&late, &early)
}

/// The means of all pairs, or what is missing for them.
fn complete(measured: &Measured, pairs: &[Pair]) -> Result<Vec<(Summary, Summary)>, String> {
    if pairs.is_empty() {
        return Err("The two series share no position at this scale.".into());
    }
    let mut missing = Vec::new();
    for pair in pairs {
        for point in [pair.left, pair.right] {
            if point.values.is_empty() {
                let losses = point.losses();
                let place = match point.x {
                    Some(_) => format!(" at {} = {}", measured.experiment.figure.x_label, point.x_text),
                    None => String::new(),
                };
                let losses = if losses.is_empty() { losses } else { format!(" ({losses})") };
                let text = format!("{}{place}{losses}", measured.label(point.series_idx));
                if !missing.contains(&text) {
                    missing.push(text);
                }
            }
        }
    }
    if missing.is_empty() {
        Ok(pairs.iter().filter_map(Pair::means).collect())
    } else {
        Err(format!("No finished trial of {}.", missing.join("; ")))
    }
}

/// `At d = 730: CGE 41.65 % (n = 3); RGE 37.53 % (n = 3); difference +4.12 points`.
fn sides(measured: &Measured, pair: &Pair, left: &Summary, right: &Summary) -> String {
    let metric = measured.metric;
    let side = |point: &Point, summary: &Summary| {
        let losses = point.losses();
        format!(
            "{} {}{} (n = {}{}{losses})",
            measured.label(point.series_idx),
            metric.number(summary.mean),
            metric.unit(),
            summary.n,
            if losses.is_empty() { "" } else { "; " },
        )
    };
    let place = position(measured, pair);
    format!(
        "{}{}; {}; difference {}{}",
        if place.is_empty() { String::new() } else { format!("At {place}: ") },
        side(pair.left, left),
        side(pair.right, right),
        difference(metric, left.mean - right.mean),
        metric.difference_unit(),
    )
}

/// Whether a difference exceeds what seeds alone would do to it.
fn uncertainty(metric: Metric, test: Option<PairedTest>) -> String {
    let Some(test) = test else { return "fewer than two common seeds: its uncertainty is unknown".into() };
    format!(
        "paired over {} seeds: {} ± {}{}, which {} its 95 % uncertainty",
        test.n,
        difference(metric, test.mean_difference),
        metric.number(test.ci95_half),
        metric.difference_unit(),
        if test.exceeds_uncertainty() { "exceeds" } else { "does not exceed" },
    )
}

fn difference(metric: Metric, value: f64) -> String {
    signed(&metric.number(value))
}

fn requirement(metric: Metric, relation: &str, margin: f64) -> String {
    if margin == 0.0 {
        return format!("{relation} zero");
    }
    let space = if relation.ends_with('±') { "" } else { " " };
    format!("{relation}{space}{}{}", metric.number(margin), metric.difference_unit())
}

/// `d = 730`; empty for two constant series.
fn position(measured: &Measured, pair: &Pair) -> String {
    match pair.x() {
        Some(_) => format!("{} = {}", measured.experiment.figure.x_label, pair.x_text()),
        None => String::new(),
    }
}
