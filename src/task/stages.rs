//! What one gradient estimate spends its time on (Tab. A1 of the paper): drawing directions, perturbing
//! the parameters, forward passes, forming the estimate.

use std::time::Instant;

use rayon::prelude::*;

use super::images;
use super::quality::first_batch;
use super::{Outcome, Session, Task};
use crate::cost::{Cost, Planner};
use crate::metric::{self, Row};
use crate::problem::Problem;
use crate::rng::Purpose;
use crate::setting::{Entry, Plain, Settings};
use crate::zo::estimator::rge;
use crate::zo::evaluate::EvaluatorKind;
use crate::zo::{self, DirectionSource, Family, Metered, QueryCount, Scheme};
use crate::{Error, Result, method, train};

/// Seconds of each stage.
#[derive(Debug, Clone, Copy, Default)]
struct Seconds {
    directions: f64,
    perturbation: f64,
    inference: f64,
    arithmetic: f64,
}

impl Seconds {
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

/// `task = stages`: times one estimate per epoch after one to warm up, each on another batch. Every query is timed by
/// itself; the times of a stage are summed over the queries and divided by the number of threads, which
/// all work on queries. Forward passes are complete ones.
#[derive(Debug)]
pub struct Stages;

impl Task for Stages {
    fn name(&self) -> &'static str {
        "stages"
    }

    fn sections(&self, method: &'static dyn method::Kind) -> Result<Vec<&'static [Entry]>> {
        Way::of(method)?;
        let mut sections = [images::sections(), method.gradient_sections()?].concat();
        // Whatever the evaluator, passes are complete.
        sections.retain(|section| section.iter().all(|entry| entry.name != EVALUATOR));
        Ok(sections)
    }

    fn implies(&self) -> Vec<(&'static str, toml::Value)> {
        vec![(EVALUATOR, EvaluatorKind::Full.into_value()), ("warmup-epochs", 0usize.into_value())]
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        images::check(settings)
    }

    fn run(&self, settings: &Settings, seed: u64, session: &Session) -> Result<Outcome> {
        let started = Instant::now();
        let images = session.images()?;
        let network = images::network(settings, images)?;
        let count = QueryCount::default();
        let resources = session.resources(&count);
        let problem = images::problem(settings, seed, &network, images, resources)?;
        let at = problem.start(seed);
        let method::Config { method } = settings.read()?;
        let way = Way::of(method)?;
        let mut active = method::Active::new(settings, seed)?;
        active.score(&problem, &at.params, &resources)?;
        let train::Config { epochs, batch_size } = settings.read()?;
        let zo::Smoothing { mu } = settings.read()?;
        let zo::estimator::Config { difference } = settings.read()?;
        let (law, queries) = match way {
            Way::Coordinates => (rge::Config::default().directions, 0),
            Way::Directions => {
                let zo::estimator::Budget { queries } = settings.read()?;
                (settings.read::<rge::Config>()?.directions, queries)
            }
        };
        let mut rows: Vec<Row> = Vec::new();
        for epoch in 0..=epochs {
            session.check_interrupt()?;
            active.refresh(epoch.max(1), &problem, &at.params, &resources)?;
            let coords = active.in_epoch(epoch.max(1), network.layout());
            let batch = first_batch(&problem, epoch, batch_size)?;
            let objective = batch.objective();
            let objective = Metered::new(&*objective, &count);
            let directions = DirectionSource::new(
                law,
                seed,
                Purpose::Direction,
                epoch as u32,
                coords.clone(),
                Some(network.layout()),
            );
            let params = &at.params;
            let estimate = Estimate { way, mu, difference, queries, params, directions: &directions };
            let base = objective.loss_alone(params)?;
            let loss = |point: &[f64]| objective.loss(point);
            let (gradient, stages) = estimate.run(base, &loss)?;
            if epoch == 0 {
                continue;
            }
            let mut row = Row::new(epoch as u32);
            row.set(&metric::TRAIN_LOSS, base);
            row.set(&metric::N_ACTIVE, coords.len() as f64);
            row.set(&metric::QUERIES, count.queries() as f64);
            row.set(&metric::QUERIES_NON_FINITE, count.non_finite() as f64);
            row.set(&metric::GRADIENT_NORM, gradient.iter().map(|g| g * g).sum::<f64>().sqrt());
            row.set(&metric::WALL_S, started.elapsed().as_secs_f64());
            row.set(&metric::DIRECTIONS_S, stages.directions);
            row.set(&metric::PERTURBATION_S, stages.perturbation);
            row.set(&metric::INFERENCE_S, stages.inference);
            row.set(&metric::ARITHMETIC_S, stages.arithmetic);
            session.observer.epoch(&row);
            rows.push(row);
        }
        Ok(Outcome::measured(network.layout().n_coords(), rows))
    }

    /// One estimate per epoch, and one to warm up.
    fn cost(&self, settings: &Settings, planner: &mut Planner) -> Result<Cost> {
        let train::Config { epochs, .. } = settings.read()?;
        let amount = |_: &_| images::batches(settings, epochs + 1);
        images::cost(settings, planner, amount, Some(EvaluatorKind::Full))
    }
}

/// The setting that plays no part here.
const EVALUATOR: &str = "evaluator";

/// The estimators that are taken apart.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// CGE.
    Coordinates,
    /// RGE.
    Directions,
}

impl Way {
    fn of(method: &dyn method::Kind) -> Result<Self> {
        match method.name() {
            "cge" => Ok(Self::Coordinates),
            "rge" => Ok(Self::Directions),
            other => Err(Error::setting("task", format!("stages needs method = cge or rge; got {other}"))),
        }
    }
}

/// One estimate, taken apart. It is what [`crate::zo::estimate`] gives, up to the order of a sum.
struct Estimate<'a> {
    way: Way,
    mu: f64,
    difference: Scheme,
    /// Directions; 0 for as many as coordinates.
    queries: usize,
    params: &'a [f64],
    directions: &'a DirectionSource,
}

/// What a thread works with.
struct Worker {
    point: Vec<f64>,
    gradient: Vec<f64>,
    stages: Seconds,
}

impl Estimate<'_> {
    fn n_queries(&self) -> usize {
        match (self.way, self.queries) {
            (Way::Directions, n) if n > 0 => n,
            _ => self.directions.coords().len(),
        }
    }

    fn run(&self, base: f64, loss: &(dyn Fn(&[f64]) -> Result<f64> + Sync)) -> Result<(Vec<f64>, Seconds)> {
        let n = self.n_queries();
        let threads = rayon::current_num_threads();
        let fresh = || Worker {
            point: self.params.to_vec(),
            gradient: vec![0.0; self.params.len()],
            stages: Seconds::default(),
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
        let mut stages = Seconds::default();
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
        let (mu, coords) = (self.mu, self.directions.coords());
        let Worker { point, gradient, stages } = worker;
        let is_rge = self.way == Way::Directions;
        let values = timed(&mut stages.directions, || is_rge.then(|| self.directions.values(query as u32)));
        let perturb = |step: f64, point: &mut [f64]| match &values {
            Some(values) => {
                coords.iter().zip(values).for_each(|(&c, value)| point[c] = self.params[c] + step * value);
            }
            None => point[coords[query]] = self.params[coords[query]] + step,
        };
        timed(&mut stages.perturbation, || perturb(mu, point));
        let plus = timed(&mut stages.inference, || loss(point))?;
        let slope = match self.difference {
            Scheme::Forward => (plus - base) / mu,
            Scheme::Central => {
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
                    let weight = slope * self.directions.factor(mu) / self.n_queries() as f64;
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
    use crate::zo::estimator::{Cge, Rge};
    use crate::zo::evaluate;
    use crate::zo::probe::Directions;
    use crate::zo::{Estimator, Objective};

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
        let objective = Metered::new(&Waves, &count);
        let evaluator = evaluate::at(&objective, EvaluatorKind::Full, &params).unwrap();
        for way in [Way::Coordinates, Way::Directions] {
            for law in
                [Directions::Gaussian, Directions::Sphere, Directions::PerTensor, Directions::Rademacher]
            {
                for difference in [Scheme::Forward, Scheme::Central] {
                    let source =
                        Arc::new(DirectionSource::new(law, 5, Purpose::Test, 1, coords.clone(), None));
                    let ordinary: Box<dyn Estimator> = match way {
                        Way::Coordinates => Box::new(Cge::new(9, coords.clone(), 1e-3, difference)),
                        Way::Directions => Box::new(Rge::new(9, source.clone(), 5, 1e-3, difference)),
                    };
                    let expected = crate::zo::estimate(ordinary.as_ref(), &evaluator).unwrap().gradient;
                    let estimate = Estimate {
                        way,
                        mu: 1e-3,
                        difference,
                        queries: 0,
                        params: &params,
                        directions: &source,
                    };
                    let base = Waves.loss(&params).unwrap();
                    let loss = |point: &[f64]| {
                        // However fast the machine, every evaluation takes a tick of its clock.
                        let started = Instant::now();
                        while started.elapsed().is_zero() {}
                        Waves.loss(point)
                    };
                    let (found, stages) = estimate.run(base, &loss).unwrap();
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!((found - expected).abs() < 1e-12, "{way:?} {law:?}: {found} {expected}");
                    }
                    assert!(stages.inference > 0.0);
                }
            }
        }
    }
}
