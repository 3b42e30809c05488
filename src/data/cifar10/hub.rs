//! CIFAR-10 from the Hugging Face hub: dataset `uoft-cs/cifar10`, through the `hf-hub` crate.
//!
//! The endpoint and the cache folder are that crate's settings (`HF_ENDPOINT`, `HF_HOME`,
//! `HF_HUB_CACHE`). A file that arrives is checked before it is used: against the SHA-256 that the
//! hub states for it, against the canonical one where that is known, and for being a Parquet file
//! with labels. A file that fails is removed from the cache, which would otherwise serve it forever.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoTypeDataset};

use super::{Found, N_ROWS, checksum, parquet_file};
use crate::data::Progress;
use crate::error::{Error, Result};

/// Owner and name of the dataset.
const REPOSITORY: [&str; 2] = ["uoft-cs", "cifar10"];
/// The commit of the dataset whose checksums are known.
pub(super) const REVISION: &str = "0b2714987fa478483af9968de7c934580d0bb9a2";
/// The endpoint whose files must be the canonical ones; a mirror's may differ.
const OFFICIAL_ENDPOINT: &str = "https://huggingface.co";
/// Attempts after a first failure; with the delays between them about a second and a half.
const RETRIES: usize = 3;
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// Where the hub is, and where its files are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hub {
    /// Base address; `None` for `hf-hub`'s own setting.
    pub endpoint: Option<String>,
    /// Cache folder; `None` for `hf-hub`'s own setting.
    pub cache_dir: Option<PathBuf>,
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

/// The dataset, if an earlier download left it in the hub's cache.
///
/// # Errors
/// [`Error::Download`] if the client cannot be set up.
pub(in crate::data) fn cached(hub: &Hub) -> Result<Option<Found>> {
    let (_, repository) = connect(hub)?;
    Ok(LAYOUTS.iter().find_map(|layout| {
        let paths = layout.names.map(|name| {
            let request = repository.download_file().filename(format!("plain_text/{name}"));
            request.revision(layout.revision).local_files_only(true).send().ok()
        });
        match paths {
            [Some(train), Some(_)] => found(&train, layout).ok(),
            _ => None,
        }
    }))
}

/// Downloads the dataset into the hub's cache.
///
/// # Errors
/// [`Error::Download`] if the hub cannot be reached, does not have the files, or sends damaged
/// ones; the files' own errors.
pub(in crate::data) fn download(hub: &Hub, report: &dyn Progress) -> Result<Found> {
    let (endpoint, repository) = connect(hub)?;
    let endpoint = endpoint.as_str();
    for layout in &LAYOUTS {
        let mut train = None;
        for (split, name) in layout.names.into_iter().enumerate() {
            let what = format!("{}/{} plain_text/{name}", REPOSITORY[0], REPOSITORY[1]);
            match download_file(&repository, layout.revision, name, &what, report) {
                Ok(path) => {
                    check_arrival(&path, layout, split, endpoint, &what, report)?;
                    train = train.or(Some(path));
                }
                Err(error) if is_not_found(&error) => break,
                Err(error) => return Err(failed(&what, endpoint, &error)),
            }
            if split == 1
                && let Some(train) = &train
            {
                let found = found(train, layout)?;
                checksum::record(&found)?;
                return Ok(found);
            }
        }
    }
    let reason = format!("{endpoint} does not have its Parquet files; {}", alternatives());
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
        let folder = to.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        // A copy under another name first, so that an interrupted copy is never taken for the file.
        let partial = to.with_extension("part");
        std::fs::copy(&from, &partial).map_err(Error::io("write", &partial))?;
        std::fs::rename(&partial, &to).map_err(Error::io("write", &to))?;
    }
    checksum::record(&installed)?;
    Ok(installed)
}

/// What to do instead of downloading.
pub(in crate::data) fn alternatives() -> &'static str {
    "put the files in a folder given by --data-dir or DEEPZERO_DATA (data/README.md lists the layouts), \
     or use --set data=synthetic, which needs no files"
}

/// The address in use, and the repository there.
fn connect(hub: &Hub) -> Result<(String, HFRepositorySync<RepoTypeDataset>)> {
    let mut builder = HFClient::builder().retry_max_attempts(RETRIES);
    if let Some(endpoint) = &hub.endpoint {
        builder = builder.endpoint(endpoint);
    }
    if let Some(cache_dir) = &hub.cache_dir {
        builder = builder.cache_dir(cache_dir);
    }
    let unusable = |error: HFError| Error::Download {
        what: REPOSITORY.join("/"),
        reason: format!("the hub's address or settings cannot be used: {}", innermost(&error)),
    };
    let client = builder.build().map_err(unusable)?;
    let endpoint = client.endpoint().to_string();
    let client = HFClientSync::from_inner(client).map_err(unusable)?;
    Ok((endpoint, client.dataset(REPOSITORY[0], REPOSITORY[1])))
}

/// The set of files that `train` belongs to.
fn found(train: &Path, layout: &Layout) -> Result<Found> {
    let depth = Path::new(layout.names[0]).components().count();
    let root = train.ancestors().nth(depth).unwrap_or(train);
    let found = Found::parquet(root.to_path_buf(), layout.names);
    let missing = found.files().find(|file| !file.is_file());
    match missing {
        // The revision moved between the two downloads.
        Some(missing) => Err(Error::data(missing, "missing; run the same command again")),
        None => Ok(found),
    }
}

/// Bytes of the download that is going on, written by the transfer and read by the reporting loop.
#[derive(Default)]
struct Counters {
    done: AtomicU64,
    total: AtomicU64,
}

impl ProgressHandler for Counters {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => self.total.store(*total_bytes, Ordering::Relaxed),
            DownloadEvent::Progress { files } => {
                if let Some(file) = files.last() {
                    self.done.store(file.bytes_completed, Ordering::Relaxed);
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => {
                self.done.store(*bytes_completed, Ordering::Relaxed);
            }
            DownloadEvent::Complete => {}
        }
    }
}

fn download_file(
    repository: &HFRepositorySync<RepoTypeDataset>,
    revision: &str,
    name: &str,
    what: &str,
    report: &dyn Progress,
) -> Result<PathBuf, HFError> {
    let counters = Arc::new(Counters::default());
    let request = repository.download_file().filename(format!("plain_text/{name}")).revision(revision);
    let request = request.progress(Arc::clone(&counters));
    std::thread::scope(|scope| {
        let transfer = scope.spawn(move || request.send());
        let mut started = false;
        let mut tell = || {
            let total = counters.total.load(Ordering::Relaxed);
            if total > 0 && !started {
                report.started(what, total);
                started = true;
            }
            if started {
                report.advanced(counters.done.load(Ordering::Relaxed));
            }
            started
        };
        while !transfer.is_finished() {
            tell();
            std::thread::sleep(REPORT_INTERVAL);
        }
        if tell() {
            report.finished();
        }
        transfer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Checks a file that has just arrived, and removes it from the cache if it is unusable.
fn check_arrival(
    path: &Path,
    layout: &Layout,
    split: usize,
    endpoint: &str,
    what: &str,
    report: &dyn Progress,
) -> Result<()> {
    // The cache names a file's content by its entity tag, which is the SHA-256 for large files.
    let blob = std::fs::canonicalize(path).map_err(Error::io("open", path))?;
    let tag = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let actual = checksum::sha256(&blob)?;
    let discard = |reason: String| {
        // If the removal fails, the error about the content still says what matters.
        std::fs::remove_file(path).and(std::fs::remove_file(&blob)).ok();
        Error::Download { what: what.to_string(), reason: format!("{reason}; removed, so run it again") }
    };
    let states_sha256 = tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    if states_sha256 && tag != actual {
        return Err(discard(format!(
            "arrived damaged: SHA-256 {}…, but {endpoint} states {}…",
            &actual[..12],
            &tag[..12]
        )));
    }
    let n_rows = match parquet_file::read_labels(path) {
        Ok(labels) => labels.len(),
        Err(Error::Data { reason, .. }) => {
            return Err(discard(format!("{endpoint} sent a bad file: {reason}")));
        }
        Err(other) => return Err(other),
    };
    if layout.revision == REVISION && actual != checksum::CANONICAL[split] {
        let reason =
            format!("SHA-256 {}… is not the canonical {}…", &actual[..12], &checksum::CANONICAL[split][..12]);
        if endpoint == OFFICIAL_ENDPOINT {
            return Err(discard(reason));
        }
        report.note(&format!("{what} from {endpoint}: {reason}"));
    }
    if n_rows != N_ROWS[split] {
        report.note(&format!("{what} has {n_rows} rows, not {}", N_ROWS[split]));
    }
    Ok(())
}

fn is_not_found(error: &HFError) -> bool {
    match error {
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            true
        }
        HFError::Http { context } => context.status.as_u16() == 404,
        _ => false,
    }
}

fn failed(what: &str, endpoint: &str, error: &HFError) -> Error {
    let reason = match error {
        HFError::Request { source, .. } if source.is_connect() || source.is_timeout() => {
            format!("cannot reach {endpoint} ({}); {}", innermost(error), alternatives())
        }
        HFError::Request { .. } => {
            format!("the transfer from {endpoint} broke off ({}); run it again", innermost(error))
        }
        other => format!("{endpoint}: {}; or {}", innermost(other), alternatives()),
    };
    Error::Download { what: what.to_string(), reason: reason.replace('\n', " ") }
}

/// The cause at the bottom of an error, where transport errors say what happened.
fn innermost(error: &HFError) -> String {
    let HFError::Request { source, .. } = error else { return error.to_string() };
    let mut cause: &dyn std::error::Error = source;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
