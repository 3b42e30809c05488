//! Mean losses and their changes, in double precision.

use candle_core::{DType, Result, Tensor};

use super::{Arg, Call, Change, Element, Operation, Stored, THREADS, by_type, numbers, planes, run};

/// Mean cross-entropy (P), in f64, of logits (P, B, classes, 1, 1) with `labels` (B), u32; `scales` (P), in f64,
/// multiply the logits first.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, scales: Option<&Tensor>) -> Result<Tensor> {
    run(&Entropy { logits: &logits.contiguous()?, labels, scales, sizes: planes(logits)? })
}

struct Entropy<'a> {
    logits: &'a Tensor,
    labels: &'a Tensor,
    scales: Option<&'a Tensor>,
    sizes: [usize; 4],
}

/// ln Σ exp of numbers.
fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + values.map(|value| (value - largest).exp()).sum::<f64>().ln()
}

impl Entropy<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let [probes, images, classes, _] = self.sizes;
        let logits: Vec<T> = numbers(self.logits)?;
        let labels: Vec<u32> = numbers(self.labels)?;
        let scales: Option<Vec<f64>> = self.scales.map(numbers).transpose()?;
        let loss = |probe: usize| {
            let scale = scales.as_ref().map_or(1.0, |scales| scales[probe]);
            let of_image = |image: usize| {
                let row = logits[(probe * images + image) * classes..][..classes].iter();
                let row = row.map(|logit| scale * logit.wide());
                let of_label = row.clone().nth(labels[image] as usize).unwrap_or(f64::NAN);
                log_sum_exp(row) - of_label
            };
            (0..images).map(of_image).sum::<f64>() / images as f64
        };
        Tensor::from_vec((0..probes).map(loss).collect(), self.dims(), self.logits.device())
    }
}

impl Operation for Entropy<'_> {
    fn dims(&self) -> Vec<usize> {
        vec![self.sizes[0]]
    }

    fn dtype(&self) -> DType {
        DType::F64
    }

    fn place(&self) -> &Tensor {
        self.logits
    }

    fn call(&self) -> Call<'_> {
        let [probes, images, classes, _] = self.sizes;
        let mut args = vec![Arg::In(self.logits), Arg::In(self.labels), Arg::maybe(self.scales), Arg::Out];
        args.extend([images, classes].map(Arg::Int));
        per_probe("cross_entropy", self.logits.dtype(), probes, args)
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.logits.dtype(), self.values)
    }
}

/// A call with one block of threads per probe, which add up.
fn per_probe<'a>(kernel: &'static str, real: DType, probes: usize, args: Vec<Arg<'a>>) -> Call<'a> {
    Call { kernel, real, grid: [probes, 1, 1], threads: THREADS, shared: THREADS * size_of::<f64>(), args }
}

/// Change (P), in f64, of the mean cross-entropy for a change of the logits: mean of log1p(Σ p expm1(δ)) − δ_label.
/// `logs` (B, classes) are the logarithms of the base's probabilities p, in f64, `labels` (B) u32. With `scales`
/// (P, 2), in f64, the logits are multiplied by the first before the change and by the second after it, and `logs`
/// are of the multiplied ones.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn cross_entropy_change(
    delta: &Change,
    logs: &Tensor,
    labels: &Tensor,
    scales: Option<&Tensor>,
) -> Result<Tensor> {
    run(&EntropyChange { delta, logs, labels, scales })
}

struct EntropyChange<'a> {
    delta: &'a Change,
    logs: &'a Tensor,
    labels: &'a Tensor,
    scales: Option<&'a Tensor>,
}

impl EntropyChange<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let (images, classes) = self.logs.dims2()?;
        let delta = Stored::<T>::new(self.delta)?;
        let logs: Vec<f64> = numbers(self.logs)?;
        let labels: Vec<u32> = numbers(self.labels)?;
        let scales: Option<Vec<f64>> = self.scales.map(numbers).transpose()?;
        let change = |probe: usize| {
            let [before, after] =
                scales.as_ref().map_or([1.0; 2], |scales| [scales[2 * probe], scales[2 * probe + 1]]);
            let growth = (after - before) / before;
            let of_image = |image: usize| {
                let base = &logs[image * classes..][..classes];
                let moved = |class: usize| {
                    let change = delta.at(probe, image, class, 0).map_or(0.0, Element::wide);
                    growth * base[class] + after * change
                };
                let sum: f64 = (0..classes).map(|k| base[k].exp() * moved(k).exp_m1()).sum();
                let is_large = (0..classes).any(|k| moved(k) > 500.0);
                let log = if is_large || sum < -0.5 {
                    log_sum_exp((0..classes).map(|k| base[k] + moved(k)))
                } else {
                    sum.ln_1p()
                };
                log - moved(labels[image] as usize)
            };
            (0..images).map(of_image).sum::<f64>() / images as f64
        };
        let probes = self.delta.data.dim(0)?;
        Tensor::from_vec((0..probes).map(change).collect(), self.dims(), self.logs.device())
    }
}

impl Operation for EntropyChange<'_> {
    fn dims(&self) -> Vec<usize> {
        vec![self.delta.data.dims()[0]]
    }

    fn dtype(&self) -> DType {
        DType::F64
    }

    fn place(&self) -> &Tensor {
        self.logs
    }

    fn call(&self) -> Call<'_> {
        let mut args = vec![
            Arg::In(&self.delta.data),
            Arg::maybe(self.delta.channels.as_ref()),
            Arg::In(self.logs),
            Arg::In(self.labels),
            Arg::maybe(self.scales),
            Arg::Out,
        ];
        args.extend(self.logs.dims().iter().map(|&size| Arg::Int(size)));
        per_probe("cross_entropy_change", self.delta.data.dtype(), self.delta.data.dims()[0], args)
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.delta.data.dtype(), self.values)
    }
}

/// Mean squared error (P), in f64, of outputs (P, B, C, H, W) less `targets` (B, C·H·W), in f64.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn squared_error(outputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
    run(&Squares { outputs: &outputs.contiguous()?, targets })
}

struct Squares<'a> {
    outputs: &'a Tensor,
    targets: &'a Tensor,
}

impl Squares<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let outputs: Vec<T> = numbers(self.outputs)?;
        let targets: Vec<f64> = numbers(self.targets)?;
        let loss = |outputs: &[T]| {
            let squares =
                outputs.iter().zip(&targets).map(|(output, target)| (output.wide() - target).powi(2));
            squares.sum::<f64>() / targets.len() as f64
        };
        let losses = outputs.chunks_exact(targets.len().max(1)).map(loss).collect();
        Tensor::from_vec(losses, self.dims(), self.outputs.device())
    }
}

impl Operation for Squares<'_> {
    fn dims(&self) -> Vec<usize> {
        vec![self.outputs.dims()[0]]
    }

    fn dtype(&self) -> DType {
        DType::F64
    }

    fn place(&self) -> &Tensor {
        self.outputs
    }

    fn call(&self) -> Call<'_> {
        let args =
            vec![Arg::In(self.outputs), Arg::In(self.targets), Arg::Out, Arg::Int(self.targets.elem_count())];
        per_probe("squared_error", self.outputs.dtype(), self.outputs.dims()[0], args)
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.outputs.dtype(), self.values)
    }
}

/// Change (P), in f64, of the mean squared error for a change of the outputs: mean of δ (2e + δ), with `errors` e
/// (B, C·H·W) the outputs less the targets at the base, in f64.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn squared_error_change(delta: &Change, errors: &Tensor) -> Result<Tensor> {
    run(&SquaresChange { delta, errors })
}

struct SquaresChange<'a> {
    delta: &'a Change,
    errors: &'a Tensor,
}

impl SquaresChange<'_> {
    /// Images, channels and pixels.
    fn sizes(&self) -> [usize; 3] {
        let (change, errors) = (self.delta.data.dims(), self.errors.dims());
        let plane = change[3] * change[4];
        [errors[0], errors[1] / plane.max(1), plane]
    }

    fn values<T: Element>(&self) -> Result<Tensor> {
        let [images, channels, plane] = self.sizes();
        let delta = Stored::<T>::new(self.delta)?;
        let errors: Vec<f64> = numbers(self.errors)?;
        let change = |probe: usize| {
            let of_number = |(at, error): (usize, &f64)| {
                let (image, channel, pixel) = (at / plane / channels, at / plane % channels, at % plane);
                let change = delta.at(probe, image, channel, pixel).map_or(0.0, Element::wide);
                change * (2.0 * error + change)
            };
            errors.iter().enumerate().map(of_number).sum::<f64>() / (images * channels * plane) as f64
        };
        let probes = self.delta.data.dim(0)?;
        Tensor::from_vec((0..probes).map(change).collect(), self.dims(), self.errors.device())
    }
}

impl Operation for SquaresChange<'_> {
    fn dims(&self) -> Vec<usize> {
        vec![self.delta.data.dims()[0]]
    }

    fn dtype(&self) -> DType {
        DType::F64
    }

    fn place(&self) -> &Tensor {
        self.errors
    }

    fn call(&self) -> Call<'_> {
        let mut args = vec![
            Arg::In(&self.delta.data),
            Arg::maybe(self.delta.channels.as_ref()),
            Arg::In(self.errors),
            Arg::Out,
        ];
        args.extend(self.sizes().map(Arg::Int));
        per_probe("squared_error_change", self.delta.data.dtype(), self.delta.data.dims()[0], args)
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.delta.data.dtype(), self.values)
    }
}
