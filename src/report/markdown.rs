//! Reports as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Result;
use crate::experiment::{Experiment, Scale};
use crate::results::TrialRecord;

use super::prose;
use super::view::{Report, Section};

/// The report on one experiment, from its own results alone; figures are linked as `<id>-<scale>.png` and
/// `<id>-<scale>-<figure>.png` beside it.
///
/// # Errors
/// [`crate::Error::Setting`] if the figure's y axis names no known metric.
pub fn markdown(experiment: &Experiment, scales: &BTreeMap<Scale, Vec<TrialRecord>>) -> Result<String> {
    Ok(render(&Report::new(experiment, scales, &[])?))
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
    let made_by = one_line(&made_by).replace('<', "&lt;").replace('>', "&gt;");
    line(&format!("<!-- Generated file, do not edit. Made by: {made_by} -->"));
    line("");
    let place = if report.paper.is_empty() { String::new() } else { format!(" ({})", inline(&report.paper)) };
    line(&format!("# {}: {}{place}", inline(&report.id), inline(&report.title)));
    if !report.claim.is_empty() {
        line("");
        line(&format!("**Claim.** {}", inline(&report.claim)));
    }
    if !report.finding.is_empty() {
        line("");
        line(&format!("**What we found** at `{}` scale.", report.finding_scale));
        line("");
        line(&prose::safe_markdown(&report.finding));
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
        page.push_str(&prose::safe_markdown(&report.notes));
        page.push('\n');
    }
    page
}

fn write_section(page: &mut String, section: &Section) {
    let mut line = |text: String| writeln!(page, "{text}").expect("a string grows");
    line(format!("\n## Scale `{}`: {}\n", section.scale, section.verdict));
    line(format!("    {}\n", one_line(&section.command)));
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
    for film in &section.films {
        let (alt, caption, stem) = (inline(&film.description), inline(&film.caption), &film.stem);
        line(format!("\n![{alt}]({stem}.png)\n\n{caption}\n\n![The same in motion]({stem}-film.png)\n"));
        line("The same in motion.".into());
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
    if !section.origins.is_empty() {
        line("\n### Where the points come from\n".into());
    }
    for origin in &section.origins {
        line(format!("- {}", inline(origin)));
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
    let cells: Vec<String> = cells.iter().map(|cell| table_cell(&inline(cell))).collect();
    format!("| {} |", cells.join(" | "))
}

/// Text with its bars escaped, whatever backslashes stand before them.
fn table_cell(text: &str) -> String {
    let mut cell = String::new();
    let mut n_backslashes = 0;
    for c in text.chars() {
        if c == '|' {
            cell.extend(std::iter::repeat_n('\\', n_backslashes + 1));
        }
        n_backslashes = if c == '\\' { n_backslashes + 1 } else { 0 };
        cell.push(c);
    }
    cell
}

/// Text that stays on its line and brings no HTML along.
fn inline(text: &str) -> String {
    prose::safe_markdown(&one_line(text))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: GitHub's tables, in which a cell ends at a bar after an even number of backslashes.
    #[test]
    fn a_cell_stays_a_cell() {
        for text in ["a|b", "a\\|b", "a\\\\|b", "|", "\\", "`|`"] {
            let row = table_row(&[text.to_owned()]);
            let mut n_ends = 0;
            let mut n_backslashes = 0;
            for c in row.chars() {
                n_ends += usize::from(c == '|' && n_backslashes % 2 == 0);
                n_backslashes = if c == '\\' { n_backslashes + 1 } else { 0 };
            }
            assert_eq!(n_ends, 2, "{row}");
        }
    }
}
