//! A minimization in a folder: what it began with, the log of its values, a snapshot that spares reading all of the log,
//! and what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::log::{self, End, Entry, Log};
use super::{Asked, Bounds, Minimizer, Start, settings};
use crate::lock::Lock;
use crate::saved::{self, identity};
use crate::{Error, Result, files};

/// Raised when the contents of a folder change.
const VERSION: &str = "1";
/// The largest file of vectors that is read: a few of the most coordinates.
const MAX_BYTES: u64 = 32 << 30;
/// Log lines behind the last snapshot that are worth a new one.
const SNAPSHOT_EVERY: u64 = 1000;

/// The files of a run.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Of the run in `folder`.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starting point, bounds, settings, seed.
    #[must_use]
    pub fn start(&self) -> PathBuf {
        self.folder.join("start.safetensors")
    }

    /// Every value that came.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }

    /// The minimizer as it was at some place of the log.
    #[must_use]
    pub fn snapshot(&self) -> PathBuf {
        self.folder.join("snapshot.safetensors")
    }

    /// What came of it.
    #[must_use]
    pub fn result(&self) -> PathBuf {
        self.folder.join("result.json")
    }

    /// The same for people.
    #[must_use]
    pub fn report(&self) -> PathBuf {
        self.folder.join("report.html")
    }

    /// Points of one worker, where they travel as a file.
    #[must_use]
    pub fn points(&self, worker: usize, extension: &str) -> PathBuf {
        self.folder.join(format!("points-{worker}.{extension}"))
    }

    /// What a worker writes to stderr.
    #[must_use]
    pub fn stderr(&self, worker: usize) -> PathBuf {
        self.folder.join(format!("worker-{worker}.log"))
    }

    fn lock(&self) -> PathBuf {
        self.folder.join("run.lock")
    }
}

/// A minimizer, and the folder that remembers it if there is one.
#[derive(Debug)]
pub struct Run {
    minimizer: Minimizer,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    files: Files,
    identity: String,
    log: Log,
    /// Lines behind the last snapshot.
    n_new: u64,
    _lock: Lock,
}

impl Run {
    /// A run that nothing remembers.
    ///
    /// # Errors
    /// As [`Minimizer::new`].
    pub fn new(start: Start) -> Result<Self> {
        Ok(Self { minimizer: Minimizer::new(start)?, kept: None })
    }

    /// A run that nothing remembers, of a minimizer that has begun.
    #[must_use]
    pub fn of(minimizer: Minimizer) -> Self {
        Self { minimizer, kept: None }
    }

    /// The run in `folder`, which is made if it is not there and else gone on with: points that were handed out and not
    /// told are asked for again, unless `keeps_handed`.
    ///
    /// # Errors
    /// If the start cannot be one; if the folder belongs to another start, its files are damaged, or another process
    /// uses it.
    pub fn open(folder: &Path, start: Start, keeps_handed: bool) -> Result<Self> {
        let minimizer = Minimizer::new(start)?;
        let files = Files::of(folder);
        let lock = lock(&files)?;
        let path = files.start();
        let identity = identity_of(minimizer.start());
        if path.exists() {
            let (there, found) = read_start(&path)?;
            if found != identity {
                return Err(Error::file(&path, differences(&there, minimizer.start())));
            }
        } else {
            if files.log().exists() {
                let reason =
                    "missing, beside the log of a run; restore it, or begin a new run in another folder";
                return Err(Error::file(path, reason));
            }
            files::write_new(&path, &start_bytes(minimizer.start(), &identity, &path)?)?;
        }
        Self::go_on(files, minimizer, identity, lock, keeps_handed)
    }

    /// The run in `folder`, where there must be one; points that were handed out stay so.
    ///
    /// # Errors
    /// As [`Run::open`], and if there is none.
    pub fn reopen(folder: &Path) -> Result<Self> {
        let files = Files::of(folder);
        let path = files.start();
        if !path.exists() {
            let reason =
                "there is no run here; `deepzero minimize --x0 FILE --run DIR` without --command begins one";
            return Err(Error::file(path, reason));
        }
        let lock = lock(&files)?;
        let (start, identity) = read_start(&path)?;
        Self::go_on(files, Minimizer::new(start)?, identity, lock, true)
    }

    fn go_on(
        files: Files,
        minimizer: Minimizer,
        identity: String,
        lock: Lock,
        keeps_handed: bool,
    ) -> Result<Self> {
        let (mut minimizer, from) = match read_snapshot(&files, minimizer.start(), &identity)? {
            Some((minimizer, from)) => (minimizer, from),
            None => (minimizer, End::start()),
        };
        let path = files.log();
        let mut n_new = 0;
        let log = if path.exists() || from.bytes > 0 {
            let end = log::read(&path, &identity, from, &mut |entry| {
                n_new += 1;
                let told = match &entry {
                    Entry::Told { id, f, .. } => minimizer.record(*id, f.unwrap_or(f64::NAN)).map(|_| ()),
                    Entry::Handed { handed } => handed.iter().try_for_each(|&id| minimizer.hand_out(id)),
                    Entry::Head { .. } => Ok(()),
                };
                told.map_err(|error| {
                    Error::file(&path, format!("{error}; begin a new run in another folder"))
                })
            })?;
            Log::open(&path, end)?
        } else {
            Log::create(&path, &identity)?
        };
        if !keeps_handed {
            minimizer.take_back();
        }
        Ok(Self { minimizer, kept: Some(Kept { files, identity, log, n_new, _lock: lock }) })
    }

    /// The minimizer.
    #[must_use]
    pub fn minimizer(&self) -> &Minimizer {
        &self.minimizer
    }

    /// The files, if it is remembered.
    #[must_use]
    pub fn files(&self) -> Option<&Files> {
        self.kept.as_ref().map(|kept| &kept.files)
    }

    /// As [`Minimizer::ask`]; an other process than this will not remember that these points are handed out.
    ///
    /// # Errors
    /// As [`Minimizer::ask`].
    pub fn ask(&mut self, n: usize) -> Result<Vec<Asked>> {
        self.minimizer.ask(n)
    }

    /// As [`Minimizer::n_ready`].
    ///
    /// # Errors
    /// As [`Minimizer::ask`].
    pub fn n_ready(&mut self) -> Result<usize> {
        self.minimizer.n_ready()
    }

    /// As [`Minimizer::ask`], and later processes will remember it.
    ///
    /// # Errors
    /// As [`Minimizer::ask`], and if the log cannot be written.
    pub fn hand_out(&mut self, n: usize) -> Result<Vec<Asked>> {
        let asked = self.minimizer.ask(n)?;
        if let Some(kept) = self.kept.as_mut().filter(|_| !asked.is_empty()) {
            kept.log.add(&Entry::Handed { handed: asked.iter().map(|asked| asked.id).collect() })?;
            kept.n_new += 1;
        }
        Ok(asked)
    }

    /// As [`Minimizer::take_back`].
    pub fn take_back(&mut self) {
        self.minimizer.take_back();
    }

    /// As [`Minimizer::tell`], for a value or why there is none, and the `seconds` that it took if they are known. The
    /// log has it before the minimizer.
    ///
    /// # Errors
    /// As [`Minimizer::tell`], and if the log cannot be written: then nothing is told.
    pub fn tell(
        &mut self,
        asked: &Asked,
        value: std::result::Result<f64, String>,
        seconds: Option<f64>,
    ) -> Result<bool> {
        let f = value.as_ref().ok().copied().filter(|f| f.is_finite());
        if let Some(kept) = &mut self.kept {
            let error = match value {
                Ok(f) if f.is_finite() => None,
                Ok(f) => Some(format!("the value is {f}")),
                Err(reason) => Some(crate::error::shortened(&reason)),
            };
            // A number told twice must not stand in the log twice.
            if !self.minimizer.waiting_for(asked.id) {
                return self.minimizer.tell(asked.id, f64::NAN);
            }
            kept.log.add(&Entry::Told { id: asked.id, sample: asked.sample, f, error, seconds })?;
            kept.n_new += 1;
        }
        self.minimizer.tell(asked.id, f.unwrap_or(f64::NAN))
    }

    /// The point that is handed out under this number.
    ///
    /// # Errors
    /// [`Error::Evaluation`] if none is.
    pub fn handed(&self, id: u64) -> Result<Asked> {
        self.minimizer.handed(id)
    }

    /// Brings everything to the disk: the log, and a snapshot if many lines have come.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn sync(&mut self) -> Result<()> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        kept.log.sync()?;
        if kept.n_new < SNAPSHOT_EVERY {
            return Ok(());
        }
        let path = kept.files.snapshot();
        let End { bytes, sum } = kept.log.end().clone();
        let header = BTreeMap::from([
            ("version".to_owned(), VERSION.to_owned()),
            ("run".to_owned(), kept.identity.clone()),
            ("log_bytes".to_owned(), bytes.to_string()),
            ("log_sum".to_owned(), sum),
        ]);
        let bytes = saved::to_bytes(header, &self.minimizer.state());
        files::write_atomically(&path, &bytes.map_err(|what| Error::file(&path, what))?)?;
        kept.n_new = 0;
        Ok(())
    }

    /// Leaves the folder to others; what is told from now on is remembered nowhere.
    pub fn close(&mut self) {
        self.kept = None;
    }

    /// Hears every value of the log.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn read_log(&self, hear: &mut dyn FnMut(Entry)) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        log::read(&kept.files.log(), &kept.identity, End::start(), &mut |entry| {
            hear(entry);
            Ok(())
        })
        .map(|_| ())
    }
}

fn lock(files: &Files) -> Result<Lock> {
    let lock = Lock::acquire(&files.lock())?;
    lock.ok_or_else(|| {
        Error::file(files.folder(), "another process works in this folder; wait until it ends")
    })
}

/// A name for everything that a run's points depend on beside the function.
fn identity_of(start: &Start) -> String {
    let settings = settings::to_json(&start.settings);
    let text = json!({ "settings": settings, "seed": start.seed }).to_string();
    let mut numbers: Vec<&[f64]> = vec![&start.x0];
    if let Some(bounds) = &start.bounds {
        numbers.extend([bounds.lower(), bounds.upper()]);
    }
    identity(&text, &numbers)
}

fn start_bytes(start: &Start, identity: &str, path: &Path) -> Result<Vec<u8>> {
    let header = BTreeMap::from([
        ("version".to_owned(), VERSION.to_owned()),
        ("run".to_owned(), identity.to_owned()),
        ("settings".to_owned(), settings::to_json(&start.settings).to_string()),
        ("seed".to_owned(), start.seed.to_string()),
    ]);
    let mut vectors = vec![("x0".to_owned(), start.x0.clone())];
    if let Some(bounds) = &start.bounds {
        vectors.push(("lower".to_owned(), bounds.lower().to_vec()));
        vectors.push(("upper".to_owned(), bounds.upper().to_vec()));
    }
    saved::to_bytes(header, &vectors).map_err(|what| Error::file(path, what))
}

/// A start, and the identity under which it was written.
fn read_start(path: &Path) -> Result<(Start, String)> {
    let bytes = files::read_bounded(path, MAX_BYTES)?;
    let damaged = |what: &str| {
        Error::file(path, format!("{what}; restore it from a copy, or begin a new run in another folder"))
    };
    let header = saved::header(&bytes).ok_or_else(|| damaged("not a complete file"))?;
    let mut vectors = saved::from_bytes(&header, &bytes).map_err(|what| damaged(&what))?;
    let field = |name: &str| header.get(name).ok_or_else(|| damaged("a header field is missing"));
    if field("version")? != VERSION {
        return Err(damaged("written by another version of the program"));
    }
    let values: Value = serde_json::from_str(field("settings")?).map_err(|_| damaged("no settings"))?;
    let settings = settings::from_json(&values).map_err(|error| damaged(&error.to_string()))?;
    let seed = field("seed")?.parse().map_err(|_| damaged("a header field is no number"))?;
    let x0 = vectors.take("x0", None).map_err(|what| damaged(&what))?;
    let bounds = match vectors.take("lower", Some(x0.len())) {
        Ok(lower) => {
            let upper = vectors.take("upper", Some(x0.len())).map_err(|what| damaged(&what))?;
            Some(Bounds::new(lower, upper).map_err(|error| damaged(&error.to_string()))?)
        }
        Err(_) => None,
    };
    Ok((Start { x0, bounds, settings, seed }, field("run")?.clone()))
}

/// In what the start that is there differs from the one that is asked for, and what to do.
fn differences(there: &Start, asked: &Start) -> String {
    let mut differs = Vec::new();
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    if bits(&there.x0) != bits(&asked.x0) {
        differs.push("x0".to_owned());
    }
    if there.bounds != asked.bounds {
        differs.push("bounds".to_owned());
    }
    if there.seed != asked.seed {
        differs.push(format!("seed ({} there)", there.seed));
    }
    let (of_there, of_asked) = (settings::to_json(&there.settings), settings::to_json(&asked.settings));
    if let (Value::Object(there), Value::Object(asked)) = (of_there, of_asked) {
        for name in there.keys().chain(asked.keys().filter(|name| !there.contains_key(*name))) {
            if there.get(name) != asked.get(name) {
                let value = there.get(name).map_or("not read".to_owned(), Value::to_string);
                differs.push(format!("{name} ({value} there)"));
            }
        }
    }
    format!(
        "this run began otherwise: {}; go on with what it began with, or begin a new run in another folder",
        differs.join(", ")
    )
}

fn read_snapshot(files: &Files, start: &Start, identity: &str) -> Result<Option<(Minimizer, End)>> {
    let path = files.snapshot();
    if !path.exists() {
        return Ok(None);
    }
    let damaged = |what: &str| Error::file(&path, format!("{what}; delete it: the log has everything"));
    let bytes = files::read_bounded(&path, MAX_BYTES)?;
    let header = saved::header(&bytes).ok_or_else(|| damaged("not a complete file"))?;
    let vectors = saved::from_bytes(&header, &bytes).map_err(|what| damaged(&what))?;
    let field = |name: &str| header.get(name).ok_or_else(|| damaged("a header field is missing"));
    if field("version")? != VERSION || field("run")? != identity {
        return Err(damaged("it belongs to another run or version of the program"));
    }
    let bytes = field("log_bytes")?.parse().map_err(|_| damaged("a header field is no number"))?;
    let end = End { bytes, sum: field("log_sum")?.clone() };
    let minimizer = Minimizer::restored(start.clone(), vectors).map_err(|what| damaged(&what))?;
    Ok(Some((minimizer, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        let settings = settings::from_pairs([("method", "rge"), ("queries", "5")]).unwrap();
        let bounds = Bounds::new(vec![-1.0; 3], vec![1.0, f64::INFINITY, 1.0]).unwrap();
        Start { x0: vec![0.5, 0.25, -1.0], bounds: Some(bounds), settings, seed: 9 }
    }

    fn f(x: &[f64]) -> f64 {
        x.iter().map(|x| (x - 0.1).powi(2)).sum()
    }

    fn evaluate(run: &mut Run, n: usize) {
        for _ in 0..n {
            let asked = run.ask(1).unwrap().remove(0);
            let value =
                if asked.id % 7 == 3 { Err("it fell over".to_owned()) } else { Ok(f(&asked.point())) };
            run.tell(&asked, value, Some(0.0)).unwrap();
        }
    }

    fn bits(run: &Run) -> Vec<(String, Vec<u64>)> {
        let bits = |(name, values): (String, Vec<f64>)| (name, values.iter().map(|v| v.to_bits()).collect());
        run.minimizer().state().into_iter().map(bits).collect()
    }

    /// Oracle: a run that nothing interrupts; the log with and without a snapshot.
    #[test]
    fn a_run_goes_on_to_the_same_bits() {
        let mut whole = Run::new(start()).unwrap();
        evaluate(&mut whole, 2500);
        let folder = tempfile::tempdir().unwrap();
        for n in [0, 3, 1497, 1000] {
            let mut run = Run::open(folder.path(), start(), false).unwrap();
            evaluate(&mut run, n);
            run.sync().unwrap();
        }
        let run = Run::open(folder.path(), start(), false).unwrap();
        assert_eq!(bits(&run), bits(&whole));
        drop(run);
        assert!(Files::of(folder.path()).snapshot().exists());
        std::fs::remove_file(Files::of(folder.path()).snapshot()).unwrap();
        let run = Run::open(folder.path(), start(), false).unwrap();
        assert_eq!(bits(&run), bits(&whole));
        let mut n = 0;
        run.read_log(&mut |_| n += 1).unwrap();
        assert_eq!(n, 2500);
        let busy = Run::reopen(folder.path()).unwrap_err().to_string();
        assert!(busy.contains("another process"), "{busy}");
    }

    #[test]
    fn handed_out_points_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        assert!(Run::reopen(&path).unwrap_err().to_string().contains("there is no run here"));
        let mut run = Run::open(&path, start(), true).unwrap();
        assert_eq!(run.hand_out(4).unwrap().len(), 4);
        drop(run);
        let mut run = Run::reopen(&path).unwrap();
        assert_eq!(run.minimizer().waiting(), [0, 1, 2, 3]);
        assert_eq!(run.hand_out(1).unwrap()[0].id, 4);
        let asked = run.handed(2).unwrap();
        run.tell(&asked, Ok(f(&asked.point())), None).unwrap();
        let twice = run.tell(&asked, Ok(1.0), None).unwrap_err().to_string();
        assert!(twice.contains("told before"), "{twice}");
        drop(run);
        let mut run = Run::reopen(&path).unwrap();
        assert_eq!(run.minimizer().waiting(), [0, 1, 3, 4]);
        assert!(run.handed(2).is_err() && run.handed(77).is_err());
        run.take_back();
        assert_eq!(run.ask(2).unwrap().iter().map(|asked| asked.id).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn other_starts_and_damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Run::open(folder.path(), start(), false).unwrap());
        let refused = |start: Start| Run::open(folder.path(), start, false).unwrap_err().to_string();
        let other = refused(Start { seed: 10, ..start() });
        assert!(other.contains("start.safetensors") && other.contains("seed (9 there)"), "{other}");
        let other = refused(Start { settings: settings::from_pairs([]).unwrap(), ..start() });
        assert!(other.contains("queries (5 there)"), "{other}");
        let path = Files::of(folder.path()).start();
        let bytes = std::fs::read(&path).unwrap();
        for mutant in crate::mutants::of(&bytes, 1, 200) {
            std::fs::write(&path, &mutant).unwrap();
            if mutant != bytes {
                let error = refused(start());
                assert!(error.contains("start.safetensors"), "{error}");
            }
        }
        std::fs::remove_file(&path).unwrap();
        assert!(refused(start()).contains("missing"));
    }
}
