//! The networks of the experiments.

mod cnn;
mod lenet;
mod resnet;
mod resnet_b;

pub use cnn::cnn;
pub use lenet::lenet;
pub use resnet::resnet;
pub use resnet_b::resnet_b;

use super::Network;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which network family to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// The depth-D CNN of the paper's Appendix B; `depth` blocks, `width` channels.
    Cnn,
    /// The CIFAR ResNet of depth 6n+2 with option-A shortcuts; `width` channels in the first stage.
    Resnet,
    /// The CIFAR ResNet of depth 8n+2 with four stages and option-B shortcuts (1x1 convolution and
    /// batch norm); `width` channels in the first stage. Depth 18 with 64 channels is ResNet-18.
    ResnetB,
    /// LeNet-5 for CIFAR-10 without batch norm: 62,006 parameters; `depth` and `width` play no part.
    Lenet,
}

/// Images are 32 x 32 with three channels, in ten classes.
pub const INPUT: [usize; 3] = [3, 32, 32];
/// Classes of CIFAR-10 and of the synthetic images.
pub const N_CLASSES: usize = 10;

pub struct Io { pub input: [usize; 3], pub n_outputs: usize }
impl Io { pub const CIFAR: Self = Self { input: [3,32,32], n_outputs: 10 }; }
pub fn of(settings: &crate::setting::Settings, _io: &Io) -> Result<Network> {
    let c: crate::nn::Config = settings.read()?;
    match c.model {
        ModelKind::Cnn => cnn(c.depth, c.width),
        ModelKind::Resnet => resnet(c.depth, c.width),
        ModelKind::ResnetB => resnet_b(c.depth, c.width),
        ModelKind::Lenet => Ok(lenet()),
    }
}

/// A network by its short name: `resnet20`, `resnet8-w4` (width 4), `cnn-d3`, `cnn-d2-w24`, `resnet-b18`
/// (width 64), `resnet-b10-w4`, `lenet`.
///
/// # Errors
/// If the name is not of these forms or the sizes are impossible.
pub fn from_name(name: &str) -> Result<Network> {
    let unknown = || {
        Error::setting(
            "model",
            format!(
                "`{name}` is unknown; use resnetN, resnet-bN or cnn-dN, with -wC for another width, or lenet"
            ),
        )
    };
    let (family, width) = match name.split_once("-w") {
        Some((family, width)) => (family, Some(width.parse().map_err(|_| unknown())?)),
        None => (name, None),
    };
    if family == "lenet" {
        return if width.is_none() { Ok(lenet()) } else { Err(unknown()) };
    }
    if let Some(depth) = family.strip_prefix("resnet-b") {
        return resnet_b(depth.parse().map_err(|_| unknown())?, width.unwrap_or(64));
    }
    if let Some(depth) = family.strip_prefix("resnet") {
        return resnet(depth.parse().map_err(|_| unknown())?, width.unwrap_or(16));
    }
    let depth = family.strip_prefix("cnn-d").ok_or_else(unknown)?;
    cnn(depth.parse().map_err(|_| unknown())?, width.unwrap_or(18))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the sizes published with Fig. 2, 269,722 of the released ResNet-20, 11,173,962 of the
    /// common ResNet-18 for CIFAR, and 62,006 of LeNet-5 by its table of layers.
    #[test]
    fn parameter_counts_match_the_paper() {
        for (depth, n_coords) in [(1, 730), (2, 3_700), (3, 6_670), (4, 9_640), (5, 12_610)] {
            assert_eq!(cnn(depth, 18).unwrap().layout().n_coords(), n_coords);
        }
        assert_eq!(cnn(1, 24).unwrap().layout().n_coords(), 970);
        assert_eq!(resnet(20, 16).unwrap().layout().n_coords(), 269_722);
        assert_eq!(resnet_b(18, 64).unwrap().layout().n_coords(), 11_173_962);
        assert_eq!(lenet().layout().n_coords(), 62_006);
    }

    /// Oracle: `state_dict` of the common PyTorch code, without batch-norm buffers; `linear` is `fc` here.
    #[test]
    fn names_and_shapes_are_those_of_pytorch() {
        let shapes = |network: &Network, filter: &str| -> Vec<(String, Vec<usize>)> {
            let specs = network.layout().specs().iter().filter(|spec| spec.name.starts_with(filter));
            specs.map(|spec| (spec.name.clone(), spec.shape.clone())).collect()
        };
        let expected: [(&str, &[usize]); 9] = [
            ("layer2.0.conv1.weight", &[8, 4, 3, 3]),
            ("layer2.0.bn1.weight", &[8]),
            ("layer2.0.bn1.bias", &[8]),
            ("layer2.0.conv2.weight", &[8, 8, 3, 3]),
            ("layer2.0.bn2.weight", &[8]),
            ("layer2.0.bn2.bias", &[8]),
            ("layer2.0.shortcut.0.weight", &[8, 4, 1, 1]),
            ("layer2.0.shortcut.1.weight", &[8]),
            ("layer2.0.shortcut.1.bias", &[8]),
        ];
        let owned = |expected: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
            expected.iter().map(|&(name, shape)| (name.to_owned(), shape.to_vec())).collect()
        };
        let network = resnet_b(18, 4).unwrap();
        assert_eq!(shapes(&network, "layer2.0."), owned(&expected));
        assert_eq!(shapes(&network, "layer1.0.shortcut"), []);
        assert_eq!(shapes(&network, "layer4.1.conv2"), owned(&[("layer4.1.conv2.weight", &[32, 32, 3, 3])]));
        assert_eq!(shapes(&network, "fc"), owned(&[("fc.weight", &[10, 32]), ("fc.bias", &[10])]));
        assert!(network.norm_names().contains(&"layer4.0.shortcut.1"));
        let expected: [(&str, &[usize]); 10] = [
            ("conv1.weight", &[6, 3, 5, 5]),
            ("conv1.bias", &[6]),
            ("conv2.weight", &[16, 6, 5, 5]),
            ("conv2.bias", &[16]),
            ("fc1.weight", &[120, 400]),
            ("fc1.bias", &[120]),
            ("fc2.weight", &[84, 120]),
            ("fc2.bias", &[84]),
            ("fc3.weight", &[10, 84]),
            ("fc3.bias", &[10]),
        ];
        assert_eq!(shapes(&lenet(), ""), owned(&expected));
    }

    #[test]
    fn names_and_bad_sizes() {
        assert_eq!(from_name("resnet20").unwrap().layout().n_coords(), 269_722);
        assert_eq!(from_name("cnn-d3").unwrap().layout().n_coords(), 6_670);
        assert_eq!(from_name("cnn-d1-w24").unwrap().layout().n_coords(), 970);
        assert_eq!(from_name("resnet-b18").unwrap().layout().n_coords(), 11_173_962);
        assert_eq!(from_name("resnet-b10-w3").unwrap().layout(), resnet_b(10, 3).unwrap().layout());
        assert_eq!(from_name("lenet").unwrap().layout().n_coords(), 62_006);
        for bad in [
            "resnet21",
            "resnet",
            "cnn-d0",
            "cnn-d6",
            "cnn-d3-w0",
            "resnet8-w5",
            "resnet-b20",
            "resnet-b2",
            "resnet-b18-w0",
            "resnet-b",
            "lenet-w6",
            "vgg",
        ] {
            assert!(from_name(bad).is_err(), "{bad}");
        }
    }
}
