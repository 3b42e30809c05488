//! Where to look for files of images, and who hears how a download goes on.

use std::path::PathBuf;

use super::stored::Hub;

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
    /// The folder that the user named, if any: the only one that is read, and where [`super::fetch`] puts files from
    /// the hub.
    pub data_dir: Option<PathBuf>,
    /// Folders to search otherwise, in this order; the hub's cache comes after them.
    pub dirs: Vec<PathBuf>,
    /// One of these that has to be there, since the environment names it.
    pub required: Option<PathBuf>,
    /// Whether the hub is out of bounds.
    pub offline: bool,
    /// The hub to ask when nothing is found.
    pub hub: Hub,
}

impl Location {
    /// `data_dir` (from `--data-dir`), or else the usual places: `$DEEPZERO_DATA`, `./data`, then the hub
    /// unless `$HF_HUB_OFFLINE` is set to something other than 0.
    #[must_use]
    pub fn new(data_dir: Option<PathBuf>) -> Self {
        let from_environment = std::env::var_os(DATA_DIR_VARIABLE).filter(|value| !value.is_empty());
        let required = from_environment.map(PathBuf::from);
        let dirs = required.clone().into_iter().chain([PathBuf::from("data")]).collect();
        let offline =
            std::env::var_os("HF_HUB_OFFLINE").is_some_and(|value| !value.is_empty() && value != "0");
        Self { data_dir, dirs, required, offline, hub: Hub::default() }
    }
}
