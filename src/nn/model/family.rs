//! What a family of networks is.

use crate::nn::Network;
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
    pub(super) layers: fn(usize, usize, &Io) -> Network,
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
        (self.check)(depth, width, io)
    }

    /// The network of this `depth` and `width`.
    ///
    /// # Errors
    /// As [`Family::check`].
    pub fn build(&self, depth: usize, width: usize, io: &Io) -> Result<Network> {
        self.check(depth, width, io)?;
        Ok((self.layers)(depth, width, io))
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
