//! Fully connected layer in the NTK parametrization (Jacot, Gabriel and Hongler, 2018).

use candle_core::{Result, Tensor};

use super::ntk_conv::ScaledRule;
use super::{ActivationShape, Forms, Layer, LayerPass};
use crate::kernels::Element;
use crate::kernels::lanes::geometry::Geometry;
use crate::kernels::ops::{self, Execution};
use crate::nn::form::{Propagate, Rule, RuleSetup};
use crate::params::{ParamKind, ParamSpec, Start};

/// y = x Wᵀ / sqrt(in) + b for x (B, in), W (out, in), b (out), W normal with variance 1 and b zero at the start. It has
/// no form for blocks of a pass and no batched rule.
#[derive(Debug, Clone)]
pub struct NtkLinear {
    /// Input features.
    pub n_in: usize,
    /// Output features.
    pub n_out: usize,
}

impl NtkLinear {
    fn scale(&self) -> f64 {
        (self.n_in as f64).sqrt().recip()
    }

    /// A linear layer is a 1x1 convolution of a single pixel.
    fn geometry(&self, batch: usize) -> Geometry {
        let (c_in, c_out) = (self.n_in, self.n_out);
        Geometry { batch, c_in, height: 1, width: 1, c_out, kernel: 1, stride: 1, padding: 0 }
    }

    fn weight(&self, weight: &Tensor) -> Result<Tensor> {
        ops::grown(&ops::as_conv(weight)?, 1, self.scale())
    }
}

impl Layer for NtkLinear {
    fn params(&self) -> Vec<ParamSpec> {
        vec![
            ParamSpec {
                name: "weight".to_owned(),
                kind: ParamKind::LinearWeight,
                shape: vec![self.n_out, self.n_in],
                fan_in: self.n_in,
                start: Start::Normal(1.0),
            },
            ParamSpec {
                name: "bias".to_owned(),
                kind: ParamKind::Bias,
                shape: vec![self.n_out],
                fan_in: self.n_in,
                start: Start::Zero,
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
        let features = (inputs[0].flatten_from(1)? * self.scale())?;
        features.matmul(&params[0].t()?)?.broadcast_add(&params[1])?.unsqueeze(2)?.unsqueeze(3)
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        params: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let out = ops::conv::conv2d(execution, inputs[0], &self.weight(&params[0])?, 1, 0)?;
        ops::pointwise::add_bias(execution, &out, &params[1])
    }

    fn transport_lanes(
        &self,
        execution: Execution,
        params: &[Tensor],
        _: ActivationShape,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let weight = self.weight(&params[0])?;
        ops::conv::grad_input(execution, self.geometry(execution.blocks.images), grad, &weight).map(Some)
    }

    fn forms(&self) -> Forms<'_> {
        Forms { is_taped: true, rule: Some(self), ..Forms::default() }
    }

    fn reads_base(&self) -> bool {
        true
    }
}

impl<T: Element> Propagate<T> for NtkLinear {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        Ok(Box::new(ScaledRule::<T>::new(setup, self.geometry(setup.blocks.images), 1, self.scale())))
    }
}
