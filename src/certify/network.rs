//! Networks as classifiers of images that are not normalized yet.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::Classifier;
use crate::data::Normalization;
use crate::kernels::{Element, Precision, Split};
use crate::nn::{Context, Mode, Network, RunningStats, model, weights};
use crate::{Error, Result};

/// What images (B, C, H, W), pixels from 0 to 1 plus noise, become before they are classified.
pub type Denoise<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// A network that classifies images by its running statistics, with the normalization of pixels inside and, if there is
/// one, a denoiser before it.
pub struct NetworkClassifier<'a> {
    network: &'a Network,
    params: Vec<Tensor>,
    stats: &'a RunningStats,
    normalization: &'a Normalization,
    dtype: DType,
    device: &'a Device,
    denoiser: Option<Denoise<'a>>,
}

impl<'a> NetworkClassifier<'a> {
    /// `network` with these parameters (d) and running statistics, which was trained on pixels with this normalization.
    ///
    /// # Errors
    /// [`Error::Classifier`] if the network normalizes by the batch whatever it is told, so that the class of an image
    /// would depend on others; [`Error::Parameter`] if sizes do not fit.
    pub fn new(
        network: &'a Network,
        params: &[f64],
        stats: &'a RunningStats,
        normalization: &'a Normalization,
        precision: Precision,
        device: &'a Device,
    ) -> Result<Self> {
        if !network.has_running_stats() {
            let what =
                "the network normalizes by the other images of a batch, so that an image alone has no class";
            return Err(Error::Classifier(what.to_owned()));
        }
        let dtype = precision.dtype();
        let params = network.tensors(params, dtype, device)?;
        Ok(Self { network, params, stats, normalization, dtype, device, denoiser: None })
    }

    /// The same behind a denoiser.
    #[must_use]
    pub fn behind(self, denoiser: Denoise<'a>) -> Self {
        Self { denoiser: Some(denoiser), ..self }
    }

    /// The same behind a network from images to images, at `params` (d) with these running statistics.
    ///
    /// # Errors
    /// [`Error::Parameter`] if sizes do not fit.
    pub fn behind_network(
        self,
        network: &'a Network,
        params: &[f64],
        stats: &'a RunningStats,
    ) -> Result<Self> {
        let params = network.tensors(params, self.dtype, self.device)?;
        let context = Context { mode: Mode::Eval(stats), split: Split::Threads };
        Ok(self.behind(Box::new(move |images| network.forward(&context, &params, images))))
    }

    /// Logits (n, classes) of `n` images (n, C, H, W), pixels from 0 to 1 plus noise.
    ///
    /// # Errors
    /// If sizes do not fit or the device fails.
    pub fn logits(&self, images: &[f32], n: usize) -> Result<Tensor> {
        let input = match &self.denoiser {
            None if self.dtype == DType::F64 => self.normalized::<_, f64>(images, n)?,
            None => self.normalized::<_, f32>(images, n)?,
            Some(denoiser) => {
                let images = Tensor::from_slice(images, self.shape(n), &Device::Cpu)?;
                let denoised =
                    denoiser(&images.to_dtype(self.dtype)?.to_device(self.device)?)?.flatten_all()?;
                match self.dtype {
                    DType::F64 => self.normalized::<f64, f64>(&denoised.to_vec1()?, n)?,
                    _ => self.normalized::<f32, f32>(&denoised.to_vec1()?, n)?,
                }
            }
        };
        let context = Context { mode: Mode::Eval(self.stats), split: Split::Threads };
        self.network.forward(&context, &self.params, &input)
    }

    fn shape(&self, n: usize) -> (usize, usize, usize, usize) {
        let [channels, height, width] = self.network.input();
        (n, channels, height, width)
    }

    /// Normalized images on the device, computed in f64 and rounded once.
    fn normalized<F: Element, T: Element>(&self, images: &[F], n: usize) -> Result<Tensor> {
        let [channels, height, width] = self.network.input();
        let Normalization { mean, std } = self.normalization;
        let pixels = height * width;
        if images.len() != n * channels * pixels || [mean.len(), std.len()] != [channels; 2] {
            let what = format!("{} numbers for {n} images of {:?}", images.len(), self.network.input());
            return Err(Error::Classifier(what));
        }
        let mut values = vec![T::ZERO; images.len()];
        let planes = values.par_chunks_mut(pixels.max(1)).zip(images.par_chunks(pixels.max(1)));
        planes.enumerate().for_each(|(plane, (to, from))| {
            let (mean, std) = (mean[plane % channels], std[plane % channels]);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = T::of((from.wide() - mean) / std));
        });
        Ok(Tensor::from_vec(values, self.shape(n), &Device::Cpu)?.to_device(self.device)?)
    }
}

impl Classifier for NetworkClassifier<'_> {
    fn classes(&self, images: &[f32], n: usize) -> Result<Vec<usize>> {
        classes(&self.logits(images, n)?)
    }
}

/// The denoiser in a safetensors file, with its parameters (d) and running statistics, for images (C, H, W): a DnCNN under the
/// names of the released code, whose depth and width are read from it.
///
/// # Errors
/// If the file cannot be read, is no such denoiser, or lacks a tensor.
pub fn read_denoiser(path: &Path, input: [usize; 3]) -> Result<(Network, Vec<f64>, RunningStats)> {
    let tensors = weights::read(path)?;
    let place = |name: &str| -> Option<usize> {
        let name = name.strip_prefix("module.").unwrap_or(name);
        name.strip_prefix("dncnn.")?.strip_suffix(".weight")?.parse().ok()
    };
    let convolutions = tensors.iter().filter(|(_, tensor)| tensor.rank() == 4);
    let places = convolutions.filter_map(|(name, tensor)| Some((place(name)?, tensor.dims()[0])));
    let places: Vec<(usize, usize)> = places.collect();
    let first = places.iter().find(|(place, _)| *place == 0);
    // Three places a layer, but for the first, which has no batch norm.
    let last = places.iter().map(|(place, _)| *place).max().filter(|place| place % 3 == 2);
    let (Some(&(_, width)), Some(last)) = (first, last) else {
        let reason = "no DnCNN: convolutions `dncnn.0.weight`, `dncnn.2.weight`, `dncnn.5.weight` and so on are needed";
        return Err(Error::file(path, reason));
    };
    let network = model::dncnn((last + 4) / 3, width, input)?;
    let (params, stats) = weights::load_trained(&network, path)?;
    Ok((network, params, stats))
}

/// The class of every row of `logits` (n, classes); the first on ties.
///
/// # Errors
/// [`Error::Classifier`] where one is not a finite number.
pub fn classes(logits: &Tensor) -> Result<Vec<usize>> {
    logits.to_dtype(DType::F64)?.to_vec2::<f64>()?.iter().map(|row| most(row)).collect()
}

/// The class of these logits; the first on ties.
fn most(logits: &[f64]) -> Result<usize> {
    if let Some(class) = logits.iter().position(|logit| !logit.is_finite()) {
        let what = format!("the output for class {class} is {}, not a finite number", logits[class]);
        return Err(Error::Classifier(what));
    }
    Ok((0..logits.len()).reduce(|best, idx| if logits[idx] > logits[best] { idx } else { best }).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;

    /// Oracle: a pass in f64 that keeps every value, with running statistics, on images normalized by the loader.
    #[test]
    fn classes_are_those_of_evaluation() -> Result<()> {
        let data = data::synthetic(10, 21).test;
        let network = model::from_name("resnet8-w4", &model::Io::CIFAR)?;
        let params = network.layout().initial_values(2);
        let mut stats = network.initial_stats();
        let values: Vec<f64> = (0..stats.values().len()).map(|idx| 0.5 + (idx % 7) as f64 / 10.0).collect();
        stats.restore(&values);
        let rows: Vec<usize> = (0..data.len()).collect();
        let batch = data::make_batch(&data, &rows, None, DType::F64, &Device::Cpu)?;
        let tensors = network.tensors(&params, DType::F64, &Device::Cpu)?;
        let context = Context { mode: Mode::Eval(&stats), split: Split::Serial };
        let kept = network.forward_all(&context, &tensors, &batch.images)?;
        let expected = kept.logits().to_vec2::<f64>()?;
        let pixels: Vec<f32> = data.images.iter().map(|&byte| (f64::from(byte) / 255.0) as f32).collect();
        let half = |images: &Tensor| Ok((images * 0.5)?);
        let dark: Vec<f32> = pixels.iter().map(|pixel| pixel * 2.0).collect();
        for (precision, tolerance) in [(Precision::F64, 1e-5), (Precision::F32, 1e-4)] {
            let plain = NetworkClassifier::new(
                &network,
                &params,
                &stats,
                &data.normalization,
                precision,
                &Device::Cpu,
            )?;
            let found = plain.logits(&pixels, 21)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() < tolerance, "{found} {expected}");
            }
            let classes: Vec<usize> = expected.iter().map(|row| most(row)).collect::<Result<_>>()?;
            assert_eq!(plain.classes(&pixels, 21)?, classes);
            assert!(plain.classes(&pixels[1..], 21).is_err());
            let behind = plain.behind(Box::new(half));
            let again = behind.logits(&dark, 21)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
            assert_eq!(again, found);
        }
        Ok(())
    }

    #[test]
    fn what_cannot_classify_says_so() -> Result<()> {
        let network = model::from_name("ntk-cnn8-w4", &model::Io::CIFAR)?;
        let (params, stats) = (network.layout().initial_values(2), network.initial_stats());
        let norm = data::SOURCES[0].normalization.clone();
        let classifier = |network, params: &[f64], stats| {
            NetworkClassifier::new(network, params, stats, &norm, Precision::F32, &Device::Cpu).map(|_| ())
        };
        let refused = classifier(&network, &params, &stats).unwrap_err().to_string();
        assert!(refused.contains("an image alone has no class"), "{refused}");
        assert!(classifier(&model::lenet(&model::Io::CIFAR)?, &params, &stats).is_err());
        let said = most(&[0.0, f64::NAN]).unwrap_err().to_string();
        assert_eq!(said, "classifier: the output for class 1 is NaN, not a finite number");
        assert_eq!(most(&[1.0, 2.0, 2.0])?, 1);
        Ok(())
    }
}
