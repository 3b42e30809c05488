//! LOZO (Chen et al., ICLR 2025, arXiv 2410.07698): directions u vᵀ of low rank, with v kept for a while.
//!
//! Of a matrix of m x n, z = U Vᵀ with U of m x r normal numbers drawn for every direction, V of n x r ones drawn for
//! every ν steps; other tensors have normal z. The estimate is (1/q) Σ [ (l(θ + μ z_i) − l(θ − μ z_i)) / 2μ ] z_i. As in
//! the released code there is no factor 1/r, which the paper has. Released defaults: r = 2, ν = 50, q = 1, central
//! differences, μ = 1e-3, no momentum, no weight decay. (The variant with momentum, LOZO-M, keeps it in the space of U
//! and is not here.)

use super::matrices::{Law, Rank, Shape, Steps, Window, normal};
use super::{Budget, Config, Kind, Run, Space};
use crate::Result;
use crate::rng::Stream;
use crate::setting::{Entry, Section, Settings};
use crate::zo::Smoothing;

/// U drawn, V kept.
#[derive(Debug, Clone, Copy)]
pub struct Lozo {
    /// Rank r.
    pub rank: usize,
}

impl Law for Lozo {
    fn rank(&self, _: usize, _: usize) -> usize {
        self.rank
    }

    fn kept(&self, shape: Shape, stream: Stream) -> Vec<Vec<f64>> {
        vec![normal(stream, shape.cols * shape.rank)]
    }

    fn n_drawn(&self, shape: Shape) -> usize {
        shape.rows * shape.rank
    }

    fn factors(&self, _: Shape, kept: &[Vec<f64>], drawn: &[f64]) -> [Vec<f64>; 2] {
        [drawn.to_vec(), kept[0].clone()]
    }
}

/// `method = lozo`.
#[derive(Debug)]
pub struct LowRank;

impl Kind for LowRank {
    fn name(&self) -> &'static str {
        "lozo"
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
        let (law, window) = (Lozo { rank: rank.or(2) }, window.or(50));
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

    /// Oracle: the definition. Within a window all directions of a matrix have the same row space of dimension r.
    #[test]
    fn the_row_space_lasts_for_a_window() {
        let layout = layout();
        let n = layout.n_coords();
        let first = |step| {
            let time = Time { step, window: 10 };
            Matrices::new(Lozo { rank: 2 }, 1, time, (0..n).collect(), n, Some(&layout)).values(0)[..20]
                .to_vec()
        };
        let together = |a: u32, b: u32| rank_of(&[first(a), first(b)].concat(), 4);
        assert_eq!((together(0, 9), together(9, 10)), (2, 4));
        assert_ne!(first(0), first(9));
    }
}
