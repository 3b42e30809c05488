//! Speed of certification: classes of noisy copies of images, noise and counting included.

use candle_core::Device;
use serde::Serialize;

use super::machine::peak_memory_bytes;
use super::{GIGA, MICRO, Machine, Seconds};
use crate::certify::{self, Certifier, NetworkClassifier};
use crate::data;
use crate::kernels::Precision;
use crate::nn::Network;
use crate::nn::model::{self, Defended};
use crate::{Error, Result};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Images that are certified.
    pub n_images: usize,
    /// Copies of an image that choose a class, and that certify it.
    pub n0: usize,
    /// See [`Config::n0`].
    pub n: usize,
    /// Seed of weights and noise.
    pub seed: u64,
    /// Runs of which the median counts.
    pub repeats: usize,
}

/// The images and copies of an image that a usual certification is of, for which the time is told.
const USUAL: [usize; 2] = [500, 1_000 + 100];

/// A measurement of certification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Where it was taken.
    #[serde(flatten)]
    pub machine: Machine,
    /// Network that classifies, and what stands before it.
    pub model: String,
    /// Parameters.
    pub n_params: usize,
    /// Images certified.
    pub n_images: usize,
    /// Copies of an image that choose a class.
    pub n0: usize,
    /// Copies of an image that certify it.
    pub n: usize,
    /// Copies classified together.
    pub batch_size: usize,
    /// Seed of weights and noise.
    pub seed: u64,
    /// Runs of which the median is given.
    pub repeats: usize,
    /// Median seconds of a run.
    pub certify_s: f64,
    /// Seconds of the fastest run.
    pub certify_min_s: f64,
    /// Seconds of the slowest run.
    pub certify_max_s: f64,
    /// Images times copies per second.
    pub copies_per_s: f64,
    /// Microseconds per copy.
    pub us_per_copy: f64,
    /// Minutes for 500 images with n0 = 100 and n = 1,000, at this speed.
    pub usual_min: f64,
    /// Operations of the forward passes, 10⁹ per second.
    pub gflops: f64,
    /// Part of the machine's peak that these are.
    pub peak_share: f64,
    /// The most memory held until the end of the timed runs, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// The ResNet of `depth` and `width` behind a denoiser of so many convolutions and channels, if there is one, for images of
/// CIFAR-10's size.
///
/// # Errors
/// If there are no networks of these sizes.
pub fn network(depth: usize, width: usize, denoiser: Option<[usize; 2]>) -> Result<Network> {
    let (family, io) = (&model::resnet::FAMILY, model::Io::CIFAR);
    let Some(denoiser) = denoiser else { return family.build(depth, width, &io) };
    let defended = Defended { denoiser, has_code: false, family, classifier: [depth, width], io };
    defended.check()?;
    Ok(defended.whole())
}

/// Measures the certification of procedural images by `network` with initial weights and statistics: the time does not
/// depend on them.
///
/// # Errors
/// If a forward pass fails.
///
/// # Panics
/// If there is nothing to repeat.
pub fn measure(network: &Network, name: String, config: &Config, device: &Device) -> Result<Measurement> {
    let images = data::synthetic(0, config.n_images).test;
    let params = network.layout().initial_values(config.seed);
    let stats = network.initial_stats();
    let normalization = &images.normalization;
    let classifier = NetworkClassifier::new(network, &params, &stats, normalization, Precision::F32, device)?;
    let Config { n_images, n0, n, seed, repeats } = *config;
    let rows = certify::rows(images.len(), 0);
    let asked = certify::Config { n0, n, ..certify::Config::default() };
    let certifier = Certifier::new(0.25, asked, seed, images.image_len());
    let seconds = Seconds::of_repeated(repeats, || {
        certifier.run(&images, &rows, &classifier, Vec::new(), &mut |_| Ok(()))?;
        Ok::<(), Error>(())
    })?;
    let peak_memory_bytes = peak_memory_bytes();
    let machine = Machine::measure(device)?;
    let copies_per_s = (n_images * (n0 + n)) as f64 / seconds.median;
    let gflops = network.flops() as f64 * copies_per_s / GIGA;
    Ok(Measurement {
        peak_share: machine.share_of_peak(gflops),
        machine,
        model: name,
        n_params: params.len(),
        n_images,
        n0,
        n,
        batch_size: certifier.batch,
        seed,
        repeats,
        certify_s: seconds.median,
        certify_min_s: seconds.min,
        certify_max_s: seconds.max,
        copies_per_s,
        us_per_copy: MICRO / copies_per_s,
        usual_min: (USUAL[0] * USUAL[1]) as f64 / copies_per_s / 60.0,
        gflops,
        peak_memory_bytes,
    })
}
