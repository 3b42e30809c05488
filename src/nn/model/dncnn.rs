//! DnCNN, the denoiser of denoised smoothing (Zhang et al., IEEE TIP 2017; Salman et al., NeurIPS 2020, whose released
//! code this follows): a convolution with bias and a ReLU, then convolutions without bias, each with a batch norm and a
//! ReLU, and a last convolution; its output is subtracted from the image. Convolutions start orthogonal and the last one
//! at zero, so that it starts as the identity.

use super::family::{MAX_DEPTH, MAX_WIDTH};
use crate::nn::Network;
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Conv2d, Relu, Subtract};
use crate::params::Start;
use crate::{Error, Result};

/// Added to variances.
pub const EPSILON: f64 = 1e-4;
/// Weight of a new batch in the running statistics: they are nearly those of the last batch.
pub const MOMENTUM: f64 = 0.95;

/// A denoiser of `depth` convolutions with `width` channels, for images (C, H, W). With 17 and 64 that of the released
/// code, 558,400 parameters for three channels.
///
/// # Errors
/// [`Error::Setting`] if there is none of that size.
pub fn dncnn(depth: usize, width: usize, input: [usize; 3]) -> Result<Network> {
    check(depth, width)?;
    Ok(Builder::built(input, |builder, image| push(builder, image, depth, width)))
}

/// Checks that there is a denoiser of `depth` convolutions with `width` channels.
///
/// # Errors
/// [`Error::Setting`] naming the setting to change and what it may be.
pub fn check(depth: usize, width: usize) -> Result<()> {
    if !(2..=MAX_DEPTH).contains(&depth) {
        return Err(Error::setting("denoiser-depth", format!("2 to {MAX_DEPTH} convolutions; got {depth}")));
    }
    if !(1..=MAX_WIDTH).contains(&width) {
        return Err(Error::setting("denoiser-width", format!("1 to {MAX_WIDTH} channels; got {width}")));
    }
    Ok(())
}

/// Appends it to a network, reading `image`; depth and width are sound.
pub fn push(builder: &mut Builder, image: Value, depth: usize, width: usize) -> Value {
    let channels = builder.channels(image);
    let conv = |c_in, c_out, has_bias| Conv2d { c_in, c_out, kernel: 3, stride: 1, padding: 1, has_bias };
    let name = |place: usize| format!("dncnn.{place}");
    let mut value = builder.push(name(0), conv(channels, width, true), &[image]);
    builder.start_last(&[Start::Orthogonal, Start::Zero]);
    value = builder.push(name(1), Relu, &[value]);
    for layer in 0..depth - 2 {
        let place = 2 + 3 * layer;
        value = builder.push(name(place), conv(width, width, false), &[value]);
        builder.start_last(&[Start::Orthogonal]);
        value = builder.push_norm_with(name(place + 1), value, EPSILON, MOMENTUM);
        value = builder.push(name(place + 2), Relu, &[value]);
    }
    value = builder.push(last_layer(depth), conv(width, channels, false), &[value]);
    builder.start_last(&[Start::Zero]);
    builder.push("residual", Subtract, &[image, value])
}

/// The name of the last convolution.
#[must_use]
pub fn last_layer(depth: usize) -> String {
    format!("dncnn.{}", 3 * depth - 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the count of the released code, 1,792 + 15 (36,864 + 128) + 1,728.
    #[test]
    fn it_has_the_published_size() {
        let network = dncnn(17, 64, [3, 32, 32]).unwrap();
        assert_eq!(network.layout().n_coords(), 558_400);
        assert_eq!(network.n_outputs(), 3 * 32 * 32);
        assert_eq!(last_layer(17), "dncnn.47");
        assert!(dncnn(1, 64, [3, 32, 32]).is_err());
        assert!(dncnn(17, 0, [3, 32, 32]).is_err());
    }
}
