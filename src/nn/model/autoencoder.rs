//! The convolutional auto-encoder of ZO-AE-DS (Zhang et al., ICLR 2022, whose released code this follows at 32 x 32
//! pixels): an encoder of four strided convolutions to a code of 192 numbers, each followed by a ReLU, and a decoder of
//! four transposed ones that mirrors it and ends in a logistic function.
//!
//! | | encoder | 32 x 32 | 64 x 64 | decoder (transposed) |
//! |---|---|---|---|---|
//! | 1 | 3 to 24, kernel and stride a quarter of 32 pixels: 4 (8 at 64) | 8 x 8 | 8 x 8 | 192 to 96, kernel 2, stride 2 |
//! | 2 | 24 to 48, kernel 3, stride 3, padding 2 | 4 x 4 | 4 x 4 | 96 to 48, kernel 4, stride 2, padding 1 |
//! | 3 | 48 to 96, kernel 4, stride 2, padding 1 | 2 x 2 | 2 x 2 | 48 to 24, kernel 3, stride 3, padding 2 |
//! | 4 | 96 to 192, kernel 2, stride 2 | 1 x 1 | 1 x 1 | 24 to 3, kernel and stride as the first |
//!
//! Images whose side is another multiple of eight have a first kernel of an eighth of it.

use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Conv2d, ConvTranspose2d, Relu, Sigmoid};
use crate::{Error, Result};

/// Numbers of a code.
pub const CODE: usize = 192;
/// Channels after each convolution of the encoder.
const CHANNELS: [usize; 4] = [24, 48, 96, CODE];
/// Kernel, stride and padding of all but the first.
const GEOMETRY: [[usize; 3]; 3] = [[3, 3, 2], [4, 2, 1], [2, 2, 0]];
/// Rows and columns after the first convolution.
const FIRST_SIDE: usize = 8;

/// Checks that there is an auto-encoder for images (C, H, W).
///
/// # Errors
/// [`Error::Setting`] saying what does not fit.
pub fn check([_, height, width]: [usize; 3]) -> Result<()> {
    if height != width || height < FIRST_SIDE || height % FIRST_SIDE != 0 {
        let reason = format!(
            "the auto-encoder takes square images whose side is a multiple of {FIRST_SIDE}; got {height} x {width}: \
             use defense = denoiser"
        );
        return Err(Error::setting("defense", reason));
    }
    Ok(())
}

/// Kernel, stride and padding of the encoder's convolutions.
fn geometry(side: usize) -> [[usize; 3]; 4] {
    let first = side / FIRST_SIDE;
    [[first, first, 0], GEOMETRY[0], GEOMETRY[1], GEOMETRY[2]]
}

/// Appends the encoder, reading `image`: a code of [`CODE`] features.
pub(in crate::nn) fn push_encoder(builder: &mut Builder, image: Value) -> Value {
    let [_, side, _] = builder.shape(image);
    let mut value = image;
    for (idx, ([kernel, stride, padding], c_out)) in geometry(side).into_iter().zip(CHANNELS).enumerate() {
        let c_in = builder.channels(value);
        let conv = Conv2d { c_in, c_out, kernel, stride, padding, has_bias: true };
        value = builder.push(format!("encoder.{}", 2 * idx), conv, &[value]);
        value = builder.push(format!("encoder.{}", 2 * idx + 1), Relu, &[value]);
    }
    value
}

/// Appends the decoder, reading `code`: an image of `channels` channels and `side` rows and columns, in [0, 1].
pub(in crate::nn) fn push_decoder(builder: &mut Builder, code: Value, channels: usize, side: usize) -> Value {
    let mut value = code;
    let outputs = CHANNELS[..3].iter().rev().copied().chain([channels]);
    for (idx, ([kernel, stride, padding], c_out)) in geometry(side).into_iter().rev().zip(outputs).enumerate()
    {
        let c_in = builder.channels(value);
        let conv = ConvTranspose2d { c_in, c_out, kernel, stride, padding };
        value = builder.push(format!("decoder.{}", 2 * idx), conv, &[value]);
        let name = format!("decoder.{}", 2 * idx + 1);
        value =
            if idx < 3 { builder.push(name, Relu, &[value]) } else { builder.push(name, Sigmoid, &[value]) };
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the sizes that the released code comments, and those of this module's table.
    #[test]
    fn codes_and_images_have_the_stated_sizes() {
        for side in [8, 32, 64] {
            check([3, side, side]).unwrap();
            let (mut builder, image) = Builder::new([3, side, side]);
            let code = push_encoder(&mut builder, image);
            assert_eq!(builder.shape(code), [CODE, 1, 1]);
            let image = push_decoder(&mut builder, code, 3, side);
            assert_eq!(builder.shape(image), [3, side, side]);
        }
        assert!(check([3, 32, 64]).is_err());
        assert!(check([3, 36, 36]).is_err());
    }
}
