//! Reports as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Result;
use crate::experiment::{Experiment, Scale};
use crate::results::TrialRecord;

use super::view::{Report, Section};

/// The report on one experiment; figures are linked as `<id>-<scale>.png` and
/// `<id>-<scale>-<figure>.png` beside it.
///
/// # Errors
/// [`crate::Error::Setting`] if the figure's y axis names no known metric.
pub fn markdown(experiment: &Experiment, scales: &BTreeMap<Scale, Vec<TrialRecord>>) -> Result<String> {
    Ok(render(&Report::new(experiment, scales)?))
}

/// The report as a page.
pub(super) fn render(report: &Report) -> String {
    let mut page = String::new();
    let commands: Vec<&str> = report.sections.iter().map(|s| s.command.as_str()).collect();
    let made_by =
        if commands.is_empty() { format!("deepzero reproduce {}", report.id) } else { commands.join("; ") };
    let mut line = |text: &str| {
        page.push_str(text);
        page.push('\n');
    };
    line(&format!("<!-- Generated file, do not edit. Made by: {made_by} -->"));
    line("");
    let place = if report.paper.is_empty() { String::new() } else { format!(" ({})", report.paper) };
    line(&format!("# {}: {}{place}", report.id, inline(&report.title)));
    if !report.claim.is_empty() {
        line("");
        line(&format!("**Claim.** {}", inline(&report.claim)));
    }
    if !report.finding.is_empty() {
        line("");
        line("**What we found.**");
        line("");
        line(&report.finding);
    }
    if report.sections.is_empty() {
        line("");
        line("**Not run** at any scale.");
    }
    for section in &report.sections {
        write_section(&mut page, section);
    }
    if !report.notes.is_empty() {
        page.push_str("\n## Notes\n\n");
        page.push_str(&report.notes);
        page.push('\n');
    }
    page
}

fn write_section(page: &mut String, section: &Section) {
    let mut line = |text: String| writeln!(page, "{text}").expect("a string grows");
    line(format!("\n## Scale `{}`: {}\n", section.scale, section.verdict));
    line(format!("    {}\n", section.command));
    let counts = if section.counts.is_empty() { String::new() } else { format!("{}. ", section.counts) };
    line(format!("{counts}{}", section.progress));
    if !section.caution.is_empty() {
        line(format!("\n> {}", section.caution));
    }
    if !section.checks.is_empty() {
        line("\n### Checks\n".into());
    }
    for check in &section.checks {
        line(format!("- **{}**: {} {}", check.outcome, inline(&check.text), inline(&check.reason)));
        for detail in &check.details {
            line(format!("  - {}", inline(detail)));
        }
    }
    if !section.figures.is_empty() {
        line("\n### Figures".into());
    }
    for figure in &section.figures {
        let (alt, caption) = (inline(&figure.chart.description), inline(&figure.caption));
        line(format!("\n![{alt}]({}.png)\n\n{caption} [SVG]({}.svg)", figure.stem, figure.stem));
    }
    for table in &section.tables {
        line(format!("\n### {}\n", inline(&table.heading)));
        line(table_row(&table.header));
        let rules: Vec<String> =
            (0..table.header.len()).map(|i| if i == 0 { "---" } else { "---:" }.to_owned()).collect();
        line(format!("|{}|", rules.join("|")));
        for row in &table.rows {
            line(table_row(&row.cells));
        }
    }
    if !section.problems.is_empty() {
        line("\n### Trials without a value\n".into());
    }
    for problem in &section.problems {
        line(format!("- {}", inline(problem)));
    }
    if !section.deviations.is_empty() {
        line("\n### Deviations from the paper\n".into());
    }
    for deviation in &section.deviations {
        line(format!("- {}", inline(deviation)));
    }
    line("\n### Cost and provenance\n\n| | |\n|---|---|".into());
    for (name, text) in &section.cost {
        line(table_row(&[(*name).to_owned(), text.clone()]));
    }
    if !section.settings.is_empty() {
        line("\n<details><summary>Settings</summary>\n\n| setting | value |\n|---|---|".into());
        for (name, value) in &section.settings {
            line(table_row(&[format!("`{name}`"), value.clone()]));
        }
        line("\n</details>".into());
    }
}

fn table_row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| inline(cell).replace('|', "\\|")).collect();
    format!("| {} |", cells.join(" | "))
}

/// Text that stays on its line and brings no HTML along.
fn inline(text: &str) -> String {
    let text = one_line(text);
    let mut safe = String::new();
    for (idx, c) in text.char_indices() {
        let opens_tag =
            text[idx + c.len_utf8()..].starts_with(|c: char| c.is_alphabetic() || "/!?".contains(c));
        match c {
            '<' if opens_tag => safe.push_str("&lt;"),
            _ => safe.push(c),
        }
    }
    safe
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
