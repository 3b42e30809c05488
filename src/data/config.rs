//! The section of settings that says which images there are.

use super::DataSource;

crate::section! {
    /// Images to train on, to choose by, and to measure on.
    pub struct Config {
        /// Training images.
        pub data: DataSource = DataSource::Cifar10,
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
