//! LocalMixer, the network of local forward gradients (Ren et al., ICLR 2023, arXiv 2210.03310): an MLP-Mixer whose
//! channels fall into groups, with a head for a local loss behind every block.
//!
//! Images are cut into T patches, the tokens. Each linear layer, of groups of channels or of all of them (one group),
//! stands between two layer norms without scale and shift, and a ReLU follows:
//!
//! ```text
//! block 0   h = ReLU(N(fc(N(patches))))                 h = ReLU(N(group(N(h))))
//! others    z = ReLU(N(token(N(h))))   z = ReLU(N(channel(N(z))))   h = ReLU(N(group(N(z))) + h)
//! output    fc(N(mean of h over the tokens))
//! ```
//!
//! `token` mixes the tokens of every channel, `channel` (and `fc`) the channels of every token, `group` those of every
//! group. With four blocks and 8x8 patches of 32x32 pixels, D = 512 channels in 16 groups are the paper's M/8/16 with
//! 918,770 parameters, D = 2,048 in 64 groups its L/8/64 with 13,074,674, heads included.

use super::family::{Family, Io};
use crate::nn::Network;
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{
    Add, ChannelMixing, Flatten, GroupedLinear, LayerNorm, LocalHead, Patches, Relu, TokenMean, TokenMixing,
    mixer_start,
};
use crate::params::{Layout, Start};
use crate::{Error, Result};

/// The family; depth D blocks, width channels in groups of 32, patches of 4x4 pixels.
pub const FAMILY: Family =
    Family { name: "local-mixer", prefix: "local-mixer-d", default_width: Some(512), check, layers };

/// Pixels of a patch's side, in networks by name.
const PATCH: usize = 4;
/// Channels of a group, in networks by name: those of M/8/16 and of L/8/64.
const GROUP: usize = 32;

/// The sizes of a LocalMixer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Channels D.
    pub channels: usize,
    /// Groups G of channels.
    pub groups: usize,
    /// Blocks.
    pub blocks: usize,
}

/// What a linear layer of a LocalMixer mixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixing {
    /// The tokens of every channel.
    Tokens,
    /// The channels of every token.
    Channels,
    /// The channels of every group of every token.
    Groups,
}

/// The linear layers of block number `block`, by name, in order.
#[must_use]
pub fn linear_layers(block: usize) -> &'static [(&'static str, Mixing)] {
    const FIRST: &[(&str, Mixing)] = &[("fc", Mixing::Channels), ("group", Mixing::Groups)];
    const OTHERS: &[(&str, Mixing)] =
        &[("token", Mixing::Tokens), ("channel", Mixing::Channels), ("group", Mixing::Groups)];
    if block == 0 { FIRST } else { OTHERS }
}

impl Sizes {
    /// Those of a network of the family by its depth and width.
    #[must_use]
    pub fn named(depth: usize, width: usize) -> Self {
        Self { patch: PATCH, channels: width, groups: width / GROUP, blocks: depth }
    }

    /// Those that a network has, by its parameters.
    ///
    /// # Errors
    /// If it is no LocalMixer.
    pub fn of(network: &Network) -> Result<Self> {
        let layout: &Layout = network.layout();
        let shape = |name: &str| {
            let spec = layout.specs().iter().find(|spec| spec.name == name);
            spec.map(|spec| spec.shape.as_slice())
        };
        let blocks = (0..).take_while(|block| shape(&format!("heads.{block}.weight")).is_some()).count();
        match (shape("blocks.0.fc.weight"), shape("blocks.0.group.weight")) {
            (Some(&[channels, n_in]), Some(&[groups, ..])) if blocks > 0 => {
                Ok(Self { patch: (n_in / network.input()[0]).isqrt(), channels, groups, blocks })
            }
            _ => Err(Error::setting("model", "this network is no local-mixer")),
        }
    }

    /// Checks that there is such a network for these images.
    ///
    /// # Errors
    /// [`Error::Setting`] saying what does not fit.
    pub fn check(&self, io: &Io) -> Result<()> {
        let Self { patch, channels, groups, blocks } = *self;
        let [_, height, width] = io.input;
        if patch == 0 || height % patch != 0 || width % patch != 0 {
            let reason = format!(
                "a local-mixer cuts images into patches of {patch} x {patch} pixels, which {height} x {width} \
                 pixels do not fill; use images whose sides are multiples of {patch}"
            );
            return Err(Error::setting("model", reason));
        }
        if blocks == 0 {
            return Err(Error::setting("depth", "a local-mixer has 1 block or more; got 0"));
        }
        if groups == 0 || channels == 0 || channels % groups != 0 {
            let reason = format!("{channels} channels do not fall into {groups} equal groups");
            return Err(Error::setting("width", reason));
        }
        Ok(())
    }
}

/// The LocalMixer of these sizes.
///
/// # Errors
/// As [`Sizes::check`].
pub fn local_mixer(sizes: &Sizes, io: &Io) -> Result<Network> {
    sizes.check(io)?;
    Ok(Builder::built(io.input, |builder, input| network(builder, input, sizes, io)))
}

fn check(depth: usize, width: usize, io: &Io) -> Result<()> {
    if width == 0 || !width.is_multiple_of(GROUP) {
        let reason = format!(
            "a local-mixer has groups of {GROUP} channels: use a multiple of {GROUP}, such as 512 for M/8/16 or 2048 \
             for L/8/64 (both with depth 4); got {width}"
        );
        return Err(Error::setting("width", reason));
    }
    Sizes::named(depth, width).check(io)
}

fn layers(builder: &mut Builder, input: Value, depth: usize, width: usize, io: &Io) -> Value {
    network(builder, input, &Sizes::named(depth, width), io)
}

fn network(builder: &mut Builder, image: Value, sizes: &Sizes, io: &Io) -> Value {
    let Sizes { patch, channels, groups, blocks } = *sizes;
    let [pixel_channels, height, width] = io.input;
    let tokens = (height / patch) * (width / patch);
    let mut h = builder.push("patches", Patches { size: patch }, &[image]);
    for block in 0..blocks {
        let mut z = h;
        for &(name, mixing) in linear_layers(block) {
            let name = format!("blocks.{block}.{name}");
            let groups = if mixing == Mixing::Groups { groups } else { 1 };
            z = builder.push(format!("{name}.norm_in"), LayerNorm { groups }, &[z]);
            z = match mixing {
                Mixing::Tokens => builder.push(name.as_str(), TokenMixing { tokens }, &[z]),
                Mixing::Groups => builder.push(name.as_str(), GroupedLinear { channels, groups }, &[z]),
                Mixing::Channels => {
                    let n_in = if block == 0 { pixel_channels * patch * patch } else { channels };
                    push_channels(builder, &name, n_in, channels, mixer_start(n_in), z)
                }
            };
            z = builder.push(format!("{name}.norm_out"), LayerNorm { groups }, &[z]);
            if block > 0 && mixing == Mixing::Groups {
                z = builder.push(format!("{name}.add"), Add, &[z, h]);
            }
            z = builder.push(format!("{name}.relu"), Relu, &[z]);
        }
        h = builder.push(format!("heads.{block}"), LocalHead { n_in: channels, n_out: io.n_outputs }, &[z]);
    }
    let mean = builder.push("mean", TokenMean, &[h]);
    let features = builder.push("norm", LayerNorm { groups: 1 }, &[mean]);
    let logits = push_channels(builder, "fc", channels, io.n_outputs, Start::Zero, features);
    builder.push("logits", Flatten, &[logits])
}

fn push_channels(
    builder: &mut Builder,
    name: &str,
    n_in: usize,
    n_out: usize,
    start: Start,
    input: Value,
) -> Value {
    builder.push(name, ChannelMixing { n_in, n_out, start }, &[input])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model;

    /// Oracle: the sizes of the paper's M/8/16 (919K) and L/8/64 (13.1M), counted with five linear heads.
    #[test]
    fn parameter_counts_match_the_paper() {
        let count = |name: &str| model::from_name(name, &Io::CIFAR).unwrap().layout().n_coords();
        assert_eq!(count("local-mixer-d4"), 918_770);
        assert_eq!(count("local-mixer-d4-w512"), 918_770);
        assert_eq!(count("local-mixer-d4-w2048"), 13_074_674);
    }

    /// Oracle: the released law of initial weights, min(2 / sqrt(fan-in), 0.1), and its zeros; five standard errors.
    #[test]
    fn parameters_start_as_released() {
        let network = model::from_name("local-mixer-d2-w512", &Io::CIFAR).unwrap();
        let values = network.layout().initial_values(3);
        for (idx, spec) in network.layout().specs().iter().enumerate() {
            let values = &values[network.layout().range(idx)];
            let std = match spec.name.as_str() {
                name if name.ends_with("bias") || name == "fc.weight" => 0.0,
                "blocks.1.channel.weight" | "heads.0.weight" | "heads.1.weight" => 2.0 / 512f64.sqrt(),
                _ => 0.1,
            };
            let n = values.len() as f64;
            let variance = values.iter().map(|value| value * value).sum::<f64>() / n;
            let error = (variance - std * std).abs();
            assert!(error <= 5.0 * std * std * (2.0 / n).sqrt(), "{}: {variance}", spec.name);
        }
    }

    #[test]
    fn sizes_are_read_back_and_bad_ones_refused() {
        let sizes = Sizes { patch: 8, channels: 12, groups: 3, blocks: 2 };
        assert_eq!(Sizes::of(&local_mixer(&sizes, &Io::CIFAR).unwrap()).unwrap(), sizes);
        assert!(Sizes::of(&model::lenet(&Io::CIFAR).unwrap()).is_err());
        let reason = |name: &str, io: &Io| model::from_name(name, io).unwrap_err().to_string();
        let found = reason("local-mixer-d4-w16", &Io::CIFAR);
        assert!(
            found.contains("width") && found.contains("multiple of 32") && found.contains("16"),
            "{found}"
        );
        let odd = Io { input: [1, 28, 30], n_outputs: 7 };
        assert!(reason("local-mixer-d1-w32", &odd).contains("multiples of 4"));
        assert!(reason("local-mixer-d0-w32", &Io::CIFAR).contains("1 block or more"));
        for sizes in [Sizes { groups: 5, ..sizes }, Sizes { blocks: 0, ..sizes }, Sizes { patch: 0, ..sizes }]
        {
            assert!(local_mixer(&sizes, &Io::CIFAR).is_err(), "{sizes:?}");
        }
        assert!(model::from_name("local-mixer-d1-w32", &Io { input: [1, 28, 32], n_outputs: 7 }).is_ok());
    }
}
