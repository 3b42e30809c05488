//! All reports as one self-contained HTML page: style and figures inside, nothing loaded.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use crate::Result;
use crate::results::TrialRecord;
use crate::spec::{Experiment, Scale};

use super::exhibits::EXHIBITS;
use super::plot;
use super::prose;
use super::view::Report;

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
        .map(|(experiment, scales)| Report::new(experiment, scales))
        .collect::<Result<Vec<_>>>()?;
    Ok(render(&reports))
}

/// A line of the overview.
#[derive(Serialize)]
struct Overview<'r> {
    id: &'r str,
    paper: &'r str,
    title: &'r str,
    is_built: bool,
    scale: &'r str,
    verdict: &'r str,
    tone: &'r str,
    cost: &'r str,
}

/// The page as text.
pub(super) fn render(reports: &[Report]) -> String {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
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
    let figures: BTreeMap<&str, Value> = (reports.iter().flat_map(|r| &r.sections))
        .flat_map(|section| &section.figures)
        .map(|figure| (figure.stem.as_str(), Value::from_safe_string(inline_svg(&plot::svg(&figure.chart)))))
        .collect();
    let page = environment.get_template("index.html").expect("it was added above").render(context! {
        overview => Serde(overview(&reports)),
        reports => Serde(reports),
        figures => figures,
    });
    page.expect("the embedded templates use only what they are given")
}

/// The paper's exhibits in its order, then everything else as given.
fn in_order(reports: &[Report]) -> Vec<&Report> {
    let place = |report: &Report| EXHIBITS.iter().position(|e| e.id == report.id).unwrap_or(EXHIBITS.len());
    let mut ordered: Vec<&Report> = reports.iter().collect();
    ordered.sort_by_key(|report| place(report));
    ordered
}

fn overview<'r>(reports: &[&'r Report]) -> Vec<Overview<'r>> {
    let built = |report: &&'r Report| {
        let best = report.sections.first();
        Overview {
            id: &report.id,
            paper: &report.paper,
            title: &report.title,
            is_built: true,
            scale: best.map_or("—", |s| s.scale),
            verdict: best.map_or("not run", |s| s.verdict),
            tone: best.map_or("open", |s| s.tone),
            cost: best.map_or("—", |s| &s.cost_short),
        }
    };
    let exhibits = EXHIBITS.iter().map(|exhibit| {
        reports.iter().find(|r| r.id == exhibit.id).map_or(
            Overview {
                id: exhibit.id,
                paper: exhibit.paper,
                title: exhibit.title,
                is_built: false,
                scale: "—",
                verdict: "not yet built",
                tone: "absent",
                cost: "—",
            },
            built,
        )
    });
    let others = reports.iter().filter(|r| EXHIBITS.iter().all(|e| e.id != r.id)).map(built);
    exhibits.chain(others).collect()
}

/// Inside HTML an SVG needs no namespace.
fn inline_svg(svg: &str) -> String {
    svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "")
}
