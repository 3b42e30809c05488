//! The search for a collection: on this machine, then on the hub.

use std::path::Path;

use super::hub::{alternatives, cached, download, install};
use super::{Collection, Found, Info};
use crate::data::{DATA_DIR_VARIABLE, Location, Progress, Splits};
use crate::error::{Error, Result};

/// All images, decoded; downloaded if they are nowhere on this machine.
///
/// # Errors
/// As [`crate::data::Source::load`].
pub(in crate::data) fn load(
    collection: &Collection,
    location: &Location,
    report: &dyn Progress,
) -> Result<Splits> {
    let found = match search(collection, location)? {
        Some(found) => found,
        None => download(collection, &location.hub, report)?,
    };
    let splits = collection.read(&found)?;
    for (data, n_rows) in [&splits.train, &splits.test].into_iter().zip(collection.n_rows()) {
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

/// What is known about a collection's files on this machine, without decoding images.
///
/// # Errors
/// [`Error::Data`] if there are none, or only some of them; [`Error::Io`].
pub fn info(collection: &'static Collection, location: &Location) -> Result<Info> {
    super::inspect::info(collection, &on_this_machine(collection, location)?)
}

/// As [`info`], and decodes every image to be sure that it can be.
///
/// # Errors
/// As [`info`]; what is wrong with the content is in [`Info::problems`].
pub fn verify(collection: &'static Collection, location: &Location) -> Result<Info> {
    super::inspect::verify(collection, &on_this_machine(collection, location)?)
}

/// Makes sure that a collection is on this machine, and verifies it. Files that are found are left
/// alone; otherwise they are downloaded, to `location.data_dir` if that is given.
///
/// # Errors
/// As [`crate::data::Source::load`] and [`verify`].
pub fn fetch(collection: &'static Collection, location: &Location, report: &dyn Progress) -> Result<Info> {
    let found = match &location.data_dir {
        Some(dir) => match collection.locate(dir) {
            Ok(Some(found)) => found,
            Err(error) if !collection.is_begun(dir) => return Err(error),
            // Nothing is there, or what an interrupted copy left, or somebody who removed a damaged file.
            Ok(None) | Err(_) => install(collection, &from_hub(collection, location, report)?, dir)?,
        },
        None => match search(collection, location)? {
            Some(found) => found,
            None => download(collection, &location.hub, report)?,
        },
    };
    super::inspect::verify(collection, &found)
}

/// The files in the hub's cache, downloaded unless they are there.
fn from_hub(collection: &Collection, location: &Location, report: &dyn Progress) -> Result<Found> {
    match cached(collection, &location.hub)? {
        Some(found) => Ok(found),
        None if location.offline => Err(nowhere(collection, location, OFFLINE)),
        None => download(collection, &location.hub, report),
    }
}

const OFFLINE: &str = "and the hub is out of bounds (offline)";

/// The files in the folder that the user named, or else the first set of files on this machine.
///
/// # Errors
/// [`Error::Data`] if there is none in the named folder, or none at all and the hub is out of bounds.
fn search(collection: &Collection, location: &Location) -> Result<Option<Found>> {
    if let Some(dir) = &location.data_dir {
        return collection.locate(dir)?.map(Some).ok_or_else(|| not_in(collection, dir));
    }
    if let Some(dir) = location.required.as_ref().filter(|dir| !dir.is_dir()) {
        let reason = format!("no such folder, though ${DATA_DIR_VARIABLE} names it; correct or unset that");
        return Err(Error::data(dir, reason));
    }
    for dir in &location.dirs {
        if let Some(found) = collection.locate(dir)? {
            return Ok(Some(found));
        }
    }
    match cached(collection, &location.hub)? {
        None if location.offline => Err(nowhere(collection, location, OFFLINE)),
        found => Ok(found),
    }
}

fn on_this_machine(collection: &Collection, location: &Location) -> Result<Found> {
    let name = collection.source.name;
    let circumstance = format!("yet; `deepzero data fetch {name}` downloads it");
    search(collection, location)?.ok_or_else(|| nowhere(collection, location, &circumstance))
}

/// The error for a folder that the user named and that does not have the collection.
fn not_in(collection: &Collection, dir: &Path) -> Error {
    let what = match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => format!("this folder has no {}", collection.title),
        Ok(_) => "not a folder".to_owned(),
        Err(_) => "no such folder".to_owned(),
    };
    let (name, path) = (collection.source.name, dir.display());
    let reason = format!(
        "{what}; `deepzero data fetch {name} --data-dir {path}` downloads it there, or {}",
        alternatives()
    );
    Error::data(dir, reason)
}

/// The error for a collection being in none of the places.
fn nowhere(collection: &Collection, location: &Location, circumstance: &str) -> Error {
    let dirs = location.data_dir.as_ref().map_or(location.dirs.as_slice(), std::slice::from_ref);
    let searched: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let reason = format!(
        "no {} in {} or the hub's cache {circumstance}; {}",
        collection.title,
        searched.join(", "),
        alternatives()
    );
    Error::data(collection.source.name, reason)
}
