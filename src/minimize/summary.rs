//! What came of a run: `result.json` for programs, `report.html` for people.

use std::path::Path;

use serde_json::{Value, json};

use super::pool::Ended;
use super::{Entry, Run, Stopped, settings};
use crate::report::{Minimized, minimized};
use crate::{Error, Result, files};

/// With more coordinates, points are left out of `result.json` and stand in a file of little-endian f64.
const MAX_COORDS_AS_TEXT: usize = 10_000;
/// The most points of a curve.
const MAX_MARKS: usize = 400;
/// The most failures that a page lists.
const MAX_LISTED: usize = 20;

/// What came of a run so far.
#[derive(Debug)]
pub struct Summary {
    json: Value,
    page: Minimized,
}

impl Summary {
    /// Of a run that a command (if there is one) evaluates, and how it ended, if it has.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn of(run: &Run, command: Option<&str>, ended: Option<&Ended>) -> Result<Self> {
        let minimizer = run.minimizer();
        let start = minimizer.start();
        let mut values: Vec<(u64, f64)> = Vec::new();
        let mut failures: Vec<(u64, String)> = Vec::new();
        let (mut seconds, mut n_timed) = (0.0, 0_u64);
        run.read_log(&mut |entry| {
            let Entry::Told { id, f, error, seconds: took, .. } = entry else { return };
            match f {
                Some(f) => values.push((id, f)),
                None if failures.len() < MAX_LISTED => failures.push((id, error.unwrap_or_default())),
                None => {}
            }
            if let Some(took) = took {
                seconds += took;
                n_timed += 1;
            }
        })?;
        let settings = settings::to_json(&start.settings);
        let method = settings::method(&start.settings)?.name();
        let (status, message) = status(ended);
        let best = minimizer.best();
        let d = start.x0.len();
        let x_of = |x: &[f64], name: &str| match d <= MAX_COORDS_AS_TEXT {
            true => json!(x),
            false => json!({ "file": name, "format": "little-endian f64" }),
        };
        let json = json!({
            "status": status, "message": message,
            "best": best.map(|best| json!({
                "id": best.asked.id, "value": best.value, "x": x_of(&best.asked.point(), BEST),
            })),
            "x": x_of(minimizer.x(), LAST),
            "n_evaluations": minimizer.n_evaluations(), "n_failed": minimizer.n_failed(),
            "n_steps": minimizer.n_steps(), "seconds_of_evaluations": seconds,
            "dim": d, "seed": start.seed, "settings": settings, "command": command,
        });
        let settings = match &json["settings"] {
            Value::Object(table) => table.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            _ => Vec::new(),
        };
        let page = Minimized {
            method: method.to_owned(),
            command: command.unwrap_or_default().to_owned(),
            message,
            n_coords: d as u64,
            n_evaluations: minimizer.n_evaluations(),
            n_failed: minimizer.n_failed(),
            n_steps: minimizer.n_steps(),
            best: best.map(|best| (best.asked.id, best.value)),
            seconds,
            n_timed,
            settings: [vec![("seed".to_owned(), start.seed.to_string())], settings].concat(),
            failures,
            values: thinned(values),
        };
        Ok(Self { json, page })
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

const BEST: &str = "best.f64";
const LAST: &str = "last.f64";

/// How a run ended in a word and in a sentence.
fn status(ended: Option<&Ended>) -> (&'static str, String) {
    match ended {
        None => ("open", "The run goes on.".to_owned()),
        Some(Ended::Budget) => ("budget", "The budget is spent.".to_owned()),
        Some(Ended::Stopped(Stopped::Converged)) => {
            ("converged", "The method has come to its end.".to_owned())
        }
        Some(Ended::Stopped(Stopped::Stuck(reason))) => ("stuck", format!("It could not go on: {reason}.")),
        Some(Ended::Interrupted) => {
            ("interrupted", "It was interrupted; the same command goes on.".to_owned())
        }
    }
}

/// What a curve through all values shows: of each stretch its lowest value, and the lowest up to there.
fn thinned(mut values: Vec<(u64, f64)>) -> Vec<(f64, f64, f64)> {
    values.sort_unstable_by_key(|(id, _)| *id);
    let size = values.len().div_ceil(MAX_MARKS).max(1);
    let mut least = f64::INFINITY;
    let mark = |stretch: &[(u64, f64)]| {
        let lowest = stretch.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
        least = least.min(lowest);
        (stretch[stretch.len() - 1].0 as f64 + 1.0, lowest, least)
    };
    values.chunks(size).map(mark).collect()
}

/// Writes `result.json`, `report.html` and, for many coordinates, the points into the run's folder.
///
/// # Errors
/// If one cannot be written.
pub fn write_report(run: &Run, summary: &Summary) -> Result<()> {
    let Some(files) = run.files() else { return Ok(()) };
    if run.minimizer().x().len() > MAX_COORDS_AS_TEXT {
        let write = |name: &str, x: &[f64]| {
            let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
            files::write_atomically(&files.folder().join(name), &bytes)
        };
        write(LAST, run.minimizer().x())?;
        if let Some(best) = run.minimizer().best() {
            write(BEST, &best.asked.point())?;
        }
    }
    let path: &Path = &files.result();
    let text = serde_json::to_string_pretty(&summary.json);
    let text = text.map_err(|error| Error::file(path, error.to_string()))?;
    files::write_atomically(path, (text + "\n").as_bytes())?;
    files::write_atomically(&files.report(), minimized(&summary.page).as_bytes())
}
