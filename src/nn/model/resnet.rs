//! The CIFAR ResNet of depth 6n+2 (He et al. 2015, Sec. 4.2) with option-A shortcuts: a 3x3
//! convolution, three stages of n basic blocks with 1, 2 and 4 times `width` channels, global
//! average pooling, a linear layer. Depth 20 and width 16 is the paper's ResNet-20.

use super::family::{Family, Io};
use crate::nn::Network;
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Add, Conv2d, GlobalAvgPool, Linear, Relu, ShortcutA};
use crate::{Error, Result};

/// The family; depth 6n+2, width channels in the first stage.
pub const FAMILY: Family =
    Family { name: "resnet", prefix: "resnet", default_width: Some(16), check, layers };

/// The ResNet of `depth` = 6n+2 layers with `width` channels in its first stage, for images of any size.
///
/// # Errors
/// If the depth is not 6n+2 with n ≥ 1, or the width is odd or zero.
pub fn resnet(depth: usize, width: usize, io: &Io) -> Result<Network> {
    FAMILY.build(depth, width, io)
}

fn check(depth: usize, width: usize, _: &Io) -> Result<()> {
    if depth < 8 || depth % 6 != 2 {
        let reason = format!("a resnet has depth 6n+2 (8, 14, 20, 32, …); got {depth}");
        return Err(Error::setting("depth", reason));
    }
    if width == 0 || !width.is_multiple_of(2) {
        let reason = format!(
            "a resnet needs an even width, since its shortcuts pad half of it on each side; got {width}"
        );
        return Err(Error::setting("width", reason));
    }
    Ok(())
}

fn layers(builder: &mut Builder, input: Value, depth: usize, width: usize, io: &Io) -> Value {
    let value = builder.push("conv1", conv3x3(io.input[0], width, 1), &[input]);
    let value = builder.push_norm("bn1", value);
    let mut value = builder.push("relu", Relu, &[value]);
    for stage in 0..3 {
        for block in 0..(depth - 2) / 6 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", stage + 1);
            value = push_block(builder, &name, value, width << stage, stride);
        }
    }
    let value = builder.push("pool", GlobalAvgPool, &[value]);
    builder.push("fc", Linear { n_in: width << 2, n_out: io.n_outputs }, &[value])
}

fn conv3x3(c_in: usize, c_out: usize, stride: usize) -> Conv2d {
    Conv2d { c_in, c_out, kernel: 3, stride, padding: 1, has_bias: false }
}

fn push_block(builder: &mut Builder, name: &str, input: Value, c_out: usize, stride: usize) -> Value {
    let c_in = builder.channels(input);
    let value = builder.push(format!("{name}.conv1"), conv3x3(c_in, c_out, stride), &[input]);
    let value = builder.push_norm(format!("{name}.bn1"), value);
    let value = builder.push(format!("{name}.relu1"), Relu, &[value]);
    let value = builder.push(format!("{name}.conv2"), conv3x3(c_out, c_out, 1), &[value]);
    let value = builder.push_norm(format!("{name}.bn2"), value);
    let shortcut = if stride == 1 && c_in == c_out {
        input
    } else {
        builder.push(format!("{name}.shortcut"), ShortcutA { c_in, c_out }, &[input])
    };
    let value = builder.push(format!("{name}.add"), Add, &[value, shortcut]);
    builder.push(format!("{name}.relu2"), Relu, &[value])
}
