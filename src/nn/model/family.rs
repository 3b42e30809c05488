//! What a family of networks is.

use crate::nn::Network;
use crate::nn::graph::{Builder, Value};
use crate::{Error, Result};

/// What goes into a network, and how much comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Io {
    /// Channels, height and width of an image.
    pub input: [usize; 3],
    /// Numbers per image: classes, for a classifier.
    pub n_outputs: usize,
}

impl Io {
    /// 32 x 32 pixels in three channels, ten classes: CIFAR-10, and the synthetic images.
    pub const CIFAR: Self = Self { input: [3, 32, 32], n_outputs: 10 };
}

/// The deepest network that is built.
pub const MAX_DEPTH: usize = 2_000;
/// The most channels of a first stage. With [`MAX_DEPTH`] it keeps every product of sizes within 64 bits.
pub const MAX_WIDTH: usize = 4_096;
/// The most parameters d of a network: 2 GiB as a vector of f64, of which training holds several.
pub const MAX_PARAMS: usize = 1 << 28;

/// A family of networks, of which `depth` and `width` choose one.
#[derive(Debug)]
pub struct Family {
    /// Name in settings.
    pub name: &'static str,
    /// What short names begin with, before the depth.
    pub prefix: &'static str,
    /// Width of short names that give none; a family without one has no depth either.
    pub default_width: Option<usize>,
    pub(super) check: fn(usize, usize, &Io) -> Result<()>,
    /// Of a depth and width that are sound.
    pub(super) layers: fn(&mut Builder, Value, usize, usize, &Io) -> Value,
}

impl Family {
    /// See [`Family::name`](field@Family::name).
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Checks that there is a network of this `depth` and `width`.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting to change and what it may be.
    pub fn check(&self, depth: usize, width: usize, io: &Io) -> Result<()> {
        if io.input.contains(&0) || io.n_outputs == 0 {
            let reason = format!("no network takes images of {:?} to {} numbers", io.input, io.n_outputs);
            return Err(Error::setting("model", reason));
        }
        for (key, value, most) in [("depth", depth, MAX_DEPTH), ("width", width, MAX_WIDTH)] {
            if value > most {
                return Err(Error::setting(
                    key,
                    format!("expected an integer of at most {most}; got {value}"),
                ));
            }
        }
        (self.check)(depth, width, io)
    }

    /// The network of this `depth` and `width`.
    ///
    /// # Errors
    /// As [`Family::check`].
    pub fn build(&self, depth: usize, width: usize, io: &Io) -> Result<Network> {
        self.check(depth, width, io)?;
        let network =
            Builder::built(io.input, |builder, input| (self.layers)(builder, input, depth, width, io));
        let n_params = network.layout().n_coords();
        if n_params > MAX_PARAMS {
            let reason =
                format!("depth {depth} and width {width} make {n_params} parameters; at most {MAX_PARAMS}");
            return Err(Error::setting("width", reason));
        }
        Ok(network)
    }

    /// Depth and width in a short name, if it is one of this family.
    pub(super) fn parse(&self, name: &str) -> Option<(usize, usize)> {
        let sizes = name.strip_prefix(self.prefix)?;
        let Some(default) = self.default_width else { return sizes.is_empty().then_some((0, 0)) };
        let (depth, width) = match sizes.split_once("-w") {
            Some((depth, width)) => (depth, width.parse().ok()?),
            None => (sizes, default),
        };
        Some((depth.parse().ok()?, width))
    }
}
