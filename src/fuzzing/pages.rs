//! Experiment files, records, and the pages that they become.

use std::collections::BTreeMap;

use crate::Result;
use crate::experiment::{Experiment, Library, Scale, Trial};
use crate::metric::{Metric, Row};
use crate::report::{html, markdown, prose_as_html};
use crate::results::{Provenance, TrialRecord, record_of};
use crate::train::Status;

/// The trials of an experiment file, and its report before anything was run.
///
/// # Errors
/// As [`Experiment::parse`] and [`Experiment::trials`].
pub fn experiment(text: &str) -> Result<(Vec<Trial>, String)> {
    let experiment = Experiment::parse("fuzz.toml", text)?;
    let mut trials = Vec::new();
    for &scale in experiment.scales.keys() {
        trials.extend(experiment.trials(scale, Some(1), &[])?);
    }
    let page = markdown(&experiment, &BTreeMap::new())?;
    Ok((trials, page))
}

/// The report over the record in a result file, as Markdown and as a page; `None` where the file is refused.
///
/// # Errors
/// As [`pages`].
pub fn record(bytes: &[u8]) -> Result<Option<(String, String)>> {
    record_of(bytes.to_vec()).ok().map(|record| pages(vec![record])).transpose()
}

/// The report over a trial whose epochs measured these bytes, eight a number.
///
/// # Errors
/// As [`markdown`].
pub fn numbers(bytes: &[u8]) -> Result<(String, String)> {
    let mut numbers =
        bytes.chunks_exact(8).map(|chunk| f64::from_le_bytes(chunk.try_into().unwrap_or_default()));
    let trials = Library::embedded().get("fig4")?.trials(Scale::Smoke, Some(1), &[])?;
    let n_metrics = Metric::of_columns().count();
    let records = trials.into_iter().map(|trial| {
        let epochs = (1..=2).map(|epoch| {
            let values: Vec<f64> = numbers.by_ref().take(n_metrics).collect();
            let mut row = Row::new(epoch);
            Metric::of_columns().zip(values).for_each(|(metric, value)| row.set(metric, value));
            row
        });
        TrialRecord {
            trial,
            n_params: 1,
            status: Status::Done,
            error: String::new(),
            epochs: epochs.collect(),
            best_epoch: Some(1),
            profiles: Vec::new(),
            provenance: Provenance::collect("cpu", "", 1, ""),
        }
    });
    pages(records.collect())
}

/// The report over records, in place of those of the experiment that the first is of, or else of Fig. 4.
///
/// # Errors
/// As [`markdown`].
pub fn pages(records: Vec<TrialRecord>) -> Result<(String, String)> {
    let library = Library::embedded();
    let id = records.first().map_or("", |record| &record.trial.experiment);
    let experiment = library.get(id).or_else(|_| library.get("fig4"))?;
    let mut scales: BTreeMap<Scale, Vec<TrialRecord>> = BTreeMap::new();
    for record in records {
        scales.entry(record.trial.scale).or_default().push(record);
    }
    let page = markdown(&experiment, &scales)?;
    Ok((page, html(&[(experiment, scales)])?))
}

/// The Markdown of experiment files as HTML.
#[must_use]
pub fn prose(text: &str) -> String {
    prose_as_html(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::mutants;
    use crate::profile::Profile;
    use crate::results::Store;

    /// The texts of the built-in experiment files that extend no other.
    fn files() -> Vec<String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
        let ids = ["fig2", "fig4", "figA6", "quality-mu", "sweep-sparsity", "tabA1"];
        ids.map(|id| std::fs::read_to_string(folder.join(format!("{id}.toml"))).unwrap()).to_vec()
    }

    /// Whether it is refused.
    fn assert_refused_well(result: Result<(Vec<Trial>, String)>, text: &str) -> bool {
        let is_refused = result.is_err();
        match result {
            Ok((trials, _)) => assert!(trials.len() <= 100_000),
            Err(Error::Spec { file, line, key, reason }) => {
                assert_eq!(file, "fuzz.toml");
                assert!((1..=text.lines().count().max(1) + 1).contains(&line), "line {line}: {reason}");
                let message = format!("{key}: {reason}");
                assert!(message.len() < 3000 && !message.contains(char::is_control), "{message}");
            }
            Err(Error::Setting { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        is_refused
    }

    #[test]
    fn mutants_of_experiment_files_are_trials_or_errors_with_a_line() {
        let mut counts = [0, 0];
        for (seed, text) in files().iter().enumerate() {
            for mutant in mutants::of(text.as_bytes(), seed as u64, 70) {
                let mutant = String::from_utf8_lossy(&mutant).into_owned();
                counts[usize::from(assert_refused_well(experiment(&mutant), &mutant))] += 1;
            }
        }
        println!("{} sound, {} refused", counts[0], counts[1]);
    }

    #[test]
    fn hostile_values_in_experiment_files_are_told() {
        let long = format!("\"{}\"", "x".repeat(10_000));
        let values = [
            "nan",
            "-inf",
            "1e308",
            "-1",
            "9223372036854775807",
            "\"\"",
            "\"..\"",
            "\"\\u0000\"",
            "[]",
            "{}",
            "[\"<script>\"]",
            &long,
        ];
        let mut counts = [0, 0];
        for text in files().iter().take(2) {
            for (at, line) in text.lines().enumerate().filter(|(_, line)| line.contains(" = ")) {
                let (key, _) = line.split_once(" = ").unwrap();
                let value = values[at % values.len()];
                let lines = text.lines().enumerate();
                let changed: Vec<String> = lines
                    .map(|(idx, line)| if idx == at { format!("{key} = {value}") } else { line.to_owned() })
                    .collect();
                let changed = changed.join("\n");
                counts[usize::from(assert_refused_well(experiment(&changed), &changed))] += 1;
            }
        }
        println!("{} sound, {} refused", counts[0], counts[1]);
    }

    /// Records of the first trials of an experiment, with `n_epochs` epochs of these values.
    fn records(id: &str, n_epochs: u32, value: impl Fn(usize) -> f64) -> Vec<TrialRecord> {
        let trials = Library::embedded().get(id).unwrap().trials(Scale::Smoke, Some(2), &[]).unwrap();
        let record = |(at, trial): (usize, Trial)| {
            let row = |epoch: u32| {
                let mut row = Row::new(epoch);
                for (idx, metric) in Metric::of_columns().enumerate() {
                    row.set(metric, value(at + 7 * epoch as usize + 31 * idx));
                }
                row
            };
            TrialRecord {
                trial,
                n_params: 1 + at as u64 % 3,
                status: [Status::Done, Status::Diverged, Status::Failed]
                    [if at % 5 == 0 { at / 5 % 3 } else { 0 }],
                error: "objective: <b> | `x`".into(),
                epochs: (1..=n_epochs).map(row).collect(),
                best_epoch: (n_epochs > 0).then_some(1),
                profiles: vec![
                    Profile::new(Profile::TENSORS, "tensor", vec!["a.weight".into(), "a.bias".into()])
                        .with_counts("n", vec![3, 2])
                        .with("n_active", vec![value(at), value(at + 1)])
                        .with("cosine", vec![value(at), value(at + 1)])
                        .with("relative_error", vec![value(at + 2), f64::NAN]),
                ],
                provenance: Provenance::collect("cpu", "avx2", 2, "0123"),
            }
        };
        trials.into_iter().enumerate().map(record).collect()
    }

    /// Numbers that arithmetic and axes go wrong on.
    const HOSTILE: [f64; 14] = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        5e-324,
        0.0,
        -0.0,
        1e19,
        -1.0,
        0.5,
        1.0 + f64::EPSILON,
        1e-300,
    ];

    #[test]
    fn records_of_any_numbers_have_a_report() {
        for id in ["fig2", "fig3", "fig4", "figA5", "quality-mu", "tabA1", "figA6"] {
            for (n_epochs, stride) in [(0, 1), (1, 1), (3, 5), (2, 11)] {
                let records = records(id, n_epochs, |at| HOSTILE[at * stride % HOSTILE.len()]);
                let (page, html) = pages(records).unwrap();
                assert!(page.contains("Scale `smoke`") && html.contains("</html>"));
            }
            for value in HOSTILE {
                pages(records(id, 2, |_| value)).unwrap();
            }
        }
        let bytes: Vec<u8> =
            HOSTILE.iter().cycle().take(1000).flat_map(|value| value.to_le_bytes()).collect();
        for mutant in mutants::of(&bytes, 5, 50) {
            numbers(&mutant).unwrap();
        }
    }

    #[test]
    fn trials_that_did_not_end_well_have_a_report() {
        for status in [Status::Failed, Status::Diverged, Status::Done] {
            for n_epochs in [0, 2] {
                let mut records = records("fig4", n_epochs, |_| f64::NAN);
                records.iter_mut().for_each(|record| record.status = status);
                let (page, _) = pages(records).unwrap();
                let how = match status {
                    Status::Failed => "failed after",
                    Status::Diverged => "diverged after",
                    Status::Done => "finished without a finite value after",
                };
                assert!(page.contains(&format!("{how} {n_epochs} epochs")), "{page}");
                assert!(!page.contains("<b>") && page.contains("&lt;b>"), "{page}");
            }
        }
    }

    /// Every mutant of a result file and of its profile is refused by name, or holds what the file held.
    #[test]
    fn mutants_of_result_files_are_refused_or_hold_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let written = records("fig4", 3, |at| at as f64 / 7.0).remove(0);
        let path = store.write(&written).unwrap();
        let beside = path.with_file_name("tensors").join(path.file_name().unwrap());
        let sound = format!("{:?}", store.read(&path).unwrap());
        for (seed, file) in [&path, &beside].into_iter().enumerate() {
            let bytes = std::fs::read(file).unwrap();
            let (mut n_refused, mut n_same) = (0, 0);
            let flips = (0..bytes.len()).step_by(bytes.len() / 300 + 1).map(|at| {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                flipped
            });
            for mutant in flips.chain(mutants::of(&bytes, seed as u64, 300)) {
                std::fs::write(file, &mutant).unwrap();
                match store.read(&path) {
                    Ok(read) => {
                        assert_eq!(format!("{read:?}"), sound);
                        n_same += 1;
                    }
                    Err(error) => {
                        let (error, name) = (error.to_string(), file.display().to_string());
                        assert!(error.starts_with(&name) && error.contains("move the file away"), "{error}");
                        n_refused += 1;
                    }
                }
            }
            std::fs::write(file, &bytes).unwrap();
            assert!(n_refused > n_same, "{n_refused} refused, {n_same} the same");
            println!("{n_refused} refused, {n_same} the same");
        }
    }

    #[test]
    fn the_seed_corpus_is_read_to_the_end() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let read = |kind: &str| {
            let entries = std::fs::read_dir(corpus.join(kind)).unwrap().map(|entry| entry.unwrap().path());
            entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect::<Vec<_>>()
        };
        for (_, file) in read("experiment") {
            let text = String::from_utf8_lossy(&file).into_owned();
            assert_refused_well(experiment(&text), &text);
        }
        for (path, file) in read("record") {
            assert_eq!(record(&file).unwrap().is_some(), path.ends_with("sound"), "{}", path.display());
        }
        for (_, file) in read("prose") {
            let html = prose(&String::from_utf8_lossy(&file)).to_lowercase();
            assert!(!html.contains("<script") && !html.contains("href=\"javascript:"), "{html}");
        }
    }
}
