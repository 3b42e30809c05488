//! LeNet-5 for CIFAR-10, as the authors of Pattern Search train it (Chiang et al. 2023): two
//! convolutions 5x5 without padding, each with ReLU and 2x2 max pooling, to 6 and 16 channels; then
//! linear layers to 120, 84 and 10 features with ReLU between them. Biases everywhere, no batch norm:
//! 62,006 parameters.

use super::family::{Family, Io};
use crate::nn::Network;
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Conv2d, Flatten, Linear, MaxPool2, Relu};
use crate::{Error, Result};

/// The family, of one size.
pub const FAMILY: Family = Family { name: "lenet", prefix: "lenet", default_width: None, check, layers };

/// Output channels of the convolutions.
const CHANNELS: [usize; 2] = [6, 16];
/// Output features of the hidden linear layers.
const HIDDEN: [usize; 2] = [120, 84];
/// Rows and columns of the kernels.
const KERNEL: usize = 5;

/// LeNet-5.
///
/// # Errors
/// If the images are too small for its convolutions.
pub fn lenet(io: &Io) -> Result<Network> {
    FAMILY.build(0, 0, io)
}

/// Pixels of a side of `n` behind both convolutions and poolings.
fn side(n: usize) -> usize {
    CHANNELS.iter().fold(n, |n, _| (n + 1).saturating_sub(KERNEL) / 2)
}

fn check(_: usize, _: usize, io: &Io) -> Result<()> {
    let [_, height, width] = io.input;
    if side(height.min(width)) == 0 {
        let reason = format!("lenet needs images of 16 x 16 pixels or more; got {height} x {width}");
        return Err(Error::setting("model", reason));
    }
    Ok(())
}

fn layers(builder: &mut Builder, input: Value, _: usize, _: usize, io: &Io) -> Value {
    let [_, height, width] = io.input;
    let mut value = input;
    for (number, c_out) in (1..).zip(CHANNELS) {
        value = push_conv(builder, number, c_out, value);
    }
    value = builder.push("flatten", Flatten, &[value]);
    let mut n_in = CHANNELS[1] * side(height) * side(width);
    for (number, n_out) in (1..).zip(HIDDEN) {
        value = builder.push(format!("fc{number}"), Linear { n_in, n_out }, &[value]);
        value = builder.push(format!("fc{number}.relu"), Relu, &[value]);
        n_in = n_out;
    }
    builder.push("fc3", Linear { n_in, n_out: io.n_outputs }, &[value])
}

fn push_conv(builder: &mut Builder, number: usize, c_out: usize, input: Value) -> Value {
    let c_in = builder.channels(input);
    let conv = Conv2d { c_in, c_out, kernel: KERNEL, stride: 1, padding: 0, has_bias: true };
    let value = builder.push(format!("conv{number}"), conv, &[input]);
    let value = builder.push(format!("conv{number}.relu"), Relu, &[value]);
    builder.push(format!("conv{number}.pool"), MaxPool2, &[value])
}
