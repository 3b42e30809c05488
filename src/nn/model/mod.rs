//! The networks of the experiments: families, each one file with the rule of its sizes.

pub mod autoencoder;
pub mod cnn;
pub mod corrector;
pub mod defended;
pub mod dncnn;
mod family;
pub mod lenet;
pub mod local_mixer;
pub mod ntk_cnn;
pub mod resnet;
pub mod resnet_b;
pub mod wide_cnn;

pub use cnn::cnn;
pub use defended::Defended;
pub use dncnn::dncnn;
pub use family::{Family, Io, MAX_DEPTH, MAX_PARAMS, MAX_WIDTH};
pub use lenet::lenet;
pub use local_mixer::local_mixer;
pub use resnet::resnet;
pub use resnet_b::resnet_b;

use super::{Config, Network};
use crate::error::shortened;
use crate::setting::Settings;
use crate::{Error, Result};

/// Every family. A new one is a file beside these, and a line here.
pub static FAMILIES: &[&Family] = &[
    &resnet::FAMILY,
    &resnet_b::FAMILY,
    &cnn::FAMILY,
    &lenet::FAMILY,
    &wide_cnn::FAMILY,
    &ntk_cnn::FAMILY,
    &local_mixer::FAMILY,
    &corrector::FAMILY,
];

crate::registered!(Family, FAMILIES);

/// The network that `settings` describe.
///
/// # Errors
/// If depth or width is impossible for the family or its input.
pub fn of(settings: &Settings, io: &Io) -> Result<Network> {
    let Config { model, depth, width, .. } = settings.read()?;
    model.build(depth, width, io)
}

/// A network by its short name: `resnet20`, `resnet8-w4` (width 4), `cnn-d3`, `cnn-d2-w24`, `resnet-b18`
/// (width 64), `resnet-b10-w4`, `lenet`.
///
/// # Errors
/// If the name is not of these forms or the sizes are impossible.
pub fn from_name(name: &str, io: &Io) -> Result<Network> {
    let found = FAMILIES.iter().find_map(|family| Some((family, family.parse(name)?)));
    match found {
        Some((family, (depth, width))) => family.build(depth, width, io),
        None => Err(Error::setting("model", format!("`{}` is unknown; use {}", shortened(name), forms()))),
    }
}

/// The forms of short names.
fn forms() -> String {
    let sized = FAMILIES.iter().filter(|family| family.default_width.is_some());
    let sized: Vec<String> = sized.map(|family| format!("{}N", family.prefix)).collect();
    let fixed = FAMILIES.iter().filter(|family| family.default_width.is_none());
    let fixed: Vec<&str> = fixed.map(|family| family.prefix).collect();
    let all_but_last = sized[..sized.len() - 1].join(", ");
    format!(
        "{all_but_last} or {}, with -wC for another width, or {}",
        sized[sized.len() - 1],
        fixed.join(", or ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::Plain;

    /// Oracle: the sizes published with Fig. 2, 269,722 of the released ResNet-20, 11,173,962 of the
    /// common ResNet-18 for CIFAR, and 62,006 of LeNet-5 by its table of layers.
    #[test]
    fn parameter_counts_match_the_paper() {
        for (depth, n_coords) in [(1, 730), (2, 3_700), (3, 6_670), (4, 9_640), (5, 12_610)] {
            assert_eq!(cnn(depth, 18, &Io::CIFAR).unwrap().layout().n_coords(), n_coords);
        }
        assert_eq!(cnn(1, 24, &Io::CIFAR).unwrap().layout().n_coords(), 970);
        assert_eq!(resnet(20, 16, &Io::CIFAR).unwrap().layout().n_coords(), 269_722);
        assert_eq!(resnet_b(18, 64, &Io::CIFAR).unwrap().layout().n_coords(), 11_173_962);
        assert_eq!(lenet(&Io::CIFAR).unwrap().layout().n_coords(), 62_006);
    }

    /// Oracle: the size published with the solver in the loop, and by hand for one hidden layer of 4 channels.
    #[test]
    fn the_corrector_has_the_published_size() {
        let io = Io { input: [3, 64, 32], n_outputs: 2 * 64 * 32 };
        assert_eq!(corrector::FAMILY.build(2, 32, &io).unwrap().layout().n_coords(), 56_898);
        assert_eq!(corrector::FAMILY.build(1, 4, &io).unwrap().layout().n_coords(), 304 + 202);
        let refused = corrector::FAMILY.build(2, 32, &Io::CIFAR).unwrap_err().to_string();
        assert!(refused.contains("task = correct alone"), "{refused}");
    }

    /// Oracle: 9·3w + w + 6 (9 w² + w) + 10 w + 10; at width 512 the 14.18 million of Fig. 1.
    #[test]
    fn the_wide_cnn_has_the_published_size() {
        let published = [
            (8, 3_818),
            (16, 14_538),
            (32, 56_714),
            (64, 224_010),
            (128, 890_378),
            (256, 3_550_218),
            (512, 14_178_314),
        ];
        for (width, n_coords) in published {
            let network = ntk_cnn::FAMILY.build(8, width, &Io::CIFAR).unwrap();
            assert_eq!(network.layout().n_coords(), n_coords);
            // Batch norm's scales and shifts beside.
            let network = wide_cnn::FAMILY.build(8, width, &Io::CIFAR).unwrap();
            assert_eq!(network.layout().n_coords(), n_coords + 14 * width);
        }
        for (depth, width) in [(7, 8), (8, 0)] {
            assert!(wide_cnn::FAMILY.build(depth, width, &Io::CIFAR).is_err());
        }
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
        let network = resnet_b(18, 4, &Io::CIFAR).unwrap();
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
        assert_eq!(shapes(&lenet(&Io::CIFAR).unwrap(), ""), owned(&expected));
    }

    #[test]
    fn names_and_bad_sizes() {
        assert_eq!(from_name("resnet20", &Io::CIFAR).unwrap().layout().n_coords(), 269_722);
        assert_eq!(from_name("cnn-d3", &Io::CIFAR).unwrap().layout().n_coords(), 6_670);
        assert_eq!(from_name("cnn-d1-w24", &Io::CIFAR).unwrap().layout().n_coords(), 970);
        assert_eq!(from_name("resnet-b18", &Io::CIFAR).unwrap().layout().n_coords(), 11_173_962);
        assert_eq!(
            from_name("resnet-b10-w3", &Io::CIFAR).unwrap().layout(),
            resnet_b(10, 3, &Io::CIFAR).unwrap().layout()
        );
        assert_eq!(from_name("lenet", &Io::CIFAR).unwrap().layout().n_coords(), 62_006);
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
            assert!(from_name(bad, &Io::CIFAR).is_err(), "{bad}");
        }
    }

    /// Oracle: the rules of convolution and pooling. LeNet-5 on the 28 x 28 pixels of MNIST has planes of 4 x 4.
    #[test]
    fn families_take_other_images() {
        let mnist = Io { input: [1, 28, 28], n_outputs: 7 };
        let shape_of = |network: &Network, name: &str| {
            let spec = network.layout().specs().iter().find(|spec| spec.name == name);
            spec.map(|spec| spec.shape.clone())
        };
        let network = lenet(&mnist).unwrap();
        assert_eq!(shape_of(&network, "conv1.weight"), Some(vec![6, 1, 5, 5]));
        assert_eq!(shape_of(&network, "fc1.weight"), Some(vec![120, 256]));
        for name in ["resnet8-w2", "resnet-b10-w2", "cnn-d4-w3"] {
            let network = from_name(name, &mnist).unwrap();
            assert_eq!(shape_of(&network, "fc.bias"), Some(vec![7]), "{name}");
        }
        let reason = |name: &str, io: &Io| from_name(name, io).unwrap_err().to_string();
        assert!(reason("cnn-d5", &mnist).contains("1 to 4 blocks, each halving the 28 pixel image; got 5"));
        let tiny = Io { input: [3, 1, 15], n_outputs: 2 };
        assert!(reason("cnn-d1", &tiny).contains("nothing to halve in 1 x 15 pixels"));
        assert!(reason("lenet", &tiny).contains("16 x 16 pixels or more; got 1 x 15"));
        assert!(lenet(&Io { input: [3, 16, 16], n_outputs: 2 }).is_ok());
        assert!(lenet(&Io { input: [3, 15, 16], n_outputs: 2 }).is_err());
        assert!(from_name("resnet8", &tiny).is_ok());
        assert!(from_name("resnet8", &Io { input: [0, 32, 32], n_outputs: 2 }).is_err());
        let unknown = "use resnetN, resnet-bN, cnn-dN, wide-cnnN, ntk-cnnN, local-mixer-dN or corrector-dN, with -wC for another width, or lenet";
        assert!(reason("vgg", &mnist).contains(unknown));
        for &family in FAMILIES {
            let found = <&Family as Plain>::from_value(&family.name.into()).unwrap();
            assert!(std::ptr::eq(found, family));
        }
    }
}
