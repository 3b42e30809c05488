//! Whose coordinate a probe moves, and what stands at the base point.

use crate::nn::graph::Network;
use crate::nn::stats::BatchStats;

/// Loss, logits (B, classes) and batch statistics at a base point.
pub(super) type Head = (f64, candle_core::Tensor, BatchStats);

/// Which fused layer owns which coordinates.
#[derive(Debug)]
pub(super) struct Owners {
    /// First coordinate of every fused layer with parameters, and its number; sorted.
    firsts: Vec<(usize, usize)>,
    n_coords: usize,
}

impl Owners {
    pub(super) fn new(network: &Network) -> Self {
        let owned = |(idx, node): (usize, usize)| {
            let own = network.params_of(node);
            (!own.is_empty()).then(|| (network.layout().range(own.start).start, idx))
        };
        let nodes = network.fused().iter().map(|fused| fused.node).enumerate();
        let mut firsts: Vec<_> = nodes.filter_map(owned).collect();
        firsts.sort_unstable();
        Self { firsts, n_coords: network.layout().n_coords() }
    }

    /// The fused layer that owns a coordinate, and the coordinate's number within it.
    pub(super) fn of(&self, coord: usize) -> (usize, usize) {
        assert!(coord < self.n_coords, "coordinate {coord} of {}", self.n_coords);
        let (first, fused_idx) = self.firsts[self.firsts.partition_point(|&(first, _)| first <= coord) - 1];
        (fused_idx, coord - first)
    }
}
