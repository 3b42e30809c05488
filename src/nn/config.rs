//! The section of settings that describes a network.

use super::loss::Loss;
use super::model::{Family, MAX_DEPTH, MAX_WIDTH, resnet};
use crate::kernels::Precision;
use crate::params::Init;
use crate::setting::Domain::Int;

crate::choice! {
    /// What training lowers.
    pub enum Criterion {
        /// Cross-entropy of the labels.
        CrossEntropy = "cross-entropy",
        /// Mean square, over images and outputs, of output less target; the target is one for the label and zero
        /// elsewhere, less one over the number of classes.
        SquaredError = "squared-error",
    }
}

impl Criterion {
    /// As a loss of a network's outputs.
    #[must_use]
    pub fn loss(self) -> Loss {
        match self {
            Self::CrossEntropy => Loss::CrossEntropy,
            Self::SquaredError => Loss::SquaredError,
        }
    }
}

crate::section! {
    /// A network and its arithmetic.
    pub struct Config {
        /// Network family.
        pub model: &'static Family = &resnet::FAMILY,
        /// Depth: blocks of the CNN, 6n+2 of the ResNet, 8n+2 of ResNet-B, 8 of the 8-layer CNN, blocks of LocalMixer, hidden layers of the corrector.
        pub depth: usize = 20 => Int(1, MAX_DEPTH as i64),
        /// Channels of the CNN or LocalMixer, or of the first stage of a ResNet or corrector.
        pub width: usize = 16 => Int(1, MAX_WIDTH as i64),
        /// Arithmetic of the forward pass.
        pub precision: Precision = Precision::F32,
        /// How parameters start.
        pub init: Init = Init::Kaiming,
    }
}

crate::section! {
    /// What a classifier is trained for.
    pub struct Goal {
        /// What training lowers.
        pub loss: Criterion = Criterion::CrossEntropy,
    }
}
