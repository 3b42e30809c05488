//! The 8-layer CNN of Boopathy and Fiete (ICML 2022) in the ordinary form: seven 3x3 convolutions with bias (padding 1),
//! each followed by batch norm and a ReLU; the fourth and the sixth halve the image; then global average pooling and a
//! linear layer. The paper does not say which form it trains; `ntk-cnn` is that of the authors' code.

use super::family::{Family, Io};
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Conv2d, GlobalAvgPool, Linear, Relu};
use crate::{Error, Result};

/// The family; depth 8, width channels.
pub const FAMILY: Family =
    Family { name: "wide-cnn", prefix: "wide-cnn", default_width: Some(64), check, layers };

/// Steps of the convolutions.
pub(super) const STRIDES: [usize; 7] = [1, 1, 1, 2, 1, 2, 1];

pub(super) fn check(depth: usize, width: usize, io: &Io) -> Result<()> {
    let [_, height, image_width] = io.input;
    if depth != STRIDES.len() + 1 {
        let reason = format!("this network has {} layers with weights; got {depth}", STRIDES.len() + 1);
        return Err(Error::setting("depth", reason));
    }
    if width == 0 {
        return Err(Error::setting("width", "a network needs at least one channel"));
    }
    if !height.is_multiple_of(4) || !image_width.is_multiple_of(4) {
        let reason = format!(
            "this network halves the image twice; {height} x {image_width} pixels are no multiples of 4"
        );
        return Err(Error::setting("model", reason));
    }
    Ok(())
}

fn layers(builder: &mut Builder, input: Value, _: usize, width: usize, io: &Io) -> Value {
    let mut value = input;
    for (idx, stride) in (1..).zip(STRIDES) {
        let c_in = builder.channels(value);
        let conv = Conv2d { c_in, c_out: width, kernel: 3, stride, padding: 1, has_bias: true };
        value = builder.push(format!("conv{idx}"), conv, &[value]);
        value = builder.push_norm(format!("bn{idx}"), value);
        value = builder.push(format!("relu{idx}"), Relu, &[value]);
    }
    value = builder.push("pool", GlobalAvgPool, &[value]);
    builder.push("fc", Linear { n_in: width, n_out: io.n_outputs }, &[value])
}
