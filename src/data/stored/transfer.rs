//! The transfer of one file from a hub, which may be slow, broken or hostile.
//!
//! `hf-hub` joins the entity tag and the commit that a server names to paths unchecked, waits without limits and writes
//! whatever comes, and its interface offers no place between its request and its files. So it gives the settings
//! and finds files in the cache, and the transfer is here, with the HTTP client that it uses. Nothing that a server
//! says becomes part of a path before it has been checked, and a file that arrives is nowhere but in a temporary one
//! until its size and checksum are right.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Response, StatusCode, Url};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::time::timeout;

use super::quoted;
use crate::data::Progress;
use crate::error::Error;
use crate::files;
use crate::hex::hex;

/// Attempts after a first failure to connect or an answer that the server is busy; with the delays between them
/// about a second and a half.
const RETRIES: u32 = 3;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_REDIRECTS: usize = 10;

/// How long a hub may take and how much it may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For a connection to be made.
    pub connect: Duration,
    /// For an answer to begin, and for each further piece of it.
    pub silence: Duration,
    /// Over which the speed of a transfer is measured.
    pub window: Duration,
    /// Below which, in bytes per second over a window, a transfer is broken off.
    pub min_speed: u64,
    /// Size of the largest file that is taken; the largest of CIFAR-10 has 120 MB, that of Imagenette about as much.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            window: Duration::from_secs(30),
            min_speed: 1024,
            max_bytes: 256 << 20,
        }
    }
}

/// Why a file did not arrive.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub does not have it.
    NotFound,
    /// The hub does not answer, and why.
    Unreachable(String),
    /// The transfer ended before the file did, and why.
    BrokenOff(String),
    /// The answer cannot be used, and why.
    Refused(String),
    /// A failure on this machine.
    Local(Error),
}

/// A file that has arrived whole.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Its content.
    pub(super) file: NamedTempFile,
    /// SHA-256 of it.
    pub(super) sha256: String,
    /// The commit it belongs to, if the hub says so; fit for a path.
    pub(super) commit: Option<String>,
}

/// What a server says about a file before it sends it.
#[derive(Default)]
struct Announced {
    commit: Option<String>,
    tag: Option<String>,
    size_bytes: Option<u64>,
}

impl Announced {
    /// Takes what `headers` say and an earlier answer, before a redirection, did not.
    fn add(&mut self, headers: &HeaderMap) -> Result<(), Failure> {
        self.commit = self.commit.take().or(name(headers, "x-repo-commit")?);
        self.tag = match self.tag.take() {
            None => name(headers, "x-linked-etag")?,
            tag => tag,
        };
        self.size_bytes = self.size_bytes.or(number(headers, "x-linked-size")?);
        Ok(())
    }

    /// Takes what the last answer says, which has the file itself.
    fn complete(&mut self, headers: &HeaderMap) -> Result<(), Failure> {
        self.add(headers)?;
        if self.tag.is_none() {
            self.tag = name(headers, ETAG.as_str())?;
        }
        self.size_bytes = self.size_bytes.or(number(headers, CONTENT_LENGTH.as_str())?);
        Ok(())
    }
}

/// The header `key` as a name that may stand in a path. Quotes, and the mark of a weak tag, are no part of it.
fn name(headers: &HeaderMap, key: &str) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(key) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let name = text.strip_prefix("W/").unwrap_or(&text).trim_matches('"');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 128 || name == "." || name == ".." || !name.bytes().all(is_plain) {
        return Err(Failure::Refused(format!(
            "sent the header {key} `{}`, which is no plain name",
            quoted(&text)
        )));
    }
    Ok(Some(name.to_string()))
}

fn number(headers: &HeaderMap, key: &str) -> Result<Option<u64>, Failure> {
    let Some(value) = headers.get(key) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Failure::Refused(format!("sent a header {key} that is no number")))
}

/// Fetches `url` into a temporary file in `folder`, which is made, and checks its size and, where the hub states
/// one, its SHA-256.
///
/// # Errors
/// As [`Failure`] says; then nothing is left in `folder`.
pub(super) fn fetch(
    url: &Url,
    folder: &Path,
    limits: &Limits,
    what: &str,
    report: &dyn Progress,
) -> Result<Arrived, Failure> {
    let unusable = |error: std::io::Error| Failure::Local(Error::io("start the download to", folder)(error));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
    runtime.block_on(async {
        let client = Client::builder()
            .connect_timeout(limits.connect)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::Unreachable(innermost(&error)))?;
        let (response, announced) = request(&client, url, limits).await?;
        if let Some(size) = announced.size_bytes.filter(|&size| size > limits.max_bytes) {
            let reason =
                format!("announces {size} bytes, more than the {} of a file of images", limits.max_bytes);
            return Err(Failure::Refused(reason));
        }
        if let Some(size) = announced.size_bytes {
            report.started(what, size);
        }
        let received = receive(response, folder, &announced, limits, report).await;
        if announced.size_bytes.is_some() {
            report.finished();
        }
        received
    })
}

/// The answer that has the file, after redirections, and what was said on the way to it.
async fn request(client: &Client, url: &Url, limits: &Limits) -> Result<(Response, Announced), Failure> {
    let mut announced = Announced::default();
    let mut at = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let headers = if at.origin() == url.origin() { authorization() } else { HeaderMap::new() };
        let response = send(client, &at, &headers, limits).await?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Err(Failure::NotFound);
        }
        if status.is_redirection() {
            announced.add(response.headers())?;
            let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
            let target = target.and_then(|target| at.join(target).ok());
            let target = target.filter(|target| target.scheme() == "https" || target.scheme() == at.scheme());
            at = target.ok_or_else(|| Failure::Refused("sent a redirection to no usable address".into()))?;
        } else if status.is_success() {
            announced.complete(response.headers())?;
            return Ok((response, announced));
        } else {
            return Err(Failure::Refused(format!("answered with status {status}")));
        }
    }
    Err(Failure::Refused(format!("sent more than {MAX_REDIRECTS} redirections")))
}

/// The token of the hub's other tools, which a mirror may ask for.
fn authorization() -> HeaderMap {
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
    let value = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    value.into_iter().map(|value| (AUTHORIZATION, value)).collect()
}

async fn send(client: &Client, url: &Url, headers: &HeaderMap, limits: &Limits) -> Result<Response, Failure> {
    let mut attempt = 0;
    loop {
        let request = client.get(url.clone()).headers(headers.clone()).send();
        let patience = limits.connect + limits.silence;
        let answer = timeout(patience, request).await;
        let answer = answer.map_err(|_| Failure::Unreachable(format!("no answer within {patience:?}")))?;
        let is_transient = match &answer {
            Ok(response) => matches!(response.status().as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
            Err(error) => error.is_connect() && !error.is_timeout(),
        };
        if !is_transient || attempt == RETRIES {
            return answer.map_err(|error| Failure::Unreachable(innermost(&error)));
        }
        tokio::time::sleep(FIRST_DELAY * 2u32.pow(attempt)).await;
        attempt += 1;
    }
}

async fn receive(
    mut response: Response,
    folder: &Path,
    announced: &Announced,
    limits: &Limits,
    report: &dyn Progress,
) -> Result<Arrived, Failure> {
    let mut file = files::held_temporary(folder)
        .map_err(|error| Failure::Local(Error::io("write into", folder)(error)))?;
    let (mut hasher, mut done) = (Sha256::new(), 0);
    let mut window = (Instant::now(), 0);
    while let Some(piece) = next_piece(&mut response, limits).await? {
        done += piece.len() as u64;
        check_size(done, announced.size_bytes, limits)?;
        hasher.update(&piece);
        file.write_all(&piece).map_err(|error| Failure::Local(Error::io("write into", folder)(error)))?;
        report.advanced(done);
        let (since, before) = window;
        if since.elapsed() >= limits.window {
            let speed = (done - before) as f64 / since.elapsed().as_secs_f64();
            if speed < limits.min_speed as f64 {
                let reason = format!("{speed:.0} bytes a second, fewer than {}", limits.min_speed);
                return Err(Failure::BrokenOff(reason));
            }
            window = (Instant::now(), done);
        }
    }
    if let Some(size) = announced.size_bytes.filter(|&size| size != done) {
        return Err(Failure::BrokenOff(format!("{done} of {size} bytes")));
    }
    let sha256 = hex(&hasher.finalize());
    let stated = announced
        .tag
        .as_deref()
        .filter(|tag| tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if let Some(stated) = stated.filter(|stated| !stated.eq_ignore_ascii_case(&sha256)) {
        let reason =
            format!("sent a damaged file: SHA-256 {}…, but it states {}…", &sha256[..12], &stated[..12]);
        return Err(Failure::Refused(reason));
    }
    Ok(Arrived { file, sha256, commit: announced.commit.clone() })
}

async fn next_piece(response: &mut Response, limits: &Limits) -> Result<Option<bytes::Bytes>, Failure> {
    match timeout(limits.silence, response.chunk()).await {
        Ok(piece) => piece.map_err(|error| Failure::BrokenOff(innermost(&error))),
        Err(_) => Err(Failure::BrokenOff(format!("nothing more within {:?}", limits.silence))),
    }
}

fn check_size(done: u64, announced: Option<u64>, limits: &Limits) -> Result<(), Failure> {
    match announced {
        Some(size) if done > size => {
            Err(Failure::Refused(format!("sent more than the {size} bytes it announced")))
        }
        _ if done > limits.max_bytes => {
            let max_bytes = limits.max_bytes;
            Err(Failure::Refused(format!("sent more than the {max_bytes} bytes of a file of images")))
        }
        _ => Ok(()),
    }
}

/// The cause at the bottom of an error, where transport errors say what happened.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    quoted(&cause.to_string())
}
