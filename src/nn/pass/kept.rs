//! The pass that shows every value, keeps them all, or goes on from those that were kept.

use candle_core::{DType, Tensor};

use crate::kernels::Isa;
use crate::kernels::lanes::Blocks;
use crate::kernels::lanes::norm::Moments;
use crate::kernels::ops::{self, Execution};
use crate::nn::activations::{Activations, Kind};
use crate::nn::form::{Context, LayerPass};
use crate::nn::graph::Network;
use crate::nn::layer::Statistics;
use crate::{Error, Result};

/// A value of a pass, before it is dropped.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) struct Seen<'a> {
    pub(in crate::nn) execution: Execution,
    /// Its number; the input's is 0.
    pub(in crate::nn) value: usize,
    pub(in crate::nn) tensor: &'a Tensor,
    /// Of its channels, if a batch norm takes them from the batch.
    pub(in crate::nn) moments: Option<&'a [Moments]>,
}

impl Network {
    /// How operations on `images` run.
    pub(super) fn execution(context: &Context, images: &Tensor) -> Result<Execution> {
        let isa = Isa::current();
        let n_images = images.dim(0)?;
        let blocks = match images.dtype() {
            DType::F64 => Blocks::new::<f64>(isa, n_images),
            _ => Blocks::new::<f32>(isa, n_images),
        };
        // Who asks for double precision asks for digits, not for speed.
        let is_exact = images.dtype() == DType::F64;
        Ok(Execution { isa, blocks, split: context.split, is_exact })
    }

    fn run_fused<'v>(
        &self,
        idx: usize,
        context: &Context,
        execution: Execution,
        params: &[Tensor],
        moments: Option<&[Moments]>,
        value: impl Fn(usize) -> &'v Tensor,
    ) -> Result<Tensor> {
        let fused = &self.fused()[idx];
        let inputs: Vec<&Tensor> = fused.inputs.iter().map(|&input| value(input)).collect();
        let pass = LayerPass { mode: context.mode, epilogue: fused.epilogue, moments };
        let params = &params[self.params_of(fused.node)];
        Ok(self.layer(fused.node).forward_lanes(&pass, execution, params, &inputs)?)
    }

    /// As [`Network::forward`] on the CPU; `visit` sees every value before it is dropped. `is_exact` as in
    /// [`Execution`].
    pub(in crate::nn) fn forward_visit(
        &self,
        context: &Context,
        params: &[Tensor],
        images: &Tensor,
        is_exact: bool,
        visit: &mut dyn FnMut(Seen) -> Result<()>,
    ) -> Result<Tensor> {
        let execution = Self::execution(context, images)?;
        let execution = Execution { is_exact: is_exact || execution.is_exact, ..execution };
        let mut values: Vec<Option<Tensor>> = vec![None; self.n_nodes() + 1];
        let mut moments: Vec<Option<Vec<Moments>>> = vec![None; self.n_nodes() + 1];
        let is_measured = |value: usize| {
            self.fused().iter().any(|fused| {
                let is_per_channel =
                    self.norm_of(fused).is_some_and(|norm| norm.statistics == Statistics::PerChannel);
                fused.inputs[0] == value && is_per_channel && self.is_coupled(fused, context.mode)
            })
        };
        let mut see = |value: usize, tensor: &Tensor, moments: &mut Option<Vec<Moments>>| -> Result<()> {
            if is_measured(value) {
                *moments = Some(ops::norm::moments(execution, tensor)?);
            }
            visit(Seen { execution, value, tensor, moments: moments.as_deref() })
        };
        let input = ops::to_lanes(images, execution.blocks)?;
        see(0, &input, &mut moments[0])?;
        values[0] = Some(input);
        for (idx, fused) in self.fused().iter().enumerate() {
            let read = |value: usize| values[value].as_ref().expect("kept until its last use");
            let known = moments[fused.inputs[0]].as_deref();
            let output = self.run_fused(idx, context, execution, params, known, read)?;
            see(fused.output, &output, &mut moments[fused.output])?;
            values[fused.output] = Some(output);
            self.drop_unused(idx, &mut values);
        }
        let last = values.pop().flatten().expect("the last layer's value is never dropped");
        Ok(ops::to_rows(&ops::as_features(&last)?, execution.blocks)?)
    }

    fn drop_unused(&self, idx: usize, values: &mut [Option<Tensor>]) {
        for &value in &self.fused()[idx].inputs {
            if self.last_reader(value) == Some(idx) {
                values[value] = None;
            }
        }
    }

    /// All values of a forward pass on `images` (B, C, H, W).
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub fn forward_all(&self, context: &Context, params: &[Tensor], images: &Tensor) -> Result<Activations> {
        if !images.device().is_cpu() {
            return self.forward_batched(context, params, images, |_| true);
        }
        let mut values: Vec<Option<Tensor>> = vec![None; self.n_nodes() + 1];
        let mut moments = vec![None; self.n_nodes() + 1];
        let logits = self.forward_visit(context, params, images, false, &mut |seen| {
            values[seen.value] = Some(seen.tensor.clone());
            moments[seen.value] = seen.moments.map(<[Moments]>::to_vec);
            Ok(())
        })?;
        let kind = Kind::Lanes(Self::execution(context, images)?);
        Ok(Activations { values, moments, logits, kind, n_images: images.dim(0)? })
    }

    /// Logits when only the parameters of node `node_idx` differ from those that gave `base`: the
    /// paper's feature reuse, at layer granularity. What does not depend on that node is not computed
    /// again.
    ///
    /// # Errors
    /// If `base` is not of [`Network::forward_all`] on the CPU, or shapes do not fit.
    pub fn forward_from(
        &self,
        node_idx: usize,
        context: &Context,
        params: &[Tensor],
        base: &Activations,
    ) -> Result<Tensor> {
        let changed = self.changed_from(node_idx);
        let Kind::Lanes(execution) = base.kind else {
            return Err(Error::Objective("activations of a GPU serve batched points only".to_owned()));
        };
        let execution = Execution { split: context.split, ..execution };
        let mut values: Vec<Option<Tensor>> = vec![None; self.n_nodes() + 1];
        for (idx, fused) in self.fused().iter().enumerate().filter(|(_, fused)| changed[fused.output - 1]) {
            let read = |value: usize| {
                values[value].as_ref().or(base.values[value].as_ref()).expect("kept or computed again")
            };
            let is_known = values[fused.inputs[0]].is_none();
            let known = base.moments.get(fused.inputs[0]).and_then(Option::as_deref).filter(|_| is_known);
            let output = self.run_fused(idx, context, execution, params, known, read)?;
            values[fused.output] = Some(output);
            self.drop_unused(idx, &mut values);
        }
        let last = values.pop().flatten().expect("the output depends on every node");
        Ok(ops::to_rows(&ops::as_features(&last)?, execution.blocks)?)
    }
}
