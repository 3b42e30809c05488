//! Checkpoints, tensors and settings.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::Device;

use crate::data;
use crate::experiment::settings;
use crate::nn::difference::DEFAULT_MEMORY;
use crate::nn::model::{self, Io};
use crate::nn::weights;
use crate::problem::Prepared;
use crate::setting::Settings;
use crate::task::{self, Outcome, Session};
use crate::train::{Checkpoint, Observer, Quiet};
use crate::{Error, Result, files, ranks};

/// Recipes whose checkpoints are tried: all kinds of state that a method keeps.
pub const RECIPES: [&str; 6] = [
    "method=cge sparsity=0.5 layer-ratios=uniform",
    "method=cge sparsity=0.5 layer-ratios=zo-grasp grasp-images-per-class=2 grasp-queries=4 redraw-every=1",
    "method=cocd queries=10 decay=0.5 sparsity=0",
    "method=pattern-search queries=20",
    "method=fo optimizer=adam sparsity=0.5 layer-ratios=smart-ratio mask=fixed sparse-target=weights",
    "method=rge queries=4 sparsity=0",
];

/// What their runs are called in checkpoints.
const HASH: &str = "fuzzed";

fn recipe(idx: usize) -> Result<Settings> {
    let small = "data=synthetic model=cnn depth=1 width=2 n-train=20 n-test=10 epochs=2 batch-size=20";
    let pairs = small.split(' ').chain(RECIPES[idx % RECIPES.len()].split(' '));
    let mut pairs: Vec<(&str, &str)> = pairs.filter_map(|pair| pair.split_once('=')).collect();
    if !pairs.contains(&("method", "pattern-search")) {
        pairs.push(("warmup-epochs", "0"));
    }
    settings::from_pairs(pairs)
}

fn train(
    settings: &Settings,
    state: &Path,
    interrupt: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let images = Prepared::new(&settings.read()?, 0, &data::synthetic(20, 10))?;
    let session = Session {
        images: Some(&images),
        location: &data::Location::default(),
        device: &Device::Cpu,
        memory: DEFAULT_MEMORY,
        ranks: &ranks::ALONE,
        checkpoint: Some((state, HASH)),
        interrupt,
        observer,
    };
    task::run(settings, 0, &session)
}

/// A checkpoint of one of [`RECIPES`] after its first epoch of two.
///
/// # Errors
/// If it cannot be made.
pub fn sound_checkpoint(recipe_idx: usize) -> Result<Vec<u8>> {
    /// Stops after the first epoch.
    struct Stop<'a>(&'a AtomicBool);
    impl Observer for Stop<'_> {
        fn epoch(&self, _: &crate::metric::Row) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let folder = tempfile::tempdir().map_err(Error::io("make", std::env::temp_dir()))?;
    let state = folder.path().join("x.state");
    let interrupt = AtomicBool::new(false);
    match train(&recipe(recipe_idx)?, &state, &interrupt, &Stop(&interrupt)) {
        Err(Error::Interrupted) => files::read_regular(&state),
        Err(error) => Err(error),
        Ok(_) => Err(Error::Objective("it did not stop".to_owned())),
    }
}

/// A run of one of [`RECIPES`], the first byte says which, that goes on from the rest as its checkpoint, with the digest
/// put right, which no fuzzer would find.
///
/// # Errors
/// Those of a damaged checkpoint.
pub fn checkpoint(bytes: &[u8]) -> Result<Outcome> {
    let Some((&which, state)) = bytes.split_first() else { return Err(Error::file("x.state", "empty")) };
    let folder = tempfile::tempdir().map_err(Error::io("make", std::env::temp_dir()))?;
    let path = folder.path().join("x.state");
    let forged = Checkpoint::with_digest(state);
    files::write_atomically(&path, forged.as_deref().unwrap_or(state))?;
    let _ = Checkpoint::progress(&path);
    train(&recipe(usize::from(which))?, &path, &AtomicBool::new(false), &Quiet)
}

/// Weights for each of some networks, and a batch.
pub fn tensors(bytes: &[u8]) {
    let path = Path::new("x.safetensors");
    let Ok(tensors) = weights::from_bytes(bytes, path) else { return };
    for name in ["cnn-d1-w2", "resnet8-w2"] {
        let network = model::from_name(name, &Io::CIFAR).expect("it is a name");
        if let Ok((params, _)) = weights::from_tensors(&network, &tensors, path) {
            assert!(
                params.iter().all(|value| value.is_finite()) && params.len() == network.layout().n_coords()
            );
        }
    }
    for source in data::SOURCES {
        if let Ok((images, labels)) = data::given_batch(&tensors, source, path) {
            assert_eq!(images.dims()[0], labels.len());
        }
    }
}

/// Lines `key=value` as settings, and the network that they describe.
///
/// # Errors
/// If they are none.
pub fn settings(bytes: &[u8]) -> Result<usize> {
    let text = String::from_utf8_lossy(bytes);
    let settings = settings::from_pairs(text.lines().filter_map(|line| line.split_once('=')))?;
    let images: data::Config = settings.read()?;
    let io = Io { input: images.data.shape, n_outputs: images.data.n_classes };
    Ok(model::of(&settings, &io)?.layout().n_coords())
}
