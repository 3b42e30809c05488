//! The text of experiment files: where a key stands, for errors that name file, line and key.

use toml::de::{DeTable, DeValue};

use crate::error::shortened;
use crate::{Error, Result};

/// Bytes of the longest reason of the parser's that repeats nothing long of the file.
const MAX_REASON: usize = 400;

/// An experiment file's name and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) file: String,
    pub(super) text: String,
}

/// Where a key or value stands in a document: byte range and dotted key, such as `series[1].set.mu`.
struct KeySpan {
    start: usize,
    end: usize,
    path: String,
}

impl Source {
    pub(super) fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        Self { file: file.into(), text: text.into() }
    }

    /// Parses the text into `T`.
    ///
    /// # Errors
    /// [`Error::Spec`] at the place that does not fit.
    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let mut reason = error.message().lines().collect::<Vec<_>>().join(", ");
            if reason.len() > MAX_REASON {
                reason = shortened(&reason);
            }
            self.error_at(at, &self.key_of(&error), reason)
        })
    }

    /// The dotted key that an error is about.
    fn key_of(&self, error: &toml::de::Error) -> String {
        let span = error.span().unwrap_or(0..0);
        let spans = self.spans();
        if spans.is_empty() {
            // Not TOML at all: the key, or whatever is there, on the line of the error.
            let start = self.text[..span.start].rfind('\n').map_or(0, |at| at + 1);
            let line = self.text[start..].lines().next().unwrap_or_default();
            return line.split('=').next().unwrap_or_default().trim().to_owned();
        }
        let inside = |key: &&KeySpan| !span.is_empty() && key.start <= span.start && span.end <= key.end;
        // The deepest of the smallest: an element of a list comes after the list in `spans`.
        let key = spans.iter().rev().filter(inside).min_by_key(|key| key.end - key.start);
        let path = key.map_or("", |key| &key.path);
        match error.message().strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            Some(field) if path.is_empty() => field.to_owned(),
            Some(field) => format!("{path}.{field}"),
            None => path.to_owned(),
        }
    }

    /// Byte at which the dotted key `path` stands, or `None` when the file does not have it.
    pub(super) fn position(&self, path: &str) -> Option<usize> {
        self.spans().iter().find(|key| key.path == path).map(|key| key.start)
    }

    /// An error about byte `at`.
    pub(super) fn error_at(&self, at: usize, key: &str, reason: impl Into<String>) -> Error {
        let line = 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        Error::Spec { file: self.file.clone(), line, key: shortened(key), reason: reason.into() }
    }

    /// Every key and array element; empty for text that is not TOML.
    fn spans(&self) -> Vec<KeySpan> {
        let mut spans = Vec::new();
        if let Ok(root) = DeTable::parse(&self.text) {
            visit_table(root.get_ref(), "", &mut spans);
        }
        spans
    }
}

fn visit_table(table: &DeTable<'_>, prefix: &str, spans: &mut Vec<KeySpan>) {
    for (key, value) in table {
        let path =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        // The key comes first, so that `position` finds it rather than its value.
        spans.push(KeySpan { start: key.span().start, end: key.span().end, path: path.clone() });
        spans.push(KeySpan { start: value.span().start, end: value.span().end, path: path.clone() });
        visit_value(value.get_ref(), &path, spans);
    }
}

fn visit_value(value: &DeValue<'_>, path: &str, spans: &mut Vec<KeySpan>) {
    match value {
        DeValue::Table(table) => visit_table(table, path, spans),
        DeValue::Array(items) => {
            for (idx, item) in items.iter().enumerate() {
                let path = format!("{path}[{idx}]");
                spans.push(KeySpan { start: item.span().start, end: item.span().end, path: path.clone() });
                visit_value(item.get_ref(), &path, spans);
            }
        }
        _ => {}
    }
}

/// A file and the one it extends, in that order: a key's place is the first file that has it.
pub(super) struct Sources(pub(super) Vec<Source>);

impl Sources {
    /// An error about the key `path`, or about the nearest enclosing key that a file has.
    pub(super) fn error(&self, path: &str, reason: impl Into<String>) -> Error {
        let mut known = path;
        loop {
            for source in &self.0 {
                if let Some(at) = source.position(known) {
                    return source.error_at(at, path, reason);
                }
            }
            match known.rfind(['.', '[']) {
                Some(cut) => known = &known[..cut],
                None => return self.0[0].error_at(0, path, reason),
            }
        }
    }
}
