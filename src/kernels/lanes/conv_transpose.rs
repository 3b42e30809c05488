//! Transposed convolution on blocks of images, each output from the inputs and taps that reach it.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::geometry::Geometry;
use crate::kernels::{Element, Isa};

/// Outputs of different channels that are computed together, so that one input serves them all.
const GROUP: usize = 8;

/// The transpose of a convolution, prepared for repeated use with the same weights.
#[derive(Debug)]
pub struct ConvTranspose<T> {
    isa: Isa,
    /// Of the convolution that this is the transpose of: it goes from the output to the input.
    geometry: Geometry,
    /// Weights by (group of outputs, tap, input channel, output of the group), zeros behind the last.
    packed: Vec<T>,
}

impl<T: Element> ConvTranspose<T> {
    /// The transpose of the convolution `geometry` with `weight` (C_out, C_in, K, K).
    ///
    /// # Errors
    /// If there are not as many weights.
    pub fn new(isa: Isa, geometry: Geometry, weight: &[f64]) -> candle_core::Result<Self> {
        let Geometry { c_in: n_out, c_out: n_in, kernel, .. } = geometry;
        let n_taps = kernel * kernel;
        if weight.len() != n_in * n_out * n_taps {
            candle_core::bail!("{} weights for {n_in} to {n_out} channels of {n_taps} taps", weight.len());
        }
        let n_groups = n_out.div_ceil(GROUP);
        let mut packed = vec![T::ZERO; n_groups * n_taps * n_in * GROUP];
        for (idx, &weight) in weight.iter().enumerate() {
            let (input, output, tap) = (idx / (n_out * n_taps), idx / n_taps % n_out, idx % n_taps);
            let group = output / GROUP;
            packed[((group * n_taps + tap) * n_in + input) * GROUP + output % GROUP] = T::of(weight);
        }
        Ok(Self { isa, geometry, packed })
    }

    /// From (C_out, H', W', lane) to (C_in, H, W, lane) of the convolution, as many lanes as a register has.
    pub fn run(&self, input: &[T], out: &mut [T]) {
        self.isa.dispatch(Run { op: self, input, out });
    }

    /// Taps of one axis that reach the output `at` from inputs below `n`: each with its input.
    fn reaching(&self, at: usize, n: usize) -> impl Iterator<Item = (usize, usize)> {
        let Geometry { kernel, stride, padding, .. } = self.geometry;
        (0..kernel).filter_map(move |tap| {
            let from = (at + padding).checked_sub(tap)?;
            (from % stride == 0 && from / stride < n).then_some((tap, from / stride))
        })
    }
}

struct Run<'a, T> {
    op: &'a ConvTranspose<T>,
    input: &'a [T],
    out: &'a mut [T],
}

impl<T: Element> WithSimd for Run<'_, T> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let op = self.op;
        let Geometry { c_in: n_out, c_out: n_in, height, width, kernel, .. } = op.geometry;
        let (rows, columns) = (op.geometry.out_height(), op.geometry.out_width());
        let (input, out) = (T::vectors::<S>(self.input), T::vectors_mut::<S>(self.out));
        let (plane_in, plane_out) = (rows * columns, height * width);
        let zero = T::splat(simd, T::ZERO);
        // By column of the output: taps and inputs that reach it.
        let across: Vec<Vec<(usize, usize)>> =
            (0..width).map(|x| op.reaching(x, columns).collect()).collect();
        for y in 0..height {
            let down: Vec<(usize, usize)> = op.reaching(y, rows).collect();
            for group in 0..n_out.div_ceil(GROUP) {
                let members: Range<usize> = group * GROUP..(group * GROUP + GROUP).min(n_out);
                for (x, across) in across.iter().enumerate() {
                    let mut sums = [zero; GROUP];
                    for &(tap_y, row) in &down {
                        for &(tap_x, column) in across {
                            let tap = group * kernel * kernel + tap_y * kernel + tap_x;
                            let weights = &op.packed[tap * n_in * GROUP..][..n_in * GROUP];
                            let at = row * columns + column;
                            for (channel, weights) in weights.chunks_exact(GROUP).enumerate() {
                                let value = input[channel * plane_in + at];
                                for (sum, &weight) in sums.iter_mut().zip(weights) {
                                    *sum = T::mul_add(simd, T::splat(simd, weight), value, *sum);
                                }
                            }
                        }
                    }
                    for (output, &sum) in members.clone().zip(&sums) {
                        out[output * plane_out + y * width + x] = sum;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::Blocks;
    use crate::rng::{Purpose, Stream};

    /// Oracle: every input spread over the outputs that it reaches, in f64, on every instruction set.
    #[test]
    fn it_spreads_inputs_over_outputs() {
        for (n_in, n_out, side, kernel, stride, padding) in [
            (5, 3, 4, 4, 4, 0),
            (3, 11, 3, 3, 3, 2),
            (4, 9, 2, 4, 2, 1),
            (6, 8, 1, 2, 2, 0),
            (2, 2, 5, 3, 1, 1),
        ] {
            let size = (side - 1) * stride + kernel - 2 * padding;
            let geometry = Geometry {
                batch: 1,
                c_in: n_out,
                height: size,
                width: size,
                c_out: n_in,
                kernel,
                stride,
                padding,
            };
            let mut weight = vec![0.0; n_in * n_out * kernel * kernel];
            Stream::new(1, Purpose::Test, 0).fill_normal(&mut weight);
            let mut input = vec![0.0; n_in * side * side];
            Stream::new(2, Purpose::Test, 0).fill_normal(&mut input);
            let mut expected = vec![0.0; n_out * size * size];
            for (at, value) in input.iter().enumerate() {
                let (channel, y, x) = (at / (side * side), at / side % side, at % side);
                for (idx, weight) in weight
                    .iter()
                    .enumerate()
                    .skip(channel * n_out * kernel * kernel)
                    .take(n_out * kernel * kernel)
                {
                    let (output, tap) = (idx / (kernel * kernel) % n_out, idx % (kernel * kernel));
                    let (row, column) = (y * stride + tap / kernel, x * stride + tap % kernel);
                    let inside = |at: usize| at.checked_sub(padding).filter(|&at| at < size);
                    if let (Some(row), Some(column)) = (inside(row), inside(column)) {
                        expected[(output * size + row) * size + column] += weight * value;
                    }
                }
            }
            for isa in Isa::available() {
                let lanes = Blocks::new::<f64>(isa, 1).lanes;
                let spread: Vec<f64> = input.iter().flat_map(|&value| vec![value; lanes]).collect();
                let mut out = vec![f64::NAN; expected.len() * lanes];
                ConvTranspose::<f64>::new(isa, geometry, &weight).unwrap().run(&spread, &mut out);
                for (found, expected) in out.chunks(lanes).zip(&expected) {
                    assert!(
                        found.iter().all(|found| (found - expected).abs() < 1e-12),
                        "{isa:?} {kernel} {stride}"
                    );
                }
            }
        }
        let geometry =
            Geometry { batch: 1, c_in: 1, height: 4, width: 4, c_out: 1, kernel: 2, stride: 2, padding: 0 };
        assert!(ConvTranspose::<f32>::new(Isa::current(), geometry, &[0.0; 3]).is_err());
    }
}
