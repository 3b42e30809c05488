//! Experiments with some settings changed by `--set`: another experiment, under another id, so that
//! its results never mix with those of the file.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::{Experiment, Scale, settings};
use crate::hex::hex;
use crate::{Error, Result};

/// Separates the base id from the changes in a variant's id.
const MARK: char = '~';

impl Experiment {
    /// Whether it varies one setting of one recipe (`deepzero sweep`), and claims nothing.
    #[must_use]
    pub fn is_sweep(&self) -> bool {
        self.id.starts_with(super::wire::SWEEP_PREFIX)
    }

    /// This experiment at one scale with `overrides` (`--set key=value`) applied to every trial: without the finding, and
    /// with published values to compare with, but not to be judged by. Without overrides it is the experiment itself.
    ///
    /// # Errors
    /// [`Error::Setting`] when a setting is unknown or impossible, or names the x axis.
    pub fn with_overrides(&self, scale: Scale, overrides: &[(String, String)]) -> Result<Self> {
        if overrides.is_empty() {
            return Ok(self.clone());
        }
        let (_, before) = split_id(&self.id);
        let mut names: Vec<&str> = Vec::new();
        for (key, _) in before.iter().chain(overrides) {
            let name = settings::find(key)?.name;
            if names.contains(&name) {
                return Err(Error::setting(key, "it is set twice"));
            }
            names.push(name);
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
        // What was found with the file's settings, and what they are judged by, says nothing of others.
        plan.finding.clear();
        for expected in &mut variant.expected {
            expected.tolerance = None;
        }
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

/// Longest id that names files as it is: with a scale, a figure and an ending it stays within the 255 bytes of file systems.
const MAX_NAME: usize = 120;
/// What stands between the beginning of a longer one and its digest.
const CUT: &str = "..";
/// Bytes of the digest.
const DIGEST_BYTES: usize = 8;

/// What folders and pages of the experiment `id` are called: the id itself, or the beginning of one that is too long and a
/// digest of all of it.
#[must_use]
pub fn file_name(id: &str) -> Cow<'_, str> {
    if id.len() <= MAX_NAME {
        return Cow::Borrowed(id);
    }
    let mut end = MAX_NAME - CUT.len() - 2 * DIGEST_BYTES;
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    let digest = hex(&Sha256::digest(id.as_bytes())[..DIGEST_BYTES]);
    Cow::Owned(format!("{}{CUT}{digest}", &id[..end]))
}

/// Whether a file name may be that of an id which is longer; its records have the id.
#[must_use]
pub fn is_cut(name: &str) -> bool {
    name.len() == MAX_NAME
        && name.get(MAX_NAME - 2 * DIGEST_BYTES - CUT.len()..).is_some_and(|end| end.starts_with(CUT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Library;

    #[test]
    fn long_ids_have_short_names_of_their_own() {
        assert_eq!(file_name("fig4~mu=0.01"), "fig4~mu=0.01");
        let long = |last: &str| format!("fig4~{}{last}", "mu=0.01,".repeat(40));
        let names = [long("a=1"), long("a=2"), "é".repeat(400)].map(|id| file_name(&id).into_owned());
        assert!(
            names
                .iter()
                .all(|name| name.len() <= MAX_NAME && names.iter().filter(|n| *n == name).count() == 1)
        );
        assert!(names[..2].iter().all(|name| is_cut(name) && name.starts_with("fig4~mu=0.01,mu")));
        assert_eq!(file_name(&names[0]), names[0]);
        assert!(!is_cut("fig4") && !is_cut(&"x".repeat(MAX_NAME)));
    }

    #[test]
    fn a_variant_has_its_own_id_and_settings() {
        let fig4 = Library::embedded().get("fig4").unwrap();
        let overrides = vec![("mu".to_owned(), "0.01".to_owned()), ("epochs".to_owned(), "3".to_owned())];
        let variant = fig4.with_overrides(Scale::Smoke, &overrides).unwrap();
        assert_eq!(variant.id, "fig4~mu=0.01,epochs=3");
        assert_eq!(split_id(&variant.id), ("fig4", overrides.clone()));
        assert!(
            variant.scales[&Scale::Smoke]
                .cells
                .iter()
                .all(|cell| cell.settings.get("epochs") == Some(3.into()))
        );
        assert_eq!(variant.scales.len(), 1);
        assert!(variant.scales[&Scale::Smoke].finding.is_empty());
        assert!(!variant.expected.is_empty() && variant.expected.iter().all(|one| one.tolerance.is_none()));
        assert_eq!(split_id("fig4"), ("fig4", vec![]));
        let odd = vec![("mu".to_owned(), "a/b".to_owned())];
        assert!(fig4.with_overrides(Scale::Smoke, &odd).is_err());
        let twice = [("lr".to_owned(), "0.01".to_owned()), ("learning-rate".to_owned(), "0.1".to_owned())];
        assert!(fig4.with_overrides(Scale::Smoke, &twice).is_err());
        assert!(variant.with_overrides(Scale::Smoke, &overrides[..1]).is_err());
    }
}
