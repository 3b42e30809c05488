//! The library's error type: one variant per kind of failure, each with its operands.
//!
//! The binary adds context with `anyhow` and prints one line; nothing in the library panics on
//! user input.

use std::path::PathBuf;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting has an unknown name or an impossible value.
    #[error("setting `{key}`: {reason}")]
    Setting {
        /// The setting's name as the user wrote it.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },

    /// An experiment file does not say something it must, or says something it must not.
    #[error("{file}:{line}: {key}: {reason}")]
    Spec {
        /// The experiment file.
        file: String,
        /// 1-based line.
        line: usize,
        /// Dotted key inside the file.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },

    /// A data set is missing, truncated or corrupt.
    #[error("data {path}: {reason}")]
    Data {
        /// The file or folder concerned.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },

    /// The hub could not be reached or answered with something unusable.
    #[error("download of {what}: {reason}")]
    Download {
        /// What was being fetched.
        what: String,
        /// What is wrong and what to do.
        reason: String,
    },

    /// A file of our own format (results, checkpoint, weights) cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },

    /// A read or write failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// The attempted action, such as `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// A parameter of a network is missing or has another shape than expected.
    #[error("parameter `{name}`: expected {expected}, got {got}")]
    Parameter {
        /// PyTorch-style parameter name.
        name: String,
        /// The expected shape, kind or range.
        expected: String,
        /// What was there instead.
        got: String,
    },

    /// The loss became NaN or infinite, so that training cannot go on.
    #[error("the loss is {loss} at {at}: training diverged (a smaller learning rate or mu may help)")]
    Diverged {
        /// The offending value.
        loss: f64,
        /// Where it happened, such as `epoch 3, step 17`.
        at: String,
    },

    /// The user asked to stop.
    #[error("interrupted; the run can go on from its last finished epoch")]
    Interrupted,

    /// The device asked for is not there or not compiled in.
    #[error("device `{device}`: {reason}")]
    Device {
        /// The device as the user wrote it.
        device: String,
        /// Why it cannot be used and what to do.
        reason: String,
    },

    /// Something between the processes of one job.
    #[error("ranks: {0}")]
    Ranks(String),

    /// A failure in the black box that a user brought along.
    #[error("objective: {0}")]
    Objective(String),

    /// An evaluation of a black box cannot be told as it was.
    #[error("evaluation {id}: {reason}")]
    Evaluation {
        /// Its number.
        id: u64,
        /// What is wrong.
        reason: String,
    },

    /// A user's command that evaluates points does not do what it should.
    #[error("command: {0}")]
    Command(String),

    /// A classifier that is asked for classes gives none that can be used.
    #[error("classifier: {0}")]
    Classifier(String),

    /// An error of the tensor library.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),

    /// An error of the data-frame library.
    #[error("data frame: {0}")]
    Frame(#[from] polars::error::PolarsError),
}

impl Error {
    /// Wraps an I/O error with what was being done to which path.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// A setting error.
    pub fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting { key: shortened(&key.into()), reason: reason.into() }
    }

    /// A data error.
    pub fn data(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Data { path: path.into(), reason: reason.into() }
    }

    /// An error in one of our own files.
    pub fn file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::File { path: path.into(), reason: reason.into() }
    }
}

/// Characters of a user's own text that an error repeats.
const N_SHOWN: usize = 200;

/// Text of a user's as an error repeats it: on one line, without control characters, and cut where it is long.
#[must_use]
pub fn shortened(text: &str) -> String {
    let mut shown = String::new();
    for (idx, c) in text.chars().enumerate() {
        if idx == N_SHOWN {
            shown.push('…');
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_and_control_characters_are_spelled_out() {
        assert_eq!(shortened("a value"), "a value");
        assert_eq!(shortened("two\nlines\u{1b}[31m"), "two\\nlines\\u{1b}[31m");
        let long = shortened(&"é".repeat(10_000));
        assert_eq!(long.chars().count(), N_SHOWN + 1);
        assert!(long.ends_with('…'));
        assert_eq!(shortened(&"é".repeat(N_SHOWN)).chars().count(), N_SHOWN);
    }
}
