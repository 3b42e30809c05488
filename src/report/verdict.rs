//! What the numbers say about the paper's values and claims.
//!
//! A published value is judged at paper scale only, against the tolerance fixed in the experiment
//! file. Checks compare means over the seeds of finished trials at equal x; nothing is dropped,
//! rounded or smoothed before the comparison, and a check with missing data is "not run".

use crate::experiment::{Check, Comparison, Scale, Trend};

use super::measured::{Measured, Point, same_x, series_idx};
use super::position::best;
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
            Self::TrendConfirmed => "trend confirmed",
            Self::TrendNotConfirmed => "trend not confirmed",
            Self::NotRun => "not run",
            Self::NoClaim => "no claim to test",
            Self::NotJudged => "not judged here",
        }
    }
}

/// Judges one point.
#[must_use]
pub fn judge_point(scale: Scale, point: &Point) -> PointVerdict {
    let published = point.published.as_ref().filter(|_| scale == Scale::Paper);
    let Some((published, tolerance)) = published.and_then(|one| Some((one, one.tolerance?))) else {
        return PointVerdict::None;
    };
    match point.summary() {
        None => PointVerdict::NotRun,
        Some(ours) if (ours.mean - published.value).abs() <= tolerance + ROUNDING => PointVerdict::Reproduced,
        Some(_) => PointVerdict::NotReproduced,
    }
}

/// Judges the experiment from the points of all its figures and its checks, and counts them in a
/// sentence.
#[must_use]
pub fn judge(panels: &[Measured], checks: &[CheckResult]) -> (Verdict, String) {
    let points: Vec<PointVerdict> = (panels.iter())
        .flat_map(|measured| measured.points.iter().map(|p| judge_point(measured.scale, p)))
        .filter(|v| *v != PointVerdict::None)
        .collect();
    let has_point = |v| points.contains(&v);
    let has_check = |o| checks.iter().any(|c| c.outcome == o);
    let verdict = if panels.iter().all(|measured| measured.finished().next().is_none()) {
        Verdict::NotRun
    } else if points.is_empty() && checks.is_empty() {
        let is_compiled = panels.iter().any(|measured| measured.experiment.is_compiled());
        if is_compiled { Verdict::NotJudged } else { Verdict::NoClaim }
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

/// Evaluates every check of the experiment, each on the figure it belongs to; `panels` are all of them.
#[must_use]
pub fn evaluate_checks(panels: &[Measured]) -> Vec<CheckResult> {
    let Some(main) = panels.first() else { return Vec::new() };
    let evaluated = main.experiment.checks.iter().map(|check| {
        match panels.iter().find(|measured| measured.panel.id == check.panel) {
            Some(measured) => evaluate(measured, check),
            None => result(check, Err(format!("There is no panel `{}`.", check.panel))),
        }
    });
    evaluated.collect()
}

/// Evaluates one check on the figure it belongs to.
#[must_use]
pub fn evaluate(measured: &Measured, check: &Check) -> CheckResult {
    let pairs_in = |left: &str, right: &str, range: (f64, f64)| {
        if check.at_best { best_pair(measured, left, right) } else { pairs(measured, left, right, range) }
    };
    let judged = match &check.comparison {
        Comparison::Above { left, right, margin, min_x, max_x } => {
            pairs_in(left, right, (*min_x, *max_x)).and_then(|pairs| above(measured, &pairs, *margin))
        }
        Comparison::Close { left, right, margin, min_x, max_x } => {
            pairs_in(left, right, (*min_x, *max_x)).and_then(|pairs| close(measured, &pairs, *margin))
        }
        Comparison::Widens { left, right } => {
            pairs_in(left, right, EVERYWHERE).and_then(|pairs| widens(measured, &pairs))
        }
        Comparison::Within { series, low, high, min_x, max_x } => run_of(measured, series, (*min_x, *max_x))
            .and_then(|points| within(measured, &points, *low, *high)),
        Comparison::Trend { series, trend, margin, min_x, max_x } => {
            run_of(measured, series, (*min_x, *max_x))
                .and_then(|points| goes(measured, &points, *trend, *margin))
        }
    };
    result(check, judged)
}

fn result(check: &Check, judged: Judged) -> CheckResult {
    let text = check.text.clone();
    match judged {
        Ok((outcome, reason, details)) => CheckResult { text, outcome, reason, details },
        Err(reason) => CheckResult { text, outcome: Outcome::NotRun, reason, details: Vec::new() },
    }
}

/// The range of x of a check without bounds.
const EVERYWHERE: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

/// Whether x is in the range, up to rounding in a file; a constant series is in all.
fn is_in(x: Option<f64>, (low, high): (f64, f64)) -> bool {
    x.is_none_or(|x| (low - ROUNDING * x.abs()..=high + ROUNDING * x.abs()).contains(&x))
}

/// Outcome, reason and details, or why there is none.
type Judged = Result<(Outcome, String, Vec<String>), String>;

/// Two series at the same x, or each at its own best one.
#[derive(Clone, Copy)]
struct Pair<'p> {
    left: &'p Point,
    right: &'p Point,
    is_best: bool,
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

/// The index of a series, or that there is none.
fn find(measured: &Measured, id: &str) -> Result<usize, String> {
    series_idx(measured.experiment, id).ok_or(format!("there is no series `{id}`"))
}

/// Both series at their own best x.
fn best_pair<'p>(measured: &'p Measured, left: &str, right: &str) -> Result<Vec<Pair<'p>>, String> {
    let at_best = |id: &str| {
        let idx = find(measured, id)?;
        let position = best(measured, idx).ok_or(format!(
            "No finished trial of {} has a validation accuracy to choose x by.",
            measured.label(idx)
        ))?;
        // In a relative figure even a constant series can stand at several x; then there is no best one.
        let mut here = measured.points_of(idx).filter(|point| same_x(point.x, position.x));
        here.next().ok_or(format!("{} has no value at its best x.", measured.label(idx)))
    };
    Ok(vec![Pair { left: at_best(left)?, right: at_best(right)?, is_best: true }])
}

/// The points of one series in a range of x, or what is missing of them.
fn run_of<'p>(
    measured: &'p Measured,
    id: &str,
    range: (f64, f64),
) -> Result<Vec<(&'p Point, Summary)>, String> {
    let idx = find(measured, id)?;
    let points: Vec<&Point> = measured.points_of(idx).filter(|point| is_in(point.x, range)).collect();
    if points.is_empty() {
        return Err(format!("{} has no position in that range at this scale.", measured.label(idx)));
    }
    none_missing(measured, points.iter().copied())?;
    Ok(points.into_iter().filter_map(|point| Some((point, point.summary()?))).collect())
}

/// All x in the range at which both series stand, a constant series standing everywhere; an error if
/// there is no such series.
fn pairs<'p>(
    measured: &'p Measured,
    left: &str,
    right: &str,
    range: (f64, f64),
) -> Result<Vec<Pair<'p>>, String> {
    let (left_idx, right_idx) = (find(measured, left)?, find(measured, right)?);
    let mut pairs = Vec::new();
    for left in measured.points_of(left_idx) {
        for right in measured.points_of(right_idx) {
            if left.x.is_none() || right.x.is_none() || same_x(left.x, right.x) {
                pairs.push(Pair { left, right, is_best: false });
            }
        }
    }
    pairs.retain(|pair| is_in(pair.x(), range));
    pairs.sort_by(|a, b| {
        let x = |p: &Pair| p.x().unwrap_or(f64::NEG_INFINITY);
        x(a).total_cmp(&x(b))
    });
    Ok(pairs)
}

fn above(measured: &Measured, pairs: &[Pair], margin: f64) -> Judged {
    let required = requirement(measured, "above", margin);
    let (outcome, mut reason, details) = each(measured, pairs, &required, |difference| difference > margin)?;
    let tests: Vec<PairedTest> = pairs.iter().filter_map(Pair::test).collect();
    let n_sure = tests.iter().filter(|test| test.mean_difference > test.ci95_half).count();
    match (tests.len(), pairs.len()) {
        (0, _) if outcome == Outcome::Confirmed => {
            reason.push_str(" With fewer than two common seeds its uncertainty is unknown.");
        }
        (0, _) => {}
        (1, 1) if n_sure == 1 => reason.push_str(" It is above zero by more than its 95 % uncertainty."),
        (1, 1) => reason.push_str(" It is not above zero by more than its 95 % uncertainty."),
        (_, n) => {
            reason.push_str(&format!(
                " At {n_sure} of {n} it is above zero by more than its 95 % uncertainty."
            ));
        }
    }
    Ok((outcome, reason, details))
}

fn close(measured: &Measured, pairs: &[Pair], margin: f64) -> Judged {
    let required = requirement(measured, "within ±", margin);
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
            uncertainty(measured, pair.test()),
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
    let ends = [*first, *last];
    let means = complete(measured, &ends)?;
    let gaps: Vec<f64> = means.iter().map(|(left, right)| left.mean - right.mean).collect();
    let growth = gaps[1] - gaps[0];
    let mut details: Vec<String> =
        ends.iter().zip(&means).map(|(pair, (l, r))| format!("{}.", sides(measured, pair, l, r))).collect();
    details.push(format!("Growth of the difference: {}.", uncertainty(measured, paired_growth(&ends))));
    let outcome = if growth > 0.0 { Outcome::Confirmed } else { Outcome::NotConfirmed };
    let reason = format!(
        "From {} to {} the difference goes from {} to {} ({}{}).",
        position(measured, first),
        position(measured, last),
        difference(measured, gaps[0]),
        difference(measured, gaps[1]),
        difference(measured, growth),
        measured.difference_unit(),
    );
    Ok((outcome, reason, details))
}

fn within(measured: &Measured, points: &[(&Point, Summary)], low: f64, high: f64) -> Judged {
    let mut failures = Vec::new();
    let mut details = Vec::new();
    for (point, summary) in points {
        let holds = (low - ROUNDING..=high + ROUNDING).contains(&summary.mean);
        if !holds && point.x.is_some() {
            failures.push(place_of(measured, point));
        }
        let interval = summary.ci95_half.map_or(String::new(), |half| {
            let (low, high) = (summary.mean - half, summary.mean + half);
            format!(", 95 % interval {} to {}", measured.number(low), measured.number(high))
        });
        let verdict = if holds { "Holds" } else { "Fails" };
        details.push(format!("{}{interval}. {verdict}.", one_side(measured, point, summary)));
    }
    let n_held = points.len() - details.iter().filter(|detail| detail.ends_with("Fails.")).count();
    let range = format!("within {} to {}{}", measured.number(low), measured.number(high), measured.unit());
    let label = points.first().map_or("", |(point, _)| measured.label(point.series_idx));
    if n_held == points.len() {
        let everywhere =
            if points.len() == 1 { String::new() } else { format!(" at all {} positions", points.len()) };
        return Ok((Outcome::Confirmed, format!("{label} is {range}{everywhere}."), details));
    }
    let places = if failures.is_empty() { String::new() } else { format!(" at {}", failures.join(", ")) };
    Ok((Outcome::NotConfirmed, format!("{label} is not {range}{places}."), details))
}

fn goes(measured: &Measured, points: &[(&Point, Summary)], trend: Trend, margin: f64) -> Judged {
    let (Some((first, start)), Some((last, end))) =
        (points.first(), points.last().filter(|_| points.len() > 1))
    else {
        return Err("The series has fewer than two positions in that range at this scale.".into());
    };
    let change = end.mean - start.mean;
    let holds = match trend {
        Trend::Falls => -change > margin,
        Trend::Rises => change > margin,
        Trend::Flat => change.abs() <= margin + ROUNDING,
    };
    let allowed = match (trend, margin == 0.0) {
        (Trend::Flat, _) => format!("; at most {} counts as flat", measured.number(margin)),
        (_, true) => String::new(),
        _ => format!("; more than {} was asked for", measured.number(margin)),
    };
    let reason = format!(
        "From {} to {} {} goes from {} to {}{} ({}{}{allowed}).",
        place_of(measured, first),
        place_of(measured, last),
        measured.label(first.series_idx),
        measured.number(start.mean),
        measured.number(end.mean),
        measured.unit(),
        difference(measured, change),
        measured.difference_unit(),
    );
    let pair = Pair { left: last, right: first, is_best: false };
    let details = vec![
        format!("{}.", one_side(measured, first, start)),
        format!("{}.", one_side(measured, last, end)),
        format!("Change: {}.", uncertainty(measured, pair.test())),
    ];
    Ok((if holds { Outcome::Confirmed } else { Outcome::NotConfirmed }, reason, details))
}

/// `At d = 730: CGE 41.65 % (n = 3)`.
fn one_side(measured: &Measured, point: &Point, summary: &Summary) -> String {
    let place = place_of(measured, point);
    let losses = point.losses();
    format!(
        "{}{} {}{} (n = {}{}{losses})",
        if place.is_empty() { place } else { format!("At {place}: ") },
        measured.label(point.series_idx),
        measured.number(summary.mean),
        measured.unit(),
        summary.n,
        if losses.is_empty() { "" } else { "; " },
    )
}

/// `d = 730`; empty for a constant series.
fn place_of(measured: &Measured, point: &Point) -> String {
    match point.x {
        Some(_) => format!("{} = {}", measured.experiment.figure.x_label, point.x_text),
        None => String::new(),
    }
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
    none_missing(measured, pairs.iter().flat_map(|pair| [pair.left, pair.right]))?;
    Ok(pairs.iter().filter_map(Pair::means).collect())
}

/// An error that lists the points without a value, unless there are none.
fn none_missing<'p>(measured: &Measured, points: impl Iterator<Item = &'p Point>) -> Result<(), String> {
    let mut missing = Vec::new();
    for point in points.filter(|point| point.values.is_empty()) {
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
    if missing.is_empty() { Ok(()) } else { Err(format!("No finished trial of {}.", missing.join("; "))) }
}

/// `At d = 730: CGE 41.65 % (n = 3); RGE 37.53 % (n = 3); difference +4.12 points`.
fn sides(measured: &Measured, pair: &Pair, left: &Summary, right: &Summary) -> String {
    let side = |point: &Point, summary: &Summary| {
        let losses = point.losses();
        let own_x = match pair.is_best && point.x.is_some() {
            true => format!(" at {} = {}", measured.experiment.figure.x_label, point.x_text),
            false => String::new(),
        };
        format!(
            "{}{own_x} {}{} (n = {}{}{losses})",
            measured.label(point.series_idx),
            measured.number(summary.mean),
            measured.unit(),
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
        difference(measured, left.mean - right.mean),
        measured.difference_unit(),
    )
}

/// Whether a difference exceeds what seeds alone would do to it.
fn uncertainty(measured: &Measured, test: Option<PairedTest>) -> String {
    let Some(test) = test else { return "fewer than two common seeds: its uncertainty is unknown".into() };
    format!(
        "paired over {} seeds: {} ± {}{}, which {} its 95 % uncertainty",
        test.n,
        difference(measured, test.mean_difference),
        measured.number(test.ci95_half),
        measured.difference_unit(),
        if test.exceeds_uncertainty() { "exceeds" } else { "does not exceed" },
    )
}

fn difference(measured: &Measured, value: f64) -> String {
    signed(&measured.number(value))
}

fn requirement(measured: &Measured, relation: &str, margin: f64) -> String {
    if margin == 0.0 {
        return format!("{relation} zero");
    }
    let space = if relation.ends_with('±') { "" } else { " " };
    format!("{relation}{space}{}{}", measured.number(margin), measured.difference_unit())
}

/// `d = 730`; empty for two constant series.
fn position(measured: &Measured, pair: &Pair) -> String {
    match pair.x() {
        _ if pair.is_best => "each series' highest validation accuracy".into(),
        Some(_) => format!("{} = {}", measured.experiment.figure.x_label, pair.x_text()),
        None => String::new(),
    }
}
