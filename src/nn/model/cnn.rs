//! The depth-D CNN of the paper's Appendix B: D blocks of convolution 3x3 (padding 1, bias), batch
//! norm, ReLU and 2x2 max pooling, then global average pooling and a linear layer. With 18
//! channels D = 1..5 gives the published sizes 730, 3700, 6670, 9640 and 12610.

use super::{INPUT, N_CLASSES};
use crate::nn::Network;
use crate::nn::graph::Builder;
use crate::nn::layer::{Conv2d, GlobalAvgPool, Linear, MaxPool2, Relu};
use crate::{Error, Result};

/// The CNN with `depth` blocks (1 to 5: each halves the image) of `width` channels.
///
/// # Errors
/// If depth or width is out of range.
pub fn cnn(depth: usize, width: usize) -> Result<Network> {
    if !(1..=5).contains(&depth) {
        return Err(Error::setting("depth", format!("{depth} is not a depth of the CNN; use 1 to 5")));
    }
    if width == 0 {
        return Err(Error::setting("width", "a network needs at least one channel"));
    }
    let (mut builder, mut value) = Builder::new(INPUT);
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
    builder.push("fc", Linear { n_in: width, n_out: N_CLASSES }, &[value]);
    Ok(builder.build())
}
