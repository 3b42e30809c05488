//! The parameters of a network as one flat vector θ in R^d, in declared order.
//!
//! The vector is kept in f64 on the host: updates far below f32's resolution are not lost, and a
//! black box needs no other type. Networks evaluate it in the precision asked for.

use std::ops::Range;

use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

crate::choice! {
    /// How parameters start.
    pub enum Init {
        /// Weights from Kaiming's normal law, batch norm at one and zero, other biases as PyTorch has them.
        Kaiming = "kaiming",
        /// Every parameter uniform in [-1, 1], as Pattern Search's authors do.
        Uniform = "uniform",
        /// Weights from Glorot's uniform law, biases at zero, as Keras has them.
        Glorot = "glorot",
    }
}

/// What a parameter tensor does; decides initialization and whether sparsity applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// (C_out, C_in, K, K).
    ConvWeight,
    /// (out, in).
    LinearWeight,
    /// Additive, of a convolution or linear layer.
    Bias,
    /// Batch-norm scale γ.
    NormScale,
    /// Batch-norm shift β.
    NormShift,
}

impl ParamKind {
    /// Whether pruning ratios apply: convolution and linear weights only.
    #[must_use]
    pub fn is_prunable(self) -> bool {
        matches!(self, Self::ConvWeight | Self::LinearWeight)
    }
}

/// How one parameter tensor starts, where [`Init::Kaiming`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Start {
    /// As its kind does.
    #[default]
    Usual,
    /// Normal with mean zero and this standard deviation.
    Normal(f64),
    /// At zero.
    Zero,
    /// A matrix (outputs, rest) with orthonormal rows, or columns if there are fewer of these, uniformly random among
    /// such (Saxe et al., 2014).
    Orthogonal,
}

/// One parameter tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// PyTorch-style name, such as `layer1.0.conv1.weight`.
    pub name: String,
    /// What it does.
    pub kind: ParamKind,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Inputs that one output sums over; 1 for batch norm.
    pub fan_in: usize,
    /// How it starts.
    pub start: Start,
}

impl ParamSpec {
    /// Scalars in the tensor.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no scalars.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Names, shapes and positions of all parameters of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    specs: Vec<ParamSpec>,
    /// Start of each tensor in the flat vector, and the total at the end.
    offsets: Vec<usize>,
    free_lengths: Vec<Range<usize>>,
}

impl Layout {
    /// The layout of these tensors in this order.
    #[must_use]
    pub fn new(specs: Vec<ParamSpec>) -> Self {
        let mut offsets = vec![0];
        for spec in &specs {
            offsets.push(offsets[offsets.len() - 1] + spec.len());
        }
        Self { specs, offsets, free_lengths: Vec::new() }
    }

    /// The layout with these ranges of tensors (positions in it) as those of [`Layout::free_lengths`].
    #[must_use]
    pub fn with_free_lengths(mut self, tensors: Vec<Range<usize>>) -> Self {
        self.free_lengths =
            tensors.into_iter().map(|range| self.offsets[range.start]..self.offsets[range.end]).collect();
        self
    }

    /// Coordinates, a range each, on whose common length the loss of a batch does not depend: scales and shifts of
    /// normalizations that others follow before anything but a convolution, ReLU or pooling does. The gradient is orthogonal
    /// to each.
    #[must_use]
    pub fn free_lengths(&self) -> &[Range<usize>] {
        &self.free_lengths
    }

    /// Number of coordinates d.
    #[must_use]
    pub fn n_coords(&self) -> usize {
        self.offsets[self.specs.len()]
    }

    /// The tensors in declared order.
    #[must_use]
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Coordinates of tensor `param_idx`.
    #[must_use]
    pub fn range(&self, param_idx: usize) -> Range<usize> {
        self.offsets[param_idx]..self.offsets[param_idx + 1]
    }

    /// The tensor that coordinate `coord` belongs to.
    ///
    /// # Panics
    /// If `coord` is not below [`Layout::n_coords`].
    #[must_use]
    pub fn param_of(&self, coord: usize) -> usize {
        assert!(coord < self.n_coords(), "coordinate {coord} of {}", self.n_coords());
        self.offsets.partition_point(|&start| start <= coord) - 1
    }

    /// The coordinate of element `flat_idx` of the tensor called `name`.
    ///
    /// # Errors
    /// If there is no such tensor or element.
    pub fn coord(&self, name: &str, flat_idx: usize) -> Result<usize> {
        let param_idx = self.specs.iter().position(|spec| spec.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
            Error::Parameter {
                name: name.to_owned(),
                expected: format!("one of {}", known.join(", ")),
                got: "an unknown name".to_owned(),
            }
        })?;
        let len = self.specs[param_idx].len();
        if flat_idx >= len {
            return Err(Error::Parameter {
                name: name.to_owned(),
                expected: format!("a flat index below {len}"),
                got: flat_idx.to_string(),
            });
        }
        Ok(self.offsets[param_idx] + flat_idx)
    }

    /// Initial values by the law `init`.
    #[must_use]
    pub fn initial(&self, init: Init, seed: u64) -> Vec<f64> {
        self.drawn(init, seed, Purpose::Init)
    }

    /// Other values by the same law, with draws of their own for every purpose.
    #[must_use]
    pub fn drawn(&self, init: Init, seed: u64, purpose: Purpose) -> Vec<f64> {
        let stream = Stream::new(seed, purpose, 0);
        match init {
            Init::Kaiming => self.usual_values(stream),
            Init::Uniform => self.uniform_values(stream),
            Init::Glorot => self.glorot_values(stream),
        }
    }

    /// Every parameter uniform in [-1, 1].
    fn uniform_values(&self, stream: Stream) -> Vec<f64> {
        let of_tensor = |param_idx: usize| {
            let lane = stream.lane(param_idx as u32);
            (0..self.range(param_idx).len()).map(move |idx| 2.0 * lane.uniform_at(idx as u64) - 1.0)
        };
        (0..self.specs.len()).flat_map(of_tensor).collect()
    }

    /// Weights uniform in ± sqrt(6 / (fan-in + fan-out)) (Glorot and Bengio 2010), biases zero; all else as usual.
    fn glorot_values(&self, stream: Stream) -> Vec<f64> {
        let mut values = self.usual_values(stream);
        for (param_idx, spec) in self.specs.iter().enumerate().filter(|(_, spec)| spec.start == Start::Usual)
        {
            let (lane, tensor) =
                (stream.lane(param_idx as u32), &mut values[self.offsets[param_idx]..][..spec.len()]);
            if spec.kind.is_prunable() {
                // Every output of a channel reads as many inputs as are in a weight's part for it.
                let fan_out = spec.len() / spec.shape.get(1).map_or(1, |&n| n.max(1));
                let bound = (6.0 / (spec.fan_in + fan_out) as f64).sqrt();
                for (idx, value) in tensor.iter_mut().enumerate() {
                    *value = bound * (2.0 * lane.uniform_at(idx as u64) - 1.0);
                }
            } else if spec.kind == ParamKind::Bias {
                tensor.fill(0.0);
            }
        }
        values
    }

    /// The usual initial values: Kaiming-normal convolution and linear weights (standard deviation
    /// sqrt(2 / fan-in), He et al. 2015), biases uniform in ± 1/sqrt(fan-in), batch norm 1 and 0; a tensor with a
    /// start of its own has that one.
    #[must_use]
    pub fn initial_values(&self, seed: u64) -> Vec<f64> {
        self.usual_values(Stream::new(seed, Purpose::Init, 0))
    }

    fn usual_values(&self, stream: Stream) -> Vec<f64> {
        let mut values = vec![0.0; self.n_coords()];
        for (param_idx, spec) in self.specs.iter().enumerate() {
            let lane = stream.lane(param_idx as u32);
            let tensor = &mut values[self.range(param_idx)];
            let mut normal = |std: f64| {
                lane.fill_normal(tensor);
                tensor.iter_mut().for_each(|value| *value *= std);
            };
            match (spec.start, spec.kind) {
                (Start::Zero, _) | (Start::Usual, ParamKind::NormShift) => {}
                (Start::Normal(std), _) => normal(std),
                (Start::Orthogonal, _) => {
                    normal(1.0);
                    orthonormalize(tensor, spec.shape[0]);
                }
                (Start::Usual, ParamKind::ConvWeight | ParamKind::LinearWeight) => {
                    normal((2.0 / spec.fan_in as f64).sqrt());
                }
                (Start::Usual, ParamKind::Bias) => {
                    let bound = (spec.fan_in as f64).sqrt().recip();
                    for (idx, value) in tensor.iter_mut().enumerate() {
                        *value = bound * (2.0 * lane.uniform_at(idx as u64) - 1.0);
                    }
                }
                (Start::Usual, ParamKind::NormScale) => tensor.fill(1.0),
            }
        }
        values
    }
}

/// Makes the rows of a matrix with `n_rows` rows orthonormal, or its columns if there are fewer of these, by Gram and
/// Schmidt; of normal numbers the result is uniformly random. Every vector is projected twice, which keeps all digits.
pub(crate) fn orthonormalize(matrix: &mut [f64], n_rows: usize) {
    let n_cols = matrix.len() / n_rows.max(1);
    let is_wide = n_rows <= n_cols;
    let (n, len) = if is_wide { (n_rows, n_cols) } else { (n_cols, n_rows) };
    let place =
        |vector: usize, idx: usize| if is_wide { vector * n_cols + idx } else { idx * n_cols + vector };
    let mut done: Vec<Vec<f64>> = Vec::with_capacity(n);
    for vector in 0..n {
        let mut own: Vec<f64> = (0..len).map(|idx| matrix[place(vector, idx)]).collect();
        for _ in 0..2 {
            for other in &done {
                let dot: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
                own.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
            }
        }
        let norm = own.iter().map(|a| a * a).sum::<f64>().sqrt();
        own.iter_mut().for_each(|a| *a /= norm);
        own.iter().enumerate().for_each(|(idx, &a)| matrix[place(vector, idx)] = a);
        done.push(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the definition, for more rows than columns and fewer.
    #[test]
    fn orthogonal_starts_are_orthonormal() {
        for (rows, cols) in [(4, 27), (12, 5), (6, 6)] {
            let spec = ParamSpec {
                name: "w".to_owned(),
                kind: ParamKind::ConvWeight,
                shape: vec![rows, cols],
                fan_in: cols,
                start: Start::Orthogonal,
            };
            let values = Layout::new(vec![spec]).initial_values(3);
            let at = |row: usize, col: usize| values[row * cols + col];
            let n = rows.min(cols);
            for a in 0..n {
                for b in 0..n {
                    let dot: f64 = if rows <= cols {
                        (0..cols).map(|col| at(a, col) * at(b, col)).sum()
                    } else {
                        (0..rows).map(|row| at(row, a) * at(row, b)).sum()
                    };
                    let expected = if a == b { 1.0 } else { 0.0 };
                    assert!((dot - expected).abs() < 1e-12, "{rows} x {cols}: {a} {b} {dot}");
                }
            }
        }
    }

    fn layout() -> Layout {
        let spec = |name: &str, kind, shape: &[usize], fan_in| ParamSpec {
            name: name.to_owned(),
            kind,
            shape: shape.to_vec(),
            fan_in,
            start: Start::Usual,
        };
        Layout::new(vec![
            spec("conv.weight", ParamKind::ConvWeight, &[64, 32, 3, 3], 288),
            spec("bn.weight", ParamKind::NormScale, &[64], 1),
            spec("fc.bias", ParamKind::Bias, &[10], 64),
        ])
    }

    #[test]
    fn coordinates_map_both_ways() {
        let layout = layout();
        assert_eq!(layout.n_coords(), 18_432 + 64 + 10);
        for (coord, param_idx) in [(0, 0), (18_431, 0), (18_432, 1), (18_495, 1), (18_496, 2), (18_505, 2)] {
            assert_eq!(layout.param_of(coord), param_idx);
            let start = layout.range(param_idx).start;
            assert_eq!(layout.coord(&layout.specs()[param_idx].name, coord - start).unwrap(), coord);
        }
        assert!(layout.coord("fc.bias", 10).is_err());
        assert!(layout.coord("fc.weight", 0).is_err());
    }

    /// Oracle: standard deviation sqrt(2/288) of He et al.; five standard errors.
    #[test]
    fn initial_weights_have_kaiming_scale() {
        let layout = layout();
        let values = layout.initial_values(1);
        let weights = &values[layout.range(0)];
        let n = weights.len() as f64;
        let variance = weights.iter().map(|w| w * w).sum::<f64>() / n;
        assert!((variance / (2.0 / 288.0) - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
        assert!(values[layout.range(1)].iter().all(|&v| (v - 1.0).abs() < f64::EPSILON));
        assert!(values[layout.range(2)].iter().all(|v| v.abs() <= 0.125 && v.abs() > 0.0));
        assert_eq!(layout.initial(Init::Kaiming, 1), values);
    }

    /// Oracle: the law that is asked for; five standard errors.
    #[test]
    fn a_tensor_can_have_a_start_of_its_own() {
        let spec = |start| ParamSpec {
            name: "w".to_owned(),
            kind: ParamKind::LinearWeight,
            shape: vec![4096],
            fan_in: 64,
            start,
        };
        let layout = Layout::new(vec![spec(Start::Normal(3.0)), spec(Start::Zero)]);
        let values = layout.initial_values(1);
        let (normal, zero) = values.split_at(4096);
        let variance = normal.iter().map(|v| v * v).sum::<f64>() / 4096.0;
        assert!((variance / 9.0 - 1.0).abs() < 5.0 * (2.0 / 4096.0f64).sqrt(), "{variance}");
        assert!(zero.iter().all(|&v| v == 0.0));
    }

    /// Oracle: the bound sqrt(6 / (fan-in + fan-out)), which a uniform law comes close to, and its variance of a third of
    /// the square; five standard errors.
    #[test]
    fn glorot_weights_fill_their_interval() {
        let layout = layout();
        let values = layout.initial(Init::Glorot, 1);
        let weights = &values[layout.range(0)];
        let bound = (6.0 / f64::from(9 * (32 + 64))).sqrt();
        let n = weights.len() as f64;
        let variance = weights.iter().map(|w| w * w).sum::<f64>() / n;
        assert!(weights.iter().all(|w| w.abs() <= bound));
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 5.0 * (0.8 / n).sqrt());
        assert!(values[layout.range(2)].iter().all(|&bias| bias == 0.0));
        assert!(values[layout.range(1)].iter().all(|&scale| (scale - 1.0).abs() < f64::EPSILON));
    }

    /// Oracle: mean 0 and variance 1/3 of the law, whose squares have variance 4/45; five standard errors.
    #[test]
    fn uniform_values_fill_the_interval() {
        let layout = layout();
        let values = layout.initial(Init::Uniform, 1);
        assert!(values.len() == layout.n_coords() && values.iter().all(|v| v.abs() <= 1.0));
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / n;
        assert!(mean.abs() < 5.0 * (1.0 / 3.0 / n).sqrt(), "{mean}");
        assert!((variance - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / n).sqrt(), "{variance}");
        // Batch norm too, each tensor from its own numbers, and another seed gives others.
        let (scales, biases) = (&values[layout.range(1)], &values[layout.range(2)]);
        assert!(scales.iter().any(|&v| v < -0.5) && scales.iter().any(|&v| v > 0.5));
        assert_ne!(scales[..10], biases[..10]);
        assert_ne!(values, layout.initial(Init::Uniform, 2));
    }
}
