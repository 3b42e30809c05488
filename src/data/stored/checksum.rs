//! Checksums of whole files: those of the canonical hub files, and those recorded beside a copy in
//! the format of `sha256sum`.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Found, as_data, content, quoted};
use crate::error::{Error, Result};
use crate::files;
use crate::hex::hex;

/// Name of the record, in the folder that its file names are relative to.
const RECORD: &str = "SHA256SUMS";
/// Bytes that a record may have: some thousands of lines.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub(super) fn sha256(file: &Path) -> Result<String> {
    let mut reader = files::open_regular(file).map_err(as_data)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", file)(error)),
        }
    }
}

/// The record beside `found`: checksum by file name relative to its root. Empty if there is none.
///
/// # Errors
/// [`Error::Data`] if the record is there, but not in the format of `sha256sum`; [`Error::Io`] if it cannot be read.
pub(super) fn recorded(found: &Found) -> Result<HashMap<String, String>> {
    let path = found.root.join(RECORD);
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let content = content(&path, MAX_RECORD_BYTES)?;
    let entries =
        content.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    let entries = entries.map(|(idx, line)| {
        let entry = std::str::from_utf8(line).ok().and_then(entry);
        entry.ok_or_else(|| {
            let line = quoted(&String::from_utf8_lossy(line));
            let reason = format!(
                "line {} is not a SHA-256 and a file name, but `{line}`; write the file anew with sha256sum, or remove it",
                idx + 1
            );
            Error::data(&path, reason)
        })
    });
    entries.collect()
}

/// File name and checksum of a line of a record.
fn entry(line: &str) -> Option<(String, String)> {
    let (sum, name) = line.trim_end().split_once(char::is_whitespace)?;
    let name = name.trim_start().trim_start_matches('*').trim_start_matches("./");
    let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_sum && !name.is_empty()).then(|| (name.to_string(), sum.to_ascii_lowercase()))
}

/// Records the checksums of all files of `found`, in place of an older record.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read or the record cannot be written.
pub(super) fn record(found: &Found) -> Result<()> {
    let mut text = String::new();
    for name in found.splits.iter().flatten() {
        text += &format!("{}  {}\n", sha256(&found.root.join(name))?, name.display());
    }
    files::write_atomically(&found.root.join(RECORD), text.as_bytes())
}

/// Compares every file of `found` with its record, if it has one.
///
/// # Errors
/// [`Error::Data`] naming the first file that differs; [`Error::Io`].
pub(super) fn verify_recorded(found: &Found) -> Result<()> {
    let recorded = recorded(found)?;
    for name in found.splits.iter().flatten() {
        if let Some(expected) = recorded.get(&*name.to_string_lossy()) {
            let file = found.root.join(name);
            let actual = sha256(&file)?;
            if actual != *expected {
                return Err(Error::data(&file, differs(&actual, expected)));
            }
        }
    }
    Ok(())
}

/// What to say about a file whose checksum is not the recorded one.
pub(super) fn differs(actual: &str, expected: &str) -> String {
    format!(
        "damaged or replaced: SHA-256 {}…, but {RECORD} beside it says {}…; remove the file and fetch it again, or remove {RECORD} if the change is wanted",
        &actual[..12],
        &expected[..12]
    )
}
