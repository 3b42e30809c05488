//! The collection of experiments: a folder of files, or those built into the program.

use std::path::{Path, PathBuf};

use super::definition::{BorrowedAt, Experiment};
use super::expand::expand;
use super::settings::{self, ALIASES};
use super::source::{Source, Sources};
use super::wire::{LARGEST, SWEEP_PREFIX, WireExperiment};
use crate::error::shortened;
use crate::setting::{Entry, did_you_mean, text_of, value_of};
use crate::{Error, Result, files};

/// The experiments shipped with the program: all files of the folder `experiments`, as the build script
/// found them.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/experiments.rs"));

/// The sweep whose base and series serve for any axis.
const SWEEP_BASE: &str = "sweep-sparsity";

/// Bytes of the largest experiment file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Experiments by id.
#[derive(Debug, Clone)]
pub struct Library {
    /// Ids and files, sorted by id.
    files: Vec<(String, File)>,
    is_embedded: bool,
}

/// An experiment file.
#[derive(Debug, Clone)]
enum File {
    Text(Source),
    /// One that is read only when it is asked for, so that it stands in nobody else's way.
    At(PathBuf),
}

impl File {
    fn source(&self) -> Result<Source> {
        match self {
            Self::Text(source) => Ok(source.clone()),
            Self::At(path) => read(path),
        }
    }
}

/// The text of an experiment file.
pub(super) fn read(path: &Path) -> Result<Source> {
    let bytes = files::read_bounded(path, MAX_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "not a text in UTF-8"))?;
    Ok(Source::new(path.display().to_string(), text))
}

impl Library {
    /// Where experiment files are looked for unless another folder is given.
    pub const FOLDER: &str = "experiments";

    /// The experiments of the folder `dir`; without one, those of `./experiments` if there are any, else those built
    /// into the program.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read, [`Error::File`] when it is given and has no experiment file.
    pub fn open(dir: Option<&Path>) -> Result<Self> {
        let local = Path::new(Self::FOLDER);
        match dir {
            Some(dir) => {
                let found = Self::read(dir)?;
                if found.files.is_empty() {
                    return Err(Error::file(dir, "there is no experiment file (*.toml) in this folder"));
                }
                Ok(found)
            }
            None if local.is_dir() => Ok(Some(Self::read(local)?)
                .filter(|found| !found.files.is_empty())
                .unwrap_or_else(Self::embedded)),
            None => Ok(Self::embedded()),
        }
    }

    /// Whether they are those built into the program.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.is_embedded
    }

    /// The experiments built into the program.
    pub fn embedded() -> Self {
        let files = EMBEDDED.iter().map(|(id, text)| {
            ((*id).to_owned(), File::Text(Source::new(format!("experiments/{id}.toml"), *text)))
        });
        Self { files: files.collect(), is_embedded: true }
    }

    /// The experiments in the folder of `path`, as far as they can be read; for a single file.
    pub(super) fn beside(path: &Path) -> Self {
        path.parent().and_then(|dir| Self::read(dir).ok()).unwrap_or_else(Self::embedded)
    }

    fn read(dir: &Path) -> Result<Self> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let path = entry.map_err(Error::io("list", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        let id = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let files = paths.into_iter().map(|path| (id(&path), File::At(path))).collect();
        Ok(Self { files, is_embedded: false })
    }

    /// The ids, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(id, _)| id.as_str())
    }

    /// One experiment.
    ///
    /// # Errors
    /// As [`Library::require`]; [`Error::Spec`] when its file is not sound, [`Error::Io`] and [`Error::File`] when it
    /// cannot be read.
    pub fn get(&self, id: &str) -> Result<Experiment> {
        let source = self.known(id)?.source()?;
        self.build(source.clone(), None).and_then(|experiment| named(experiment, id, &source))
    }

    /// Requires an experiment, whose file need not be sound, or a sweep over a setting.
    ///
    /// # Errors
    /// [`Error::Setting`] listing the ids when there is none of that name.
    pub fn require(&self, id: &str) -> Result<()> {
        let axis = id.strip_prefix(SWEEP_PREFIX);
        if axis.is_some_and(|axis| settings::find(axis).is_ok()) {
            Ok(())
        } else {
            self.known(id).map(|_| ())
        }
    }

    /// The file of that id.
    fn known(&self, id: &str) -> Result<&File> {
        self.file(id).ok_or_else(|| Error::setting("experiment", self.no_such(id)))
    }

    /// That there is no experiment of that name, and which there are.
    fn no_such(&self, id: &str) -> String {
        let ids: Vec<_> = self.ids().collect();
        let hint = did_you_mean(id, ids.iter().copied());
        format!("no experiment `{}`; {hint}the experiments are {}", shortened(id), ids.join(", "))
    }

    /// All experiments, sorted by id.
    ///
    /// # Errors
    /// As [`Library::get`], for the first that is not sound.
    pub fn all(&self) -> Result<Vec<Experiment>> {
        self.ids().map(|id| self.get(id)).collect()
    }

    /// All experiments whose files are sound, sorted by id, and what is wrong with the others.
    #[must_use]
    pub fn sound(&self) -> (Vec<Experiment>, Vec<(String, Error)>) {
        let (mut sound, mut faults) = (Vec::new(), Vec::new());
        for id in self.ids() {
            match self.get(id) {
                Ok(experiment) => sound.push(experiment),
                Err(error) => faults.push((id.to_owned(), error)),
            }
        }
        (sound, faults)
    }

    /// The sweep over the setting `axis`: from its own file where there is one, with `values` in
    /// place of the file's. Any other setting can be swept when `values` are given.
    ///
    /// # Errors
    /// [`Error::Setting`] when there is no such setting, a value is impossible, or there is neither
    /// a file nor values; [`Error::Spec`] when the resulting settings contradict each other.
    pub fn sweep(&self, axis: &str, values: Option<&[String]>) -> Result<Experiment> {
        let entry = settings::find(axis)?;
        let name = entry.name;
        let values = values.map(|all| values_of(axis, entry, all)).transpose()?;
        let aliases = ALIASES.iter().filter(|(_, full)| *full == name).map(|(alias, _)| *alias);
        let mut names = std::iter::once(name).chain(aliases);
        let file = names.find_map(|name| self.file(&format!("{SWEEP_PREFIX}{name}")));
        match (file, values) {
            (Some(file), values) => self.build(file.source()?, values),
            (None, Some(values)) => self.build(synthesize(name, &values), None),
            (None, None) => {
                Err(Error::setting(axis, format!("a sweep over it needs values: {}", entry.allowed())))
            }
        }
    }

    fn file(&self, id: &str) -> Option<&File> {
        self.files.iter().find(|(other, _)| other == id).map(|(_, file)| file)
    }

    /// Parses a file, with what it extends, and checks it.
    pub(super) fn build(&self, source: Source, values: Option<Vec<toml::Value>>) -> Result<Experiment> {
        let mut wire: WireExperiment = source.parse()?;
        let mut sources = Sources(vec![source]);
        if let Some(id) = wire.extends.clone() {
            let embedded = Self::embedded();
            let Some(parent) = self.file(&id).or(embedded.file(&id)) else {
                return Err(sources.error("extends", format!("no experiment `{}`", shortened(&id))));
            };
            let parent = parent.source()?;
            let parent_wire: WireExperiment = parent.parse()?;
            if parent_wire.extends.is_some() {
                return Err(sources.error("extends", format!("`{id}` extends another experiment itself")));
            }
            wire.inherit(parent_wire);
            sources.0.push(parent);
        }
        if let Some(values) = values {
            wire.replace_values(values);
        }
        let lenders = (!wire.from.is_empty()).then(|| Sources(vec![sources.0[0].clone()]));
        let experiment = expand(wire, sources)?;
        if let Some(sources) = lenders {
            self.check_lenders(&experiment, &sources)?;
        }
        Ok(experiment)
    }

    /// Requires what an experiment takes from others to be there. What is wrong with another's file is told where that one
    /// is used.
    fn check_lenders(&self, experiment: &Experiment, sources: &Sources) -> Result<()> {
        for (idx, borrowed) in experiment.borrowed.iter().enumerate() {
            let refuse =
                |key: &str, reason: String| Err(sources.error(&format!("from[{idx}].{key}"), reason));
            let id = &borrowed.experiment;
            let Some(file) = self.file(id) else {
                return refuse("experiment", self.no_such(id));
            };
            let Ok(source) = file.source() else { continue };
            let Ok(wire) = source.parse::<WireExperiment>() else { continue };
            if !wire.from.is_empty() {
                return refuse("experiment", format!("`{id}` takes points from other experiments itself"));
            }
            let Ok(other) = self.build(source, None) else { continue };
            let Some(series) = other.series.iter().position(|series| series.id == borrowed.source) else {
                let known: Vec<&str> = other.series.iter().map(|series| series.id.as_str()).collect();
                let got = shortened(&borrowed.source);
                return refuse("series", format!("{id} has no series `{got}`, but {}", known.join(", ")));
            };
            let cells =
                || other.scales.values().flat_map(|plan| &plan.cells).filter(|c| c.series_idx == series);
            match &borrowed.at {
                BorrowedAt::All => {}
                _ if other.series[series].constant => {
                    return refuse("at", format!("{} of {id} does not depend on x", borrowed.source));
                }
                BorrowedAt::Named(at) if !cells().any(|cell| borrowed.at.is_at(cell.x, &cell.x_text)) => {
                    let mut known: Vec<(Option<f64>, &str)> = Vec::new();
                    for cell in cells() {
                        if !known.iter().any(|(_, text)| *text == cell.x_text) {
                            known.push((cell.x, &cell.x_text));
                        }
                    }
                    // Scales have values of their own; names stay in their order.
                    let place = |x: Option<f64>| x.unwrap_or(f64::INFINITY);
                    known.sort_by(|(a, _), (b, _)| place(*a).total_cmp(&place(*b)));
                    let known = known.iter().map(|(_, text)| *text).collect::<Vec<_>>().join(", ");
                    return refuse(
                        "at",
                        format!("expected one of {known}, or {LARGEST}; got {}", shortened(at)),
                    );
                }
                BorrowedAt::Largest | BorrowedAt::Named(_) => {}
            }
        }
        Ok(())
    }
}

/// Requires the id in the file to be the file's name.
fn named(experiment: Experiment, id: &str, source: &Source) -> Result<Experiment> {
    if experiment.id == id {
        return Ok(experiment);
    }
    let at = source.position("id").unwrap_or(0);
    Err(source.error_at(
        at,
        "id",
        format!("expected the file's name, `{id}`; got `{}`", shortened(&experiment.id)),
    ))
}

/// The values given on the command line, each possible for the setting on its own.
fn values_of(axis: &str, entry: &Entry, texts: &[String]) -> Result<Vec<toml::Value>> {
    if texts.is_empty() {
        return Err(Error::setting(axis, "a sweep needs at least one value"));
    }
    // As stored, so that `1` and `1.0` are the same value of a real setting.
    let mut values = Vec::new();
    for text in texts {
        let value = entry.checked(axis, &value_of(text))?;
        if values.contains(&value) {
            return Err(Error::setting(axis, format!("the value {} is given twice", shortened(text))));
        }
        values.push(value);
    }
    Ok(values)
}

/// The file of a sweep that nobody wrote.
fn synthesize(name: &str, values: &[toml::Value]) -> Source {
    let mut figure = toml::Table::new();
    figure.insert("x".into(), name.into());
    figure.insert("x-label".into(), name.into());
    figure.insert("values".into(), values.to_vec().into());
    let mut table = toml::Table::new();
    table.insert("id".into(), format!("{SWEEP_PREFIX}{name}").into());
    table.insert("title".into(), format!("Sweep over {name}").into());
    table.insert("extends".into(), SWEEP_BASE.into());
    table.insert("figure".into(), figure.into());
    let shown: Vec<_> = values.iter().map(text_of).collect();
    Source::new(shortened(&format!("sweep over {name} = {}", shown.join(","))), table.to_string())
}
