//! Values computed in PyTorch float64, built into the program, and what this machine makes of them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::data;
use crate::kernels::Precision;
use crate::nn::backprop;
use crate::nn::model::Io;
use crate::nn::objective::NetworkObjective;
use crate::nn::objective::check_rounding;
use crate::nn::{Network, model, weights};
use crate::zo::Scheme;
use crate::zo::estimator::Cge;
use crate::zo::evaluate::{self, EvaluatorKind};
use crate::zo::{self, Metered, QueryCount};

/// A network with its weights, a batch, and what PyTorch computed of both (`tests/golden/README.md`).
struct Golden {
    model: &'static str,
    network: Network,
    params: Vec<f64>,
    /// Normalized images (B, C, H, W), in f64 on the CPU.
    images: Tensor,
    labels: Vec<u32>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Expected {
    mu: f64,
    mean: Vec<f64>,
    std: Vec<f64>,
    coords: Vec<(String, usize)>,
    cge_forward_difference: Vec<f64>,
    backprop: Vec<f64>,
}

macro_rules! file {
    ($name:literal) => {
        (include_bytes!(concat!("../../tests/golden/", $name)).as_slice(), Path::new($name))
    };
}

type File = (&'static [u8], &'static Path);

impl Golden {
    fn all() -> Result<Vec<Self>> {
        Ok(vec![
            Self::new(
                "resnet20",
                file!("resnet20.weights.safetensors"),
                file!("resnet20.batch.safetensors"),
                include_str!("../../tests/golden/resnet20.expected.json"),
            )?,
            Self::new(
                "cnn-d3",
                file!("cnn_d3.weights.safetensors"),
                file!("cnn_d3.batch.safetensors"),
                include_str!("../../tests/golden/cnn_d3.expected.json"),
            )?,
        ])
    }

    fn new(model: &'static str, weights: File, batch: File, expected: &str) -> Result<Self> {
        let expected: Expected = serde_json::from_str(expected)
            .map_err(|error| crate::Error::file(batch.1, format!("not the values expected ({error})")))?;
        let tensors = weights::from_bytes(batch.0, batch.1)?;
        let missing = || crate::Error::file(batch.1, "a tensor is missing".to_owned());
        let of = |tensors: &HashMap<String, Tensor>, name| tensors.get(name).cloned().ok_or_else(missing);
        let channels = |values: &[f64]| Tensor::from_slice(values, (1, values.len(), 1, 1), &Device::Cpu);
        let images = (of(&tensors, "images")?.to_dtype(DType::F64)? / 255.0)?
            .broadcast_sub(&channels(&expected.mean)?)?
            .broadcast_div(&channels(&expected.std)?)?;
        let labels = of(&tensors, "labels")?.to_dtype(DType::U32)?.to_vec1()?;
        let (_, channels, height, width) = images.dims4()?;
        let n_outputs = data::source("cifar10")?.n_classes;
        let network = model::from_name(model, &Io { input: [channels, height, width], n_outputs })?;
        let (params, _) =
            weights::from_tensors(&network, &weights::from_bytes(weights.0, weights.1)?, weights.1)?;
        Ok(Self { model, network, params, images, labels, expected })
    }

    fn coords(&self) -> Result<Vec<usize>> {
        let layout = self.network.layout();
        self.expected.coords.iter().map(|(name, idx)| layout.coord(name, *idx)).collect()
    }
}

/// What is held to the golden values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// An evaluator, against estimates of CGE from two forward passes.
    Evaluator(EvaluatorKind),
    /// Back-propagation, against PyTorch's.
    Backprop,
}

impl Subject {
    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Evaluator(kind) => kind.name(),
            Self::Backprop => "back-propagation",
        }
    }

    /// Relative l2 error that this arithmetic may have, over all coordinates; none for a pair that is refused.
    ///
    /// In f64 what is left is the rounding of the two losses that PyTorch subtracted. Two f32 losses subtract to a
    /// difference with about 5e-3 relative error at this μ. A gradient is not continuous in the activations: each
    /// ReLU input that rounding moves across zero moves it. Numbers rounded to TF32 are off by up to 2^-11, to bf16
    /// by up to 2^-8; errors of single products average out, so that four times that is ample.
    #[must_use]
    pub fn tolerance(self, precision: Precision) -> Option<f64> {
        let is_propagated = self == Self::Evaluator(EvaluatorKind::Difference);
        Some(match (self, precision) {
            (Self::Backprop, Precision::F64) => 1e-9,
            (Self::Backprop, Precision::F32) => 5e-3,
            (_, Precision::F64) if is_propagated => 1e-9,
            (_, Precision::F32) if is_propagated => 1e-4,
            (_, Precision::Tf32) if is_propagated => 4.0 * 2f64.powi(-11),
            (_, Precision::Bf16) if is_propagated => 4.0 * 2f64.powi(-8),
            (Self::Evaluator(_), Precision::F64) => 1e-6,
            (Self::Evaluator(_), Precision::F32) => 2e-2,
            _ => return None,
        })
    }
}

/// One comparison with golden values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Network.
    pub model: &'static str,
    /// What was compared.
    pub subject: Subject,
    /// Arithmetic.
    pub precision: Precision,
    /// Coordinates compared.
    pub n_coords: usize,
    /// Relative l2 error over them.
    pub relative_error: f64,
    /// What it may be.
    pub tolerance: f64,
}

impl Check {
    /// Whether the error is within its tolerance.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.relative_error <= self.tolerance
    }
}

/// Holds every evaluator and back-propagation, in every precision that is sound for it and that `can` compute, to the
/// golden values; `memory` bounds the bytes of changes in flight. `watch` hears of each check.
///
/// # Errors
/// If the device fails.
pub fn check(
    device: &Device,
    memory: usize,
    can: impl Fn(Precision) -> bool,
    watch: &mut dyn FnMut(&Check),
) -> Result<Vec<Check>> {
    let subjects = [
        Subject::Evaluator(EvaluatorKind::Full),
        Subject::Evaluator(EvaluatorKind::Reuse),
        Subject::Evaluator(EvaluatorKind::Difference),
        Subject::Backprop,
    ];
    let mut checks = Vec::new();
    for golden in Golden::all()? {
        let coords = golden.coords()?;
        for subject in subjects {
            for precision in [Precision::F64, Precision::F32, Precision::Tf32, Precision::Bf16] {
                let Some(tolerance) = subject.tolerance(precision).filter(|_| can(precision)) else {
                    continue;
                };
                let relative_error = golden.error(subject, precision, &coords, device, memory)?;
                let check = Check {
                    model: golden.model,
                    subject,
                    precision,
                    n_coords: coords.len(),
                    relative_error,
                    tolerance,
                };
                watch(&check);
                checks.push(check);
            }
        }
    }
    Ok(checks)
}

impl Golden {
    fn error(
        &self,
        subject: Subject,
        precision: Precision,
        coords: &[usize],
        device: &Device,
        memory: usize,
    ) -> Result<f64> {
        let images = self.images.to_dtype(precision.dtype())?.to_device(device)?;
        let (gradient, expected) = match subject {
            Subject::Evaluator(kind) => (
                self.estimate(kind, precision, &images, coords, memory)?,
                &self.expected.cge_forward_difference,
            ),
            Subject::Backprop => {
                let exact = backprop::gradient(&self.network, &self.params, &images, &self.labels, 1.0)?;
                (exact.gradient, &self.expected.backprop)
            }
        };
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let error =
            norm(&mut coords.iter().zip(expected).map(|(&coord, expected)| gradient[coord] - expected));
        Ok(error / norm(&mut expected.iter().copied()))
    }

    fn estimate(
        &self,
        kind: EvaluatorKind,
        precision: Precision,
        images: &Tensor,
        coords: &[usize],
        memory: usize,
    ) -> Result<Vec<f64>> {
        check_rounding(precision, kind, true)?;
        let mut active = coords.to_vec();
        active.sort_unstable();
        let cge = Cge::new(self.params.len(), Arc::from(active), self.expected.mu, Scheme::Forward);
        let objective = NetworkObjective {
            memory,
            rounding: precision.rounding(),
            ..NetworkObjective::new(&self.network, images, &self.labels)
        };
        let count = QueryCount::default();
        let metered = Metered::new(&objective, &count);
        let evaluator = evaluate::at(&metered, kind, &self.params)?;
        Ok(zo::estimate(&cge, &evaluator)?.gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the golden values, and a network that is not theirs.
    #[test]
    fn a_wrong_network_fails_its_checks() -> Result<()> {
        let mut golden = Golden::all()?.swap_remove(1);
        let coords = golden.coords()?;
        let subject = Subject::Evaluator(EvaluatorKind::Difference);
        let error = |golden: &Golden| golden.error(subject, Precision::F32, &coords, &Device::Cpu, 1 << 28);
        let tolerance = subject.tolerance(Precision::F32).expect("a sound pair");
        assert!(error(&golden)? < tolerance);
        golden.params[10] += 0.01;
        assert!(error(&golden)? > tolerance);
        Ok(())
    }

    /// Oracle: what [`Precision::check`] refuses.
    #[test]
    fn refused_pairs_have_no_tolerance() {
        for kind in [EvaluatorKind::Full, EvaluatorKind::Reuse, EvaluatorKind::Difference] {
            for precision in [Precision::F64, Precision::F32, Precision::Tf32, Precision::Bf16] {
                let is_sound = check_rounding(precision, kind, true).is_ok();
                assert_eq!(Subject::Evaluator(kind).tolerance(precision).is_some(), is_sound);
            }
        }
    }
}
