//! The search for CIFAR-10: on this machine, then on the hub.

use std::path::Path;

use super::{Found, Info, N_ROWS, alternatives, cached, download, install, locate, read};
use crate::data::{Location, Progress, Splits};
use crate::error::{Error, Result};

/// All images, decoded; downloaded if they are nowhere on this machine.
///
/// # Errors
/// As [`crate::data::Source::load`].
pub(super) fn load(location: &Location, report: &dyn Progress) -> Result<Splits> {
    let found = match search(location)? {
        Some(found) => found,
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
/// alone; otherwise they are downloaded, to `location.data_dir` if that is given.
///
/// # Errors
/// As [`crate::data::Source::load`] and [`verify`].
pub fn fetch(location: &Location, report: &dyn Progress) -> Result<Info> {
    let found = match &location.data_dir {
        Some(dir) => match locate(dir)? {
            Some(found) => found,
            None => install(&from_hub(location, report)?, dir)?,
        },
        None => match search(location)? {
            Some(found) => found,
            None => download(&location.hub, report)?,
        },
    };
    super::inspect::verify(&found)
}

/// The files in the hub's cache, downloaded unless they are there.
fn from_hub(location: &Location, report: &dyn Progress) -> Result<Found> {
    match cached(&location.hub)? {
        Some(found) => Ok(found),
        None if location.offline => Err(nowhere(location, OFFLINE)),
        None => download(&location.hub, report),
    }
}

const OFFLINE: &str = "and the hub is out of bounds (offline)";

/// The files in the folder that the user named, or else the first set of files on this machine.
///
/// # Errors
/// [`Error::Data`] if there is none in the named folder, or none at all and the hub is out of bounds.
fn search(location: &Location) -> Result<Option<Found>> {
    if let Some(dir) = &location.data_dir {
        return locate(dir)?.map(Some).ok_or_else(|| not_in(dir));
    }
    for dir in &location.dirs {
        if let Some(found) = locate(dir)? {
            return Ok(Some(found));
        }
    }
    match cached(&location.hub)? {
        None if location.offline => Err(nowhere(location, OFFLINE)),
        found => Ok(found),
    }
}

fn on_this_machine(location: &Location) -> Result<Found> {
    search(location)?.ok_or_else(|| nowhere(location, "yet; `deepzero data fetch` downloads it"))
}

/// The error for a folder that the user named and that has no CIFAR-10.
fn not_in(dir: &Path) -> Error {
    let what = match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => "this folder has no CIFAR-10",
        Ok(_) => "not a folder",
        Err(_) => "no such folder",
    };
    let path = dir.display();
    let reason =
        format!("{what}; `deepzero data fetch --data-dir {path}` downloads it there, or {}", alternatives());
    Error::data(dir, reason)
}

/// The error for CIFAR-10 being in none of the places.
fn nowhere(location: &Location, circumstance: &str) -> Error {
    let dirs = location.data_dir.as_ref().map_or(location.dirs.as_slice(), std::slice::from_ref);
    let searched: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let reason = format!(
        "no CIFAR-10 in {} or the hub's cache {circumstance}; {}",
        searched.join(", "),
        alternatives()
    );
    Error::data("cifar10", reason)
}
