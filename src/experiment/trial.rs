//! From an experiment to its trials, and a trial's stable name.

use sha2::{Digest, Sha256};

use super::definition::{Experiment, Scale, ScalePlan, Trial};
use super::settings;
use super::wire::SWEEP_PREFIX;
use crate::error::shortened;
use crate::hex::hex;
use crate::setting::{text_of, value_of};
use crate::{Error, Result};

/// Version of the Parquet columns; raised whenever one is removed or changes meaning, but for those of settings: what
/// was set is read from the column `settings`, which has all of it. A metric that was added later is read as not
/// measured from files that lack its column. Part of every trial's name.
pub const SCHEMA_VERSION: u32 = 1;

/// Most seeds of a point: seeds are below this.
pub const MAX_SEEDS: usize = 10_000;

/// Most trials of an experiment at one scale.
const MAX_TRIALS: usize = 100_000;

/// Bytes of the SHA-256 digest kept in a trial's name: 64 bits, plenty among thousands of trials.
const HASH_BYTES: usize = 8;

impl Scale {
    /// All scales, smallest first.
    pub const ALL: [Self; 4] = [Self::Smoke, Self::Laptop, Self::Overnight, Self::Paper];

    /// The names of all, for messages.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The name in files, folders and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Laptop => "laptop",
            Self::Overnight => "overnight",
            Self::Paper => "paper",
        }
    }
}

impl std::fmt::Display for Scale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Scale {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|scale| scale.name() == text);
        found.ok_or_else(|| {
            Error::setting("scale", format!("expected one of {}; got {}", Self::names(), shortened(text)))
        })
    }
}

impl Experiment {
    /// The trials of one scale in run order: all cells for seed 0 first, so that a first complete
    /// picture appears early. `overrides` are `--set key=value` pairs, applied last.
    ///
    /// # Errors
    /// [`Error::Setting`] when the experiment lacks the scale, no seed is asked for or too many are, an override
    /// is impossible, or it names the x axis.
    pub fn trials(
        &self,
        scale: Scale,
        n_seeds: Option<usize>,
        overrides: &[(String, String)],
    ) -> Result<Vec<Trial>> {
        let n_seeds = n_seeds.unwrap_or(self.plan(scale)?.n_seeds);
        if !(1..=MAX_SEEDS).contains(&n_seeds) {
            let reason = format!("expected an integer from 1 to {MAX_SEEDS}; got {n_seeds}");
            return Err(Error::setting("seeds", reason));
        }
        let seeds: Vec<u64> = (0..n_seeds as u64).collect();
        self.trials_of(scale, &seeds, overrides)
    }

    fn plan(&self, scale: Scale) -> Result<&ScalePlan> {
        self.scales.get(&scale).ok_or_else(|| {
            let known: Vec<_> = self.scales.keys().map(|scale| scale.name()).collect();
            Error::setting("scale", format!("{} has no scale {scale}, only {}", self.id, known.join(", ")))
        })
    }

    /// As [`Experiment::trials`], for these seeds.
    ///
    /// # Errors
    /// As [`Experiment::trials`].
    pub fn trials_of(
        &self,
        scale: Scale,
        seeds: &[u64],
        overrides: &[(String, String)],
    ) -> Result<Vec<Trial>> {
        let plan = self.plan(scale)?;
        let n_trials = seeds.len().saturating_mul(plan.cells.len());
        if n_trials > MAX_TRIALS {
            let reason = format!("{n_trials} trials of {} at {scale} scale; at most {MAX_TRIALS}", self.id);
            return Err(Error::setting("seeds", reason));
        }
        let tuned = self.tuned.filter(|_| plan.cells.iter().any(|cell| !cell.tuned.is_empty()));
        for (key, _) in overrides {
            self.refuse_axis(key)?;
            if tuned == Some(settings::find(key)?.name) {
                let reason = format!("{} tunes it, so it cannot be set for all trials", self.id);
                return Err(Error::setting(key, reason));
            }
        }
        let mut trials: Vec<Trial> = Vec::with_capacity(plan.cells.len());
        for cell in &plan.cells {
            let mut values = settings::assigned(&cell.settings)?;
            for (key, text) in overrides {
                settings::set(&mut values, key, &value_of(text))?;
            }
            let settings = settings::resolve(values)?;
            for name in &cell.assigned {
                settings::refuse_unread(&settings, name, name)?;
            }
            settings::check(&settings)?;
            if !cell.tuned.is_empty() && settings::has_no_validation(&settings) {
                let reason = format!("{} needs validation images to choose by", self.id);
                return Err(Error::setting("n-val", reason));
            }
            trials.push(Trial {
                experiment: self.id.clone(),
                scale,
                series: self.series[cell.series_idx].id.clone(),
                x: cell.x,
                x_text: cell.x_text.clone(),
                tuned: cell.tuned.clone(),
                seed: 0,
                settings,
            });
        }
        for (key, _) in overrides {
            let name = settings::find(key)?.name;
            if plan.cells.is_empty() {
                let reason =
                    format!("{} has no trials: its points are results of other experiments", self.id);
                return Err(Error::setting(key, reason));
            }
            if let Some(trial) = trials.first().filter(|_| trials.iter().all(|t| !t.settings.is_read(name))) {
                settings::refuse_unread(&trial.settings, key, name)?;
            }
        }
        let of_seed = |&seed: &u64| trials.iter().map(move |trial| Trial { seed, ..trial.clone() });
        Ok(seeds.iter().flat_map(of_seed).collect())
    }

    /// An override of what the x axis varies would put trials at positions they do not have.
    fn refuse_axis(&self, key: &str) -> Result<()> {
        let name = settings::find(key)?.name;
        let on_axis = match self.figure.x.as_str() {
            super::definition::Figure::N_PARAMS => ["model", "depth", "width"].contains(&name),
            axis => axis == name,
        };
        if on_axis {
            let reason =
                format!("it is what the x axis of {} varies, so it cannot be set for all trials", self.id);
            return Err(Error::setting(key, reason));
        }
        Ok(())
    }
}

impl Trial {
    /// The trial's name in result files: 16 hex digits over everything that can change its
    /// numbers. The same on every machine, device and number of threads.
    pub fn hash(&self) -> String {
        // Where a name stands on a sweep's axis follows from the list on the command line.
        let is_name = self.experiment.starts_with(SWEEP_PREFIX) && self.x_text.parse::<f64>().is_err();
        let x = match self.x {
            Some(_) if is_name => serde_json::json!(self.x_text),
            x => serde_json::json!(x),
        };
        let named = serde_json::json!({
            "schema": SCHEMA_VERSION,
            "experiment": self.experiment,
            "series": self.series,
            "x": x,
            "seed": self.seed,
            "settings": settings::canonical(&self.settings),
        });
        let digest = Sha256::digest(named.to_string());
        hex(&digest[..HASH_BYTES])
    }

    /// One line for people, such as `fig4/smoke deepzero at 0.9, seed 0`.
    pub fn title(&self) -> String {
        let at = if self.x_text.is_empty() { String::new() } else { format!(" at {}", self.x_text) };
        let with = if self.tuned.is_empty() { String::new() } else { format!(" with {}", self.tuned) };
        format!("{}/{} {}{at}{with}, seed {}", self.experiment, self.scale, self.series, self.seed)
    }
}

/// A number as people write it: `730` rather than `730.0`.
pub(super) fn number_text(value: f64) -> String {
    text_of(&toml::Value::Float(value))
}
