//! The depth-D CNN of the paper's Appendix B: D blocks of convolution 3x3 (padding 1, bias), batch
//! norm, ReLU and 2x2 max pooling, then global average pooling and a linear layer. With 18
//! channels D = 1..5 gives the published sizes 730, 3700, 6670, 9640 and 12610.

use super::family::{Family, Io};
use crate::nn::Network;
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Conv2d, GlobalAvgPool, Linear, MaxPool2, Relu};
use crate::{Error, Result};

/// The family; depth D blocks, width channels.
pub const FAMILY: Family = Family { name: "cnn", prefix: "cnn-d", default_width: Some(18), check, layers };

/// The CNN with `depth` blocks (each halves the image) of `width` channels.
///
/// # Errors
/// If depth or width is out of range.
pub fn cnn(depth: usize, width: usize, io: &Io) -> Result<Network> {
    FAMILY.build(depth, width, io)
}

fn check(depth: usize, width: usize, io: &Io) -> Result<()> {
    let [_, height, image_width] = io.input;
    let side = height.min(image_width);
    let Some(most) = side.checked_ilog2().filter(|&most| most > 0) else {
        let reason = format!(
            "a cnn halves the image, and there is nothing to halve in {height} x {image_width} pixels"
        );
        return Err(Error::setting("model", reason));
    };
    if !(1..=most as usize).contains(&depth) {
        let reason =
            format!("a cnn has 1 to {most} blocks, each halving the {side} pixel image; got {depth}");
        return Err(Error::setting("depth", reason));
    }
    if width == 0 {
        return Err(Error::setting("width", "a network needs at least one channel"));
    }
    Ok(())
}

fn layers(builder: &mut Builder, input: Value, depth: usize, width: usize, io: &Io) -> Value {
    let mut value = input;
    for block in 0..depth {
        let name = |position: usize| format!("features.{}", 4 * block + position);
        let conv = Conv2d {
            c_in: builder.channels(value),
            c_out: width,
            kernel: 3,
            stride: 1,
            padding: 1,
            has_bias: true,
        };
        value = builder.push(name(0), conv, &[value]);
        value = builder.push_norm(name(1), value);
        value = builder.push(name(2), Relu, &[value]);
        value = builder.push(name(3), MaxPool2, &[value]);
    }
    value = builder.push("pool", GlobalAvgPool, &[value]);
    builder.push("fc", Linear { n_in: width, n_out: io.n_outputs }, &[value])
}
