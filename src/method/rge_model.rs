//! A model of training by the randomized estimator: estimates drawn from RGE's law, at the price of one exact gradient.
//!
//! With directions u_i ~ N(0, I) and μ → 0, RGE is ĝ = (1/q) Σ a_i u_i, where a_i = u_iᵀg. Split u_i into (a_i/‖g‖²) g and
//! what is perpendicular to g, which does not depend on a_i: since a sum of normal vectors weighted by a is one that is
//! ‖a‖ times as long,
//!
//! ĝ = (‖a‖²/(q ‖g‖²)) g + (‖a‖/q) P z,
//!
//! with ‖a‖² = ‖g‖² χ² of q degrees of freedom, z ~ N(0, I), and P the projection off g. This is the law itself, no
//! approximation of it; what the model leaves out is the curvature of the loss within μ, and rounding. So it says what
//! RGE would come to where q queries a step are out of reach, and is no result of RGE: pages name it a model.

use std::sync::Arc;

use super::descent::{self, Asked, Descent, Gradient, GradientSource};
use super::first_order::{self, Exact};
use super::{Active, Kind, Method};
use crate::Result;
use crate::cost::{Cost, Steps};
use crate::nn;
use crate::nn::objective::check_rounding;
use crate::params::Layout;
use crate::problem::{Minibatch, Resources};
use crate::rng::{Purpose, Stream};
use crate::setting::{Entry, Section, Settings};
use crate::zo::estimator::Budget;
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::{Smoothing, optimizer, sparsity};

/// `method = rge-model`: descent along what RGE with Gaussian directions would estimate. It spends no queries.
#[derive(Debug)]
pub struct Modelled;

impl Modelled {
    fn estimate_sections() -> Vec<&'static [Entry]> {
        vec![Smoothing::ENTRIES, Budget::ENTRIES, sparsity::Config::ENTRIES]
    }
}

impl Kind for Modelled {
    fn name(&self) -> &'static str {
        "rge-model"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        [Self::estimate_sections(), vec![optimizer::Config::ENTRIES]].concat()
    }

    fn gradient_sections(&self) -> Result<Vec<&'static [Entry]>> {
        Ok(Self::estimate_sections())
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        descent::check_sparsity(settings)?;
        let nn::Config { precision, .. } = settings.read()?;
        check_rounding(precision, EvaluatorKind::Full, self.moves_coordinates())
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>> {
        let (source, active) = self.gradients(settings, seed, layout)?;
        Ok(Box::new(Descent::new(settings.read()?, source, active, layout)))
    }

    fn gradients(
        &self,
        settings: &Settings,
        seed: u64,
        _: &Arc<Layout>,
    ) -> Result<(Box<dyn GradientSource>, Active)> {
        let Budget { queries } = settings.read()?;
        Ok((Box::new(RgeModel { queries, seed }), Active::new(settings, seed)?))
    }

    fn has_probes(&self) -> bool {
        false
    }

    fn is_model(&self) -> bool {
        true
    }

    fn cost(&self, settings: &Settings, steps: &Steps) -> Result<Cost> {
        first_order::cost(settings, steps)
    }
}

/// Draws from RGE's law around exact gradients.
#[derive(Debug)]
struct RgeModel {
    /// Directions of an estimate; 0 for as many as there are active coordinates.
    queries: usize,
    seed: u64,
}

impl GradientSource for RgeModel {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        asked: &Asked,
        resources: &Resources,
    ) -> Result<Gradient> {
        let mut exact = Exact.gradient(batch, params, asked, resources)?;
        let on_set: Vec<f64> = asked.active.iter().map(|&coord| exact.values[coord]).collect();
        let n_dirs = if self.queries == 0 { on_set.len() } else { self.queries };
        let drawn = draw(&on_set, n_dirs, Stream::new(self.seed, Purpose::RgeModel, asked.step));
        asked.active.iter().zip(drawn).for_each(|(&coord, value)| exact.values[coord] = value);
        Ok(exact)
    }
}

/// A draw from the law of RGE with `n_dirs` Gaussian directions around the gradient `exact`, both on the active set. Lane 0
/// of the stream has the noise, lane 1 what makes the length.
fn draw(exact: &[f64], n_dirs: usize, stream: Stream) -> Vec<f64> {
    let square: f64 = exact.iter().map(|g| g * g).sum();
    if n_dirs == 0 || square == 0.0 {
        return vec![0.0; exact.len()];
    }
    let n = n_dirs as f64;
    let mut normal = vec![0.0; n_dirs];
    stream.lane(1).fill_normal(&mut normal);
    let chi_square: f64 = normal.iter().map(|a| a * a).sum();
    let mut noise = vec![0.0; exact.len()];
    stream.fill_normal(&mut noise);
    let along: f64 = noise.iter().zip(exact).map(|(z, g)| z * g).sum::<f64>() / square;
    let spread = (square * chi_square).sqrt() / n;
    noise.iter().zip(exact).map(|(z, g)| chi_square / n * g + spread * (z - along * g)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zo::estimator::rge::Rge;
    use crate::zo::probe::Directions;
    use crate::zo::{DirectionSource, Estimator, Scheme};

    /// What tells laws of estimates apart: the part along the gradient, the square of the length, and one coordinate.
    fn seen(exact: &[f64], estimate: &[f64]) -> [f64; 3] {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let square = dot(exact, exact);
        [dot(estimate, exact) / square, dot(estimate, estimate) / square, estimate[0]]
    }

    /// Mean and variance over draws.
    fn moments(draws: &[[f64; 3]]) -> [[f64; 2]; 3] {
        let n = draws.len() as f64;
        std::array::from_fn(|idx| {
            let mean = draws.iter().map(|draw| draw[idx]).sum::<f64>() / n;
            [mean, draws.iter().map(|draw| (draw[idx] - mean).powi(2)).sum::<f64>() / (n - 1.0)]
        })
    }

    /// Oracles: closed forms (mean 1 and variance 2/q along g, mean square length (q + d + 1)/q), and RGE itself on a
    /// linear loss, whose differences are exact. The same draws each time; bounds of four standard errors, and for the
    /// variances what four of theirs are for 2,000 draws.
    #[test]
    fn the_law_is_that_of_rge() {
        const N: u32 = 2_000;
        let exact: Vec<f64> = (0..12).map(|idx| 0.3 * f64::from(idx) - 1.0).collect();
        for n_dirs in [1_u32, 4, 12, 50] {
            let (q, d) = (f64::from(n_dirs), exact.len() as f64);
            let drawn: Vec<[f64; 3]> = (0..N)
                .map(|step| {
                    let stream = Stream::new(5, Purpose::RgeModel, step);
                    seen(&exact, &draw(&exact, n_dirs as usize, stream))
                })
                .collect();
            let estimated: Vec<[f64; 3]> = (0..N)
                .map(|step| {
                    let all: Arc<[usize]> = (0..exact.len()).collect();
                    let source =
                        DirectionSource::new(Directions::Gaussian, 5, Purpose::Direction, step, all, None);
                    let rge = Rge::new(exact.len(), Arc::new(source), n_dirs, 1.0, Scheme::Forward);
                    let along = |probe: &crate::zo::Probe| {
                        let mut moved = vec![0.0; exact.len()];
                        probe.apply(&vec![0.0; exact.len()], &mut moved);
                        moved.iter().zip(&exact).map(|(u, g)| u * g).sum::<f64>()
                    };
                    let differences: Vec<f64> = rge.ask().iter().map(along).collect();
                    seen(&exact, &rge.tell(&differences).gradient)
                })
                .collect();
            let (model, real) = (moments(&drawn), moments(&estimated));
            let n = f64::from(N);
            for idx in 0..3 {
                let error = ((model[idx][1] + real[idx][1]) / n).sqrt();
                assert!(
                    (model[idx][0] - real[idx][0]).abs() < 4.0 * error,
                    "{n_dirs} {idx}: {model:?} {real:?}"
                );
            }
            let [[along, variance], [length, _], _] = model;
            assert!((along - 1.0).abs() < 4.0 * (2.0 / q / n).sqrt(), "{n_dirs}: {along}");
            assert!(
                (length - (q + d + 1.0) / q).abs() < 4.0 * (model[1][1] / n).sqrt(),
                "{n_dirs}: {length}"
            );
            // Of chi-square with one degree of freedom the fourth cumulant is 48: 16 times its variance's square over q.
            let of_variance = 2.0 / q * ((2.0 + 12.0 / q) / n).sqrt();
            assert!((variance - 2.0 / q).abs() < 4.0 * of_variance, "{n_dirs}: {variance}");
        }
    }

    /// A gradient of zero, or no directions, is estimated as zero.
    #[test]
    fn nothing_comes_of_nothing() {
        let stream = Stream::new(1, Purpose::Test, 0);
        assert_eq!(draw(&[0.0; 3], 4, stream), [0.0; 3]);
        assert_eq!(draw(&[1.0; 3], 0, stream), [0.0; 3]);
        assert!(draw(&[], 4, stream).is_empty());
    }
}
