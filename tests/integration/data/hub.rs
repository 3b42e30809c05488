//! Downloads from a hub on this machine: a few lines of HTTP that answer as the real one does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use deepzero::data::{Hub, Location, Silent, fetch, info};
use image::ImageFormat;

use super::{Log, asymmetric, encode, load, parquet_bytes, png_rows};

const COMMIT: &str = "0b2714987fa478483af9968de7c934580d0bb9a2";

/// What the hub serves for a path, if it has it.
#[derive(Clone)]
struct Answer {
    body: Vec<u8>,
    /// The entity tag, which for a large file is its SHA-256.
    tag: String,
    /// Bytes actually sent of those announced.
    sent: usize,
}

impl Answer {
    fn sound(body: Vec<u8>) -> Self {
        use sha2::{Digest, Sha256};
        let tag = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { sent: body.len(), tag, body }
    }
}

type Answers = dyn Fn(&str) -> Option<Answer> + Send + Sync;

/// Serves `answers` on a free port until the test ends, and returns the address.
fn serve(answers: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> String {
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
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Some(answer) = answers(path) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        answer.body.len(),
        answer.tag
    )?;
    if method == "GET" {
        stream.write_all(&answer.body[..answer.sent])?;
    }
    stream.flush()
}

fn at(endpoint: &str, dir: &Path) -> Location {
    let hub = Hub { endpoint: Some(endpoint.to_string()), cache_dir: Some(dir.join("hub-cache")) };
    Location { dirs: vec![dir.to_path_buf()], fetch_dir: None, offline: false, hub }
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
    let info = info(&offline).unwrap();
    assert!(info.files.iter().all(|file| file.recorded == Some(true)), "{info}");
}

#[test]
fn fetching_to_a_folder_leaves_the_usual_layout_there() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let location =
        Location { fetch_dir: Some(target.path().to_path_buf()), ..at(&serve(sound_hub), dir.path()) };
    let info = fetch(&location, &Silent).unwrap();
    assert_eq!(info.root, target.path().join("cifar10/plain_text"));
    assert_eq!(info.train.n_rows, 7);
    assert!(info.root.join("SHA256SUMS").is_file());
    assert!(info.root.join("train/0000.parquet").is_file());
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

/// A body that ends early, a body that is not what the hub states, and a body that is no Parquet
/// file: each is refused and not kept.
#[test]
fn damaged_downloads_are_refused_and_not_kept() {
    type Damage = fn(&mut Answer);
    let damages: [(Damage, &str); 3] = [
        (|answer| answer.sent /= 2, "broke off"),
        (|answer| answer.body[40] ^= 1, "arrived damaged"),
        (|answer| *answer = Answer::sound(vec![7; 5000]), "truncated or not a Parquet file"),
    ];
    for (damage, expected) in damages {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = serve(move |path| {
            let mut answer = sound_hub(path)?;
            damage(&mut answer);
            Some(answer)
        });
        let message = failure(&at(&endpoint, dir.path()));
        assert!(message.contains(expected), "{message}");
        assert_eq!(load("cifar10", &at(&serve(sound_hub), dir.path()), &Silent).unwrap().train.len(), 7);
    }
}

#[test]
fn a_corrupt_image_from_the_hub_names_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = serve(|path| {
        let mut rows = png_rows(7);
        rows[4].0 = encode(&asymmetric(4), ImageFormat::Jpeg)[..40].to_vec();
        sound_hub(path).map(|_| Answer::sound(parquet_bytes(&rows)))
    });
    let message = failure(&at(&endpoint, dir.path()));
    assert!(message.contains("row 4: unreadable image"), "{message}");
    let info = fetch(&at(&endpoint, dir.path()), &Silent).unwrap();
    assert!(!info.is_sound() && info.to_string().contains("row 4"), "{info}");
}
