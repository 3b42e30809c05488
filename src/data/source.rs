//! Where images come from: the search for CIFAR-10 on this machine, then on the hub.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use super::cifar10::{self, Found, Hub, Info};
use super::{SYNTHETIC_TEST, SYNTHETIC_TRAIN, Splits, synthetic};
use crate::error::{Error, Result};

/// Which images to train on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSource {
    /// Procedural images, built in.
    Synthetic,
    /// CIFAR-10.
    Cifar10,
}

/// The environment variable that names a folder with data.
pub const DATA_DIR_VARIABLE: &str = "DEEPZERO_DATA";

/// Hears how a download goes on. Every method does nothing unless implemented.
pub trait Progress {
    /// A transfer of `total_bytes` begins.
    fn started(&self, _what: &str, _total_bytes: u64) {}
    /// So many bytes of the current transfer have arrived.
    fn advanced(&self, _done_bytes: u64) {}
    /// The current transfer has ended, well or not.
    fn finished(&self) {}
    /// Something the user should know.
    fn note(&self, _text: &str) {}
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}

/// Where to look for data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// Folders to search, in this order; the hub's cache comes after them.
    pub dirs: Vec<PathBuf>,
    /// Where [`fetch`] puts files from the hub; `None` to leave them in the hub's cache.
    pub fetch_dir: Option<PathBuf>,
    /// Whether the hub is out of bounds.
    pub offline: bool,
    /// The hub to ask when nothing is found.
    pub hub: Hub,
}

impl Location {
    /// The usual places: `data_dir` (from `--data-dir`), `$DEEPZERO_DATA`, `./data`, then the hub
    /// unless `$HF_HUB_OFFLINE` is set to something other than 0.
    #[must_use]
    pub fn new(data_dir: Option<PathBuf>) -> Self {
        let from_environment = std::env::var_os(DATA_DIR_VARIABLE).filter(|value| !value.is_empty());
        let dirs = data_dir.clone().into_iter().chain(from_environment.map(PathBuf::from));
        let offline =
            std::env::var_os("HF_HUB_OFFLINE").is_some_and(|value| !value.is_empty() && value != "0");
        Self {
            dirs: dirs.chain([PathBuf::from("data")]).collect(),
            fetch_dir: data_dir,
            offline,
            hub: Hub::default(),
        }
    }
}

/// The images of `source`, decoded. CIFAR-10 is downloaded if it is nowhere on this machine;
/// synthetic images come in their default numbers ([`synthetic`] makes fewer).
///
/// # Errors
/// [`Error::Data`] if files are missing, truncated or corrupt, or if there are none and the hub is
/// out of bounds; [`Error::Download`] if the hub does not deliver; [`Error::Io`].
pub fn load(source: DataSource, location: &Location, report: &dyn Progress) -> Result<Splits> {
    match source {
        DataSource::Synthetic => Ok(synthetic(SYNTHETIC_TRAIN, SYNTHETIC_TEST)),
        DataSource::Cifar10 => {
            let found = match search(location)? {
                Some((found, _)) => found,
                None => cifar10::download(&location.hub, report)?,
            };
            let splits = cifar10::read(&found)?;
            for (data, n_rows) in [(&splits.train, cifar10::N_ROWS[0]), (&splits.test, cifar10::N_ROWS[1])] {
                if data.len() != n_rows {
                    report.note(&format!(
                        "{} in {} has {} images, not {n_rows}",
                        data.name,
                        found.root.display(),
                        data.len()
                    ));
                }
            }
            Ok(splits)
        }
    }
}

/// What is known about the CIFAR-10 files on this machine, without decoding images.
///
/// # Errors
/// [`Error::Data`] if there are none, or only some of them; [`Error::Io`].
pub fn info(location: &Location) -> Result<Info> {
    cifar10::info(&on_this_machine(location)?)
}

/// As [`info`], and decodes every image to be sure that it can be.
///
/// # Errors
/// As [`info`]; what is wrong with the content is in [`Info::problems`].
pub fn verify(location: &Location) -> Result<Info> {
    cifar10::verify(&on_this_machine(location)?)
}

/// Makes sure that CIFAR-10 is on this machine, and verifies it. Files that are found are left
/// alone; otherwise they are downloaded, to `location.fetch_dir` if that is given.
///
/// # Errors
/// As [`load`] and [`verify`].
pub fn fetch(location: &Location, report: &dyn Progress) -> Result<Info> {
    let (mut found, from_hub) = match search(location)? {
        Some(found) => found,
        None => (cifar10::download(&location.hub, report)?, true),
    };
    if let (true, Some(dir)) = (from_hub, &location.fetch_dir) {
        found = cifar10::install(&found, dir)?;
    }
    cifar10::verify(&found)
}

/// The first set of files on this machine, and whether it is the hub's cache.
///
/// # Errors
/// [`Error::Data`] if there is none and the hub is out of bounds.
fn search(location: &Location) -> Result<Option<(Found, bool)>> {
    for dir in &location.dirs {
        if let Some(found) = cifar10::locate(dir)? {
            return Ok(Some((found, false)));
        }
    }
    if let Some(found) = cifar10::cached(&location.hub)? {
        return Ok(Some((found, true)));
    }
    if location.offline { Err(nowhere(location, "and the hub is out of bounds (offline)")) } else { Ok(None) }
}

fn on_this_machine(location: &Location) -> Result<Found> {
    let found = search(location)?.map(|(found, _)| found);
    found.ok_or_else(|| nowhere(location, "yet; `deepzero data fetch` downloads it"))
}

/// The error for CIFAR-10 being in none of the places.
fn nowhere(location: &Location, circumstance: &str) -> Error {
    let searched: Vec<String> = location.dirs.iter().map(|dir| dir.display().to_string()).collect();
    let reason = format!(
        "no CIFAR-10 in {} or the hub's cache {circumstance}; {}",
        searched.join(", "),
        cifar10::alternatives()
    );
    Error::data("cifar10", reason)
}
