//! The state of an unfinished run after an epoch: all that the rest of it depends on.
//!
//! A safetensors file: vectors as f64 tensors, sizes and identity in the header. Everything random
//! is a function of seed, epoch and step, so no generator state is stored.

use std::collections::BTreeMap;
use std::path::Path;

use crate::kernels::Isa;
use crate::method::Method;
use crate::metric::Row;
use crate::problem::State;
use crate::saved::{self, Saved, integer};
use crate::{Error, Result, files};

/// Raised when the contents change.
const VERSION: &str = "6";

/// What a run needs to go on.
pub struct Checkpoint<'a> {
    /// Parameters and statistics.
    pub state: &'a State,
    /// The method, which says what it needs.
    pub method: &'a dyn Method,
    /// Finished epochs.
    pub rows: &'a [Row],
}

/// How far an unfinished run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochsDone {
    /// Finished epochs.
    pub epoch: usize,
    /// All epochs.
    pub epochs: usize,
}

/// The largest file that is read: dozens of vectors of the largest network.
const MAX_BYTES: u64 = 64 << 30;

/// Header field of the instruction set.
const KERNELS: &str = "kernels";
/// Names of vectors of a method start so.
const OF_METHOD: &str = "method.";
/// Names of the columns of rows start so.
const OF_ROWS: &str = "row.";

impl Checkpoint<'_> {
    /// Writes the checkpoint of the run with this `hash`, atomically.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path, hash: &str, n_epochs: usize) -> Result<()> {
        let mut vectors: Vec<(String, Vec<f64>)> = vec![
            ("params".to_owned(), self.state.params.clone()),
            ("running_stats".to_owned(), self.state.stats.values()),
        ];
        let of_method = self.method.state().into_iter();
        vectors.extend(of_method.map(|(name, values)| (format!("{OF_METHOD}{name}"), values)));
        let rows: Vec<Vec<f64>> = self.rows.iter().map(Row::to_values).collect();
        for (idx, name) in Row::columns().into_iter().enumerate() {
            vectors.push((format!("{OF_ROWS}{name}"), rows.iter().map(|row| row[idx]).collect()));
        }
        let header = BTreeMap::from([
            ("version".to_owned(), VERSION.to_owned()),
            ("trial".to_owned(), hash.to_owned()),
            (KERNELS.to_owned(), Isa::current().name().to_owned()),
            ("epoch".to_owned(), self.rows.len().to_string()),
            ("epochs".to_owned(), n_epochs.to_string()),
        ]);
        let bytes = saved::to_bytes(header, &vectors).map_err(|what| Error::file(path, what))?;
        files::write_atomically(path, &bytes)
    }

    /// Reads the checkpoint of the run with this `hash`, if there is one, into the state and the method as they are
    /// at the start, and returns its rows. A checkpoint of other settings or of another program version
    /// is an error: it is never silently dropped.
    ///
    /// # Errors
    /// If the file is damaged or belongs to something else.
    pub fn load(
        path: &Path,
        hash: &str,
        state: &mut State,
        method: &mut dyn Method,
    ) -> Result<Option<Vec<Row>>> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read_bounded(path, MAX_BYTES)?;
        let damaged =
            |what: &str| Error::file(path, format!("{what}; delete this checkpoint to start the trial anew"));
        let header = saved::header(&bytes).ok_or_else(|| damaged(saved::INCOMPLETE))?;
        let field = |name: &str| {
            header.get(name).map(String::as_str).ok_or_else(|| damaged("a header field is missing"))
        };
        if field("version")? != VERSION {
            return Err(damaged("written by another version of the program"));
        }
        if field("trial")? != hash {
            return Err(damaged("it belongs to other settings"));
        }
        // Checkpoints of before do not say.
        if let Some(kernels) = header.get(KERNELS).filter(|kernels| **kernels != Isa::current().name()) {
            return Err(Error::file(
                path,
                format!(
                    "written with the kernels `{kernels}`, whose last digits are others than those of `{}`; go on with \
                     DEEPZERO_KERNELS={kernels}, or delete this checkpoint to start the trial anew",
                    Isa::current().name()
                ),
            ));
        }
        let mut all = saved::from_bytes(&header, &bytes).map_err(|what| damaged(&what))?;
        let (of_method, of_rows) = (all.below(OF_METHOD), all.below(OF_ROWS));
        let params = all.take("params", Some(state.params.len())).map_err(|what| damaged(&what))?;
        let n_stats = state.stats.values().len();
        let stats = all.take("running_stats", Some(n_stats)).map_err(|what| damaged(&what))?;
        let n_rows: usize = field("epoch")?.parse().map_err(|_| damaged("a header field is no number"))?;
        let epochs: Option<Vec<f64>> = of_rows.get(Row::EPOCH).cloned();
        let is_row = |(idx, &epoch): (usize, &f64)| integer("", epoch, n_rows) == Ok(idx + 1);
        if of_rows.values().any(|values| values.len() != n_rows)
            || !epochs.is_some_and(|epochs| epochs.iter().enumerate().all(is_row))
        {
            return Err(damaged("epochs are missing"));
        }
        let names: Vec<&str> = of_rows.keys().map(String::as_str).collect();
        let row = |idx: usize| of_rows.values().map(|values| values[idx]).collect::<Vec<f64>>();
        let rows: Vec<Row> = (0..n_rows).map(|idx| Row::from_values(&names, &row(idx))).collect();
        method.restore(&mut Saved::new(of_method)).map_err(|what| damaged(&what))?;
        state.params = params;
        state.stats.restore(&stats);
        Ok(Some(rows))
    }

    /// The file with the digest that belongs to its content, for tests of what a digest cannot catch; `None` if it is no
    /// safetensors file.
    #[doc(hidden)]
    #[must_use]
    pub fn with_digest(bytes: &[u8]) -> Option<Vec<u8>> {
        saved::with_digest(bytes)
    }

    /// How far the checkpoint at `path` is, if there is a readable one.
    #[must_use]
    pub fn progress(path: &Path) -> Option<EpochsDone> {
        let header = saved::header(&files::read_bounded(path, MAX_BYTES).ok()?)?;
        let number = |name: &str| header.get(name)?.parse().ok();
        let done = EpochsDone { epoch: number("epoch")?, epochs: number("epochs")? };
        (1..=done.epochs).contains(&done.epoch).then_some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::Step;
    use crate::metric::{QUERIES, WALL_S};
    use crate::nn::model::{self, Io};
    use crate::nn::objective::BasePass;
    use crate::problem::{Minibatch, Problem, Resources};
    use crate::saved::{SHA256, digest, header};
    use safetensors::tensor::{Dtype, TensorView};
    use safetensors::{SafeTensors, serialize};

    /// A method that holds one vector.
    struct Holder(Vec<f64>);

    impl Method for Holder {
        fn begin_epoch(&mut self, _: &dyn Problem, _: &State, _: usize, _: &Resources) -> Result<()> {
            Ok(())
        }
        fn step(&mut self, _: &dyn Minibatch, _: &mut State, _: &Step, _: &Resources) -> Result<BasePass> {
            unreachable!("nothing is trained here")
        }
        fn record(&self, _: &mut Row) {}
        fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
            vec![("held", self.0.clone())]
        }
        fn restore(&mut self, saved: &mut Saved) -> std::result::Result<(), String> {
            self.0 = saved.take("held", Some(self.0.len()))?;
            Ok(())
        }
    }

    /// A state, what a method holds, and one epoch.
    fn scene() -> (State, Holder, Vec<Row>) {
        let network = model::cnn(1, 2, &Io::CIFAR).unwrap();
        let mut state = State { params: network.layout().initial_values(1), stats: network.initial_stats() };
        state.stats.layers[0].variance[1] = 0.1 + 0.2;
        let row = Row::new(1).with(&QUERIES, ((1_u64 << 53) - 1) as f64).with(&WALL_S, 0.1);
        (state, Holder(vec![-0.0, f64::MIN_POSITIVE, 1e300]), vec![row])
    }

    fn save(path: &Path, n_epochs: usize) {
        let (state, method, rows) = scene();
        Checkpoint { state: &state, method: &method, rows: &rows }.save(path, "abc", n_epochs).unwrap();
    }

    /// What is loaded into a start.
    fn load(path: &Path, hash: &str) -> Result<(State, Holder, Option<Vec<Row>>)> {
        let (mut state, mut method, _) = scene();
        state.params.fill(0.0);
        state.stats.layers[0].variance.fill(1.0);
        method.0.fill(0.0);
        let rows = Checkpoint::load(path, hash, &mut state, &mut method)?;
        Ok((state, method, rows))
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/x.state");
        save(&path, 9);
        let (expected, found) = (scene(), load(&path, "abc").unwrap());
        assert_eq!((&found.0, &found.2), (&expected.0, &Some(expected.2)));
        let bits = |method: &Holder| method.0.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found.1), bits(&expected.1));
        assert_eq!(Checkpoint::progress(&path), Some(EpochsDone { epoch: 1, epochs: 9 }));
    }

    /// Every mutant of a file is refused by name, or was none.
    #[test]
    fn mutants_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.state");
        save(&path, 9);
        let bytes = std::fs::read(&path).unwrap();
        let (state, _, rows) = load(&path, "abc").unwrap();
        for mutant in crate::mutants::of(&bytes, 1, 600) {
            std::fs::write(&path, &mutant).unwrap();
            match load(&path, "abc") {
                Ok(found) => assert_eq!((&found.0, &found.2), (&state, &rows)),
                Err(error) => assert!(error.to_string().contains("x.state"), "{error}"),
            }
            let _ = Checkpoint::progress(&path);
        }
    }

    static ZEROS: [u8; 64] = [0; 64];

    type Change<'a> = &'a mut dyn FnMut(&mut BTreeMap<String, String>, &mut Vec<(&str, TensorView<'_>)>);

    /// What a digest does not catch, since it was made for it: headers and vectors of other sizes and types.
    #[test]
    fn forged_checkpoints_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.state");
        save(&path, 9);
        let bytes = std::fs::read(&path).unwrap();
        let sound: BTreeMap<String, String> = header(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let names: Vec<String> = tensors.iter().map(|(name, _)| name.to_owned()).collect();
        let forge = |change: Change| {
            let mut header = sound.clone();
            let mut views = tensors.iter().collect();
            change(&mut header, &mut views);
            let sum = digest(&header, &views);
            header.insert(SHA256.to_owned(), sum);
            std::fs::write(&path, serialize(views, Some(header.into_iter().collect())).unwrap()).unwrap();
            load(&path, "abc").map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(forge(&mut |_, _| {}), Ok(()));
        let refused = |reason: &str, change: Change| {
            let error = forge(change).unwrap_err();
            assert!(
                error.contains("x.state") && error.contains(reason) && error.contains("delete"),
                "{error}"
            );
        };
        for epoch in ["1000000000", "2", "0", "-1", "18446744073709551616", ""] {
            refused("", &mut |header, _| drop(header.insert("epoch".to_owned(), epoch.to_owned())));
        }
        refused("header field", &mut |header, _| drop(header.remove("epoch")));
        refused("version", &mut |header, _| drop(header.insert("version".to_owned(), "5".to_owned())));
        for idx in 0..tensors.len() {
            refused("", &mut |_, views| views[idx].1 = TensorView::new(Dtype::F64, vec![8], &ZEROS).unwrap());
            refused("no vector", &mut |_, views| {
                views[idx].1 = TensorView::new(Dtype::F32, vec![16], &ZEROS).unwrap();
            });
            refused("no vector", &mut |_, views| {
                views[idx].1 = TensorView::new(Dtype::F64, vec![2, 4], &ZEROS).unwrap();
            });
            if !names[idx].starts_with(OF_ROWS) {
                refused("missing", &mut |_, views| drop(views.remove(idx)));
            }
        }
    }

    #[test]
    fn foreign_and_damaged_checkpoints_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.state");
        assert!(load(&path, "abc").unwrap().2.is_none());
        save(&path, 9);
        let reason = |hash| load(&path, hash).map(|_| ()).unwrap_err().to_string();
        assert!(reason("abd").contains("other settings"), "{}", reason("abd"));
        let bytes = std::fs::read(&path).unwrap();
        // As another machine would have written it.
        let ours = format!("\"kernels\":\"{}\"", Isa::current().name());
        let theirs = format!("\"kernels\":\"{}\"", "x".repeat(Isa::current().name().len()));
        let at = bytes.windows(ours.len()).position(|window| window == ours.as_bytes()).unwrap();
        let mut other = bytes.clone();
        other[at..at + ours.len()].copy_from_slice(theirs.as_bytes());
        std::fs::write(&path, Checkpoint::with_digest(&other).unwrap()).unwrap();
        assert!(reason("abc").contains("DEEPZERO_KERNELS=x"), "{}", reason("abc"));
        // The last byte belongs to a number, which any other would be as good as.
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert!(reason("abc").contains("not those that were written"), "{}", reason("abc"));
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(reason("abc").contains("not a complete checkpoint"), "{}", reason("abc"));
        assert_eq!(Checkpoint::progress(&path), None);
    }
}
