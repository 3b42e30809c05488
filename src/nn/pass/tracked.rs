//! The pass that candle's autograd follows.

use candle_core::Tensor;

use crate::Result;
use crate::nn::activations::{Activations, Kind};
use crate::nn::form::{LayerPass, Mode};
use crate::nn::graph::Network;

impl Network {
    /// A pass through candle's own operations, which its autograd follows on any device.
    ///
    /// # Errors
    /// If shapes do not fit or the device fails.
    pub(crate) fn forward_tracked(
        &self,
        mode: Mode,
        params: &[Tensor],
        images: &Tensor,
    ) -> Result<Activations> {
        let mut values: Vec<Option<Tensor>> = vec![None; self.n_nodes() + 1];
        values[0] = Some(images.clone());
        for fused in self.fused() {
            let inputs: Vec<&Tensor> =
                fused.inputs.iter().filter_map(|&value| values[value].as_ref()).collect();
            let pass = LayerPass { mode, epilogue: fused.epilogue, moments: None };
            values[fused.output] =
                Some(self.layer(fused.node).forward(&pass, &params[self.params_of(fused.node)], &inputs)?);
        }
        let last = values.last().and_then(Option::as_ref).expect("a network has an output");
        let logits = last.flatten_from(1)?;
        Ok(Activations { values, moments: Vec::new(), logits, kind: Kind::Plain, n_images: images.dim(0)? })
    }
}
