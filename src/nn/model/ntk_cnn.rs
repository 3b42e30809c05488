//! The 8-layer CNN of Boopathy and Fiete (ICML 2022) in the form of their released code: seven 3x3 convolutions in the
//! NTK parametrization with TensorFlow's "SAME" padding, each followed by a normalization over the images alone and a
//! ReLU; the fourth and the sixth halve the image; then global average pooling and a linear layer.

use super::family::{Family, Io};
use super::wide_cnn::{STRIDES, check};
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{GlobalAvgPool, NtkConv, NtkLinear, Relu};

/// The family; depth 8, width channels.
pub const FAMILY: Family =
    Family { name: "ntk-cnn", prefix: "ntk-cnn", default_width: Some(64), check, layers };

fn layers(builder: &mut Builder, input: Value, _: usize, width: usize, io: &Io) -> Value {
    let mut value = input;
    for (idx, stride) in (1..).zip(STRIDES) {
        let conv = NtkConv { c_in: builder.channels(value), c_out: width, stride };
        value = builder.push(format!("conv{idx}"), conv, &[value]);
        value = builder.push_position_norm(format!("norm{idx}"), value);
        value = builder.push(format!("relu{idx}"), Relu, &[value]);
    }
    value = builder.push("pool", GlobalAvgPool, &[value]);
    builder.push("fc", NtkLinear { n_in: width, n_out: io.n_outputs }, &[value])
}
