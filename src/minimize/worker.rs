//! Processes of a user's command that evaluate points.
//!
//! `jsonl`: one process per worker lives as long as the run. Each message is an object on a line of its own. It is told
//! `init` (protocol, dim, worker, seed) and answers `ready` (max_batch); it is told `evaluate` (id, sample, x: a list of
//! points) and answers with the same id and f: a list of as many values, null for a point that failed; `stop` ends it.
//! `file`: one process per evaluation, which finds points in the file that is its last argument, one a line, and prints
//! a value or `fail` for each.
//!
//! What does not keep to that fails the points that it was asked for and no others; the process and all it started are
//! killed, and another one is started.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Asked, Files};
use crate::error::shortened;
use crate::{Error, Result};

crate::choice! {
    /// How points and values travel.
    pub enum Protocol {
        /// A lasting process per worker, an object of JSON a line.
        Jsonl = "jsonl",
        /// A process per evaluation, points in a file, values on stdout.
        File = "file",
    }
}

/// The version of `jsonl`.
const VERSION: u32 = 1;
/// With more coordinates, points travel as a file of little-endian f64.
const MAX_COORDS_AS_TEXT: usize = 10_000;
/// The longest line that is read, beside 64 bytes a value.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// How long a process may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(300);
/// How long it may take to end when it is told to.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to end after it has closed its stdout.
const END_LIMIT: Duration = Duration::from_millis(300);
/// How often it is looked at whether a process has ended, or the run was given up.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a process is started again before the run ends.
const MAX_STARTS: u32 = 3;
/// The largest batch that a worker may ask for.
const MAX_BATCH: u64 = 1 << 20;

/// A command, and what its processes need to know.
#[derive(Debug)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// How points and values travel.
    pub protocol: Protocol,
    /// How long an evaluation may take; a batch that many times as long.
    pub timeout: Option<Duration>,
    /// Where points and stderr go.
    pub files: Files,
    /// Seed of the run.
    pub seed: u64,
    /// Coordinates of a point.
    pub n_coords: usize,
}

impl Command {
    /// Splits a line as a shell would; no shell runs.
    ///
    /// # Errors
    /// If a quote is open or there is nothing.
    pub fn split(line: &str) -> Result<Vec<String>> {
        let words = shell_words::split(line)
            .map_err(|error| Error::Command(format!("`{}`: {error}", shortened(line))))?;
        if words.is_empty() {
            return Err(Error::Command("expected a program and its arguments; got nothing".to_owned()));
        }
        Ok(words)
    }

    fn name(&self) -> String {
        shortened(&shell_words::join(&self.words))
    }

    fn process(&self, worker: usize) -> Result<std::process::Command> {
        let path = self.files.stderr(worker);
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let mut command = std::process::Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdout(Stdio::piped());
        command.stderr(stderr.map_err(Error::io("write", path))?);
        // Of its own, so that whatever it starts can be ended with it, and so that Ctrl-C is for us alone.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(command)
    }
}

/// The last bytes of a file, so many at most, however long it is.
fn end_of(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The processes that run, each the first of a group.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process.
fn spawn(command: &mut std::process::Command) -> std::io::Result<Child> {
    // While nobody kills all of them, so that none is missed.
    let mut running = running();
    let child = command.spawn()?;
    running.insert(child.id());
    Ok(child)
}

/// Kills a process and all it started.
fn kill(child: &mut Child) {
    kill_group(child.id());
    let _ = child.kill();
    let _ = child.wait();
    running().remove(&child.id());
}

/// Kills the processes of all workers and all they started, for a program that ends at once. No more can be started.
pub fn kill_all() {
    let running = running();
    running.iter().for_each(|&id| kill_group(id));
    std::mem::forget(running);
}

#[cfg(unix)]
fn kill_group(id: u32) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(group) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(not(unix))]
fn kill_group(_: u32) {}

/// Why there is no answer: what a process did, or an error of ours, which ends the run.
enum Fault {
    Process(String),
    /// It had ended with success, rather than answered.
    Left(String),
    Ours(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

type Answered<T> = std::result::Result<T, Fault>;

fn fault<T>(what: impl Into<String>) -> Answered<T> {
    Err(Fault::Process(what.into()))
}

/// One worker: a process, or with `file` one after the other.
pub struct Worker<'a> {
    idx: usize,
    command: &'a Command,
    /// Set when the run is given up.
    abandoned: &'a AtomicBool,
    process: Option<Process>,
    /// Points that it takes at a time.
    max_batch: usize,
}

/// A process of `jsonl`.
struct Process {
    child: Child,
    stdin: Sender<Vec<u8>>,
    lines: Receiver<Line>,
}

enum Line {
    Text(String),
    TooLong,
    NotText,
}

impl<'a> Worker<'a> {
    /// A worker that has not been started.
    #[must_use]
    pub fn new(idx: usize, command: &'a Command, abandoned: &'a AtomicBool) -> Self {
        let max_batch = if command.protocol == Protocol::File { usize::MAX } else { 1 };
        Self { idx, command, abandoned, process: None, max_batch }
    }

    /// Starts it; how many points it takes at a time, if it says so.
    ///
    /// # Errors
    /// [`Error::Command`] if it does not become ready.
    pub fn start(&mut self) -> Result<Option<usize>> {
        if self.command.protocol == Protocol::File {
            return Ok(None);
        }
        match self.ready() {
            Ok(()) => Ok(Some(self.max_batch)),
            Err(Fault::Ours(error)) => Err(error),
            Err(Fault::Process(what) | Fault::Left(what)) => {
                Err(Error::Command(format!("worker {}: {what}", self.idx)))
            }
        }
    }

    /// Values of points of one sample, or why there is none.
    ///
    /// # Errors
    /// If the process cannot be started again, or a file of ours cannot be written.
    pub fn evaluate(&mut self, points: &[Asked]) -> Result<Vec<std::result::Result<f64, String>>> {
        let mut values = Vec::new();
        let max_batch = self.max_batch;
        // The points of a message are numbered without gaps.
        let in_order = points.chunk_by(|a, b| a.id + 1 == b.id);
        for points in in_order.flat_map(|points| points.chunks(max_batch)) {
            let answered = match self.command.protocol {
                Protocol::Jsonl => self.request(points),
                Protocol::File => self.run_once(points),
            };
            match answered {
                Ok(found) => values.extend(found),
                Err(Fault::Ours(error)) => return Err(error),
                Err(Fault::Process(what) | Fault::Left(what)) => {
                    let what = format!("worker {}: {what}", self.idx);
                    values.extend(points.iter().map(|_| Err(what.clone())));
                }
            }
        }
        Ok(values)
    }

    /// Ends the process.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        if process.stdin.send(b"{\"type\":\"stop\"}\n".to_vec()).is_ok() {
            drop(process.stdin);
            let told = Instant::now();
            while told.elapsed() < STOP_LIMIT && !self.abandoned.load(Ordering::Relaxed) {
                match process.child.try_wait() {
                    Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                    _ => break,
                }
            }
        }
        kill(&mut process.child);
    }

    fn limit(&self, n_points: usize) -> Option<Duration> {
        self.command.timeout.map(|limit| limit.saturating_mul(u32::try_from(n_points).unwrap_or(u32::MAX)))
    }

    /// The end of what the process wrote to stderr.
    fn last_words(&self) -> String {
        let path = self.command.files.stderr(self.idx);
        let text = end_of(&path, 4096).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        match last {
            Some(line) => format!("; its last words in {}: {}", path.display(), shortened(line.trim())),
            None => String::new(),
        }
    }

    /// Starts the process of `jsonl`, unless it runs.
    fn ready(&mut self) -> Answered<()> {
        if let Some(process) = &mut self.process {
            // One that has ended would fail points that it has not seen.
            if matches!(process.child.try_wait(), Ok(None)) {
                return Ok(());
            }
            self.kill();
        }
        let mut command = self.command.process(self.idx)?;
        let mut child = spawn(command.stdin(Stdio::piped()))
            .map_err(|error| Fault::Process(format!("`{}` cannot be run: {error}", self.command.name())))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            kill(&mut child);
            return fault("its pipes cannot be had");
        };
        self.process = Some(Process { child, stdin: write_behind(stdin), lines: read_ahead(stdout) });
        let init = json!({
            "type": "init", "protocol": VERSION, "dim": self.command.n_coords, "worker": self.idx,
            "seed": self.command.seed,
        });
        let start = self.command.timeout.map_or(START_LIMIT, |limit| limit.max(START_LIMIT));
        let answered = self.exchange(format!("{init}\n").into_bytes(), Some(start), "ready");
        let max_batch = answered.and_then(|answer| {
            if answer.get("type").and_then(Value::as_str) != Some("ready") {
                return fault(format!(
                    "expected {{\"type\":\"ready\"}}; got `{}`",
                    shortened(&answer.to_string())
                ));
            }
            match answer.get("max_batch") {
                None => Ok(1),
                Some(n) => match n.as_u64() {
                    Some(n) if (1..=MAX_BATCH).contains(&n) => Ok(n as usize),
                    _ => {
                        fault(format!("`ready`: max_batch must be an integer from 1 to {MAX_BATCH}; got {n}"))
                    }
                },
            }
        });
        match max_batch {
            Ok(max_batch) => self.max_batch = max_batch,
            Err(error) => {
                self.kill();
                return Err(error);
            }
        }
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            kill(&mut process.child);
        }
    }

    /// Values of points from a process that runs. One that ends itself between messages, as some do after so many of them,
    /// is started anew for these.
    fn request(&mut self, points: &[Asked]) -> Answered<Vec<std::result::Result<f64, String>>> {
        match self.request_once(points) {
            Err(Fault::Left(_)) => self.request_once(points),
            answered => answered,
        }
    }

    fn request_once(&mut self, points: &[Asked]) -> Answered<Vec<std::result::Result<f64, String>>> {
        for attempt in 1.. {
            match self.ready() {
                Ok(()) => break,
                Err(Fault::Process(what) | Fault::Left(what)) if attempt == MAX_STARTS => {
                    let what = format!("worker {}: cannot be started again: {what}", self.idx);
                    return Err(Fault::Ours(Error::Command(what)));
                }
                Err(Fault::Process(_) | Fault::Left(_)) if !self.abandoned.load(Ordering::Relaxed) => {
                    std::thread::sleep(Duration::from_millis(500));
                }
                Err(other) => return Err(other),
            }
        }
        let message = self.message(points)?;
        let answered = self.exchange(message, self.limit(points.len()), "answered");
        let values = answered.and_then(|answer| values_of(&answer, points));
        if values.is_err() {
            self.kill();
        }
        values
    }

    fn message(&self, points: &[Asked]) -> Answered<Vec<u8>> {
        let (id, sample) = (points[0].id, points[0].sample);
        let mut message = format!("{{\"type\":\"evaluate\",\"id\":{id},\"sample\":{sample},").into_bytes();
        if self.command.n_coords > MAX_COORDS_AS_TEXT {
            let path = self.write_numbers(points)?;
            let rest = json!({ "file": path, "n": points.len() }).to_string();
            message.extend_from_slice(&rest.as_bytes()[1..]);
        } else {
            let x: Vec<Vec<f64>> = points.iter().map(Asked::point).collect();
            message.extend_from_slice(b"\"x\":");
            serde_json::to_writer(&mut message, &x).map_err(|error| Fault::Process(error.to_string()))?;
            message.push(b'}');
        }
        message.push(b'\n');
        Ok(message)
    }

    /// Points as little-endian f64, one after the other; where they are.
    fn write_numbers(&self, points: &[Asked]) -> Result<String> {
        let path = self.command.files.points(self.idx, "f64");
        let write = || -> std::io::Result<()> {
            let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
            let mut x = vec![0.0; self.command.n_coords];
            for asked in points {
                asked.write(&mut x);
                x.iter().try_for_each(|x| file.write_all(&x.to_le_bytes()))?;
            }
            file.flush()
        };
        write().map_err(Error::io("write", &path))?;
        absolute(&path)
    }

    /// Points as text, one a line; where they are.
    fn write_text(&self, points: &[Asked]) -> Result<String> {
        let path = self.command.files.points(self.idx, "txt");
        let mut text = String::new();
        for asked in points {
            let x: Vec<String> = asked.point().iter().map(|x| format!("{x:?}")).collect();
            text.push_str(&x.join(" "));
            text.push('\n');
        }
        std::fs::write(&path, text).map_err(Error::io("write", &path))?;
        absolute(&path)
    }

    /// Sends a message and waits for a line, which must be an object.
    fn exchange(&mut self, message: Vec<u8>, limit: Option<Duration>, what: &str) -> Answered<Value> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let Some(process) = &mut self.process else { return fault("it is not running") };
        // A process that has ended is noticed below.
        let _ = process.stdin.send(message);
        let mut ended: Option<ExitStatus> = None;
        let mut closed: Option<Instant> = None;
        loop {
            match process.lines.recv_timeout(LOOK_EVERY) {
                Ok(Line::Text(line)) => return object(&line),
                Ok(Line::TooLong) => {
                    return fault(format!("a line on stdout is longer than {MAX_LINE_BYTES} bytes"));
                }
                Ok(Line::NotText) => {
                    return fault("a line on stdout is no UTF-8 text; stdout is for the protocol");
                }
                Err(reason) => {
                    let is_closed = reason == RecvTimeoutError::Disconnected;
                    let status = process.child.try_wait().ok().flatten();
                    match (ended.or(status), closed) {
                        // Whatever it still wrote is heard first.
                        (Some(status), _) if is_closed || ended.is_some() => {
                            let words = self.last_words();
                            let what = format!("it ended ({status}) before it {}{words}", was(what));
                            return Err(if status.success() {
                                Fault::Left(what)
                            } else {
                                Fault::Process(what)
                            });
                        }
                        (None, Some(since)) if since.elapsed() > END_LIMIT => {
                            return fault(format!("it closed its stdout before it {}", was(what)));
                        }
                        _ => {}
                    }
                    ended = ended.or(status);
                    if is_closed {
                        // It may be about to end.
                        closed.get_or_insert_with(Instant::now);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            }
            if self.abandoned.load(Ordering::Relaxed) {
                return fault("the run was given up");
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                let limit = humantime::format_duration(limit.unwrap_or_default());
                let had_not = if what == "ready" { "was not ready" } else { "had not answered" };
                return fault(format!("it {had_not} after {limit} and was killed"));
            }
        }
    }

    /// One process of `file`.
    fn run_once(&mut self, points: &[Asked]) -> Answered<Vec<std::result::Result<f64, String>>> {
        let is_large = self.command.n_coords > MAX_COORDS_AS_TEXT;
        let path = if is_large { self.write_numbers(points)? } else { self.write_text(points)? };
        let mut command = self.command.process(self.idx)?;
        command.arg(path).stdin(Stdio::null());
        for (name, value) in [
            ("DEEPZERO_ID", points[0].id),
            ("DEEPZERO_SAMPLE", points[0].sample),
            ("DEEPZERO_SEED", self.command.seed),
            ("DEEPZERO_WORKER", self.idx as u64),
            ("DEEPZERO_DIM", self.command.n_coords as u64),
        ] {
            command.env(name, value.to_string());
        }
        let mut child = spawn(&mut command).map_err(|error| {
            Fault::Ours(Error::Command(format!(
                "worker {}: `{}` cannot be run: {error}",
                self.idx,
                self.command.name()
            )))
        })?;
        let Some(stdout) = child.stdout.take() else {
            kill(&mut child);
            return fault("its stdout cannot be had");
        };
        let most = MAX_LINE_BYTES + 64 * points.len() as u64;
        let (sender, text) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.take(most + 1).read_to_end(&mut bytes);
            let _ = sender.send(bytes);
        });
        let limit = self.limit(points.len());
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut bytes = None;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if bytes.is_none() {
                bytes = text.recv_timeout(pause).ok();
            } else {
                std::thread::sleep(pause);
            }
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => {
                    kill(&mut child);
                    return fault(error.to_string());
                }
            }
            if bytes.as_ref().is_some_and(|bytes: &Vec<u8>| bytes.len() as u64 > most) {
                kill(&mut child);
                return fault(format!("it printed more than {most} bytes; stdout is for values"));
            }
            if self.abandoned.load(Ordering::Relaxed) {
                kill(&mut child);
                return fault("the run was given up");
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                kill(&mut child);
                let limit = humantime::format_duration(limit.unwrap_or_default());
                return fault(format!("it had not ended after {limit} and was killed"));
            }
            pause = (2 * pause).min(LOOK_EVERY);
        };
        // What it left running may still hold its stdout.
        kill(&mut child);
        let bytes = bytes.or_else(|| text.recv_timeout(STOP_LIMIT).ok()).unwrap_or_default();
        if !status.success() {
            return fault(format!("it ended with {status}{}", self.last_words()));
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.len() != points.len() {
            let n = points.len();
            return fault(format!(
                "it printed {} lines for {n} {}; expected a value or `fail` for each",
                lines.len(),
                if n == 1 { "point" } else { "points" }
            ));
        }
        let value = |line: &&str| match line.parse::<f64>() {
            _ if *line == "fail" => Ok(Err(format!("worker {}: the command says `fail`", self.idx))),
            Ok(value) => Ok(Ok(value)),
            Err(_) => fault(format!("it printed `{}`, where a value or `fail` is expected", shortened(line))),
        };
        lines.iter().map(value).collect()
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The participle with its verb's past: `was ready`, `answered`.
fn was(what: &str) -> String {
    if what == "ready" { "was ready".to_owned() } else { what.to_owned() }
}

fn absolute(path: &std::path::Path) -> Result<String> {
    let path = std::path::absolute(path).map_err(Error::io("find", path))?;
    match path.to_str() {
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::file(
            &path,
            "not a name in UTF-8, which a command could be told; choose another folder",
        )),
    }
}

/// Writes what is sent, in its own time: a process that does not read must not hold up the worker.
fn write_behind(mut stdin: ChildStdin) -> Sender<Vec<u8>> {
    let (sender, messages) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for message in messages {
            if stdin.write_all(&message).and_then(|()| stdin.flush()).is_err() {
                break;
            }
        }
    });
    sender
}

/// Reads lines as they come.
fn read_ahead(stdout: ChildStdout) -> Receiver<Line> {
    // A process that talks without being asked is held up by its full pipe.
    let (sender, lines) = std::sync::mpsc::sync_channel(16);
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        loop {
            let mut bytes = Vec::new();
            let limit = MAX_LINE_BYTES + 64 * MAX_BATCH;
            let read = (&mut stdout).take(limit).read_until(b'\n', &mut bytes);
            let line = match read {
                Ok(0) | Err(_) => return,
                Ok(_) if bytes.last() != Some(&b'\n') && bytes.len() as u64 >= limit => Line::TooLong,
                Ok(_) => String::from_utf8(bytes).map_or(Line::NotText, Line::Text),
            };
            let ends = matches!(line, Line::TooLong);
            if sender.send(line).is_err() || ends {
                return;
            }
        }
    });
    lines
}

/// A line as an object. Python and others write NaN and infinities as words that JSON does not have; they are null.
fn object(line: &str) -> Answered<Value> {
    let parsed: std::result::Result<Value, _> =
        serde_json::from_str(line).or_else(|_| serde_json::from_str(&without_words(line)));
    match parsed {
        Ok(value) if value.is_object() => Ok(value),
        _ => fault(format!(
            "it wrote `{}`, which is no object of JSON; stdout is for the protocol, print to stderr instead",
            shortened(line.trim_end())
        )),
    }
}

/// The line with `NaN`, `Infinity` and `-Infinity` outside of strings as null.
fn without_words(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let (mut rest, mut is_string) = (line, false);
    while let Some(c) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word));
        match word.filter(|_| !is_string) {
            Some(word) => {
                text.push_str("null");
                rest = &rest[word.len()..];
            }
            None => {
                let n = match c {
                    '\\' if is_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
                    _ => c.len_utf8(),
                };
                is_string ^= c == '"';
                text.push_str(&rest[..n]);
                rest = &rest[n..];
            }
        }
    }
    text
}

/// The values of an answer to `points`.
fn values_of(answer: &Value, points: &[Asked]) -> Answered<Vec<std::result::Result<f64, String>>> {
    let id = answer.get("id");
    if id.and_then(Value::as_u64) != Some(points[0].id) {
        let got = id.map_or("no id".to_owned(), |id| shortened(&format!("id {id}")));
        return fault(format!("expected an answer to id {}; got {got}", points[0].id));
    }
    let n = points.len();
    let Some(Value::Array(values)) = answer.get("f") else {
        return fault(format!("the answer to id {} has no list f of values", points[0].id));
    };
    if values.len() != n {
        return fault(format!("{} values for {n} {}", values.len(), if n == 1 { "point" } else { "points" }));
    }
    let reason = match answer.get("error") {
        Some(Value::String(reason)) => shortened(reason),
        _ => "the value is null".to_owned(),
    };
    let value = |value: &Value| match value {
        Value::Null => Ok(Err(reason.clone())),
        other => match other.as_f64() {
            Some(value) => Ok(Ok(value)),
            None => fault(format!("expected a number or null in f; got `{}`", shortened(&other.to_string()))),
        },
    };
    values.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_json_has_not_are_null() {
        let line = r#"{"id":1,"f":[NaN,-Infinity,Infinity,2.5],"error":"NaN in \"x\\\" Infinity"}"#;
        let expected = r#"{"id":1,"f":[null,null,null,2.5],"error":"NaN in \"x\\\" Infinity"}"#;
        assert_eq!(without_words(line), expected);
        assert_eq!(without_words("é NaN \"\\é NaN"), "é null \"\\é NaN");
    }

    #[test]
    fn commands_are_split_as_by_a_shell() {
        assert_eq!(
            Command::split("python 'my sim.py' --a \"b c\"").unwrap(),
            ["python", "my sim.py", "--a", "b c"]
        );
        assert!(Command::split("'open").is_err() && Command::split("  ").is_err());
    }
}
