//! Normalization of every channel, row and column over the images of a batch alone, without parameters and without
//! running statistics, as the released code of Boopathy and Fiete (2022) has it.

use candle_core::{Result, Tensor};

use super::{ActivationShape, Forms, Layer, LayerPass, Norm, Scaling, Statistics, elements};
use crate::Error;
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::norm::{Affine, Moments, SUMS};
use crate::kernels::lanes::position::{self, PositionChange};
use crate::kernels::ops::{self, Execution};
use crate::kernels::{Element, Isa};
use crate::nn::form::{Coupling, Delta, Place, Propagate, Rows, Rule, RuleSetup, Support};

/// Added to the variance.
const EPSILON: f64 = 1e-6;

/// (x − m) / sqrt(v + ε) with a mean m and a biased variance v of the batch for every position, in training and in
/// evaluation alike. It has no form for blocks of a pass and no batched rule.
#[derive(Debug, Clone)]
pub struct PositionNorm {
    /// Number of this layer among the network's normalizations.
    pub norm_idx: usize,
}

impl Layer for PositionNorm {
    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        inputs[0]
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        6 * elements(inputs[0])
    }

    fn forward(&self, _: &LayerPass, _: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let centered = inputs[0].broadcast_sub(&inputs[0].mean_keepdim(0)?)?;
        let variance = centered.sqr()?.mean_keepdim(0)?;
        centered.broadcast_div(&(variance + EPSILON)?.sqrt()?)
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        _: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        ops::position_norm::position_norm(execution, inputs[0], EPSILON)
    }

    fn forms(&self) -> Forms<'_> {
        Forms { is_taped: true, rule: Some(self), ..Forms::default() }
    }

    fn norm(&self) -> Option<Norm> {
        Some(Norm { idx: self.norm_idx, statistics: Statistics::PerPosition, running: None })
    }

    fn reads_base(&self) -> bool {
        true
    }

    fn scaling(&self) -> Scaling {
        Scaling::Forgets
    }
}

/// As batch norm's rule with γ = 1 and β = 0, for every position on its own:
/// δ_out = (δ − δm) r' + (z − m)(r' − r), r = (v + ε)^-1/2, r' = (v + δv + ε)^-1/2.
#[derive(Debug)]
struct PositionNormRule<T> {
    isa: Isa,
    input: usize,
    lanes: usize,
    /// (C, H, W).
    shape: ActivationShape,
    n_images: usize,
    moments: Vec<Moments>,
    means: Vec<T>,
}

impl<T: Element> Propagate<T> for PositionNorm {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        let Some(moments) = setup.moments else {
            return Err(Error::Objective("a normalization was asked for without moments".to_owned()));
        };
        Ok(Box::new(PositionNormRule {
            isa: setup.isa,
            input: setup.inputs[0],
            lanes: setup.blocks.lanes,
            shape: setup.shapes[0],
            n_images: setup.blocks.images,
            means: moments.iter().map(|moments| T::of(moments.mean)).collect(),
            moments: moments.to_vec(),
        }))
    }
}

impl<T: Element> PositionNormRule<T> {
    /// Positions of a channel.
    fn plane(&self) -> usize {
        self.shape[1] * self.shape[2]
    }

    /// Positions of some rows of a channel.
    fn within(&self, rows: Rows) -> std::ops::Range<usize> {
        rows.start * self.shape[2]..rows.end * self.shape[2]
    }

    /// Those rows of stored plane `idx` of a change.
    fn change<'a>(&'a self, place: Place<'a, T>, input: Delta<'a, T>, idx: usize) -> PositionChange<'a, T> {
        let (plane, lanes, at) = (self.plane(), self.lanes, self.within(place.rows()));
        let first = input.support.channel(idx) * plane;
        let z = &place.value(self.input)[first * lanes..(first + plane) * lanes];
        let delta = &input.data[idx * plane * lanes..][..plane * lanes];
        PositionChange {
            z: &z[at.start * lanes..at.end * lanes],
            means: &self.means[first + at.start..first + at.end],
            delta: &delta[at.start * lanes..at.end * lanes],
        }
    }
}

impl<T: Element> Rule<T> for PositionNormRule<T> {
    fn apply(
        &self,
        place: Place<T>,
        inputs: &[Delta<T>],
        coupled: &[Affine<T>],
        out: &mut [T],
        _: &mut Scratch<T>,
    ) {
        let (plane, lanes, at) = (self.plane(), self.lanes, self.within(place.rows()));
        for (idx, out) in out.chunks_exact_mut(plane * lanes).enumerate() {
            let maps = &coupled[idx * plane..][..plane];
            let out = &mut out[at.start * lanes..at.end * lanes];
            position::run(self.isa, self.change(place, inputs[0], idx), &maps[at.clone()], out);
        }
    }

    fn rows_read(&self, rows: Rows) -> Option<Rows> {
        Some(rows)
    }

    fn coupling(&self) -> Option<&dyn Coupling<T>> {
        Some(self)
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        // As batch norm: sums and map.
        10 * (inputs[0].planes(self.shape[0]) * self.plane()) as u64
    }
}

impl<T: Element> Coupling<T> for PositionNormRule<T> {
    fn sums_per_channel(&self) -> usize {
        SUMS * self.plane()
    }

    fn add_sums(&self, place: Place<T>, input: Delta<T>, sums: &mut [T]) {
        let (len, at) = (self.plane() * SUMS * self.lanes, self.within(place.rows()));
        for (idx, sums) in sums.chunks_exact_mut(len).enumerate() {
            let sums = &mut sums[at.start * SUMS * self.lanes..at.end * SUMS * self.lanes];
            let change = self.change(place, input, idx);
            position::add_sums(self.isa, change, place.is_in_first_block(), place.n_images(), sums);
        }
    }

    fn affine(&self, support: Support, sums: &[T], out: &mut Vec<Affine<T>>) {
        let n = self.n_images as f64;
        let total = |sums: &[T]| sums.iter().map(|sum| sum.wide()).sum::<f64>();
        for (idx, sums) in sums.chunks_exact(SUMS * self.lanes).enumerate() {
            let (stored, position) = (idx / self.plane(), idx % self.plane());
            let moments = &self.moments[support.channel(stored) * self.plane() + position];
            let (sum, rest) = sums.split_at(self.lanes);
            let (sum_square, pivot) = rest.split_at(self.lanes);
            // Mean of δ less the pivot.
            let mean = total(sum) / n;
            let variance = total(sum_square) / n - mean * mean;
            let r = (moments.variance + EPSILON).sqrt().recip();
            // A variance is not negative; rounding may say otherwise where it vanishes.
            let moved = ((moments.variance + variance).max(0.0) + EPSILON).sqrt().recip();
            let change = -variance * r * moved / (r.recip() + moved.recip());
            out.push(Affine {
                delta: T::of(moved),
                pivot: pivot[0],
                base: T::of(change),
                constant: T::of(-moved * mean),
            });
        }
    }
}
