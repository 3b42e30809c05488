//! Directions of low rank, tensor by tensor: what LOZO, SubZero, ZO-Muon and EGGROLL have in common.
//!
//! A tensor with more than one axis is a matrix of as many rows as its first axis is long, m, with all other axes in its
//! n columns. Its direction is a product L Rᵀ of m x r and n x r numbers; a [`Law`] says which. Tensors with one axis, and
//! a black box, which is one of them, have normal directions. Of a direction number q of a step only normal numbers are
//! drawn, tensor after tensor in the layout's order; what is kept for several steps is drawn anew for each window of
//! steps. Factors are held column by column: entry i of column k of an m x r factor stands at k m + i.

use std::ops::Range;
use std::sync::Arc;

use crate::params::{Layout, orthonormalize};
use crate::rng::{Purpose, Stream};
use crate::setting::Domain::Int;
use crate::zo::Scheme;
use crate::zo::probe::Family;

use super::{Estimator, Place, Rge, Run, Space};

crate::section! {
    /// Directions of low rank.
    pub struct Rank {
        /// Rank of a matrix' directions; 0 as published: 2 (LOZO), 8 (SubZero), 64 (ZO-Muon), 1 (EGGROLL).
        pub rank: usize = 0 => Int(0, 4096),
    }
}

crate::section! {
    /// Subspaces that directions stay in.
    pub struct Window {
        /// Steps that a subspace lasts; 0 as published: 50 (LOZO), 2,000 (SubZero), 100 (ZO-Muon).
        pub subspace_steps: usize = 0,
    }
}

impl Rank {
    /// The rank that is asked for, or `published`.
    pub(super) fn or(&self, published: usize) -> usize {
        if self.rank == 0 { published } else { self.rank }
    }
}

impl Window {
    /// The steps that are asked for, or `published`.
    pub(super) fn or(&self, published: usize) -> usize {
        if self.subspace_steps == 0 { published } else { self.subspace_steps }
    }
}

/// Size of a matrix and of its factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows m.
    pub rows: usize,
    /// Columns n.
    pub cols: usize,
    /// Columns r of the factors.
    pub rank: usize,
}

/// How directions of a matrix are made.
pub trait Law: std::fmt::Debug + Send + Sync {
    /// Columns of the factors of a matrix with so many rows and columns.
    fn rank(&self, rows: usize, cols: usize) -> usize;

    /// What is kept for a window of steps, from the numbers of `stream`.
    fn kept(&self, _shape: Shape, _stream: Stream) -> Vec<Vec<f64>> {
        Vec::new()
    }

    /// Normal numbers of one direction.
    fn n_drawn(&self, shape: Shape) -> usize;

    /// Both factors of a direction, from what is kept and the normal numbers that are `drawn`.
    fn factors(&self, shape: Shape, kept: &[Vec<f64>], drawn: &[f64]) -> [Vec<f64>; 2];
}

/// One tensor.
#[derive(Debug)]
pub(super) struct Part {
    /// Its coordinates.
    pub(super) range: Range<usize>,
    /// Of a matrix; `None` for a tensor with one axis.
    pub(super) shape: Option<Shape>,
    /// What a matrix' law keeps.
    pub(super) kept: Vec<Vec<f64>>,
    /// Where the tensor's numbers are in those of a direction.
    pub(super) drawn: Range<usize>,
}

/// When a step is, and how long subspaces last.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Steps before this one.
    pub step: u32,
    /// Steps that a subspace lasts.
    pub window: usize,
}

/// Directions of one step by one law.
#[derive(Debug)]
pub struct Matrices<L> {
    law: L,
    stream: Stream,
    parts: Vec<Part>,
    n_coords: usize,
    coords: Arc<[usize]>,
}

impl<L: Law> Matrices<L> {
    /// Directions over `coords` (sorted) of `n_coords` parameters with this `layout`; one tensor with one axis without.
    #[must_use]
    pub fn new(
        law: L,
        seed: u64,
        time: Time,
        coords: Arc<[usize]>,
        n_coords: usize,
        layout: Option<&Layout>,
    ) -> Self {
        let window = Stream::new(seed, Purpose::Subspace, (time.step as usize / time.window.max(1)) as u32);
        let mut n_drawn = 0;
        let mut part = |idx: usize, range: Range<usize>, axes: &[usize]| {
            let shape = (axes.len() > 1).then(|| {
                let (rows, cols) = (axes[0], axes[1..].iter().product());
                Shape { rows, cols, rank: law.rank(rows, cols) }
            });
            let kept = shape.map(|shape| law.kept(shape, window.lane(idx as u32))).unwrap_or_default();
            let drawn = n_drawn..n_drawn + shape.map_or(range.len(), |shape| law.n_drawn(shape));
            n_drawn = drawn.end;
            Part { range, shape, kept, drawn }
        };
        let parts = match layout {
            None => vec![part(0, 0..n_coords, &[n_coords])],
            Some(layout) => {
                let specs = layout.specs().iter().enumerate();
                specs.map(|(idx, spec)| part(idx, layout.range(idx), &spec.shape)).collect()
            }
        };
        let stream = Stream::new(seed, Purpose::Direction, time.step);
        Self { law, stream, parts, n_coords, coords }
    }

    /// The tensors.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The normal numbers of direction `idx`.
    pub(super) fn drawn(&self, idx: u32) -> Vec<f64> {
        let mut drawn = vec![0.0; self.parts.last().map_or(0, |part| part.drawn.end)];
        self.stream.lane(idx).fill_normal(&mut drawn);
        drawn
    }
}

impl<L: Law> Family for Matrices<L> {
    fn coords(&self) -> &Arc<[usize]> {
        &self.coords
    }

    fn values(&self, idx: u32) -> Vec<f64> {
        let drawn = self.drawn(idx);
        let mut all = vec![0.0; self.n_coords];
        for part in &self.parts {
            let (drawn, values) = (&drawn[part.drawn.clone()], &mut all[part.range.clone()]);
            match part.shape {
                None => values.copy_from_slice(drawn),
                Some(shape) => {
                    let [left, right] = self.law.factors(shape, &part.kept, drawn);
                    add_product(shape, &left, &right, values);
                }
            }
        }
        if self.coords.len() == self.n_coords {
            return all;
        }
        self.coords.iter().map(|&coord| all[coord]).collect()
    }
}

/// Adds L Rᵀ to a matrix, row by row.
pub(super) fn add_product(shape: Shape, left: &[f64], right: &[f64], matrix: &mut [f64]) {
    let Shape { rows, cols, rank } = shape;
    for column in 0..rank {
        let (left, right) = (&left[column * rows..][..rows], &right[column * cols..][..cols]);
        for (&factor, row) in left.iter().zip(matrix.chunks_exact_mut(cols)) {
            row.iter_mut().zip(right).for_each(|(value, right)| *value += factor * right);
        }
    }
}

/// `n` normal numbers of a stream.
pub(super) fn normal(stream: Stream, n: usize) -> Vec<f64> {
    let mut numbers = vec![0.0; n];
    stream.fill_normal(&mut numbers);
    numbers
}

/// `rank` columns made orthonormal by Gram and Schmidt: uniformly random among such, of normal numbers.
pub(super) fn orthonormal(mut columns: Vec<f64>, rank: usize) -> Vec<f64> {
    orthonormalize(&mut columns, rank);
    columns
}

/// Estimates along fresh directions at every step, in subspaces that last.
pub(super) struct Steps<L> {
    pub(super) space: Space,
    pub(super) law: L,
    /// Steps that what is kept lasts.
    pub(super) window: usize,
    pub(super) n_dirs: u32,
    pub(super) mu: f64,
    pub(super) scheme: Scheme,
}

impl<L: Law + Copy + 'static> Run for Steps<L> {
    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's> {
        let Space { layout, n_coords, seed } = &self.space;
        let time = Time { step: place.step, window: self.window };
        let family = Matrices::new(self.law, *seed, time, place.active.clone(), *n_coords, layout.as_deref());
        Box::new(Rge::new(*n_coords, Arc::new(family), self.n_dirs, self.mu, self.scheme))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::params::{ParamKind, ParamSpec, Start};

    /// A matrix of 5 x 4, a convolution of 3 x (2, 2, 2) and a bias of 4.
    pub(in crate::zo::estimator) fn layout() -> Layout {
        let spec = |name: &str, kind, shape: &[usize]| ParamSpec {
            name: name.to_owned(),
            kind,
            shape: shape.to_vec(),
            fan_in: 4,
            start: Start::Usual,
        };
        Layout::new(vec![
            spec("fc.weight", ParamKind::LinearWeight, &[5, 4]),
            spec("conv.weight", ParamKind::ConvWeight, &[3, 2, 2, 2]),
            spec("fc.bias", ParamKind::Bias, &[4]),
        ])
    }

    /// Rank of a matrix (row by row): pivots of Gaussian elimination that are not rounding.
    pub(in crate::zo::estimator) fn rank_of(matrix: &[f64], cols: usize) -> usize {
        let mut rows: Vec<Vec<f64>> = matrix.chunks(cols).map(<[f64]>::to_vec).collect();
        let mut rank = 0;
        for col in 0..cols {
            let Some(best) =
                (rank..rows.len()).max_by(|&a, &b| rows[a][col].abs().total_cmp(&rows[b][col].abs()))
            else {
                break;
            };
            if rows[best][col].abs() < 1e-9 {
                continue;
            }
            rows.swap(rank, best);
            let pivot = rows[rank].clone();
            for row in &mut rows[rank + 1..] {
                let factor = row[col] / pivot[col];
                row.iter_mut().zip(&pivot).for_each(|(value, pivot)| *value -= factor * pivot);
            }
            rank += 1;
        }
        rank
    }

    /// Factors drawn, both of them.
    #[derive(Debug)]
    struct Drawn;

    impl Law for Drawn {
        fn rank(&self, _: usize, _: usize) -> usize {
            2
        }

        fn n_drawn(&self, shape: Shape) -> usize {
            shape.rank * (shape.rows + shape.cols)
        }

        fn factors(&self, shape: Shape, _: &[Vec<f64>], drawn: &[f64]) -> [Vec<f64>; 2] {
            let (left, right) = drawn.split_at(shape.rank * shape.rows);
            [left.to_vec(), right.to_vec()]
        }
    }

    /// Oracle: the definitions. Matrices have the rank of their law; an active set restricts, and changes no number;
    /// a sum is the sum of directions one by one, in order, for any number of threads.
    #[test]
    fn directions_are_matrices_of_low_rank() {
        let layout = layout();
        let n = layout.n_coords();
        let family = |coords: Arc<[usize]>| {
            Matrices::new(Drawn, 3, Time { step: 5, window: 1 }, coords, n, Some(&layout))
        };
        let whole = family((0..n).collect());
        let values = whole.values(7);
        assert_eq!((rank_of(&values[..20], 4), rank_of(&values[20..44], 8)), (2, 2));
        assert!(values[44..].iter().all(|value| *value != 0.0));
        assert_ne!(values, whole.values(8));
        let some: Arc<[usize]> = [1, 4, 20, 30, 47].into();
        let expected: Vec<f64> = some.iter().map(|&coord| values[coord]).collect();
        assert_eq!(family(some).values(7), expected);
        let weights: Vec<(u32, f64)> = (0..40).map(|idx| (idx, 0.1 * f64::from(idx) - 1.0)).collect();
        let mut sum = vec![0.0; n];
        for &(idx, weight) in &weights {
            sum.iter_mut().zip(whole.values(idx)).for_each(|(sum, value)| *sum += weight * value);
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| whole.weighted_sum(&weights)), sum);
        }
    }

    #[test]
    fn columns_are_orthonormal() {
        let columns = orthonormal(normal(Stream::new(1, Purpose::Test, 0), 24), 4);
        for (a, first) in columns.chunks(6).enumerate() {
            for (b, second) in columns.chunks(6).enumerate() {
                let dot: f64 = first.iter().zip(second).map(|(a, b)| a * b).sum();
                assert!((dot - if a == b { 1.0 } else { 0.0 }).abs() < 1e-12, "{a} {b} {dot}");
            }
        }
    }
}
