//! A scale of the logits that makes the loss blind to the size of the weights.

use crate::params::Layout;

/// The factor Π_l 3 / ‖W_l‖ over all convolution and linear weights W_l (Chiang et al., "Loss Landscapes
/// are All You Need", ICLR 2023, as in its released code). A network without batch norm is nearly
/// homogeneous in its weights, and without this factor a search would lower the loss by growing them.
#[derive(Debug, Clone)]
pub struct LogitScale {
    value: f64,
    params: Vec<f64>,
    /// First coordinate after each tensor, and its squared norm if it is a weight.
    ends: Vec<(usize, Option<f64>)>,
}

/// Norm at which a tensor's factor is 1.
const UNIT: f64 = 3.0;

impl LogitScale {
    /// The factor at `params` (d).
    #[must_use]
    pub fn new(layout: &Layout, params: &[f64]) -> Self {
        let squares = |range: std::ops::Range<usize>| params[range].iter().map(|w| w * w).sum::<f64>();
        let tensors = layout.specs().iter().enumerate().map(|(param_idx, spec)| {
            let range = layout.range(param_idx);
            (range.end, spec.kind.is_prunable().then(|| squares(range)))
        });
        let ends: Vec<_> = tensors.collect();
        let value =
            ends.iter().filter_map(|(_, square)| *square).map(|square| UNIT / square.sqrt()).product();
        Self { value, params: params.to_vec(), ends }
    }

    /// The factor.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Slope of the factor's logarithm along coordinate `coord`: −w / ‖W‖² for a weight w, else zero.
    #[must_use]
    pub fn log_slope(&self, coord: usize) -> f64 {
        let tensor = self.ends.partition_point(|&(end, _)| end <= coord);
        self.ends[tensor].1.map_or(0.0, |square| -self.params[coord] / square)
    }

    /// The factor when coordinate `coord` has moved by `shift`.
    #[must_use]
    pub fn after(&self, coord: usize, shift: f64) -> f64 {
        let tensor = self.ends.partition_point(|&(end, _)| end <= coord);
        match self.ends[tensor].1 {
            None => self.value,
            Some(square) => {
                let growth = shift * (2.0 * self.params[coord] + shift);
                self.value * (square / (square + growth)).sqrt()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model;

    /// Oracle: the definition, at the moved point.
    #[test]
    fn the_factor_after_a_step_is_the_factor_there() {
        let network = model::cnn(2, 4, &model::Io::CIFAR).expect("a sound size");
        let layout = network.layout();
        let params = layout.initial_values(1);
        let scale = LogitScale::new(layout, &params);
        let norms = ["features.0.weight", "features.4.weight", "fc.weight"].map(|name| {
            let param_idx = layout.param_of(layout.coord(name, 0).expect("a name"));
            params[layout.range(param_idx)].iter().map(|w| w * w).sum::<f64>().sqrt()
        });
        let expected: f64 = norms.iter().map(|norm| 3.0 / norm).product();
        assert!((scale.value() / expected - 1.0).abs() < 1e-14);
        for coord in [0, 50, 107, 108, 111, 112, 120, 200, params.len() - 1] {
            for shift in [0.5, -1.0] {
                let mut moved = params.clone();
                moved[coord] += shift;
                let expected = LogitScale::new(layout, &moved).value();
                assert!((scale.after(coord, shift) / expected - 1.0).abs() < 1e-12, "{coord}");
            }
        }
    }
}
