//! Batch normalization (Ioffe and Szegedy, 2015), fused with the addition and the ReLU after it.

use std::sync::OnceLock;

use candle_core::{Result, Shape, Storage, Tensor};

use super::pointwise::relu_grad;
use super::{Execution, Input, Op, View, apply, apply_detached, shape, sizes};
use crate::kernels::Element;
use crate::kernels::lanes::norm::{Gradient, MapBlock, Moments, Partial, gradient_sums, partial};

/// Statistics that a batch norm uses.
#[derive(Debug, Clone)]
pub enum Stats {
    /// Those of the batch.
    Batch,
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
    let is_train = matches!(stats, Stats::Batch);
    let moments = match stats {
        Stats::Batch => OnceLock::new(),
        Stats::Given(moments) => OnceLock::from(moments),
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
    let [channels, _, _] = sizes(x.dims())?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("channel moments are computed on the CPU");
    };
    Ok(match x.dtype() {
        candle_core::DType::F64 => moments_of(execution, channels, f64::slice(storage, layout)?),
        _ => moments_of(execution, channels, f32::slice(storage, layout)?),
    })
}

/// Moments of blocks, joined in their order, whatever thread they came from.
fn moments_of<T: Element>(execution: Execution, channels: usize, x: &[T]) -> Vec<Moments> {
    let parts = execution.map_blocks(|block| {
        let x = execution.block(x, block);
        let n_images = execution.blocks.images_in(block);
        let planes = x.chunks_exact(x.len() / channels);
        planes.map(|plane| partial(execution.isa, plane, n_images)).collect::<Vec<Partial>>()
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
        let moments = self.moments.get_or_init(|| moments_of(execution, channels, x));
        let out = execution.compute(
            x.len(),
            || (),
            |(), block, out| {
                let other = inputs.get(2).map(|other| execution.block(other.data, block));
                let map = MapBlock { params, moments, epsilon: self.epsilon, other, is_relu: self.is_relu };
                map.run(execution.isa, execution.block(x, block), out);
            },
        );
        Ok((out, shape(execution.blocks, sizes)))
    }

    fn backward(&self, inputs: &[Input], out: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let grad = if self.is_relu { relu_grad(self.execution, out, grad)? } else { grad.clone() };
        let moments = self.moments.get().cloned().unwrap_or_default();
        let (execution, epsilon, is_train) = (self.execution, self.epsilon, self.is_train);
        let op = BatchNormGrad { execution, epsilon, is_train, moments };
        let (x, params) = (inputs[0].tensor, inputs[1].tensor);
        // The gradient of x, then of γ and β, in one flat list.
        let all = apply_detached(op, &[x, &grad, params])?;
        let n = x.elem_count();
        let of_x = all.narrow(0, 0, n)?.reshape(x.shape())?;
        let of_params = all.narrow(0, n, params.elem_count())?.reshape(params.shape())?;
        let of_other = inputs.get(2).map(|_| grad.clone());
        Ok(vec![Some(of_x), Some(of_params), of_other])
    }
}

/// Of (x, gradient of the output, parameters).
struct BatchNormGrad {
    execution: Execution,
    epsilon: f64,
    /// Whether the statistics follow from x.
    is_train: bool,
    moments: Vec<Moments>,
}

impl Op for BatchNormGrad {
    const NAME: &'static str = "batch-norm-grad";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let execution = self.execution;
        let [channels, height, width] = sizes(inputs[0].dims)?;
        let (x, grad, params) = (inputs[0].data, inputs[1].data, inputs[2].data);
        let plane = height * width * execution.blocks.lanes;
        let at = |channel: usize| channel * plane..(channel + 1) * plane;
        let parts = execution.map_blocks(|block| {
            let (x, grad) = (execution.block(x, block), execution.block(grad, block));
            let of = |channel: usize| {
                let mean = T::of(self.moments[channel].mean);
                gradient_sums(execution.isa, mean, &x[at(channel)], &grad[at(channel)])
            };
            (0..channels).map(of).collect::<Vec<_>>()
        });
        // What x does through the statistics is spread over all numbers; given ones do not move with it.
        let n_numbers = (execution.blocks.images * height * width) as f64;
        let n = if self.is_train { n_numbers } else { f64::INFINITY };
        let mut out_params = vec![T::ZERO; params.len()];
        let mut gradients = Vec::with_capacity(channels);
        for channel in 0..channels {
            let sum = |which: usize| parts.iter().map(|part| part[channel][which]).sum::<f64>();
            let (sum, product) = (sum(0), sum(1));
            let Moments { mean, variance } = self.moments[channel];
            let inverse_std = (variance + self.epsilon).sqrt().recip();
            out_params[channel] = T::of(product * inverse_std);
            out_params[channels + channel] = T::of(sum);
            let of_grad = params[channel].wide() * inverse_std;
            gradients.push(Gradient {
                of_grad: T::of(of_grad),
                of_x: T::of(-of_grad * inverse_std * inverse_std * product / n),
                mean: T::of(mean),
                constant: T::of(-of_grad * sum / n),
            });
        }
        let mut out = execution.compute_with_room(
            x.len(),
            params.len(),
            || (),
            |(), block, out: &mut [T]| {
                let (x, grad) = (execution.block(x, block), execution.block(grad, block));
                let n_images = execution.blocks.images_in(block);
                for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
                    let (x, grad) = (&x[at(channel)], &grad[at(channel)]);
                    gradients[channel].run(execution.isa, execution.blocks.lanes, n_images, x, grad, out);
                }
            },
        );
        out.extend(out_params);
        let len = out.len();
        Ok((out, Shape::from(len)))
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
