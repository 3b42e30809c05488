//! The settings of one trial.

use std::collections::BTreeMap;

use toml::Value;

use super::{Entry, Plain, Section};
use crate::{Error, Result};

/// Values by the names of their settings.
pub type Values = BTreeMap<&'static str, Value>;

/// The settings of one trial: which it reads, and every value that is not the default. Complete: what has no value
/// here has its default.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Values other than the defaults, also of settings that the trial does not read.
    values: Values,
    /// What the trial reads, in the order of its sections.
    read: Vec<&'static Entry>,
}

impl Settings {
    /// Settings with these values, each as its entry holds it, of which those of the sections `read` are read.
    #[must_use]
    pub fn new(values: Values, read: &[&'static [Entry]]) -> Self {
        let mut entries: Vec<&'static Entry> = Vec::new();
        for entry in read.iter().copied().flatten() {
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        Self { values, read: entries }
    }

    /// A section.
    ///
    /// # Errors
    /// [`Error::Setting`] if the trial's task and method do not declare that they read it.
    pub fn read<S: Section>(&self) -> Result<S> {
        S::of(self)
    }

    /// The value of one setting.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn value<T: Plain>(&self, entry: &Entry) -> Result<T> {
        if !self.is_read(entry.name) {
            return Err(Error::setting(
                entry.name,
                "the trial's task and method do not declare that they read it",
            ));
        }
        let value = self.values.get(entry.name).cloned().unwrap_or_else(entry.default);
        T::from_value(&value).ok_or_else(|| Error::setting(entry.name, format!("cannot hold {value}")))
    }

    /// Whether the trial reads the setting of this name.
    #[must_use]
    pub fn is_read(&self, name: &str) -> bool {
        self.read.iter().any(|entry| entry.name == name)
    }

    /// The value of the setting of this name, if the trial reads it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value> {
        let entry = self.read.iter().find(|entry| entry.name == name)?;
        Some(self.values.get(name).cloned().unwrap_or_else(entry.default))
    }

    /// Everything that the trial reads, in order: what a user is shown.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, Value)> + '_ {
        let value = |entry: &&'static Entry| {
            (entry.name, self.values.get(entry.name).cloned().unwrap_or_else(entry.default))
        };
        self.read.iter().map(value)
    }

    /// The same with another value of one setting, which the trial reads.
    #[must_use]
    pub fn with(&self, name: &'static str, value: Value) -> Self {
        debug_assert!(self.is_read(name), "{name} is not read");
        let mut values = self.values.clone();
        values.insert(name, value);
        Self { values, read: self.read.clone() }
    }

    /// The values that are not defaults, read or not.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }
}
