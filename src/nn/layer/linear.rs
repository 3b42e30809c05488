//! Fully connected layer.

use candle_core::{Result, Tensor};

use super::conv2d::{ConvRule, StreamedConv};
use super::{ActivationShape, Conv2d, Forms, Layer, LayerPass};
use crate::kernels::lanes::geometry::Geometry;
use crate::kernels::ops::Execution;
use crate::kernels::{Element, ops};
use crate::nn::form::{
    BatchedRule, BatchedSetup, Blockwise, Propagate, PropagateBatched, Rule, RuleSetup, StreamSetup, Streamed,
};
use crate::params::{ParamKind, ParamSpec, Start};

/// y = x Wᵀ + b for x (B, in), W (out, in), b (out).
#[derive(Debug, Clone)]
pub struct Linear {
    /// Input features.
    pub n_in: usize,
    /// Output features.
    pub n_out: usize,
}

impl Layer for Linear {
    fn params(&self) -> Vec<ParamSpec> {
        vec![
            ParamSpec {
                name: "weight".to_owned(),
                kind: ParamKind::LinearWeight,
                shape: vec![self.n_out, self.n_in],
                fan_in: self.n_in,
                start: Start::Usual,
            },
            ParamSpec {
                name: "bias".to_owned(),
                kind: ParamKind::Bias,
                shape: vec![self.n_out],
                fan_in: self.n_in,
                start: Start::Usual,
            },
        ]
    }

    fn output_shape(&self, _: &[ActivationShape]) -> ActivationShape {
        [self.n_out, 1, 1]
    }

    fn flops(&self, _: &[ActivationShape]) -> u64 {
        2 * (self.n_in * self.n_out) as u64
    }

    fn forward(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let features = inputs[0].flatten_from(1)?;
        features.matmul(&params[0].t()?)?.broadcast_add(&params[1])?.unsqueeze(2)?.unsqueeze(3)
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        params: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let weight = ops::as_conv(&params[0])?;
        let out = ops::conv::conv2d(execution, inputs[0], &weight, 1, 0)?;
        ops::pointwise::add_bias(execution, &out, &params[1])
    }

    fn transport_lanes(
        &self,
        execution: Execution,
        params: &[Tensor],
        _: ActivationShape,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let geometry = self.geometry(execution.blocks.images);
        ops::conv::grad_input(execution, geometry, grad, &ops::as_conv(&params[0])?).map(Some)
    }

    fn forward_batched(&self, pass: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let params = [self.as_conv_weight(&params[0])?, params[1].clone()];
        self.as_conv().forward_batched(pass, &params, inputs)
    }

    fn forms(&self) -> Forms<'_> {
        Forms::all(self)
    }

    fn reads_base(&self) -> bool {
        true
    }
}

impl PropagateBatched for Linear {
    fn batched_rule(&self, setup: &BatchedSetup) -> crate::Result<Box<dyn BatchedRule>> {
        self.as_conv().batched_rule_with(setup, self.as_conv_weight(&setup.params[0])?)
    }
}

impl Linear {
    fn as_conv(&self) -> Conv2d {
        Conv2d { c_in: self.n_in, c_out: self.n_out, kernel: 1, stride: 1, padding: 0, has_bias: true }
    }

    /// (P, out, in) as (P, out, in, 1, 1).
    fn as_conv_weight(&self, weight: &Tensor) -> Result<Tensor> {
        weight.reshape((weight.dim(0)?, self.n_out, self.n_in, 1, 1))
    }

    /// A linear layer is a 1x1 convolution of a single pixel.
    fn geometry(&self, batch: usize) -> Geometry {
        let (c_in, c_out) = (self.n_in, self.n_out);
        Geometry { batch, c_in, height: 1, width: 1, c_out, kernel: 1, stride: 1, padding: 0 }
    }
}

impl<T: Element> Propagate<T> for Linear {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        Ok(Box::new(ConvRule::<T>::new(setup, self.geometry(setup.blocks.images))))
    }
}

impl<T: Element> Blockwise<T> for Linear {
    fn streamed(&self, setup: &StreamSetup) -> crate::Result<Box<dyn Streamed<T>>> {
        Ok(Box::new(StreamedConv::<T>::new(setup, self.geometry(setup.blocks.images))))
    }
}
