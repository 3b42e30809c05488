//! Certification by randomized smoothing: how far around an image a classifier, under Gaussian noise, keeps its class
//! (Cohen et al., ICML 2019).
//!
//! A [`Classifier`] is a black box: it is asked for classes of images, pixels from 0 to 1 plus noise, and nothing else.
//! A [`Certifier`] asks it for the classes of noisy copies of each image, `n0` of which choose a class and `n` others say
//! how often it comes; [`decide`] makes a certificate of these counts. Noise is a function of seed, image and copy, so
//! that neither batches nor threads nor an interruption change a number.

mod curve;
mod network;
mod run;
mod state;
mod stats;

pub use crate::saved::identity;
pub use curve::{average_radius, certified_accuracy, curve, n_abstained, profile, radii, too_few};
pub use network::{Denoise, NetworkClassifier, classes, read_denoiser};
pub use run::{Certificate, Certifier, Classifier, Progress, rows};
pub use state::{load, save};
pub use stats::{Decision, copies_needed, decide, largest_radius, lower_bound, p_value, predict, radius};

use crate::setting::Domain::{Above, Int};

crate::section! {
    /// The noise that smooths a classifier.
    pub struct Noise {
        /// Standard deviation of the noise that smooths a classifier, on pixels from 0 to 1.
        pub sigma: f64 = 0.25 => Above(0.0, f64::INFINITY),
    }
}

/// The most noisy copies of an image that are classified: as many as are told apart by number.
const MAX_COPIES: i64 = 1_000_000_000;

crate::section! {
    /// How a smoothed classifier is certified.
    pub struct Config {
        /// Noisy copies of an image that choose the class to certify.
        pub n0: usize = 100 => Int(1, MAX_COPIES),
        /// Noisy copies of an image, other ones, that certify the class.
        pub n: usize = 10_000 => Int(1, MAX_COPIES),
        /// Probability that a certificate may be wrong.
        pub alpha: f64 = 0.001 => Above(0.0, 1.0),
        /// Test images that are certified, evenly spread; 0 for all.
        pub n_certified: usize = 500 => Int(0, 1_000_000),
    }
}
