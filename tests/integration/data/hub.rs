//! Downloads from a hub on this machine: a few lines of HTTP that answer as the real one does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deepzero::data::{Hub, Limits, Location, Silent, fetch, info};
use image::ImageFormat;

use super::{Log, asymmetric, cifar, encode, load, only, parquet_bytes, png_rows, write};

const COMMIT: &str = "0b2714987fa478483af9968de7c934580d0bb9a2";

/// What the hub serves for a path, if it has it.
#[derive(Clone)]
pub(super) struct Answer {
    status: &'static str,
    /// Headers with their values.
    head: Vec<(&'static str, String)>,
    body: Vec<u8>,
    pace: Pace,
}

/// How the hub sends a body.
#[derive(Clone, Copy)]
enum Pace {
    /// So many bytes of it, then the end.
    Bytes(usize),
    /// So many bytes of it, and then nothing more, for as long as the other side waits.
    Stall(usize),
    /// Pieces of so many bytes, with a pause after each.
    Steady(usize, Duration),
    /// Over and over.
    Endless,
    /// Not even a head.
    Silence,
}

impl Answer {
    pub(super) fn sound(body: Vec<u8>) -> Self {
        use sha2::{Digest, Sha256};
        let tag: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        let head = vec![
            ("Content-Length", body.len().to_string()),
            ("ETag", format!("\"{tag}\"")),
            ("X-Repo-Commit", COMMIT.to_string()),
        ];
        Self { status: "200 OK", head, pace: Pace::Bytes(body.len()), body }
    }

    /// With another value of a header, which may be a new one.
    pub(super) fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.head.retain(|(known, _)| *known != key);
        self.head.push((key, value.into()));
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.head.retain(|(known, _)| *known != key);
        self
    }

    fn at(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    fn redirection(to: &str) -> Self {
        let head = vec![("Location", to.to_string()), ("Content-Length", "0".into())];
        Self { status: "302 Found", head, body: Vec::new(), pace: Pace::Bytes(0) }
    }
}

type Answers = dyn Fn(&str) -> Option<Answer> + Send + Sync;

/// Serves `answers` on a free port until the test ends, and returns the address.
pub(super) fn serve(answers: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answers: Arc<Answers> = Arc::new(answers);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = Arc::clone(&answers);
            std::thread::spawn(move || drop(respond(stream, &*answers)));
        }
    });
    address
}

fn respond(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let Some(answer) = answers(request.split(' ').nth(1).unwrap_or_default()) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    if let Pace::Silence = answer.pace {
        return wait(stream);
    }
    let head: String = answer.head.iter().map(|(key, value)| format!("{key}: {value}\r\n")).collect();
    write!(stream, "HTTP/1.1 {}\r\n{head}Connection: close\r\n\r\n", answer.status)?;
    match answer.pace {
        Pace::Bytes(n) => stream.write_all(&answer.body[..n])?,
        Pace::Stall(n) => {
            stream.write_all(&answer.body[..n])?;
            return wait(stream);
        }
        Pace::Steady(n, pause) => {
            for piece in answer.body.chunks(n) {
                stream.write_all(piece)?;
                std::thread::sleep(pause);
            }
        }
        Pace::Endless => loop {
            stream.write_all(&answer.body)?;
        },
        Pace::Silence => {}
    }
    stream.flush()
}

/// Keeps a connection until the other side closes it.
fn wait(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_to_end(&mut Vec::new()).map(drop)
}

pub(super) fn at(endpoint: &str, dir: &Path) -> Location {
    let hub = Hub { endpoint: Some(endpoint.to_string()), ..only(dir).hub };
    Location { offline: false, hub, ..only(dir) }
}

/// With other limits.
fn limited(endpoint: &str, dir: &Path, limits: Limits) -> Location {
    let location = at(endpoint, dir);
    Location { hub: Hub { limits, ..location.hub }, ..location }
}

/// All files and links below `dir`.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap());
    let below = entries.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => files_below(&entry.path()),
        false => vec![entry.path()],
    });
    below.collect()
}

/// A hub with the files of the main branch, 7 and 4 rows.
fn sound_hub(path: &str) -> Option<Answer> {
    let folder = format!("/datasets/uoft-cs/cifar10/resolve/{COMMIT}/plain_text/");
    match path.strip_prefix(&folder)? {
        "train-00000-of-00001.parquet" => Some(Answer::sound(parquet_bytes(&png_rows(7)))),
        "test-00000-of-00001.parquet" => Some(Answer::sound(parquet_bytes(&png_rows(4)))),
        _ => None,
    }
}

fn failure(location: &Location) -> String {
    let message = load("cifar10", location, &Silent).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn a_download_is_loaded_recorded_and_used_again_without_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let location = at(&serve(sound_hub), dir.path());
    let log = Log::default();
    let splits = load("cifar10", &location, &log).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (7, 4));
    assert_eq!(log.started_bytes.lock().unwrap().len(), 2);
    let notes = log.notes.lock().unwrap().join("\n");
    assert!(notes.contains("is not the canonical"), "{notes}");

    let offline = Location { offline: true, ..at("http://127.0.0.1:0", dir.path()) };
    assert_eq!(load("cifar10", &offline, &Silent).unwrap(), splits);
    let info = info(cifar(), &offline).unwrap();
    assert!(info.files.iter().all(|file| file.recorded == Some(true)), "{info}");
}

#[test]
fn fetching_to_a_folder_leaves_the_usual_layout_there() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let named = target.path().join("new folder");
    let location = Location { data_dir: Some(named.clone()), ..at(&serve(sound_hub), dir.path()) };
    let info = fetch(cifar(), &location, &Silent).unwrap();
    assert_eq!(info.root, named.join("cifar10/plain_text"));
    assert_eq!(info.train.n_rows, 7);
    assert!(info.root.join("SHA256SUMS").is_file());
    assert!(info.root.join("train/0000.parquet").is_file());
    // What an interruption left is copied anew, and whatever else is there with it.
    std::fs::remove_file(info.root.join("test/0000.parquet")).unwrap();
    std::fs::write(info.root.join("train/0000.parquet"), "half").unwrap();
    let told = load("cifar10", &location, &Silent).unwrap_err().to_string();
    assert!(told.contains("`deepzero data fetch cifar10 --data-dir "), "{told}");
    assert_eq!(fetch(cifar(), &location, &Silent).unwrap().train.n_rows, 7);
}

#[test]
fn a_mirror_with_the_converted_files_only_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = serve(|path| match path.split_once("/refs%2Fconvert%2Fparquet/plain_text/")?.1 {
        "train/0000.parquet" => Some(Answer::sound(parquet_bytes(&png_rows(6)))),
        "test/0000.parquet" => Some(Answer::sound(parquet_bytes(&png_rows(3)))),
        _ => None,
    });
    let splits = load("cifar10", &at(&endpoint, dir.path()), &Silent).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (6, 3));
}

#[test]
fn a_hub_without_the_files_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let message = failure(&at(&serve(|_| None), dir.path()));
    assert!(
        message.contains("does not have its Parquet files") && message.contains("--data-dir"),
        "{message}"
    );
}

#[test]
fn an_unreachable_hub_names_the_alternatives() {
    let dir = tempfile::tempdir().unwrap();
    // No program can listen on port 0.
    let endpoint = "http://127.0.0.1:0";
    let message = failure(&at(endpoint, dir.path()));
    for part in ["cannot reach", endpoint, "--data-dir", "DEEPZERO_DATA", "--set data=synthetic"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(failure(&at("no address", dir.path())).contains("address"));
}

/// A hub that sends each file as `change` has it.
fn changed(change: impl Fn(Answer) -> Answer + Send + Sync + 'static) -> String {
    serve(move |path| sound_hub(path).map(&change))
}

/// Has `location` fail with `expected`, keep nothing, and a sound hub do after it.
fn refused(location: &Location, dir: &Path, expected: &str) {
    let before = files_below(dir);
    let message = failure(location);
    assert!(message.contains(expected), "{expected}: {message}");
    assert_eq!(files_below(dir), before, "{expected}");
    let hub = Hub { limits: Limits::default(), endpoint: Some(serve(sound_hub)), ..location.hub.clone() };
    let sound = Location { hub, ..location.clone() };
    assert_eq!(load("cifar10", &sound, &Silent).unwrap().train.len(), 7);
}

/// A body that ends early, a body that is not what the hub states, and a body that is no Parquet
/// file: each is refused and not kept.
#[test]
fn damaged_downloads_are_refused_and_not_kept() {
    type Damage = fn(Answer) -> Answer;
    let damages: [(Damage, &str); 3] = [
        (
            |answer| {
                let n = answer.body.len() / 2;
                answer.at(Pace::Bytes(n))
            },
            "broke off",
        ),
        (
            |mut answer| {
                answer.body[40] ^= 1;
                answer
            },
            "sent a damaged file",
        ),
        (|_| Answer::sound(vec![7; 5000]), "truncated or not a Parquet file"),
    ];
    for (damage, expected) in damages {
        let dir = tempfile::tempdir().unwrap();
        refused(&at(&changed(damage), dir.path()), dir.path(), expected);
    }
}

/// Under a tag that is no checksum, only decoding finds the damage.
#[test]
fn a_corrupt_image_from_the_hub_names_its_row_and_is_not_kept() {
    let corrupt = |_| {
        let mut rows = png_rows(7);
        rows[4].0 = encode(&asymmetric(4), ImageFormat::Jpeg)[..40].to_vec();
        Answer::sound(parquet_bytes(&rows)).with("ETag", "\"v1\"")
    };
    let dir = tempfile::tempdir().unwrap();
    let location = at(&changed(corrupt), dir.path());
    refused(&location, dir.path(), "row 4: unreadable image");
    let dir = tempfile::tempdir().unwrap();
    let message = fetch(cifar(), &at(&changed(corrupt), dir.path()), &Silent).unwrap_err().to_string();
    assert!(message.contains("row 4"), "{message}");
    assert!(files_below(dir.path()).is_empty());
}

/// Names that would lead out of the cache, or that no hub gives. The canaries lie where `hf-hub` would write, and
/// where a clean-up would remove.
#[test]
fn names_from_a_hub_never_become_paths() {
    let outside = tempfile::tempdir().unwrap();
    let absolute = outside.path().join("canary").display().to_string();
    let long = "a".repeat(500);
    let names = ["../../../x", "..", ".", "", "a/b", "a\\b", "a b", "x;y", "\u{e9}", &absolute, &long];
    for header in ["ETag", "X-Linked-ETag", "X-Repo-Commit"] {
        for name in names {
            let dir = tempfile::tempdir().unwrap();
            let canaries = [outside.path().join("canary"), dir.path().join("x")];
            canaries.iter().for_each(|canary| write(canary.clone(), b"mine"));
            let name = name.to_string();
            let endpoint = changed(move |answer| answer.with(header, format!("\"{name}\"")));
            refused(&at(&endpoint, dir.path()), dir.path(), "no plain name");
            canaries.iter().for_each(|canary| assert_eq!(std::fs::read(canary).unwrap(), b"mine"));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let endpoint = changed(|answer| answer.with("X-Repo-Commit", "1".repeat(40)));
    refused(&at(&endpoint, dir.path()), dir.path(), "sent the commit 1111");
}

#[test]
fn a_hub_that_takes_forever_is_left() {
    let short = Duration::from_millis(300);
    let slow =
        Limits { silence: Duration::from_secs(30), window: short, min_speed: 1 << 20, ..Limits::default() };
    let stalled = Limits { silence: short, ..Limits::default() };
    let cases: [(Pace, Limits, &str); 4] = [
        (Pace::Silence, Limits { connect: short, silence: short, ..Limits::default() }, "cannot reach"),
        (Pace::Stall(0), stalled.clone(), "nothing more within 300ms"),
        (Pace::Stall(100), stalled, "nothing more within 300ms"),
        (Pace::Steady(1, Duration::from_millis(50)), slow, "bytes a second, fewer than"),
    ];
    for (pace, limits, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = changed(move |answer| answer.at(pace));
        refused(&limited(&endpoint, dir.path(), limits), dir.path(), expected);
    }
}

#[test]
fn a_slow_but_steady_hub_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = changed(|answer| {
        let n = answer.body.len() / 20 + 1;
        answer.at(Pace::Steady(n, Duration::from_millis(20)))
    });
    let limits = Limits { window: Duration::from_millis(50), min_speed: 1, ..Limits::default() };
    assert_eq!(load("cifar10", &limited(&endpoint, dir.path(), limits), &Silent).unwrap().train.len(), 7);
}

#[test]
fn a_hub_that_sends_too_much_is_cut_off() {
    let few = || Limits { max_bytes: 100_000, ..Limits::default() };
    let endless = |answer: Answer| answer.without("Content-Length").at(Pace::Endless);
    type Change = fn(Answer) -> Answer;
    let cases: [(Change, &str); 5] = [
        (|answer| answer.with("X-Linked-Size", "100"), "sent more than the 100 bytes it announced"),
        (|answer| answer.with("X-Linked-Size", "1000000"), "announces 1000000 bytes, more than the 100000"),
        (|answer| answer.with("X-Linked-Size", "-1"), "is no number"),
        (|answer| answer.with("X-Linked-Size", "99999"), "broke off"),
        (
            |answer| answer.with("Content-Length", "9999999999").at(Pace::Endless),
            "announces 9999999999 bytes",
        ),
    ];
    for (change, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        refused(&limited(&changed(change), dir.path(), few()), dir.path(), expected);
    }
    let dir = tempfile::tempdir().unwrap();
    refused(
        &limited(&changed(endless), dir.path(), few()),
        dir.path(),
        "sent more than the 100000 bytes of a file",
    );
}

/// As the real hub answers: the name and size of a large file on its own, and the file from elsewhere.
#[test]
fn redirections_are_followed_within_reason() {
    let elsewhere = serve(|path| match path {
        "/train" => Some(Answer::sound(parquet_bytes(&png_rows(7))).with("ETag", "\"other\"")),
        "/test" => Some(Answer::sound(parquet_bytes(&png_rows(4))).with("ETag", "\"other\"")),
        _ => None,
    });
    let redirected = move |path: &str| {
        let sound = sound_hub(path)?;
        let head = |key: &str| sound.head.iter().find(|(known, _)| *known == key).unwrap().1.clone();
        let target = if path.contains("train") { "train" } else { "test" };
        let answer = Answer::redirection(&format!("{elsewhere}/{target}"));
        let answer = answer.with("X-Linked-ETag", head("ETag")).with("X-Linked-Size", head("Content-Length"));
        Some(answer.with("X-Repo-Commit", COMMIT))
    };
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load("cifar10", &at(&serve(redirected.clone()), dir.path()), &Silent).unwrap().train.len(), 7);
    let lying = move |path: &str| {
        redirected(path).map(|answer| answer.with("X-Linked-ETag", format!("\"{}\"", "0".repeat(64))))
    };
    let dir = tempfile::tempdir().unwrap();
    refused(&at(&serve(lying), dir.path()), dir.path(), "it states 000000000000");
    for (target, expected) in
        [("file:///etc/passwd", "no usable address"), ("again", "more than 10 redirections")]
    {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = serve(|_| Some(Answer::redirection(target)));
        refused(&at(&endpoint, dir.path()), dir.path(), expected);
    }
}

#[test]
fn statuses_of_failure_are_named() {
    for status in ["401 Unauthorized", "500 Internal Server Error"] {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = changed(move |answer| Answer { status, ..answer });
        refused(&at(&endpoint, dir.path()), dir.path(), &format!("answered with status {status}"));
    }
}

/// A file of the cache that was damaged, or leads elsewhere, is fetched again when the other one is missing; what a
/// link leads to stays.
#[test]
fn a_damaged_file_in_the_cache_is_fetched_again_and_no_link_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let location = at(&serve(sound_hub), dir.path());
    let splits = load("cifar10", &location, &Silent).unwrap();
    let info = info(cifar(), &location).unwrap();
    let [train, test] = [&info.files[0].path, &info.files[1].path];
    let elsewhere = dir.path().join("elsewhere");
    for damage in [0, 1] {
        std::fs::remove_file(test).unwrap();
        std::fs::remove_file(train).unwrap();
        match damage {
            0 => std::fs::write(train, b"damaged").unwrap(),
            _ => {
                std::fs::write(&elsewhere, b"mine").unwrap();
                #[cfg(unix)]
                std::os::unix::fs::symlink(&elsewhere, train).unwrap();
            }
        }
        assert_eq!(load("cifar10", &location, &Silent).unwrap(), splits);
    }
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"mine");
}
