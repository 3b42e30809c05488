//! What one gradient estimate spends its time on (Tab. A1 of the paper): drawing directions, perturbing
//! the parameters, forward passes, forming the estimate.

use std::time::Instant;

use rayon::prelude::*;

use super::active::ActiveSets;
use super::classify::{Model, Session};
use super::quality::batch;
use crate::Result;
use crate::nn::model;
use crate::results::{EpochRecord, Measures, Status};
use crate::rng::Purpose;
use crate::spec::{Difference, Method, Settings};
use crate::zo::{DirectionSource, QueryCount};

/// Seconds of each stage.
#[derive(Debug, Clone, Copy, Default)]
struct Stages {
    directions: f64,
    perturbation: f64,
    inference: f64,
    arithmetic: f64,
}

impl Stages {
    fn add(&mut self, other: &Self) {
        self.directions += other.directions;
        self.perturbation += other.perturbation;
        self.inference += other.inference;
        self.arithmetic += other.arithmetic;
    }
}

/// Runs `stage` and adds its time to `seconds`.
fn timed<R>(seconds: &mut f64, stage: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = stage();
    *seconds += start.elapsed().as_secs_f64();
    result
}

/// Times one estimate per epoch after one to warm up, each on another batch. Every query is timed by
/// itself; the times of a stage are summed over the queries and divided by the number of threads, which
/// all work on queries. Forward passes are complete ones, whatever the evaluator.
///
/// # Errors
/// [`Error::Interrupted`] when the user stops it, or whatever else goes wrong.
pub(super) fn measure(settings: &Settings, seed: u64, session: &Session) -> Result<Model> {
    let started = Instant::now();
    let network = model::from_settings(settings)?;
    let params = network.layout().initial(settings.init, seed);
    let count = QueryCount::default();
    let train = &session.data.train;
    let active =
        ActiveSets::at_initialization(settings, seed, &network, train, &params, &count, session.resources())?;
    let source = session.source(settings, seed, &network, &count);
    let mut epochs: Vec<EpochRecord> = Vec::new();
    for epoch in 0..=settings.epochs {
        session.check_interrupt()?;
        let coords = active.in_epoch(epoch.max(1), settings, seed, &network);
        let batch = batch(settings, seed, session, epoch)?;
        let objective = source.objective(&batch);
        let directions = DirectionSource::new(
            settings.directions,
            seed,
            Purpose::Direction,
            epoch as u32,
            coords.clone(),
            Some(network.layout()),
        );
        let estimate = Estimate { settings, params: &params, directions: &directions };
        let base = objective.loss_alone(&params)?;
        let loss = |point: &[f64]| objective.loss(point);
        let (gradient, stages) = estimate.run(base, &loss)?;
        if epoch == 0 {
            continue;
        }
        let record = EpochRecord {
            train_loss: base,
            n_active: coords.len() as u64,
            queries: count.queries(),
            queries_non_finite: count.non_finite(),
            gradient_norm: gradient.iter().map(|g| g * g).sum::<f64>().sqrt(),
            wall_s: started.elapsed().as_secs_f64(),
            measures: Measures {
                directions_s: stages.directions,
                perturbation_s: stages.perturbation,
                inference_s: stages.inference,
                arithmetic_s: stages.arithmetic,
                ..Measures::default()
            },
            ..EpochRecord::blank(epoch as u32)
        };
        epochs.push(record);
        session.observer.epoch(&record);
    }
    let stats = network.initial_stats();
    let (status, error, tensors) = (Status::Done, String::new(), Vec::new());
    Ok(Model { network, params, stats, epochs, status, error, tensors, mask: None })
}

/// One estimate, taken apart. It is what [`crate::zo::estimate`] gives, up to the order of a sum.
struct Estimate<'a> {
    settings: &'a Settings,
    params: &'a [f64],
    directions: &'a DirectionSource,
}

/// What a thread works with.
struct Worker {
    point: Vec<f64>,
    gradient: Vec<f64>,
    stages: Stages,
}

impl Estimate<'_> {
    fn run(&self, base: f64, loss: &(dyn Fn(&[f64]) -> Result<f64> + Sync)) -> Result<(Vec<f64>, Stages)> {
        let coords = self.directions.coords();
        let n = match self.settings.method {
            Method::Rge if self.settings.queries > 0 => self.settings.queries,
            _ => coords.len(),
        };
        let threads = rayon::current_num_threads();
        let fresh = || Worker {
            point: self.params.to_vec(),
            gradient: vec![0.0; self.params.len()],
            stages: Stages::default(),
        };
        // One run of queries per thread, so that each sums into a vector of its own.
        let workers: Vec<Worker> = (0..threads)
            .into_par_iter()
            .map(|thread| {
                let mut worker = fresh();
                for query in n * thread / threads..n * (thread + 1) / threads {
                    self.query(query, base, loss, &mut worker)?;
                }
                Ok(worker)
            })
            .collect::<Result<_>>()?;
        let mut stages = Stages::default();
        let mut gradient = vec![0.0; self.params.len()];
        for worker in &workers {
            stages.add(&worker.stages);
            gradient.iter_mut().zip(&worker.gradient).for_each(|(sum, value)| *sum += value);
        }
        for seconds in
            [&mut stages.directions, &mut stages.perturbation, &mut stages.inference, &mut stages.arithmetic]
        {
            *seconds /= threads as f64;
        }
        Ok((gradient, stages))
    }

    fn query(
        &self,
        query: usize,
        base: f64,
        loss: &(dyn Fn(&[f64]) -> Result<f64> + Sync),
        worker: &mut Worker,
    ) -> Result<()> {
        let (mu, coords) = (self.settings.mu, self.directions.coords());
        let Worker { point, gradient, stages } = worker;
        let is_rge = self.settings.method == Method::Rge;
        let values = timed(&mut stages.directions, || is_rge.then(|| self.directions.values(query as u32)));
        let perturb = |step: f64, point: &mut [f64]| match &values {
            Some(values) => {
                coords.iter().zip(values).for_each(|(&c, value)| point[c] = self.params[c] + step * value);
            }
            None => point[coords[query]] = self.params[coords[query]] + step,
        };
        timed(&mut stages.perturbation, || perturb(mu, point));
        let plus = timed(&mut stages.inference, || loss(point))?;
        let slope = match self.settings.difference {
            Difference::Forward => (plus - base) / mu,
            Difference::Central => {
                timed(&mut stages.perturbation, || perturb(-mu, point));
                let minus = timed(&mut stages.inference, || loss(point))?;
                (plus - minus) / (2.0 * mu)
            }
        };
        // In-place perturbations are undone; a direction is overwritten by the next one.
        timed(&mut stages.perturbation, || {
            if values.is_none() {
                perturb(0.0, point);
            }
        });
        if slope.is_finite() {
            timed(&mut stages.arithmetic, || match &values {
                Some(values) => {
                    let n = if self.settings.queries == 0 { coords.len() } else { self.settings.queries };
                    let weight = slope * self.directions.factor(mu) / n as f64;
                    coords.iter().zip(values).for_each(|(&c, value)| gradient[c] += weight * value);
                }
                None => gradient[coords[query]] = slope,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::spec::Directions;
    use crate::zo::estimator::{Cge, Rge};
    use crate::zo::evaluate::Full;
    use crate::zo::{Estimator, Metered, Objective};

    struct Waves;

    impl Objective for Waves {
        fn n_coords(&self) -> usize {
            9
        }
        fn loss(&self, x: &[f64]) -> Result<f64> {
            Ok(x.iter().enumerate().map(|(i, x)| (i as f64 * x).sin()).sum())
        }
    }

    /// Oracle: the ordinary estimators, up to the order of a sum.
    #[test]
    fn the_estimate_is_the_ordinary_one() {
        let params: Vec<f64> = (0..9).map(|i| 0.1 * f64::from(i)).collect();
        let coords: Arc<[usize]> = [0, 2, 3, 5, 8].into();
        let count = QueryCount::default();
        let objective = Metered::new(Waves, &count);
        let evaluator = Full::new(&objective, &params).unwrap();
        for method in [Method::Cge, Method::Rge] {
            for law in
                [Directions::Gaussian, Directions::Sphere, Directions::PerTensor, Directions::Rademacher]
            {
                for difference in [Difference::Forward, Difference::Central] {
                    let settings =
                        Settings { method, difference, directions: law, mu: 1e-3, ..Settings::default() };
                    let source =
                        Arc::new(DirectionSource::new(law, 5, Purpose::Test, 1, coords.clone(), None));
                    let ordinary: Box<dyn Estimator> = match method {
                        Method::Cge => Box::new(Cge::new(9, coords.clone(), 1e-3, difference)),
                        _ => Box::new(Rge::new(9, source.clone(), 5, 1e-3, difference)),
                    };
                    let expected = crate::zo::estimate(ordinary.as_ref(), &evaluator).unwrap().gradient;
                    let estimate = Estimate { settings: &settings, params: &params, directions: &source };
                    let base = Waves.loss(&params).unwrap();
                    let loss = |point: &[f64]| {
                        // However fast the machine, every evaluation takes a tick of its clock.
                        let started = Instant::now();
                        while started.elapsed().is_zero() {}
                        Waves.loss(point)
                    };
                    let (found, stages) = estimate.run(base, &loss).unwrap();
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!((found - expected).abs() < 1e-12, "{method:?} {law:?}: {found} {expected}");
                    }
                    assert!(stages.inference > 0.0);
                }
            }
        }
    }
}
