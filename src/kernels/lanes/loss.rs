//! Changes of losses, in double precision.

use pulp::{Simd, WithSimd};

use super::Blocks;
use crate::kernels::{Element, Isa, Split};

/// Cross-entropy of a batch at its base logits.
#[derive(Debug)]
pub struct CrossEntropy {
    isa: Isa,
    blocks: Blocks,
    n_classes: usize,
    /// Probabilities (block, class, lane).
    probabilities: Vec<f64>,
    /// Their logarithms.
    logs: Vec<f64>,
    labels: Vec<u32>,
}

/// A change of logits beyond this, or a sum below that, needs the formula that neither overflows nor
/// subtracts nearly equal numbers.
const LARGE: f64 = 500.0;
const SMALL: f64 = -0.5;

/// Most lanes of a register.
const MAX_LANES: usize = 16;

impl CrossEntropy {
    /// Softmax of `logits` (B, classes) and `labels` (B).
    #[must_use]
    pub fn new(isa: Isa, blocks: Blocks, logits: &[Vec<f64>], labels: &[u32]) -> Self {
        let n_classes = logits.first().map_or(0, Vec::len);
        let lanes = blocks.lanes;
        let mut probabilities = vec![0.0; blocks.count() * n_classes * lanes];
        let mut logs = probabilities.clone();
        for (image, logits) in logits.iter().enumerate() {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
            for (class, logit) in logits.iter().enumerate() {
                let at = (image / lanes * n_classes + class) * lanes + image % lanes;
                probabilities[at] = (logit - max).exp() / total;
                logs[at] = logit - max - total.ln();
            }
        }
        Self { isa, blocks, n_classes, probabilities, logs, labels: labels.to_vec() }
    }

    /// As [`CrossEntropy::change`] for logits that also change as a whole: from y = `before` · z to
    /// `after` · (z + δ), where z + δ are the logits that the change `delta` is of.
    #[must_use]
    pub fn change_rescaled<T: Element>(
        &self,
        block: usize,
        first: usize,
        delta: &[T],
        [before, after]: [f64; 2],
    ) -> f64 {
        let lanes = self.blocks.lanes;
        let len = self.n_classes * lanes;
        // Logarithms of probabilities are logits less a number per image, which the loss does not see.
        let growth = (after - before) / before;
        let mut all: Vec<f64> = self.logs[block * len..][..len].iter().map(|log| growth * log).collect();
        all[first * lanes..].iter_mut().zip(delta).for_each(|(all, delta)| *all += after * delta.wide());
        self.change(block, 0, &all)
    }

    /// Sum over the images of a block of log1p(Σ p_k expm1(δ_k)) − δ_label, for logits that change
    /// by `delta` (class, lane) from class `first` on.
    #[must_use]
    pub fn change<T: Element>(&self, block: usize, first: usize, delta: &[T]) -> f64 {
        let lanes = self.blocks.lanes;
        let classes = first..first + delta.len() / lanes;
        let whole = block * self.n_classes * lanes;
        let probabilities = &self.probabilities[whole..][first * lanes..classes.end * lanes];
        let logs = &self.logs[whole..][..self.n_classes * lanes];
        let of = |class: usize, lane: usize| {
            if classes.contains(&class) { delta[(class - first) * lanes + lane].wide() } else { 0.0 }
        };
        let (sums, largest) = self.isa.dispatch(Sums { lanes, probabilities, delta });
        let mut total = 0.0;
        for lane in 0..self.blocks.images_in(block) {
            let label = self.labels[block * lanes + lane] as usize;
            let log = if largest[lane] > LARGE || sums[lane] < SMALL {
                let moved = |class: usize| logs[class * lanes + lane] + of(class, lane);
                let max = (0..self.n_classes).map(moved).fold(f64::NEG_INFINITY, f64::max);
                max + (0..self.n_classes).map(|class| (moved(class) - max).exp()).sum::<f64>().ln()
            } else {
                sums[lane].ln_1p()
            };
            total += log - of(label, lane);
        }
        total
    }
}

/// Mean squared error of a batch at its base outputs.
#[derive(Debug)]
pub struct SquaredError {
    blocks: Blocks,
    n_numbers: usize,
    /// Outputs less targets (block, number, lane).
    errors: Vec<f64>,
}

impl SquaredError {
    /// Of outputs less targets (B, numbers).
    #[must_use]
    pub fn new(blocks: Blocks, errors: &[Vec<f64>]) -> Self {
        let n_numbers = errors.first().map_or(0, Vec::len);
        let errors = blocks.rearrange(Split::Threads, &errors.concat(), n_numbers).to_vec();
        Self { blocks, n_numbers, errors }
    }

    /// Sum over the images of a block of the mean of δ (2e + δ) over an image's numbers, for outputs that change by
    /// `delta` (number, lane) from number `first` on.
    #[must_use]
    pub fn change<T: Element>(&self, block: usize, first: usize, delta: &[T]) -> f64 {
        let lanes = self.blocks.lanes;
        let first = (block * self.n_numbers + first) * lanes;
        let n_images = self.blocks.images_in(block);
        let mut total = 0.0;
        for (delta, errors) in delta.chunks_exact(lanes).zip(self.errors[first..].chunks_exact(lanes)) {
            for (delta, error) in delta.iter().zip(errors).take(n_images) {
                total += delta.wide() * (2.0 * error + delta.wide());
            }
        }
        total / self.n_numbers as f64
    }
}

struct Sums<'a, T> {
    lanes: usize,
    probabilities: &'a [f64],
    delta: &'a [T],
}

impl<T: Element> WithSimd for Sums<'_, T> {
    /// Per lane: Σ p expm1(δ), and the largest δ.
    type Output = ([f64; MAX_LANES], [f64; MAX_LANES]);
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let (mut sums, mut largest) = ([0.0; MAX_LANES], [f64::NEG_INFINITY; MAX_LANES]);
        let n = self.lanes.min(MAX_LANES);
        for class in 0..self.delta.len() / n {
            let delta = &self.delta[class * n..][..n];
            let probabilities = &self.probabilities[class * n..][..n];
            for lane in 0..n {
                let d = delta[lane].wide();
                sums[lane] += probabilities[lane] * expm1(d);
                largest[lane] = if d > largest[lane] { d } else { largest[lane] };
            }
        }
        (sums, largest)
    }
}

/// 1/1!, 1/2!, …
const TAYLOR: [f64; 13] = {
    let mut coefficients = [1.0; 13];
    let mut n = 1;
    while n < 13 {
        coefficients[n] = coefficients[n - 1] / (n + 1) as f64;
        n += 1;
    }
    coefficients
};

/// exp(x) − 1 for x up to about 700, to a few units in the last place, without branches, so that a
/// loop over it vectorizes. x = k ln 2 + r with |r| ≤ ln 2 / 2; the series of exp(r) − 1 ends below
/// 1e-17.
#[inline(always)]
fn expm1(x: f64) -> f64 {
    /// Added to a number below 2^51, leaves it rounded to an integer in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts, of which the first has zeros at its end.
    const LN2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    let x = if x < -700.0 { -700.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * LN2[0]) - k * LN2[1];
    let mut series = TAYLOR[12];
    let mut n = 12;
    while n > 0 {
        n -= 1;
        series = series * r + TAYLOR[n];
    }
    let power = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    power * (series * r) + (power - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::lanes::Buffer;

    /// Oracle: the standard library's expm1.
    #[test]
    fn expm1_is_accurate() {
        for x in
            [0.0, 1e-300, 1e-12, -3e-9, 0.1, -0.3, 0.35, -0.4, 1.0, -1.0, 5.5, -20.0, 300.0, -690.0, 500.0]
        {
            for x in [x, -x, x * 1.01] {
                let exact = f64::exp_m1(x);
                assert!((expm1(x) - exact).abs() <= 1e-15 * exact.abs(), "{x}: {} {exact}", expm1(x));
            }
        }
        assert!(expm1(f64::NAN).is_nan());
        assert!((expm1(-1e9) + 1.0).abs() < 1e-15);
    }

    /// Oracle: the difference of two cross-entropies in f64, where it is large; the last block is
    /// partly filled, one change overflows exp.
    #[test]
    fn change_equals_the_difference_of_losses() {
        let loss = |logits: &[f64], label: u32| {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln() - logits[label as usize]
        };
        for isa in Isa::available() {
            let blocks = Blocks::new::<f64>(isa, 3);
            let logits = [vec![0.5, -1.0, 2.0], vec![0.0, 0.0, 0.0], vec![3.0, 1.0, -4.0]];
            let delta = [vec![1.0, -0.5, 0.25], vec![900.0, 2.0, 1.0], vec![-2.0, 0.0, 3.0]];
            let labels = [2, 1, 0];
            let entropy = CrossEntropy::new(isa, blocks, &logits, &labels);
            let flat: Vec<f64> = delta.concat();
            let rearranged: Buffer<f64> = blocks.rearrange(Split::Serial, &flat, 3);
            let found: f64 = rearranged
                .chunks_exact(3 * blocks.lanes)
                .enumerate()
                .map(|(block, delta)| entropy.change(block, 0, delta))
                .sum();
            let expected: f64 = (0..3)
                .map(|image| {
                    let moved: Vec<f64> =
                        logits[image].iter().zip(&delta[image]).map(|(l, d)| l + d).collect();
                    loss(&moved, labels[image]) - loss(&logits[image], labels[image])
                })
                .sum();
            assert!((found - expected).abs() < 1e-12 * expected, "{isa:?}: {found} {expected}");
            // Class 2 alone.
            let mut only: Buffer<f64> = blocks.rearrange(Split::Serial, &[0.25, 1.0, 3.0], 1);
            let mut others = rearranged;
            for (at, value) in others.iter_mut().enumerate() {
                if at / blocks.lanes % 3 != 2 {
                    *value = 0.0;
                }
            }
            for block in 0..blocks.count() {
                let all = entropy.change(block, 0, &others[block * 3 * blocks.lanes..][..3 * blocks.lanes]);
                let one = entropy.change(block, 2, &only[block * blocks.lanes..][..blocks.lanes]);
                assert!((all - one).abs() < 1e-14, "{isa:?}: {one} instead of {all}");
            }
            only.fill(800.0);
            assert!(entropy.change(0, 2, &only[..blocks.lanes]).is_finite());
        }
    }

    /// Oracle: the difference of two mean squared errors, by hand: two numbers in each of two channels, the last block
    /// partly filled. A channel alone gives what all give when the others do not move.
    #[test]
    fn squares_change_as_they_should() {
        let n = 4;
        for isa in Isa::available() {
            let blocks = Blocks::new::<f64>(isa, 3);
            let errors: Vec<Vec<f64>> =
                (0..3).map(|i| (0..n).map(|k| f64::from(i * 5 + k) * 0.25 - 1.5).collect()).collect();
            let delta: Vec<f64> = (0..3 * n).map(|k| f64::from(k % 5) - 1.75).collect();
            let squares = SquaredError::new(blocks, &errors);
            let mean = |image: usize, moved: bool, channel: Option<usize>| -> f64 {
                let of = |k: usize| {
                    let moves = moved && channel.is_none_or(|channel| k / 2 == channel);
                    errors[image][k] + if moves { delta[image * n as usize + k] } else { 0.0 }
                };
                (0..n as usize).map(|k| of(k).powi(2)).sum::<f64>() / f64::from(n)
            };
            let sum = |delta: &[f64], per_image: usize, channel: Option<usize>| -> f64 {
                let delta = blocks.rearrange(Split::Serial, delta, per_image);
                let chunks = delta.chunks_exact(per_image * blocks.lanes).enumerate();
                let first = channel.map_or(0, |channel| 2 * channel);
                chunks.map(|(block, delta)| squares.change(block, first, delta)).sum()
            };
            for channel in [None, Some(0), Some(1)] {
                let expected: f64 = (0..3).map(|i| mean(i, true, channel) - mean(i, false, None)).sum();
                let found = match channel {
                    None => sum(&delta, n as usize, None),
                    Some(only) => {
                        let own: Vec<f64> =
                            delta.chunks(2).skip(only).step_by(2).flatten().copied().collect();
                        sum(&own, 2, channel)
                    }
                };
                assert!((found - expected).abs() < 1e-13, "{isa:?} {channel:?}: {found} {expected}");
            }
        }
    }
}
