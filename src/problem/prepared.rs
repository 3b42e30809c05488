//! The images that a trial trains on, chooses its best epoch by, and is tested on.

use sha2::{Digest, Sha256};

use crate::data::{Dataset, Splits};
use crate::experiment::Settings;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

/// Subsets of a data set for one trial.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Images to train on.
    pub train: Dataset,
    /// Images that choose the best epoch; may be empty.
    pub val: Dataset,
    /// Images that only measure.
    pub test: Dataset,
    /// SHA-256 over the three checksums.
    pub checksum: String,
}

impl Prepared {
    /// Class-balanced subsets as `settings` ask. Validation and training images depend on the
    /// seed; the test images do not, so that trials are measured on the same ones.
    ///
    /// # Errors
    /// If more images are asked for than there are.
    pub fn new(settings: &Settings, seed: u64, splits: &Splits) -> Result<Self> {
        let available = splits.train.len();
        if settings.n_train + settings.n_val > available
            || (settings.n_train == 0 && settings.n_val >= available)
        {
            return Err(Error::setting(
                "n-train",
                format!(
                    "{} training and {} validation images asked for, but {} has {available}",
                    settings.n_train, settings.n_val, splits.train.name
                ),
            ));
        }
        let val_rows = splits.train.balanced_subset(settings.n_val, Stream::new(seed, Purpose::Subset, 0))?;
        let rest = splits.train.select(&splits.train.complement(&val_rows));
        let train = subset(&rest, settings.n_train, Stream::new(seed, Purpose::Subset, 1))?;
        let test = subset(&splits.test, settings.n_test, Stream::new(0, Purpose::Subset, 2))?;
        let val = splits.train.select(&val_rows);
        let mut hash = Sha256::new();
        for data in [&train, &val, &test] {
            hash.update(data.checksum().as_bytes());
        }
        let checksum = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { train, val, test, checksum })
    }
}

/// `n` images of `data`, or all of them for 0.
fn subset(data: &Dataset, n: usize, stream: Stream) -> Result<Dataset> {
    if n == 0 {
        return Ok(data.clone());
    }
    Ok(data.select(&data.balanced_subset(n, stream)?))
}
