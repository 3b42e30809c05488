//! Normalization of every position over the images of a batch alone.

use std::sync::OnceLock;

use candle_core::{Result, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::{Execution, Input, Op, View, apply, apply_detached};
use crate::kernels::lanes::norm::{Affine, Moments};
use crate::kernels::lanes::position::{self, BlocksOf, PositionChange};
use crate::kernels::{Element, Split};

/// Positions whose sums one task takes.
const POSITIONS: usize = 512;

/// (x − m) / sqrt(v + ε) for `x` (block, C, H, W, lane), with a mean and a biased variance of the batch for every channel,
/// row and column.
///
/// # Errors
/// If the shapes or the data types do not fit.
pub fn position_norm(execution: Execution, x: &Tensor, epsilon: f64) -> Result<Tensor> {
    apply(PositionNorm { execution, epsilon, moments: OnceLock::new() }, &[x])
}

/// Those means and variances.
///
/// # Errors
/// If the tensor has another shape, type or place.
pub fn position_moments(execution: Execution, x: &Tensor) -> Result<Vec<Moments>> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("moments of positions are computed on the CPU");
    };
    Ok(match x.dtype() {
        candle_core::DType::F64 => moments_of(execution, f64::slice(storage, layout)?),
        _ => moments_of(execution, f32::slice(storage, layout)?),
    })
}

/// Positions of an activation.
fn n_positions(execution: Execution, len: usize) -> usize {
    len / execution.blocks.count() / execution.blocks.lanes
}

/// One value for every position, from `body(first position, values to write)`.
fn by_position<R: Clone + Send>(
    execution: Execution,
    n: usize,
    start: R,
    body: impl Fn(usize, &mut [R]) + Sync,
) -> Vec<R> {
    let mut out = vec![start; n];
    let run = |(idx, out): (usize, &mut [R])| body(idx * POSITIONS, out);
    match execution.split {
        Split::Serial => out.chunks_mut(POSITIONS).enumerate().for_each(run),
        Split::Threads => out.par_chunks_mut(POSITIONS).enumerate().for_each(run),
    }
    out
}

fn moments_of<T: Element>(execution: Execution, x: &[T]) -> Vec<Moments> {
    let x = BlocksOf { values: x, blocks: execution.blocks };
    let none = Moments { mean: 0.0, variance: 0.0 };
    by_position(execution, n_positions(execution, x.values.len()), none, |first, out| {
        position::moments(execution.isa, x, first..first + out.len(), out);
    })
}

struct PositionNorm {
    execution: Execution,
    epsilon: f64,
    /// Found going forward, used going backward.
    moments: OnceLock<Vec<Moments>>,
}

impl PositionNorm {
    fn inverse_std(&self, moments: &Moments) -> f64 {
        (moments.variance + self.epsilon).sqrt().recip()
    }
}

impl Op for PositionNorm {
    const NAME: &'static str = "position-norm";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let execution = self.execution;
        let x = inputs[0].data;
        let moments = self.moments.get_or_init(|| moments_of(execution, x));
        let means: Vec<T> = moments.iter().map(|moments| T::of(moments.mean)).collect();
        let map = |moments| Affine { base: T::of(self.inverse_std(moments)), ..Affine::default() };
        let maps: Vec<Affine<T>> = moments.iter().map(map).collect();
        let out = execution.compute(
            x.len(),
            || (),
            |(), block, out| {
                let z = execution.block(x, block);
                position::run(execution.isa, PositionChange { z, means: &means, delta: z }, &maps, out);
            },
        );
        Ok((out, Shape::from(inputs[0].dims)))
    }

    fn backward(&self, inputs: &[Input], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let moments = self.moments.get().cloned().unwrap_or_default();
        let op = PositionNormGrad { execution: self.execution, epsilon: self.epsilon, moments };
        Ok(vec![Some(apply_detached(op, &[inputs[0].tensor, grad])?)])
    }
}

/// Of (x, gradient of the output).
struct PositionNormGrad {
    execution: Execution,
    epsilon: f64,
    moments: Vec<Moments>,
}

impl Op for PositionNormGrad {
    const NAME: &'static str = "position-norm-grad";

    fn forward<T: Element>(&self, inputs: &[View<T>]) -> Result<(Vec<T>, Shape)> {
        let execution = self.execution;
        let (x, grad) = (inputs[0].data, inputs[1].data);
        let means: Vec<T> = self.moments.iter().map(|moments| T::of(moments.mean)).collect();
        let both = [x, grad].map(|values| BlocksOf { values, blocks: execution.blocks });
        let sums = by_position(execution, self.moments.len(), [0.0; 2], |first, out| {
            position::gradient_sums(execution.isa, both, &means, first..first + out.len(), out);
        });
        // r (g − mean g − (x − m) r² mean(g (x − m)))
        let n = execution.blocks.images as f64;
        let map = |(moments, [sum, product]): (&Moments, &[f64; 2])| {
            let r = (moments.variance + self.epsilon).sqrt().recip();
            Affine {
                delta: T::of(r),
                pivot: T::ZERO,
                base: T::of(-r * r * r * product / n),
                constant: T::of(-r * sum / n),
            }
        };
        let maps: Vec<Affine<T>> = self.moments.iter().zip(&sums).map(map).collect();
        let lanes = execution.blocks.lanes;
        let out = execution.compute(
            x.len(),
            || (),
            |(), block, out: &mut [T]| {
                let change = PositionChange {
                    z: execution.block(x, block),
                    means: &means,
                    delta: execution.block(grad, block),
                };
                position::run(execution.isa, change, &maps, out);
                let n_images = execution.blocks.images_in(block);
                if n_images < lanes {
                    out.chunks_exact_mut(lanes).for_each(|out| out[n_images..].fill(T::ZERO));
                }
            },
        );
        Ok((out, Shape::from(inputs[0].dims)))
    }
}
