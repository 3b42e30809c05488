//! The section of settings that says which images there are.

use super::{Source, cifar10};
use crate::setting::Domain::Int;
use crate::{Error, Result};

crate::choice! {
    /// What numbers the pixels of an image become.
    pub enum Pixels {
        /// Mean 0 and standard deviation 1 per channel, over the source's training images.
        Standardized = "standardized",
        /// From 0 to 1.
        Unit = "unit",
    }
}

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
        /// What numbers pixels become.
        pub pixels: Pixels = Pixels::Standardized,
        /// Quality at which images are stored as JPEG, and read again, before anything else; 0 for pixels as they are.
        pub jpeg_quality: usize = 0 => Int(0, 100),
    }
}

impl Config {
    /// Settings that change nothing, as the others are.
    #[must_use]
    pub fn idle(&self) -> Vec<&'static str> {
        if self.jpeg_quality == 0 { vec!["jpeg-quality"] } else { Vec::new() }
    }

    /// Checks that a source that does not make its images has as many as are asked for.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting to change and what it may be.
    pub fn check(&self) -> Result<()> {
        if self.jpeg_quality > 0 && self.data.shape[0] != 3 {
            let reason = format!("the images of {} are not red, green and blue; use 0", self.data.name);
            return Err(Error::setting("jpeg-quality", reason));
        }
        if self.data.is_made {
            return Ok(());
        }
        let Source { name, n_train, n_test, .. } = *self.data;
        // At least one image is left to train on.
        let most_val = n_train - self.n_train.clamp(1, n_train);
        for (key, asked, most) in [
            ("n-train", self.n_train, n_train),
            ("n-val", self.n_val, most_val),
            ("n-test", self.n_test, n_test),
        ] {
            if asked > most {
                let beside = if key == "n-val" && self.n_train > 0 {
                    format!(" beside {} to train on", self.n_train)
                } else {
                    String::new()
                };
                return Err(Error::setting(key, format!("{name} has at most {most}{beside}; got {asked}")));
            }
        }
        Ok(())
    }

    /// How many training images, validation images included, and test images the source is asked for.
    #[must_use]
    pub fn sizes(&self) -> [usize; 2] {
        self.data.sizes(self.n_train, self.n_val, self.n_test)
    }
}
