//! The networks of the experiments.

mod cnn;
mod resnet;

pub use cnn::cnn;
pub use resnet::resnet;

use super::Network;
use crate::spec::{ModelKind, Settings};
use crate::{Error, Result};

/// Images are 32 x 32 with three channels, in ten classes.
pub const INPUT: [usize; 3] = [3, 32, 32];
/// Classes of CIFAR-10 and of the synthetic images.
pub const N_CLASSES: usize = 10;

/// The network that `settings` describes.
///
/// # Errors
/// If depth or width is impossible for the family.
pub fn from_settings(settings: &Settings) -> Result<Network> {
    match settings.model {
        ModelKind::Cnn => cnn(settings.depth, settings.width),
        ModelKind::Resnet => resnet(settings.depth, settings.width),
        ModelKind::ResnetB | ModelKind::Lenet => {
            Err(crate::Error::setting("model", "this model does not exist yet"))
        }
    }
}

/// A network by its short name: `resnet20`, `resnet8-w4` (width 4), `cnn-d3`, `cnn-d2-w24`.
///
/// # Errors
/// If the name is not of these forms or the sizes are impossible.
pub fn from_name(name: &str) -> Result<Network> {
    let unknown = || {
        Error::setting(
            "model",
            format!("`{name}` is unknown; use resnetN or cnn-dN, with -wC for another width"),
        )
    };
    let (family, width) = match name.split_once("-w") {
        Some((family, width)) => (family, Some(width.parse().map_err(|_| unknown())?)),
        None => (name, None),
    };
    if let Some(depth) = family.strip_prefix("resnet") {
        return resnet(depth.parse().map_err(|_| unknown())?, width.unwrap_or(16));
    }
    let depth = family.strip_prefix("cnn-d").ok_or_else(unknown)?;
    cnn(depth.parse().map_err(|_| unknown())?, width.unwrap_or(18))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the sizes published with Fig. 2, and 269,722 of the released ResNet-20.
    #[test]
    fn parameter_counts_match_the_paper() {
        for (depth, n_coords) in [(1, 730), (2, 3_700), (3, 6_670), (4, 9_640), (5, 12_610)] {
            assert_eq!(cnn(depth, 18).unwrap().layout().n_coords(), n_coords);
        }
        assert_eq!(cnn(1, 24).unwrap().layout().n_coords(), 970);
        assert_eq!(resnet(20, 16).unwrap().layout().n_coords(), 269_722);
    }

    #[test]
    fn names_and_bad_sizes() {
        assert_eq!(from_name("resnet20").unwrap().layout().n_coords(), 269_722);
        assert_eq!(from_name("cnn-d3").unwrap().layout().n_coords(), 6_670);
        assert_eq!(from_name("cnn-d1-w24").unwrap().layout().n_coords(), 970);
        for bad in ["resnet21", "resnet", "cnn-d0", "cnn-d6", "cnn-d3-w0", "resnet8-w5", "vgg"] {
            assert!(from_name(bad).is_err(), "{bad}");
        }
    }
}
