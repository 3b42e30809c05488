//! What is known about the files of a collection, and whether all of it is sound.

use std::fmt;
use std::path::PathBuf;

use super::{Collection, Format, Found, checksum};
use crate::error::{Error, Result};

/// The files of a collection.
#[derive(Debug, Clone)]
pub struct Info {
    /// The collection.
    pub collection: &'static Collection,
    /// The folder the files are in.
    pub root: PathBuf,
    /// How they are laid out.
    pub format: Format,
    /// Every file, training split first.
    pub files: Vec<FileInfo>,
    /// The training split.
    pub train: SplitInfo,
    /// The test split.
    pub test: SplitInfo,
    /// What is wrong, one sentence each; empty if all is well.
    pub problems: Vec<String>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Whether that is the checksum of the hub's canonical file.
    pub canonical: bool,
    /// Whether that is the checksum in the `SHA256SUMS` beside it; `None` if there is none.
    pub recorded: Option<bool>,
}

/// One split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitInfo {
    /// Number of images.
    pub n_rows: usize,
    /// Number of images of each class.
    pub class_counts: Vec<usize>,
    /// [`Dataset::checksum`](crate::data::Dataset::checksum) of the decoded images, if they were
    /// decoded.
    pub checksum: Option<String>,
}

impl Info {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}) in {}", self.collection.title, self.format, self.root.display())?;
        for file in &self.files {
            let name = file.path.strip_prefix(&self.root).unwrap_or(&file.path);
            let status = match (file.canonical, file.recorded) {
                (_, Some(false)) => "differs from SHA256SUMS",
                (true, _) => "canonical",
                (false, Some(true)) => "as in SHA256SUMS",
                (false, None) => "not recorded",
            };
            writeln!(f, "  {}  {} bytes  {}  ({status})", file.sha256, file.size_bytes, name.display())?;
        }
        for (name, split) in [("train", &self.train), ("test", &self.test)] {
            write!(f, "  {name}: {} images", split.n_rows)?;
            match split.class_counts.iter().min() {
                Some(min) if split.class_counts.iter().all(|count| count == min) => {
                    writeln!(f, ", {min} of each class")?;
                }
                _ => {
                    let counts = self.collection.class_names.iter().zip(&split.class_counts);
                    let counts: Vec<String> =
                        counts.map(|(class, count)| format!("{class} {count}")).collect();
                    writeln!(f, " ({})", counts.join(", "))?;
                }
            }
            if let Some(checksum) = &split.checksum {
                writeln!(f, "  {name} pixels and labels: {checksum}")?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "  problem: {problem}")?;
        }
        write!(f, "  {}", if self.is_sound() { "ok" } else { "not ok" })
    }
}

/// Sizes, checksums, row and class counts; images are not decoded. What is wrong with a file's
/// content is a problem in the answer.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read.
pub(super) fn info(collection: &'static Collection, found: &Found) -> Result<Info> {
    let recorded = checksum::recorded(found)?;
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for (split, name) in (0..2).flat_map(|split| found.splits[split].iter().map(move |name| (split, name))) {
        let path = found.root.join(name);
        let size_bytes = std::fs::metadata(&path).map_err(Error::io("open", &path))?.len();
        let sha256 = checksum::sha256(&path)?;
        let expected = recorded.get(&*name.to_string_lossy());
        if let Some(expected) = expected.filter(|&expected| *expected != sha256) {
            problems.push(format!("{}: {}", path.display(), checksum::differs(&sha256, expected)));
        }
        let canonical =
            found.format == Format::Parquet && collection.hub.canonical(split) == Some(sha256.as_str());
        let recorded = expected.map(|expected| *expected == sha256);
        files.push(FileInfo { path, size_bytes, sha256, canonical, recorded });
    }
    let mut describe = |split: usize| {
        let labels = noted(collection.read_labels(found, split), &mut problems)?;
        if let Some(n) = labels.as_ref().map(Vec::len).filter(|&n| n != collection.n_rows()[split]) {
            let name = ["train", "test"][split];
            problems.push(format!("{name} has {n} images, not {}", collection.n_rows()[split]));
        }
        let labels = labels.unwrap_or_default();
        let mut class_counts = vec![0; collection.class_names.len()];
        labels.iter().for_each(|&label| class_counts[usize::from(label)] += 1);
        Ok::<_, Error>(SplitInfo { n_rows: labels.len(), class_counts, checksum: None })
    };
    let (train, test) = (describe(0)?, describe(1)?);
    Ok(Info { collection, root: found.root.clone(), format: found.format, files, train, test, problems })
}

/// As [`info`], and decodes every image.
///
/// # Errors
/// As [`info`].
pub(super) fn verify(collection: &'static Collection, found: &Found) -> Result<Info> {
    let mut info = info(collection, found)?;
    for (split, target) in [(0, &mut info.train), (1, &mut info.test)] {
        if let Some(data) = noted(collection.read_split(found, split), &mut info.problems)? {
            target.checksum = Some(data.checksum());
        }
    }
    Ok(info)
}

/// The value, or nothing if the data are bad, which becomes a problem unless it is one already.
fn noted<T>(result: Result<T>, problems: &mut Vec<String>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Data { path, reason }) => {
            let problem = format!("{}: {reason}", path.display());
            if !problems.contains(&problem) {
                problems.push(problem);
            }
            Ok(None)
        }
        Err(other) => Err(other),
    }
}
