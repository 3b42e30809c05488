//! The CIFAR ResNet of depth 8n+2 with option-B shortcuts: a 3x3 convolution, four stages of n basic
//! blocks with 1, 2, 4 and 8 times `width` channels, global average pooling, a linear layer. Where a
//! block changes the size, its shortcut is a 1x1 convolution and a batch norm. Depth 18 and width 64 is
//! the ResNet-18 that is common for CIFAR: no max pooling, 11,173,962 parameters.

use super::family::{Family, Io};
use crate::nn::Network;
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Add, Conv2d, GlobalAvgPool, Linear, Relu};
use crate::{Error, Result};

/// The family; depth 8n+2, width channels in the first stage.
pub const FAMILY: Family =
    Family { name: "resnet-b", prefix: "resnet-b", default_width: Some(64), check, layers };

const N_STAGES: usize = 4;

/// The ResNet of `depth` = 8n+2 layers with `width` channels in its first stage, for images of any size.
///
/// # Errors
/// If the depth is not 8n+2 with n ≥ 1, or the width is zero.
pub fn resnet_b(depth: usize, width: usize, io: &Io) -> Result<Network> {
    FAMILY.build(depth, width, io)
}

fn check(depth: usize, width: usize, _: &Io) -> Result<()> {
    if depth < 10 || depth % 8 != 2 {
        let reason = format!("a resnet-b has depth 8n+2 (10, 18, 26, …); got {depth}");
        return Err(Error::setting("depth", reason));
    }
    if width == 0 {
        return Err(Error::setting("width", "a network needs at least one channel"));
    }
    Ok(())
}

fn layers(builder: &mut Builder, input: Value, depth: usize, width: usize, io: &Io) -> Value {
    let value = builder.push("conv1", conv(io.input[0], width, 3, 1), &[input]);
    let value = builder.push_norm("bn1", value);
    let mut value = builder.push("relu", Relu, &[value]);
    for stage in 0..N_STAGES {
        for block in 0..(depth - 2) / 8 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", stage + 1);
            value = push_block(builder, &name, value, width << stage, stride);
        }
    }
    let value = builder.push("pool", GlobalAvgPool, &[value]);
    builder.push("fc", Linear { n_in: width << (N_STAGES - 1), n_out: io.n_outputs }, &[value])
}

/// Without bias, padded so that stride 1 keeps the size.
fn conv(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Conv2d {
    Conv2d { c_in, c_out, kernel, stride, padding: kernel / 2, has_bias: false }
}

fn push_block(builder: &mut Builder, name: &str, input: Value, c_out: usize, stride: usize) -> Value {
    let c_in = builder.channels(input);
    let value = builder.push(format!("{name}.conv1"), conv(c_in, c_out, 3, stride), &[input]);
    let value = builder.push_norm(format!("{name}.bn1"), value);
    let value = builder.push(format!("{name}.relu1"), Relu, &[value]);
    let value = builder.push(format!("{name}.conv2"), conv(c_out, c_out, 3, 1), &[value]);
    let value = builder.push_norm(format!("{name}.bn2"), value);
    let shortcut = if stride == 1 && c_in == c_out {
        input
    } else {
        let side = builder.push(format!("{name}.shortcut.0"), conv(c_in, c_out, 1, stride), &[input]);
        builder.push_norm(format!("{name}.shortcut.1"), side)
    };
    let value = builder.push(format!("{name}.add"), Add, &[value, shortcut]);
    builder.push(format!("{name}.relu2"), Relu, &[value])
}
