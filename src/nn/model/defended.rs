//! A classifier with something in front of it: a denoiser, or a denoiser and an encoder whose decoder stands before the
//! classifier. The front is trained; what is behind it is only asked.

use super::family::{Family, Io};
use super::{autoencoder, dncnn};
use crate::Result;
use crate::nn::graph::{Builder, Value};
use crate::nn::stats::NormStats;
use crate::nn::{Network, RunningStats};

/// Sizes of all parts. Images are in [0, 1] before the front and behind it; the classifier's own normalization of
/// channels is a part of what is behind.
#[derive(Debug, Clone, Copy)]
pub struct Defended {
    /// Convolutions and channels of the denoiser.
    pub denoiser: [usize; 2],
    /// Whether images pass through a code.
    pub has_code: bool,
    /// The classifier's family.
    pub family: &'static Family,
    /// Its depth and width.
    pub classifier: [usize; 2],
    /// Images and classes.
    pub io: Io,
}

/// The layer that normalizes channels: a batch norm whose statistics are those of the data set.
const NORMALIZE: &str = "normalize";
/// Before the classifier's names.
const CLASSIFIER: &str = "classifier.";

impl Defended {
    /// Checks the sizes.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] naming the setting to change and what it may be.
    pub fn check(&self) -> Result<()> {
        let [depth, width] = self.classifier;
        self.family.check(depth, width, &self.io)?;
        let [depth, width] = self.denoiser;
        dncnn::check(depth, width)?;
        if self.has_code { autoencoder::check(self.io.input) } else { Ok(()) }
    }

    /// What is trained: from images to images, or to codes.
    #[must_use]
    pub fn front(&self) -> Network {
        Builder::built(self.io.input, |builder, image| self.push_front(builder, image))
    }

    /// What is asked: from what the front gives to logits.
    #[must_use]
    pub fn behind(&self) -> Network {
        let input = if self.has_code { [autoencoder::CODE, 1, 1] } else { self.io.input };
        Builder::built(input, |builder, value| self.push_behind(builder, value))
    }

    /// Both as one: the front's parameters and statistics, then those behind.
    #[must_use]
    pub fn whole(&self) -> Network {
        Builder::built(self.io.input, |builder, image| {
            let value = self.push_front(builder, image);
            self.push_behind(builder, value)
        })
    }

    /// The classifier alone, for images in [0, 1]: what is behind without a decoder.
    #[must_use]
    pub fn alone(&self) -> Network {
        Self { has_code: false, ..*self }.behind()
    }

    /// An encoder and its decoder, for images in [0, 1].
    #[must_use]
    pub fn autoencoder(&self) -> Network {
        Builder::built(self.io.input, |builder, image| {
            let code = autoencoder::push_encoder(builder, image);
            self.push_decoder(builder, code)
        })
    }

    /// The name of the tensor of the denoiser's last layer.
    #[must_use]
    pub fn last_weight(&self) -> String {
        format!("{}.weight", dncnn::last_layer(self.denoiser[0]))
    }

    fn push_front(&self, builder: &mut Builder, image: Value) -> Value {
        let [depth, width] = self.denoiser;
        let image = dncnn::push(builder, image, depth, width);
        if self.has_code { autoencoder::push_encoder(builder, image) } else { image }
    }

    fn push_decoder(&self, builder: &mut Builder, code: Value) -> Value {
        let [channels, side, _] = self.io.input;
        autoencoder::push_decoder(builder, code, channels, side)
    }

    fn push_behind(&self, builder: &mut Builder, value: Value) -> Value {
        let image = if self.has_code { self.push_decoder(builder, value) } else { value };
        let image = builder.push_norm_with(NORMALIZE, image, 0.0, 0.0);
        builder.set_prefix(CLASSIFIER);
        let [depth, width] = self.classifier;
        (self.family.layers)(builder, image, depth, width, &self.io)
    }

    /// Parameters and statistics of what is behind, from those of the decoder, if there is one, and the classifier,
    /// and the mean and standard deviation of every channel that the classifier expects.
    #[must_use]
    pub fn state_behind(
        &self,
        decoder: &[f64],
        classifier: (&[f64], &RunningStats),
        [mean, std]: [&[f64]; 2],
    ) -> (Vec<f64>, RunningStats) {
        let (params, stats) = classifier;
        let channels = mean.len();
        let identity = std::iter::repeat_n(1.0, channels).chain(std::iter::repeat_n(0.0, channels));
        let decoder: &[f64] = if self.has_code { decoder } else { &[] };
        let params = decoder.iter().copied().chain(identity).chain(params.iter().copied()).collect();
        let normalize =
            NormStats { mean: mean.to_vec(), variance: std.iter().map(|std| std * std).collect() };
        let layers = std::iter::once(normalize).chain(stats.layers.iter().cloned()).collect();
        (params, RunningStats { layers })
    }
}
