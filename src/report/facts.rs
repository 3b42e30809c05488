//! Numbers in sentences: templates (minijinja) that take them from records, so that they cannot age.
//!
//! `mean("deepzero", 0.9)` in double braces is the mean over seeds of the main figure's metric, in its digits and unit, but
//! without the unit's name. A series without x, or with a single one, needs none; at `"best"` it stands where its validation
//! accuracy is highest. By name: `panel="time"` takes another figure's values, `of="queries"` another metric, `digits=1`
//! another precision, and `times=100` makes a share percent.
//!
//! | function | what it gives |
//! |---|---|
//! | `mean(S, X)`, `std(S, X)`, `n(S, X)` | mean, standard deviation, number of seeds |
//! | `interval(S, X)` | 95 % interval of the mean |
//! | `published(S, X)` | the published value |
//! | `difference(A, B, X)`, `difference_interval(A, B, X)` | mean of paired differences A − B, and its 95 % interval |
//! | `ratio(A, B, X)` | geometric mean of paired ratios A / B |
//! | `outcome(N)` | what came of check number N, from 1 |
//! | `queries()`, `time()`, `seeds()` | of all trials together; of the plan |
//!
//! Where there is no such value yet, they give a dash; a name that does not exist is an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use crate::metric::{Digits, Metric};
use crate::results::TrialRecord;
use crate::train::Status;

use super::check::CheckResult;
use super::html::plain_syntax;
use super::measured::{Measured, Point, range_of, same_x, x_of};
use super::position::best;
use super::stats::{Range, Summary};
use super::text::{ABSENT, fixed, number, signed, significant};

/// What an experiment has at a scale.
#[derive(Debug)]
pub(super) struct Facts {
    /// Ids.
    series: Vec<String>,
    panels: Vec<PanelFacts>,
    /// With their places on the x axis.
    records: Vec<(Option<f64>, TrialRecord)>,
    /// Of each series, the x where its validation accuracy is highest, if it has any.
    best: Vec<Option<Option<f64>>>,
    /// What came of each check.
    outcomes: Vec<&'static str>,
    queries: String,
    time: String,
    n_seeds: usize,
}

#[derive(Debug)]
struct PanelFacts {
    id: String,
    /// `None` for ratios.
    digits: Option<Digits>,
    range: Range,
    points: Vec<Point>,
}

impl Facts {
    /// Of all figures; the cost in words.
    pub(super) fn of(panels: &[Measured], checks: &[CheckResult], queries: String, time: String) -> Self {
        let main = &panels[0];
        let panel = |measured: &Measured| PanelFacts {
            id: measured.panel.id.clone(),
            digits: (!measured.is_relative()).then_some(measured.metric.digits),
            range: measured.range(),
            points: measured.points.clone(),
        };
        let place = |record: &TrialRecord| x_of(main.experiment, &main.candidates, record);
        Self {
            series: main.experiment.series.iter().map(|series| series.id.clone()).collect(),
            panels: panels.iter().map(panel).collect(),
            best: (0..main.experiment.series.len()).map(|idx| best(main, idx).map(|best| best.x)).collect(),
            records: main.records.iter().map(|record| (place(record), (*record).clone())).collect(),
            outcomes: checks.iter().map(|check| check.outcome.label()).collect(),
            queries,
            time,
            n_seeds: main.plan().map_or(0, |plan| plan.n_seeds),
        }
    }

    /// The values asked for, by seed.
    fn find(&self, series: &str, x: &Option<Value>, options: &Options) -> Result<Found, Error> {
        let Some(series_idx) = self.series.iter().position(|id| id == series) else {
            return Err(wrong(format!("no series `{series}`, but {}", self.series.join(", "))));
        };
        let id = options.panel.as_deref().unwrap_or_default();
        let Some(panel) = self.panels.iter().find(|panel| panel.id == id) else {
            let ids: Vec<&str> = self.panels.iter().skip(1).map(|panel| &*panel.id).collect();
            return Err(wrong(format!("no panel `{id}`, but {}", ids.join(", "))));
        };
        let points: Vec<&Point> =
            panel.points.iter().filter(|point| point.series_idx == series_idx).collect();
        let point = match x {
            Some(x) if x.as_str() == Some("best") => {
                self.best[series_idx].and_then(|best| points.iter().find(|point| same_x(point.x, best)))
            }
            Some(x) => {
                let (number, text) = (f64::try_from(x.clone()).ok(), x.to_string());
                points.iter().find(|p| p.x_text == text || number.is_some() && same_x(p.x, number))
            }
            None if points.iter().filter(|point| !point.values.is_empty()).count() > 1 => {
                return Err(wrong(format!("`{series}` stands at several x: say at which")));
            }
            None => points.iter().find(|point| !point.values.is_empty()).or(points.first()),
        };
        let Some(metric) = &options.of else {
            return Ok(Found {
                values: point.map(|point| point.values.clone()).unwrap_or_default(),
                published: point.and_then(|point| Some(point.published.as_ref()?.value)),
                digits: panel.digits,
                range: panel.range,
            });
        };
        let unknown = |_| wrong(format!("no metric `{metric}`, but {}", Metric::names().join(", ")));
        let metric = Metric::parse(metric).map_err(unknown)?;
        let is_here = |(x, record): &&(Option<f64>, TrialRecord)| {
            record.trial.series == series
                && record.status == Status::Done
                && point.is_some_and(|point| point.x.is_none() || same_x(*x, point.x))
        };
        let here = self.records.iter().filter(is_here);
        let values = here.filter_map(|(_, record)| Some((record.trial.seed, metric.of(&record.epochs)?)));
        Ok(Found {
            values: values.collect(),
            published: None,
            digits: Some(metric.digits),
            range: range_of(metric),
        })
    }
}

/// What was found.
struct Found {
    values: BTreeMap<u64, f64>,
    published: Option<f64>,
    digits: Option<Digits>,
    range: Range,
}

impl Found {
    fn summary(&self) -> Option<Summary> {
        Summary::of(&self.values.values().copied().collect::<Vec<_>>())
    }
}

/// What may be said by name.
struct Options {
    panel: Option<String>,
    of: Option<String>,
    digits: Option<usize>,
    times: f64,
}

impl Options {
    fn of(kwargs: &Kwargs) -> Result<Self, Error> {
        let digits: Option<usize> = kwargs.get("digits")?;
        if digits.is_some_and(|digits| digits > 9) {
            return Err(wrong("digits: at most 9".to_owned()));
        }
        let options = Self {
            panel: kwargs.get("panel")?,
            of: kwargs.get("of")?,
            digits,
            times: kwargs.get::<Option<f64>>("times")?.unwrap_or(1.0),
        };
        kwargs.assert_all_used()?;
        Ok(options)
    }

    fn show(&self, found: &Found, value: f64) -> String {
        self.show_as(found.digits, value)
    }

    fn show_as(&self, digits: Option<Digits>, value: f64) -> String {
        let value = self.times * value;
        match (self.digits, digits) {
            (Some(decimals), _) => fixed(value, decimals),
            (None, Some(digits)) => number(value, digits),
            (None, None) => significant(value),
        }
    }
}

fn wrong(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// An x given, or none.
fn given(x: Option<Value>) -> Option<Value> {
    x.filter(|x| !matches!(x.kind(), ValueKind::Undefined | ValueKind::None))
}

/// Makes the functions known under their names.
pub(super) fn add_functions(environment: &mut Environment, facts: &Arc<Facts>) {
    let one = |show: fn(&Options, &Found) -> Option<String>| {
        let facts = Arc::clone(facts);
        move |series: String, x: Option<Value>, kwargs: Kwargs| -> Result<String, Error> {
            let options = Options::of(&kwargs)?;
            let found = facts.find(&series, &given(x), &options)?;
            Ok(show(&options, &found).unwrap_or_else(|| ABSENT.to_owned()))
        }
    };
    environment.add_function("mean", one(|options, found| Some(options.show(found, found.summary()?.mean))));
    environment.add_function("std", one(|options, found| Some(options.show(found, found.summary()?.std?))));
    environment.add_function("n", one(|_, found| Some(found.values.len().to_string())));
    environment.add_function("published", one(|options, found| Some(options.show(found, found.published?))));
    environment.add_function(
        "interval",
        one(|options, found| {
            let summary = found.summary()?;
            let (low, high) = found.range.interval(summary.mean, summary.ci95_half?);
            Some(format!("{} to {}", options.show(found, low), options.show(found, high)))
        }),
    );
    let two = |show: ShowPairs| {
        let facts = Arc::clone(facts);
        move |left: String, right: String, x: Option<Value>, kwargs: Kwargs| -> Result<String, Error> {
            let options = Options::of(&kwargs)?;
            let x = given(x);
            let side = |series: &str| {
                // What does not depend on x stands at every x.
                let at = facts.find(series, &x, &options)?;
                if at.values.is_empty() && x.is_some() { facts.level(series, &options) } else { Ok(at) }
            };
            let (left, right) = (side(&left)?, side(&right)?);
            let pairs = left.values.iter().filter_map(|(seed, a)| Some((*a, *right.values.get(seed)?)));
            let shown = show(&options, left.digits, &pairs.collect::<Vec<_>>());
            Ok(shown.unwrap_or_else(|| ABSENT.to_owned()))
        }
    };
    environment.add_function(
        "difference",
        two(|options, digits, pairs| Some(signed(&options.show_as(digits, differences(pairs)?.mean)))),
    );
    environment.add_function(
        "difference_interval",
        two(|options, digits, pairs| {
            let summary = differences(pairs)?;
            let half = summary.ci95_half?;
            let show = |value: f64| signed(&options.show_as(digits, value));
            Some(format!("{} to {}", show(summary.mean - half), show(summary.mean + half)))
        }),
    );
    environment.add_function(
        "ratio",
        two(|options, _, pairs| {
            let logs: Vec<f64> = pairs.iter().map(|(a, b)| (a / b).ln()).collect();
            Some(options.show_as(None, Summary::of(&logs)?.mean.exp()))
        }),
    );
    let (queries, time, n_seeds) = (facts.queries.clone(), facts.time.clone(), facts.n_seeds);
    environment.add_function("queries", move || queries.clone());
    environment.add_function("time", move || time.clone());
    environment.add_function("seeds", move || n_seeds);
    let outcomes = facts.outcomes.clone();
    environment.add_function("outcome", move |number: usize| {
        let outcome = number.checked_sub(1).and_then(|idx| outcomes.get(idx));
        outcome
            .copied()
            .ok_or_else(|| wrong(format!("no check number {number}; there are {}", outcomes.len())))
    });
}

/// What is said of pairs of values, of which the first have these digits.
type ShowPairs = fn(&Options, Option<Digits>, &[(f64, f64)]) -> Option<String>;

fn differences(pairs: &[(f64, f64)]) -> Option<Summary> {
    Summary::of(&pairs.iter().map(|(a, b)| a - b).collect::<Vec<_>>())
}

impl Facts {
    /// The value of a series without x.
    fn level(&self, series: &str, options: &Options) -> Result<Found, Error> {
        let found = self.find(series, &None, options)?;
        let id = options.panel.as_deref().unwrap_or_default();
        let is_level = self
            .panels
            .iter()
            .filter(|panel| panel.id == id)
            .flat_map(|panel| &panel.points)
            .any(|p| p.x.is_none() && self.series.get(p.series_idx).is_some_and(|known| known == series));
        Ok(if is_level { found } else { Found { values: BTreeMap::new(), ..found } })
    }
}

/// An environment for texts: what is not defined is an error, and no template runs for long.
pub(super) fn bounded() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.set_fuel(Some(100_000));
    environment.set_syntax(plain_syntax());
    environment
}

/// A text with its templates filled.
///
/// # Errors
/// A template that cannot be read or names what there is not, in one line.
pub(super) fn fill(text: &str, facts: &Arc<Facts>) -> Result<String, String> {
    if !text.contains("{{") && !text.contains("{%") {
        return Ok(text.to_owned());
    }
    let mut environment = bounded();
    add_functions(&mut environment, facts);
    environment.render_str(text, ()).map_err(|error| one_line(&error))
}

/// Which line of a template is wrong, and why.
pub(super) fn one_line(error: &Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {reason}"),
        None => reason,
    }
}
