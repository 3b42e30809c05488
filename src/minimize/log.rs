//! The log of evaluations: a line of JSON for each, only ever added to. Every line ends with a checksum over itself and the
//! one before, so that a line that is changed, lost or moved is noticed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::{Error, Result, files};

/// Raised when lines change.
const VERSION: u32 = 1;
/// The longest line that is read.
const MAX_LINE_BYTES: u64 = 1 << 26;
/// A log is brought to the disk at most this often; a process that is killed loses nothing, a power cut this much.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// The first: what the log is of.
    Head {
        /// Version of the format.
        log: u32,
        /// Identity of the run's start.
        run: String,
    },
    /// A value that came.
    Told {
        /// Number of the evaluation.
        id: u64,
        /// Its sample.
        sample: u64,
        /// The value; none if the evaluation failed.
        f: Option<f64>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Seconds that it took, if they are known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
    },
    /// Points that were handed out by the verb `ask`.
    Handed {
        /// Numbers of their evaluations.
        handed: Vec<u64>,
    },
}

/// Where a log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// Bytes of whole lines.
    pub(super) bytes: u64,
    /// Checksum of the last line.
    pub(super) sum: String,
}

impl End {
    pub(super) fn start() -> Self {
        Self { bytes: 0, sum: String::new() }
    }
}

/// A log that is written.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    end: End,
    synced: Instant,
}

const SUM: &str = ",\"sum\":\"";

fn sum_of(before: &str, body: &str) -> String {
    hex(&Sha256::new().chain_update(before).chain_update(body).finalize()[..8])
}

fn damaged(path: &Path, what: &str) -> Error {
    let reason = format!(
        "{what}; it is not as it was written: restore it from a copy, or begin a new run in another folder"
    );
    Error::file(path, reason)
}

impl Log {
    /// Makes a log that is not there yet, of the run with this identity.
    pub(super) fn create(path: &Path, run: &str) -> Result<Self> {
        let head = Entry::Head { log: VERSION, run: run.to_owned() };
        let (line, sum) = line(path, "", &head)?;
        files::write_new(path, line.as_bytes())?;
        Self::open(path, End { bytes: line.len() as u64, sum })
    }

    /// Goes on behind `end`; what is behind it, the beginning of a line whose writer was killed, goes.
    pub(super) fn open(path: &Path, end: End) -> Result<Self> {
        let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
        let mut log = Self { path: path.to_owned(), file, end, synced: Instant::now() };
        log.cut().map_err(Error::io("write", path))?;
        Ok(log)
    }

    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.end.bytes)?;
        self.file.seek(SeekFrom::Start(self.end.bytes)).map(|_| ())
    }

    pub(super) fn end(&self) -> &End {
        &self.end
    }

    /// Adds a line. On failure, a full disk, the log is as before.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<()> {
        let (line, sum) = line(&self.path, &self.end.sum, entry)?;
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // What remains of the line is dropped by whoever opens the log next, if it cannot be cut now.
            let _ = self.cut();
            return Err(Error::io("write", &self.path)(error));
        }
        self.end = End { bytes: self.end.bytes + line.len() as u64, sum };
        if self.synced.elapsed() > SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Brings what was added to the disk.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(Error::io("write", &self.path))
    }
}

/// An entry as a line behind the one with the checksum `before`, and its checksum.
fn line(path: &Path, before: &str, entry: &Entry) -> Result<(String, String)> {
    let body = serde_json::to_string(entry).map_err(|error| Error::file(path, error.to_string()))?;
    let body = body.strip_suffix('}').unwrap_or(&body);
    let sum = sum_of(before, body);
    Ok((format!("{body}{SUM}{sum}\"}}\n"), sum))
}

/// Hears every whole line of the log of the run `run` behind `from`; where they end.
///
/// # Errors
/// If the log is damaged or of another run, or `hear` fails.
pub(super) fn read(
    path: &Path,
    run: &str,
    from: End,
    hear: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<End> {
    let mut file = files::open_regular(path)?;
    let size_bytes = file.metadata().map_err(Error::io("read", path))?.len();
    if size_bytes < from.bytes {
        return Err(damaged(path, &format!("{size_bytes} bytes, where there were {}", from.bytes)));
    }
    let whole = from.bytes == 0;
    file.seek(SeekFrom::Start(from.bytes)).map_err(Error::io("read", path))?;
    let (mut file, mut end) = (BufReader::new(file), from);
    let mut bytes = Vec::new();
    let mut number = 0_u64;
    loop {
        bytes.clear();
        number += 1;
        let place = || {
            if whole { format!("line {number}") } else { format!("line {number} behind byte {}", end.bytes) }
        };
        let limited = &mut (&mut file).take(MAX_LINE_BYTES);
        limited.read_until(b'\n', &mut bytes).map_err(Error::io("read", path))?;
        if bytes.last() != Some(&b'\n') {
            if bytes.len() as u64 == MAX_LINE_BYTES {
                return Err(damaged(path, &format!("{} is too long", place())));
            }
            // The beginning of a line whose writer was killed.
            break;
        }
        let bad = || damaged(path, &place());
        let text = std::str::from_utf8(&bytes[..bytes.len() - 1]).map_err(|_| bad())?;
        let (body, sum) = text.rsplit_once(SUM).ok_or_else(bad)?;
        let sum = sum.strip_suffix("\"}").ok_or_else(bad)?;
        if sum != sum_of(&end.sum, body) {
            return Err(bad());
        }
        let entry: Entry = serde_json::from_str(&format!("{body}}}")).map_err(|_| bad())?;
        match (&entry, whole && number == 1) {
            (Entry::Head { log, .. }, true) if *log != VERSION => {
                return Err(Error::file(path, "written by another version of the program"));
            }
            (Entry::Head { run: found, .. }, true) if found != run => {
                let reason = "it belongs to another start; begin a new run in another folder";
                return Err(Error::file(path, reason));
            }
            (Entry::Head { .. }, true) => {}
            (Entry::Head { .. }, false) | (_, true) => return Err(bad()),
            _ => hear(entry)?,
        }
        end = End { bytes: end.bytes + bytes.len() as u64, sum: sum.to_owned() };
    }
    if end.bytes == 0 {
        return Err(damaged(path, "it is empty"));
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(n: u64) -> Vec<Entry> {
        let error = |id| (id % 3 == 0).then(|| "it \"fell\"\nover, {sum}".to_owned());
        let f = |id| (id % 3 != 0).then_some(0.1 + id as f64 / 3.0);
        let told = |id| Entry::Told { id, sample: id / 2, f: f(id), error: error(id), seconds: Some(1e-3) };
        (0..n).map(told).chain([Entry::Handed { handed: vec![n, n + 1] }]).collect()
    }

    fn read_all(path: &Path) -> Result<(Vec<Entry>, End)> {
        let mut found = Vec::new();
        let end = read(path, "abc", End::start(), &mut |entry| {
            found.push(entry);
            Ok(())
        })?;
        Ok((found, end))
    }

    #[test]
    fn entries_come_back_and_half_a_line_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::create(&path, "abc").unwrap();
        assert!(Log::create(&path, "abc").is_err());
        let expected = entries(7);
        expected[..4].iter().for_each(|entry| log.add(entry).unwrap());
        let middle = log.end().clone();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"id\":17,\"sam"].concat()).unwrap();
        let (found, end) = read_all(&path).unwrap();
        assert_eq!((&found[..], &end), (&expected[..4], &middle));
        let mut log = Log::open(&path, end).unwrap();
        expected[4..].iter().for_each(|entry| log.add(entry).unwrap());
        assert_eq!(read_all(&path).unwrap().0, expected);
        let mut rest = Vec::new();
        let end = read(&path, "abc", middle, &mut |entry| {
            rest.push(entry);
            Ok(())
        });
        assert_eq!((rest, end.unwrap()), (expected[4..].to_vec(), log.end().clone()));
        let other = read(&path, "abd", End::start(), &mut |_| Ok(())).unwrap_err().to_string();
        assert!(other.contains("another start"), "{other}");
    }

    /// Every mutant is refused by name, or is the beginning of the log.
    #[test]
    fn mutants_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = Log::create(&path, "abc").unwrap();
        let expected = entries(5);
        expected.iter().for_each(|entry| log.add(entry).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        for mutant in crate::mutants::of(&bytes, 1, 600) {
            std::fs::write(&path, &mutant).unwrap();
            match read_all(&path) {
                Ok((found, _)) => assert!(expected.starts_with(&found)),
                Err(error) => assert!(error.to_string().contains("log.jsonl"), "{error}"),
            }
        }
    }
}
