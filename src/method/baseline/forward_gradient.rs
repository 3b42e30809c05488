//! What the rules on a LocalMixer share: their settings, their noise, and the step from a batch to a gradient.
//!
//! Noise is standard normal, and a pure function of seed, step, parameter tensor and position: a run that goes on from
//! a checkpoint draws what an uninterrupted one does, and nothing of a rule is state.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::mixer::{Estimate, Mixer};
use crate::method::descent::{Asked, Gradient, GradientSource};
use crate::nn::BatchStats;
use crate::nn::objective::BasePass;
use crate::problem::{Minibatch, Resources};
use crate::rng::{Purpose, Stream};
use crate::setting::Domain::From;
use crate::setting::Settings;
use crate::{Error, Result};

crate::section! {
    /// Rules on a LocalMixer.
    pub struct Config {
        /// Factor of the gradient of a LocalMixer's classifier.
        pub last_layer_rate: f64 = 0.1 => From(0.0, f64::INFINITY),
        /// Whether a LocalMixer's token and channel layers count their biases twice, as in the released code.
        pub bias_twice: bool = false,
    }
}

/// A rule: what it makes of a batch, `bias_twice` or not, with noise of this step.
pub(super) type Rule = fn(&Mixer, &Config, Stream) -> Result<Estimate>;

/// Gradients by one rule.
pub(super) struct Source {
    rule: Rule,
    config: Config,
    seed: u64,
}

impl Source {
    /// A run of `rule` from the start.
    pub(super) fn start(rule: Rule, settings: &Settings, seed: u64) -> Result<Box<dyn GradientSource>> {
        Ok(Box::new(Self { rule, config: settings.read()?, seed }))
    }
}

impl GradientSource for Source {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        asked: &Asked,
        _: &Resources,
    ) -> Result<Gradient> {
        let (network, images, labels) = super::network_of(batch)?;
        let mixer = Mixer::new(network, params, images, labels)?;
        let noise = Stream::new(self.seed, Purpose::Tangent, asked.step);
        let mut estimate = (self.rule)(&mixer, &self.config, noise)?;
        if !estimate.loss.is_finite() {
            return Err(Error::Diverged { loss: estimate.loss, at: String::new() });
        }
        estimate.scale(mixer.classifier(), self.config.last_layer_rate)?;
        let values = estimate.values(mixer.layout())?;
        let at = BasePass { loss: estimate.loss, logits: estimate.logits, stats: BatchStats::default() };
        Ok(Gradient { values, at, doubt: None })
    }
}

/// Numbers that one thread draws at a time: an even number, two to a block of the generator.
const CHUNK: usize = 1 << 14;

/// Standard normal numbers of `stream` as a tensor.
///
/// # Errors
/// If the device fails.
pub fn normal(stream: Stream, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let n = shape.iter().product();
    let first_block = |chunk: usize| (chunk * CHUNK / 2) as u64;
    Ok(match dtype {
        DType::F64 => {
            let mut numbers = vec![0.0; n];
            let chunks = numbers.par_chunks_mut(CHUNK).enumerate();
            chunks.for_each(|(idx, chunk)| stream.fill_normal_from(first_block(idx), chunk));
            Tensor::from_vec(numbers, shape, device)?
        }
        _ => {
            let mut numbers = vec![0f32; n];
            let chunks = numbers.par_chunks_mut(CHUNK).enumerate();
            chunks.for_each_init(Vec::new, |drawn, (idx, chunk)| {
                drawn.resize(chunk.len(), 0.0);
                stream.fill_normal_from(first_block(idx), drawn);
                chunk.iter_mut().zip(&*drawn).for_each(|(number, drawn)| *number = *drawn as f32);
            });
            Tensor::from_vec(numbers, shape, device)?
        }
    })
}

/// Noise for activities: each linear layer has a lane of `stream` for itself.
pub(super) fn activity_noise<'m>(
    mixer: &'m Mixer,
    stream: Stream,
) -> impl Fn(usize, (usize, usize, usize)) -> Result<Tensor> + use<'m> {
    let (dtype, device) = mixer.place();
    move |weight, (batch, tokens, channels)| {
        normal(stream.lane(weight as u32), &[batch, tokens, channels], dtype, device)
    }
}
