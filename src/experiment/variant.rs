//! Experiments with some settings changed by `--set`: another experiment, under another id, so that
//! its results never mix with those of the file.

use super::{Experiment, Scale};
use crate::{Error, Result};

/// Separates the base id from the changes in a variant's id.
const MARK: char = '~';

impl Experiment {
    /// Whether it varies one setting of one recipe (`deepzero sweep`), and claims nothing.
    #[must_use]
    pub fn is_sweep(&self) -> bool {
        self.id.starts_with(super::wire::SWEEP_PREFIX)
    }

    /// This experiment at one scale with `overrides` (`--set key=value`) applied to every trial.
    /// Without overrides it is the experiment itself.
    ///
    /// # Errors
    /// [`Error::Setting`] when a setting is unknown or impossible, or names the x axis.
    pub fn with_overrides(&self, scale: Scale, overrides: &[(String, String)]) -> Result<Self> {
        if overrides.is_empty() {
            return Ok(self.clone());
        }
        let trials = self.trials(scale, Some(1), overrides)?;
        let mut variant = self.clone();
        let changes: Vec<String> = overrides.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mark = if self.id.contains(MARK) { ',' } else { MARK };
        variant.id = format!("{}{mark}{}", self.id, changes.join(","));
        if let Some(odd) = variant.id.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.=,~+".contains(*c)))
        {
            return Err(Error::setting("set", format!("`{odd}` cannot be part of a value")));
        }
        variant.scales.retain(|&other, _| other == scale);
        let plan = variant.scales.get_mut(&scale).expect("trials() found the scale");
        for (cell, trial) in plan.cells.iter_mut().zip(trials) {
            cell.settings = trial.settings;
        }
        plan.deviations.push(format!("Changed on the command line: {}.", changes.join(", ")));
        Ok(variant)
    }
}

/// Splits the id of a variant into the base id and the overrides; none for a plain id.
#[must_use]
pub fn split_id(id: &str) -> (&str, Vec<(String, String)>) {
    let Some((base, changes)) = id.split_once(MARK) else { return (id, Vec::new()) };
    let pair = |change: &str| change.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    (base, changes.split(',').filter_map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Library;

    #[test]
    fn a_variant_has_its_own_id_and_settings() {
        let fig4 = Library::embedded().get("fig4").unwrap();
        let overrides = vec![("mu".to_owned(), "0.01".to_owned()), ("epochs".to_owned(), "3".to_owned())];
        let variant = fig4.with_overrides(Scale::Smoke, &overrides).unwrap();
        assert_eq!(variant.id, "fig4~mu=0.01,epochs=3");
        assert_eq!(split_id(&variant.id), ("fig4", overrides));
        assert!(
            variant.scales[&Scale::Smoke]
                .cells
                .iter()
                .all(|cell| cell.settings.get("epochs") == Some(3.into()))
        );
        assert_eq!(variant.scales.len(), 1);
        assert_eq!(split_id("fig4"), ("fig4", vec![]));
        let odd = vec![("mu".to_owned(), "a/b".to_owned())];
        assert!(fig4.with_overrides(Scale::Smoke, &odd).is_err());
    }
}
