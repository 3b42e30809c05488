//! The state of an unfinished trial after an epoch: all that the rest of it depends on.
//!
//! A safetensors file: vectors as f64 tensors, sizes and identity in the header. Everything random
//! is a function of seed, epoch and step, so no generator state is stored.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

use super::active::ActiveSets;
use crate::baseline::pattern_search::PatternSearch;
use crate::nn::RunningStats;
use crate::results::{EpochRecord, Measures};
use crate::zo::optimizer::Optimizer;
use crate::zo::sparsity::KeepCounts;
use crate::{Error, Result, files};

/// Raised when the contents change.
const VERSION: &str = "4";

/// What a trial needs to go on.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Parameters θ (d).
    pub params: Vec<f64>,
    /// Momentum and step count.
    pub optimizer: Optimizer,
    /// Running statistics of batch norm.
    pub stats: RunningStats,
    /// What active sets are drawn from.
    pub active: ActiveSets,
    /// Finished epochs.
    pub epochs: Vec<EpochRecord>,
    /// CoCD's last estimate (d); empty for other methods.
    pub stale: Vec<f64>,
    /// Where Pattern Search stands; none for other methods.
    pub search: Option<PatternSearch>,
}

/// How far an unfinished trial is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Finished epochs.
    pub epoch: usize,
    /// All epochs.
    pub epochs: usize,
}

const N_FIXED: usize = 13;
const N_FIELDS: usize = N_FIXED + Measures::NAMES.len();

/// Counts are exact in f64 up to 2^53.
fn to_row(record: &EpochRecord) -> [f64; N_FIELDS] {
    let mut row = [0.0; N_FIELDS];
    row[..N_FIXED].copy_from_slice(&[
        f64::from(record.epoch),
        record.train_loss,
        record.train_accuracy,
        record.val_loss,
        record.val_accuracy,
        record.test_loss,
        record.test_accuracy,
        record.learning_rate,
        record.n_active as f64,
        record.queries as f64,
        record.queries_non_finite as f64,
        record.gradient_norm,
        record.wall_s,
    ]);
    row[N_FIXED..].copy_from_slice(&record.measures.values());
    row
}

fn from_row(row: &[f64]) -> EpochRecord {
    EpochRecord {
        epoch: row[0] as u32,
        train_loss: row[1],
        train_accuracy: row[2],
        val_loss: row[3],
        val_accuracy: row[4],
        test_loss: row[5],
        test_accuracy: row[6],
        learning_rate: row[7],
        n_active: row[8] as u64,
        queries: row[9] as u64,
        queries_non_finite: row[10] as u64,
        gradient_norm: row[11],
        wall_s: row[12],
        measures: Measures::from_values(std::array::from_fn(|idx| row[N_FIXED + idx])),
    }
}

impl Checkpoint {
    /// Writes the checkpoint of the trial with this `hash`, atomically.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path, hash: &str, n_epochs: usize) -> Result<()> {
        let (n_steps, first, second) = self.optimizer.state();
        let as_f64 = |values: &mut dyn Iterator<Item = usize>| values.map(|v| v as f64).collect::<Vec<f64>>();
        let (active_kind, active) = match &self.active {
            ActiveSets::All => ("all", Vec::new()),
            ActiveSets::Drawn(keep) => {
                ("drawn", as_f64(&mut keep.layers.iter().flat_map(|&(idx, n)| [idx, n])))
            }
            ActiveSets::Fixed(active) => ("fixed", as_f64(&mut active.iter().copied())),
            ActiveSets::Rescored { draw, active } => {
                ("rescored", as_f64(&mut std::iter::once(*draw as usize).chain(active.iter().copied())))
            }
        };
        let stats = self.stats.layers.iter().flat_map(|layer| layer.mean.iter().chain(&layer.variance));
        let vectors: [(&str, Vec<f64>); 8] = [
            ("params", self.params.clone()),
            ("first_moment", first.to_vec()),
            ("second_moment", second.to_vec()),
            ("running_stats", stats.copied().collect()),
            ("active", active),
            ("stale", self.stale.clone()),
            ("search", self.search.iter().flat_map(PatternSearch::state).collect()),
            ("epochs", self.epochs.iter().flat_map(to_row).collect()),
        ];
        let bytes: Vec<(&str, Vec<u8>)> = vectors
            .iter()
            .map(|(name, values)| (*name, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
            .collect();
        let header = HashMap::from([
            ("version".to_owned(), VERSION.to_owned()),
            ("trial".to_owned(), hash.to_owned()),
            ("active".to_owned(), active_kind.to_owned()),
            ("n_steps".to_owned(), n_steps.to_string()),
            ("epoch".to_owned(), self.epochs.len().to_string()),
            ("epochs".to_owned(), n_epochs.to_string()),
        ]);
        files::write_atomically(path, |temporary| {
            let views = bytes.iter().map(|(name, bytes)| {
                let view = TensorView::new(Dtype::F64, vec![bytes.len() / 8], bytes);
                (*name, view.expect("eight bytes per f64"))
            });
            serialize_to_file(views, Some(header), temporary).map_err(std::io::Error::other)
        })
    }

    /// Reads the checkpoint of the trial with this `hash` into `fresh`, the state at the start, and
    /// returns whether there was one. A checkpoint of other settings or of another program version
    /// is an error: it is never silently dropped.
    ///
    /// # Errors
    /// If the file is damaged or belongs to something else.
    pub fn load(path: &Path, hash: &str, mut fresh: Self) -> Result<(Self, bool)> {
        if !path.exists() {
            return Ok((fresh, false));
        }
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let damaged =
            |what: &str| Error::file(path, format!("{what}; delete this checkpoint to start the trial anew"));
        let header = header(&bytes).ok_or_else(|| damaged("not a complete checkpoint"))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|_| damaged("not a complete checkpoint"))?;
        let field = |name: &str| {
            header.get(name).map(String::as_str).ok_or_else(|| damaged("a header field is missing"))
        };
        if field("version")? != VERSION {
            return Err(damaged("written by another version of the program"));
        }
        if field("trial")? != hash {
            return Err(damaged("it belongs to other settings"));
        }
        let vector = |name: &str| -> Result<Vec<f64>> {
            let view = tensors.tensor(name).map_err(|_| damaged("a tensor is missing"))?;
            let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
            Ok(view.data().chunks_exact(8).map(number).collect())
        };
        let sized = |name: &str, len: usize| -> Result<Vec<f64>> {
            let values = vector(name)?;
            if values.len() == len { Ok(values) } else { Err(damaged("a tensor has the wrong length")) }
        };
        let params = sized("params", fresh.params.len())?;
        let second_len = fresh.optimizer.state().2.len();
        let n_steps = field("n_steps")?.parse().map_err(|_| damaged("a header field is no number"))?;
        fresh.optimizer.restore(
            n_steps,
            sized("first_moment", params.len())?,
            sized("second_moment", second_len)?,
        );
        let n_stats = fresh.stats.layers.iter().map(|layer| 2 * layer.mean.len()).sum();
        let mut stats = sized("running_stats", n_stats)?.into_iter();
        for layer in &mut fresh.stats.layers {
            for value in layer.mean.iter_mut().chain(&mut layer.variance) {
                *value = stats.next().expect("the length was checked");
            }
        }
        let active: Vec<usize> = vector("active")?.into_iter().map(|value| value as usize).collect();
        fresh.active = match field("active")? {
            "all" => ActiveSets::All,
            "fixed" => ActiveSets::Fixed(active.into()),
            "drawn" => {
                let layers = active.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                ActiveSets::Drawn(KeepCounts { layers })
            }
            "rescored" => {
                let (draw, active) = active.split_first().ok_or_else(|| damaged("no active set"))?;
                ActiveSets::Rescored { draw: *draw as u32, active: active.into() }
            }
            _ => return Err(damaged("an unknown kind of active set")),
        };
        fresh.stale = sized("stale", fresh.stale.len())?;
        if let Some(search) = &mut fresh.search {
            let state = vector("search")?.try_into().map_err(|_| damaged("a tensor has the wrong length"))?;
            search.restore(state);
        }
        fresh.epochs = vector("epochs")?.chunks_exact(N_FIELDS).map(from_row).collect();
        fresh.params = params;
        Ok((fresh, true))
    }

    /// How far the checkpoint at `path` is, if there is a readable one.
    #[must_use]
    pub fn progress(path: &Path) -> Option<Progress> {
        let header = header(&std::fs::read(path).ok()?)?;
        let number = |name: &str| header.get(name)?.parse().ok();
        Some(Progress { epoch: number("epoch")?, epochs: number("epochs")? })
    }
}

fn header(bytes: &[u8]) -> Option<HashMap<String, String>> {
    SafeTensors::read_metadata(bytes).ok()?.1.metadata().clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model;
    use crate::zo::optimizer::OptimizerKind;

    fn state() -> Checkpoint {
        let network = model::cnn(1, 2, &model::Io::CIFAR).unwrap();
        let params = network.layout().initial_values(1);
        let mut optimizer = Optimizer::new(OptimizerKind::Adam, 0.9, 0.0, params.len());
        let mut moved = params.clone();
        optimizer.step(&mut moved, &params, 0.1, None);
        let mut epoch = from_row(&[f64::NAN; N_FIELDS]);
        epoch.queries = (1 << 53) - 1;
        epoch.epoch = 7;
        Checkpoint {
            params: moved,
            optimizer,
            stats: network.initial_stats(),
            active: ActiveSets::Drawn(KeepCounts { layers: vec![(0, 3), (4, 5)] }),
            epochs: vec![epoch],
            search: Some(PatternSearch::new(params.len(), 0.25, 7)),
            stale: params,
        }
    }

    fn fresh() -> Checkpoint {
        let params = vec![0.0; state().params.len()];
        let optimizer = Optimizer::new(OptimizerKind::Adam, 0.9, 0.0, params.len());
        Checkpoint {
            search: Some(PatternSearch::new(params.len(), 1.0, 7)),
            stale: params.clone(),
            params,
            optimizer,
            active: ActiveSets::All,
            epochs: Vec::new(),
            stats: state().stats,
        }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/x.state");
        state().save(&path, "abc", 9).unwrap();
        let (found, resumed) = Checkpoint::load(&path, "abc", fresh()).unwrap();
        assert!(resumed);
        assert_eq!((&found.params, &found.optimizer), (&state().params, &state().optimizer));
        assert_eq!((&found.active, &found.stale), (&state().active, &state().stale));
        let search = |state: &Checkpoint| state.search.as_ref().map(PatternSearch::state);
        assert_eq!(search(&found), search(&state()));
        let bits = |record: &EpochRecord| to_row(record).map(f64::to_bits);
        assert_eq!(bits(&found.epochs[0]), bits(&state().epochs[0]));
        assert_eq!(Checkpoint::progress(&path), Some(Progress { epoch: 1, epochs: 9 }));
    }

    #[test]
    fn foreign_and_damaged_checkpoints_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.state");
        assert!(!Checkpoint::load(&path, "abc", fresh()).unwrap().1);
        state().save(&path, "abc", 9).unwrap();
        let other = Checkpoint::load(&path, "abd", fresh()).unwrap_err().to_string();
        assert!(other.contains("other settings"), "{other}");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let cut = Checkpoint::load(&path, "abc", fresh()).unwrap_err().to_string();
        assert!(cut.contains("not a complete checkpoint"), "{cut}");
        assert_eq!(Checkpoint::progress(&path), None);
    }
}
