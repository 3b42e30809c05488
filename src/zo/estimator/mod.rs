//! Gradient estimators: which probes to ask for, and what their losses say of the gradient.

pub mod cge;
pub mod cocd;
pub mod eggroll;
pub mod hizoo;
pub mod lozo;
pub mod matrices;
pub mod rge;
pub mod sparse_mezo;
pub mod subzero;
pub mod zo_muon;

use std::sync::Arc;

pub use cge::Cge;
pub use cocd::{Cocd, Cycle};
pub use rge::{Rge, StepScale};

use super::probe::Family;
use super::{Probe, Smoothing};
use crate::Result;
use crate::params::Layout;
use crate::setting::{Entry, Section, Settings};

/// All kinds of estimators, the paper's first. A new one is a file beside these, and a line here; that makes it a
/// method, too.
pub static KINDS: &[&dyn Kind] = &[
    &cge::Coordinatewise,
    &rge::Randomized,
    &cocd::Coherent,
    &sparse_mezo::Sparse,
    &lozo::LowRank,
    &subzero::Subspaces,
    &zo_muon::Orthogonalized,
    &hizoo::Curved,
    &eggroll::Evolution,
];

crate::choice! {
    /// Finite-difference scheme.
    pub enum Scheme {
        /// (l(θ + μu) − l(θ)) / μ: one query per probe and one for the base.
        Forward = "forward",
        /// (l(θ + μu) − l(θ − μu)) / 2μ: two queries per probe.
        Central = "central",
    }
}

crate::section! {
    /// What all estimators ask for.
    pub struct Config {
        /// Finite-difference scheme (ZO).
        pub difference: Scheme = Scheme::Forward,
    }
}

crate::section! {
    /// How much a step may ask for.
    pub struct Budget {
        /// Directions, coordinates (CoCD) or moves (Pattern Search) per step; 0 for all, as published, or a search: one step.
        pub queries: usize = 0 => crate::setting::Domain::Int(0, 1 << 24),
    }
}

impl Budget {
    /// As many directions as are asked for, or as many as `published`.
    fn or(&self, published: u32) -> u32 {
        if self.queries == 0 { published } else { u32::try_from(self.queries).unwrap_or(u32::MAX) }
    }
}

/// A kind of estimator, as settings name it: it makes [`Run`]s. Registered by one line of [`KINDS`].
pub trait Kind: std::fmt::Debug + Sync {
    /// Name in files.
    fn name(&self) -> &'static str;

    /// The sections that it reads beside those of all estimators.
    fn sections(&self) -> Vec<&'static [Entry]> {
        Vec::new()
    }

    /// Whether its probes come in pairs at ± μ by definition, so that there is no scheme to choose.
    fn has_pairs(&self) -> bool {
        false
    }

    /// Whether it is made for the weights of networks, and has nothing to say on another vector.
    fn is_of_weights(&self) -> bool {
        false
    }

    /// Checks rules between settings.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] naming the setting to change and what it may be.
    fn check(&self, _settings: &Settings) -> Result<()> {
        Ok(())
    }

    /// Estimates of one run of training.
    ///
    /// # Errors
    /// If the settings do not allow it.
    fn start(&self, settings: &Settings, space: Space) -> Result<Box<dyn Run>>;

    /// Whether its probes move single coordinates, so that an evaluator can save work.
    fn moves_coordinates(&self) -> bool;

    /// Slopes that one estimate over `n_active` coordinates takes, for a forecast of its cost.
    ///
    /// # Errors
    /// If the settings do not allow it.
    fn slopes(&self, settings: &Settings, n_active: f64) -> Result<f64>;
}

/// The sections that estimators read in common, as far as this one does.
#[must_use]
pub fn shared_sections(kind: &dyn Kind) -> Vec<&'static [Entry]> {
    let mut sections = vec![Smoothing::ENTRIES];
    if !kind.has_pairs() {
        sections.push(Config::ENTRIES);
    }
    sections
}

/// What estimates of a run are made over.
#[derive(Debug, Clone)]
pub struct Space {
    /// Names and positions of the parameter tensors; `None` for a black box, which is one tensor.
    pub layout: Option<Arc<Layout>>,
    /// Dimension d.
    pub n_coords: usize,
    /// Seed of everything random.
    pub seed: u64,
}

/// Where in a run an estimate is made.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Steps before this one in the whole run.
    pub step: u32,
    /// Active coordinates, sorted.
    pub active: &'a Arc<[usize]>,
    /// Number of that set, from 0.
    pub draw: u32,
    /// Parameters (d).
    pub params: &'a [f64],
}

/// The estimates of a run, one after the other: for each step `prepare`, `estimator`, `note`.
pub trait Run: Send {
    /// Gets ready for a step, for estimators that keep something of the parameters.
    fn prepare(&mut self, _place: &Place) {}

    /// The estimator of a step.
    fn estimator<'s>(&'s self, place: &Place<'s>) -> Box<dyn Estimator + 's>;

    /// Hears the estimate of the step, for estimators that build on earlier ones.
    fn note(&mut self, _estimate: &Estimate) {}

    /// Everything that later estimates depend on, for a checkpoint; lengths never change.
    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        Vec::new()
    }

    /// Takes back one of the vectors of [`Run::state`].
    fn restore(&mut self, _name: &str, _values: Vec<f64>) {}
}

/// A gradient estimate.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// One value per parameter (d); zero outside the active set.
    pub gradient: Vec<f64>,
    /// Probes left out because their loss was NaN or infinite.
    pub n_left_out: usize,
    /// What else the losses say that the next step of the run builds on; none for most estimators.
    pub kept: Vec<f64>,
}

impl Estimate {
    /// A gradient (d), and the number of probes left out of it.
    #[must_use]
    pub fn new(gradient: Vec<f64>, n_left_out: usize) -> Self {
        Self { gradient, n_left_out, kept: Vec::new() }
    }
}

/// Proposes probes and digests their loss differences. It never sees a model.
pub trait Estimator: Sync {
    /// The probes of one estimate, in an order that [`Estimator::tell`] knows.
    fn ask(&self) -> Vec<Probe>;

    /// The estimate from the loss differences of the probes, in the order asked. NaN differences
    /// are left out.
    fn tell(&self, differences: &[f64]) -> Estimate;
}

/// Directional slopes from the differences of an estimator that asks for `scheme`: one probe per
/// slope, or a pair at ± μ.
fn slopes(differences: &[f64], mu: f64, scheme: Scheme) -> Vec<f64> {
    match scheme {
        Scheme::Forward => differences.iter().map(|d| d / mu).collect(),
        Scheme::Central => differences.chunks_exact(2).map(|pair| (pair[0] - pair[1]) / (2.0 * mu)).collect(),
    }
}

/// Numbers of the slopes that are finite, each with its slope, and how many are not.
fn finite(slopes: &[f64]) -> (Vec<(u32, f64)>, usize) {
    let finite: Vec<(u32, f64)> =
        (0..).zip(slopes.iter().copied()).filter(|(_, slope)| slope.is_finite()).collect();
    let n_left_out = slopes.len() - finite.len();
    (finite, n_left_out)
}

/// The probes of directions number 0 to `n_dirs` of a family.
fn along(source: &Arc<dyn Family>, n_dirs: u32, mu: f64, scheme: Scheme) -> Vec<Probe> {
    let probes = |idx: u32| {
        let of = move |sign: &f64| Probe::Direction { source: source.clone(), idx, shift: sign * mu };
        steps(mu, scheme).iter().map(of)
    };
    (0..n_dirs).flat_map(probes).collect()
}

/// A vector (d) with these values at `coords` and zeros elsewhere.
fn spread_out(n_coords: usize, coords: &[usize], values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut all = vec![0.0; n_coords];
    coords.iter().zip(values).for_each(|(&coord, value)| all[coord] = value);
    all
}

/// Signed steps of one slope.
fn steps(mu: f64, scheme: Scheme) -> &'static [f64] {
    debug_assert!(mu > 0.0);
    match scheme {
        Scheme::Forward => &[1.0],
        Scheme::Central => &[1.0, -1.0],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::Result;
    use crate::rng::{Purpose, Stream};
    use crate::zo::evaluate::{self, EvaluatorKind};
    use crate::zo::probe::Directions;
    use crate::zo::{DirectionSource, Metered, Objective, QueryCount, estimate};

    /// l(x) = xᵀAx/2 + bᵀx with symmetric A: gradient Ax + b; a forward difference along e_i is off by μ A_ii/2.
    struct Quadratic {
        a: Vec<Vec<f64>>,
        b: Vec<f64>,
    }

    impl Quadratic {
        fn random(n: usize, seed: u64) -> Self {
            let stream = Stream::new(seed, Purpose::Test, 0);
            let mut a = vec![vec![0.0; n]; n];
            for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let value = stream.normal_at((i * n + j) as u64);
                (a[i][j], a[j][i]) = (value, value);
            }
            Self { a, b: (0..n).map(|i| stream.lane(1).normal_at(i as u64)).collect() }
        }

        fn gradient(&self, x: &[f64]) -> Vec<f64> {
            self.a
                .iter()
                .zip(&self.b)
                .map(|(row, b)| b + row.iter().zip(x).map(|(a, x)| a * x).sum::<f64>())
                .collect()
        }
    }

    impl Objective for Quadratic {
        fn n_coords(&self) -> usize {
            self.b.len()
        }
        fn loss(&self, x: &[f64]) -> Result<f64> {
            let ax: Vec<f64> = self.a.iter().map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect();
            Ok(x.iter().zip(&ax).zip(&self.b).map(|((x, ax), b)| 0.5 * x * ax + b * x).sum())
        }
    }

    fn point(n: usize) -> Vec<f64> {
        (0..n).map(|i| Stream::new(9, Purpose::Test, 1).normal_at(i as u64)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        /// Oracle: the closed-form gradient. Central differences of a quadratic are exact up to
        /// rounding (1e-16 · |l| / μ), forward ones off by exactly μ A_ii / 2.
        #[test]
        fn cge_of_a_quadratic(n in 1usize..12, seed in 0u64..1000) {
            let quadratic = Quadratic::random(n, seed);
            let x = point(n);
            let exact = quadratic.gradient(&x);
            let bias: Vec<f64> = (0..n).map(|i| 1e-3 * quadratic.a[i][i] / 2.0).collect();
            let count = QueryCount::default();
            let metered = Metered::new(&quadratic, &count);
            let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &x).unwrap();
            for (scheme, queries) in [(Scheme::Forward, n), (Scheme::Central, 2 * n)] {
                let before = count.queries();
                let found = estimate(&Cge::dense(n, 1e-3, scheme), &evaluator).unwrap().gradient;
                prop_assert_eq!(count.queries() - before, queries as u64);
                for i in 0..n {
                    let bias = if scheme == Scheme::Forward { bias[i] } else { 0.0 };
                    prop_assert!((found[i] - exact[i] - bias).abs() < 1e-9, "{} {}", found[i], exact[i] + bias);
                }
            }
        }

        /// Sparse-CGE equals CGE on the active set and zero elsewhere.
        #[test]
        fn sparse_cge_is_a_restriction(seed in 0u64..1000, k in 0usize..8) {
            let x = point(8);
            let count = QueryCount::default();
            let quadratic = Quadratic::random(8, seed);
            let metered = Metered::new(&quadratic, &count);
            let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &x).unwrap();
            let active = Stream::new(seed, Purpose::Mask, 0).subset(8, k);
            let dense = estimate(&Cge::dense(8, 1e-3, Scheme::Forward), &evaluator).unwrap().gradient;
            let sparse = Cge::new(8, active.clone().into(), 1e-3, Scheme::Forward);
            let sparse = estimate(&sparse, &evaluator).unwrap().gradient;
            for i in 0..8 {
                let expected = if active.contains(&i) { dense[i] } else { 0.0 };
                prop_assert_eq!(sparse[i].to_bits(), expected.to_bits());
            }
        }
    }

    /// Oracle: the estimators are unbiased up to O(μ): E[u uᵀ] g = g for Gaussian directions, and
    /// for the sphere with factor d; per tensor without a factor E = g / n_k (times μ as released).
    /// With q = 40,000 the relative error is about sqrt(d/q) = 1.2 %; five of those.
    #[test]
    fn rge_laws_have_the_right_mean() {
        let n = 6;
        let quadratic = Quadratic::random(n, 3);
        let x = point(n);
        let exact = quadratic.gradient(&x);
        let norm = exact.iter().map(|g| g * g).sum::<f64>().sqrt();
        let count = QueryCount::default();
        let metered = Metered::new(&quadratic, &count);
        let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &x).unwrap();
        let mu = 1e-5;
        for (law, factor) in [
            (Directions::Gaussian, 1.0),
            (Directions::Rademacher, 1.0),
            (Directions::Sphere, 1.0),
            (Directions::PerTensor, mu / n as f64),
        ] {
            let coords: Arc<[usize]> = (0..n).collect();
            let source = DirectionSource::new(law, 5, Purpose::Direction, 0, coords, None);
            let rge = Rge::new(n, Arc::new(source), 40_000, mu, Scheme::Central);
            let found = estimate(&rge, &evaluator).unwrap().gradient;
            let error =
                found.iter().zip(&exact).map(|(f, e)| (f / factor - e).powi(2)).sum::<f64>().sqrt() / norm;
            assert!(error < 5.0 * (n as f64 / 40_000.0).sqrt(), "{law:?}: {error}");
        }
    }

    /// A probe that gives NaN is counted and left out; the others still count.
    #[test]
    fn non_finite_probes_are_left_out() {
        struct Cliff;
        impl Objective for Cliff {
            fn n_coords(&self) -> usize {
                2
            }
            fn loss(&self, x: &[f64]) -> Result<f64> {
                Ok(if x[0] > 0.0 { f64::NAN } else { x[1] })
            }
        }
        let count = QueryCount::default();
        let metered = Metered::new(&Cliff, &count);
        let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &[0.0, 0.0]).unwrap();
        let found = estimate(&Cge::dense(2, 0.5, Scheme::Forward), &evaluator).unwrap();
        assert_eq!(found, Estimate::new(vec![0.0, 1.0], 1));
        assert_eq!((count.queries(), count.non_finite()), (3, 1));
    }

    /// The same bits for 1, 2 and 3 threads.
    #[test]
    fn threads_do_not_change_bits() {
        let x = point(8);
        let count = QueryCount::default();
        let quadratic = Quadratic::random(8, 1);
        let metered = Metered::new(&quadratic, &count);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &x).unwrap();
                let coords: Arc<[usize]> = (0..8).collect();
                let source = DirectionSource::new(Directions::Sphere, 5, Purpose::Direction, 0, coords, None);
                let rge = Rge::new(8, Arc::new(source), 500, 1e-3, Scheme::Forward);
                estimate(&rge, &evaluator).unwrap().gradient
            })
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(3));
    }
}
