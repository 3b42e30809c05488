//! The section of settings that describes a network.

use crate::kernels::Precision;
use crate::params::Init;
use crate::setting::Domain::Int;

use super::model::ModelKind;

crate::section! {
    /// A network and its arithmetic.
    pub struct Config {
        /// Network family.
        pub model: ModelKind = ModelKind::Resnet,
        /// Depth: blocks of the CNN, 6n+2 of the ResNet, 8n+2 of ResNet-B.
        pub depth: usize = 20 => Int(1),
        /// Channels of the CNN, or of a ResNet's first stage.
        pub width: usize = 16 => Int(1),
        /// Arithmetic of the forward pass.
        pub precision: Precision = Precision::F32,
        /// How parameters start.
        pub init: Init = Init::Kaiming,
    }
}

impl crate::setting::Plain for ModelKind {
    const DOMAIN: crate::setting::Domain =
        crate::setting::Domain::Name(|| vec!["cnn", "resnet", "resnet-b", "lenet"]);
    fn into_value(self) -> toml::Value {
        toml::Value::try_from(self).expect("name")
    }
    fn from_value(value: &toml::Value) -> Option<Self> {
        value.clone().try_into().ok()
    }
}
