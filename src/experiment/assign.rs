//! Settings by name: the one gate through which files, `--set` and sweep axes go.

use super::domain::{ALIASES, Description, ENTRIES, Entry, did_you_mean, is_later};
use super::settings::{Method, Settings, Task};
use crate::baseline::pattern_search::Search;
use crate::nn::model::Io;
use crate::nn::objective::check_rounding;
use crate::zo::estimator::StepScale;
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::sparsity::{LayerRatios, Mask, SparseTarget};
use crate::{Error, Result};

impl Settings {
    /// Every setting's kebab-case name, in declared order.
    pub const NAMES: [&'static str; ENTRIES.len()] = {
        let mut names = [""; ENTRIES.len()];
        let mut idx = 0;
        while idx < names.len() {
            names[idx] = ENTRIES[idx].name;
            idx += 1;
        }
        names
    };

    /// The full name of a setting written as such, as an alias (`estimator` for `method`) or with
    /// underscores.
    ///
    /// # Errors
    /// [`Error::Setting`] with the nearest names when there is no such setting.
    pub fn resolve(key: &str) -> Result<&'static str> {
        Ok(find(key)?.name)
    }

    /// Gives the setting `key` a value; `self` is unchanged on error.
    ///
    /// # Errors
    /// [`Error::Setting`] when there is no such setting or the value is impossible for it. Rules
    /// between settings are left to [`Settings::check`], since values arrive one at a time.
    pub fn set(&mut self, key: &str, value: &toml::Value) -> Result<()> {
        let entry = find(key)?;
        let mut table = self.table();
        let value = match (&table[entry.name], value) {
            (toml::Value::Float(_), toml::Value::Integer(value)) => toml::Value::Float(*value as f64),
            // Minus zero equals zero but is another text, hence another hash.
            (_, toml::Value::Float(value)) => toml::Value::Float(*value + 0.0),
            _ => value.clone(),
        };
        let refused = || Error::setting(key, refusal(entry, &value));
        if !entry.admits(&value) {
            return Err(refused());
        }
        table.insert(entry.name.to_owned(), value.clone());
        *self = table.try_into().map_err(|_| refused())?;
        Ok(())
    }

    /// Gives the setting `key` a value written as text, as in `--set key=value`.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn set_text(&mut self, key: &str, text: &str) -> Result<()> {
        self.set(key, &value_of(text))
    }

    /// The value of the setting `key`, or `None` when there is no such setting.
    pub fn get(&self, key: &str) -> Option<toml::Value> {
        self.table().remove(find(key).ok()?.name)
    }

    /// Every setting with its help, allowed values and default, in declared order.
    pub fn describe() -> Vec<Description> {
        let defaults = Self::default().table();
        ENTRIES
            .iter()
            .map(|entry| Description {
                name: entry.name,
                help: entry.help,
                allowed: entry.allowed(),
                default: text_of(&defaults[entry.name]),
            })
            .collect()
    }

    /// What networks take and give on the settings' data.
    #[must_use]
    pub fn io(&self) -> Io {
        let source = self.data.source();
        Io { input: source.shape, n_outputs: source.n_classes }
    }

    /// Checks every range and the rules between settings.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting to change and what it may be.
    pub fn check(&self) -> Result<()> {
        let table = self.table();
        for entry in &ENTRIES {
            let value = &table[entry.name];
            require(entry.admits(value), entry.name, || refusal(entry, value))?;
        }
        self.model.family().check(self.depth, self.width, &self.io())?;
        self.check_sparsity()?;
        self.check_training()
    }

    fn check_sparsity(&self) -> Result<()> {
        if self.sparse_target == SparseTarget::Weights {
            require(self.method == Method::Fo, "sparse-target", || {
                "`weights` works with method = fo only: zeroth-order training keeps the model dense and \
                 makes its gradient sparse; use `gradient`"
                    .into()
            })?;
            require(self.mask == Mask::Fixed, "mask", || {
                let got = self.text("mask");
                format!("sparse-target = weights needs mask = fixed, as pruned weights stay zero; got {got}")
            })?;
        }
        let is_random = matches!(self.layer_ratios, LayerRatios::Uniform | LayerRatios::SmartRatio);
        require(!is_random || self.mask != Mask::Rescore, "mask", || {
            format!("rescore needs scores, which layer-ratios = {} has none of", self.text("layer-ratios"))
        })?;
        let scores_images = !is_random && self.layer_ratios != LayerRatios::Magnitude;
        let grasp = self.sparsity > 0.0 && scores_images;
        // GraSP's batch and the class-balanced subsets depend on it.
        let n_classes = self.data.source().n_classes;
        let n_grasp = self.grasp_images_per_class.saturating_mul(n_classes);
        require(!grasp || self.n_train == 0 || n_grasp <= self.n_train, "grasp-images-per-class", || {
            format!(
                "{} of each of {n_classes} classes are more than the {} training images; at most {}",
                self.grasp_images_per_class,
                self.n_train,
                self.n_train / n_classes
            )
        })
    }

    fn check_training(&self) -> Result<()> {
        let has_choice = matches!(self.method, Method::Rge | Method::Cocd | Method::PatternSearch);
        require(self.queries == 0 || has_choice, "queries", || {
            format!(
                "only method = rge, cocd and pattern-search have a choice of queries; got {} with method = {}, \
                 leave it at 0",
                self.queries,
                self.text("method")
            )
        })?;
        require(self.decay == 0.0 || self.method == Method::Cocd, "decay", || {
            format!(
                "only method = cocd keeps stale estimates; got {} with {}",
                self.decay,
                self.text("method")
            )
        })?;
        let is_spread = self.step_scale == StepScale::LossSpread;
        require(!is_spread || self.method == Method::Rge, "step-scale", || {
            format!(
                "loss-spread needs the losses of random directions: method = rge; got {}",
                self.text("method")
            )
        })?;
        require(!is_spread || self.queries != 1, "queries", || {
            "the spread of losses (step-scale = loss-spread) needs at least 2; got 1".into()
        })?;
        let search = self.method == Method::PatternSearch;
        for (name, is_default) in [
            ("normalize-logits", !self.normalize_logits),
            ("stop-when-fitted", !self.stop_when_fitted),
            ("search", self.search == Search::First),
        ] {
            require(search || is_default, name, || {
                format!("it belongs to method = pattern-search; got method = {}", self.text("method"))
            })?;
        }
        require(!search || self.sparsity == 0.0, "sparsity", || {
            format!("method = pattern-search moves every coordinate: set sparsity = 0; got {}", self.sparsity)
        })?;
        let propagates = self.evaluator == EvaluatorKind::Difference;
        let moves_coordinates = matches!(self.method, Method::Cge | Method::Cocd | Method::PatternSearch);
        check_rounding(self.precision, self.evaluator, moves_coordinates)?;
        require(!self.normalize_logits || propagates, "evaluator", || {
            format!("normalize-logits = true needs difference; got {}", self.text("evaluator"))
        })?;
        require(self.queries == 0 || self.search == Search::First, "queries", || {
            "a number of moves per batch goes with search = first; leave it at 0 with search = best".into()
        })?;
        require(self.pretrain_epochs == 0 || self.task == Task::Quality, "pretrain-epochs", || {
            format!("it belongs to task = quality; got task = {}", self.text("task"))
        })?;
        let is_job = self.task == Task::Workers;
        require(is_job || (self.workers == 1 && !self.modeled), "workers", || {
            format!("workers and modeled belong to task = workers; got task = {}", self.text("task"))
        })?;
        require(!is_job || self.method != Method::Fo, "method", || {
            "first-order steps have no probes to share among workers; got fo".into()
        })?;
        let estimates = matches!(self.method, Method::Cge | Method::Rge) || is_job;
        require(self.task == Task::Train || estimates, "task", || {
            format!("{} needs method = cge or rge; got {}", self.text("task"), self.text("method"))
        })?;
        require(self.warmup_epochs <= self.epochs, "warmup-epochs", || {
            format!("at most epochs = {}; got {}", self.epochs, self.warmup_epochs)
        })
    }

    /// The value of a known setting as text.
    pub(crate) fn text(&self, name: &str) -> String {
        text_of(&self.table()[name])
    }

    /// The settings as a TOML table, by kebab-case name.
    pub(super) fn table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("settings are plain values")
    }

    /// The settings of a result file; ranges and rules may have changed since, so they are not
    /// checked.
    pub(crate) fn from_table(table: toml::Table) -> std::result::Result<Self, String> {
        table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// The settings as JSON with sorted names and shortest exact numbers: equal text for equal
    /// settings, on every machine and whatever the order of the fields. Settings that came later than
    /// the first results are left out at their defaults.
    pub fn canonical_json(&self) -> String {
        self.canonical().to_string()
    }

    /// Whether the setting of this name came after results had been published.
    pub(crate) fn is_later(name: &str) -> bool {
        is_later(name)
    }

    /// See [`Settings::canonical_json`].
    pub(super) fn canonical(&self) -> serde_json::Value {
        let plain = |settings: &Self| serde_json::to_value(settings).expect("settings are plain values");
        let (mut value, default) = (plain(self), plain(&Self::default()));
        let table = value.as_object_mut().expect("settings are a map");
        table.retain(|name, value| !is_later(name) || default[name] != *value);
        value.sort_all_objects();
        value
    }
}

/// The entry a user means by `key`.
fn find(key: &str) -> Result<&'static Entry> {
    let name = key.replace('_', "-");
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name.as_str(), |(_, full)| full);
    ENTRIES.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let known = Settings::NAMES.into_iter().chain(ALIASES.into_iter().map(|(alias, _)| alias));
        let hint = did_you_mean(name, known);
        let list = format!("the settings are {}", Settings::NAMES.join(", "));
        Error::setting(
            key,
            format!("no such setting; {}", if hint.is_empty() { &list } else { hint.trim_end() }),
        )
    })
}

/// Why `value` is impossible for a setting and what would be possible.
fn refusal(entry: &Entry, value: &toml::Value) -> String {
    let got = text_of(value);
    let names = entry.names();
    let hint = did_you_mean(&got, names.iter().map(String::as_str));
    format!(
        "expected {}; got {got}{}",
        entry.allowed(),
        if hint.is_empty() { String::new() } else { format!("; {}", hint.trim_end()) }
    )
}

/// A cross-field rule.
fn require(holds: bool, key: &str, reason: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::setting(key, reason())) }
}

/// Text as the value it looks like: true or false, an integer, a number, else a string.
pub(super) fn value_of(text: &str) -> toml::Value {
    let text = text.trim();
    if let Ok(value) = text.parse() {
        toml::Value::Boolean(value)
    } else if let Ok(value) = text.parse() {
        toml::Value::Integer(value)
    } else if let Ok(value) = text.parse() {
        toml::Value::Float(value)
    } else {
        toml::Value::String(text.to_owned())
    }
}

/// The inverse of [`value_of`] for plain values: strings without quotes, shortest exact numbers.
pub(super) fn text_of(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(value) => value.to_string(),
        other => other.to_string(),
    }
}
