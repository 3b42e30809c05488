//! CIFAR-10 from the Hugging Face hub: dataset `uoft-cs/cifar10`, in the cache of the `hf-hub` crate.
//!
//! The endpoint and the cache folder are that crate's settings (`HF_ENDPOINT`, `HF_HOME`,
//! `HF_HUB_CACHE`), and it finds what is in the cache. A file that arrives ([`super::transfer`]) is checked before it
//! is put there: against the SHA-256 that the hub states for it, against the canonical one where that is known, and,
//! unless it is the canonical one, by decoding every image. A file that fails is nowhere afterwards.

use std::path::{Path, PathBuf};

use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoTypeDataset};
use reqwest::Url;

use super::transfer::{self, Arrived, Failure, Limits};
use super::{Found, N_ROWS, checksum, content, parquet_file};
use crate::data::{Progress, Silent};
use crate::error::{Error, Result};
use crate::files;

/// Owner and name of the dataset.
const REPOSITORY: [&str; 2] = ["uoft-cs", "cifar10"];
/// The folder of the dataset in the cache.
const CACHE_FOLDER: &str = "datasets--uoft-cs--cifar10";
/// The folder of the files in the dataset.
const FOLDER: &str = "plain_text";
/// The commit of the dataset whose checksums are known.
pub(super) const REVISION: &str = "0b2714987fa478483af9968de7c934580d0bb9a2";
/// The endpoint whose files must be the canonical ones; a mirror's may differ.
const OFFICIAL_ENDPOINT: &str = "https://huggingface.co";

/// Where the hub is, and where its files are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hub {
    /// Base address; `None` for `hf-hub`'s own setting.
    pub endpoint: Option<String>,
    /// Cache folder; `None` for `hf-hub`'s own setting.
    pub cache_dir: Option<PathBuf>,
    /// How long it may take and how much it may send.
    pub limits: Limits,
}

/// One way the dataset is laid out: a revision, and the names of the training and the test file in
/// the folder `plain_text`.
struct Layout {
    revision: &'static str,
    names: [&'static str; 2],
}

const MAIN_NAMES: [&str; 2] = ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"];

/// In order of preference: the known commit, then what a mirror without it may have.
const LAYOUTS: [Layout; 3] = [
    Layout { revision: REVISION, names: MAIN_NAMES },
    Layout { revision: "main", names: MAIN_NAMES },
    Layout { revision: "refs/convert/parquet", names: ["train/0000.parquet", "test/0000.parquet"] },
];

/// A hub in use.
struct Connection<'a> {
    endpoint: String,
    repository: HFRepositorySync<RepoTypeDataset>,
    /// The folder of the dataset in the cache.
    folder: PathBuf,
    limits: &'a Limits,
    report: &'a dyn Progress,
}

/// The dataset, if an earlier download left it in the hub's cache.
///
/// # Errors
/// [`Error::Download`] if the client cannot be set up.
pub(in crate::data) fn cached(hub: &Hub) -> Result<Option<Found>> {
    let hub = Connection::new(hub, &Silent)?;
    Ok(LAYOUTS.iter().find_map(|layout| match layout.names.map(|name| hub.cached_file(layout, name)) {
        [Some(train), Some(_)] => found(&train, layout).ok(),
        _ => None,
    }))
}

/// Downloads the dataset into the hub's cache.
///
/// # Errors
/// [`Error::Download`] if the hub cannot be reached, does not have the files, or sends damaged
/// ones; the files' own errors.
pub(in crate::data) fn download(hub: &Hub, report: &dyn Progress) -> Result<Found> {
    let hub = Connection::new(hub, report)?;
    for layout in &LAYOUTS {
        if let Some(train) = hub.file(layout, 0)?
            && hub.file(layout, 1)?.is_some()
        {
            let found = found(&train, layout)?;
            checksum::record(&found)?;
            return Ok(found);
        }
    }
    let reason = format!("{} does not have its Parquet files; {}", hub.endpoint, alternatives());
    Err(Error::Download { what: REPOSITORY.join("/"), reason })
}

/// Copies downloaded files to `dir/cifar10/plain_text/{train,test}/0000.parquet`, with a record of
/// their checksums.
///
/// # Errors
/// [`Error::Io`] if a file cannot be copied.
pub(in crate::data) fn install(found: &Found, dir: &Path) -> Result<Found> {
    let root = dir.join("cifar10").join("plain_text");
    let installed = Found::parquet(root, ["train/0000.parquet", "test/0000.parquet"]);
    for (from, to) in found.files().zip(installed.files()) {
        files::write_atomically(&to, &content(&from, parquet_file::MAX_BYTES)?)?;
    }
    checksum::record(&installed)?;
    Ok(installed)
}

/// What to do instead of downloading.
pub(in crate::data) fn alternatives() -> &'static str {
    "put the files in a folder given by --data-dir or DEEPZERO_DATA (data/README.md lists the layouts), \
     or use --set data=synthetic, which needs no files"
}

impl<'a> Connection<'a> {
    fn new(hub: &'a Hub, report: &'a dyn Progress) -> Result<Self> {
        let mut builder = HFClient::builder();
        if let Some(endpoint) = &hub.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(cache_dir) = &hub.cache_dir {
            builder = builder.cache_dir(cache_dir);
        }
        let unusable = |error: HFError| Error::Download {
            what: REPOSITORY.join("/"),
            reason: format!("the hub's address or settings cannot be used: {error}"),
        };
        let client = builder.build().map_err(unusable)?;
        let endpoint = client.endpoint().to_string();
        let folder = client.cache_dir().join(CACHE_FOLDER);
        let client = HFClientSync::from_inner(client).map_err(unusable)?;
        let repository = client.dataset(REPOSITORY[0], REPOSITORY[1]);
        Ok(Self { endpoint, repository, folder, limits: &hub.limits, report })
    }

    /// A file in the cache, which alone is asked.
    fn cached_file(&self, layout: &Layout, name: &str) -> Option<PathBuf> {
        let request = self.repository.download_file().filename(format!("{FOLDER}/{name}"));
        request.revision(layout.revision).local_files_only(true).send().ok()
    }

    /// The file of split 0 (train) or 1 (test) in the cache, downloaded unless it is there and sound. Nothing if the
    /// hub does not have it.
    fn file(&self, layout: &Layout, split: usize) -> Result<Option<PathBuf>> {
        let name = layout.names[split];
        if let Some(path) = self.cached_file(layout, name)
            && is_sound(&path, layout, split)
        {
            return Ok(Some(path));
        }
        let what = format!("{} {FOLDER}/{name}", REPOSITORY.join("/"));
        let arrived = match self.fetch(layout, name, &what) {
            Ok(arrived) => arrived,
            Err(Failure::NotFound) => return Ok(None),
            Err(failure) => return Err(self.failed(&what, failure)),
        };
        self.check(&arrived, layout, split, &what)?;
        let refused = |reason| self.failed(&what, Failure::Refused(reason));
        let commit = match (is_commit(layout.revision), &arrived.commit) {
            (true, Some(commit)) if commit != layout.revision => {
                return Err(refused(format!("sent the commit {commit} for {}", layout.revision)));
            }
            (true, _) => layout.revision,
            (false, Some(commit)) => commit,
            (false, None) => {
                return Err(refused(format!("does not say which commit {} is", layout.revision)));
            }
        };
        let path = self.folder.join("snapshots").join(commit).join(FOLDER).join(name);
        keep(arrived.file, &path)?;
        if !is_commit(layout.revision) {
            let reference = self.folder.join("refs").join(layout.revision);
            files::write_atomically(&reference, commit.as_bytes())?;
        }
        Ok(Some(path))
    }

    fn fetch(&self, layout: &Layout, name: &str, what: &str) -> Result<Arrived, Failure> {
        let revision = layout.revision.replace('/', "%2F");
        let url =
            format!("{}/datasets/{}/resolve/{revision}/{FOLDER}/{name}", self.endpoint, REPOSITORY.join("/"));
        let url = Url::parse(&url).map_err(|error| Failure::Unreachable(error.to_string()))?;
        transfer::fetch(&url, &self.folder, self.limits, what, self.report)
    }

    /// Checks a file that has just arrived.
    fn check(&self, arrived: &Arrived, layout: &Layout, split: usize, what: &str) -> Result<()> {
        let (actual, canonical) = (arrived.sha256.as_str(), checksum::CANONICAL[split]);
        if actual == canonical {
            return Ok(());
        }
        if layout.revision == REVISION {
            let reason = format!("SHA-256 {}… is not the canonical {}…", &actual[..12], &canonical[..12]);
            if self.endpoint == OFFICIAL_ENDPOINT {
                return Err(self.failed(what, Failure::Refused(format!("sent a bad file: {reason}"))));
            }
            self.report.note(&format!("{what} from {}: {reason}", self.endpoint));
        }
        let rows = parquet_file::read(arrived.file.path()).map_err(|error| match error {
            Error::Data { reason, .. } => {
                self.failed(what, Failure::Refused(format!("sent a bad file: {reason}")))
            }
            other => other,
        })?;
        if rows.labels.len() != N_ROWS[split] {
            self.report.note(&format!("{what} has {} rows, not {}", rows.labels.len(), N_ROWS[split]));
        }
        Ok(())
    }

    fn failed(&self, what: &str, failure: Failure) -> Error {
        let endpoint = &self.endpoint;
        let reason = match failure {
            Failure::Local(error) => return error,
            Failure::NotFound => format!("{endpoint} does not have it; {}", alternatives()),
            Failure::Unreachable(reason) => format!("cannot reach {endpoint} ({reason}); {}", alternatives()),
            Failure::BrokenOff(reason) => {
                format!("the transfer from {endpoint} broke off ({reason}); run it again")
            }
            Failure::Refused(reason) => {
                format!("{endpoint} {reason}; nothing of it was kept: run it again, or {}", alternatives())
            }
        };
        Error::Download { what: what.to_string(), reason }
    }
}

/// Whether a revision names a commit, not a branch.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a file that was in the cache is what a download would give.
fn is_sound(path: &Path, layout: &Layout, split: usize) -> bool {
    let is_canonical = || checksum::sha256(path).is_ok_and(|sum| sum == checksum::CANONICAL[split]);
    let is_recorded = || {
        let root = root(path, layout);
        let alone = Found::parquet(root.to_path_buf(), layout.names);
        checksum::verify_recorded(&alone.only(split)).is_ok()
    };
    is_canonical() || (is_recorded() && parquet_file::read(path).is_ok())
}

/// Moves a file that has arrived to its place in the cache; what stands there, be it a link, is replaced.
fn keep(file: tempfile::NamedTempFile, path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    files::persist(file, path, true).map_err(Error::io("write", path))
}

/// The folder that the names of `layout` are relative to, of which `file` is one.
fn root<'a>(file: &'a Path, layout: &Layout) -> &'a Path {
    let depth = Path::new(layout.names[0]).components().count();
    file.ancestors().nth(depth).unwrap_or(file)
}

/// The set of files that `train` belongs to.
fn found(train: &Path, layout: &Layout) -> Result<Found> {
    let found = Found::parquet(root(train, layout).to_path_buf(), layout.names);
    let missing = found.files().find(|file| !file.exists());
    match missing {
        // The revision moved between the two downloads.
        Some(missing) => Err(Error::data(missing, "missing; run the same command again")),
        None => Ok(found),
    }
}
