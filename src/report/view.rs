//! What a report says, as text that Markdown and HTML lay out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::experiment::settings;
use crate::experiment::{Experiment, Scale, TensorMeasure, TraceAxis, file_name, split_id};
use crate::metric::{QUERIES, QUERIES_NON_FINITE, TEST_ACCURACY, VAL_ACCURACY, WALL_S};
use crate::results::TrialRecord;
use crate::setting::Settings;
use crate::train::Status;
use crate::{Error, Result};

use super::chart::{Chart, Shape, traces};
use super::check::{Paired, evaluate_checks};
use super::facts::{self, Facts};
use super::film::Film;
use super::html::Run;
use super::loan::Loan;
use super::measured::{Measured, Point};
use super::text::{ABSENT, count, duration, position, signed, significant};
use super::verdict::{Outcome, PointVerdict, Verdict, judge, judge_points};

/// Characters of a checksum or commit that tell it apart.
const N_SHORT: usize = 12;
/// Most different values of a row of provenance that are listed, and how many are where there are more.
const MOST_LISTED: usize = 12;
const FEW_LISTED: usize = 3;

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
    /// Of which scale the finding is.
    pub finding_scale: &'static str,
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
    pub caution: String,
    pub checks: Vec<CheckView>,
    pub figures: Vec<FigureView>,
    /// Pictures of flows.
    pub films: Vec<FilmView>,
    /// One per figure with values, the main one first.
    pub tables: Vec<Table>,
    /// Trials done out of those planned.
    pub progress: String,
    /// Whether all planned trials have ended, and all that is borrowed has a result.
    #[serde(skip)]
    pub is_whole: bool,
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
    /// Markdown, with its numbers; empty if there is none.
    #[serde(skip)]
    pub finding: String,
    /// What templates may ask for.
    #[serde(skip)]
    pub facts: Arc<Facts>,
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
    /// [`Error::Setting`] if the figure's y axis names no known metric, points of other experiments would stand at the same
    /// place, or a finding asks for what there is not.
    pub(super) fn new(
        experiment: &Experiment,
        scales: &BTreeMap<Scale, Vec<TrialRecord>>,
        runs: &[Run],
    ) -> Result<Self> {
        let mut sections: Vec<Section> = Vec::new();
        for scale in Scale::ALL.into_iter().rev() {
            let records = scales.get(&scale).map_or(&[][..], Vec::as_slice);
            let loans = Loan::all(experiment, scale, runs)?;
            if records.iter().any(|r| r.trial.scale == scale) || loans.iter().any(Loan::has_result) {
                let panels = Measured::gather_with(experiment, scale, records, &loans)?;
                sections.push(Section::new(&panels, &loans)?);
            }
        }
        let found = sections.iter().find(|section| !section.finding.is_empty());
        Ok(Self {
            finding: found.map_or(String::new(), |section| section.finding.clone()),
            finding_scale: found.map_or("", |section| section.scale),
            id: experiment.id.clone(),
            title: experiment.title.clone(),
            paper: experiment.paper.clone(),
            claim: experiment.claim.clone(),
            notes: experiment.notes.trim().to_owned(),
            sections,
        })
    }

    /// What stands for the experiment in an overview: the highest scale beyond smoke of which all planned trials have ended
    /// and all that is borrowed has a result; if there is none, the highest with results.
    pub(super) fn main(&self) -> Option<&Section> {
        let is_main = |section: &&Section| section.is_whole && section.scale != Scale::Smoke.name();
        self.sections.iter().find(is_main).or(self.sections.first())
    }
}

impl Section {
    fn new(panels: &[Measured], loans: &[Loan]) -> Result<Self> {
        let measured = &panels[0];
        let checks = evaluate_checks(panels);
        let (verdict, counts) = judge(panels, &checks);
        let scale = measured.scale.name();
        let n_queries = measured.candidates.iter().map(|r| queries(r)).fold(0, u64::saturating_add);
        let seconds: f64 = measured.candidates.iter().map(|r| wall_s(r)).sum();
        let facts = Arc::new(Facts::of(panels, &checks, count_short(n_queries), duration(seconds)));
        let finding = measured.plan().map_or("", |plan| &plan.finding);
        let finding = facts::fill(finding, &facts).map_err(|reason| {
            let id = &measured.experiment.id;
            Error::setting("finding", format!("{id} at {scale} scale: {reason}"))
        })?;
        Ok(Self {
            finding,
            facts,
            scale,
            command: command(measured),
            verdict: verdict.label(),
            tone: match verdict {
                Verdict::Reproduced | Verdict::Confirmed => "good",
                Verdict::NotReproduced | Verdict::Contradicted => "bad",
                Verdict::Undecided | Verdict::NotRun | Verdict::NoClaim | Verdict::NotJudged => "open",
            },
            counts,
            caution: caution(measured),
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
            is_whole: loans.iter().all(Loan::has_result) && measured.is_whole(),
            origins: origins(measured, loans),
            deviations: deviations(measured)?,
            problems: problems(measured),
            cost: cost(measured, n_queries, seconds),
            cost_short: match measured.candidates.is_empty() {
                true => "none of its own".to_owned(),
                false => cost_short(n_queries, seconds, ", "),
            },
            n_queries,
            seconds,
            settings: settings_of(&measured.candidates),
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
    command.push_str(&format!(" --scale {}", measured.scale.name()));
    let n_seeds = measured.candidates.iter().map(|record| record.trial.seed as usize + 1).max();
    if let Some(n_seeds) = n_seeds.filter(|&n| plan.is_some_and(|plan| n > plan.n_seeds)) {
        command.push_str(&format!(" --seeds {n_seeds}"));
    }
    for (key, value) in overrides {
        command.push_str(&format!(" --set {key}={value}"));
    }
    command
}

/// What a reader must know before reading the numbers; empty if nothing.
fn caution(measured: &Measured) -> String {
    [protocol(measured), &early(measured)].map(str::trim).join(" ").trim().to_owned()
}

/// What the scale says of the numbers.
fn protocol(measured: &Measured) -> &'static str {
    let is_compiled = measured.experiment.is_compiled();
    match measured.scale {
        Scale::Smoke => {
            "Smoke scale: synthetic images and minutes of computing. It shows that the experiment runs from end \
             to end; its numbers are no evidence for or against the paper."
        }
        Scale::Laptop | Scale::Overnight if is_compiled => {
            "Reduced scale: published and measured values come from different protocols, and nothing is judged here."
        }
        Scale::Laptop | Scale::Overnight => {
            "Reduced scale: published and measured values come from different protocols, so their difference is \
             shown but not judged. Only the trend is."
        }
        Scale::Paper
            if !split_id(&measured.experiment.id).1.is_empty()
                && !measured.experiment.expected.is_empty() =>
        {
            "Settings were changed on the command line: published values are shown with their distance, and not judged."
        }
        Scale::Paper if measured.points.iter().any(|point| point.is_lossy && point.published.is_some()) => {
            "The images of these runs are a copy that was stored as JPEG. Published accuracies are shown with their distance, \
             and not judged: the page `pixels` measures what such a copy costs. Differences between series are judged."
        }
        Scale::Paper => "",
    }
}

/// That networks are far from what the paper's come to, where they are.
fn early(measured: &Measured) -> String {
    /// Points by which the best network is behind the best published one.
    const FAR: f64 = 10.0;
    if measured.metric != &TEST_ACCURACY || measured.is_relative() || measured.experiment.is_compiled() {
        return String::new();
    }
    let highest = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
    let ours = highest(&mut measured.points.iter().filter_map(|point| Some(point.summary()?.mean)));
    let published =
        highest(&mut measured.points.iter().filter_map(|point| Some(point.published.as_ref()?.value)));
    match ours.is_finite() && published - ours > FAR {
        true => format!(
            "The best network here comes to {} %, the best published one to {} %: all of this is about early training only.",
            measured.number(ours),
            measured.number(published)
        ),
        false => String::new(),
    }
}

/// Queries and time in a few words.
pub(super) fn cost_short(n_queries: u64, seconds: f64, between: &str) -> String {
    format!("{} queries{between}{}", count_short(n_queries), duration(seconds))
}

fn figures(panels: &[Measured]) -> Result<Vec<FigureView>> {
    let main = &panels[0];
    let stem = format!("{}-{}", file_name(&main.experiment.id), main.scale.name());
    let several = panels.iter().any(|panel| panel.finished().any(|p| p.values.len() > 1));
    let spread = |what: &str| {
        if several { format!(" {what}: ± one standard deviation over seeds.") } else { String::new() }
    };
    let paired = Paired::all(panels);
    let mut figures: Vec<FigureView> = Vec::new();
    for measured in panels {
        let of_panel = |is_ratio: bool| {
            let pairs =
                paired.iter().filter(|one| one.panel == measured.panel.id && one.is_ratio == is_ratio);
            pairs.cloned().collect::<Vec<Paired>>()
        };
        let (differences, ratios) = (of_panel(false), of_panel(true));
        let has_pairs = !differences.is_empty() || !ratios.is_empty();
        figures.extend(figure(measured, &stem, &spread("Error bars and bands"), has_pairs));
        for (pairs, ending) in [(differences, "differences"), (ratios, "ratios")] {
            let Some(chart) = Chart::of_pairs(measured, &pairs) else { continue };
            let id = &measured.panel.id;
            let place = if id.is_empty() { ending.to_owned() } else { format!("{id}-{ending}") };
            let limits = if pairs.iter().any(|one| !one.limits.is_empty()) {
                " The other dotted lines are the limits of checks."
            } else {
                ""
            };
            let caption = format!(
                "What the checks are decided by: {ending} of {} at the same seed, their means with 95 % intervals \
                 (Student's t).{limits}",
                measured.panel.y_label
            );
            figures.push(FigureView { stem: format!("{stem}-{place}"), caption, chart });
        }
    }
    for trace in traces(main) {
        let Some((chart, positions)) = Chart::of_trace(main, &trace)? else { continue };
        let along = match trace.x {
            TraceAxis::Epoch => "after each epoch".to_owned(),
            _ => format!("against {} during training", trace.x_label),
        };
        let bands = if chart.is_crowded() { String::new() } else { spread("Bands") };
        let caption = format!("{} {along}{}.{bands}", chart.y_label, positions.text);
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
    let lead = &main.experiment.figure.lead;
    if let Some(idx) = lead.as_ref().and_then(|id| {
        let leading = format!("{stem}-{id}");
        figures.iter().position(|figure| figure.stem == leading)
    }) {
        figures[..=idx].rotate_right(1);
    }
    Ok(figures)
}

/// Pictures of the flow that trials kept, if they did.
fn films(measured: &Measured) -> Vec<FilmView> {
    let view = |film: Film| FilmView {
        stem: format!("{}-{}-wake", file_name(&measured.experiment.id), measured.scale.name()),
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

/// The figure of a panel; `has_pairs` if another one shows what decides.
fn figure(measured: &Measured, stem: &str, spread: &str, has_pairs: bool) -> Option<FigureView> {
    let chart = Chart::of(measured, has_pairs)?;
    let id = &measured.panel.id;
    let published = match &chart.beside {
        _ if measured.points.iter().all(|point| point.published.is_none()) => "",
        Some(_) => " On the right what was published, on an axis of its own.",
        None if measured.experiment.is_compiled() => {
            " Hollow diamonds: published values, in the color of their series."
        }
        None => " Hollow diamonds: values published in the paper, in the color of their series.",
    };
    let has_trials = chart.curves.iter().any(|curve| !curve.trials.is_empty());
    let spread = match has_pairs {
        true if has_trials => " Small dots: single seeds.",
        true => "",
        false => spread,
    };
    let n_curves = chart.curves.iter().filter(|c| !c.points.is_empty()).count();
    let is_shifted = !measured.experiment.is_compiled() && n_curves > 1 && !chart.log_x;
    let side_by_side = if is_shifted && !chart.is_at_one_place() {
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
        format!("{} against {}.{divided}{spread}{side_by_side}{published}", chart.y_label, chart.x_label);
    let ideal = chart.ideal.map_or(String::new(), |cap| {
        let most = if cap.is_finite() { format!(", as far as the {cap} cores go") } else { String::new() };
        format!(" Dotted lines: in proportion to {}{most}.", chart.x_label)
    });
    let model = match chart.curves.iter().any(|curve| curve.shape == Shape::Model) {
        true => " Rings and dotted lines: what a model says of a method, not a run of it.",
        false => "",
    };
    let tuned = measured.tuned().map_or(String::new(), |name| {
        format!(
            " Every point is at the `{name}` with the highest mean validation accuracy there; the table has it, and says \
             where it is the smallest or largest of those that were tried."
        )
    });
    let caption = format!("{caption}{tuned}{ideal}{model}");
    let stem = if id.is_empty() { stem.to_owned() } else { format!("{stem}-{id}") };
    Some(FigureView { stem, caption, chart })
}

/// The values of a panel; `several` if it is not the only one. Points that are not part of this scale have no row, and
/// what is the same in all rows, or in none, no column.
fn table(measured: &Measured, loans: &[Loan], several: bool) -> Table {
    if measured.experiment.is_compiled() {
        return compiled_table(measured, loans);
    }
    let unit = if measured.is_relative() { "ratio" } else { measured.metric.unit.suffix().trim() };
    let with_unit = |name: &str| if unit.is_empty() { name.to_owned() } else { format!("{name} ({unit})") };
    let judged = measured.points.iter().zip(judge_points(measured));
    let judged: Vec<(&Point, PointVerdict)> = judged
        .filter(|(point, _)| point.planned || point.was_tried())
        .map(|(point, (verdict, _))| (point, verdict))
        .collect();
    let cells: Vec<Cells> =
        judged.iter().map(|(point, verdict)| Cells::of(measured, point, *verdict)).collect();
    let is_same = |cell: &dyn Fn(&Cells) -> &str| cells.iter().all(|row| cell(row) == cell(&cells[0]));
    let n = cells.first().map_or("", |row| &row.n);
    let same_n = !cells.is_empty() && is_same(&|row| &row.n) && n.bytes().all(|digit| digit.is_ascii_digit());
    let same_x = cells.len() > 1 && is_same(&|row| &row.x);
    let comparable = measured.scale == Scale::Paper;
    let mut columns: Vec<(String, Column)> = vec![("series".into(), Box::new(|row| &row.series))];
    if !same_x {
        columns.push((measured.experiment.figure.x_label.clone(), Box::new(|row| &row.x)));
    }
    if let Some(name) = measured.tuned() {
        columns.push((name.to_owned(), Box::new(|row| &row.tuned)));
    }
    columns.push((with_unit("ours, mean ± std"), Box::new(|row| &row.ours)));
    let mut optional = |header: String, cell: Column| {
        if cells.iter().any(|row| cell(row) != ABSENT) {
            columns.push((header, cell));
        }
    };
    optional("95 % interval".into(), Box::new(|row| &row.interval));
    if !same_n {
        optional("seeds".into(), Box::new(|row| &row.n));
    }
    if measured.panel.id.is_empty() && measured.metric != &VAL_ACCURACY {
        optional("test accuracy at best validation epoch (%)".into(), Box::new(|row| &row.best));
    }
    optional(with_unit("paper"), Box::new(|row| &row.published));
    if comparable {
        optional("difference".into(), Box::new(|row| &row.difference));
        optional("verdict".into(), Box::new(|row| &row.verdict));
    }
    let rows = cells.iter().zip(&judged).map(|(row, (_, verdict))| Row {
        cells: columns.iter().map(|(_, cell)| cell(row).to_owned()).collect(),
        tone: match verdict {
            PointVerdict::Reproduced => "good",
            PointVerdict::NotReproduced => "bad",
            PointVerdict::Undecided | PointVerdict::NotRun | PointVerdict::None => "open",
        },
    });
    let rows = rows.collect();
    let mut heading = "Values".to_owned();
    if several || measured.is_relative() {
        heading.push_str(&format!(": {}", measured.panel.y_label));
    }
    if let Some(label) = measured.reference_label() {
        heading.push_str(&format!(", divided by {label}"));
    }
    if same_x && cells[0].x != "all" {
        heading.push_str(&format!(", at {} = {}", measured.experiment.figure.x_label, cells[0].x));
    }
    if same_n {
        heading.push_str(&format!(", {n} seed{} each", if n == "1" { "" } else { "s" }));
    }
    Table { heading, header: columns.into_iter().map(|(header, _)| header).collect(), rows }
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
        // Neither a difference nor a verdict: these stand in the exhibits that the points are of.
        let Cells { series, x, published, ours, interval, n, .. } =
            Cells::of(measured, point, PointVerdict::None);
        let own = if point.origins.is_empty() { "own trials".to_owned() } else { point.origins.join("; ") };
        let n = if point.was_tried() { n } else { ABSENT.to_owned() };
        let cells = vec![series, x, published, ours, interval, n, own];
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

/// How the scale deviates from the paper: as the file says, and what follows from its settings.
fn deviations(measured: &Measured) -> Result<Vec<String>> {
    let Some(plan) = measured.plan() else { return Ok(Vec::new()) };
    let mut deviations = plan.deviations.clone();
    let still = plan.never_redrawn()?;
    if !still.is_empty() {
        let labels: Vec<&str> = still.iter().map(|idx| measured.label(*idx)).collect();
        deviations.push(format!(
            "The active set of {} is never drawn anew: there are not more epochs than stand between two draws.",
            labels.join(", ")
        ));
    }
    Ok(deviations)
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
                format!("no result yet: run `deepzero reproduce {id} --scale {}`", measured.scale.name())
            }
        };
        format!("{}: {}; {what}.", label(&loan.borrowed.series), loan.origin(None))
    });
    loans.collect()
}

/// Which cell of a row stands in a column.
type Column = Box<dyn Fn(&Cells) -> &str>;

/// What is said of a point.
struct Cells {
    series: String,
    x: String,
    tuned: String,
    ours: String,
    interval: String,
    n: String,
    best: String,
    published: String,
    difference: String,
    verdict: String,
}

impl Cells {
    fn of(measured: &Measured, point: &Point, verdict: PointVerdict) -> Self {
        let number = |value: f64| measured.number(value);
        let summary = point.summary();
        let published = point.published.as_ref();
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
        let verdict = match (verdict, published) {
            (PointVerdict::Reproduced | PointVerdict::NotReproduced, Some(p)) => {
                let tolerance =
                    p.tolerance.map_or(String::new(), |tolerance| format!(" (± {})", number(tolerance)));
                format!("{}{tolerance}", verdict.label())
            }
            _ => verdict.label().to_owned(),
        };
        let best = super::stats::Summary::of(&point.best.values().copied().collect::<Vec<_>>());
        Self {
            series: measured.label(point.series_idx).to_owned(),
            x: if point.x.is_some() { point.x_text.clone() } else { "all".into() },
            tuned: measured.choice(point).map_or(ABSENT.into(), |choice| match choice.edge {
                Some(edge) => format!("{} ({edge})", choice.value),
                None => choice.value.clone(),
            }),
            ours: summary.map_or(ABSENT.into(), |s| mean_and_std(number, s.mean, s.std)),
            interval,
            n: match (point.values.len(), losses.is_empty()) {
                (n, true) => n.to_string(),
                (n, false) => format!("{n} ({losses})"),
            },
            best: best.map_or(ABSENT.into(), |s| {
                mean_and_std(|value| super::text::number(value, TEST_ACCURACY.digits), s.mean, s.std)
            }),
            published: published.map_or(ABSENT.into(), |p| number(p.value)),
            difference,
            verdict,
        }
    }
}

fn mean_and_std(number: impl Fn(f64) -> String, mean: f64, std: Option<f64>) -> String {
    match std {
        Some(std) => format!("{} ± {}", number(mean), number(std)),
        None => number(mean),
    }
}

/// `34 of 36 planned trials finished (seeds 0, 1, 2); 1 diverged, 1 failed.`
fn progress(measured: &Measured, loans: &[Loan]) -> String {
    let records = &measured.candidates;
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
        Some(plan) => {
            let n_planned = plan.cells.len() * plan.n_seeds;
            let is_further = |record: &&&TrialRecord| {
                record.status == Status::Done && record.trial.seed >= plan.n_seeds as u64
            };
            let n_further = records.iter().filter(is_further).count();
            let further =
                if n_further == 0 { String::new() } else { format!(" and {n_further} of further seeds") };
            format!("{} of {n_planned} planned trials{further} finished", n_done - n_further)
        }
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
    for record in &measured.candidates {
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
        let tuned = match measured.experiment.tuned {
            Some(name) if !record.trial.tuned.is_empty() => format!(", {name} = {}", record.trial.tuned),
            _ => String::new(),
        };
        let error = record.error.trim();
        let n_epochs = record.epochs.len();
        problems.push(format!(
            "{label}{x}{tuned}, seed {}: {how} after {n_epochs} epoch{}{}{error}",
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
    let records = &measured.candidates;
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
        let n_listed = if values.len() > MOST_LISTED { FEW_LISTED } else { values.len() };
        let more = values.len() - n_listed;
        let list = values.into_iter().take(n_listed).collect::<Vec<_>>().join("; ");
        if more > 0 { format!("{list}; and {more} others, which the result files name") } else { list }
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

/// Every setting that changes something in some trial, with its values over the trials, those that differ first.
fn settings_of(records: &[&TrialRecord]) -> Vec<(String, String)> {
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
    let idle = settings::idle(settings);
    let shown = settings.shown().filter(|(name, _)| !idle.contains(name));
    shown.map(|(name, value)| (name.to_owned(), text(value))).collect()
}
