//! One setting: its name, what it may hold, its default, a line of help.

use toml::Value;

use super::suggest::did_you_mean;
use super::text::{text_of, value_of};
use crate::error::shortened;
use crate::{Error, Result};

/// The values a setting may take on its own; rules between settings belong to the parts that read them.
#[derive(Debug, Clone, Copy)]
pub enum Domain {
    /// true or false.
    Bool,
    /// One of these names.
    Name(fn() -> Vec<&'static str>),
    /// An integer between these; both are included.
    Int(i64, i64),
    /// A finite number in `low..high`; `low` itself is excluded.
    Above(f64, f64),
    /// A finite number in `low..high`; `low` itself is included.
    From(f64, f64),
    /// A number in `low..=high`; both are included.
    Within(f64, f64),
}

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Kebab-case name, as in files, `--set`, columns and hashes.
    pub name: &'static str,
    /// The documentation of the field that holds it, one line.
    pub doc: &'static str,
    /// What it may hold.
    pub domain: Domain,
    /// What it holds unless it is set.
    pub default: fn() -> Value,
}

impl PartialEq for Entry {
    /// There is one setting of a name.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Entry {
    /// One line of help.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.doc.trim()
    }

    /// The allowed values in words, such as `an integer of at least 1`.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self.domain {
            Domain::Bool => "true or false".into(),
            Domain::Name(names) => format!("one of {}", names().join(", ")),
            Domain::Int(low, high) => format!("an integer from {low} to {high}"),
            Domain::Above(low, high) if high.is_infinite() => format!("a finite number above {low}"),
            Domain::From(low, high) if high.is_infinite() => format!("a finite number of at least {low}"),
            Domain::Above(low, high) => format!("a number in ({low}, {high})"),
            Domain::From(low, high) => format!("a number in [{low}, {high})"),
            Domain::Within(low, high) => format!("a number in [{low}, {high}]"),
        }
    }

    /// Whether `value` lies in the domain.
    fn admits(&self, value: &Value) -> bool {
        match (self.domain, value) {
            (Domain::Bool, Value::Boolean(_)) => true,
            (Domain::Name(names), Value::String(name)) => names().contains(&name.as_str()),
            (Domain::Int(low, high), Value::Integer(value)) => (low..=high).contains(value),
            (Domain::Above(low, high), Value::Float(value)) => *value > low && *value < high,
            (Domain::From(low, high), Value::Float(value)) => *value >= low && *value < high,
            (Domain::Within(low, high), Value::Float(value)) => (low..=high).contains(value),
            _ => false,
        }
    }

    /// `value` as this setting holds it: integers are numbers where numbers are wanted, whole numbers such as 1e3
    /// integers where integers are, minus zero is zero.
    ///
    /// # Errors
    /// [`Error::Setting`], under the name that the user wrote, if it is none of the allowed values.
    pub fn checked(&self, key: &str, value: &Value) -> Result<Value> {
        let wants_number = matches!(self.domain, Domain::Above(..) | Domain::From(..) | Domain::Within(..));
        let wants_integer = matches!(self.domain, Domain::Int(..));
        let value = match value {
            Value::Integer(value) if wants_number => Value::Float(*value as f64),
            Value::Float(value) if wants_integer && is_whole(*value) => Value::Integer(*value as i64),
            // Minus zero equals zero but is another text, hence another hash.
            Value::Float(value) => Value::Float(*value + 0.0),
            _ => value.clone(),
        };
        if self.admits(&value) { Ok(value) } else { Err(Error::setting(key, self.refusal(&value))) }
    }

    /// Why `value` is impossible and what would be possible.
    fn refusal(&self, value: &Value) -> String {
        let text = shortened(&text_of(value));
        // A text that reads like another kind of value.
        let is_quoted = value.is_str() && !value_of(&text).is_str();
        let got = if is_quoted { format!("\"{text}\"") } else { text };
        let names = if let Domain::Name(names) = self.domain { names() } else { Vec::new() };
        let hint = did_you_mean(&got, names);
        let hint = if hint.is_empty() { String::new() } else { format!("; {}", hint.trim_end()) };
        format!("expected {}; got {got}{hint}", self.allowed())
    }
}

/// Whether a number is an integer that all integers of its size can be told from.
fn is_whole(value: f64) -> bool {
    const MOST: f64 = (1_u64 << 53) as f64;
    value.fract() == 0.0 && value.abs() < MOST
}
