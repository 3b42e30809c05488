//! The collection of experiments: a folder of files, or those built into the program.

use std::path::{Path, PathBuf};

use super::definition::Experiment;
use super::expand::expand;
use super::settings::{self, ALIASES};
use super::source::{Source, Sources};
use super::wire::WireExperiment;
use crate::error::shortened;
use crate::setting::{Entry, did_you_mean, text_of, value_of};
use crate::{Error, Result};

/// The experiments shipped with the program: all files of the folder `experiments`, as the build script
/// found them.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/experiments.rs"));

/// The sweep whose base and series serve for any axis.
const SWEEP_BASE: &str = "sweep-sparsity";

/// Experiments by id.
#[derive(Debug, Clone)]
pub struct Library {
    /// Ids and files, sorted by id.
    files: Vec<(String, Source)>,
}

impl Library {
    /// The experiments of the folder `dir`; without one, those of `./experiments` if it exists, else
    /// those built into the program.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder or a file in it cannot be read.
    pub fn open(dir: Option<&Path>) -> Result<Self> {
        let local = Path::new("experiments");
        match dir {
            Some(dir) => Self::read(dir),
            None if local.is_dir() => Self::read(local),
            None => Ok(Self::embedded()),
        }
    }

    /// The experiments built into the program.
    pub fn embedded() -> Self {
        let files = EMBEDDED
            .iter()
            .map(|(id, text)| ((*id).to_owned(), Source::new(format!("experiments/{id}.toml"), *text)));
        Self { files: files.collect() }
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
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push((id, Source::new(path.display().to_string(), text)));
        }
        Ok(Self { files })
    }

    /// The ids, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(id, _)| id.as_str())
    }

    /// One experiment.
    ///
    /// # Errors
    /// [`Error::Setting`] listing the ids when there is none of that name, [`Error::Spec`] when its
    /// file is not sound.
    pub fn get(&self, id: &str) -> Result<Experiment> {
        let Some(source) = self.source(id) else {
            let ids: Vec<_> = self.ids().collect();
            let hint = did_you_mean(id, ids.iter().copied());
            return Err(Error::setting(
                "experiment",
                format!("no experiment `{}`; {hint}the experiments are {}", shortened(id), ids.join(", ")),
            ));
        };
        self.build(source.clone(), None).and_then(|experiment| named(experiment, id, source))
    }

    /// All experiments, sorted by id.
    ///
    /// # Errors
    /// As [`Library::get`].
    pub fn all(&self) -> Result<Vec<Experiment>> {
        self.ids().map(|id| self.get(id)).collect()
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
        let file =
            std::iter::once(name).chain(aliases).find_map(|name| self.source(&format!("sweep-{name}")));
        match (file, values) {
            (Some(source), values) => self.build(source.clone(), values),
            (None, Some(values)) => self.build(synthesize(name, &values), None),
            (None, None) => {
                Err(Error::setting(axis, format!("a sweep over it needs values: {}", entry.allowed())))
            }
        }
    }

    fn source(&self, id: &str) -> Option<&Source> {
        self.files.iter().find(|(other, _)| other == id).map(|(_, source)| source)
    }

    /// Parses a file, with what it extends, and checks it.
    pub(super) fn build(&self, source: Source, values: Option<Vec<toml::Value>>) -> Result<Experiment> {
        let mut wire: WireExperiment = source.parse()?;
        let mut sources = Sources(vec![source]);
        if let Some(id) = wire.extends.clone() {
            let embedded = Self::embedded();
            let Some(parent) = self.source(&id).or(embedded.source(&id)) else {
                return Err(sources.error("extends", format!("no experiment `{id}`")));
            };
            let parent_wire: WireExperiment = parent.parse()?;
            if parent_wire.extends.is_some() {
                return Err(sources.error("extends", format!("`{id}` extends another experiment itself")));
            }
            wire.inherit(parent_wire);
            sources.0.push(parent.clone());
        }
        if let Some(values) = values {
            wire.replace_values(values);
        }
        expand(wire, sources)
    }
}

/// Requires the id in the file to be the file's name.
fn named(experiment: Experiment, id: &str, source: &Source) -> Result<Experiment> {
    if experiment.id == id {
        return Ok(experiment);
    }
    let at = source.position("id").unwrap_or(0);
    Err(source.error_at(at, "id", format!("expected the file's name, `{id}`; got `{}`", experiment.id)))
}

/// The values given on the command line, each possible for the setting on its own.
fn values_of(axis: &str, entry: &Entry, texts: &[String]) -> Result<Vec<toml::Value>> {
    if texts.is_empty() {
        return Err(Error::setting(axis, "a sweep needs at least one value"));
    }
    // As stored, so that `1` and `1.0` are the same value of a real setting.
    texts.iter().map(|text| entry.checked(axis, &value_of(text))).collect()
}

/// The file of a sweep that nobody wrote.
fn synthesize(name: &str, values: &[toml::Value]) -> Source {
    let mut figure = toml::Table::new();
    figure.insert("x".into(), name.into());
    figure.insert("x-label".into(), name.into());
    figure.insert("values".into(), values.to_vec().into());
    let mut table = toml::Table::new();
    table.insert("id".into(), format!("sweep-{name}").into());
    table.insert("title".into(), format!("Sweep over {name}").into());
    table.insert("extends".into(), SWEEP_BASE.into());
    table.insert("figure".into(), figure.into());
    let shown: Vec<_> = values.iter().map(text_of).collect();
    Source::new(format!("sweep over {name} = {}", shown.join(",")), table.to_string())
}
