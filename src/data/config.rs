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

impl crate::setting::Plain for DataSource {
    const DOMAIN: crate::setting::Domain = crate::setting::Domain::Name(|| vec!["synthetic", "cifar10"]);
    fn into_value(self) -> toml::Value {
        toml::Value::try_from(self).expect("name")
    }
    fn from_value(value: &toml::Value) -> Option<Self> {
        value.clone().try_into().ok()
    }
}

impl Config {
    pub fn wanted(&self) -> [usize; 2] { [0, 0] }
}
impl DataSource {
    pub fn name(self) -> &'static str { match self { Self::Synthetic => "synthetic", Self::Cifar10 => "cifar10" } }
    pub fn io(self) -> crate::nn::model::Io { crate::nn::model::Io::CIFAR }
}
