//! What runs as one.

use super::Node;
use crate::nn::form::Epilogue;
use crate::nn::layer::Role;

/// What runs as one: a layer, with what it takes over from the layers after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nn) struct Fused {
    /// The layer.
    pub(in crate::nn) node: usize,
    /// Values read: those of the layer, and the other term of an addition that it takes over.
    pub(in crate::nn) inputs: Vec<usize>,
    /// Value produced.
    pub(in crate::nn) output: usize,
    /// What the layer takes over.
    pub(in crate::nn) epilogue: Epilogue,
}

/// What runs as one, of a list of layers: batch norms take over the ReLU, or the addition and the ReLU, that alone
/// read their output.
pub(super) fn fuse(nodes: &[Node]) -> Vec<Fused> {
    let only_reader = |node: usize, role: Role| {
        let mut readers = (0..nodes.len()).filter(|&reader| nodes[reader].inputs.contains(&(node + 1)));
        let reader = readers.next()?;
        (readers.next().is_none() && nodes[reader].layer.role() == role).then_some(reader)
    };
    let mut is_taken = vec![false; nodes.len()];
    let mut all = Vec::new();
    for (idx, node) in nodes.iter().enumerate() {
        if is_taken[idx] {
            continue;
        }
        let mut fused =
            Fused { node: idx, inputs: node.inputs.clone(), output: idx + 1, epilogue: Epilogue::None };
        if node.layer.role() == Role::Norm {
            if let Some(relu) = only_reader(idx, Role::Relu) {
                fused.epilogue = Epilogue::Relu;
                fused.output = relu + 1;
                is_taken[relu] = true;
            } else if let Some(add) = only_reader(idx, Role::Add).filter(|&add| !is_taken[add])
                && let Some(relu) = only_reader(add, Role::Relu)
                // What is added to itself has no other term.
                && let Some(&other) = nodes[add].inputs.iter().find(|&&value| value != idx + 1)
            {
                fused.inputs.push(other);
                fused.epilogue = Epilogue::AddRelu;
                fused.output = relu + 1;
                is_taken[add] = true;
                is_taken[relu] = true;
            }
        }
        all.push(fused);
    }
    // An addition that was taken over needs its other term first.
    all.sort_by_key(|fused| fused.output);
    all
}
