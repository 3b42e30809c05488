//! The settings of a trial by name: which there are, who reads them, what a trial is named by.
//!
//! A trial reads the sections of its task and of its method. Values come from experiment files, `--set` and sweep axes
//! through [`set`], one at a time; [`resolve`] makes them [`Settings`]; [`check`] holds them to the rules of the parts
//! that read them; [`refuse_unread`] tells who would read a value that plays no part.

use std::sync::LazyLock;

use crate::method::{self, Kind};
use crate::setting::{Entry, Section, Settings, Values, did_you_mean, text_of, value_of};
use crate::task::{self, Task};
use crate::train;
use crate::zo::{estimator, optimizer, sparsity};
use crate::{Error, Result, data};

/// Settings that stand in every trial's name, read or not, at their defaults where they are not set. Those of the first
/// published results; any other stands there only where its value is not the default, so that results keep
/// their names when a setting is added.
const FOUNDING: [&str; 31] = [
    "data",
    "n-train",
    "n-val",
    "n-test",
    "augment",
    "model",
    "depth",
    "width",
    "method",
    "difference",
    "mu",
    "queries",
    "directions",
    "evaluator",
    "sparsity",
    "layer-ratios",
    "mask",
    "redraw-every",
    "sparse-target",
    "always-active",
    "grasp-queries",
    "grasp-images-per-class",
    "epochs",
    "batch-size",
    "optimizer",
    "learning-rate",
    "momentum",
    "weight-decay",
    "warmup-epochs",
    "schedule",
    "precision",
];

/// Other names that users know a setting by.
pub(crate) const ALIASES: [(&str, &str); 3] =
    [("estimator", "method"), ("lr", "learning-rate"), ("q", "queries")];

/// Settings that a trial reads and that change nothing, as its others are: those of a schedule that it does not follow, of
/// masks where nothing is left out.
#[must_use]
pub fn idle(settings: &Settings) -> Vec<&'static str> {
    let optimizer = settings.read::<optimizer::Config>().map_or(Vec::new(), |config| config.idle());
    let sparsity = settings.read::<sparsity::Config>().map_or(Vec::new(), |config| config.idle());
    let epochs = settings.read::<train::Budget>().map_or(Vec::new(), |budget| budget.idle());
    let images = settings.read::<data::Config>().map_or(Vec::new(), |config| config.idle());
    optimizer.into_iter().chain(sparsity).chain(epochs).chain(images).collect()
}

/// What a user can read about one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Kebab-case name, as in files and `--set`.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// The allowed values in words.
    pub allowed: String,
    /// The default as text.
    pub default: String,
    /// Whether a trial with the default task and method reads it.
    pub is_usual: bool,
    /// Who reads it otherwise, such as `method = cocd`.
    pub readers: String,
}

/// The sections that a trial with this task and method reads.
fn sections(task: &'static dyn Task, method: &'static dyn Kind) -> Result<Vec<&'static [Entry]>> {
    let chosen = vec![task::Config::ENTRIES, method::Config::ENTRIES];
    Ok([chosen, task.sections(method)?].concat())
}

/// Every setting there is, in the order of the sections of the first task and method, then of the others.
#[must_use]
pub fn entries() -> &'static [&'static Entry] {
    static ENTRIES: LazyLock<Vec<&'static Entry>> = LazyLock::new(|| {
        let mut all: Vec<&'static Entry> = Vec::new();
        for (task, method) in pairs() {
            for entry in sections(task, method).into_iter().flatten().flatten() {
                if !all.contains(&entry) {
                    all.push(entry);
                }
            }
        }
        all
    });
    &ENTRIES
}

/// Every task with every method.
fn pairs() -> impl Iterator<Item = (&'static dyn Task, &'static dyn Kind)> {
    task::TASKS.iter().copied().flat_map(|task| method::kinds().into_iter().map(move |method| (task, method)))
}

/// The entry of a setting written as such, as an alias (`estimator` for `method`) or with underscores.
///
/// # Errors
/// [`Error::Setting`] with the nearest names when there is no such setting.
pub fn find(key: &str) -> Result<&'static Entry> {
    let name = key.replace('_', "-");
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name.as_str(), |(_, full)| full);
    entries().iter().find(|entry| entry.name == name).copied().ok_or_else(|| {
        let names = || entries().iter().map(|entry| entry.name);
        let hint = did_you_mean(name, names().chain(ALIASES.into_iter().map(|(alias, _)| alias)));
        let list = format!("the settings are {}", names().collect::<Vec<_>>().join(", "));
        Error::setting(
            key,
            format!("no such setting; {}", if hint.is_empty() { &list } else { hint.trim_end() }),
        )
    })
}

/// Gives the setting `key` a value and returns its entry; `values` are unchanged on error.
///
/// # Errors
/// [`Error::Setting`] when there is no such setting or the value is impossible for it.
pub fn set(values: &mut Values, key: &str, value: &toml::Value) -> Result<&'static Entry> {
    let entry = find(key)?;
    let value = entry.checked(key, value)?;
    if value == (entry.default)() {
        values.remove(entry.name);
    } else {
        values.insert(entry.name, value);
    }
    Ok(entry)
}

/// The settings with these values: those of the task and method that they name. Rules between settings are not
/// checked, and values that play no part are kept, but not read.
///
/// # Errors
/// [`Error::Setting`] if the task cannot be done with the method.
pub fn resolve(mut values: Values) -> Result<Settings> {
    let choice = Settings::new(values.clone(), &[task::Config::ENTRIES, method::Config::ENTRIES]);
    let (task::Config { task }, method::Config { method }) = (choice.read()?, choice.read()?);
    let sections = sections(task, method)?;
    let settings = Settings::new(values.clone(), &sections);
    for (name, value) in task.implies().into_iter().chain(method.implies()) {
        if !settings.is_read(name) {
            let entry = find(name)?;
            values.remove(entry.name);
            if value != (entry.default)() {
                values.insert(entry.name, value);
            }
        }
    }
    Ok(Settings::new(values, &sections))
}

/// The values that were assigned, rather than implied by task and method.
///
/// # Errors
/// If an implied setting does not exist.
pub(super) fn assigned(settings: &Settings) -> Result<Values> {
    let (task::Config { task }, method::Config { method }) = (settings.read()?, settings.read()?);
    let mut values = settings.values().clone();
    for (name, _) in task.implies().into_iter().chain(method.implies()) {
        let entry = find(name)?;
        if !settings.is_read(entry.name) {
            values.remove(entry.name);
        }
    }
    Ok(values)
}

/// Checks the rules between settings.
///
/// # Errors
/// [`Error::Setting`] naming the setting to change and what it may be.
pub fn check(settings: &Settings) -> Result<()> {
    let task::Config { task } = settings.read()?;
    task.check(settings)
}

/// Whether a trial has no validation accuracy that a setting could be tuned by.
pub(super) fn has_no_validation(settings: &Settings) -> bool {
    settings.get("n-val").is_none_or(|n| n.as_integer() == Some(0))
}

/// Refuses a value of the setting `name` that these settings do not read.
///
/// # Errors
/// [`Error::Setting`] telling who reads it.
pub fn refuse_unread(settings: &Settings, key: &str, name: &str) -> Result<()> {
    if settings.is_read(name) {
        return Ok(());
    }
    let (task::Config { task }, method::Config { method }) = (settings.read()?, settings.read()?);
    let reason = format!(
        "it plays no part with task = {}, method = {}; it is read with {}",
        task.name(),
        method.name(),
        readers(name, task)
    );
    Err(Error::setting(key, reason))
}

/// Who reads the setting `name`: methods, where `task` reads it with any, else tasks.
fn readers(name: &str, task: &'static dyn Task) -> String {
    let reads = |task, method| {
        sections(task, method).is_ok_and(|all| all.into_iter().flatten().any(|entry| entry.name == name))
    };
    let methods = || method::kinds().into_iter();
    let list = |what: &str, names: Vec<&str>| format!("{what} = {}", names.join(", "));
    let here: Vec<&str> = methods().filter(|&method| reads(task, method)).map(Kind::name).collect();
    if !here.is_empty() {
        return list("method", here);
    }
    let tasks = task::TASKS.iter().copied().filter(|&task| methods().any(|method| reads(task, method)));
    list("task", tasks.map(Task::name).collect())
}

/// The settings with the defaults but for these `key = value` pairs, checked; all of them play a part.
///
/// # Errors
/// [`Error::Setting`] otherwise.
pub fn from_pairs<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Result<Settings> {
    let mut values = Values::new();
    let mut keys = Vec::new();
    for (key, text) in pairs {
        keys.push((key, set(&mut values, key, &value_of(text))?.name));
    }
    let settings = resolve(values)?;
    for (key, name) in keys {
        refuse_unread(&settings, key, name)?;
    }
    check(&settings)?;
    Ok(settings)
}

/// The estimator of that name, and its settings for a single estimate: the defaults but for these `key = value` pairs,
/// all of which it reads.
///
/// # Errors
/// [`Error::Setting`] if there is no such estimator, or no such setting of it.
pub fn of_estimator<'p>(
    name: &str,
    pairs: impl IntoIterator<Item = (&'p str, &'p str)>,
) -> Result<(&'static dyn estimator::Kind, Settings)> {
    let Some(kind) = estimator::KINDS.iter().copied().find(|kind| kind.name() == name) else {
        let names: Vec<&str> = estimator::KINDS.iter().map(|kind| kind.name()).collect();
        return Err(Error::setting("estimator", format!("expected one of {}; got {name}", names.join(", "))));
    };
    let sections = [estimator::shared_sections(kind), kind.sections()].concat();
    let mut values = Values::new();
    for (key, text) in pairs {
        let entry = set(&mut values, key, &value_of(text))?;
        if !sections.iter().copied().flatten().any(|known| known == entry) {
            let known: Vec<&str> = sections.iter().copied().flatten().map(|known| known.name).collect();
            let reason =
                format!("it plays no part in an estimate by {name}, which reads {}", known.join(", "));
            return Err(Error::setting(key, reason));
        }
    }
    let settings = Settings::new(values, &sections);
    kind.check(&settings)?;
    Ok((kind, settings))
}

/// Every setting with its help, allowed values, default and readers.
#[must_use]
pub fn describe() -> Vec<Description> {
    let usual = resolve(Values::new());
    let describe = |entry: &&'static Entry| Description {
        name: entry.name,
        help: entry.help(),
        allowed: entry.allowed(),
        default: text_of(&(entry.default)()),
        is_usual: usual.as_ref().is_ok_and(|usual| usual.is_read(entry.name)),
        readers: readers(entry.name, task::TASKS[0]),
    };
    entries().iter().map(describe).collect()
}

/// What a trial is named by, as JSON with sorted names and shortest exact numbers: equal text for equal
/// settings, on every machine. Everything that its file assigns stands there, and the founding settings.
pub(super) fn canonical(settings: &Settings) -> serde_json::Value {
    let mut table = serde_json::Map::new();
    let json = |value: &toml::Value| serde_json::to_value(value).expect("settings are plain values");
    for entry in entries() {
        let is_founding = FOUNDING.contains(&entry.name);
        match settings.values().get(entry.name) {
            Some(value) => table.insert(entry.name.to_owned(), json(value)),
            None if is_founding => table.insert(entry.name.to_owned(), json(&(entry.default)())),
            None => None,
        };
    }
    let mut value = serde_json::Value::Object(table);
    value.sort_all_objects();
    value
}

/// What a trial is named by, as JSON text with sorted names: the founding settings, and whatever else is not at its
/// default, read or not.
#[must_use]
pub fn canonical_json(settings: &Settings) -> String {
    canonical(settings).to_string()
}

/// The settings of a result file from what [`canonical_json`] wrote; rules may have changed since, so they are not
/// checked.
///
/// # Errors
/// Why the text is none of a trial that this program knows.
pub(crate) fn from_canonical(text: &str) -> std::result::Result<Settings, String> {
    let table: toml::Table = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut values = Values::new();
    for (key, value) in &table {
        set(&mut values, key, value).map_err(|error| error.to_string())?;
    }
    resolve(values).map_err(|error| error.to_string())
}
