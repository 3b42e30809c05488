//! `estimate`: the gradient estimate of a user's weights on a user's batch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use deepzero::data;
use deepzero::experiment::settings;
use deepzero::files;
use deepzero::kernels::Precision;
use deepzero::nn::backprop;
use deepzero::nn::model::Io;
use deepzero::nn::objective::{NetworkObjective, check_rounding};
use deepzero::nn::{model, weights};
use deepzero::setting::Settings;
use deepzero::zo::Scheme;
use deepzero::zo::estimator::{self, Kind, Place, Space};
use deepzero::zo::evaluate::{self, Evaluator, EvaluatorKind};
use deepzero::zo::{self, Metered, QueryCount};
use serde_json::json;

use super::{Common, Exit, key_value, say, tell};

#[derive(Debug, Args)]
#[command(after_help = "Example:
  deepzero estimate --model resnet20 --weights W.safetensors --batch B.safetensors \\
      --coords C.json --mu 5e-3 --estimator cge --evaluator difference --backprop --out O.json

Files:
  weights  safetensors with PyTorch names; batch norm takes its statistics from the batch, as in training
  batch    safetensors with `images` (u8, N x C x H x W) and `labels` (i64, N); images are
           normalized with the mean and standard deviation of --data
  coords   JSON list of [parameter name, flat index]
  out      JSON: loss, estimates in the order of coords, queries, wall seconds; with --backprop
           also the exact gradient, its cosine with and the relative error of the estimates")]
pub(super) struct EstimateArgs {
    /// resnetN, resnet-bN, cnn-dN, wide-cnn8, ntk-cnn8, local-mixer-dN or lenet, with -wC for another width: resnet20, cnn-d3, resnet8-w4.
    #[arg(long)]
    model: String,
    #[arg(long, value_name = "FILE", help = "Weights")]
    weights: PathBuf,
    #[arg(long, value_name = "FILE", help = "Images and labels")]
    batch: PathBuf,
    /// Images that the batch is of: says how they are normalized, and how many classes there are.
    #[arg(long, value_name = "NAME", default_value = "cifar10",
        value_parser = PossibleValuesParser::new(data::SOURCES.iter().map(|source| source.name())))]
    data: String,
    #[arg(long, value_name = "FILE", help = "Coordinates to estimate")]
    coords: PathBuf,
    /// Smoothing parameter.
    #[arg(long, default_value_t = 5e-3)]
    mu: f64,
    /// Estimator, by its name as a method.
    #[arg(long, value_name = "NAME", default_value = "cge",
        value_parser = PossibleValuesParser::new(estimator::KINDS.iter().map(|kind| kind.name())))]
    estimator: String,
    /// Change a setting of the estimator; repeatable. `deepzero train --help` lists the settings.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
    /// How loss differences are computed.
    #[arg(long, value_enum, default_value_t = EvaluatorKind::Difference)]
    evaluator: EvaluatorKind,
    /// Central instead of forward differences.
    #[arg(long)]
    central: bool,
    /// Random directions of rge, over the given coordinates; by default as many as coordinates. The same as
    /// --set queries=Q.
    #[arg(long, value_name = "Q", value_parser = clap::value_parser!(u32).range(1..))]
    queries: Option<u32>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Arithmetic of the forward passes.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Also compute the exact gradient, by back-propagation in double precision.
    #[arg(long)]
    backprop: bool,
    /// Where to write the answer; by default stdout.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(common: &Common, args: &EstimateArgs) -> Result<Exit> {
    if !(args.mu > 0.0 && args.mu.is_finite()) {
        bail!("--mu must be a positive number, got {}", args.mu);
    }
    if let Some(path) = &args.out {
        files::check_writable(path)?;
    }
    let (kind, settings) = estimator(args)?;
    let zo::Smoothing { mu } = settings.read()?;
    let (device, _) = common.device()?;
    let source = data::source(&args.data)?;
    let (images, labels) = data::given_batch(&weights::read(&args.batch)?, source, &args.batch)?;
    let (_, channels, height, width) = images.dims4()?;
    let io = Io { input: [channels, height, width], n_outputs: source.n_classes };
    let network = model::from_name(&args.model, &io)?;
    let (params, _) = weights::load(&network, &args.weights)?;
    let coords = read_coords(&args.coords, network.layout())?;
    check_rounding(args.precision, args.evaluator, kind.moves_coordinates())?;
    let inputs = images.to_dtype(args.precision.dtype())?.to_device(&device)?;
    let objective = NetworkObjective {
        memory: common.memory(&device)?,
        rounding: args.precision.rounding(),
        ..NetworkObjective::new(&network, &inputs, &labels)
    };
    let count = QueryCount::default();
    let metered = Metered::new(&objective, &count);
    let mut active = coords.clone();
    active.sort_unstable();
    active.dedup();
    let active: Arc<[usize]> = active.into();
    let layout = Some(network.layout().clone());
    let mut run = kind.start(&settings, Space { layout, n_coords: params.len(), seed: args.seed })?;
    let place = Place { step: 0, active: &active, draw: 0, params: &params };
    run.prepare(&place);
    let estimator = run.estimator(&place);
    let start = Instant::now();
    let evaluator = evaluate::at(&metered, args.evaluator, &params)?;
    let estimate = zo::estimate(&*estimator, &evaluator)?;
    let wall_s = start.elapsed().as_secs_f64();
    let moves_coordinates = kind.moves_coordinates();
    let subtracts = args.evaluator != EvaluatorKind::Difference || !moves_coordinates;
    let resolution = subtracts.then(|| args.precision.resolution());
    let probing = zo::Probing { mu, resolution, moves_coordinates };
    let doubt = zo::doubt(&estimate, &active, &params, evaluator.base_loss(), probing);
    if let Some(doubt) = &doubt {
        tell!("note: {doubt}");
    }
    let estimates: Vec<f64> = coords.iter().map(|&coord| estimate.gradient[coord]).collect();
    let mut answer = json!({
        "model": args.model,
        "n_params": params.len(),
        "mu": mu,
        "loss": evaluator.base_loss(),
        "estimates": estimates,
        "queries": count.queries(),
        "queries_non_finite": count.non_finite(),
        "doubt": doubt,
        "wall_s": wall_s,
        "threads": rayon::current_num_threads(),
        "kernels": deepzero::kernels::Isa::current().name(),
    });
    if args.backprop {
        let images = images.to_device(&device)?;
        let exact = backprop::gradient(&network, &params, &images, &labels, 1.0)?;
        let exact: Vec<f64> = coords.iter().map(|&coord| exact.gradient[coord]).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let difference: Vec<f64> = estimates.iter().zip(&exact).map(|(a, b)| a - b).collect();
        let norm = dot(&exact, &exact).sqrt();
        answer["backprop"] = json!(exact);
        answer["cosine"] = json!(dot(&estimates, &exact) / (norm * dot(&estimates, &estimates).sqrt()));
        answer["relative_error"] = json!(dot(&difference, &difference).sqrt() / norm);
    }
    let text = serde_json::to_string_pretty(&answer)?;
    match &args.out {
        Some(path) => files::write_atomically(path, (text + "\n").as_bytes())?,
        None => say!("{text}")?,
    }
    Ok(Exit::Ok)
}

/// The estimator asked for, and its settings.
fn estimator(args: &EstimateArgs) -> Result<(&'static dyn Kind, Settings)> {
    let mut pairs = vec![("mu", args.mu.to_string())];
    // What was given is refused by an estimator that does not read it.
    pairs.extend(args.central.then(|| ("difference", Scheme::Central.name().to_owned())));
    pairs.extend(args.queries.map(|queries| ("queries", queries.to_string())));
    pairs.extend(args.overrides.iter().map(|(key, value)| (key.as_str(), value.clone())));
    let pairs = pairs.iter().map(|(key, value)| (*key, value.as_str()));
    Ok(settings::of_estimator(&args.estimator, pairs)?)
}

/// The largest list of coordinates that is read: all of the largest network, by long names.
const MAX_COORDS_BYTES: u64 = 64 << 30;

fn read_coords(path: &Path, layout: &deepzero::params::Layout) -> Result<Vec<usize>> {
    let text = files::read_bounded(path, MAX_COORDS_BYTES)?;
    let pairs: Vec<(String, usize)> = serde_json::from_slice(&text)
        .with_context(|| format!("{}: expected a list of [parameter name, flat index]", path.display()))?;
    if pairs.is_empty() {
        bail!("{}: no coordinates", path.display());
    }
    pairs
        .iter()
        .map(|(name, idx)| layout.coord(name, *idx).with_context(|| path.display().to_string()))
        .collect()
}
