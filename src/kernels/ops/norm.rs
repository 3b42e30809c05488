//! Batch normalization (Ioffe and Szegedy, 2015), fused with the addition and the ReLU after it.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Shape, Storage, Tensor};

use super::gradient::{Grad, NormChannel, NormGrad, with_slices};
use super::{Execution, Input, Op, View, apply, finished, shape, sizes};
use crate::kernels::Element;
use crate::kernels::lanes::Out;
use crate::kernels::lanes::norm::{
    Incoming, MapBlock, Mask, Moments, Partial, factor, gradient_sums, partial,
};

/// Statistics that a batch norm uses.
#[derive(Debug, Clone)]
pub enum Stats {
    /// Those of the batch, which are computed where they are not known already.
    Batch(Option<Vec<Moments>>),
    /// These.
    Given(Vec<Moments>),
}

/// γ (x − m) / sqrt(v + ε) + β for `x` (block, C, H, W, lane) and `params` (2, C), which are γ and β;
/// plus `other` if there is one; cut off below zero if `is_relu`.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn batch_norm(
    execution: Execution,
    x: &Tensor,
    params: &Tensor,
    stats: Stats,
    epsilon: f64,
    other: Option<&Tensor>,
    is_relu: bool,
) -> Result<Tensor> {
    let is_train = matches!(stats, Stats::Batch(_));
    let moments = match stats {
        Stats::Batch(None) => OnceLock::new(),
        Stats::Batch(Some(moments)) | Stats::Given(moments) => OnceLock::from(moments),
    };
    let op = BatchNorm { execution, epsilon, is_relu, is_train, moments };
    match other {
        Some(other) => apply(op, &[x, params, other]),
        None => apply(op, &[x, params]),
    }
}

/// Mean and variance of every channel of `x` (block, C, H, W, lane).
///
/// # Errors
/// If the tensor has another shape, type or place.
pub fn moments(execution: Execution, x: &Tensor) -> Result<Vec<Moments>> {
    let x = x.contiguous()?;
    let sizes = sizes(x.dims())?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("channel moments are computed on the CPU");
    };
    Ok(match x.dtype() {
        candle_core::DType::F64 => moments_of(execution, sizes, f64::slice(storage, layout)?),
        _ => moments_of(execution, sizes, f32::slice(storage, layout)?),
    })
}

/// Moments of blocks, joined in their order, whatever thread they came from.
fn moments_of<T: Element>(execution: Execution, [channels, _, width]: [usize; 3], x: &[T]) -> Vec<Moments> {
    let parts = execution.map_blocks(|block| {
        let x = execution.block(x, block);
        let n_images = execution.blocks.images_in(block);
        let planes = x.chunks_exact(x.len() / channels);
        let of = |plane| partial(execution.isa, Partial::default(), plane, width, n_images);
        planes.map(of).collect::<Vec<Partial>>()
    });
    let join = |channel: usize| parts.iter().fold(Partial::default(), |all, part| all.join(part[channel]));
    (0..channels).map(|channel| join(channel).moments()).collect()
}

struct BatchNorm {
    execution: Execution,
    epsilon: f64,
    is_relu: bool,
    is_train: bool,
    /// Found going forward, used going backward.
    moments: OnceLock<Vec<Moments>>,
}

impl Op for BatchNorm {
    const NAME: &'static str = "batch-norm";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let execution = self.execution;
        let (x, params) = (inputs[0].data, inputs[1].data);
        let sizes = sizes(inputs[0].dims)?;
        let channels = sizes[0];
        if params.len() != 2 * channels {
            candle_core::bail!("batch norm of {channels} channels with {} parameters", params.len());
        }
        let moments = self.moments.get_or_init(|| moments_of(execution, sizes, x));
        let body = |(): &mut (), block, out: Out<T>| {
            let other = inputs.get(2).map(|other| execution.block(other.data, block));
            let map = MapBlock { params, moments, epsilon: self.epsilon, other, is_relu: self.is_relu };
            map.run(execution.isa, execution.block(x, block), out);
        };
        // SAFETY: a block is written channel by channel.
        let (out, _) = unsafe { execution.compute_all(x.len(), || (), body) };
        Ok((out, shape(execution.blocks, sizes)))
    }

    fn backward(&self, inputs: &[Input], out: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        finished(self.backward_on_tape(inputs, out, Grad::Whole(grad.clone()))?)
    }

    fn backward_on_tape(&self, inputs: &[Input], out: &Tensor, grad: Grad) -> Result<Vec<Option<Grad>>> {
        match out.dtype() {
            DType::F64 => self.backward_as::<f64>(inputs, out, grad),
            _ => self.backward_as::<f32>(inputs, out, grad),
        }
    }
}

impl BatchNorm {
    /// One pass over x and the gradient of the output for the sums over the batch; the gradient of x is left to those who
    /// need it. What comes out of the ReLU is kept if the other term of the addition needs it too, or if it took a sum.
    fn backward_as<T: Element>(
        &self,
        inputs: &[Input],
        out: &Tensor,
        grad: Grad,
    ) -> Result<Vec<Option<Grad>>> {
        let execution = self.execution;
        let (x, params, added) = (inputs[0].tensor.contiguous()?, inputs[1].tensor, inputs.get(2));
        let (grad, other) = match grad {
            Grad::Sum(a, b) => (a, Some(b)),
            grad => (grad.whole()?.contiguous()?, None),
        };
        let is_kept = other.is_some() || added.is_some() && self.is_relu;
        let [channels, height, width] = sizes(x.dims())?;
        let plane = height * width * execution.blocks.lanes;
        let moments = self.moments.get().map_or(&[][..], Vec::as_slice);
        let mut tensors = vec![&x, &grad, params, out];
        tensors.extend(&other);
        let (kept, parts, values) = with_slices(&tensors, |slices: &[&[T]]| {
            let at = |which: usize, block: usize, channel: usize| {
                &execution.block(slices[which], block)[channel * plane..][..plane]
            };
            let params = slices[2];
            let body = |(): &mut (), block, kept: Out<T>| -> Vec<[f64; 2]> {
                let mut kept = kept.chunks_exact(plane);
                let of = |channel: usize| {
                    let Moments { mean, variance } = moments[channel];
                    let mask = match (self.is_relu, added) {
                        (false, _) => Mask::All,
                        (true, None) => Mask::Input {
                            scale: factor(params[channel], variance, self.epsilon),
                            shift: params[channels + channel],
                        },
                        (true, Some(_)) => Mask::Output(at(3, block, channel)),
                    };
                    let other = (slices.len() > 4).then(|| at(4, block, channel));
                    let (x, grad) = (at(0, block, channel), at(1, block, channel));
                    let incoming = Incoming { x, mean: T::of(mean), grad, other, mask };
                    gradient_sums(execution.isa, incoming, kept.next())
                };
                (0..channels).map(of).collect()
            };
            let len = if is_kept { x.elem_count() } else { 0 };
            // SAFETY: what is kept of a block is written channel by channel; there is no room if nothing is.
            let (kept, parts) = unsafe { execution.compute_all(len, || (), body) };
            Ok((kept, parts, params.to_vec()))
        })?;
        // What x does through the statistics is spread over all numbers; given ones do not move with it.
        let n_numbers = (execution.blocks.images * height * width) as f64;
        let n = if self.is_train { n_numbers } else { f64::INFINITY };
        let mut of_params = vec![T::ZERO; values.len()];
        let mut of_channels = Vec::with_capacity(channels);
        for channel in 0..channels {
            let sum = |which: usize| parts.iter().map(|part| part[channel][which]).sum::<f64>();
            let (sum, product) = (sum(0), sum(1));
            let Moments { mean, variance } = moments[channel];
            let inverse_std = (variance + self.epsilon).sqrt().recip();
            of_params[channel] = T::of(product * inverse_std);
            of_params[channels + channel] = T::of(sum);
            let of_grad = values[channel].wide() * inverse_std;
            let scale = factor(values[channel], variance, self.epsilon);
            let relu = [scale.wide(), values[channels + channel].wide()];
            of_channels.push(NormChannel {
                mean,
                of_grad,
                of_x: -of_grad * inverse_std * inverse_std * product / n,
                constant: -of_grad * sum / n,
                relu: (self.is_relu && !is_kept).then_some(relu),
            });
        }
        let grad = if is_kept { Tensor::from_vec(kept, x.shape(), &Device::Cpu)? } else { grad };
        let of_other = added.map(|_| Grad::Whole(grad.clone()));
        let of_x = NormGrad { execution, x, grad, channels: of_channels };
        let of_params = Tensor::from_vec(of_params, params.shape(), &Device::Cpu)?;
        let mut grads = vec![Some(Grad::OfNorm(Arc::new(of_x))), Some(Grad::Whole(of_params))];
        grads.extend(of_other.map(Some));
        Ok(grads)
    }
}

/// The same function of a batch (B, C, H, W) from candle's elementary operations: the reference, and
/// the path on other devices.
///
/// # Errors
/// If the shapes do not fit.
pub fn batch_norm_composed(x: &Tensor, scale: &Tensor, shift: &Tensor, epsilon: f64) -> Result<Tensor> {
    let mean = x.mean_keepdim((0, 2, 3))?;
    let centered = x.broadcast_sub(&mean)?;
    let variance = centered.sqr()?.mean_keepdim((0, 2, 3))?;
    let normalized = centered.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    affine(&normalized, scale, shift)
}

/// scale · x + shift per channel of `x` (B, C, H, W).
///
/// # Errors
/// If the shapes do not fit.
pub fn affine(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let channels = scale.elem_count();
    let (scale, shift) = (scale.reshape((1, channels, 1, 1))?, shift.reshape((1, channels, 1, 1))?);
    x.broadcast_mul(&scale)?.broadcast_add(&shift)
}
