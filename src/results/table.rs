//! A record as a table: one row per finished epoch and one for the whole trial. `results/README.md`
//! documents the columns; a test compares the two.

use polars::prelude::*;

use super::record::{Provenance, TrialRecord};
use crate::error::shortened;
use crate::experiment::{MAX_SEEDS, SCHEMA_VERSION, Trial, settings};
use crate::metric::{Metric, Row, TEST_ACCURACY, VAL_ACCURACY};
use crate::profile::{Profile, ProfileColumn};
use crate::setting::{Domain, Entry};
use crate::train::Status;

/// Value of the column `row` at the end of an epoch.
const ROW_EPOCH: &str = "epoch";
/// Value of the column `row` for the trial as a whole.
const ROW_FINAL: &str = "final";

/// Rows of the longest record that is read: a million epochs.
const MAX_ROWS: usize = 1_000_001;

/// Why a table is not a record.
pub(super) type Reason = String;

/// The record as a table.
pub(super) fn to_frame(record: &TrialRecord) -> PolarsResult<DataFrame> {
    let n_rows = record.epochs.len() + 1;
    let trial = &record.trial;
    let mut table = Columns { n_rows, columns: Vec::new() };
    table.repeat_u32("schema_version", SCHEMA_VERSION);
    let kinds: Vec<&str> =
        (1..=n_rows).map(|row| if row == n_rows { ROW_FINAL } else { ROW_EPOCH }).collect();
    table.push("row", kinds);
    table.repeat_text("experiment", &trial.experiment);
    table.repeat_text("scale", trial.scale.name());
    table.repeat_text("trial", &trial.hash());
    table.repeat_text("series", &trial.series);
    table.push("x", vec![trial.x; n_rows]);
    table.repeat_text("x_text", &trial.x_text);
    table.repeat_text("tuned", &trial.tuned);
    table.repeat_u64("seed", trial.seed);
    for entry in settings::entries() {
        table.setting(entry, trial.settings.get(entry.name));
    }
    table.repeat_text("settings", &settings::canonical_json(&trial.settings));
    table.repeat_u64("n_params", record.n_params);
    table.repeat_text("status", status_name(record.status));
    table.repeat_text("error", &record.error);
    epochs(&mut table, &record.epochs);
    best(&mut table, record);
    provenance(&mut table, &record.provenance);
    DataFrame::new(n_rows, table.columns)
}

struct Columns {
    n_rows: usize,
    columns: Vec<Column>,
}

impl Columns {
    fn push<T, P: ?Sized>(&mut self, name: &str, values: T)
    where
        Series: NamedFrom<T, P>,
    {
        self.columns.push(Series::new(name.into(), values).into());
    }

    fn repeat_text(&mut self, name: &str, value: &str) {
        self.push(name, vec![value; self.n_rows]);
    }

    fn repeat_u32(&mut self, name: &str, value: u32) {
        self.push(name, vec![value; self.n_rows]);
    }

    fn repeat_u64(&mut self, name: &str, value: u64) {
        self.push(name, vec![value; self.n_rows]);
    }

    /// A setting; null where the trial does not read it.
    fn setting(&mut self, entry: &Entry, value: Option<toml::Value>) {
        let (column, n) = (setting_column(entry.name), self.n_rows);
        let value = value.as_ref();
        match entry.domain {
            Domain::Bool => self.push(&column, vec![value.and_then(toml::Value::as_bool); n]),
            Domain::Int(..) => self.push(&column, vec![value.and_then(toml::Value::as_integer); n]),
            Domain::Above(..) | Domain::From(..) | Domain::Within(..) => {
                self.push(&column, vec![value.and_then(toml::Value::as_float); n]);
            }
            Domain::Name(_) => self.push(&column, vec![value.and_then(toml::Value::as_str); n]),
        }
    }

    /// One value per epoch, the last one again in the final row; null there without epochs.
    fn per_epoch<V, T>(&mut self, name: &str, epochs: &[Row], value: V)
    where
        V: Fn(&Row) -> Option<T>,
        Series: NamedFrom<Vec<Option<T>>, [Option<T>]>,
    {
        let rows = epochs.iter().map(Some).chain(std::iter::once(epochs.last()));
        let values: Vec<Option<T>> = rows.map(|row| row.and_then(&value)).collect();
        self.push(name, values);
    }

    /// A value in the final row only.
    fn only_final<T: Clone>(&mut self, name: &str, value: Option<T>)
    where
        Series: NamedFrom<Vec<Option<T>>, [Option<T>]>,
    {
        let mut values = vec![None; self.n_rows];
        values[self.n_rows - 1] = value;
        self.push(name, values);
    }
}

/// The column of a setting.
fn setting_column(name: &str) -> String {
    format!("setting_{}", name.replace('-', "_"))
}

/// What was not measured is null.
fn defined(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}

fn epochs(table: &mut Columns, epochs: &[Row]) {
    table.per_epoch(Row::EPOCH, epochs, |row| Some(row.epoch));
    for metric in Metric::of_columns() {
        if metric.is_count {
            table.per_epoch(metric.column, epochs, |row| row.get_count(metric));
        } else {
            table.per_epoch(metric.column, epochs, |row| defined(row.get(metric)));
        }
    }
}

fn best(table: &mut Columns, record: &TrialRecord) {
    let best = record.best_epoch.and_then(|best| record.epochs.iter().find(|epoch| epoch.epoch == best));
    table.only_final("best_epoch", record.best_epoch);
    table.only_final("best_val_accuracy", best.and_then(|row| defined(row.get(&VAL_ACCURACY))));
    table.only_final("best_test_accuracy", best.and_then(|row| defined(row.get(&TEST_ACCURACY))));
}

fn provenance(table: &mut Columns, provenance: &Provenance) {
    table.repeat_text("version", &provenance.version);
    table.repeat_text("commit", &provenance.commit);
    table.repeat_text("crates", &provenance.crates);
    table.repeat_text("cpu", &provenance.cpu);
    table.repeat_text("device", &provenance.device);
    table.repeat_text("kernels", &provenance.kernels);
    table.repeat_u32("threads", provenance.threads);
    table.repeat_text("data_checksum", &provenance.data_checksum);
    table.repeat_text("finished_at", &provenance.finished_at);
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Done => "done",
        Status::Diverged => "diverged",
        Status::Failed => "failed",
    }
}

/// The record in a table that [`to_frame`] made.
///
/// # Errors
/// The first thing that is not as [`to_frame`] leaves it.
pub(super) fn from_frame(frame: &DataFrame) -> Result<TrialRecord, Reason> {
    let rows = Rows { frame };
    let n_rows = frame.height();
    if n_rows == 0 {
        return Err("has no rows".into());
    }
    let schema = rows.u64("schema_version", 0)?;
    if schema != u64::from(SCHEMA_VERSION) {
        return Err(format!("has schema version {schema}; this program reads {SCHEMA_VERSION}"));
    }
    if n_rows > MAX_ROWS {
        return Err(format!("has {n_rows} rows; no trial has more than {MAX_ROWS}"));
    }
    let last = n_rows - 1;
    for row in 0..n_rows {
        let kind = if row == last { ROW_FINAL } else { ROW_EPOCH };
        let found = rows.text("row", row)?;
        if found != kind {
            return Err(format!("row {row} is `{}`, not `{kind}`", shortened(&found)));
        }
    }
    // Everything that the trial is named by, also what it does not read.
    let settings = settings::from_canonical(&rows.text("settings", last)?)?;
    let trial = Trial {
        experiment: rows.text("experiment", last)?,
        scale: rows.text("scale", last)?.parse().map_err(|error: crate::Error| error.to_string())?,
        series: rows.text("series", last)?,
        x: rows.optional_f64("x", last)?,
        x_text: rows.text("x_text", last)?,
        // A file from before settings were tuned has no column for it.
        tuned: if frame.column("tuned").is_ok() { rows.text("tuned", last)? } else { String::new() },
        seed: rows.u64("seed", last)?,
        settings,
    };
    if trial.seed >= MAX_SEEDS as u64 {
        return Err(format!("has seed {}; seeds are below {MAX_SEEDS}", trial.seed));
    }
    let hash = rows.text("trial", last)?;
    if hash != trial.hash() {
        let hash = shortened(&hash);
        return Err(format!("says it is trial {hash}, but its settings are those of {}", trial.hash()));
    }
    let status = rows.text("status", last)?;
    let status = [Status::Done, Status::Diverged, Status::Failed]
        .into_iter()
        .find(|s| status_name(*s) == status)
        .ok_or_else(|| format!("unknown status `{}`", shortened(&status)))?;
    let epochs: Vec<Row> = (0..last).map(|row| rows.epoch(row)).collect::<Result<_, _>>()?;
    if let Some((row, found)) = epochs.iter().enumerate().find(|(row, found)| found.epoch as usize != row + 1)
    {
        return Err(format!("row {row} is of epoch {}, not {}", found.epoch, row + 1));
    }
    Ok(TrialRecord {
        trial,
        n_params: rows.u64("n_params", last)?,
        status,
        error: rows.text("error", last)?,
        epochs,
        best_epoch: rows.optional_u32("best_epoch", last)?,
        profiles: Vec::new(),
        provenance: rows.provenance(last)?,
    })
}

/// Column of the places' positions on an axis.
const X: &str = "x";

/// A profile as a table, one row per place.
pub(super) fn profile_to_frame(profile: &Profile) -> PolarsResult<DataFrame> {
    let mut table = Columns { n_rows: profile.labels.len(), columns: Vec::new() };
    table.push(&profile.place, profile.labels.iter().map(String::as_str).collect::<Vec<_>>());
    if !profile.xs.is_empty() {
        table.push(X, profile.xs.clone());
    }
    for column in &profile.columns {
        let values = column.values.iter().map(|value| defined(*value));
        if column.is_count {
            table.push(&column.name, values.map(|value| value.map(|v| v as u64)).collect::<Vec<_>>());
        } else {
            table.push(&column.name, values.collect::<Vec<_>>());
        }
    }
    DataFrame::new(table.n_rows, table.columns)
}

/// The inverse of [`profile_to_frame`].
///
/// # Errors
/// The first thing that is not as it leaves it.
pub(super) fn profile_from_frame(kind: &str, frame: &DataFrame) -> Result<Profile, Reason> {
    let rows = Rows { frame };
    let all = 0..frame.height();
    let (place, columns) = frame.columns().split_first().ok_or("has no columns")?;
    let labels = all.clone().map(|row| rows.text(place.name(), row)).collect::<Result<_, _>>()?;
    let mut profile = Profile::new(kind, place.name(), labels);
    for column in columns {
        let name = column.name();
        let values = all.clone().map(|row| rows.number(name, row)).collect::<Result<Vec<_>, _>>()?;
        if name == X {
            profile.xs = values;
        } else {
            let is_count = column.dtype() == &DataType::UInt64;
            profile.columns.push(ProfileColumn { name: name.to_string(), values, is_count });
        }
    }
    Ok(profile)
}

/// A mask (d) as a table: one row per scalar of the tensors, in their order and row by row within.
pub(super) fn mask_to_frame(tensors: &Profile, mask: &[bool]) -> PolarsResult<DataFrame> {
    let mut table = Columns { n_rows: mask.len(), columns: Vec::new() };
    let sizes = tensors.column("n").unwrap_or_default();
    let names = tensors.labels.iter().zip(sizes);
    let names = names.flat_map(|(name, n)| std::iter::repeat_n(name.as_str(), *n as usize));
    table.push(&tensors.place, names.collect::<Vec<_>>());
    table.push("kept", mask.to_vec());
    DataFrame::new(table.n_rows, table.columns)
}

fn shown(value: &AnyValue) -> String {
    shortened(&value.to_string())
}

struct Rows<'a> {
    frame: &'a DataFrame,
}

impl Rows<'_> {
    fn value(&self, name: &str, row: usize) -> Result<AnyValue<'_>, Reason> {
        let column = self.frame.column(name).map_err(|_| format!("lacks the column `{name}`"))?;
        column.get(row).map_err(|error| format!("{name}: {error}"))
    }

    fn text(&self, name: &str, row: usize) -> Result<String, Reason> {
        let value = self.value(name, row)?;
        value
            .get_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("{name}: expected text, got {}", shown(&value)))
    }

    fn u64(&self, name: &str, row: usize) -> Result<u64, Reason> {
        let value = self.value(name, row)?;
        value.extract().ok_or_else(|| format!("{name}: expected an integer, got {}", shown(&value)))
    }

    fn u32(&self, name: &str, row: usize) -> Result<u32, Reason> {
        u32::try_from(self.u64(name, row)?).map_err(|error| format!("{name}: {error}"))
    }

    fn optional_u32(&self, name: &str, row: usize) -> Result<Option<u32>, Reason> {
        let absent = self.value(name, row)?.is_null();
        if absent { Ok(None) } else { self.u32(name, row).map(Some) }
    }

    fn optional_f64(&self, name: &str, row: usize) -> Result<Option<f64>, Reason> {
        match self.value(name, row)? {
            AnyValue::Null => Ok(None),
            AnyValue::Float64(value) => Ok(Some(value)),
            other => Err(format!("{name}: expected a number, got {}", shown(&other))),
        }
    }

    /// A measured number or a count; null is NaN.
    fn number(&self, name: &str, row: usize) -> Result<f64, Reason> {
        match self.value(name, row)? {
            AnyValue::Null => Ok(f64::NAN),
            AnyValue::Float64(value) => Ok(value),
            AnyValue::UInt64(count) => Ok(count as f64),
            other => Err(format!("{name}: expected a number, got {}", shown(&other))),
        }
    }

    /// A file from before a metric existed has no column for it.
    fn epoch(&self, row: usize) -> Result<Row, Reason> {
        let mut found = Row::new(self.u32(Row::EPOCH, row)?);
        for metric in Metric::of_columns().filter(|metric| self.frame.column(metric.column).is_ok()) {
            found.set(metric, self.number(metric.column, row)?);
        }
        Ok(found)
    }

    fn provenance(&self, row: usize) -> Result<Provenance, Reason> {
        Ok(Provenance {
            version: self.text("version", row)?,
            commit: self.text("commit", row)?,
            crates: self.text("crates", row)?,
            cpu: self.text("cpu", row)?,
            device: self.text("device", row)?,
            kernels: self.text("kernels", row)?,
            threads: self.u32("threads", row)?,
            data_checksum: self.text("data_checksum", row)?,
            finished_at: self.text("finished_at", row)?,
        })
    }
}
