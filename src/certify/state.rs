//! What an unfinished certification knows: the counts of the images that are done, in a JSON file with a checksum.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Certificate, decide};
use crate::hex::hex;
use crate::{Error, Result, files};

/// Raised when the contents change.
const VERSION: u32 = 1;
/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    /// What it is a state of.
    identity: String,
    /// Of `done` as JSON.
    sha256: String,
    done: Vec<Done>,
}

/// Counts of one image.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    image: usize,
    label: usize,
    counts0: Vec<u64>,
    counts: Vec<u64>,
}

fn checksum(done: &[Done]) -> String {
    hex(&Sha256::digest(serde_json::to_vec(done).unwrap_or_default()))
}

/// Writes what is known of images, under the `identity` of everything that it depends on, atomically.
///
/// # Errors
/// If the file cannot be written.
pub fn save(path: &Path, identity: &str, certificates: &[Certificate]) -> Result<()> {
    let of = |found: &Certificate| {
        let Certificate { image, label, counts0, counts, .. } = found.clone();
        Done { image, label, counts0, counts }
    };
    let done: Vec<Done> = certificates.iter().map(of).collect();
    let file = File { version: VERSION, identity: identity.to_owned(), sha256: checksum(&done), done };
    let bytes = serde_json::to_vec(&file).map_err(|error| Error::file(path, error.to_string()))?;
    files::write_atomically(path, &bytes)
}

/// What [`save`] wrote under this `identity`, with what follows for `sigma` and `alpha`; none if there is no file.
///
/// # Errors
/// If the file is damaged or of something else: it is never silently dropped.
pub fn load(path: &Path, identity: &str, sigma: f64, alpha: f64) -> Result<Option<Vec<Certificate>>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = files::read_bounded(path, MAX_BYTES)?;
    let damaged =
        |what: &str| Error::file(path, format!("{what}; delete this file to start the certification anew"));
    let file: File =
        serde_json::from_slice(&bytes).map_err(|_| damaged("not a complete state of a certification"))?;
    if file.version != VERSION {
        return Err(damaged("written by another version of the program"));
    }
    if file.identity != identity {
        return Err(damaged("it belongs to other settings, weights or images"));
    }
    if file.sha256 != checksum(&file.done) {
        return Err(damaged("its contents are not those that were written"));
    }
    let certificate = |Done { image, label, counts0, counts }: Done| {
        let decision = decide(&counts0, &counts, sigma, alpha);
        Certificate { image, label, counts0, counts, decision }
    };
    Ok(Some(file.done.into_iter().map(certificate).collect()))
}
