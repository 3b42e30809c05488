//! A collection from the Hugging Face hub, in the cache of the `hf-hub` crate.
//!
//! The endpoint and the cache folder are that crate's settings (`HF_ENDPOINT`, `HF_HOME`,
//! `HF_HUB_CACHE`), and it finds what is in the cache. A file that arrives ([`super::transfer`]) is checked before it
//! is put there: against the SHA-256 that the hub states for it, against the canonical one where that is known, and,
//! unless it is the canonical one, by decoding every image. A file that fails is nowhere afterwards.

use std::path::{Path, PathBuf};

use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoTypeDataset};
use reqwest::Url;

use super::transfer::{self, Arrived, Failure, Limits};
use super::{Collection, Found, checksum, content, parquet_file};
use crate::data::{Progress, Silent};
use crate::error::{Error, Result};
use crate::files;

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

/// A collection's dataset on the hub.
#[derive(Debug)]
pub(in crate::data) struct HubCopy {
    /// Owner and name.
    pub(in crate::data) repository: [&'static str; 2],
    /// The folder of its files.
    pub(in crate::data) folder: &'static str,
    /// How it may be laid out, in order of preference; the first is that of a known commit.
    pub(in crate::data) layouts: &'static [Layout],
    /// SHA-256 of the files at that commit, training split first, as the hub states them; if they are known.
    pub(in crate::data) canonical: Option<[&'static str; 2]>,
    /// Whether its images have other sizes than the collection's.
    pub(in crate::data) is_original: bool,
}

/// One way a dataset is laid out.
#[derive(Debug)]
pub(in crate::data) struct Layout {
    /// A commit or a branch.
    pub(in crate::data) revision: &'static str,
    /// Names of the training and the test file in the dataset's folder.
    pub(in crate::data) names: [&'static str; 2],
}

impl HubCopy {
    /// The checksum of the file of split 0 (train) or 1 (test), if it is known.
    pub(super) fn canonical(&self, split: usize) -> Option<&'static str> {
        self.canonical.map(|sums| sums[split])
    }

    /// The dataset as it is called.
    fn name(&self) -> String {
        self.repository.join("/")
    }
}

/// A hub in use.
struct Connection<'a> {
    collection: &'a Collection,
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
pub(super) fn cached(collection: &Collection, hub: &Hub) -> Result<Option<Found>> {
    let hub = Connection::new(collection, hub, &Silent)?;
    let mut layouts = collection.hub.layouts.iter();
    Ok(layouts.find_map(|layout| match layout.names.map(|name| hub.cached_file(layout, name)) {
        [Some(train), Some(_)] => hub.found(&train, layout).ok(),
        _ => None,
    }))
}

/// Downloads the dataset into the hub's cache.
///
/// # Errors
/// [`Error::Download`] if the hub cannot be reached, does not have the files, or sends damaged
/// ones; the files' own errors.
pub(super) fn download(collection: &Collection, hub: &Hub, report: &dyn Progress) -> Result<Found> {
    let hub = Connection::new(collection, hub, report)?;
    for layout in collection.hub.layouts {
        if let Some(train) = hub.file(layout, 0)?
            && hub.file(layout, 1)?.is_some()
        {
            let found = hub.found(&train, layout)?;
            checksum::record(&found)?;
            return Ok(found);
        }
    }
    let reason = format!("{} does not have its Parquet files; {}", hub.endpoint, alternatives());
    Err(Error::Download { what: collection.hub.name(), reason })
}

/// Copies downloaded files to `dir`, such as `dir/cifar10/plain_text/{train,test}/0000.parquet`, with a record of
/// their checksums. Images of other sizes than the collection's are brought to that.
///
/// # Errors
/// [`Error::Io`] if a file cannot be copied; the files' own errors.
pub(super) fn install(collection: &Collection, found: &Found, dir: &Path) -> Result<Found> {
    let installed = collection.home(dir);
    for (from, to) in found.files().zip(installed.files()) {
        let bytes = if found.is_original {
            parquet_file::write(collection, &parquet_file::read(collection, &from, true)?, &to)?
        } else {
            content(&from, parquet_file::MAX_BYTES)?
        };
        files::write_atomically(&to, &bytes)?;
    }
    checksum::record(&installed)?;
    Ok(installed)
}

/// What to do instead of downloading.
pub(super) fn alternatives() -> &'static str {
    "put the files in a folder given by --data-dir or DEEPZERO_DATA (data/README.md lists the layouts), \
     or use --set data=synthetic, which needs no files"
}

impl<'a> Connection<'a> {
    fn new(collection: &'a Collection, hub: &'a Hub, report: &'a dyn Progress) -> Result<Self> {
        let mut builder = HFClient::builder();
        if let Some(endpoint) = &hub.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(cache_dir) = &hub.cache_dir {
            builder = builder.cache_dir(cache_dir);
        }
        let unusable = |error: HFError| Error::Download {
            what: collection.hub.name(),
            reason: format!("the hub's address or settings cannot be used: {error}"),
        };
        let client = builder.build().map_err(unusable)?;
        let endpoint = client.endpoint().to_string();
        let [owner, name] = collection.hub.repository;
        let folder = client.cache_dir().join(format!("datasets--{owner}--{name}"));
        let client = HFClientSync::from_inner(client).map_err(unusable)?;
        let repository = client.dataset(owner, name);
        Ok(Self { collection, endpoint, repository, folder, limits: &hub.limits, report })
    }

    /// A file in the cache, which alone is asked.
    fn cached_file(&self, layout: &Layout, name: &str) -> Option<PathBuf> {
        let request =
            self.repository.download_file().filename(format!("{}/{name}", self.collection.hub.folder));
        request.revision(layout.revision).local_files_only(true).send().ok()
    }

    /// The file of split 0 (train) or 1 (test) in the cache, downloaded unless it is there and sound. Nothing if the
    /// hub does not have it.
    fn file(&self, layout: &Layout, split: usize) -> Result<Option<PathBuf>> {
        let name = layout.names[split];
        if let Some(path) = self.cached_file(layout, name)
            && self.is_sound(&path, layout, split)
        {
            return Ok(Some(path));
        }
        let folder = self.collection.hub.folder;
        let what = format!("{} {folder}/{name}", self.collection.hub.name());
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
        let path = self.folder.join("snapshots").join(commit).join(folder).join(name);
        keep(arrived.file, &path)?;
        if !is_commit(layout.revision) {
            let reference = self.folder.join("refs").join(layout.revision);
            files::write_atomically(&reference, commit.as_bytes())?;
        }
        Ok(Some(path))
    }

    fn fetch(&self, layout: &Layout, name: &str, what: &str) -> Result<Arrived, Failure> {
        let revision = layout.revision.replace('/', "%2F");
        let HubCopy { folder, .. } = self.collection.hub;
        let dataset = self.collection.hub.name();
        let url = format!("{}/datasets/{dataset}/resolve/{revision}/{folder}/{name}", self.endpoint);
        let url = Url::parse(&url).map_err(|error| Failure::Unreachable(error.to_string()))?;
        transfer::fetch(&url, &self.folder, self.limits, what, self.report)
    }

    /// Checks a file that has just arrived.
    fn check(&self, arrived: &Arrived, layout: &Layout, split: usize, what: &str) -> Result<()> {
        let (hub, actual) = (&self.collection.hub, arrived.sha256.as_str());
        let canonical = hub.canonical(split);
        if canonical == Some(actual) {
            return Ok(());
        }
        if let Some(canonical) = canonical
            && layout.revision == hub.layouts[0].revision
        {
            let reason = format!("SHA-256 {}… is not the canonical {}…", &actual[..12], &canonical[..12]);
            if self.endpoint == OFFICIAL_ENDPOINT {
                return Err(self.failed(what, Failure::Refused(format!("sent a bad file: {reason}"))));
            }
            self.report.note(&format!("{what} from {}: {reason}", self.endpoint));
        }
        let read = parquet_file::read(self.collection, arrived.file.path(), hub.is_original);
        let rows = read.map_err(|error| match error {
            Error::Data { reason, .. } => {
                self.failed(what, Failure::Refused(format!("sent a bad file: {reason}")))
            }
            other => other,
        })?;
        let expected = self.collection.n_rows()[split];
        if rows.labels.len() != expected {
            self.report.note(&format!("{what} has {} rows, not {expected}", rows.labels.len()));
        }
        Ok(())
    }

    /// Whether a file that was in the cache is what a download would give.
    fn is_sound(&self, path: &Path, layout: &Layout, split: usize) -> bool {
        let HubCopy { is_original, .. } = self.collection.hub;
        let canonical = self.collection.hub.canonical(split);
        let is_canonical = || checksum::sha256(path).is_ok_and(|sum| Some(sum.as_str()) == canonical);
        let is_recorded = || {
            let root = root(path, layout);
            let alone = Found::parquet(root.to_path_buf(), layout.names);
            checksum::verify_recorded(&alone.only(split)).is_ok()
        };
        is_canonical() || (is_recorded() && parquet_file::read(self.collection, path, is_original).is_ok())
    }

    /// The set of files that `train` belongs to.
    fn found(&self, train: &Path, layout: &Layout) -> Result<Found> {
        let found = Found::parquet(root(train, layout).to_path_buf(), layout.names);
        let missing = found.files().find(|file| !file.exists());
        match missing {
            // The revision moved between the two downloads.
            Some(missing) => Err(Error::data(missing, "missing; run the same command again")),
            None => Ok(Found { is_original: self.collection.hub.is_original, ..found }),
        }
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
