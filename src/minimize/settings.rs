//! The settings of a black box: which methods there are, what they read, what is the default where nothing else is
//! known than values.

use std::sync::LazyLock;

use toml::Value;

use crate::experiment::settings::ALIASES;
use crate::method::pattern_search;
use crate::setting::Domain::{Above, Int};
use crate::setting::{Entry, Section, Settings, Values, did_you_mean, text_of, value_of};
use crate::zo::estimator;
use crate::zo::optimizer::{self, Schedule};
use crate::{Error, Result};

/// A method that needs function values alone.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Descent along the estimates of an estimator.
    Estimating(&'static dyn estimator::Kind),
    /// Pattern Search.
    Searching,
}

impl Kind {
    /// Name in files.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Estimating(kind) => kind.name(),
            Self::Searching => "pattern-search",
        }
    }

    /// What a run of it reads, beside the method itself.
    fn sections(self) -> Vec<&'static [Entry]> {
        match self {
            Self::Estimating(kind) => {
                let mut sections = estimator::shared_sections(kind);
                sections.extend(kind.sections());
                sections.extend([optimizer::Config::ENTRIES, Horizon::ENTRIES]);
                sections
            }
            Self::Searching => vec![SearchConfig::ENTRIES],
        }
    }
}

/// All methods: one for every estimator that is not for weights alone, and Pattern Search.
#[must_use]
pub fn kinds() -> Vec<&'static Kind> {
    static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
        let estimating = estimator::KINDS.iter().copied().filter(|kind| !kind.is_of_weights());
        let estimating = estimating.map(Kind::Estimating);
        estimating.chain([Kind::Searching]).collect()
    });
    KINDS.iter().collect()
}

crate::registered!(Kind, kinds());

crate::section! {
    /// How a black box is minimized.
    pub struct Config {
        /// Gradient estimator, or another way to move.
        pub method: &'static Kind = default_kind()
    }
}

fn default_kind() -> &'static Kind {
    kinds().into_iter().find(|kind| kind.name() == "rge").expect("it is an estimator")
}

crate::section! {
    /// How long a schedule is.
    pub struct Horizon {
        /// Steps after which schedule = cosine is at zero; it has no other end, since a run can be given more budget.
        pub steps: usize = 0 => Int(0, 1_000_000_000)
    }
}

crate::section! {
    /// Pattern Search on a black box.
    pub struct SearchConfig {
        /// Which moves are kept (Pattern Search).
        pub search: pattern_search::Search = pattern_search::Search::First,
        /// Initial size of a move (Pattern Search).
        pub radius: f64 = 1.0 => Above(0.0, f64::INFINITY),
        /// Size of a move at which the search ends (Pattern Search).
        pub least_radius: f64 = 1e-9 => Above(0.0, f64::INFINITY),
        /// Points compared at a time with search = best, the present one included; 0 for all 2d moves.
        pub population: usize = 0,
        /// Moves kept, or halvings of the radius, per sample; 0 for one sample throughout.
        pub search_steps: usize = 0
    }
}

/// Defaults for black boxes, where they differ from those for networks: method (empty for all), setting, value.
const DEFAULTS: [(&str, &str, &str); 15] = [
    ("", "schedule", "constant"),
    ("", "warmup-epochs", "0"),
    ("", "weight-decay", "0"),
    ("", "optimizer", "adam"),
    ("rge", "queries", "16"),
    ("rge", "directions", "rademacher"),
    ("cge", "difference", "central"),
    ("cocd", "difference", "central"),
    ("rge", "difference", "central"),
    ("eggroll", "mu", "0.2"),
    // These say where to step, not what the gradient is.
    ("hizoo", "optimizer", "sgd"),
    ("hizoo", "momentum", "0"),
    ("eggroll", "optimizer", "sgd"),
    ("eggroll", "momentum", "0"),
    ("eggroll", "queries", "16"),
];

/// A setting of estimators that look at layers as matrices, which the coordinates of a black box are not: what runs began
/// with names it, and nobody can set it.
const OF_MATRICES: &str = "rank";

/// Sections of `method`, the one that names it included.
fn sections(method: &Kind) -> Vec<&'static [Entry]> {
    [vec![Config::ENTRIES], method.sections()].concat()
}

/// The method of these settings.
///
/// # Errors
/// If they are not those of a black box.
pub fn method(settings: &Settings) -> Result<&'static Kind> {
    let Config { method } = settings.read()?;
    Ok(method)
}

/// The settings with the defaults for black boxes but for these `key = value` pairs, checked; all of them play a part.
///
/// # Errors
/// [`Error::Setting`] otherwise.
pub fn from_pairs<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Result<Settings> {
    let pairs: Vec<(&str, Value)> = pairs.into_iter().map(|(key, text)| (key, value_of(text))).collect();
    from_values(&pairs)
}

/// The same from values.
///
/// # Errors
/// As [`from_pairs`].
pub fn from_values(pairs: &[(&str, Value)]) -> Result<Settings> {
    let full = |key: &str| -> String {
        let name = key.replace('_', "-");
        ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, full)| (*full).to_owned())
    };
    let mut kind = default_kind();
    for (key, value) in pairs.iter().filter(|(key, _)| full(key) == "method") {
        let entry = &Config::ENTRIES[0];
        let value = entry.checked(key, value)?;
        kind =
            Settings::new(Values::from([(entry.name, value)]), &[Config::ENTRIES]).read::<Config>()?.method;
    }
    let sections = sections(kind);
    let entry_of = |name: &str| sections.iter().copied().flatten().find(|entry| entry.name == name);
    let mut values = Values::new();
    for (method, name, text) in DEFAULTS {
        let applies = method.is_empty() || method == kind.name();
        if let Some(entry) = entry_of(name).filter(|_| applies) {
            values.insert(entry.name, entry.checked(name, &value_of(text))?);
        }
    }
    for (key, value) in pairs {
        let name = full(key);
        let Some(entry) = entry_of(&name) else { return Err(unknown(key, &name, kind)) };
        values.insert(entry.name, entry.checked(key, value)?);
    }
    let settings = Settings::new(values, &sections);
    check(kind, &settings)?;
    let idle = idle(kind, &settings)?;
    for (key, value) in pairs {
        let name = full(key);
        let Some((_, beside)) = idle.iter().find(|(idle, _)| *idle == name) else { continue };
        // What a run began with names all of them.
        if entry_of(&name).is_some_and(|entry| entry.checked(key, value).ok() != Some((entry.default)())) {
            return Err(Error::setting(*key, format!("it plays no part {beside}")));
        }
    }
    Ok(settings)
}

/// Settings that change nothing, as the others are, and beside what.
fn idle(kind: &Kind, settings: &Settings) -> Result<Vec<(&'static str, String)>> {
    let Kind::Estimating(estimator) = kind else { return Ok(Vec::new()) };
    let optimizer: optimizer::Config = settings.read()?;
    let beside = format!("with schedule = {}", optimizer.schedule.name());
    let mut idle: Vec<(&str, String)> =
        optimizer.idle().into_iter().map(|name| (name, beside.clone())).collect();
    if estimator.sections().into_iter().flatten().any(|entry| entry.name == OF_MATRICES) {
        idle.push((OF_MATRICES, "where coordinates are no matrices".to_owned()));
    }
    Ok(idle)
}

fn check(kind: &Kind, settings: &Settings) -> Result<()> {
    let Kind::Estimating(estimator) = kind else {
        let SearchConfig { radius, least_radius, population, search, .. } = settings.read()?;
        if least_radius > radius {
            let reason = format!("expected at most radius = {radius}; got {least_radius}");
            return Err(Error::setting("least-radius", reason));
        }
        if population > 0 && search == pattern_search::Search::First {
            return Err(Error::setting(
                "population",
                "it plays no part with search = first; use search = best",
            ));
        }
        return Ok(());
    };
    estimator.check(settings)?;
    let (Horizon { steps }, optimizer::Config { schedule, warmup_epochs, .. }) =
        (settings.read()?, settings.read()?);
    match schedule {
        Schedule::Cosine if steps <= warmup_epochs => {
            let reason = format!(
                "schedule = cosine needs the number of steps after which it is at zero, more than those of the warm-up, \
                 {warmup_epochs}; got {steps}"
            );
            Err(Error::setting("steps", reason))
        }
        Schedule::Constant | Schedule::Step if steps > 0 => {
            let reason =
                format!("it plays no part with schedule = {}; use schedule = cosine", schedule.name());
            Err(Error::setting("steps", reason))
        }
        _ => Ok(()),
    }
}

/// Every setting of any method.
fn entries() -> Vec<&'static Entry> {
    let mut all: Vec<&'static Entry> = Vec::new();
    for entry in kinds().into_iter().flat_map(sections).flatten() {
        if !all.contains(&entry) && entry.name != OF_MATRICES {
            all.push(entry);
        }
    }
    all
}

fn readers(name: &str) -> Vec<&'static str> {
    let reads = |kind: &&Kind| sections(kind).into_iter().flatten().any(|entry| entry.name == name);
    kinds().into_iter().filter(reads).map(Kind::name).collect()
}

fn unknown(key: &str, name: &str, kind: &Kind) -> Error {
    let readers = readers(name);
    if readers.is_empty() {
        let names = || entries().into_iter().map(|entry| entry.name);
        let hint = did_you_mean(name, names());
        let list = format!("the settings of a black box are {}", names().collect::<Vec<_>>().join(", "));
        return Error::setting(
            key,
            format!("no such setting; {}", if hint.is_empty() { &list } else { hint.trim_end() }),
        );
    }
    let reason = format!(
        "it plays no part with method = {}; it is read with method = {}",
        kind.name(),
        readers.join(", ")
    );
    Error::setting(key, reason)
}

/// Every setting with its help, allowed values, default for black boxes and readers, a line each.
#[must_use]
pub fn describe() -> String {
    let mut text = String::new();
    for entry in entries() {
        let readers = readers(entry.name);
        let default = |method: &str| {
            let own = |of: &str| DEFAULTS.iter().find(|(m, name, _)| *m == of && *name == entry.name);
            own(method).or_else(|| own("")).map_or_else(|| text_of(&(entry.default)()), |d| d.2.to_owned())
        };
        let mut defaults: Vec<(String, Vec<&str>)> = Vec::new();
        for &method in &readers {
            let value = default(method);
            match defaults.iter_mut().find(|(known, _)| *known == value) {
                Some((_, methods)) => methods.push(method),
                None => defaults.push((value, vec![method])),
            }
        }
        let defaults = match &defaults[..] {
            [(value, _)] => value.clone(),
            several => {
                let of = |(value, methods): &(String, Vec<&str>)| format!("{value} ({})", methods.join(", "));
                several.iter().map(of).collect::<Vec<_>>().join(", ")
            }
        };
        let readers = match readers.len() == kinds().len() {
            true => String::new(),
            false => format!("; with method = {}", readers.join(", ")),
        };
        text.push_str(&format!(
            "  {:<16} {} [{}; default {defaults}{readers}]\n",
            entry.name,
            entry.help(),
            entry.allowed()
        ));
    }
    text
}

/// All that is read, as JSON: what a run is told by.
#[must_use]
pub fn to_json(settings: &Settings) -> serde_json::Value {
    let plain = |value: Value| serde_json::to_value(&value).unwrap_or_default();
    settings
        .shown()
        .map(|(name, value)| (name.to_owned(), plain(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// What [`to_json`] wrote.
///
/// # Errors
/// If it holds what no method reads.
pub fn from_json(value: &serde_json::Value) -> Result<Settings> {
    let table: toml::Table = serde_json::from_value(value.clone())
        .map_err(|error| Error::setting("settings", error.to_string()))?;
    let pairs: Vec<(&str, Value)> = table.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    from_values(&pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the documentation of the settings.
    #[test]
    fn what_plays_no_part_is_refused() {
        let refused = |pairs: &[(&str, &str)]| from_pairs(pairs.iter().copied()).unwrap_err().to_string();
        assert!(refused(&[("radius", "2")]).contains("read with method = pattern-search"));
        assert!(refused(&[("epochs", "2")]).contains("no such setting"));
        assert!(refused(&[("lerning-rate", "2")]).contains("learning-rate"));
        assert!(refused(&[("schedule", "cosine")]).contains("`steps`"));
        assert!(refused(&[("steps", "5")]).contains("schedule = constant"));
        assert!(refused(&[("method", "fo")]).contains("pattern-search"));
        assert!(refused(&[("method", "pattern-search"), ("population", "5")]).contains("search = best"));
        assert!(refused(&[("mu", "0")]).contains("above 0"));
        assert!(refused(&[("decay-factor", "0.5")]).contains("schedule = constant"));
        assert!(refused(&[("method", "eggroll"), ("rank", "8")]).contains("no matrices"));
        assert!(from_pairs([("schedule", "step"), ("decay-factor", "0.5")]).is_ok());
    }

    #[test]
    fn settings_come_back() {
        for method in kinds() {
            let settings = from_pairs([("method", method.name())]).unwrap();
            assert_eq!(to_json(&from_json(&to_json(&settings)).unwrap()), to_json(&settings));
        }
        let settings = from_pairs([("lr", "0.5"), ("q", "3")]).unwrap();
        assert!((settings.read::<optimizer::Config>().unwrap().learning_rate - 0.5).abs() < 1e-12);
        assert_eq!(settings.read::<estimator::Budget>().unwrap().queries, 3);
    }

    #[test]
    fn every_setting_is_described() {
        let text = describe();
        assert!(entries().iter().all(|entry| text.contains(entry.name)), "{text}");
        assert!(text.contains("default 16 (rge, eggroll)"), "{text}");
    }
}
