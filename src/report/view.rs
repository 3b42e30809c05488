//! What a report says, as text that Markdown and HTML lay out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Result;
use crate::experiment::{Experiment, Scale, TensorMeasure, TraceAxis, file_name, split_id};
use crate::metric::{QUERIES, QUERIES_NON_FINITE, TEST_ACCURACY, WALL_S};
use crate::results::TrialRecord;
use crate::setting::Settings;
use crate::train::Status;

use super::chart::{Chart, traces};
use super::check::evaluate_checks;
use super::film::Film;
use super::html::Run;
use super::loan::Loan;
use super::measured::{Measured, Point};
use super::text::{count, duration, position, signed, significant};
use super::verdict::{Outcome, PointVerdict, Verdict, judge, judge_points};

/// Characters of a checksum or commit that tell it apart.
const N_SHORT: usize = 12;

/// One experiment at all scales that have records.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub id: String,
    pub title: String,
    /// `Fig. 4`; empty for an experiment that is not in the paper.
    pub paper: String,
    pub claim: String,
    /// Markdown; empty if there is none.
    pub finding: String,
    /// Markdown.
    pub notes: String,
    /// One per scale with records, highest scale first.
    pub sections: Vec<Section>,
}

/// One scale of an experiment. All texts are Markdown.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Section {
    pub scale: &'static str,
    pub command: String,
    pub verdict: &'static str,
    /// `good`, `bad` or `open`, for colors.
    pub tone: &'static str,
    /// How many values and checks came out how.
    pub counts: String,
    /// What a reader must know before reading the numbers; empty if nothing.
    pub caution: &'static str,
    pub checks: Vec<CheckView>,
    pub figures: Vec<FigureView>,
    /// Pictures of flows.
    pub films: Vec<FilmView>,
    /// One per figure with values, the main one first.
    pub tables: Vec<Table>,
    /// Trials done out of those planned.
    pub progress: String,
    /// Of points that are not of the experiment's own trials.
    pub origins: Vec<String>,
    pub deviations: Vec<String>,
    pub problems: Vec<String>,
    pub cost: Vec<(&'static str, String)>,
    /// Queries and time in a few words, for the overview.
    pub cost_short: String,
    /// Queries of all trials.
    pub n_queries: u64,
    /// Seconds of all trials.
    pub seconds: f64,
    /// Settings that all trials share, and the values of those that differ.
    pub settings: Vec<(String, String)>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct CheckView {
    pub text: String,
    pub outcome: &'static str,
    pub tone: &'static str,
    pub reason: String,
    pub details: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct FigureView {
    /// File name without `.svg` or `.png`.
    pub stem: String,
    pub caption: String,
    #[serde(skip)]
    pub chart: Chart,
}

/// A still picture `<stem>.png` and a moving one `<stem>-film.png`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FilmView {
    /// File name of the still one without `.png`.
    pub stem: String,
    pub caption: String,
    pub description: String,
    #[serde(skip)]
    pub film: Film,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Table {
    pub heading: String,
    pub header: Vec<String>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub cells: Vec<String>,
    pub tone: &'static str,
}

impl Report {
    /// Computes all that a report on the experiment says; `runs` are those that it may take points from.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] if the figure's y axis names no known metric, or points of other experiments would
    /// stand at the same place.
    pub(super) fn new(
        experiment: &Experiment,
        scales: &BTreeMap<Scale, Vec<TrialRecord>>,
        runs: &[Run],
    ) -> Result<Self> {
        let mut sections = Vec::new();
        for scale in Scale::ALL.into_iter().rev() {
            let records = scales.get(&scale).map_or(&[][..], Vec::as_slice);
            let loans = Loan::all(experiment, scale, runs)?;
            if records.iter().any(|r| r.trial.scale == scale) || loans.iter().any(Loan::has_result) {
                let panels = Measured::gather_with(experiment, scale, records, &loans)?;
                sections.push(Section::new(&panels, &loans)?);
            }
        }
        Ok(Self {
            id: experiment.id.clone(),
            title: experiment.title.clone(),
            paper: experiment.paper.clone(),
            claim: experiment.claim.clone(),
            finding: experiment.finding.trim().to_owned(),
            notes: experiment.notes.trim().to_owned(),
            sections,
        })
    }
}

impl Section {
    fn new(panels: &[Measured], loans: &[Loan]) -> Result<Self> {
        let measured = &panels[0];
        let checks = evaluate_checks(panels);
        let (verdict, counts) = judge(panels, &checks);
        let scale = scale_name(measured.scale);
        let n_queries = measured.records.iter().map(|r| queries(r)).fold(0, u64::saturating_add);
        let seconds: f64 = measured.records.iter().map(|r| wall_s(r)).sum();
        Ok(Self {
            scale,
            command: command(measured),
            verdict: verdict.label(),
            tone: match verdict {
                Verdict::Reproduced | Verdict::Confirmed => "good",
                Verdict::NotReproduced | Verdict::Contradicted => "bad",
                Verdict::Undecided | Verdict::NotRun | Verdict::NoClaim | Verdict::NotJudged => "open",
            },
            counts,
            caution: caution(measured.scale, measured.experiment.is_compiled()),
            checks: checks
                .into_iter()
                .map(|check| CheckView {
                    text: check.text,
                    outcome: check.outcome.label(),
                    tone: match check.outcome {
                        Outcome::Confirmed => "good",
                        Outcome::Contradicted => "bad",
                        Outcome::Undecided | Outcome::NotRun => "open",
                    },
                    reason: check.reason,
                    details: check.details,
                })
                .collect(),
            figures: figures(panels)?,
            films: films(measured),
            tables: panels.iter().map(|measured| table(measured, loans, panels.len() > 1)).collect(),
            progress: progress(measured, loans),
            origins: origins(measured, loans),
            deviations: measured.plan().map(|plan| plan.deviations.clone()).unwrap_or_default(),
            problems: problems(measured),
            cost: cost(measured, n_queries, seconds),
            cost_short: match measured.records.is_empty() {
                true => "none of its own".to_owned(),
                false => cost_short(n_queries, seconds, ", "),
            },
            n_queries,
            seconds,
            settings: settings(&measured.records),
        })
    }
}

/// What a user types to make the section's numbers.
fn command(measured: &Measured) -> String {
    let (base, overrides) = split_id(&measured.experiment.id);
    let plan = measured.experiment.scales.get(&measured.scale);
    let mut command = match base.strip_prefix("sweep-") {
        Some(axis) => {
            let mut values: Vec<&str> = Vec::new();
            for cell in plan.into_iter().flat_map(|plan| &plan.cells) {
                if !values.contains(&cell.x_text.as_str()) {
                    values.push(&cell.x_text);
                }
            }
            format!("deepzero sweep {axis} --values {}", values.join(","))
        }
        None => format!("deepzero reproduce {base}"),
    };
    command.push_str(&format!(" --scale {}", scale_name(measured.scale)));
    let n_seeds = measured.records.iter().map(|record| record.trial.seed as usize + 1).max();
    if let Some(n_seeds) = n_seeds.filter(|&n| plan.is_some_and(|plan| n > plan.n_seeds)) {
        command.push_str(&format!(" --seeds {n_seeds}"));
    }
    for (key, value) in overrides {
        command.push_str(&format!(" --set {key}={value}"));
    }
    command
}

pub(super) fn scale_name(scale: Scale) -> &'static str {
    match scale {
        Scale::Smoke => "smoke",
        Scale::Laptop => "laptop",
        Scale::Paper => "paper",
    }
}

fn caution(scale: Scale, is_compiled: bool) -> &'static str {
    match scale {
        Scale::Smoke => {
            "Smoke scale: synthetic images and minutes of computing. It shows that the experiment runs from end \
             to end; its numbers are no evidence for or against the paper."
        }
        Scale::Laptop if is_compiled => {
            "Reduced scale: published and measured values come from different protocols, and nothing is judged here."
        }
        Scale::Laptop => {
            "Reduced scale: published and measured values come from different protocols, so their difference is \
             shown but not judged. Only the trend is."
        }
        Scale::Paper => "",
    }
}

/// Queries and time in a few words.
pub(super) fn cost_short(n_queries: u64, seconds: f64, between: &str) -> String {
    format!("{} queries{between}{}", count_short(n_queries), duration(seconds))
}

fn figures(panels: &[Measured]) -> Result<Vec<FigureView>> {
    let main = &panels[0];
    let stem = format!("{}-{}", file_name(&main.experiment.id), scale_name(main.scale));
    let several = panels.iter().any(|panel| panel.finished().any(|p| p.values.len() > 1));
    let spread = |what: &str| {
        if several { format!(" {what}: ± one standard deviation over seeds.") } else { String::new() }
    };
    let mut figures: Vec<FigureView> = panels
        .iter()
        .filter_map(|measured| figure(measured, &stem, &spread("Error bars and bands")))
        .collect();
    for trace in traces(main) {
        let Some((chart, positions)) = Chart::of_trace(main, &trace)? else { continue };
        let along = match trace.x {
            TraceAxis::Epoch => "after each epoch".to_owned(),
            _ => format!("against {} during training", trace.x_label),
        };
        let caption = format!("{} {along}{}.{}", chart.y_label, positions.text, spread("Bands"));
        figures.push(FigureView { stem: format!("{stem}-{}", trace.id), caption, chart });
    }
    for layers in &main.experiment.layers {
        let Some((chart, positions)) = Chart::of_layers(main, layers) else { continue };
        let which = match layers.y {
            TensorMeasure::Keep => "convolution and linear weight",
            TensorMeasure::Cosine | TensorMeasure::RelativeError => "parameter tensor",
        };
        let caption = format!(
            "{} of each {which}, from the input to the output{}.{}",
            chart.y_label,
            positions.text,
            spread("Error bars")
        );
        figures.push(FigureView { stem: format!("{stem}-{}", layers.id), caption, chart });
    }
    for profile in &main.experiment.profiles {
        let Some((chart, positions)) = Chart::of_profile(main, profile)? else { continue };
        let caption =
            format!("{} against {}{}.{}", chart.y_label, chart.x_label, positions.text, spread("Error bars"));
        figures.push(FigureView { stem: format!("{stem}-{}", profile.id), caption, chart });
    }
    Ok(figures)
}

/// Pictures of the flow that trials kept, if they did.
fn films(measured: &Measured) -> Vec<FilmView> {
    let view = |film: Film| FilmView {
        stem: format!("{}-{}-wake", file_name(&measured.experiment.id), scale_name(measured.scale)),
        caption: format!(
            "Vorticity of the test simulation in the middle at time {}, the flow going to the right: of the fine \
             simulation, restricted to the coarse grid, and of the first seed of every series.",
            film.last_frame()
        ),
        description: film.description(),
        film,
    };
    Film::of(measured).map(view).into_iter().collect()
}

/// The figure of a panel.
fn figure(measured: &Measured, stem: &str, spread: &str) -> Option<FigureView> {
    let chart = Chart::of(measured)?;
    let id = &measured.panel.id;
    let is_compiled = measured.experiment.is_compiled();
    let paper = if measured.points.iter().all(|point| point.published.is_none()) {
        ""
    } else if is_compiled {
        " Hollow diamonds: published values, in the color of their series."
    } else {
        " Hollow diamonds: values published in the paper, in the color of their series."
    };
    let side_by_side = if !is_compiled && chart.curves.iter().filter(|c| c.level.is_none()).count() > 1 {
        " Series are drawn slightly apart at the same x."
    } else {
        ""
    };
    let divided = measured.reference_label().map_or(String::new(), |reference| {
        format!(
            " Every value is divided by that of {reference} at the same seed{}.",
            match measured.reference.iter().any(|point| point.x.is_some()) {
                true => format!(" and {}", chart.x_label),
                false => String::new(),
            }
        )
    });
    let caption =
        format!("{} against {}.{divided}{spread}{side_by_side}{paper}", chart.y_label, chart.x_label);
    let stem = if id.is_empty() { stem.to_owned() } else { format!("{stem}-{id}") };
    Some(FigureView { stem, caption, chart })
}

/// The values of a panel; `several` if it is not the only one.
fn table(measured: &Measured, loans: &[Loan], several: bool) -> Table {
    if measured.experiment.is_compiled() {
        return compiled_table(measured, loans);
    }
    let is_main = measured.panel.id.is_empty();
    let has_best = is_main && measured.points.iter().any(|p| !p.best.is_empty());
    let unit = if measured.is_relative() { "ratio" } else { measured.metric.unit.suffix().trim() };
    let with_unit =
        |name: &str, unit: &str| if unit.is_empty() { name.to_owned() } else { format!("{name} ({unit})") };
    let comparable = measured.scale == Scale::Paper;
    let mut header = vec![
        "series".to_owned(),
        measured.experiment.figure.x_label.clone(),
        with_unit("paper", unit),
        with_unit("ours, mean ± std", unit),
        "95 % interval".into(),
        "n".into(),
        if comparable { "difference" } else { "difference (not comparable)" }.into(),
        "verdict".into(),
    ];
    if has_best {
        header.insert(6, "test accuracy at best validation epoch (%)".into());
    }
    let judged = measured.points.iter().zip(judge_points(measured));
    let mut rows: Vec<Row> =
        judged.map(|(point, (verdict, _))| row(measured, point, verdict, has_best)).collect();
    if measured.is_relative() {
        let reference = measured.reference.iter();
        rows.extend(reference.map(|point| row(measured, point, PointVerdict::None, has_best)));
        let absolute = with_unit("ours before division, mean ± std", measured.metric.unit.suffix().trim());
        header.splice(4..4, [absolute, "paper, as published".to_owned()]);
        for (row, point) in rows.iter_mut().zip(measured.points.iter().chain(&measured.reference)) {
            row.cells.splice(4..4, absolute_cells(measured, point));
        }
    }
    let relative = measured.reference_label().map_or(String::new(), |label| format!(" (divided by {label})"));
    let heading = match several || measured.is_relative() {
        true => format!("Values: {}{relative}", measured.panel.y_label),
        false => "Values".to_owned(),
    };
    Table { heading, header, rows }
}

/// The values of a panel whose points are not all of its own trials, with where they come from.
fn compiled_table(measured: &Measured, loans: &[Loan]) -> Table {
    let unit = measured.metric.unit.suffix().trim();
    let with_unit = |name: &str| if unit.is_empty() { name.to_owned() } else { format!("{name} ({unit})") };
    let header = vec![
        "series".to_owned(),
        measured.experiment.figure.x_label.clone(),
        with_unit("published"),
        with_unit("ours, mean ± std"),
        "95 % interval".into(),
        "n".into(),
        "from".into(),
    ];
    let mut rows: Vec<(usize, Row)> = Vec::new();
    for point in &measured.points {
        let mut cells = row(measured, point, PointVerdict::None, false).cells;
        // Neither a difference nor a verdict: these stand in the exhibits that the points are of.
        cells.truncate(header.len() - 1);
        let own = if point.origins.is_empty() { "own trials".to_owned() } else { point.origins.join("; ") };
        if !point.was_tried() {
            cells[5] = ABSENT.to_owned();
        }
        cells.push(own);
        rows.push((point.series_idx, Row { cells, tone: "open" }));
    }
    let missing = loans.iter().filter(|loan| !loan.has_result());
    rows.extend(missing.filter_map(|loan| {
        let idx = super::measured::series_idx(measured.experiment, &loan.borrowed.series)?;
        let absent = || ABSENT.to_owned();
        let origin = format!("{}: no result yet", loan.origin(None));
        let label = measured.label(idx).to_owned();
        let cells = vec![label, absent(), absent(), absent(), absent(), absent(), origin];
        Some((idx, Row { cells, tone: "open" }))
    }));
    rows.sort_by_key(|(idx, _)| *idx);
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    let heading = match measured.panel.id.is_empty() {
        true => "Values".to_owned(),
        false => format!("Values: {}", measured.panel.y_label),
    };
    Table { heading, header, rows }
}

/// What the points taken from others are, and what to run for those that are missing.
fn origins(measured: &Measured, loans: &[Loan]) -> Vec<String> {
    let label = |id: &str| {
        super::measured::series_idx(measured.experiment, id)
            .map_or(String::new(), |idx| measured.label(idx).into())
    };
    let loans = loans.iter().map(|loan| {
        let id = &loan.borrowed.experiment;
        let what = match loan.has_result() {
            true => format!("see [{id}]({}.md)", file_name(id)),
            false => {
                format!("no result yet: run `deepzero reproduce {id} --scale {}`", scale_name(measured.scale))
            }
        };
        format!("{}: {}; {what}.", label(&loan.borrowed.series), loan.origin(None))
    });
    loans.collect()
}

/// In a relative figure, our value and the published one before the division.
fn absolute_cells(measured: &Measured, point: &Point) -> [String; 2] {
    let summary = super::stats::Summary::of(&point.absolute.values().copied().collect::<Vec<_>>());
    let ours = summary
        .map(|s| mean_and_std(|value| super::text::number(value, measured.metric.digits), s.mean, s.std));
    let published = point.published_absolute.as_ref().map(|p| {
        let space = if p.unit.is_empty() { "" } else { " " };
        format!("{}{space}{} ({})", p.value, p.unit, p.source)
    });
    [ours.unwrap_or(ABSENT.into()), published.unwrap_or(ABSENT.into())]
}

/// In place of a number that there is not.
const ABSENT: &str = "—";

fn row(measured: &Measured, point: &Point, verdict: PointVerdict, has_best: bool) -> Row {
    let number = |value: f64| measured.number(value);
    let summary = point.summary();
    let published = point.published.as_ref();
    let ours = match &summary {
        None => ABSENT.to_owned(),
        Some(s) => mean_and_std(number, s.mean, s.std),
    };
    let interval =
        summary.and_then(|s| Some((s.mean, s.ci95_half?))).map_or(ABSENT.into(), |(mean, half)| {
            let (low, high) = measured.range().interval(mean, half);
            format!("{} to {}", number(low), number(high))
        });
    let difference = match (&summary, published) {
        (Some(s), Some(p)) => signed(&number(s.mean - p.value)),
        _ => ABSENT.to_owned(),
    };
    let losses = point.losses();
    let n = match (point.values.len().max(point.absolute.len()), losses.is_empty()) {
        (n, true) => n.to_string(),
        (n, false) => format!("{n} ({losses})"),
    };
    let judged = match (verdict, published) {
        (PointVerdict::Reproduced | PointVerdict::NotReproduced, Some(p)) => {
            let tolerance =
                p.tolerance.map_or(String::new(), |tolerance| format!(" (± {})", number(tolerance)));
            format!("{}{tolerance}", verdict.label())
        }
        _ => verdict.label().to_owned(),
    };
    let mut label = measured.label(point.series_idx).to_owned();
    if measured.reference.iter().any(|reference| reference.series_idx == point.series_idx) {
        label.push_str(" (divisor)");
    }
    let mut cells = vec![
        label,
        if point.x.is_some() { point.x_text.clone() } else { "all".into() },
        published.map_or(ABSENT.into(), |p| number(p.value)),
        ours,
        interval,
        n,
        difference,
        judged,
    ];
    if has_best {
        let best = super::stats::Summary::of(&point.best.values().copied().collect::<Vec<_>>());
        let text = best.map_or(ABSENT.into(), |s| {
            mean_and_std(|value| super::text::number(value, TEST_ACCURACY.digits), s.mean, s.std)
        });
        cells.insert(6, text);
    }
    let tone = match verdict {
        PointVerdict::Reproduced => "good",
        PointVerdict::NotReproduced => "bad",
        PointVerdict::Undecided | PointVerdict::NotRun | PointVerdict::None => "open",
    };
    Row { cells, tone }
}

fn mean_and_std(number: impl Fn(f64) -> String, mean: f64, std: Option<f64>) -> String {
    match std {
        Some(std) => format!("{} ± {}", number(mean), number(std)),
        None => number(mean),
    }
}

/// `34 of 36 planned trials finished (seeds 0, 1, 2); 1 diverged, 1 failed.`
fn progress(measured: &Measured, loans: &[Loan]) -> String {
    let records = &measured.records;
    let taken = if measured.experiment.is_compiled() {
        let n_missing = loans.iter().filter(|loan| !loan.has_result()).count();
        let n_points =
            measured.points.iter().filter(|p| !p.values.is_empty() && !p.origins.is_empty()).count();
        let missing =
            if n_missing > 0 { format!(", {n_missing} without a result yet") } else { String::new() };
        let n_quoted = measured.experiment.quoted.len();
        format!(
            "{n_points} points from the results of other experiments{missing}; {n_quoted} published ones."
        )
    } else {
        String::new()
    };
    if records.is_empty() && measured.plan().is_none_or(|plan| plan.cells.is_empty()) {
        return taken;
    }
    let with = |status| records.iter().filter(|r| r.status == status).count();
    let seeds: BTreeSet<u64> = records.iter().map(|r| r.trial.seed).collect();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let n_done = with(Status::Done);
    let done = match measured.plan() {
        Some(plan) => format!("{n_done} of {} planned trials finished", plan.cells.len() * plan.n_seeds),
        None => format!("{n_done} trials finished"),
    };
    let mut text = format!("{done} (seed{} {})", if seeds.len() == 1 { "" } else { "s" }, seeds.join(", "));
    for (n, how) in [(with(Status::Diverged), "diverged"), (with(Status::Failed), "failed")] {
        if n > 0 {
            text.push_str(&format!("; {n} {how}"));
        }
    }
    text.push('.');
    if !taken.is_empty() {
        text.push_str(&format!(" {taken}"));
    }
    text
}

/// Trials that are missing from the means, and why.
fn problems(measured: &Measured) -> Vec<String> {
    let mut problems = Vec::new();
    for record in &measured.records {
        let how = match record.status {
            Status::Diverged => "diverged",
            Status::Failed => "failed",
            Status::Done if measured.metric.of(&record.epochs).is_none() => "finished without a finite value",
            Status::Done => continue,
        };
        let label = series_label(measured, record);
        let x = if record.trial.x_text.is_empty() {
            String::new()
        } else {
            format!(", {} = {}", measured.experiment.figure.x_label, record.trial.x_text)
        };
        let error = record.error.trim();
        let n_epochs = record.epochs.len();
        problems.push(format!(
            "{label}{x}, seed {}: {how} after {n_epochs} epoch{}{}{error}",
            record.trial.seed,
            if n_epochs == 1 { "" } else { "s" },
            if error.is_empty() { "." } else { ": " },
        ));
    }
    if measured.n_strangers > 0 {
        problems.push(format!(
            "{} trials belong to series that this experiment no longer has; they are left out.",
            measured.n_strangers
        ));
    }
    problems
}

fn series_label<'a>(measured: &Measured<'a>, record: &TrialRecord) -> &'a str {
    let idx = super::measured::series_idx(measured.experiment, &record.trial.series);
    measured.label(idx.expect("strangers are out"))
}

fn queries(record: &TrialRecord) -> u64 {
    record.epochs.last().and_then(|row| row.get_count(&QUERIES)).unwrap_or(0)
}

fn wall_s(record: &TrialRecord) -> f64 {
    record.epochs.last().map_or(0.0, |row| row.get(&WALL_S))
}

fn cost(measured: &Measured, n_queries: u64, seconds: f64) -> Vec<(&'static str, String)> {
    let records = &measured.records;
    if records.is_empty() {
        let pages: Vec<String> = (measured.experiment.lenders().iter())
            .map(|id| format!("[{id}]({}.md)", file_name(id)))
            .collect();
        return vec![("Trials", format!("None of its own; see {}.", pages.join(", ")))];
    }
    let n = records.len().max(1);
    let range = |values: Vec<f64>, show: &dyn Fn(f64) -> String| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if show(low) == show(high) { String::new() } else { format!(" ({} to {})", show(low), show(high)) }
    };
    let show_count = |v: f64| count_short(v as u64);
    let n_queries_of = records.iter().map(|r| queries(r) as f64).collect();
    let seconds_of = records.iter().map(|r| wall_s(r)).collect();
    let bad = records.iter().filter_map(|r| r.epochs.last()?.get_count(&QUERIES_NON_FINITE));
    let n_bad = bad.fold(0, u64::saturating_add);
    let short = |text: &str| text.chars().take(N_SHORT).collect::<String>();
    let each = |field: &dyn Fn(&TrialRecord) -> String| {
        let values: BTreeSet<String> =
            records.iter().map(|r| field(r)).filter(|text| !text.is_empty()).collect();
        values.into_iter().collect::<Vec<_>>().join("; ")
    };
    let code = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
    let dates = records.iter().map(|r| r.provenance.finished_at.get(..10).unwrap_or_default());
    let (first, last) = (dates.clone().min().unwrap_or_default(), dates.max().unwrap_or_default());
    let bad = if n_bad > 0 { format!(", {} of them not finite", count(n_bad)) } else { String::new() };
    let rows = vec![
        ("Queries, total", format!("{}{bad}", count(n_queries))),
        (
            "Queries per trial",
            format!(
                "{} on average{}",
                show_count(n_queries as f64 / n as f64),
                range(n_queries_of, &show_count)
            ),
        ),
        ("Time, total", duration(seconds)),
        (
            "Time per trial",
            format!("{} on average{}", duration(seconds / n as f64), range(seconds_of, &duration)),
        ),
        ("Processor", each(&|r| r.provenance.cpu.clone())),
        ("Device", each(&|r| r.provenance.device.clone())),
        ("Kernels", each(&|r| r.provenance.kernels.clone())),
        ("Threads", each(&|r| r.provenance.threads.to_string())),
        (
            "deepzero",
            each(&|r| format!("{} (commit {})", r.provenance.version, short_commit(&r.provenance.commit))),
        ),
        ("Crates", each(&|r| r.provenance.crates.clone())),
        ("Data, SHA-256", each(&|r| code(short(&r.provenance.data_checksum)))),
        ("Finished", if first == last { first.to_owned() } else { format!("{first} to {last}") }),
    ];
    rows.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

/// The first characters of a commit, and its `-dirty` mark.
fn short_commit(commit: &str) -> String {
    let (hash, mark) = commit.split_once('-').map_or((commit, ""), |(hash, _)| (hash, "-dirty"));
    format!("{}{mark}", hash.chars().take(N_SHORT).collect::<String>())
}

fn count_short(n: u64) -> String {
    let value = n as f64;
    match n {
        0..100_000 => count(n),
        100_000..1_000_000_000 => format!("{} million", position(three_digits(value / 1e6))),
        1_000_000_000..1_000_000_000_000 => format!("{} billion", position(three_digits(value / 1e9))),
        _ => significant(value),
    }
}

fn three_digits(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor() - 2.0);
    (value / unit).round() * unit
}

/// Every setting that some trial reads, with its values over the trials, those that differ first.
fn settings(records: &[&TrialRecord]) -> Vec<(String, String)> {
    let mut names: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        for (name, value) in fields(&record.trial.settings) {
            let seen = values.entry(name.clone()).or_insert_with(|| {
                names.push(name);
                Vec::new()
            });
            if !seen.contains(&value) {
                seen.push(value);
            }
        }
    }
    let (same, differing): (Vec<String>, Vec<String>) = names.into_iter().partition(|n| values[n].len() == 1);
    differing.into_iter().chain(same).map(|name| (name.clone(), values[&name].join(", "))).collect()
}

fn fields(settings: &Settings) -> Vec<(String, String)> {
    let text = |value: toml::Value| match value {
        toml::Value::String(text) => text,
        other => serde_json::to_string(&other).unwrap_or_default(),
    };
    settings.shown().map(|(name, value)| (name.to_owned(), text(value))).collect()
}
