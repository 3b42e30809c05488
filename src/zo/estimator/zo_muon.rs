//! ZO-Muon (arXiv 2602.17155): estimates in a subspace, with all singular values made alike.
//!
//! Of a matrix of m x n, z = P Ψ with P of m x r, r at most m, with orthonormal columns, drawn for every T steps, and Ψ of
//! r x n normal numbers drawn for every direction; other tensors have normal z. With slopes s_i = (l(θ + μ z_i) − l(θ)) / μ
//! the step of a matrix follows P msign(1/N Σ s_i Ψ_i). msign(G) is U Vᵀ of G's singular vectors, approximately: five
//! steps X ← a X + (b X Xᵀ + c (X Xᵀ)²) X from X = G / (‖G‖ + 1e-7) with a = 3.4445, b = −4.7750, c = 2.0315 (Jordan et al.,
//! Muon, 2024), transposed where G has more rows than columns. The step of other tensors follows 1/N Σ s_i z_i times
//! `vector-scale`. Released defaults: r = 64, T = 100, N = 4, μ = 1e-3, η = 1e-2 with neither momentum nor weight decay,
//! and a rate of their own for vectors: 1e-4 for images, which is 0.01 η, and 1e-7 for language.

use std::sync::Arc;

use super::matrices::{Law, Matrices, Rank, Shape, Time, Window, add_product, normal, orthonormal};
use super::{Budget, Config, Estimate, Estimator, Kind, Place, Run, Scheme, Space, along, finite, slopes};
use crate::rng::Stream;
use crate::setting::Domain::From;
use crate::setting::{Entry, Section, Settings};
use crate::zo::sparsity;
use crate::zo::{Family, Probe, Smoothing};
use crate::{Error, Result};

crate::section! {
    /// ZO-Muon.
    pub struct Vectors {
        /// Factor on the estimate of tensors with one axis, beside the steps of matrices (ZO-Muon).
        pub vector_scale: f64 = 0.01 => From(0.0, f64::INFINITY),
    }
}

/// P kept, Ψ drawn.
#[derive(Debug, Clone, Copy)]
pub struct ZoMuon {
    /// Rank r.
    pub rank: usize,
}

impl Law for ZoMuon {
    fn rank(&self, rows: usize, _: usize) -> usize {
        self.rank.min(rows)
    }

    fn kept(&self, shape: Shape, stream: Stream) -> Vec<Vec<f64>> {
        vec![orthonormal(normal(stream, shape.rows * shape.rank), shape.rank)]
    }

    /// Ψ row by row.
    fn n_drawn(&self, shape: Shape) -> usize {
        shape.rank * shape.cols
    }

    fn factors(&self, _: Shape, kept: &[Vec<f64>], drawn: &[f64]) -> [Vec<f64>; 2] {
        [kept[0].clone(), drawn.to_vec()]
    }
}

/// Coefficients of the iteration, and how often it is done.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
const N_ITERATIONS: usize = 5;
/// Added to the norm that a matrix is divided by at the start.
const NORM_FLOOR: f64 = 1e-7;

/// A matrix of `n_rows` rows with its singular values brought near 1: between about 0.7 and 1.2 for those that are not far
/// below the largest.
#[must_use]
pub fn msign(matrix: &[f64], n_rows: usize) -> Vec<f64> {
    let n_cols = matrix.len() / n_rows.max(1);
    if n_rows > n_cols {
        return transposed(&msign(&transposed(matrix, n_rows), n_cols), n_cols);
    }
    let [a, b, c] = COEFFICIENTS;
    let norm = matrix.iter().map(|x| x * x).sum::<f64>().sqrt() + NORM_FLOOR;
    let mut x: Vec<f64> = matrix.iter().map(|value| value / norm).collect();
    for _ in 0..N_ITERATIONS {
        // X Xᵀ, and a polynomial of it: square matrices of few rows.
        let gram = by_transposed(&x, &x, n_cols);
        let squared = by_transposed(&gram, &gram, n_rows);
        let polynomial: Vec<f64> = gram.iter().zip(&squared).map(|(g, s)| b * g + c * s).collect();
        let next = by_transposed(&polynomial, &transposed(&x, n_rows), n_rows);
        x.iter_mut().zip(next).for_each(|(x, next)| *x = a * *x + next);
    }
    x
}

/// The transpose of a matrix of `n_rows` rows.
fn transposed(matrix: &[f64], n_rows: usize) -> Vec<f64> {
    let n_cols = matrix.len() / n_rows.max(1);
    (0..n_cols).flat_map(|col| (0..n_rows).map(move |row| matrix[row * n_cols + col])).collect()
}

/// A Bᵀ of matrices whose rows have `len` numbers.
fn by_transposed(a: &[f64], b: &[f64], len: usize) -> Vec<f64> {
    let dot = |row: &[f64], other: &[f64]| row.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    a.chunks_exact(len).flat_map(|row| b.chunks_exact(len).map(move |other| dot(row, other))).collect()
}

/// One step.
#[derive(Debug)]
pub struct Orthogonal {
    family: Arc<Matrices<ZoMuon>>,
    n_coords: usize,
    n_dirs: u32,
    mu: f64,
    scheme: Scheme,
    vector_scale: f64,
}

impl Estimator for Orthogonal {
    fn ask(&self) -> Vec<Probe> {
        let family: Arc<dyn Family> = self.family.clone();
        along(&family, self.n_dirs, self.mu, self.scheme)
    }

    fn tell(&self, differences: &[f64]) -> Estimate {
        let (weights, n_left_out) = finite(&slopes(differences, self.mu, self.scheme));
        let mut mean = Vec::new();
        for (idx, slope) in weights {
            let drawn = self.family.drawn(idx);
            mean.resize(drawn.len(), 0.0);
            let weight = slope / f64::from(self.n_dirs);
            mean.iter_mut().zip(drawn).for_each(|(mean, value)| *mean += weight * value);
        }
        let mut gradient = vec![0.0; self.n_coords];
        if mean.is_empty() {
            return Estimate::new(gradient, n_left_out);
        }
        for part in self.family.parts() {
            let (mean, values) = (&mean[part.drawn.clone()], &mut gradient[part.range.clone()]);
            match part.shape {
                Some(shape) => add_product(shape, &part.kept[0], &msign(mean, shape.rank), values),
                None => {
                    values.iter_mut().zip(mean).for_each(|(value, mean)| *value = self.vector_scale * mean)
                }
            }
        }
        Estimate::new(gradient, n_left_out)
    }
}

/// `method = zo-muon`.
#[derive(Debug)]
pub struct Orthogonalized;

/// Directions of a step, if no number is asked for.
const N_DIRECTIONS: u32 = 4;

impl Kind for Orthogonalized {
    fn name(&self) -> &'static str {
        "zo-muon"
    }

    fn is_of_weights(&self) -> bool {
        true
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, Rank::ENTRIES, Window::ENTRIES, Vectors::ENTRIES]
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        // A single estimate reads no sparsity: it is over the coordinates that it is asked for.
        if settings.is_read("sparsity") && settings.read::<sparsity::Config>()?.sparsity > 0.0 {
            let reason = "zo-muon makes singular values of whole matrices alike; set sparsity = 0";
            return Err(Error::setting("sparsity", reason));
        }
        Ok(())
    }

    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>> {
        let (Smoothing { mu }, Config { difference }) = (settings.read()?, settings.read()?);
        let (budget, rank, window): (Budget, Rank, Window) =
            (settings.read()?, settings.read()?, settings.read()?);
        let Vectors { vector_scale } = settings.read()?;
        let (law, window) = (ZoMuon { rank: rank.or(64) }, window.or(100));
        let n_dirs = budget.or(N_DIRECTIONS);
        Ok(Box::new(Steps { space, law, window, n_dirs, mu, scheme: difference, vector_scale }))
    }

    fn moves_coordinates(&self) -> bool {
        false
    }

    fn slopes(&self, settings: &Settings, _: f64) -> Result<f64> {
        Ok(f64::from(settings.read::<Budget>()?.or(N_DIRECTIONS)))
    }
}

/// Fresh directions at every step, in subspaces that last.
struct Steps {
    space: Space,
    law: ZoMuon,
    window: usize,
    n_dirs: u32,
    mu: f64,
    scheme: Scheme,
    vector_scale: f64,
}

impl Run for Steps {
    /// Matrices are moved as a whole, whatever the active set.
    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's> {
        let Space { layout, n_coords, seed } = &self.space;
        let time = Time { step: place.step, window: self.window };
        let all = (0..*n_coords).collect();
        let family = Matrices::new(self.law, *seed, time, all, *n_coords, layout.as_deref());
        let Self { n_dirs, mu, scheme, vector_scale, .. } = *self;
        let family = Arc::new(family);
        Box::new(Orthogonal { family, n_coords: *n_coords, n_dirs, mu, scheme, vector_scale })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    /// Oracle: singular values of a matrix U diag(s) Vᵀ that is made of them: after msign those that are not far below the
    /// largest lie between 0.65 and 1.25, with the same vectors, and the transpose gives the transpose.
    #[test]
    fn singular_values_become_alike() {
        let (rows, cols, rank) = (6, 9, 3);
        let stream = Stream::new(2, Purpose::Test, 0);
        let left = orthonormal(normal(stream, rows * rank), rank);
        let right = orthonormal(normal(stream.lane(1), cols * rank), rank);
        let values = [5.0, 2.0, 0.7];
        let scaled: Vec<f64> = left.iter().enumerate().map(|(i, value)| values[i / rows] * value).collect();
        let mut matrix = vec![0.0; rows * cols];
        add_product(Shape { rows, cols, rank }, &scaled, &right, &mut matrix);
        let found = msign(&matrix, rows);
        for (u, v) in left.chunks(rows).zip(right.chunks(cols)) {
            let image: Vec<f64> =
                found.chunks(cols).map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum()).collect();
            let value: f64 = image.iter().zip(u).map(|(a, b)| a * b).sum();
            assert!(value > 0.65 && value < 1.25, "{value}");
            assert!(image.iter().zip(u).all(|(image, u)| (image - value * u).abs() < 1e-9), "{image:?}");
        }
        let other = transposed(&msign(&transposed(&matrix, rows), cols), cols);
        assert!(found.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!(msign(&[0.0; 6], 2), [0.0; 6]);
    }
}
