//! All reports as one self-contained HTML page: style and figures inside, nothing loaded.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use rayon::prelude::*;
use serde::Serialize;

use crate::Result;
use crate::experiment::{Experiment, Scale, split_id};
use crate::results::TrialRecord;

use super::exhibits::EXHIBITS;
use super::plot;
use super::prose;
use super::view::{Report, cost_short};

/// An experiment with its records by scale.
pub type Run = (Experiment, BTreeMap<Scale, Vec<TrialRecord>>);

/// The page over all experiments given; exhibits of the paper that are not among them are listed as
/// not yet built.
///
/// # Errors
/// [`crate::Error::Setting`] if a figure's y axis names no known metric.
pub fn html(runs: &[Run]) -> Result<String> {
    let reports = runs
        .iter()
        .map(|(experiment, scales)| Report::new(experiment, scales, runs))
        .collect::<Result<Vec<_>>>()?;
    Ok(render(&reports))
}

/// A card of the contact sheet, and a line of the table.
#[derive(Serialize)]
struct Overview<'r> {
    id: &'r str,
    paper: &'r str,
    title: &'r str,
    is_built: bool,
    has_results: bool,
    scale: &'r str,
    verdict: &'r str,
    tone: &'r str,
    /// How many values and checks came out how; empty at smoke scale.
    counts: &'r str,
    cost: &'r str,
    /// SVG of the first figure; empty if there is none.
    thumbnail: Value,
}

/// The page as text.
pub(super) fn render(reports: &[Report]) -> String {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.set_syntax(plain_syntax());
    environment.add_filter("inline", |text: String| Value::from_safe_string(prose::inline(&text)));
    environment.add_filter("blocks", |text: String| Value::from_safe_string(prose::blocks(&text)));
    for (name, source) in [
        ("index.html", include_str!("templates/index.html")),
        ("report.html", include_str!("templates/report.html")),
        ("style.css", include_str!("templates/style.css")),
    ] {
        environment.add_template(name, source).expect("the embedded templates are correct");
    }
    let reports = in_order(reports);
    let figures: Vec<_> =
        reports.iter().flat_map(|r| &r.sections).flat_map(|section| &section.figures).collect();
    let figures: BTreeMap<&str, Value> = figures
        .par_iter()
        .map(|figure| (figure.stem.as_str(), inline_svg(&plot::svg(&figure.chart))))
        .collect();
    // Inside the page too, as what it shows.
    let pictures: BTreeMap<&str, String> = (reports.iter().flat_map(|r| &r.sections))
        .flat_map(|section| &section.films)
        .map(|view| (view.stem.as_str(), format!("data:image/png;base64,{}", base64(&view.film.still()))))
        .collect();
    let page = environment.get_template("index.html").expect("it was added above").render(context! {
        state => state(&reports),
        has_findings => reports.iter().any(|report| !report.finding.is_empty()),
        groups => Serde(overview(&reports)),
        reports => Serde(reports),
        figures => figures,
        pictures => pictures,
    });
    page.expect("the embedded templates use only what they are given")
}

/// Lines of statements alone leave no empty lines behind.
pub(super) fn plain_syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.expect("the default delimiters are valid")
}

/// Bytes as text (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, idx| word << 8 | u32::from(part.get(idx).copied().unwrap_or(0)));
        for idx in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * idx) & 63) as usize] as char;
            text.push(if idx <= part.len() { digit } else { '=' });
        }
    }
    text
}

/// The paper's exhibits in its order, then everything else as given.
fn in_order(reports: &[Report]) -> Vec<&Report> {
    let place = |report: &Report| EXHIBITS.iter().position(|e| e.id == report.id).unwrap_or(EXHIBITS.len());
    let mut ordered: Vec<&Report> = reports.iter().collect();
    ordered.sort_by_key(|report| place(report));
    ordered
}

/// Lines of the overview under a heading.
#[derive(Serialize)]
struct Group<'r> {
    heading: &'static str,
    rows: Vec<Overview<'r>>,
}

/// The sixteen exhibits; then our own experiments, and everything else, if there are any.
fn overview<'r>(reports: &[&'r Report]) -> Vec<Group<'r>> {
    let exhibits = EXHIBITS.iter().map(|exhibit| {
        reports.iter().find(|r| r.id == exhibit.id).map_or(
            Overview {
                id: exhibit.id,
                paper: exhibit.paper,
                title: exhibit.title,
                is_built: false,
                has_results: false,
                scale: "—",
                verdict: "not yet built",
                tone: "absent",
                counts: "",
                cost: "—",
                thumbnail: Value::from(""),
            },
            |report| line(report),
        )
    });
    let others = reports.iter().filter(|report| !is_exhibit(report));
    let (own, rest): (Vec<&'r Report>, Vec<&'r Report>) = others.copied().partition(|report| is_own(report));
    let lines = |reports: Vec<&'r Report>| reports.into_iter().map(line).collect::<Vec<_>>();
    let groups = [
        Group { heading: "Tables and figures of the paper", rows: exhibits.collect() },
        Group { heading: "Our own experiments", rows: lines(own) },
        Group { heading: "Sweeps and variants", rows: lines(rest) },
    ];
    groups.into_iter().filter(|group| !group.rows.is_empty()).collect()
}

fn is_exhibit(report: &Report) -> bool {
    EXHIBITS.iter().any(|exhibit| exhibit.id == report.id)
}

/// Whether it is an experiment of ours with an article of its own, rather than a sweep or an experiment
/// with settings changed on the command line.
fn is_own(report: &Report) -> bool {
    let (_, overrides) = split_id(&report.id);
    report.paper.is_empty() && !report.id.starts_with("sweep-") && overrides.is_empty()
}

/// An experiment at its [main](Report::main) scale. At smoke scale its verdict is worth nothing.
fn line(report: &Report) -> Overview<'_> {
    let best = report.main();
    let is_smoke = best.is_some_and(|section| section.scale == Scale::Smoke.name());
    let figure = best.and_then(|section| section.figures.first());
    Overview {
        id: &report.id,
        paper: &report.paper,
        title: &report.title,
        is_built: true,
        has_results: best.is_some(),
        scale: best.map_or("—", |s| s.scale),
        verdict: best.map_or("not run", |s| if is_smoke { "smoke only" } else { s.verdict }),
        tone: best.map_or("open", |s| if is_smoke { "faint" } else { s.tone }),
        counts: best.map_or("", |s| if is_smoke { "" } else { &s.counts }),
        cost: best.map_or("—", |s| &s.cost_short),
        thumbnail: figure.map_or(Value::from(""), |figure| inline_svg(&plot::thumbnail(&figure.chart))),
    }
}

/// What the overview says of experiments, by id: verdict, counts, scale, cost, title, place in the paper.
pub(super) fn overview_of<'r>(reports: impl Iterator<Item = &'r Report>) -> BTreeMap<String, [String; 6]> {
    let texts = reports.map(|report| {
        let Overview { verdict, counts, scale, cost, title, paper, .. } = line(report);
        (report.id.clone(), [verdict, counts, scale, cost, title, paper].map(str::to_owned))
    });
    texts.collect()
}

/// How many of the sixteen exhibits are there, at which scale, and what all runs on the page have cost.
fn state(reports: &[&Report]) -> String {
    let built: Vec<&&Report> = reports.iter().filter(|report| is_exhibit(report)).collect();
    let at = |scale: Scale| {
        let name = scale.name();
        built.iter().filter(|report| report.main().is_some_and(|s| s.scale == name)).count()
    };
    let n_not_run = built.iter().filter(|report| report.sections.is_empty()).count();
    let counts = [
        (at(Scale::Paper), "run at paper scale"),
        (at(Scale::Overnight), "at overnight scale at most"),
        (at(Scale::Laptop), "at laptop scale at most"),
        (at(Scale::Smoke), "at smoke scale only"),
        (n_not_run, "not run yet"),
    ];
    let counts: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let counts = if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) };
    let sections = || reports.iter().flat_map(|report| &report.sections);
    let cost = if sections().next().is_none() {
        "nothing on this page has been run".to_owned()
    } else {
        let n_queries = sections().map(|section| section.n_queries).fold(0, u64::saturating_add);
        let seconds = sections().map(|section| section.seconds).sum();
        format!("all runs on this page took {}", cost_short(n_queries, seconds, " and "))
    };
    let are = if built.len() == 1 { "is" } else { "are" };
    format!("{} of the {} exhibits {are} built{counts}; {cost}.", built.len(), EXHIBITS.len())
}

/// Inside HTML an SVG needs no namespace.
pub(super) fn inline_svg(svg: &str) -> Value {
    Value::from_safe_string(svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", ""))
}
