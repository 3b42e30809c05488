//! The search for CIFAR-10: on this machine, then on the hub.

use super::{Found, Info, N_ROWS, alternatives, cached, download, install, locate, read};
use crate::data::{Location, Progress, Splits};
use crate::error::{Error, Result};

/// All images, decoded; downloaded if they are nowhere on this machine.
///
/// # Errors
/// As [`crate::data::Source::load`].
pub(super) fn load(location: &Location, report: &dyn Progress) -> Result<Splits> {
    let found = match search(location)? {
        Some((found, _)) => found,
        None => download(&location.hub, report)?,
    };
    let splits = read(&found)?;
    for (data, n_rows) in [(&splits.train, N_ROWS[0]), (&splits.test, N_ROWS[1])] {
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

/// What is known about the CIFAR-10 files on this machine, without decoding images.
///
/// # Errors
/// [`Error::Data`] if there are none, or only some of them; [`Error::Io`].
pub fn info(location: &Location) -> Result<Info> {
    super::inspect::info(&on_this_machine(location)?)
}

/// As [`info`], and decodes every image to be sure that it can be.
///
/// # Errors
/// As [`info`]; what is wrong with the content is in [`Info::problems`].
pub fn verify(location: &Location) -> Result<Info> {
    super::inspect::verify(&on_this_machine(location)?)
}

/// Makes sure that CIFAR-10 is on this machine, and verifies it. Files that are found are left
/// alone; otherwise they are downloaded, to `location.fetch_dir` if that is given.
///
/// # Errors
/// As [`crate::data::Source::load`] and [`verify`].
pub fn fetch(location: &Location, report: &dyn Progress) -> Result<Info> {
    let (mut found, from_hub) = match search(location)? {
        Some(found) => found,
        None => (download(&location.hub, report)?, true),
    };
    if let (true, Some(dir)) = (from_hub, &location.fetch_dir) {
        found = install(&found, dir)?;
    }
    super::inspect::verify(&found)
}

/// The first set of files on this machine, and whether it is the hub's cache.
///
/// # Errors
/// [`Error::Data`] if there is none and the hub is out of bounds.
fn search(location: &Location) -> Result<Option<(Found, bool)>> {
    for dir in &location.dirs {
        if let Some(found) = locate(dir)? {
            return Ok(Some((found, false)));
        }
    }
    if let Some(found) = cached(&location.hub)? {
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
        alternatives()
    );
    Error::data("cifar10", reason)
}
