//! What a source of images is.

use super::{Location, Normalization, Progress, Splits};
use crate::error::Result;

/// A source of images to train and test on, of one size.
#[derive(Debug)]
pub struct Source {
    /// Name in settings.
    pub name: &'static str,
    /// Channels, height, width of every image.
    pub shape: [usize; 3],
    /// Number of classes.
    pub n_classes: usize,
    /// What pixels are normalized with.
    pub normalization: Normalization,
    /// Training images: all there are, or as many as come where none are asked for.
    pub n_train: usize,
    /// Test images, likewise.
    pub n_test: usize,
    /// Whether images are made, as many as are asked for; else they are in files, all of them.
    pub is_made: bool,
    /// Makes or reads so many training and test images.
    pub(super) load: fn([usize; 2], &Location, &dyn Progress) -> Result<Splits>,
}

impl Source {
    /// See [`Source::name`](field@Source::name).
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many training and test images [`Source::load`] gives if `n_train` and `n_test` are asked for, or all (0),
    /// with `n_val` beside the training images.
    #[must_use]
    pub fn sizes(&self, n_train: usize, n_val: usize, n_test: usize) -> [usize; 2] {
        let or_all = |n, all| if n == 0 { all } else { n };
        if self.is_made {
            [or_all(n_train, self.n_train) + n_val, or_all(n_test, self.n_test)]
        } else {
            [self.n_train, self.n_test]
        }
    }

    /// Images to train on, of all when `n_train` is 0, with `n_val` set aside.
    #[must_use]
    pub fn n_train(&self, n_train: usize, n_val: usize) -> usize {
        match n_train {
            0 if self.is_made => self.n_train,
            0 => self.n_train.saturating_sub(n_val),
            n => n,
        }
    }

    /// The images, decoded; `sizes` as [`Source::sizes`] gives them. What is nowhere on this machine is downloaded.
    ///
    /// # Errors
    /// [`crate::Error::Data`] if files are missing, truncated or corrupt, or if there are none and the hub is out of
    /// bounds; [`crate::Error::Download`] if the hub does not deliver; [`crate::Error::Io`].
    pub fn load(&self, sizes: [usize; 2], location: &Location, report: &dyn Progress) -> Result<Splits> {
        (self.load)(sizes, location, report)
    }
}
