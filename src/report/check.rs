//! Checks: what is asked of which numbers, and what came out in words. When it is confirmed or contradicted is a matter of
//! [`decide`](super::decide).

use crate::experiment::{Check, Comparison, Trend};

use super::chart::Mark;
use super::decide::{Decision, Demand, Estimate, Judgement, MIN_SEEDS, decide, layout_spread, slope};
use super::measured::{Measured, Point, same_x, series_idx};
use super::position::best;
use super::power::{Aim, seeds_needed, seen_distance};
use super::stats::{Range, Summary};
use super::text::{count, signed, significant};
use super::verdict::Outcome;
use crate::metric::Unit;

/// Rounding of binary fractions must not decide whether an x is in a range.
const ROUNDING: f64 = 1e-9;

/// Why there is no uncertainty where there are seeds enough.
const ALIKE: &str = "Shares that are alike at every seed do not tell what their spread is.";

/// A check with its outcome and the numbers behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckResult {
    /// The check's own sentence.
    pub text: String,
    /// What came out.
    pub outcome: Outcome,
    /// Why, in a sentence or more.
    pub reason: String,
    /// The comparison at each x, a sentence each.
    pub details: Vec<String>,
    /// Probability of numbers as far on the wrong side if the check holds; 1 if it was not run.
    pub p_against: f64,
}

/// Evaluates every check of the experiment, each on the figure it belongs to; `panels` are all of them.
#[must_use]
pub fn evaluate_checks(panels: &[Measured]) -> Vec<CheckResult> {
    let Some(main) = panels.first() else { return Vec::new() };
    let evaluated = main.experiment.checks.iter().map(|check| {
        match panels.iter().find(|measured| measured.panel.id == check.panel) {
            Some(measured) => evaluate(measured, check),
            None => not_run(check, format!("There is no panel `{}`.", check.panel)),
        }
    });
    evaluated.collect()
}

/// Evaluates one check on the figure it belongs to.
#[must_use]
pub fn evaluate(measured: &Measured, check: &Check) -> CheckResult {
    match Question::of(measured, check) {
        Ok(question) => question.answer(check),
        Err(reason) => not_run(check, reason),
    }
}

/// How many seeds a check takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Needed {
    /// The check's own sentence.
    pub text: String,
    /// How many.
    pub seeds: Outlook,
}

/// Whether seeds are likely to confirm a check.
#[derive(Debug, Clone, PartialEq)]
pub enum Outlook {
    /// So many do with 80 % probability, if this is true.
    Enough(usize, &'static str),
    /// No number up to 10,000 does, if this is true.
    Never(&'static str),
    /// Nothing is known yet, and why.
    Unknown(String),
}

/// How many seeds each check takes, by the spread of the seeds that there are, of which three are the fewest.
#[must_use]
pub fn needed(panels: &[Measured]) -> Vec<Needed> {
    let checks = panels.first().map_or(&[][..], |main| &main.experiment.checks);
    let of = |check: &Check| {
        let question = panels
            .iter()
            .find(|measured| measured.panel.id == check.panel)
            .ok_or_else(|| format!("there is no panel `{}`", check.panel))
            .and_then(|measured| Question::of(measured, check));
        let seeds = match question {
            Err(reason) => Outlook::Unknown(reason),
            Ok(question) if question.asked.iter().any(|one| one.estimate.n < MIN_SEEDS) => {
                Outlook::Unknown("Three common seeds are the fewest that tell.".to_owned())
            }
            Ok(question) if question.asked.iter().any(|one| one.estimate.spread.is_nan()) => {
                Outlook::Unknown(ALIKE.to_owned())
            }
            Ok(question) => match question.needed() {
                (what, Some(n)) => Outlook::Enough(n, what),
                (what, None) => Outlook::Never(what),
            },
        };
        Needed { text: check.text.clone(), seeds }
    };
    checks.iter().map(of).collect()
}

fn not_run(check: &Check, reason: String) -> CheckResult {
    let details = Vec::new();
    CheckResult { text: check.text.clone(), outcome: Outcome::NotRun, reason, details, p_against: 1.0 }
}

/// Differences of two series over common seeds, by which a check is decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Paired {
    /// Whose values.
    pub panel: String,
    /// `DeepZero − FO, dense`.
    pub label: String,
    /// Ratios, with a logarithmic axis, in place of differences.
    pub is_ratio: bool,
    /// What they are compared with, besides no difference.
    pub limits: Vec<f64>,
    /// Where, as a number and as text, and the mean with its 95 % interval there.
    pub places: Vec<(Option<f64>, String, Mark)>,
}

impl Paired {
    /// Of all checks that compare two series, as far as there are two common seeds.
    #[must_use]
    pub fn all(panels: &[Measured]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let checks = panels.first().map_or(&[][..], |main| &main.experiment.checks);
        for check in checks {
            let Some(measured) = panels.iter().find(|measured| measured.panel.id == check.panel) else {
                continue;
            };
            let Some(paired) = Self::of(measured, check) else { continue };
            let same = |other: &&mut Self| {
                (&other.panel, &other.label, other.is_ratio)
                    == (&paired.panel, &paired.label, paired.is_ratio)
            };
            match all.iter_mut().find(same) {
                Some(known) => {
                    for place in paired.places {
                        if !known.places.iter().any(|(x, text, _)| same_x(*x, place.0) && *text == place.1) {
                            known.places.push(place);
                        }
                    }
                }
                None => all.push(paired),
            }
        }
        all
    }

    fn of(measured: &Measured, check: &Check) -> Option<Self> {
        let (left, right, limits) = match &check.comparison {
            Comparison::Above { left, right, margin, .. } => (left, right, vec![*margin]),
            Comparison::Close { left, right, margin, .. } => (left, right, vec![-margin, *margin]),
            _ => return None,
        };
        let question = Question::of(measured, check).ok()?;
        let is_ratio = question.line == Range::Positive;
        let value = |place: f64| if is_ratio { place.exp() } else { place };
        let label = |id: &str| Some(measured.label(series_idx(measured.experiment, id)?));
        let mark = |one: &Asked| {
            // Where the uncertainty is unknown, the mean is drawn alone.
            let half = Some(one.estimate.half(0.025)).filter(|half| half.is_finite()).unwrap_or(0.0);
            let (low, high) = (value(one.estimate.mean - half), value(one.estimate.mean + half));
            let mark = Mark { x: 0.0, y: value(one.estimate.mean), low, high };
            (one.estimate.n > 1).then(|| (one.x.0, one.x.1.clone(), mark))
        };
        let places: Vec<_> = question.asked.iter().filter_map(mark).collect();
        let between = if is_ratio { "/" } else { "−" };
        Some(Self {
            panel: measured.panel.id.clone(),
            label: format!("{} {between} {}", label(left)?, label(right)?),
            is_ratio,
            limits: limits.into_iter().filter(|limit| *limit != 0.0).collect(),
            places,
        })
        .filter(|paired| !paired.places.is_empty())
    }
}

/// What a check asks at one position, or of a whole course.
struct Asked {
    /// Where, as a number and in a word.
    x: (Option<f64>, String),
    /// Where, for the reason; empty if there is but one place.
    place: String,
    /// The numbers compared, without an end.
    numbers: String,
    estimate: Estimate,
    /// The pair's own spread, where another takes its place.
    own_spread: Option<f64>,
    /// Such a number from the published values, if all that it takes are published.
    published: Option<f64>,
}

/// A check of means that are on some line: of values, of their logarithms or logits.
struct Question<'m> {
    measured: &'m Measured<'m>,
    asked: Vec<Asked>,
    demand: Demand,
    /// What the estimates are of: `the difference`.
    subject: String,
    /// What is demanded of it: `above zero`.
    wanted: String,
    /// The line on which the estimates stand.
    line: Range,
    /// Whether they are differences, which have a sign, and on a logarithmic line are ratios.
    is_difference: bool,
    /// Numbers of the points that are not compared themselves.
    further: Vec<String>,
}

impl<'m> Question<'m> {
    fn of(measured: &'m Measured<'m>, check: &Check) -> Result<Self, String> {
        let pairs_in = |left: &str, right: &str, range: (f64, f64)| {
            if check.at_best { best_pair(measured, left, right) } else { pairs(measured, left, right, range) }
        };
        match &check.comparison {
            Comparison::Above { left, right, margin, min_x, max_x } => {
                let pairs = pairs_in(left, right, (*min_x, *max_x))?;
                let line =
                    line_of_differences(measured, *margin, pairs.iter().flat_map(|p| [p.left, p.right]));
                let wanted = match line {
                    Range::Positive => "above 1".to_owned(),
                    _ => requirement(measured, "above", *margin),
                };
                Self::of_pairs(measured, check, &pairs, line, Demand::Above(*margin), wanted)
            }
            Comparison::Close { left, right, margin, min_x, max_x } => {
                let pairs = pairs_in(left, right, (*min_x, *max_x))?;
                let demand = Demand::Between(-margin, *margin);
                let wanted = requirement(measured, "within ±", *margin);
                Self::of_pairs(measured, check, &pairs, Range::Free, demand, wanted)
            }
            Comparison::Within { series, low, high, min_x, max_x } => {
                let points = run_of(measured, series, (*min_x, *max_x))?;
                Ok(Self::of_values(measured, &points, *low, *high))
            }
            Comparison::Widens { left, right } => {
                let pairs = pairs(measured, left, right, EVERYWHERE)?;
                let means = complete(measured, &pairs)?;
                let line = line_of_differences(measured, 0.0, pairs.iter().flat_map(|p| [p.left, p.right]));
                let courses: Vec<Course> = pairs.iter().map(|pair| pair.course(line)).collect();
                let ends = [(0, &pairs[0]), (pairs.len() - 1, &pairs[pairs.len() - 1])];
                let further = ends
                    .iter()
                    .map(|(idx, pair)| sides(measured, pair, &means[*idx].0, &means[*idx].1))
                    .collect();
                let subject = "the growth of the difference".to_owned();
                Self::of_courses(measured, &courses, Trend::Rises, 0.0, line, subject, further)
            }
            Comparison::Trend { series, trend, margin, min_x, max_x } => {
                let points = run_of(measured, series, (*min_x, *max_x))?;
                let line = line_of_differences(measured, *margin, points.iter().map(|(point, _)| *point));
                let courses: Vec<Course> =
                    points.iter().map(|(point, _)| point_course(point, line)).collect();
                let ends = [&points[0], &points[points.len() - 1]];
                let further =
                    ends.iter().map(|(point, summary)| one_side(measured, point, summary)).collect();
                let what = match trend {
                    Trend::Falls => "fall",
                    Trend::Rises => "rise",
                    Trend::Flat => "change",
                };
                let subject = format!("the {what} of {}", measured.label(points[0].0.series_idx));
                Self::of_courses(measured, &courses, *trend, *margin, line, subject, further)
            }
        }
    }

    /// The differences of pairs over the seeds that they share.
    fn of_pairs(
        measured: &'m Measured<'m>,
        check: &Check,
        pairs: &[Pair],
        line: Range,
        demand: Demand,
        wanted: String,
    ) -> Result<Self, String> {
        let means = complete(measured, pairs)?;
        let asked = pairs.iter().zip(&means).map(|(pair, (left, right))| {
            let course = pair.course(line);
            let values: Vec<f64> = course.values.iter().map(|(_, value)| *value).collect();
            let mut estimate = known(measured, Estimate::of(&values));
            let mut own_spread = None;
            if let Some((spread, degrees)) = layout_at(measured, pair.x(), line).filter(|_| check.of_layout) {
                own_spread = Some(estimate.spread);
                estimate = Estimate { spread, degrees, ..estimate };
            }
            let x = match pair.x() {
                _ if pair.is_best => (None, "each at its best".to_owned()),
                Some(x) => (Some(x), pair.x_text().to_owned()),
                None => (None, String::new()),
            };
            Asked {
                x,
                place: position(measured, pair),
                numbers: sides(measured, pair, left, right),
                estimate,
                own_spread,
                published: course.published,
            }
        });
        Ok(Self {
            measured,
            asked: asked.collect(),
            demand,
            subject: if line == Range::Positive { "the ratio" } else { "the difference" }.to_owned(),
            wanted,
            line,
            is_difference: true,
            further: Vec::new(),
        })
    }

    /// The values of one series; times on their logarithm, shares on their logit.
    fn of_values(measured: &'m Measured<'m>, points: &[(&Point, Summary)], low: f64, high: f64) -> Self {
        let range = measured.range();
        let has_line = points.iter().all(|(point, summary)| {
            point.values.values().all(|value| range != Range::Positive || *value > 0.0)
                && range.on_line(summary.mean).is_finite()
        });
        let line = if has_line { range } else { Range::Free };
        let asked = points.iter().map(|(point, summary)| {
            let estimate = match line {
                Range::Positive => Estimate::of(&point.values.values().map(|v| v.ln()).collect::<Vec<_>>()),
                _ => on_line(line, &Estimate::of(&point.values.values().copied().collect::<Vec<_>>())),
            };
            let estimate = known(measured, estimate);
            Asked {
                x: (point.x, point.x_text.clone()),
                place: place_of(measured, point),
                numbers: one_side(measured, point, summary),
                estimate,
                own_spread: None,
                published: point.published.as_ref().map(|published| line.on_line(published.value)),
            }
        });
        let label = points.first().map_or("", |(point, _)| measured.label(point.series_idx));
        Self {
            measured,
            asked: asked.collect(),
            demand: Demand::Between(line.on_line(low), line.on_line(high)),
            subject: label.to_owned(),
            wanted: format!(
                "within {} to {}{}",
                measured.number(low),
                measured.number(high),
                measured.unit()
            ),
            line,
            is_difference: false,
            further: Vec::new(),
        }
    }

    /// The least-squares line of every seed along x, as what it changes from the first position to the last.
    fn of_courses(
        measured: &'m Measured<'m>,
        courses: &[Course],
        trend: Trend,
        margin: f64,
        line: Range,
        subject: String,
        further: Vec<String>,
    ) -> Result<Self, String> {
        let xs: Vec<f64> =
            courses.iter().enumerate().map(|(idx, course)| axis_place(measured, idx, course.x)).collect();
        if courses.len() < 2 || xs.iter().any(|x| !x.is_finite()) {
            return Err("There are fewer than two positions in that range at this scale.".into());
        }
        let sign = if trend == Trend::Falls { -1.0 } else { 1.0 };
        let span = xs[xs.len() - 1] - xs[0];
        let change = |ys: &[f64]| slope(&xs, ys).map(|slope| sign * slope * span);
        let of_seed = |seed: u64| {
            let value =
                |course: &Course| course.values.iter().find(|(s, _)| *s == seed).map(|(_, value)| *value);
            change(&courses.iter().map(value).collect::<Option<Vec<f64>>>()?)
        };
        let changes: Vec<f64> = courses[0].values.iter().filter_map(|(seed, _)| of_seed(*seed)).collect();
        let published: Option<Vec<f64>> = courses.iter().map(|course| course.published).collect();
        let x_label = &measured.experiment.figure.x_label;
        Ok(Self {
            measured,
            asked: vec![Asked {
                x: (None, String::new()),
                place: String::new(),
                numbers: format!("Along {x_label}, by the least-squares line of each seed"),
                estimate: known(measured, Estimate::of(&changes)),
                own_spread: None,
                published: published.and_then(|values| change(&values)),
            }],
            demand: match trend {
                Trend::Flat => Demand::Between(-margin, margin),
                Trend::Falls | Trend::Rises => Demand::Above(margin),
            },
            subject: format!("{subject} along {x_label}"),
            wanted: match trend {
                _ if line == Range::Positive => "above a factor of 1".to_owned(),
                Trend::Flat => requirement(measured, "within ±", margin),
                Trend::Falls | Trend::Rises => requirement(measured, "above", margin),
            },
            line,
            is_difference: true,
            further,
        })
    }

    fn answer(&self, check: &Check) -> CheckResult {
        let demands: Vec<(Estimate, Demand)> =
            self.asked.iter().map(|one| (one.estimate, self.demand)).collect();
        let judgement = decide(&demands);
        let mut reason = self.reason(&judgement);
        if judgement.decision == Decision::Undecided {
            reason.push_str(&self.advice());
        }
        let mut details: Vec<String> = self.further.iter().map(|text| format!("{text}.")).collect();
        details.extend(self.asked.iter().zip(&judgement.each).map(|(one, decision)| {
            let decision = match decision {
                Decision::Confirmed => "Confirmed",
                Decision::Contradicted => "Contradicted",
                Decision::Undecided => "Undecided",
            };
            format!("{} ({}). {decision}.", one.numbers, self.uncertainty(one))
        }));
        let outcome = match judgement.decision {
            Decision::Confirmed => Outcome::Confirmed,
            Decision::Contradicted => Outcome::Contradicted,
            Decision::Undecided => Outcome::Undecided,
        };
        CheckResult { text: check.text.clone(), outcome, reason, details, p_against: judgement.p_against }
    }

    fn reason(&self, judgement: &Judgement) -> String {
        let Self { subject, wanted, .. } = self;
        let n = self.asked.len();
        let mut capital = subject.clone();
        if let Some(first) = capital.get(..1) {
            capital.replace_range(..1, &first.to_uppercase());
        }
        match judgement.decision {
            Decision::Confirmed => {
                let everywhere = if n == 1 { String::new() } else { format!(" at all {n} positions") };
                format!("{capital} is {wanted}{everywhere}, by more than its uncertainty.")
            }
            Decision::Contradicted => {
                let places =
                    self.asked.iter().zip(&judgement.each).filter(|(_, d)| **d == Decision::Contradicted);
                let places: Vec<&str> =
                    places.map(|(one, _)| &*one.place).filter(|p| !p.is_empty()).collect();
                let places =
                    if places.is_empty() { String::new() } else { format!(" at {}", places.join(", ")) };
                format!("{capital} is not {wanted}{places}, by more than its uncertainty.")
            }
            Decision::Undecided if n == 1 => format!("The seeds leave open whether {subject} is {wanted}."),
            Decision::Undecided => {
                let n_sure = judgement.each.iter().filter(|d| **d == Decision::Confirmed).count();
                format!(
                    "{capital} is {wanted} by more than its uncertainty at {n_sure} of {n} positions; the seeds leave the rest \
                     open."
                )
            }
        }
    }

    /// What would decide an undecided check: the published effect, what these seeds show, how many seeds it takes.
    fn advice(&self) -> String {
        let mut text = String::new();
        let published: Option<Vec<f64>> = self.asked.iter().map(|one| one.published).collect();
        if let Some(effects) = &published {
            let low = effects.iter().copied().fold(f64::INFINITY, f64::min);
            let high = effects.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let (low, high) = (self.shown(low), self.shown(high));
            let range = if low == high { low } else { format!("{low} to {high}") };
            text.push_str(&format!(" Published: {range}{}.", self.unit()));
        }
        if self.asked.iter().any(|one| one.estimate.n < MIN_SEEDS) {
            text.push_str(" Fewer than three common seeds decide nothing.");
            return text;
        }
        if self.asked.iter().any(|one| one.estimate.spread.is_nan()) {
            text.push_str(&format!(" {ALIKE}"));
            return text;
        }
        let seen = self
            .asked
            .iter()
            .filter_map(|one| Some((one, seen_distance(one.estimate.spread, one.estimate.n)?)));
        let noisiest = seen.max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((one, distance)) = noisiest {
            let far = match self.line {
                Range::Positive => format!("a factor of {}", significant(distance.exp())),
                Range::Free => format!("{}{}", self.measured.number(distance), self.unit()),
                Range::Percent => {
                    let rate = self.line.rate(self.line.off_line(one.estimate.mean));
                    format!("{}{}", self.measured.number(distance / rate), self.measured.difference_unit())
                }
            };
            let n = one.estimate.n;
            text.push_str(&format!(
                " {n} seeds would show with 80 % probability what lies {far} beyond the limit."
            ));
        }
        let (what, n) = self.needed();
        text.push_str(&match n {
            Some(n) => format!(
                " To confirm it with that probability takes {} seeds if {what} is true.",
                count(n as u64)
            ),
            None => format!(" If {what} is true, no number of seeds up to 10,000 is likely to confirm it."),
        });
        text
    }

    /// The seeds that confirm it with 80 % probability, and if what is true: what was published where it all was, else what
    /// was measured.
    fn needed(&self) -> (&'static str, Option<usize>) {
        let published: Option<Vec<f64>> = self.asked.iter().map(|one| one.published).collect();
        let aims = self.asked.iter().enumerate().map(|(idx, one)| {
            let effect = published.as_ref().map_or(one.estimate.mean, |effects| effects[idx]);
            let aim = match self.demand {
                Demand::Above(limit) => Aim::Beyond(effect - limit),
                Demand::Between(low, high) => Aim::Between(effect - low, high - effect),
            };
            (aim, one.estimate.spread)
        });
        let what = if published.is_some() { "what was published" } else { "what was measured here" };
        (what, seeds_needed(&aims.collect::<Vec<_>>()))
    }

    /// An estimate, or an end of its interval, in the figure's numbers.
    fn shown(&self, value: f64) -> String {
        match (self.line, self.is_difference) {
            (Range::Positive, true) => significant(value.exp()),
            (Range::Free, true) => signed(&self.measured.number(value)),
            _ => self.measured.number(self.line.off_line(value)),
        }
    }

    fn unit(&self) -> &'static str {
        match (self.line, self.is_difference) {
            (Range::Positive, true) => "",
            (_, true) => self.measured.difference_unit(),
            (_, false) => self.measured.unit(),
        }
    }

    /// The interval that decides, and what it is made of.
    fn uncertainty(&self, one: &Asked) -> String {
        let estimate = &one.estimate;
        if estimate.n < 2 {
            return "fewer than two common seeds: its uncertainty is unknown".into();
        }
        if !estimate.spread.is_finite() {
            let mean = self.shown(estimate.mean);
            return format!(
                "{mean}{} at each of {} seeds: its uncertainty is unknown",
                self.unit(),
                estimate.n
            );
        }
        let (tail, percent) = match self.demand {
            Demand::Above(_) => (0.025, 95),
            Demand::Between(..) => (0.05, 90),
        };
        let half = estimate.half(tail);
        let interval = format!(
            "{percent} % interval {} to {}{}",
            self.shown(estimate.mean - half),
            self.shown(estimate.mean + half),
            self.unit()
        );
        if !self.is_difference {
            return interval;
        }
        let ratio = if self.line == Range::Positive { "ratio " } else { "" };
        let layout = one.own_spread.map_or(String::new(), |own| {
            format!(
                "; spread {} from all series by seeds in place of the pair's own {}",
                self.measured.number(estimate.spread),
                self.measured.number(own)
            )
        });
        format!("over {} common seeds: {ratio}{}, {interval}{layout}", estimate.n, self.shown(estimate.mean))
    }
}

/// An estimate whose spread is not known if it seems to be zero: shares of few images are equal by chance.
pub(super) fn known(measured: &Measured, estimate: Estimate) -> Estimate {
    let is_by_chance = measured.metric.unit == Unit::Percent && estimate.spread == 0.0;
    Estimate { spread: if is_by_chance { f64::NAN } else { estimate.spread }, ..estimate }
}

/// An estimate on a line, to first order.
pub(super) fn on_line(line: Range, estimate: &Estimate) -> Estimate {
    let rate = line.rate(estimate.mean);
    Estimate { mean: line.on_line(estimate.mean), spread: estimate.spread * rate, ..*estimate }
}

/// Times are compared by the logarithm of their ratio, unless a difference is asked for or one is not positive.
fn line_of_differences<'p>(
    measured: &Measured,
    margin: f64,
    points: impl Iterator<Item = &'p Point>,
) -> Range {
    let mut values = points.flat_map(|point| point.values.values());
    match measured.is_time() && margin == 0.0 && values.all(|value| *value > 0.0) {
        true => Range::Positive,
        false => Range::Free,
    }
}

/// The spread of a difference from all series of the panel that stand at x, over the seeds that all have there.
fn layout_at(measured: &Measured, x: Option<f64>, line: Range) -> Option<(f64, f64)> {
    let here: Vec<&Point> = (measured.points.iter())
        .filter(|point| !point.values.is_empty() && (point.x.is_none() || same_x(point.x, x)))
        .collect();
    let seeds: Vec<u64> = here.first()?.values.keys().copied().collect();
    let common = seeds.iter().filter(|seed| here.iter().all(|point| point.values.contains_key(seed)));
    let common: Vec<u64> = common.copied().collect();
    let row =
        |point: &&Point| common.iter().map(|seed| line.on_line(point.values[seed])).collect::<Vec<f64>>();
    layout_spread(&here.iter().map(row).collect::<Vec<_>>()).filter(|(spread, _)| spread.is_finite())
}

/// Where a position stands for a least-squares line: as it is drawn.
fn axis_place(measured: &Measured, idx: usize, x: Option<f64>) -> f64 {
    match x {
        _ if measured.experiment.figure.categorical => idx as f64,
        Some(x) if measured.panel.log_x => x.ln(),
        Some(x) => x,
        None => f64::NAN,
    }
}

/// What is compared along x, at one position.
struct Course {
    x: Option<f64>,
    /// By seed.
    values: Vec<(u64, f64)>,
    published: Option<f64>,
}

fn point_course(point: &Point, line: Range) -> Course {
    let values = point.values.iter().map(|(seed, value)| (*seed, line.on_line(*value)));
    let published = point.published.as_ref().map(|published| line.on_line(published.value));
    Course { x: point.x, values: values.collect(), published }
}

/// The range of x of a check without bounds.
const EVERYWHERE: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

/// Whether x is in the range, up to rounding in a file; a constant series is in all.
fn is_in(x: Option<f64>, (low, high): (f64, f64)) -> bool {
    x.is_none_or(|x| (low - ROUNDING * x.abs()..=high + ROUNDING * x.abs()).contains(&x))
}

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

    /// The differences at the seeds that both sides have; on a logarithmic line, of logarithms.
    fn course(&self, line: Range) -> Course {
        let values = self.left.values.iter().filter_map(|(seed, left)| {
            let right = self.right.values.get(seed)?;
            Some((*seed, line.on_line(*left) - line.on_line(*right)))
        });
        let published = self.left.published.as_ref().zip(self.right.published.as_ref());
        let published = published.map(|(left, right)| line.on_line(left.value) - line.on_line(right.value));
        Course {
            x: self.x(),
            values: values.collect(),
            published: published.filter(|value| value.is_finite()),
        }
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
