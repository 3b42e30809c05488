//! `list`: what there is.

use anyhow::Result;
use clap::Args;
use deepzero::experiment::Scale;
use deepzero::results::Store;
use serde_json::json;

use super::{Common, Exit, in_one_line, say, tell};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deepzero list\n  deepzero list --json | jq '.[].id'")]
pub(super) struct ListArgs {}

pub(super) fn run(common: &Common, _: &ListArgs) -> Result<Exit> {
    let store = common.store();
    let mut rows = Vec::new();
    let (experiments, faults) = common.library()?.sound();
    for (id, error) in faults {
        tell!("{id} is left out: {}", in_one_line(&error.into()));
    }
    store.check()?;
    for experiment in experiments {
        match results(&store, &experiment.id) {
            Ok(results) => rows.push((experiment, results)),
            Err(error) => tell!("{} is left out: {}", experiment.id, in_one_line(&error.into())),
        }
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
                    "from": experiment.lenders(),
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
        let lenders = experiment.lenders();
        if !lenders.is_empty() {
            say!("{:<22} {:<8} from the results of {}", "", "", lenders.join(", "))?;
        }
        let results: Vec<String> = results.iter().map(|(scale, n)| format!("{scale} ({n} trials)")).collect();
        let results = if results.is_empty() { "none yet".to_owned() } else { results.join(", ") };
        say!("{:<22} {:<8} results: {results}", "", "")?;
    }
    Ok(Exit::Ok)
}

/// How many results an experiment has at each scale.
fn results(store: &Store, id: &str) -> deepzero::Result<Vec<(Scale, usize)>> {
    let count = |scale| Ok((scale, store.read_all(id, scale)?.len()));
    store.scales(id)?.into_iter().map(count).collect()
}
