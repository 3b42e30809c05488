//! The images that a trial trains on, chooses its best epoch by, and is tested on.

use sha2::{Digest, Sha256};

use crate::data::{self, Dataset, Pixels, Source, Splits};
use crate::hex::hex;
use crate::nn::model::Io;
use crate::results::Provenance;
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
    /// `n` procedural training images.
    #[must_use]
    pub fn procedural(n: usize) -> Self {
        /// A few to measure on.
        const N_TEST: usize = 10;
        let Splits { train, test } = data::synthetic(n, N_TEST);
        let val = train.select(&[]);
        let checksum = checksum([&train, &val, &test]);
        Self { train, val, test, checksum }
    }

    /// The same with pixels from 0 to 1.
    #[must_use]
    pub fn with_unit_pixels(self) -> Self {
        let unit = |data: Dataset| Dataset { normalization: data.normalization.unit(), ..data };
        let Self { train, val, test, checksum } = self;
        Self { train: unit(train), val: unit(val), test: unit(test), checksum }
    }

    /// Size of the images, and their classes.
    #[must_use]
    pub fn io(&self) -> Io {
        Io { input: self.train.shape, n_outputs: self.train.n_classes }
    }

    /// Class-balanced subsets as `config` asks. Validation and training images depend on the
    /// seed; the test images do not, so that trials are measured on the same ones. All go through a JPEG file if `config` says
    /// so.
    ///
    /// # Errors
    /// If more images are asked for than there are.
    pub fn new(config: &data::Config, seed: u64, splits: &Splits) -> Result<Self> {
        let available = splits.train.len();
        if config.n_train + config.n_val > available || (config.n_train == 0 && config.n_val >= available) {
            return Err(Error::setting(
                "n-train",
                format!(
                    "{} training and {} validation images asked for, but {} has {available}",
                    config.n_train, config.n_val, splits.train.name
                ),
            ));
        }
        let val_rows = splits.train.balanced_subset(config.n_val, Stream::new(seed, Purpose::Subset, 0))?;
        let rest = splits.train.select(&splits.train.complement(&val_rows));
        let train = subset(&rest, config.n_train, Stream::new(seed, Purpose::Subset, 1))?;
        let test = subset(&splits.test, config.n_test, Stream::new(0, Purpose::Subset, 2))?;
        let val = splits.train.select(&val_rows);
        let stored = |data| match config.jpeg_quality {
            0 => Ok(data),
            quality => data::stored_as_jpeg(data, quality as u8),
        };
        let (train, val, test) = (stored(train)?, stored(val)?, stored(test)?);
        let checksum = checksum([&train, &val, &test]);
        let prepared = Self { train, val, test, checksum };
        Ok(match config.pixels {
            Pixels::Standardized => prepared,
            Pixels::Unit => prepared.with_unit_pixels(),
        })
    }
}

/// SHA-256 over the checksums of these images, and whether they were stored with loss.
fn checksum(data: [&Dataset; 3]) -> String {
    let mut hash = Sha256::new();
    data.iter().for_each(|data| hash.update(data.checksum().as_bytes()));
    let lossy = if data.iter().any(|data| data.is_lossy) { Provenance::LOSSY } else { "" };
    format!("{}{lossy}", hex(&hash.finalize()))
}

/// Size of a source's images, and their classes.
#[must_use]
pub fn io_of(source: &Source) -> Io {
    Io { input: source.shape, n_outputs: source.n_classes }
}

/// `n` images of `data`, or all of them for 0.
fn subset(data: &Dataset, n: usize, stream: Stream) -> Result<Dataset> {
    if n == 0 {
        return Ok(data.clone());
    }
    Ok(data.select(&data.balanced_subset(n, stream)?))
}
