//! Zeroth-order at the outputs of a network, exact through it: the estimate of ZO-AE-DS (Zhang et al., ICLR 2022).
//!
//! A network whose inside is known stands in front of a black box that gives every item's loss l_n of its outputs z_n.
//! What is estimated are the n_z slopes of l_n at z_n, for all items of a batch at once; back-propagation carries them
//! to the parameters. With n_z numbers per item a step costs
//!
//! - coordinates ([`Coordinates`], `output-cge`): ĝ_{n,k} = (l_n(z_n + μ e_k) − l_n(z_n)) / μ, n_z queries beside the
//!   base, or 2 n_z with central differences as in the released code;
//! - random directions ([`Directions`], `output-rge`): ĝ_n = (n_z / q) Σ_k u_{n,k} (l_n(z_n + μ u_{n,k}) − l_n(z_n)) / μ
//!   with u uniform on the unit sphere, q queries beside the base, or 2 q.
//!
//! A query is one loss of the whole batch, as everywhere; a probe of an item whose loss is not finite says nothing.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::descent::{Asked, Descent, Gradient, GradientSource};
use super::{Active, Kind, Method};
use crate::cost::{Cost, Steps};
use crate::nn;
use crate::nn::objective::check_rounding;
use crate::params::Layout;
use crate::problem::{Minibatch, Resources};
use crate::rng::{Purpose, Stream};
use crate::setting::{Entry, Section, Settings};
use crate::zo::estimator::{self, Budget};
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::{Scheme, Smoothing, optimizer};
use crate::{Error, Result};

/// `method = output-cge`.
#[derive(Debug)]
pub struct Coordinates;

/// `method = output-rge`.
#[derive(Debug)]
pub struct Directions;

impl Kind for Coordinates {
    fn name(&self) -> &'static str {
        "output-cge"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Smoothing::ENTRIES, estimator::Config::ENTRIES, optimizer::Config::ENTRIES]
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        check(settings)
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>> {
        start(settings, seed, layout, None)
    }

    fn has_probes(&self) -> bool {
        false
    }

    fn cost(&self, settings: &Settings, steps: &Steps) -> Result<Cost> {
        cost(settings, steps, steps.n_outputs as f64)
    }
}

impl Kind for Directions {
    fn name(&self) -> &'static str {
        "output-rge"
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        vec![Smoothing::ENTRIES, estimator::Config::ENTRIES, Budget::ENTRIES, optimizer::Config::ENTRIES]
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        if settings.read::<Budget>()?.queries == 0 {
            return Err(Error::setting(
                "queries",
                "output-rge needs a number of directions, such as 192; got 0",
            ));
        }
        check(settings)
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>> {
        start(settings, seed, layout, Some(settings.read::<Budget>()?.queries))
    }

    fn has_probes(&self) -> bool {
        false
    }

    fn cost(&self, settings: &Settings, steps: &Steps) -> Result<Cost> {
        cost(settings, steps, settings.read::<Budget>()?.queries as f64)
    }
}

fn check(settings: &Settings) -> Result<()> {
    let nn::Config { precision, .. } = settings.read()?;
    check_rounding(precision, EvaluatorKind::Full, false)
}

fn start(
    settings: &Settings,
    seed: u64,
    layout: &Arc<Layout>,
    directions: Option<usize>,
) -> Result<Box<dyn Method>> {
    let (Smoothing { mu }, estimator::Config { difference }) = (settings.read()?, settings.read()?);
    let source = AtOutputs { directions, mu, scheme: difference, seed };
    Ok(Box::new(Descent::new(settings.read()?, Box::new(source), Active::all(), layout)))
}

/// `n_slopes` slopes a step, and one backward pass.
fn cost(settings: &Settings, steps: &Steps, n_slopes: f64) -> Result<Cost> {
    let estimator::Config { difference } = settings.read()?;
    let queries = n_slopes * if difference == Scheme::Central { 2.0 } else { 1.0 } + 1.0;
    Ok(Cost {
        queries: steps.n * queries,
        flops: steps.items * (3.0 + queries) * steps.speed.full_flops,
        wall_s: steps.items * (steps.speed.backprop_s + queries * steps.speed.full_s),
    })
}

/// Numbers of outputs that are made for one call of the black box.
const NUMBERS_AT_ONCE: usize = 1 << 22;

/// Slopes at the outputs, carried back.
#[derive(Debug, Clone)]
pub struct AtOutputs {
    /// How many random directions; every coordinate if none.
    pub directions: Option<usize>,
    /// Smoothing parameter μ.
    pub mu: f64,
    /// Forward or central differences.
    pub scheme: Scheme,
    /// Of the directions.
    pub seed: u64,
}

impl AtOutputs {
    /// Mean loss of `outputs` (B, n), and the estimate of its gradient with respect to them. `step` numbers the
    /// directions.
    fn slopes(
        &self,
        batch: &dyn Minibatch,
        outputs: &Tensor,
        step: u32,
        resources: &Resources,
    ) -> Result<(f64, Tensor)> {
        let (n_items, n) = outputs.dims2()?;
        let z = outputs.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / n_items as f64;
        let ask = |points: Vec<f64>| -> Result<Vec<f64>> {
            let rows = points.len() / n;
            let points = Tensor::from_vec(points, (rows, n), &candle_core::Device::Cpu)?;
            let losses =
                batch.item_losses(&points.to_dtype(outputs.dtype())?.to_device(outputs.device())?)?;
            losses.chunks(n_items).for_each(|losses| resources.count.record(mean(losses)));
            Ok(losses)
        };
        let base = ask(z.clone())?;
        if !mean(&base).is_finite() {
            return Err(Error::Diverged { loss: mean(&base), at: String::new() });
        }
        let (n_slopes, factor) = match self.directions {
            None => (n, 1.0),
            Some(q) => (q, n as f64 / q as f64),
        };
        let signs: &[f64] = match self.scheme {
            Scheme::Forward => &[1.0],
            Scheme::Central => &[1.0, -1.0],
        };
        let at_once = (NUMBERS_AT_ONCE / (z.len() * signs.len()).max(1)).max(1);
        let mut gradient = vec![0.0; z.len()];
        let queries: Vec<usize> = (0..n_slopes).collect();
        for queries in queries.chunks(at_once) {
            resources.check_interrupt()?;
            let directions: Vec<Option<Vec<f64>>> =
                queries.iter().map(|&query| self.direction(step, query, n_items, n)).collect();
            let mut points = Vec::with_capacity(queries.len() * signs.len() * z.len());
            for (&query, direction) in queries.iter().zip(&directions) {
                for sign in signs {
                    let start = points.len();
                    points.extend_from_slice(&z);
                    let points = &mut points[start..];
                    match direction {
                        None => points.iter_mut().skip(query).step_by(n).for_each(|z| *z += sign * self.mu),
                        Some(u) => points.iter_mut().zip(u).for_each(|(z, u)| *z += sign * self.mu * u),
                    }
                }
            }
            let losses = ask(points)?;
            let of_query = losses.chunks(signs.len() * n_items);
            for ((&query, direction), losses) in queries.iter().zip(&directions).zip(of_query) {
                for item in 0..n_items {
                    let slope = match self.scheme {
                        Scheme::Forward => (losses[item] - base[item]) / self.mu,
                        Scheme::Central => (losses[item] - losses[n_items + item]) / (2.0 * self.mu),
                    };
                    if !slope.is_finite() {
                        continue;
                    }
                    let gradient = &mut gradient[item * n..][..n];
                    match direction {
                        None => gradient[query] += factor * slope,
                        Some(u) => {
                            let u = &u[item * n..][..n];
                            gradient.iter_mut().zip(u).for_each(|(g, u)| *g += factor * slope * u);
                        }
                    }
                }
            }
        }
        gradient.iter_mut().for_each(|g| *g /= n_items as f64);
        let gradient = Tensor::from_vec(gradient, (n_items, n), &candle_core::Device::Cpu)?;
        Ok((mean(&base), gradient.to_dtype(outputs.dtype())?.to_device(outputs.device())?))
    }

    /// A direction of every item, uniform on the unit sphere of its outputs; none for coordinates.
    fn direction(&self, step: u32, query: usize, n_items: usize, n: usize) -> Option<Vec<f64>> {
        self.directions?;
        let stream = Stream::new(self.seed, Purpose::OutputDirection, step).lane(query as u32);
        let mut u = vec![0.0; n_items * n];
        stream.fill_normal(&mut u);
        for u in u.chunks_mut(n) {
            let norm = u.iter().map(|u| u * u).sum::<f64>().sqrt();
            u.iter_mut().for_each(|u| *u /= norm);
        }
        Some(u)
    }
}

impl GradientSource for AtOutputs {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        asked: &Asked,
        resources: &Resources,
    ) -> Result<Gradient> {
        let exact = batch.pull_back(params, &|outputs| self.slopes(batch, outputs, asked.step, resources))?;
        let at = batch.pass_of(&exact)?;
        let mut values = vec![0.0; exact.gradient.len()];
        asked.active.iter().for_each(|&coord| values[coord] = exact.gradient[coord]);
        Ok(Gradient { values, at, doubt: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;
    use crate::nn::{Config, model};
    use crate::problem::{Classify, Prepared, Problem};
    use crate::ranks::ALONE;
    use crate::zo::QueryCount;
    use std::sync::atomic::AtomicBool;

    /// Oracle: back-propagation in f64, which coordinates meet up to the curvature of the loss; directions on average.
    #[test]
    fn estimates_are_close_to_exact_gradients() -> Result<()> {
        let images = Prepared::procedural(12);
        let network = model::from_name("cnn-d1-w4", &images.io())?;
        let config = Config { precision: crate::kernels::Precision::F64, ..Config::default() };
        let (count, interrupt) = (QueryCount::default(), AtomicBool::new(false));
        let resources = Resources {
            device: &candle_core::Device::Cpu,
            memory: 1 << 28,
            ranks: &ALONE,
            interrupt: &interrupt,
            count: &count,
        };
        let problem = Classify::new(&network, &images, &config, 1, resources);
        let state = problem.start(1);
        let batch = problem.batch(1, &data::epoch_order(12, 1, 1))?;
        let exact = batch.backprop(&state.params)?.gradient;
        let active: Arc<[usize]> = (0..exact.len()).collect();
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let error = |directions, scheme, mu, n_steps: u32| -> Result<f64> {
            let mut source = AtOutputs { directions, mu, scheme, seed: 5 };
            let mut mean = vec![0.0; exact.len()];
            for step in 0..n_steps {
                let asked = Asked { step, active: &active, draw: 0 };
                let found = source.gradient(&*batch, &state.params, &asked, &resources)?;
                mean.iter_mut().zip(found.values).for_each(|(mean, g)| *mean += g / f64::from(n_steps));
            }
            let difference: Vec<f64> = mean.iter().zip(&exact).map(|(a, b)| a - b).collect();
            Ok(norm(&difference) / norm(&exact))
        };
        assert!(error(None, Scheme::Central, 1e-4, 1)? < 1e-7);
        assert_eq!(count.queries(), 21);
        assert!(error(None, Scheme::Forward, 1e-6, 1)? < 1e-5);
        assert_eq!(count.queries(), 32);
        // Ten outputs: the variance of one direction is nine times the square of the gradient.
        assert!(error(Some(20), Scheme::Forward, 1e-6, 100)? < 3.0 * (9.0f64 / 2_000.0).sqrt());
        assert_eq!(count.queries(), 32 + 100 * 21);
        Ok(())
    }
}
