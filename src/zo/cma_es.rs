//! CMA-ES: a population around a mean, whose spread and shape follow what was good (Hansen, The CMA Evolution Strategy: A
//! Tutorial, 2016, arXiv 1604.00772), for black boxes of some ten to two hundred coordinates.
//!
//! Of a generation of λ points x_k = m + σ y_k, y_k = C^(1/2) z_k with z_k normal, sorted by their losses, and weights w_k
//! that fall from the best to the worst, positive for the better half, negative for the others:
//!
//! - m ← m + σ y_w, y_w the mean of the better half with its weights;
//! - p_σ ← (1 − c_σ) p_σ + √(c_σ (2 − c_σ) μ_eff) z_w, σ ← σ exp((c_σ / d_σ) (‖p_σ‖ / E‖N(0, I)‖ − 1));
//! - p_c ← (1 − c_c) p_c + h √(c_c (2 − c_c) μ_eff) y_w, with h = 0 while p_σ is long, else 1;
//! - C ← (1 + c_1 (1 − h) c_c (2 − c_c) − c_1 − c_μ Σ w) C + c_1 p_c p_cᵀ + c_μ Σ w°_k y_k y_kᵀ, w°_k = w_k, times n / ‖z_k‖² if
//!   negative.
//!
//! All rates are the tutorial's defaults (Table 1), λ = 4 + ⌊3 ln n⌋ unless it is given. The root of C is the symmetric one,
//! so that z_k = C^(-1/2) y_k, and it is taken anew every max(1, ⌊1 / (10 n (c_1 + c_μ))⌋) generations. A point whose loss is
//! not finite is worse than all others. A generation costs λ queries.

use std::sync::Arc;

use super::Probe;
use super::probe::Family;
use crate::rng::{Purpose, Stream};

/// Coordinates above which matrices of all pairs of them are out of proportion.
pub const MOST_COORDS: usize = 200;

/// A search, apart from its mean, which who searches holds.
///
/// ```
/// use deepzero::zo::cma_es::CmaEs;
/// use deepzero::zo::evaluate::{self, Evaluator, EvaluatorKind};
/// use deepzero::zo::{Metered, Objective, QueryCount};
///
/// struct Bowl;
/// impl Objective for Bowl {
///     fn n_coords(&self) -> usize { 3 }
///     fn loss(&self, x: &[f64]) -> deepzero::Result<f64> {
///         Ok(x[0].powi(2) + 100.0 * x[1].powi(2) + 10_000.0 * x[2].powi(2))
///     }
/// }
///
/// let count = QueryCount::default();
/// let bowl = Metered::new(&Bowl, &count);
/// let mut mean = vec![1.0; 3];
/// let mut search = CmaEs::new(3, 0.5, None, 1);
/// for _ in 0..150 {
///     let evaluator = evaluate::at(&bowl, EvaluatorKind::Full, &mean)?;
///     let differences = evaluator.differences(&search.ask())?;
///     search.tell(&differences, &mut mean);
/// }
/// assert!(bowl.loss(&mean)? < 1e-10);
/// # Ok::<(), deepzero::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CmaEs {
    rates: Rates,
    seed: u64,
    sigma: f64,
    /// p_σ and p_c (n).
    paths: [Vec<f64>; 2],
    /// C, row by row.
    covariance: Vec<f64>,
    /// Its root when it was last taken.
    root: Arc<[f64]>,
    n_done: u32,
}

/// What depends on sizes alone.
#[derive(Debug, Clone, PartialEq)]
struct Rates {
    n: usize,
    /// One for each point, best first; the first sum to 1.
    weights: Vec<f64>,
    n_positive: usize,
    effective: f64,
    sigma_path: f64,
    damping: f64,
    shape_path: f64,
    rank_one: f64,
    rank_mu: f64,
    /// Expected length of a normal vector.
    normal_length: f64,
    /// Generations from one root to the next.
    lag: u32,
}

impl Rates {
    fn new(n: usize, population: usize) -> Self {
        let dim = n as f64;
        let raw: Vec<f64> =
            (1..=population).map(|k| ((population as f64 + 1.0) / 2.0).ln() - (k as f64).ln()).collect();
        let n_positive = population / 2;
        let effective_of = |part: &[f64]| {
            let (sum, squares) = part.iter().fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
            if squares > 0.0 { sum * sum / squares } else { 0.0 }
        };
        let (effective, effective_negative) =
            (effective_of(&raw[..n_positive]), effective_of(&raw[n_positive..]));
        let shape_path = (4.0 + effective / dim) / (dim + 4.0 + 2.0 * effective / dim);
        let rank_one = 2.0 / ((dim + 1.3).powi(2) + effective);
        let rank_mu = (2.0 * (0.25 + effective + 1.0 / effective - 2.0) / ((dim + 2.0).powi(2) + effective))
            .min(1.0 - rank_one);
        let sigma_path = (effective + 2.0) / (dim + effective + 5.0);
        let damping = 1.0 + 2.0 * (((effective - 1.0) / (dim + 1.0)).sqrt() - 1.0).max(0.0) + sigma_path;
        // How much the negative weights may sum to.
        let most = (1.0 + rank_one / rank_mu)
            .min(1.0 + 2.0 * effective_negative / (effective + 2.0))
            .min((1.0 - rank_one - rank_mu) / (dim * rank_mu));
        let positive: f64 = raw.iter().filter(|w| **w > 0.0).sum();
        let negative: f64 = -raw.iter().filter(|w| **w < 0.0).sum::<f64>();
        let weight = |w: f64| if w >= 0.0 { w / positive } else { most * w / negative };
        Self {
            n,
            weights: raw.into_iter().map(weight).collect(),
            n_positive,
            effective,
            sigma_path,
            damping,
            shape_path,
            rank_one,
            rank_mu,
            normal_length: dim.sqrt() * (1.0 - 1.0 / (4.0 * dim) + 1.0 / (21.0 * dim * dim)),
            lag: ((1.0 / (10.0 * dim * (rank_one + rank_mu))) as u32).max(1),
        }
    }
}

/// Points of the default population in `n` coordinates.
#[must_use]
pub fn default_population(n: usize) -> usize {
    4 + (3.0 * (n.max(1) as f64).ln()) as usize
}

impl CmaEs {
    /// A search in `n` coordinates that starts with the standard deviation `sigma` in all of them; `population` is λ, at
    /// least 2.
    #[must_use]
    pub fn new(n: usize, sigma: f64, population: Option<usize>, seed: u64) -> Self {
        let population = population.unwrap_or_else(|| default_population(n)).max(2);
        let mut identity = vec![0.0; n * n];
        (0..n).for_each(|i| identity[i * n + i] = 1.0);
        Self {
            rates: Rates::new(n, population),
            seed,
            sigma,
            paths: [vec![0.0; n], vec![0.0; n]],
            root: identity.clone().into(),
            covariance: identity,
            n_done: 0,
        }
    }

    /// Present standard deviation σ.
    #[must_use]
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    fn points(&self) -> Points {
        Points {
            stream: Stream::new(self.seed, Purpose::Direction, self.n_done),
            root: self.root.clone(),
            coords: (0..self.rates.n).collect(),
        }
    }

    /// The points of a generation, as probes around the mean.
    #[must_use]
    pub fn ask(&self) -> Vec<Probe> {
        let source: Arc<dyn Family> = Arc::new(self.points());
        let probe = |idx| Probe::Direction { source: source.clone(), idx, shift: self.sigma };
        (0..self.rates.weights.len() as u32).map(probe).collect()
    }

    /// Moves the mean, and adapts, by the differences of the losses at these points, in their order.
    pub fn tell(&mut self, differences: &[f64], mean: &mut [f64]) {
        let Rates { n, ref weights, n_positive, effective, .. } = self.rates;
        let rates = self.rates.clone();
        let points = self.points();
        let mut order: Vec<u32> = (0..weights.len() as u32).collect();
        let loss = |idx: u32| {
            let difference = differences[idx as usize];
            if difference.is_finite() { difference } else { f64::INFINITY }
        };
        order.sort_by(|&a, &b| loss(a).total_cmp(&loss(b)).then(a.cmp(&b)));
        let (mut step, mut normal_step) = (vec![0.0; n], vec![0.0; n]);
        for (&idx, weight) in order.iter().zip(weights).take(n_positive) {
            step.iter_mut().zip(points.values(idx)).for_each(|(sum, y)| *sum += weight * y);
            normal_step.iter_mut().zip(points.normal(idx)).for_each(|(sum, z)| *sum += weight * z);
        }
        mean.iter_mut().zip(&step).for_each(|(mean, y)| *mean += self.sigma * y);
        let [sigma_path, shape_path] = &mut self.paths;
        advance(sigma_path, rates.sigma_path, effective, &normal_step, 1.0);
        let length = norm(sigma_path);
        self.n_done += 1;
        let settled = 1.0 - (1.0 - rates.sigma_path).powf(2.0 * f64::from(self.n_done));
        let is_short = length / settled.sqrt() < (1.4 + 2.0 / (n as f64 + 1.0)) * rates.normal_length;
        let heaviside = if is_short { 1.0 } else { 0.0 };
        advance(shape_path, rates.shape_path, effective, &step, heaviside);
        self.sigma *= (rates.sigma_path / rates.damping * (length / rates.normal_length - 1.0)).exp();
        let lost = (1.0 - heaviside) * rates.shape_path * (2.0 - rates.shape_path);
        let total: f64 = weights.iter().sum();
        let kept = 1.0 + rates.rank_one * lost - rates.rank_one - rates.rank_mu * total;
        self.covariance.iter_mut().for_each(|c| *c *= kept);
        add_square(&mut self.covariance, shape_path, rates.rank_one);
        for (&idx, &weight) in order.iter().zip(weights) {
            let squares = norm(&points.normal(idx)).powi(2);
            let weight = if weight < 0.0 { weight * n as f64 / squares } else { weight };
            add_square(&mut self.covariance, &points.values(idx), rates.rank_mu * weight);
        }
        if self.n_done.is_multiple_of(rates.lag) {
            self.root = root_of(&self.covariance, n).into();
        }
    }

    /// Everything that the rest of the search depends on.
    #[must_use]
    pub fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        let [sigma_path, shape_path] = &self.paths;
        vec![
            ("step_size", vec![self.sigma, f64::from(self.n_done)]),
            ("sigma_path", sigma_path.clone()),
            ("shape_path", shape_path.clone()),
            ("covariance", self.covariance.clone()),
            ("root", self.root.to_vec()),
        ]
    }

    /// Goes on from a stored state, whose vectors `take` gives by name and length.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn restore(
        &mut self,
        mut take: impl FnMut(&str, usize) -> std::result::Result<Vec<f64>, String>,
    ) -> std::result::Result<(), String> {
        let n = self.rates.n;
        let step_size = take("step_size", 2)?;
        self.sigma = step_size[0];
        self.n_done =
            crate::saved::integer("the number of generations", step_size[1], u32::MAX as usize)? as u32;
        self.paths = [take("sigma_path", n)?, take("shape_path", n)?];
        self.covariance = take("covariance", n * n)?;
        self.root = take("root", n * n)?.into();
        Ok(())
    }
}

/// p ← (1 − c) p + on √(c (2 − c) μ_eff) step.
fn advance(path: &mut [f64], rate: f64, effective: f64, step: &[f64], on: f64) {
    let factor = on * (rate * (2.0 - rate) * effective).sqrt();
    path.iter_mut().zip(step).for_each(|(path, step)| *path = (1.0 - rate) * *path + factor * step);
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Adds `factor` v vᵀ to a matrix.
fn add_square(matrix: &mut [f64], v: &[f64], factor: f64) {
    for (row, &a) in matrix.chunks_exact_mut(v.len()).zip(v) {
        row.iter_mut().zip(v).for_each(|(value, b)| *value += factor * a * b);
    }
}

/// y = C^(1/2) z of one generation.
#[derive(Debug)]
struct Points {
    stream: Stream,
    root: Arc<[f64]>,
    coords: Arc<[usize]>,
}

impl Points {
    /// z of point `idx`.
    fn normal(&self, idx: u32) -> Vec<f64> {
        let mut z = vec![0.0; self.coords.len()];
        self.stream.lane(idx).fill_normal(&mut z);
        z
    }
}

impl Family for Points {
    fn coords(&self) -> &Arc<[usize]> {
        &self.coords
    }

    fn values(&self, idx: u32) -> Vec<f64> {
        let z = self.normal(idx);
        let dot = |row: &[f64]| row.iter().zip(&z).map(|(a, z)| a * z).sum::<f64>();
        self.root.chunks_exact(z.len()).map(dot).collect()
    }
}

/// Sweeps of Jacobi's method after which rounding is all that is left, by far.
const MOST_SWEEPS: usize = 60;

/// The symmetric root of a symmetric matrix of n x n; eigenvalues that rounding left below zero count as zero.
fn root_of(matrix: &[f64], n: usize) -> Vec<f64> {
    let (values, vectors) = eigen(matrix.to_vec(), n);
    let mut root = vec![0.0; n * n];
    for (value, vector) in values.iter().zip(vectors.chunks_exact(n)) {
        add_square(&mut root, vector, value.max(0.0).sqrt());
    }
    root
}

/// Eigenvalues and, row by row, eigenvectors of a symmetric matrix, by Jacobi's rotations in cyclic order.
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let scale = a.iter().map(|x| x * x).sum::<f64>();
    for _ in 0..MOST_SWEEPS {
        let off: f64 =
            (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off <= f64::EPSILON * f64::EPSILON * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, n, p, q);
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), vectors)
}

/// One rotation, after which entry (p, q) is zero.
fn rotate(a: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    let (app, aqq, apq) = (a[p * n + p], a[q * n + q], a[p * n + q]);
    if apq == 0.0 {
        return;
    }
    let theta = (aqq - app) / (2.0 * apq);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cos = (tangent * tangent + 1.0).sqrt().recip();
    let sin = tangent * cos;
    for k in (0..n).filter(|&k| k != p && k != q) {
        let (akp, akq) = (a[k * n + p], a[k * n + q]);
        let (kp, kq) = (cos * akp - sin * akq, sin * akp + cos * akq);
        (a[k * n + p], a[p * n + k], a[k * n + q], a[q * n + k]) = (kp, kp, kq, kq);
    }
    (a[p * n + p], a[q * n + q]) = (app - tangent * apq, aqq + tangent * apq);
    (a[p * n + q], a[q * n + p]) = (0.0, 0.0);
    for k in 0..n {
        let (vp, vq) = (vectors[p * n + k], vectors[q * n + k]);
        (vectors[p * n + k], vectors[q * n + k]) = (cos * vp - sin * vq, sin * vp + cos * vq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the definition: R is symmetric, R R is the matrix.
    #[test]
    fn roots_are_symmetric_and_square_to_the_matrix() {
        let n = 7;
        let mut matrix = vec![0.0; n * n];
        for k in 0..n {
            let mut v = vec![0.0; n];
            Stream::new(1, Purpose::Test, k as u32).fill_normal(&mut v);
            add_square(&mut matrix, &v, 1.0 + k as f64);
        }
        let root = root_of(&matrix, n);
        for i in 0..n {
            for j in 0..n {
                let product: f64 = (0..n).map(|k| root[i * n + k] * root[k * n + j]).sum();
                assert!((product - matrix[i * n + j]).abs() < 1e-11, "{i} {j}");
                assert!((root[i * n + j] - root[j * n + i]).abs() < 1e-12);
            }
        }
        // Repeated eigenvalues, and none at all off the diagonal.
        assert_eq!(root_of(&[4.0, 0.0, 0.0, 4.0], 2), [2.0, 0.0, 0.0, 2.0]);
    }

    /// Oracle: sums and signs that the tutorial states for n = 10, λ = 10, with μ_eff = 3.17 (its Eq. 8 by hand).
    #[test]
    fn rates_are_the_tutorials() {
        let rates = Rates::new(10, default_population(10));
        assert_eq!((rates.weights.len(), rates.n_positive), (10, 5));
        assert!((rates.weights[..5].iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((rates.effective - 3.167).abs() < 1e-3, "{}", rates.effective);
        assert!((rates.rank_one - 2.0 / (11.3f64.powi(2) + rates.effective)).abs() < 1e-15);
        // All of the matrix is replaced at the rate c_1 + c_μ Σ w, which negative weights bring to zero at most.
        assert!(rates.weights[5..].iter().all(|w| *w <= 0.0));
        assert!(rates.rank_one + rates.rank_mu * rates.weights.iter().sum::<f64>() > -1e-12);
    }

    /// A point without a loss is the worst.
    #[test]
    fn failed_points_are_worst() {
        let mut search = CmaEs::new(3, 1.0, Some(4), 1);
        let (mut mean, mut other) = (vec![0.0; 3], vec![0.0; 3]);
        let mut same = search.clone();
        search.tell(&[0.3, f64::NAN, 0.1, 0.2], &mut mean);
        same.tell(&[0.3, 9.0, 0.1, 0.2], &mut other);
        assert_eq!((mean, search.state()), (other, same.state()));
    }
}
