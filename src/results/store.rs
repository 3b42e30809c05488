//! The folder of result files: `<root>/<experiment>/<scale>/<trial>.parquet`, and beside it, in
//! folders named after their kinds, a trial's profiles, and in `masks/` the mask that it kept.
//!
//! A file appears whole or not at all, and a finished trial's file is never replaced.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use polars::prelude::*;

use super::digest::{self, digest};
use super::record::TrialRecord;
use super::table::{Reason, from_frame, mask_to_frame, profile_from_frame, profile_to_frame, to_frame};
use crate::error::shortened;
use crate::experiment::{Scale, Trial, file_name, is_cut};
use crate::profile::Profile;
use crate::train::Status;
use crate::{Error, Result, files, panics};

/// Results below a root folder.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Results below `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Requires the folder to be one that can be read, if it is there. Returns whether it is.
    ///
    /// # Errors
    /// [`Error::Io`] otherwise.
    pub fn check(&self) -> Result<bool> {
        match std::fs::read_dir(&self.root) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("list", &self.root)(error)),
        }
    }

    /// Where the record of a trial is, or would be.
    pub fn path(&self, trial: &Trial) -> PathBuf {
        self.folder(&trial.experiment, trial.scale).join(format!("{}.parquet", trial.hash()))
    }

    /// Whether a trial has a record, however it ended.
    pub fn exists(&self, trial: &Trial) -> bool {
        self.path(trial).exists()
    }

    /// The record of a trial, or `None` when it has none yet.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn find(&self, trial: &Trial) -> Result<Option<TrialRecord>> {
        let path = self.path(trial);
        if is_there(&path)? { self.read(&path).map(Some) } else { Ok(None) }
    }

    /// Writes a record and returns its path. The record of a trial that failed or diverged is
    /// replaced, any other is kept.
    ///
    /// # Errors
    /// [`Error::File`] when the trial has a record of a finished run or an unreadable one,
    /// [`Error::Io`] and [`Error::Frame`] when writing fails; nothing is left behind then.
    pub fn write(&self, record: &TrialRecord) -> Result<PathBuf> {
        let path = self.path(&record.trial);
        let replace = match self.find(&record.trial)? {
            Some(old) if old.status == Status::Done => {
                return Err(Error::file(
                    path,
                    "holds the result of a finished trial, which is never overwritten",
                ));
            }
            old => old.is_some(),
        };
        // First, so that no record is without them.
        for profile in &record.profiles {
            write_beside(&path, &profile.kind, &mut profile_to_frame(profile)?)?;
        }
        let bytes = parquet(&path, &mut to_frame(record)?)?;
        if replace {
            files::write_atomically(&path, &bytes)?
        } else {
            files::write_new(&path, &bytes)?
        }
        Ok(path)
    }

    /// Writes the mask (d) that a trial kept, one row per scalar of its tensors, of which the record has a
    /// profile, before its record.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Frame`] when writing fails; nothing is left behind then.
    pub fn write_mask(&self, record: &TrialRecord, mask: &[bool]) -> Result<()> {
        let unknown = Profile::new(Profile::TENSORS, "tensor", Vec::new());
        let tensors = record.profile(Profile::TENSORS).unwrap_or(&unknown);
        write_beside(&self.path(&record.trial), MASKS, &mut mask_to_frame(tensors, mask)?)
    }

    /// Reads one record.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened, [`Error::File`] when it is damaged or was
    /// written by another version.
    pub fn read(&self, path: &Path) -> Result<TrialRecord> {
        let folder = path.parent().unwrap_or(Path::new(""));
        read_with(path, &kinds(folder)?)
    }

    /// All records of an experiment at a scale, ordered by series, x, x as text, seed and trial;
    /// none when there is no such folder.
    ///
    /// # Errors
    /// As [`Store::read`], for the first file that cannot be used.
    pub fn read_all(&self, experiment: &str, scale: Scale) -> Result<Vec<TrialRecord>> {
        let kinds = kinds(&self.folder(experiment, scale))?;
        let mut records = Vec::new();
        for path in self.files(experiment, scale)? {
            records.push(read_with(&path, &kinds)?);
        }
        records.sort_by_cached_key(|record| {
            let trial = &record.trial;
            let x = trial.x.map(OrderedF64);
            (trial.series.clone(), x, trial.x_text.clone(), trial.seed, trial.hash())
        });
        Ok(records)
    }

    /// The id of the experiment whose results are in the folder `name`: the name, unless that was cut.
    ///
    /// # Errors
    /// As [`Store::read`], where the id stands in a record only.
    pub fn id_of(&self, name: &str) -> Result<String> {
        if is_cut(name) {
            for scale in Scale::ALL {
                if let Some(first) = self.files(name, scale)?.first() {
                    return Ok(self.read(first)?.trial.experiment);
                }
            }
        }
        Ok(name.to_owned())
    }

    /// The scales at which an experiment has results, smallest first.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be read.
    pub fn scales(&self, experiment: &str) -> Result<Vec<Scale>> {
        let mut found = Vec::new();
        for scale in Scale::ALL {
            if !self.files(experiment, scale)?.is_empty() {
                found.push(scale);
            }
        }
        Ok(found)
    }

    fn folder(&self, experiment: &str, scale: Scale) -> PathBuf {
        self.root.join(&*file_name(experiment)).join(scale.name())
    }

    /// The result files of an experiment at a scale, sorted by name.
    fn files(&self, experiment: &str, scale: Scale) -> Result<Vec<PathBuf>> {
        let mut paths = entries(&self.folder(experiment, scale))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        Ok(paths)
    }
}

/// Writes a profile alone, in place of a file that is there, with the checksums of results.
///
/// # Errors
/// [`Error::Io`] and [`Error::Frame`] when writing fails; nothing is left behind then.
pub fn write_profile(path: &Path, profile: &Profile) -> Result<()> {
    let bytes = parquet(path, &mut profile_to_frame(profile)?)?;
    files::write_atomically(path, &bytes)
}

/// What [`write_profile`] wrote, as a profile of this kind.
///
/// # Errors
/// As [`Store::read`].
pub fn read_profile(path: &Path, kind: &str) -> Result<Profile> {
    profile_from_frame(kind, &read_frame(path)?).map_err(|reason| damaged(path, &reason))
}

/// Folder of masks.
const MASKS: &str = "masks";

/// Whether there is a file; a folder that cannot be looked into is an error.
fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::io("look for", path))
}

/// What is in a folder and not hidden, sorted by name; nothing if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", folder)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The kinds of profiles that records in a folder have.
fn kinds(folder: &Path) -> Result<Vec<String>> {
    let folders = entries(folder)?.into_iter().filter(|path| path.is_dir());
    let names = folders.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    Ok(names.filter(|name| name != MASKS).collect())
}

/// The record at `path` with its profiles, as far as they are of these kinds.
fn read_with(path: &Path, kinds: &[String]) -> Result<TrialRecord> {
    let mut record = from_frame(&read_frame(path)?).map_err(|reason| damaged(path, &reason))?;
    let name = format!("{}.parquet", record.trial.hash());
    if path.file_name().is_none_or(|found| found != name.as_str()) {
        return Err(damaged(path, &format!("holds the trial of {name}")));
    }
    for kind in kinds {
        let file = beside(path, kind);
        if is_there(&file)? {
            let profile = profile_from_frame(kind, &read_frame(&file)?);
            record.profiles.push(profile.map_err(|reason| damaged(&file, &reason))?);
        }
    }
    Ok(record)
}

/// The record in the bytes of a result file, without its profiles.
pub(crate) fn record_of(bytes: Vec<u8>) -> Result<TrialRecord, Reason> {
    from_frame(&parse(bytes)?)
}

/// The file of the same name in a folder beside `path`.
fn beside(path: &Path, folder: &str) -> PathBuf {
    let name = path.file_name().expect("a record has a name");
    path.with_file_name(folder).join(name)
}

/// Writes, or replaces, the file in `folder` beside `path`.
fn write_beside(path: &Path, folder: &str, frame: &mut DataFrame) -> Result<()> {
    let path = beside(path, folder);
    let bytes = parquet(&path, frame)?;
    files::write_atomically(&path, &bytes)
}

/// A table as a Parquet file in memory, with the checksum of its content: an error of the disk, such as that it is
/// full, then says so.
fn parquet(path: &Path, frame: &mut DataFrame) -> Result<Vec<u8>> {
    let checksum = digest(frame).map_err(|reason| Error::file(path, reason))?;
    let unknown = String::from_utf8_lossy(&digest::UNKNOWN).into_owned();
    let metadata = [(digest::KEY, checksum), (digest::FILE_KEY, unknown)];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).to_vec();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(None))
        .with_statistics(StatisticsOptions::empty())
        .with_key_value_metadata(Some(KeyValueMetadata::from_static(metadata)))
        .set_parallel(false)
        .finish(frame)?;
    digest::seal(&mut bytes).map_err(|reason| Error::file(path, reason))?;
    Ok(bytes)
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::file(path, format!("{reason}; move the file away to run the trial again"))
}

/// Bytes of the largest result file that is read, decompressed or not.
const MAX_BYTES: u64 = 1 << 28;

/// The table in a file, which has the checksums that it says.
fn read_frame(path: &Path) -> Result<DataFrame> {
    let bytes = files::read_bounded(path, MAX_BYTES)?;
    parse(bytes).map_err(|reason| damaged(path, &reason))
}

/// The table in the bytes of a result file.
///
/// # Errors
/// If it is no such file, or does not have the checksums that it says.
fn parse(bytes: Vec<u8>) -> Result<DataFrame, Reason> {
    if !bytes.ends_with(b"PAR1") {
        return Err("not a complete Parquet file".into());
    }
    match digest::is_sealed(&bytes) {
        Some(true) => {}
        Some(false) => return Err("is damaged: its bytes do not have the checksum that it says".into()),
        None => return Err(UNSEALED.into()),
    }
    let read = || -> PolarsResult<_> {
        let mut reader = ParquetReader::new(Cursor::new(bytes)).set_rechunk(true);
        let pairs = reader.get_metadata()?.key_value_metadata().clone().unwrap_or_default();
        let stated = pairs.into_iter().find(|pair| pair.key == digest::KEY).and_then(|pair| pair.value);
        Ok((reader.read_parallel(ParallelStrategy::None).finish()?, stated))
    };
    // What is no Parquet, though it has a checksum, can make the reader panic.
    let (frame, stated) = panics::caught(read).ok_or("damaged Parquet")?.map_err(|error| {
        format!("not a complete Parquet file ({})", shortened(first_line(&error.to_string())))
    })?;
    match stated {
        Some(stated) if stated == digest(&frame)? => Ok(frame),
        Some(_) => Err("is damaged: its content does not have the checksum that it says".into()),
        None => Err(UNSEALED.into()),
    }
}

/// What is said of a file without a checksum.
const UNSEALED: &str =
    "has no checksum; `scripts/verify-results --add` gives results of earlier versions one";

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A total order of numbers, for sorting.
#[derive(PartialEq)]
struct OrderedF64(f64);

impl Eq for OrderedF64 {}

impl PartialOrd for OrderedF64 {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OrderedF64 {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
