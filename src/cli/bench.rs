//! `bench`: how fast this machine computes gradients and certificates.

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_core::Device;
use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand, ValueEnum};
use deepzero::bench::{Distribution, Machine, Workload, certify, cge, conv, first_order, flow, rge};
use deepzero::experiment::settings;
use deepzero::kernels::Precision;
use deepzero::ranks::Ranks;
use deepzero::task::job;
use deepzero::zo::Scheme;
use deepzero::zo::evaluate::EvaluatorKind;
use serde::Serialize;
use serde_json::{Value, json};

use super::against::{Former, Ratio};
use super::{Common, Exit, key_value, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero bench cge --evaluator reuse --distribution lpr-released
  deepzero bench rge --queries 8 --threads 1
  deepzero bench conv --json
  deepzero bench fo --steps 5
  deepzero bench certify --denoiser 8x32
  deepzero bench flow --resolution 16
  deepzero bench cge --json > then.json, and later: deepzero bench cge --against then.json

Everything is measured on all threads of the CPU, or on the GPU that --device names (but conv: our kernels for
the CPU); nothing else should run meanwhile. The peak of the CPU is measured too: fused multiply-adds in f32 on
the same threads. That of a GPU is calculated from clock and units, without tensor cores. GFLOP/s are 10^9 operations a second; a
multiplication and an addition are two. Of an evaluator, the effective ones are those that complete
forward passes would need, the executed ones those that it does.")]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    verb: BenchVerb,
    /// Also compare with a former measurement: what the same command wrote with --json.
    #[arg(long, global = true, value_name = "FILE")]
    against: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum BenchVerb {
    /// Coordinate-wise gradient estimates, and their error in single precision.
    Cge(CgeArgs),
    /// Randomized gradient estimates with Gaussian directions over all parameters.
    Rge(RgeArgs),
    /// The convolution kernels, forward and backward.
    Conv(ConvArgs),
    /// Training steps of a job of processes (mpirun -n N deepzero bench job), and their exchanges.
    Job(JobArgs),
    /// First-order training steps: forward pass, back-propagation, update.
    Fo(FoArgs),
    /// Certification by randomized smoothing: classes of noisy copies of images.
    Certify(CertifyArgs),
    /// The flow solver, alone and side by side, and losses of rollouts with a corrector.
    Flow(FlowArgs),
}

/// What network measurements run on.
#[derive(Debug, Args)]
struct WorkloadArgs {
    /// resnetN, resnet-bN, cnn-dN, wide-cnn8, ntk-cnn8, local-mixer-dN or lenet, with -wC for another width: resnet20, cnn-d3, resnet8-w4.
    #[arg(long, default_value = "resnet20")]
    model: String,
    /// Procedural images per query.
    #[arg(long, default_value = "128", value_name = "N", value_parser = count(MAX_BATCH))]
    batch_size: usize,
    /// Seed of initial weights, coordinates and directions.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Weights, safetensors with PyTorch names; by default initial ones.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CgeArgs {
    #[command(flatten)]
    workload: WorkloadArgs,
    /// How loss differences are computed.
    #[arg(long, value_enum, default_value_t = EvaluatorKind::Difference)]
    evaluator: EvaluatorKind,
    /// The set that coordinates are sampled from.
    #[arg(long, value_enum, default_value_t = DistributionName::Uniform)]
    distribution: DistributionName,
    /// Fraction of the weights outside an active set; by default 0.9.
    #[arg(long, value_name = "S")]
    sparsity: Option<f64>,
    /// Coordinates to estimate.
    #[arg(long, default_value = "400", value_name = "N", value_parser = count(u64::MAX))]
    coords: usize,
    /// At most so many of them are also estimated by complete forward passes in double precision, to
    /// tell the error; 0 for none.
    #[arg(long, default_value_t = 40, value_name = "N")]
    error_coords: usize,
    /// Smoothing parameter.
    #[arg(long, default_value_t = 5e-3)]
    mu: f64,
    /// Central instead of forward differences.
    #[arg(long)]
    central: bool,
    /// Arithmetic of the forward passes.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Runs of which the median counts.
    #[arg(long, default_value = "3", value_name = "N", value_parser = count(MAX_REPEATS))]
    repeats: usize,
}

#[derive(Debug, Args)]
struct RgeArgs {
    #[command(flatten)]
    workload: WorkloadArgs,
    /// How loss differences are computed. A direction moves every layer: none can save anything.
    #[arg(long, value_enum, default_value_t = EvaluatorKind::Full)]
    evaluator: EvaluatorKind,
    /// Random directions per estimate.
    #[arg(long, default_value_t = 8, value_name = "Q", value_parser = clap::value_parser!(u32).range(1..=MAX_QUERIES))]
    queries: u32,
    /// Estimates of which the median counts.
    #[arg(long, default_value = "3", value_name = "N", value_parser = count(MAX_REPEATS))]
    repeats: usize,
}

#[derive(Debug, Args)]
struct ConvArgs {
    /// Images per run.
    #[arg(long, default_value = "128", value_name = "N", value_parser = count(MAX_BATCH))]
    batch_size: usize,
    /// Runs of which the median counts.
    #[arg(long, default_value = "15", value_name = "N", value_parser = count(MAX_REPEATS))]
    repeats: usize,
}

#[derive(Debug, Args)]
struct JobArgs {
    /// Change a setting; repeatable. `deepzero train --help` lists them.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps of which the median counts.
    #[arg(long, default_value = "5", value_name = "N", value_parser = count(MAX_REPEATS))]
    steps: usize,
}

#[derive(Debug, Args)]
struct FoArgs {
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Steps of which the median counts.
    #[arg(long, default_value = "5", value_name = "N", value_parser = count(MAX_REPEATS))]
    steps: usize,
}

#[derive(Debug, Args)]
struct CertifyArgs {
    /// Depth of the ResNet that classifies.
    #[arg(long, default_value_t = 20, value_name = "N")]
    depth: usize,
    /// Channels of its first stage.
    #[arg(long, default_value_t = 16, value_name = "C")]
    width: usize,
    /// Convolutions and channels of the denoiser (DnCNN) before it, as DEPTHxWIDTH, or none.
    #[arg(long, default_value = "8x32", value_name = "DxW", value_parser = denoiser)]
    denoiser: DenoiserSize,
    /// Procedural images to certify.
    #[arg(long, default_value = "8", value_name = "N", value_parser = count(MAX_BATCH))]
    images: usize,
    /// Noisy copies of an image that choose its class.
    #[arg(long, default_value = "100", value_name = "N", value_parser = count(MAX_COPIES))]
    n0: usize,
    /// Noisy copies of an image that certify it.
    #[arg(long, default_value = "1000", value_name = "N", value_parser = count(MAX_COPIES))]
    n: usize,
    /// Seed of initial weights and noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Runs of which the median counts.
    #[arg(long, default_value = "3", value_name = "N", value_parser = count(MAX_REPEATS))]
    repeats: usize,
}

#[derive(Debug, Args)]
struct FlowArgs {
    /// Cells across.
    #[arg(long, default_value = "32", value_name = "R", value_parser = count(256))]
    resolution: usize,
    /// States side by side, rounded up to whole registers.
    #[arg(long, default_value = "64", value_name = "N", value_parser = count(MAX_BATCH))]
    states: usize,
    /// Channels of the corrector's first layer.
    #[arg(long, default_value = "32", value_name = "C", value_parser = count(256))]
    width: usize,
    /// Steps that a loss sees.
    #[arg(long, default_value = "4", value_name = "N", value_parser = count(1000))]
    unroll: usize,
    /// Probes whose losses are timed.
    #[arg(long, default_value = "16", value_name = "Q", value_parser = count(MAX_BATCH))]
    probes: usize,
    /// Runs of which the median counts.
    #[arg(long, default_value = "5", value_name = "N", value_parser = count(MAX_REPEATS))]
    repeats: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DistributionName {
    /// All convolution and linear weights.
    Uniform,
    /// An active set with the layer-wise ratios of ZO-GraSP as in the paper.
    LprPaper,
    /// The same with ZO-GraSP as released.
    LprReleased,
}

/// Sizes of a denoiser, if there is one.
#[derive(Debug, Clone, Copy)]
struct DenoiserSize(Option<[usize; 2]>);

fn denoiser(text: &str) -> std::result::Result<DenoiserSize, String> {
    if text == "none" {
        return Ok(DenoiserSize(None));
    }
    let sizes =
        text.split_once('x').and_then(|(depth, width)| Some([depth.parse().ok()?, width.parse().ok()?]));
    sizes
        .map(|sizes| DenoiserSize(Some(sizes)))
        .ok_or_else(|| "expected DEPTHxWIDTH, such as 8x32, or none".to_owned())
}

/// Bounds that keep a slip of the finger from asking for all memory or a year.
const MAX_BATCH: u64 = 65_536;
const MAX_QUERIES: i64 = 1_000_000;
const MAX_REPEATS: u64 = 10_000;
const MAX_COPIES: u64 = 1_000_000;

/// A whole number from 1 to `max`.
fn count(max: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=max)
}

/// Sparsity of the paper's main experiment.
const SPARSITY: f64 = 0.9;

impl BenchArgs {
    /// Whether all processes of a job take part.
    pub(super) fn is_job(&self) -> bool {
        matches!(self.verb, BenchVerb::Job(_))
    }
}

/// How measurements are shown.
struct Show<'a> {
    common: &'a Common,
    former: Option<Former>,
}

fn run_job(show: &Show, args: &JobArgs, ranks: &Ranks) -> Result<Exit> {
    let overrides = args.overrides.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let settings = settings::from_pairs(std::iter::once(("task", "workers")).chain(overrides))?;
    let measured = job::measure(ranks, &settings, args.seed, args.steps)?;
    if ranks.is_first() { show.measured("job", &measured, say_job) } else { Ok(Exit::Ok) }
}

fn say_job(m: &job::Measurement) -> std::io::Result<()> {
    say!(
        "{} processes with {} threads each, batch {}, {} parameters",
        m.ranks,
        m.threads,
        m.batch_size,
        m.n_params
    )?;
    say_row("queries of a step", format_args!("{:.0}", m.queries))?;
    say_row("step", format_args!("{}, median of {}", spread(m.step_s, m.step_min_s, m.step_max_s), m.steps))?;
    say_row("steps per hour", format_args!("{:.1}", m.steps_per_hour))?;
    say_row(
        "exchange",
        format_args!(
            "{:.2} ms and {:.0} bytes of a step, waiting included",
            1e3 * m.exchange_s,
            m.exchange_bytes
        ),
    )?;
    say_row(
        "exchange alone",
        format_args!("{:.1} µs and {:.3} ns per byte", 1e6 * m.latency_s, 1e9 * m.s_per_byte),
    )
}

pub(super) fn run(common: &Common, args: &BenchArgs, ranks: &Ranks) -> Result<Exit> {
    let (device, _) = common.device()?;
    let memory = common.memory(&device)?;
    // A file that cannot be read is told before anything is measured.
    let former = args.against.as_deref().map(Former::read).transpose()?;
    let show = Show { common, former };
    match &args.verb {
        BenchVerb::Cge(args) => {
            let config = args.config(memory)?;
            let measured = cge::measure(&args.workload.workload(device)?, &config)?;
            show.measured("cge", &measured, say_cge)
        }
        BenchVerb::Rge(args) => {
            let RgeArgs { evaluator, queries: n_dirs, repeats, .. } = *args;
            let config = rge::Config { evaluator, n_dirs, repeats, memory };
            let measured = rge::measure(&args.workload.workload(device)?, &config)?;
            show.measured("rge", &measured, say_rge)
        }
        BenchVerb::Job(args) => run_job(&show, args, ranks),
        BenchVerb::Conv(args) => {
            if !device.is_cpu() {
                bail!("bench conv measures kernels for the CPU; leave out --device");
            }
            show.measured("conv", &conv::measure(args.batch_size, args.repeats)?, say_conv)
        }
        BenchVerb::Fo(args) => {
            let measured = first_order::measure(&args.workload.workload(device)?, args.steps)?;
            show.measured("fo", &measured, say_fo)
        }
        BenchVerb::Certify(args) => {
            let CertifyArgs { depth, width, images: n_images, n0, n, seed, repeats, .. } = *args;
            let DenoiserSize(denoiser) = args.denoiser;
            let network = certify::network(depth, width, denoiser)?;
            let behind = denoiser.map_or(String::new(), |[d, w]| format!(" behind a DnCNN of {d} x {w}"));
            let name = format!("resnet{depth}-w{width}{behind}");
            let config = certify::Config { n_images, n0, n, seed, repeats };
            show.measured("certify", &certify::measure(&network, name, &config, &device)?, say_certify)
        }
        BenchVerb::Flow(args) => {
            if !device.is_cpu() {
                bail!("bench flow measures a solver for the CPU; leave out --device");
            }
            let FlowArgs { resolution, states, width, unroll, probes, repeats } = *args;
            let config = flow::Config { resolution, states, width, unroll, probes, repeats };
            show.measured("flow", &flow::measure(&config)?, say_flow)
        }
    }
}

impl WorkloadArgs {
    fn workload(&self, device: Device) -> Result<Workload> {
        let workload = Workload::new(&self.model, self.batch_size, self.seed, self.weights.as_deref())?;
        Ok(workload.on(device))
    }
}

impl CgeArgs {
    fn config(&self, memory: usize) -> Result<cge::Config> {
        if !(self.mu > 0.0 && self.mu.is_finite()) {
            bail!("--mu must be a positive number, got {}", self.mu);
        }
        let sparsity = self.sparsity.unwrap_or(SPARSITY);
        if !(0.0..1.0).contains(&sparsity) {
            bail!("--sparsity must be in [0, 1), got {sparsity}");
        }
        let distribution = match self.distribution {
            DistributionName::Uniform if self.sparsity.is_some() => {
                bail!("--sparsity needs --distribution lpr-paper or lpr-released");
            }
            DistributionName::Uniform => Distribution::Uniform,
            DistributionName::LprPaper => Distribution::LprPaper { sparsity },
            DistributionName::LprReleased => Distribution::LprReleased { sparsity },
        };
        Ok(cge::Config {
            evaluator: self.evaluator,
            distribution,
            precision: self.precision,
            n_coords: self.coords,
            n_error_coords: self.error_coords,
            mu: self.mu,
            scheme: if self.central { Scheme::Central } else { Scheme::Forward },
            memory,
            repeats: self.repeats,
        })
    }
}

/// A measurement as one JSON object.
#[derive(Serialize)]
struct Output<'a, T> {
    bench: &'a str,
    #[serde(flatten)]
    measured: &'a T,
}

impl Show<'_> {
    fn measured<T: Serialize>(
        &self,
        bench: &str,
        measured: &T,
        say_it: impl FnOnce(&T) -> std::io::Result<()>,
    ) -> Result<Exit> {
        let mut output = json!(Output { bench, measured });
        let compared = match (&self.former, &output) {
            (Some(former), Value::Object(now)) => Some(former.compare(now)),
            _ => None,
        };
        if self.common.json {
            if let Some(Ok(ratios)) = &compared {
                let gains = ratios.iter().map(|ratio| (ratio.name.clone(), json!(ratio.gain)));
                output["gains"] = Value::Object(gains.collect());
            }
            say!("{}", serde_json::to_string_pretty(&output)?)?;
        } else {
            say_it(measured)?;
        }
        // What was measured is told whatever the comparison says.
        if let Some(ratios) = compared.transpose()?
            && !self.common.json
        {
            say_ratios(&ratios)?;
        }
        Ok(Exit::Ok)
    }
}

fn say_ratios(ratios: &[Ratio]) -> std::io::Result<()> {
    let title = "against the former measurement";
    say!("{title:<44} {:>10} {:>10} {:>12}", "then", "now", "times better")?;
    for Ratio { name, then, now, gain } in ratios {
        say!("  {name:<42} {then:>10.4} {now:>10.4} {gain:>12.2}")?;
    }
    Ok(())
}

fn say_cge(m: &cge::Measurement) -> std::io::Result<()> {
    say_machine(&m.machine)?;
    let sparse = m.sparsity.map_or(String::new(), |sparsity| format!(" at {} % sparsity", 100.0 * sparsity));
    say!(
        "{}, batch {}: {} of {} coordinates ({}{sparse}), {} evaluator, {} differences, {}",
        m.model,
        m.batch_size,
        m.n_coords,
        m.n_population,
        m.distribution,
        name(m.evaluator),
        name(m.difference),
        name(m.precision)
    )?;
    say_row("per query and image", format_args!("{:.3} µs", m.us_per_query_image))?;
    say_row("queries", format_args!("{}, {} not finite", m.queries, m.queries_non_finite))?;
    say_row("base", format_args!("{:.4} s", m.base_s))?;
    say_row(
        "differences",
        format_args!(
            "{}, median of {}",
            spread(m.differences_s, m.differences_min_s, m.differences_max_s),
            m.repeats
        ),
    )?;
    say_row("effective", format_args!("{:.1} GFLOP/s", m.effective_gflops))?;
    say_row("executed", format_args!("{}", speed(m.executed_gflops, m.peak_share)))?;
    say_row("memory of the base", format_args!("{:.1} MiB", mib(m.base_bytes as f64)))?;
    say_peak_memory(m.peak_memory_bytes)?;
    match m.relative_error {
        Some(error) => say_row(
            "relative error",
            format_args!("{error:.2e} in {} coordinates, against complete passes in f64", m.n_error_coords),
        ),
        None => Ok(()),
    }
}

fn say_flow(m: &flow::Measurement) -> std::io::Result<()> {
    say_machine(&m.machine)?;
    say!("flow on {} x {} cells", 2 * m.resolution, m.resolution)?;
    let alone = format_args!("{:.1} µs in f32, {:.1} µs in f64", m.alone_f32_us, m.alone_f64_us);
    say_row("a step alone, one thread", alone)?;
    say_row(
        "steps side by side",
        format_args!("{:.0} per second, {} states in f32", m.steps_per_s, m.states),
    )?;
    say_row("products of the pressure", format_args!("{:.1} GFLOP/s", m.pressure_gflops))?;
    let corrector = format!("{} steps, {} parameters", m.unroll, m.n_params);
    say_row("losses of probes", format_args!("{:.2} per second ({corrector})", m.losses_per_s))?;
    say_row("the solver's share", format_args!("{:.1} %", 100.0 * m.solver_share))
}

fn say_rge(m: &rge::Measurement) -> std::io::Result<()> {
    say_machine(&m.machine)?;
    let evaluator = name(m.evaluator);
    say!(
        "{}, batch {}: {} directions over {} parameters, {evaluator} evaluator",
        m.model,
        m.batch_size,
        m.n_dirs,
        m.n_params
    )?;
    say_row("per query and image", format_args!("{:.3} µs", m.us_per_query_image))?;
    say_row("queries", format_args!("{}", m.queries))?;
    let spread = spread(m.estimate_s, m.estimate_min_s, m.estimate_max_s);
    say_row("estimate", format_args!("{spread}, median of {}", m.repeats))?;
    say_row("forward passes", format_args!("{}", speed(m.gflops, m.peak_share)))?;
    say_peak_memory(m.peak_memory_bytes)
}

fn say_conv(m: &conv::Measurement) -> std::io::Result<()> {
    say_machine(&m.machine)?;
    say!("convolution in f32, batch {}: GFLOP/s and share of peak, medians of {}", m.batch_size, m.repeats)?;
    say!(
        "{:<10} {:>7} {:>6} {:>6}   {:>13} {:>13} {:>13}",
        "channels",
        "size",
        "kernel",
        "stride",
        "forward",
        "grad input",
        "grad weight"
    )?;
    for layer in &m.layers {
        let cell = |gflops: f64, share: f64| format!("{gflops:.1} ({:.0} %)", 100.0 * share);
        say!(
            "{:<10} {:>7} {:>6} {:>6}   {:>13} {:>13} {:>13}",
            format!("{} to {}", layer.c_in, layer.c_out),
            format!("{0}x{0}", layer.size),
            format!("{0}x{0}", layer.kernel),
            layer.stride,
            cell(layer.forward_gflops, layer.forward_share),
            cell(layer.grad_input_gflops, layer.grad_input_share),
            cell(layer.grad_weight_gflops, layer.grad_weight_share)
        )?;
    }
    Ok(())
}

fn say_fo(m: &first_order::Measurement) -> std::io::Result<()> {
    say_machine(&m.machine)?;
    say!("{}, batch {}: SGD steps over {} parameters", m.model, m.batch_size, m.n_params)?;
    let ms = |seconds: f64| 1e3 * seconds;
    say_row(
        "step",
        format_args!(
            "{:.1} ms ({:.1} to {:.1}), median of {}",
            ms(m.step_s),
            ms(m.step_min_s),
            ms(m.step_max_s),
            m.steps
        ),
    )?;
    say_row("images", format_args!("{:.1} per second", m.images_per_s))?;
    say_row("as three forward passes", format_args!("{}", speed(m.gflops, m.peak_share)))?;
    say_peak_memory(m.peak_memory_bytes)
}

fn say_certify(m: &certify::Measurement) -> std::io::Result<()> {
    say_machine(&m.machine)?;
    say!("{}: {} images, n0 = {}, n = {}, batch {}", m.model, m.n_images, m.n0, m.n, m.batch_size)?;
    let spread = spread(m.certify_s, m.certify_min_s, m.certify_max_s);
    say_row("certification", format_args!("{spread}, median of {}", m.repeats))?;
    say_row(
        "images x copies",
        format_args!("{:.0} per second, {:.1} µs each", m.copies_per_s, m.us_per_copy),
    )?;
    say_row("500 images, n = 1000", format_args!("{:.1} min", m.usual_min))?;
    say_row("forward passes", format_args!("{}", speed(m.gflops, m.peak_share)))?;
    say_peak_memory(m.peak_memory_bytes)
}

fn say_machine(machine: &Machine) -> std::io::Result<()> {
    let on = if machine.device == "cpu" { String::new() } else { format!("{} with ", machine.device) };
    say!(
        "{on}{}, {} threads, {} kernels: peak {:.1} GFLOP/s, {:.1} GB/s",
        machine.cpu,
        machine.threads,
        machine.kernels,
        machine.peak_gflops,
        machine.bandwidth_gb_s
    )
}

fn say_row(label: &str, value: std::fmt::Arguments) -> std::io::Result<()> {
    say!("  {label:<24} {value}")
}

fn say_peak_memory(bytes: Option<u64>) -> std::io::Result<()> {
    match bytes {
        Some(bytes) => say_row("peak memory", format_args!("{:.1} MiB", mib(bytes as f64))),
        None => say_row("peak memory", format_args!("unknown on this system")),
    }
}

/// The name of a choice, as experiment files have it.
pub(super) fn name(choice: impl Serialize) -> String {
    json!(choice).as_str().unwrap_or_default().to_owned()
}

fn spread(median: f64, min: f64, max: f64) -> String {
    format!("{median:.3} s ({min:.3} to {max:.3})")
}

fn speed(gflops: f64, share: f64) -> String {
    format!("{gflops:.1} GFLOP/s, {:.1} % of peak", 100.0 * share)
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
