//! `list`: what there is.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{Common, Exit, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deepzero list\n  deepzero list --json | jq '.[].id'")]
pub(super) struct ListArgs {}

pub(super) fn run(common: &Common, _: &ListArgs) -> Result<Exit> {
    let store = common.store();
    let mut rows = Vec::new();
    for experiment in common.library()?.all()? {
        let mut results = Vec::new();
        for scale in store.scales(&experiment.id)? {
            results.push((scale, store.read_all(&experiment.id, scale)?.len()));
        }
        rows.push((experiment, results));
    }
    if common.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(experiment, results)| {
                let results: serde_json::Map<_, _> =
                    results.iter().map(|(scale, n)| (scale.name().to_owned(), json!(n))).collect();
                json!({
                    "id": experiment.id,
                    "paper": experiment.paper,
                    "title": experiment.title,
                    "series": experiment.series.iter().map(|series| &series.label).collect::<Vec<_>>(),
                    "x": experiment.figure.x,
                    "y": experiment.figure.y,
                    "scales": experiment.scales.keys().map(|scale| scale.name()).collect::<Vec<_>>(),
                    "results": results,
                })
            })
            .collect();
        say!("{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(Exit::Ok);
    }
    for (experiment, results) in rows {
        let paper = if experiment.paper.is_empty() { "ours" } else { &experiment.paper };
        say!("{:<22} {:<8} {}", experiment.id, paper, experiment.title)?;
        let series: Vec<&str> = experiment.series.iter().map(|series| series.label.as_str()).collect();
        say!("{:<22} {:<8} compares {}; x: {}", "", "", series.join(", "), experiment.figure.x)?;
        let results: Vec<String> = results.iter().map(|(scale, n)| format!("{scale} ({n} trials)")).collect();
        let results = if results.is_empty() { "none yet".to_owned() } else { results.join(", ") };
        say!("{:<22} {:<8} results: {results}", "", "")?;
    }
    Ok(Exit::Ok)
}
