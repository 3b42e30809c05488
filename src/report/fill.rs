//! Blocks of a Markdown file that are made from results.
//!
//! A block is a comment with a template, what the template gave, and a closing comment:
//!
//! ```markdown
//! <!-- results of fig4
//! DeepZero comes to {{ mean("deepzero", 0.9) }} %.
//! -->
//! DeepZero comes to 30.18 %.
//! <!-- end of results -->
//! ```
//!
//! The functions are those of findings ([`facts`](super::facts)), of the experiment named, at the highest scale that has
//! all planned results (`results of fig4 at laptop` names one). With `results of all`, there are `verdict(ID)`, `counts(ID)`, `scale(ID)`
//! and `cost(ID)`, as on the index, and `title(ID)` and `paper(ID)`.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Environment;

use crate::Result;

use super::facts::{add_functions, bounded, one_line};
use super::html::{Run, overview_of};
use super::view::Report;

const BEGIN: &str = "<!-- results of ";
const END: &str = "<!-- end of results -->";

/// What blocks are made of.
#[derive(Debug)]
pub struct Filler(BTreeMap<String, Report>);

impl Filler {
    /// Of the results of experiments.
    ///
    /// # Errors
    /// As for their reports.
    pub fn new(runs: &[Run]) -> Result<Self> {
        let report =
            |(experiment, scales): &Run| Ok((experiment.id.clone(), Report::new(experiment, scales, runs)?));
        Ok(Self(runs.iter().map(report).collect::<Result<_>>()?))
    }

    /// The text with its blocks made anew.
    ///
    /// # Errors
    /// The line of a block that has no end, names an experiment without results, or has a template that cannot be read or
    /// asks for what there is not; and why.
    pub fn fill(&self, text: &str) -> std::result::Result<String, String> {
        fill(text, &self.0)
    }
}

fn fill(text: &str, reports: &BTreeMap<String, Report>) -> std::result::Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let line = text[..text.len() - rest.len() + begin].matches('\n').count() + 1;
        let fault = |reason: String| format!("line {line}: {reason}");
        let block = &rest[begin..];
        let (header, body) =
            block.split_once('\n').ok_or_else(|| fault("the block has no end".to_owned()))?;
        let (template, after) =
            body.split_once("-->\n").ok_or_else(|| fault("the template has no `-->`".to_owned()))?;
        let (_, after) = after.split_once(END).ok_or_else(|| fault(format!("the block has no `{END}`")))?;
        let environment = environment(header[BEGIN.len()..].trim(), reports).map_err(fault)?;
        let made = environment.render_str(template, ()).map_err(|error| fault(one_line(&error)))?;
        filled.push_str(&rest[..begin]);
        filled.push_str(&format!("{header}\n{template}-->\n{}\n{END}", made.trim_end()));
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// What a block's templates may use.
fn environment(
    of: &str,
    reports: &BTreeMap<String, Report>,
) -> std::result::Result<Environment<'static>, String> {
    let mut environment = bounded();
    if of == "all" {
        let overview: Arc<BTreeMap<String, [String; 6]>> = Arc::new(overview_of(reports.values()));
        for (idx, name) in ["verdict", "counts", "scale", "cost", "title", "paper"].into_iter().enumerate() {
            let overview = Arc::clone(&overview);
            environment.add_function(name, move |id: String| match overview.get(&id) {
                Some(texts) => Ok(texts[idx].clone()),
                None => Err(minijinja::Error::new(
                    minijinja::ErrorKind::InvalidOperation,
                    format!("no experiment `{id}`"),
                )),
            });
        }
        return Ok(environment);
    }
    let (id, scale) = of.split_once(" at ").map_or((of, None), |(id, scale)| (id, Some(scale)));
    let report = reports.get(id).ok_or_else(|| format!("no experiment `{id}`"))?;
    let section = match scale {
        Some(scale) => report.sections.iter().find(|section| section.scale == scale),
        None => report.main(),
    };
    let section = section.ok_or_else(|| format!("{of} has no results"))?;
    add_functions(&mut environment, &section.facts);
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_blocks_stays_and_faults_name_the_line() {
        let none = BTreeMap::new();
        assert_eq!(fill("# Title\n\n{{ not a block }}\n", &none).unwrap(), "# Title\n\n{{ not a block }}\n");
        for (text, reason) in [
            ("a\n<!-- results of x", "line 2: the block has no end"),
            ("<!-- results of x\nabc", "line 1: the template has no `-->`"),
            ("<!-- results of x\n-->\nabc", "line 1: the block has no `<!-- end of results -->`"),
            ("\n\n<!-- results of x\n-->\n<!-- end of results -->", "line 3: no experiment `x`"),
            (
                "<!-- results of all\n{{ verdict(\"x\") }}\n-->\n<!-- end of results -->",
                "line 1: line 1: no experiment `x`",
            ),
        ] {
            assert_eq!(fill(text, &none).unwrap_err(), reason);
        }
        // What a block held is replaced, however long it was.
        let text = "x\n<!-- results of all\n{{ 1 + 1 }}\n-->\nold\n\nolder\n<!-- end of results -->\ny\n";
        let made = fill(text, &none).unwrap();
        assert_eq!(made, "x\n<!-- results of all\n{{ 1 + 1 }}\n-->\n2\n<!-- end of results -->\ny\n");
        assert_eq!(fill(&made, &none).unwrap(), made);
    }
}
