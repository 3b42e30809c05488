//! Convolution in the NTK parametrization (Jacot, Gabriel and Hongler, 2018), padded as TensorFlow's "SAME", as the
//! released code of Boopathy and Fiete (2022) has it.

use candle_core::{Result, Tensor};

use super::conv2d::ConvRule;
use super::{ActivationShape, Conv2d, Forms, Layer, LayerPass, elements};
use crate::kernels::Element;
use crate::kernels::lanes::Scratch;
use crate::kernels::lanes::geometry::{Geometry, tap_in_larger};
use crate::kernels::lanes::norm::Affine;
use crate::kernels::ops::{self, Execution};
use crate::nn::form::{Delta, Place, Propagate, Rows, Rule, RuleSetup, Support};
use crate::params::{ParamKind, ParamSpec, Start};

/// Rows and columns of the kernel.
const KERNEL: usize = 3;

/// y = (W * x) / sqrt(9 C_in) + b with a 3x3 kernel, W normal with variance 1 and b zero at the start. With stride 1 a
/// row and a column of zeros stand on every side; with stride 2, which takes even sizes, only after the last. The
/// convolution takes the way with the fewest roundings: the normalization over few images that follows magnifies them.
/// It has no form for blocks of a pass and no batched rule.
#[derive(Debug, Clone)]
pub struct NtkConv {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Step between outputs, 1 or 2.
    pub stride: usize,
}

impl NtkConv {
    fn scale(&self) -> f64 {
        ((KERNEL * KERNEL * self.c_in) as f64).sqrt().recip()
    }

    /// The convolution that it is: with zeros on every side, a kernel that reads one place further on has a row and a
    /// column of zeros in front.
    fn as_conv(&self) -> Conv2d {
        let (c_in, c_out, stride) = (self.c_in, self.c_out, self.stride);
        Conv2d { c_in, c_out, kernel: KERNEL + stride - 1, stride, padding: 1, has_bias: true }
    }

    fn geometry(&self, batch: usize, [_, height, width]: ActivationShape) -> Geometry {
        let Conv2d { c_in, c_out, kernel, stride, padding, .. } = self.as_conv();
        Geometry { batch, c_in, height, width, c_out, kernel, stride, padding }
    }
}

impl Layer for NtkConv {
    fn params(&self) -> Vec<ParamSpec> {
        let fan_in = KERNEL * KERNEL * self.c_in;
        vec![
            ParamSpec {
                name: "weight".to_owned(),
                kind: ParamKind::ConvWeight,
                shape: vec![self.c_out, self.c_in, KERNEL, KERNEL],
                fan_in,
                start: Start::Normal(1.0),
            },
            ParamSpec {
                name: "bias".to_owned(),
                kind: ParamKind::Bias,
                shape: vec![self.c_out],
                fan_in,
                start: Start::Zero,
            },
        ]
    }

    fn output_shape(&self, inputs: &[ActivationShape]) -> ActivationShape {
        self.as_conv().output_shape(inputs)
    }

    fn flops(&self, inputs: &[ActivationShape]) -> u64 {
        2 * elements(self.output_shape(inputs)) * (self.c_in * KERNEL * KERNEL) as u64
    }

    fn forward(&self, _: &LayerPass, params: &[Tensor], inputs: &[&Tensor]) -> Result<Tensor> {
        let before = usize::from(self.stride == 1);
        let padded = inputs[0].pad_with_zeros(2, before, 1)?.pad_with_zeros(3, before, 1)?;
        let out = (padded.conv2d(&params[0], 0, self.stride, 1, 1)? * self.scale())?;
        out.broadcast_add(&params[1].reshape((1, self.c_out, 1, 1))?)
    }

    fn forward_lanes(
        &self,
        _: &LayerPass,
        execution: Execution,
        params: &[Tensor],
        inputs: &[&Tensor],
    ) -> Result<Tensor> {
        let Conv2d { kernel, stride, padding, .. } = self.as_conv();
        let weight = ops::grown(&params[0], kernel, self.scale())?;
        let execution = Execution { is_exact: true, ..execution };
        let out = ops::conv::conv2d(execution, inputs[0], &weight, stride, padding)?;
        ops::pointwise::add_bias(execution, &out, &params[1])
    }

    fn transport_lanes(
        &self,
        execution: Execution,
        params: &[Tensor],
        input: ActivationShape,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let geometry = self.geometry(execution.blocks.images, input);
        let weight = ops::grown(&params[0], geometry.kernel, self.scale())?;
        ops::conv::grad_input(execution, geometry, grad, &weight).map(Some)
    }

    fn forms(&self) -> Forms<'_> {
        Forms { is_taped: true, rule: Some(self), ..Forms::default() }
    }

    fn reads_base(&self) -> bool {
        true
    }
}

impl<T: Element> Propagate<T> for NtkConv {
    fn rule(&self, setup: &RuleSetup) -> crate::Result<Box<dyn Rule<T>>> {
        let geometry = self.geometry(setup.blocks.images, setup.shapes[0]);
        Ok(Box::new(ScaledRule::<T>::new(setup, geometry, KERNEL, self.scale())))
    }
}

/// The rule of a convolution whose weights stand in the last rows and columns of a larger kernel, times a factor.
#[derive(Debug)]
pub(super) struct ScaledRule<T> {
    conv: ConvRule<T>,
    geometry: Geometry,
    /// Rows and columns of the kernel that the layer owns.
    kernel: usize,
    scale: f64,
}

impl<T: Element> ScaledRule<T> {
    /// For the convolution `geometry` of a layer with a kernel of `kernel` rows.
    pub(super) fn new(setup: &RuleSetup, geometry: Geometry, kernel: usize, scale: f64) -> Self {
        let (small, large) = (kernel * kernel, geometry.kernel * geometry.kernel);
        let mut weight = vec![0.0; geometry.c_out * geometry.c_in * large];
        for (to, from) in weight.chunks_exact_mut(large).zip(setup.params[0].chunks_exact(small)) {
            for (tap, value) in from.iter().enumerate() {
                to[tap_in_larger(tap, kernel, geometry.kernel)] = scale * value;
            }
        }
        let conv = ConvRule::new(&RuleSetup { params: &[&weight], ..*setup }, geometry);
        Self { conv, geometry, kernel, scale }
    }

    /// Coordinate of the convolution, and the factor of its shift.
    fn in_conv(&self, coord: usize) -> (usize, f64) {
        let (small, large) = (self.kernel * self.kernel, self.geometry.kernel * self.geometry.kernel);
        let n_kernels = self.geometry.c_out * self.geometry.c_in;
        match coord.checked_sub(n_kernels * small) {
            Some(bias) => (n_kernels * large + bias, 1.0),
            None => {
                let tap = tap_in_larger(coord % small, self.kernel, self.geometry.kernel);
                (coord / small * large + tap, self.scale)
            }
        }
    }
}

impl<T: Element> Rule<T> for ScaledRule<T> {
    fn seed_channel(&self, coord: usize) -> usize {
        self.conv.seed_channel(self.in_conv(coord).0)
    }

    fn seed(&self, place: Place<T>, coord: usize, shift: f64, out: &mut [T]) {
        let (coord, factor) = self.in_conv(coord);
        self.conv.seed(place, coord, factor * shift, out);
    }

    fn support(&self, inputs: &[Support]) -> Support {
        self.conv.support(inputs)
    }

    fn rows_read(&self, rows: Rows) -> Option<Rows> {
        self.conv.rows_read(rows)
    }

    fn apply(
        &self,
        place: Place<T>,
        inputs: &[Delta<T>],
        coupled: &[Affine<T>],
        out: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        self.conv.apply(place, inputs, coupled, out, scratch);
    }

    fn flops(&self, inputs: &[Support]) -> u64 {
        self.conv.flops(inputs)
    }
}
