//! The network that corrects a flow solver: from the velocity and the Reynolds number in every cell to what is added to
//! the velocity. D hidden convolutions 5x5 with ReLU, of which the first has `width` channels and the others twice as
//! many, and a linear one: with depth 2 and width 32 the 56,898 parameters of Um et al.'s `model_mercury`.

use super::family::{Family, Io};
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Conv2d, Flatten, Relu};
use crate::{Error, Result};

/// The family; depth D hidden layers, width channels of the first.
pub const FAMILY: Family =
    Family { name: "corrector", prefix: "corrector-d", default_width: Some(32), check, layers };

/// Rows and columns of a kernel, and zeros around an image.
const KERNEL: usize = 5;
const PADDING: usize = 2;

fn check(depth: usize, width: usize, io: &Io) -> Result<()> {
    let [_, height, image_width] = io.input;
    if io.n_outputs != 2 * height * image_width {
        let reason =
            "a corrector gives two numbers for every place and no classes: it is for task = correct alone";
        return Err(Error::setting("model", reason));
    }
    if depth > 8 {
        return Err(Error::setting("depth", format!("a corrector has 1 to 8 hidden layers; got {depth}")));
    }
    if depth == 0 || width == 0 {
        return Err(Error::setting("width", "a network needs at least one layer and one channel"));
    }
    Ok(())
}

fn layers(builder: &mut Builder, input: Value, depth: usize, width: usize, _: &Io) -> Value {
    let mut value = input;
    let conv = |builder: &mut Builder, layer: usize, input, c_out| {
        let c_in = builder.channels(input);
        let conv = Conv2d { c_in, c_out, kernel: KERNEL, stride: 1, padding: PADDING, has_bias: true };
        builder.push(format!("conv{layer}"), conv, &[input])
    };
    for layer in 1..=depth {
        value = conv(builder, layer, value, if layer == 1 { width } else { 2 * width });
        value = builder.push(format!("relu{layer}"), Relu, &[value]);
    }
    value = conv(builder, depth + 1, value, 2);
    builder.push("flatten", Flatten, &[value])
}
