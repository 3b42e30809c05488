//! The section of settings that says which images there are.

use super::{Source, cifar10};

crate::section! {
    /// Images to train on, to choose by, and to measure on.
    pub struct Config {
        /// Training images.
        pub data: &'static Source = &cifar10::SOURCE,
        /// Training images used, class-balanced; 0 for all (after the validation images are set aside).
        pub n_train: usize = 0,
        /// Images set aside from the training set to choose the best epoch; 0 for none.
        pub n_val: usize = 0,
        /// Test images used, class-balanced; 0 for all.
        pub n_test: usize = 0,
        /// Crop-4 and flip augmentation.
        pub augment: bool = true,
    }
}

impl Config {
    /// How many training images, validation images included, and test images the source is asked for.
    #[must_use]
    pub fn sizes(&self) -> [usize; 2] {
        self.data.sizes(self.n_train, self.n_val, self.n_test)
    }
}
