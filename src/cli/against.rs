//! A measurement beside a former one.

use std::path::Path;

use anyhow::{Result, bail};
use deepzero::files;
use serde_json::{Map, Value};

/// Largest file that is taken for a measurement.
const MAX_BYTES: u64 = 1 << 20;

/// A former output of `bench --json`, and what it was about.
#[derive(Debug)]
pub(super) struct Former {
    file: String,
    fields: Map<String, Value>,
}

/// One number of both measurements.
#[derive(Debug, PartialEq)]
pub(super) struct Ratio {
    pub(super) name: String,
    pub(super) then: f64,
    pub(super) now: f64,
    /// How many times as good it is now.
    pub(super) gain: f64,
}

impl Former {
    /// Reads what `bench` wrote with `--json`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let bytes = files::read_bounded(path, MAX_BYTES)?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) if fields.contains_key("bench") => Ok(Self { file, fields }),
            Ok(_) => bail!("{file} is no measurement; write one with deepzero bench … --json > {file}"),
            Err(error) => {
                bail!("{file} is no measurement ({error}); write one with deepzero bench … --json > {file}")
            }
        }
    }

    /// Every number that tells a speed or an error, beside that of `now`.
    ///
    /// # Errors
    /// If the two did not measure the same.
    pub(super) fn compare(&self, now: &Map<String, Value>) -> Result<Vec<Ratio>> {
        let mut ratios = Vec::new();
        self.walk("", &self.fields, now, &mut ratios)?;
        Ok(ratios)
    }

    fn walk(
        &self,
        at: &str,
        then: &Map<String, Value>,
        now: &Map<String, Value>,
        ratios: &mut Vec<Ratio>,
    ) -> Result<()> {
        for (key, now) in now {
            let name = format!("{at}{}", key.replace('_', " "));
            let Some(then) = then.get(key) else { continue };
            match (direction(key), then, now) {
                (Some(is_cost), Value::Number(_), Value::Number(_)) => {
                    let (Some(then), Some(now)) = (then.as_f64(), now.as_f64()) else { continue };
                    let gain = if is_cost { then / now } else { now / then };
                    ratios.push(Ratio { name, then, now, gain });
                }
                (None, Value::Array(then), Value::Array(now)) => {
                    for (idx, (then, now)) in then.iter().zip(now).enumerate() {
                        if let (Value::Object(then), Value::Object(now)) = (then, now) {
                            self.walk(&format!("{name} {}: ", idx + 1), then, now, ratios)?;
                        }
                    }
                }
                (None, then, now) if then != now && SAME.contains(&key.as_str()) => {
                    bail!("{} measured something else: {key} {then} there, {now} here", self.file)
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What must be equal for numbers to be comparable.
const SAME: [&str; 20] = [
    "bench",
    "device",
    "model",
    "batch_size",
    "distribution",
    "sparsity",
    "n_coords",
    "n_dirs",
    "evaluator",
    "precision",
    "difference",
    "c_in",
    "size",
    "n_params",
    "resolution",
    "states",
    "unroll",
    "n0",
    "n",
    "n_images",
];

/// Whether a field is better when it is small, or when it is large; none of a field that is neither.
fn direction(key: &str) -> Option<bool> {
    match key {
        "us_per_query_image" | "base_s" | "differences_s" | "estimate_s" | "step_s" | "relative_error"
        | "alone_f32_us" | "alone_f64_us" | "certify_s" | "us_per_copy" | "usual_min" => Some(true),
        "images_per_s" | "steps_per_hour" | "steps_per_s" | "losses_per_s" | "copies_per_s" | "gflops"
        | "bandwidth_gb_s" => Some(false),
        _ => key.ends_with("_gflops").then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).expect("a JSON object")
    }

    fn former(text: &str) -> Former {
        Former { file: "then.json".to_owned(), fields: fields(text) }
    }

    #[test]
    fn times_and_speeds_have_their_direction_and_other_numbers_none() {
        let then = r#"{"bench": "cge", "n_coords": 4, "differences_s": 2.0, "executed_gflops": 10.0, "repeats": 3,
            "layers": [{"c_in": 16, "forward_gflops": 1.0}]}"#;
        let now = r#"{"bench": "cge", "n_coords": 4, "differences_s": 0.5, "executed_gflops": 30.0, "repeats": 5,
            "layers": [{"c_in": 16, "forward_gflops": 3.0}]}"#;
        let ratios = former(then).compare(&fields(now)).expect("the same was measured");
        let found: Vec<(&str, f64)> = ratios.iter().map(|ratio| (ratio.name.as_str(), ratio.gain)).collect();
        assert_eq!(
            found,
            [("differences s", 4.0), ("executed gflops", 3.0), ("layers 1: forward gflops", 3.0)]
        );
    }

    /// Oracle: what flows and certificates are measured by.
    #[test]
    fn every_kind_of_measurement_is_compared() {
        let text = r#"{"bench": "flow", "resolution": 16, "alone_f32_us": 2.0, "losses_per_s": 2.0, "certify_s": 2.0, "copies_per_s": 2.0}"#;
        let half = text.replace("2.0", "1.0");
        let ratios = former(text).compare(&fields(&half)).expect("the same was measured");
        let gains: Vec<f64> = ratios.iter().map(|ratio| ratio.gain).collect();
        assert_eq!((gains.len(), gains.iter().filter(|gain| **gain > 1.0).count()), (4, 2));
        let other = text.replace("16", "8");
        assert!(former(text).compare(&fields(&other)).is_err());
    }

    #[test]
    fn different_measurements_are_not_compared() {
        let found = former(r#"{"bench": "cge", "batch_size": 16}"#)
            .compare(&fields(r#"{"bench": "cge", "batch_size": 32}"#));
        let message = found.expect_err("the batch differs").to_string();
        assert_eq!(message, "then.json measured something else: batch_size 16 there, 32 here");
    }
}
