//! `doctor`: what this machine is, whether the program computes rightly on it, and how fast.

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use deepzero::bench::{Distribution, Workload, cge};
use deepzero::cost::{Cost, Planner};
use deepzero::doctor::{self, Check, System};
use deepzero::experiment::{Library, Scale};
use deepzero::kernels::Precision;
use deepzero::kernels::batched;
use deepzero::task;
use deepzero::zo::Scheme;
use deepzero::zo::evaluate::EvaluatorKind;
use serde_json::json;

use super::bench::name;
use super::plan::duration;
use super::{Common, Exit, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero doctor
  deepzero doctor --device cuda
  deepzero doctor --quick --json

Needs no data, no network and no files: the golden values (CGE estimates and gradients of two networks in
PyTorch float64) are built in. It ends with exit code 1 if one of them is missed.")]
pub(super) struct DoctorArgs {
    /// Only the machine and the golden values: nothing is timed.
    #[arg(long)]
    quick: bool,
}

/// A network, batch and coordinates that take a second or a few.
const MODEL: &str = "resnet20";

/// Images per query, and coordinates per evaluator, on the CPU and on a GPU, which needs more to be busy.
const CPU: (usize, [usize; 3]) = (128, [8, 32, 192]);
const GPU: (usize, [usize; 3]) = (512, [256, 1024, 4096]);

/// Runs of which the median counts.
const REPEATS: usize = 3;

pub(super) fn run(common: &Common, args: &DoctorArgs) -> Result<Exit> {
    let (device, device_name) = common.device()?;
    let memory = common.memory(&device)?;
    let system = System::of(&device)?;
    let mut answer = json!({ "system": system, "device": device_name });
    let quiet = common.json;
    if !quiet {
        say_system(&system)?;
        say!("\ngolden values on {device_name}: relative error of estimates and gradients, PyTorch float64")?;
    }
    let mut written = Ok(());
    let mut watch = |check: &Check| {
        if !quiet && written.is_ok() {
            written = say_check(check);
        }
    };
    let checks = doctor::check(&device, memory, |precision| system.can(precision), &mut watch)?;
    written?;
    let n_missed = checks.iter().filter(|check| !check.is_passed()).count();
    answer["checks"] = json!(checks);
    if !args.quick {
        let speeds = speeds(&system, &device, memory, quiet)?;
        answer["speeds"] = json!(speeds);
        let (cost, n_trials) = paper_cost(&device, memory)?;
        answer["fig4_paper"] = json!({ "trials": n_trials, "queries": cost.queries, "wall_s": cost.wall_s });
        if !quiet {
            say!(
                "\nfig4 --scale paper: {n_trials} trials, {:.2e} queries, about {} on this device",
                cost.queries,
                duration(cost.wall_s)
            )?;
        }
    }
    if common.json {
        say!("{}", serde_json::to_string_pretty(&answer)?)?;
    } else if n_missed == 0 {
        say!("\nall {} checks passed", checks.len())?;
    } else {
        say!("\n{n_missed} of {} checks missed: do not trust results of this device", checks.len())?;
    }
    Ok(if n_missed == 0 { Exit::Ok } else { Exit::Error })
}

fn say_system(system: &System) -> std::io::Result<()> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let row = |label: &str, value: String| say!("  {label:<9} {value}");
    say!("deepzero {} ({})", system.version, system.commit)?;
    let features = if system.features.is_empty() { "none".to_owned() } else { system.features.join(", ") };
    row("built for", format!("{}; optional features: {features}", system.platform))?;
    row("CPU", format!("{}, {} cores, {} threads in use", system.cpu, system.cores, system.threads))?;
    row("kernels", format!("{} (of {})", system.kernels, system.kernels_available.join(", ")))?;
    row(
        "memory",
        match system.memory {
            Some((all, available)) => format!("{:.1} GiB, {:.1} available", gib(all), gib(available)),
            None => "unknown on this system".to_owned(),
        },
    )?;
    row(
        "GPU",
        match &system.gpu {
            Some(gpu) => format!(
                "{}, compute capability {}.{}, {} multiprocessors, {:.1} GiB, {:.1} free; driver for CUDA {}.{}",
                gpu.name,
                gpu.capability.0,
                gpu.capability.1,
                gpu.multiprocessors,
                gib(gpu.memory.0),
                gib(gpu.memory.1),
                gpu.driver.0,
                gpu.driver.1
            ),
            None if system.features.contains(&"cuda") => "not asked for: --device cuda".to_owned(),
            None => "none: this program is built without CUDA".to_owned(),
        },
    )?;
    row("MPI", system.mpi.clone().unwrap_or_else(|| "none: this program is built without it".to_owned()))
}

fn say_check(check: &Check) -> std::io::Result<()> {
    say!(
        "  {:<9} {:<17} {:<5} {:>9.1e} of {:.1e} allowed, {} coordinates  {}",
        check.model,
        check.subject.name(),
        name(check.precision),
        check.relative_error,
        check.tolerance,
        check.n_coords,
        if check.is_passed() { "ok" } else { "MISSED" }
    )
}

/// Measures every evaluator, and propagation in every precision that a GPU has instructions for.
fn speeds(system: &System, device: &Device, memory: usize, quiet: bool) -> Result<Vec<cge::Measurement>> {
    let is_gpu = system.gpu.is_some();
    let (batch_size, [n_full, n_reuse, n_difference]) = if is_gpu { GPU } else { CPU };
    let mut what = vec![
        (EvaluatorKind::Full, Precision::F32, n_full),
        (EvaluatorKind::Reuse, Precision::F32, n_reuse),
        (EvaluatorKind::Difference, Precision::F32, n_difference),
    ];
    if is_gpu && system.can(Precision::Tf32) {
        what.extend([Precision::Tf32, Precision::Bf16].map(|p| (EvaluatorKind::Difference, p, n_difference)));
    }
    let work = Workload::new(MODEL, batch_size, 0, None)?.on(device.clone());
    let mut measured: Vec<cge::Measurement> = Vec::new();
    for (evaluator, precision, n_coords) in what {
        let config = cge::Config {
            evaluator,
            distribution: Distribution::Uniform,
            n_coords,
            n_error_coords: 0,
            mu: 5e-3,
            scheme: Scheme::Forward,
            precision,
            memory,
            repeats: REPEATS,
        };
        let launches = batched::launches();
        let found = cge::measure(&work, &config)?;
        let launches = (batched::launches() - launches) as f64 / (found.queries as f64 * REPEATS as f64);
        if !quiet {
            if measured.is_empty() {
                say!(
                    "\nspeed: CGE of {MODEL}, batch {batch_size}, coordinates of all weights; peak {:.1} TFLOP/s, \
                     {:.0} GB/s{}; operations of direct\nconvolutions, of which minimal filtering does a part",
                    found.machine.peak_gflops / 1e3,
                    found.machine.bandwidth_gb_s,
                    if is_gpu { " (calculated, without tensor cores)" } else { " (measured)" }
                )?;
            }
            let launches = if is_gpu { format!(", {launches:.2} launches per query") } else { String::new() };
            let share = if found.peak_share.is_finite() {
                format!("{:>5.1} % of peak", 100.0 * found.peak_share)
            } else {
                "peak unknown".to_owned()
            };
            say!(
                "  {:<10} {:<5} {:>9.3} µs per query and image, {:>7.3} TFLOP/s executed, {share}{launches}",
                name(evaluator),
                name(precision),
                found.us_per_query_image,
                found.executed_gflops / 1e3
            )?;
        }
        measured.push(found);
    }
    Ok(measured)
}

/// Cost of Fig. 4 as the paper runs it, and its number of trials.
fn paper_cost(device: &Device, memory: usize) -> Result<(Cost, usize)> {
    let trials = Library::embedded().get("fig4")?.trials(Scale::Paper, None, &[])?;
    let mut planner = Planner::new(device.clone(), memory);
    let mut cost = Cost::default();
    for trial in &trials {
        cost += task::cost(&trial.settings, &mut planner)?;
    }
    Ok((cost, trials.len()))
}
