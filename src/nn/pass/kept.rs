//! The pass that shows every value, keeps them all, or goes on from those that were kept.

use candle_core::{DType, Tensor};

use crate::kernels::Isa;
use crate::kernels::lanes::Blocks;
use crate::kernels::ops::{self, Execution};
use crate::nn::activations::{Activations, Kind};
use crate::nn::form::{Context, LayerPass};
use crate::nn::graph::Network;
use crate::{Error, Result};

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
        value: impl Fn(usize) -> &'v Tensor,
    ) -> Result<Tensor> {
        let fused = &self.fused()[idx];
        let inputs: Vec<&Tensor> = fused.inputs.iter().map(|&input| value(input)).collect();
        let pass = LayerPass { mode: context.mode, epilogue: fused.epilogue };
        let params = &params[self.params_of(fused.node)];
        Ok(self.layer(fused.node).forward_lanes(&pass, execution, params, &inputs)?)
    }

    /// As [`Network::forward`] on the CPU; `visit` sees every value with its number, the input's being 0, before
    /// it is dropped. `is_exact` as in [`Execution`].
    pub(in crate::nn) fn forward_visit(
        &self,
        context: &Context,
        params: &[Tensor],
        images: &Tensor,
        is_exact: bool,
        visit: &mut dyn FnMut(Execution, usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let execution = Self::execution(context, images)?;
        let execution = Execution { is_exact: is_exact || execution.is_exact, ..execution };
        let mut values: Vec<Option<Tensor>> = vec![None; self.n_nodes() + 1];
        let input = ops::to_lanes(images, execution.blocks)?;
        visit(execution, 0, &input)?;
        values[0] = Some(input);
        for (idx, fused) in self.fused().iter().enumerate() {
            let read = |value: usize| values[value].as_ref().expect("kept until its last use");
            let output = self.run_fused(idx, context, execution, params, read)?;
            visit(execution, fused.output, &output)?;
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
        let logits = self.forward_visit(context, params, images, false, &mut |_, value, tensor| {
            values[value] = Some(tensor.clone());
            Ok(())
        })?;
        let kind = Kind::Lanes(Self::execution(context, images)?);
        Ok(Activations { values, logits, kind, n_images: images.dim(0)? })
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
            let output = self.run_fused(idx, context, execution, params, read)?;
            values[fused.output] = Some(output);
            self.drop_unused(idx, &mut values);
        }
        let last = values.pop().flatten().expect("the output depends on every node");
        Ok(ops::to_rows(&ops::as_features(&last)?, execution.blocks)?)
    }
}
