//! Descent along gradients, wherever these come from: an optimizer, a schedule, an active set.

use std::ops::Range;
use std::sync::Arc;

use super::{Active, ActiveSets, Kind, Method, Step};
use crate::cost::{Cost, Steps};
use crate::metric::{self, Row};
use crate::nn::objective::{BasePass, check_rounding};
use crate::params::{Layout, ParamKind};
use crate::problem::{Minibatch, Problem, Resources, State, explore};
use crate::profile::Profile;
use crate::saved::{Saved, integer};
use crate::setting::{Entry, Section, Settings};
use crate::zo::estimator::{self, Place, Space};
use crate::zo::evaluate::{self, EvaluatorKind};
use crate::zo::optimizer::{self, Optimizer};
use crate::zo::sparsity::{self, SparseTarget};
use crate::zo::{self, Probing, Scheme};
use crate::{Error, Result};

/// A gradient and what came with it.
#[derive(Debug)]
pub struct Gradient {
    /// One value per parameter (d), zero outside the active set.
    pub values: Vec<f64>,
    /// At the parameters that the gradient is for.
    pub at: BasePass,
    /// Why it can hardly be right, if so, in words for the user.
    pub doubt: Option<String>,
}

/// Where in a run a gradient is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Steps before this one in the whole run.
    pub step: u32,
    /// Active coordinates, sorted.
    pub active: &'a Arc<[usize]>,
    /// Number of that set, from 0.
    pub draw: u32,
}

/// Makes gradients, step after step.
pub trait GradientSource: Send {
    /// The gradient of the batch's loss at `params` (d), or its estimate.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss there is not finite, or if a query fails.
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        asked: &Asked,
        resources: &Resources,
    ) -> Result<Gradient>;

    /// As [`Method::state`].
    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        Vec::new()
    }

    /// As [`Method::restore`].
    ///
    /// # Errors
    /// What is wrong with the state, in words.
    fn restore(&mut self, _saved: &mut Saved) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// So many times μ is near it, for a scale: there [`norm_pull`](metric::NORM_PULL) has become large in training that fails.
const NEAR: f64 = 10.0;

/// Descent along the gradients of one source.
pub struct Descent {
    source: Box<dyn GradientSource>,
    config: optimizer::Config,
    optimizer: Optimizer,
    active: Active,
    /// Coordinates that are pruned for good (d), if any are.
    pruned: Option<Vec<bool>>,
    layout: Arc<Layout>,
    /// Of the present epoch.
    coords: Arc<[usize]>,
    draw: u32,
    /// Of the last step.
    rate: f64,
    norm: f64,
    scale: f64,
    pull: f64,
    doubt: Option<String>,
}

impl Descent {
    /// Descent along gradients of `source` on the sets of `active`.
    #[must_use]
    pub fn new(
        config: optimizer::Config,
        source: Box<dyn GradientSource>,
        active: Active,
        layout: &Arc<Layout>,
    ) -> Self {
        let optimizer =
            Optimizer::new(config.optimizer, config.momentum, config.weight_decay, layout.n_coords());
        Self {
            source,
            config,
            optimizer,
            active,
            pruned: None,
            layout: layout.clone(),
            coords: Arc::default(),
            draw: 0,
            rate: f64::NAN,
            norm: f64::NAN,
            scale: f64::NAN,
            pull: f64::NAN,
            doubt: None,
        }
    }
}

impl Method for Descent {
    fn begin(&mut self, problem: &dyn Problem, at: &mut State, resources: &Resources) -> Result<()> {
        self.active.score(problem, &at.params, resources)?;
        self.pruned = self.active.pruned(&self.layout);
        if let Some(pruned) = &self.pruned {
            let weights = at.params.iter_mut().zip(pruned);
            weights.filter(|(_, pruned)| **pruned).for_each(|(weight, _)| *weight = 0.0);
        }
        Ok(())
    }

    fn begin_epoch(
        &mut self,
        problem: &dyn Problem,
        at: &State,
        epoch: usize,
        resources: &Resources,
    ) -> Result<()> {
        self.active.refresh(epoch, problem, &at.params, resources)?;
        self.coords = self.active.in_epoch(epoch, &self.layout);
        self.draw = self.active.draw(epoch);
        Ok(())
    }

    fn step(
        &mut self,
        batch: &dyn Minibatch,
        at: &mut State,
        step: &Step,
        resources: &Resources,
    ) -> Result<BasePass> {
        let asked = Asked { step: step.number as u32, active: &self.coords, draw: self.draw };
        let gradient = self.source.gradient(batch, &at.params, &asked, resources)?;
        self.norm = gradient.values.iter().map(|g| g * g).sum::<f64>().sqrt();
        if !self.norm.is_finite() {
            let at = format!("where the norm of the gradient is {}", self.norm);
            return Err(Error::Diverged { loss: gradient.at.loss, at });
        }
        self.pull = most_pull(&self.layout, &at.params, &gradient.values);
        self.doubt = gradient.doubt;
        at.stats.update(&gradient.at.stats);
        self.rate = self.config.rate(step.number, step.per_epoch, step.n_steps);
        self.optimizer.step(&mut at.params, &gradient.values, self.rate, self.pruned.as_deref());
        self.scale = least_scale(&self.layout, &at.params);
        Ok(gradient.at)
    }

    fn record(&self, row: &mut Row) {
        row.set(&metric::LEARNING_RATE, self.rate);
        row.set(&metric::N_ACTIVE, self.coords.len() as f64);
        row.set(&metric::GRADIENT_NORM, self.norm);
        row.set(&metric::NORM_SCALE, self.scale);
        row.set(&metric::NORM_PULL, self.pull);
    }

    fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        let (n_steps, first, second) = self.optimizer.state();
        let mut state = vec![
            ("n_steps", vec![n_steps as f64]),
            ("first_moment", first.to_vec()),
            ("second_moment", second.to_vec()),
            ("active", self.active.state()),
        ];
        state.extend(self.source.state());
        state
    }

    fn restore(&mut self, saved: &mut Saved) -> std::result::Result<(), String> {
        let (_, first, second) = self.optimizer.state();
        let (n_first, n_second) = (first.len(), second.len());
        let n_steps = integer("`n_steps`", saved.take("n_steps", Some(1))?[0], 1 << 53)? as u64;
        let (first, second) =
            (saved.take("first_moment", Some(n_first))?, saved.take("second_moment", Some(n_second))?);
        self.optimizer.restore(n_steps, first, second);
        self.active.restore(&saved.take("active", None)?, &self.layout)?;
        self.pruned = self.active.pruned(&self.layout);
        self.source.restore(saved)
    }

    fn profiles(&self, layout: &Layout, epoch: usize) -> Vec<Profile> {
        if *self.active.sets() == ActiveSets::All {
            return Vec::new();
        }
        vec![sparsity_profile(layout, &self.active.in_epoch(epoch, &self.layout))]
    }

    fn mask(&self, layout: &Layout) -> Option<Vec<bool>> {
        self.active.mask(layout)
    }
}

/// The least median of absolute scales, over normalizations on the length of whose parameters (of `params`, d) the loss
/// does not depend; NaN without any.
fn least_scale(layout: &Layout, params: &[f64]) -> f64 {
    let scales = layout.specs().iter().enumerate().filter(|(_, spec)| spec.kind == ParamKind::NormScale);
    let coords = scales.map(|(idx, _)| layout.range(idx));
    let is_free = |range: &Range<usize>| layout.free_lengths().iter().any(|free| free.start == range.start);
    let of = |range: Range<usize>| metric::median(params[range].iter().map(|scale| scale.abs()).collect());
    coords.filter(is_free).filter_map(of).fold(f64::NAN, f64::min)
}

/// Why forward differences with this μ hardly follow the gradient at `params` (d), if scales of a batch norm have come near it.
fn doubt_of_scales(layout: &Layout, params: &[f64], mu: f64) -> Option<String> {
    let scale = least_scale(layout, params);
    (scale < NEAR * mu).then(|| {
        format!(
            "half of the scales of a batch norm are at most {scale:.2e} in size, near mu = {mu}: forward differences pull \
             scales towards zero where another batch norm follows; use a smaller mu or difference = central"
        )
    })
}

/// The largest relative decrease of such a length along the negative gradient (d), to first order; NaN without any.
fn most_pull(layout: &Layout, params: &[f64], gradient: &[f64]) -> f64 {
    let of = |range: &Range<usize>| {
        let part = &params[range.clone()];
        dot(part, &gradient[range.clone()]) / dot(part, part)
    };
    layout.free_lengths().iter().map(of).fold(f64::NAN, f64::max)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// How much of every parameter tensor is in an active set (sorted).
#[must_use]
pub fn sparsity_profile(layout: &Layout, active: &[usize]) -> Profile {
    let specs = layout.specs();
    let active = |idx| sparsity::within(active, &layout.range(idx)).len() as u64;
    Profile::new(Profile::TENSORS, "tensor", specs.iter().map(|spec| spec.name.clone()).collect())
        .with_counts("n", specs.iter().map(|spec| spec.len() as u64).collect())
        .with_counts("n_active", (0..specs.len()).map(active).collect())
}

/// A zeroth-order method: descent along the estimates of one kind of estimator.
#[derive(Debug)]
pub struct Estimating(pub &'static dyn estimator::Kind);

impl Estimating {
    fn estimator(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Estimated> {
        let (evaluate::Config { evaluator }, zo::Smoothing { mu }) = (settings.read()?, settings.read()?);
        let space = Space { layout: Some(layout.clone()), n_coords: layout.n_coords(), seed };
        let moves_coordinates = self.0.moves_coordinates();
        let subtracts = evaluator != EvaluatorKind::Difference || !moves_coordinates;
        let resolution = if subtracts && settings.is_read("precision") {
            Some(settings.read::<crate::nn::Config>()?.precision.resolution())
        } else {
            None
        };
        let probing = Probing { mu, resolution, moves_coordinates };
        let run = self.0.start(settings, space)?;
        let is_one_sided = !self.has_pairs(settings)?;
        Ok(Estimated { run, evaluator, probing, is_one_sided, layout: layout.clone() })
    }

    /// Whether a slope comes from two points on either side.
    fn has_pairs(&self, settings: &Settings) -> Result<bool> {
        Ok(self.0.has_pairs() || settings.read::<estimator::Config>()?.difference == Scheme::Central)
    }
}

impl Kind for Estimating {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn sections(&self) -> Vec<&'static [Entry]> {
        let mut sections = estimate_sections(self.0);
        sections.push(optimizer::Config::ENTRIES);
        sections
    }

    fn gradient_sections(&self) -> Result<Vec<&'static [Entry]>> {
        Ok(estimate_sections(self.0))
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        check_sparsity(settings)?;
        self.0.check(settings)?;
        if settings.is_read("precision") {
            // Where none is read, passes are complete.
            let evaluator = if settings.is_read("evaluator") {
                settings.read::<evaluate::Config>()?.evaluator
            } else {
                EvaluatorKind::Full
            };
            let crate::nn::Config { precision, .. } = settings.read()?;
            check_rounding(precision, evaluator, self.moves_coordinates())?;
        }
        Ok(())
    }

    fn start(&self, settings: &Settings, seed: u64, layout: &Arc<Layout>) -> Result<Box<dyn Method>> {
        let (source, active) = self.gradients(settings, seed, layout)?;
        Ok(Box::new(Descent::new(settings.read()?, source, active, layout)))
    }

    fn gradients(
        &self,
        settings: &Settings,
        seed: u64,
        layout: &Arc<Layout>,
    ) -> Result<(Box<dyn GradientSource>, Active)> {
        let source = self.estimator(settings, seed, layout)?;
        Ok((Box::new(source), Active::new(settings, seed)?))
    }

    fn has_steady_queries(&self) -> bool {
        true
    }

    fn moves_coordinates(&self) -> bool {
        self.0.moves_coordinates()
    }

    fn cost(&self, settings: &Settings, steps: &Steps) -> Result<Cost> {
        let per_slope = if self.has_pairs(settings)? { 2.0 } else { 1.0 };
        let active = active_counts(settings, steps.layout)?;
        let n_active: f64 = active.iter().map(|&(_, n)| n as f64).sum();
        let base = Cost {
            queries: steps.n,
            flops: steps.items * steps.speed.full_flops,
            wall_s: steps.items * steps.speed.full_s,
        };
        let slopes = self.0.slopes(settings, n_active)?;
        let probes = per_slope * slopes;
        let own = if self.moves_coordinates() {
            // A part of every layer.
            steps.coordinate_probes(probes / n_active.max(1.0), &active)
        } else {
            Cost {
                queries: steps.n * probes,
                flops: steps.items * probes * steps.speed.full_flops,
                // Directions are drawn twice, at about 15 ns a number.
                wall_s: steps.items * probes * steps.speed.full_s
                    + 2.0 * 15e-9 * steps.n * slopes * n_active / rayon::current_num_threads() as f64,
            }
        };
        Ok(base + own + scoring_cost(settings, steps)?)
    }
}

/// Checks the sparsity of a method that leaves the model dense.
pub(super) fn check_sparsity(settings: &Settings) -> Result<()> {
    let sparsity: sparsity::Config = settings.read()?;
    if sparsity.sparse_target == SparseTarget::Weights {
        let reason = "`weights` works with method = fo only: zeroth-order training keeps the model dense and \
                      makes its gradient sparse; use `gradient`";
        return Err(Error::setting("sparse-target", reason));
    }
    sparsity.check()
}

fn estimate_sections(kind: &dyn estimator::Kind) -> Vec<&'static [Entry]> {
    let mut sections = estimator::shared_sections(kind);
    sections.push(evaluate::Config::ENTRIES);
    sections.extend(kind.sections());
    sections.push(sparsity::Config::ENTRIES);
    sections
}

/// Gradients estimated by one estimator through one evaluator.
pub struct Estimated {
    run: Box<dyn estimator::Run>,
    evaluator: EvaluatorKind,
    probing: Probing,
    is_one_sided: bool,
    layout: Arc<Layout>,
}

impl GradientSource for Estimated {
    fn gradient(
        &mut self,
        batch: &dyn Minibatch,
        params: &[f64],
        asked: &Asked,
        resources: &Resources,
    ) -> Result<Gradient> {
        let Asked { step, active, draw } = *asked;
        let place = Place { step, active, draw, params };
        self.run.prepare(&place);
        let estimator = self.run.estimator(&place);
        let visit = |evaluator: &dyn zo::Evaluator| zo::estimate(&*estimator, evaluator);
        let (at, estimate) = explore(batch, self.evaluator, params, resources, visit)?;
        drop(estimator);
        self.run.note(&estimate);
        let doubt = zo::doubt(&estimate, asked.active, params, at.loss, self.probing).or_else(|| {
            if self.is_one_sided { doubt_of_scales(&self.layout, params, self.probing.mu) } else { None }
        });
        Ok(Gradient { values: estimate.gradient, at, doubt })
    }

    fn state(&self) -> Vec<(&'static str, Vec<f64>)> {
        self.run.state()
    }

    fn restore(&mut self, saved: &mut Saved) -> std::result::Result<(), String> {
        for (name, values) in self.run.state() {
            let values = saved.take(name, Some(values.len()))?;
            self.run.restore(name, values);
        }
        Ok(())
    }
}

/// Active coordinates per parameter tensor, by its position in the layout: predicted where that is possible, else as
/// if ratios were uniform.
fn active_counts(settings: &Settings, layout: &Layout) -> Result<Vec<(usize, usize)>> {
    let sparsity::Config { sparsity, layer_ratios, always_active, .. } = settings.read()?;
    Ok(sparsity::predicted_active(layout, layer_ratios, sparsity, always_active))
}

/// What the scorings cost that the settings ask for.
pub(super) fn scoring_cost(settings: &Settings, steps: &Steps) -> Result<Cost> {
    let config: sparsity::Config = settings.read()?;
    let epochs = match settings.is_read("epochs") {
        true => settings.read::<crate::train::Config>()?.epochs,
        false => 1,
    };
    let queries = (config.n_scorings(epochs) as u64 * config.layer_ratios.queries(&config)) as f64;
    let forwards = queries * (config.grasp_images_per_class * steps.n_classes) as f64;
    Ok(Cost { queries, flops: forwards * steps.speed.full_flops, wall_s: forwards * steps.speed.full_s })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::model::{Io, from_name};

    /// Oracle: by hand. Of the CNN's two batch norms the first alone has another behind it.
    #[test]
    fn scales_near_mu_and_what_shortens_them_are_seen() {
        let network = from_name("cnn-d2-w3", &Io::CIFAR).unwrap();
        let layout = network.layout();
        let mut params = layout.initial_values(0);
        let at = |name| layout.coord(name, 0).unwrap();
        let (scales, shifts, others) =
            (at("features.1.weight"), at("features.1.bias"), at("features.5.weight"));
        params[scales..][..3].copy_from_slice(&[-0.04, 0.03, 2.0]);
        params[shifts..][..3].copy_from_slice(&[0.5, 0.0, 0.0]);
        params[others..][..3].fill(1e-3);
        assert_eq!(least_scale(layout, &params).to_bits(), 0.04_f64.to_bits());
        assert_eq!(doubt_of_scales(layout, &params, 0.003), None);
        assert!(doubt_of_scales(layout, &params, 0.005).unwrap().contains("at most 4.00e-2 in size"));
        let mut gradient = vec![1.0; params.len()];
        gradient[scales..][..3].copy_from_slice(&[1.0, 0.0, 0.25]);
        gradient[shifts..][..3].copy_from_slice(&[-0.5, 3.0, 4.0]);
        let expected = (-0.04 + 0.5 - 0.25) / (0.04 * 0.04 + 0.03 * 0.03 + 4.0 + 0.25);
        assert!((most_pull(layout, &params, &gradient) - expected).abs() < 1e-15);

        let plain = from_name("lenet", &Io::CIFAR).unwrap();
        let params = vec![0.0; plain.layout().n_coords()];
        assert!(
            least_scale(plain.layout(), &params).is_nan()
                && most_pull(plain.layout(), &params, &params).is_nan()
        );
        assert_eq!(doubt_of_scales(plain.layout(), &params, 0.005), None);
    }
}
