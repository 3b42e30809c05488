//! SubZero (Yu et al., ICCV 2025, arXiv 2410.08989): directions in random subspaces from both sides.
//!
//! Of a matrix of m x n, z = s U Z Vᵀ with Z of r x r normal numbers drawn for every direction, and U of m x r and V of
//! n x r with orthonormal columns, drawn for every T steps; s = √(m n / r²) makes z as long as a normal direction. r is at
//! most m and n. Other tensors have normal z. The estimate is (1/q) Σ [ (l(θ + μ z_i) − l(θ − μ z_i)) / 2μ ] z_i. Released
//! defaults: r = 8, T = 2,000, q = 1, central differences, μ = 1e-3, no momentum, no weight decay. (The released code
//! takes convolutions, which have four axes, for tensors with normal z; here all axes but the first are columns.)

use super::matrices::{Law, Rank, Shape, Steps, Window, add_product, normal, orthonormal};
use super::{Budget, Config, Kind, Run, Space};
use crate::Result;
use crate::rng::Stream;
use crate::setting::{Entry, Section, Settings};
use crate::zo::Smoothing;

/// U and V kept, Z drawn.
#[derive(Debug, Clone, Copy)]
pub struct SubZero {
    /// Rank r.
    pub rank: usize,
}

impl Law for SubZero {
    fn rank(&self, rows: usize, cols: usize) -> usize {
        self.rank.min(rows).min(cols)
    }

    fn kept(&self, shape: Shape, stream: Stream) -> Vec<Vec<f64>> {
        let Shape { rows, cols, rank } = shape;
        let mut left = normal(stream, rank * (rows + cols));
        let right = left.split_off(rank * rows);
        vec![orthonormal(left, rank), orthonormal(right, rank)]
    }

    fn n_drawn(&self, shape: Shape) -> usize {
        shape.rank * shape.rank
    }

    /// U and s V Zᵀ.
    fn factors(&self, shape: Shape, kept: &[Vec<f64>], drawn: &[f64]) -> [Vec<f64>; 2] {
        let Shape { rows, cols, rank } = shape;
        let scale = ((rows * cols) as f64 / (rank * rank) as f64).sqrt();
        let scaled: Vec<f64> = drawn.iter().map(|z| scale * z).collect();
        // Row k of Z Vᵀ is column k of the right factor.
        let mut right = vec![0.0; rank * cols];
        add_product(Shape { rows: rank, cols, rank }, &scaled, &kept[1], &mut right);
        [kept[0].clone(), right]
    }
}

/// `method = subzero`.
#[derive(Debug)]
pub struct Subspaces;

impl Kind for Subspaces {
    fn name(&self) -> &'static str {
        "subzero"
    }

    fn is_of_weights(&self) -> bool {
        true
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Budget::ENTRIES, Rank::ENTRIES, Window::ENTRIES]
    }

    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>> {
        let (Smoothing { mu }, Config { difference }) = (settings.read()?, settings.read()?);
        let (budget, rank, window): (Budget, Rank, Window) =
            (settings.read()?, settings.read()?, settings.read()?);
        let (law, window) = (SubZero { rank: rank.or(8) }, window.or(2_000));
        Ok(Box::new(Steps { space, law, window, n_dirs: budget.or(1), mu, scheme: difference }))
    }

    fn moves_coordinates(&self) -> bool {
        false
    }

    fn slopes(&self, settings: &Settings, _: f64) -> Result<f64> {
        Ok(f64::from(settings.read::<Budget>()?.or(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrices::tests::{layout, rank_of};
    use super::super::matrices::{Matrices, Time};
    use super::*;
    use crate::zo::Family;

    /// Oracle: the definition. Rows and columns stay in spaces of dimension r, and the mean square of all numbers is 1,
    /// here over 400 directions of 20 numbers of which 4 are free: five standard errors of √(2 / 1600).
    #[test]
    fn directions_stay_in_a_subspace_and_keep_their_length() {
        let layout = layout();
        let n = layout.n_coords();
        let time = Time { step: 3, window: 2_000 };
        let family = Matrices::new(SubZero { rank: 2 }, 1, time, (0..n).collect(), n, Some(&layout));
        let first = |idx| family.values(idx)[..20].to_vec();
        assert_eq!(rank_of(&[first(0), first(1), first(2)].concat(), 4), 2);
        let squares: f64 = (0..400).flat_map(first).map(|value| value * value).sum();
        assert!((squares / 8_000.0 - 1.0).abs() < 5.0 * (2.0f64 / 1600.0).sqrt(), "{squares}");
    }
}
