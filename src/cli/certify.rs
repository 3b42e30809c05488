//! `certify`: how far around images a user's own classifier, smoothed by noise, keeps its class.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use deepzero::certify::{self, Certificate, Certifier, Classifier, Noise, Progress};
use deepzero::data::{self, Dataset, Pixels};
use deepzero::kernels::{Isa, Precision};
use deepzero::lock::Lock;
use deepzero::nn::{model, weights};
use deepzero::problem::io_of;
use deepzero::results::{self, Provenance};
use deepzero::setting::{Section, Settings, Values};
use deepzero::{Error, files};
use serde_json::json;

use super::progress::{CertifyProgress, DownloadProgress};
use super::{Common, Exit, INTERRUPT, say, tell, watch_interrupts};

#[derive(Debug, Args)]
#[command(after_help = "Example:
  deepzero certify --model resnet20 --weights W.safetensors --data cifar10 --data-dir ~/data \\
      --sigma 0.25 --n 10000 --out certified

Files:
  weights                   safetensors with PyTorch names and running statistics
  denoiser                  the same of a DnCNN, which noisy images go through first, in pixels from 0 to 1
  OUT/certificates.parquet  image by image: label, selected class and its counts, bound, certified class, radius
  OUT/radii.parquet         certified accuracy over all radii
  OUT/summary.json          what was asked, with which program and images, and what came of it
  OUT/certify.state         images done so far, while it runs; --resume goes on from there")]
pub(super) struct CertifyArgs {
    /// resnetN, resnet-bN, cnn-dN, wide-cnn8 or lenet, with -wC for another width: resnet20, cnn-d3, resnet8-w4.
    #[arg(long, default_value = "resnet20")]
    model: String,
    #[arg(long, value_name = "FILE", help = "Weights, with running statistics")]
    weights: PathBuf,
    /// Weights of a denoiser before the classifier: a DnCNN under the names of denoised smoothing's released code, which tell
    /// its size.
    #[arg(long, value_name = "FILE")]
    denoiser: Option<PathBuf>,
    /// Images, of which those of the test set are certified.
    #[arg(long, value_name = "NAME", default_value = "cifar10",
        value_parser = PossibleValuesParser::new(data::SOURCES.iter().map(|source| source.name())))]
    data: String,
    /// What numbers the network was trained on; noise is added before, to pixels from 0 to 1.
    #[arg(long, value_enum, default_value_t = Pixels::Standardized)]
    pixels: Pixels,
    /// Standard deviation of the noise, on pixels from 0 to 1 [default: 0.25].
    #[arg(long, value_name = "SIGMA", allow_hyphen_values = true)]
    sigma: Option<String>,
    /// Noisy copies of an image that choose the class to certify [default: 100].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    n0: Option<String>,
    /// Noisy copies of an image, other ones, that certify the class [default: 10000].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    n: Option<String>,
    /// Probability that a certificate may be wrong [default: 0.001].
    #[arg(long, value_name = "ALPHA", allow_hyphen_values = true)]
    alpha: Option<String>,
    /// Certify every K-th test image.
    #[arg(long, value_name = "K", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Radii of the printed table.
    #[arg(long, value_name = "R,R,…", value_delimiter = ',', default_values_t = [0.0, 0.25, 0.5, 0.75])]
    radii: Vec<f64>,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Arithmetic of the forward passes.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Folder for what is found.
    #[arg(long, value_name = "DIR", default_value = "certified")]
    out: PathBuf,
    /// Go on from the state in the output folder, if there is one.
    #[arg(long)]
    resume: bool,
}

/// The state is written at most so often.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// The files in the output folder.
const CERTIFICATES: &str = "certificates.parquet";
const RADII: &str = "radii.parquet";
const SUMMARY: &str = "summary.json";
const STATE: &str = "certify.state";

pub(super) fn run(common: &Common, args: &CertifyArgs) -> Result<Exit> {
    watch_interrupts()?;
    let (sigma, config) = settings(args)?;
    if let Some(r) = args.radii.iter().find(|r| !(r.is_finite() && **r >= 0.0)) {
        bail!("--radii: a radius is a finite number of at least 0; got {r}");
    }
    let state = args.out.join(STATE);
    let Some(_lock) = Lock::acquire(&state.with_extension("lock"))? else {
        bail!("{} is in use by another process; wait until it ends", args.out.display());
    };
    if state.exists() && !args.resume {
        bail!("{} holds an unfinished run; add --resume to go on, or delete it", state.display());
    }
    // Found out now rather than after the last image.
    [CERTIFICATES, RADII, SUMMARY].iter().try_for_each(|name| files::check_writable(&args.out.join(name)))?;
    let (device, device_name) = common.device()?;
    let source = data::source(&args.data)?;
    let network = model::from_name(&args.model, &io_of(source))?;
    let (params, stats) = weights::load_trained(&network, &args.weights)?;
    let normalization = match args.pixels {
        Pixels::Standardized => source.normalization.clone(),
        Pixels::Unit => source.normalization.unit(),
    };
    let denoiser =
        args.denoiser.as_deref().map(|path| certify::read_denoiser(path, source.shape)).transpose()?;
    let mut classifier =
        certify::NetworkClassifier::new(&network, &params, &stats, &normalization, args.precision, &device)?;
    let mut numbers = vec![params.clone(), stats.values()];
    if let Some((network, params, stats)) = &denoiser {
        classifier = classifier.behind_network(network, params, stats)?;
        numbers.extend([params.clone(), stats.values()]);
    }
    if let Some(warning) = certify::too_few(sigma, &config, &args.radii) {
        tell!("warning: {warning}");
    }
    // The fewest training images, where they are made to order.
    let images = source.load(source.sizes(1, 0, 0), &common.location(), &DownloadProgress::default())?.test;
    let rows: Vec<usize> = (0..images.len()).step_by(args.every as usize).collect();
    let certifier = Certifier::new(sigma, config.clone(), args.seed, images.image_len());
    let asked = json!({
        "model": args.model, "data": args.data, "pixels": args.pixels.name(), "sigma": sigma,
        "n0": config.n0, "n": config.n, "alpha": config.alpha, "every": args.every, "seed": args.seed,
        "precision": args.precision.name(), "images": images.checksum(),
    });
    let numbers: Vec<&[f64]> = numbers.iter().map(Vec::as_slice).collect();
    let identity = certify::identity(&asked.to_string(), &numbers);
    let started = Instant::now();
    let certificates = certify_all(&certifier, &images, &rows, &classifier, &state, &identity)?;
    let n_right = n_right(&images, &rows, &classifier)?;
    let wall_s = started.elapsed().as_secs_f64();

    let curve = certify::curve(&certificates, &certify::radii(sigma, &config));
    results::write_profile(&args.out.join(CERTIFICATES), &certify::profile(&certificates))?;
    results::write_profile(&args.out.join(RADII), &curve)?;
    let accuracy: Vec<_> = args
        .radii
        .iter()
        .map(|&r| json!({ "radius": r, "certified_accuracy": certify::certified_accuracy(&certificates, r) }))
        .collect();
    let clean = n_right as f64 / rows.len() as f64;
    let kernels = Isa::current().name();
    let provenance =
        Provenance::collect(&device_name, kernels, rayon::current_num_threads() as u32, &images.checksum());
    let summary = json!({
        "asked": asked,
        "weights": args.weights.to_string_lossy(),
        "denoiser": args.denoiser.as_ref().map(|path| path.to_string_lossy()),
        "identity": identity,
        "n_images": rows.len(),
        "largest_radius": certify::largest_radius(sigma, config.n as u64, config.alpha),
        "accuracy_without_noise": clean,
        "certified": accuracy,
        "average_radius": certify::average_radius(&certificates),
        "n_abstained": certify::n_abstained(&certificates),
        "wall_s": wall_s,
        "version": provenance.version, "commit": provenance.commit, "cpu": provenance.cpu,
        "device": provenance.device, "kernels": provenance.kernels, "threads": provenance.threads,
        "finished_at": provenance.finished_at,
    });
    let text = serde_json::to_string_pretty(&summary)?;
    files::write_atomically(&args.out.join(SUMMARY), (text.clone() + "\n").as_bytes())?;
    if state.exists() {
        std::fs::remove_file(&state).with_context(|| format!("remove {}", state.display()))?;
    }
    if common.json {
        say!("{text}")?;
    } else {
        say_table(args, &certificates, clean)?;
    }
    Ok(Exit::Ok)
}

/// Noise and copies as asked, each held to its setting's domain.
fn settings(args: &CertifyArgs) -> Result<(f64, certify::Config)> {
    let sections = [Noise::ENTRIES, certify::Config::ENTRIES];
    let mut values = Values::new();
    let given = [("sigma", &args.sigma), ("n0", &args.n0), ("n", &args.n), ("alpha", &args.alpha)];
    for (name, text) in given {
        let Some(text) = text else { continue };
        let entry = sections.iter().copied().flatten().find(|entry| entry.name == name);
        let entry = entry.context("a setting without a section")?;
        let value = entry.checked(&format!("--{name}"), &deepzero::setting::value_of(text))?;
        values.insert(entry.name, value);
    }
    let settings = Settings::new(values, &sections);
    let Noise { sigma } = settings.read()?;
    Ok((sigma, settings.read()?))
}

/// Certificates of all rows, with a state in a file and progress on stderr.
fn certify_all(
    certifier: &Certifier,
    images: &Dataset,
    rows: &[usize],
    classifier: &dyn Classifier,
    state: &Path,
    identity: &str,
) -> Result<Vec<Certificate>> {
    let done = certify::load(state, identity, certifier.sigma, certifier.config.alpha)?.unwrap_or_default();
    let progress = CertifyProgress::new(rows.len(), done.len());
    let (mut n_saved, mut saved_at) = (done.len(), Instant::now());
    let mut watch = |now: Progress| -> deepzero::Result<()> {
        let is_stopped = INTERRUPT.load(Ordering::Relaxed) && now.copies < now.n_copies;
        let is_due = is_stopped || saved_at.elapsed() > SAVE_EVERY;
        if now.certificates.len() > n_saved && is_due {
            certify::save(state, identity, now.certificates)?;
            (n_saved, saved_at) = (now.certificates.len(), Instant::now());
        }
        progress.advanced(&now);
        if is_stopped { Err(Error::Interrupted) } else { Ok(()) }
    };
    let found = certifier.run(images, rows, classifier, done, &mut watch);
    progress.finish(match &found {
        Ok(_) => "done",
        Err(Error::Interrupted) if state.exists() => "stopped; add --resume to go on",
        Err(_) => "stopped",
    });
    Ok(found?)
}

/// How many of the images are given their class without noise.
fn n_right(images: &Dataset, rows: &[usize], classifier: &dyn Classifier) -> Result<usize> {
    const BATCH: usize = 256;
    let mut n_right = 0;
    for rows in rows.chunks(BATCH) {
        let pixels = rows.iter().flat_map(|&row| images.image(row));
        let pixels: Vec<f32> = pixels.map(|&byte| (f64::from(byte) / 255.0) as f32).collect();
        let classes = classifier.classes(&pixels, rows.len())?;
        let is_right = |(class, row): &(usize, &usize)| *class == usize::from(images.labels[**row]);
        n_right += classes.into_iter().zip(rows).filter(is_right).count();
    }
    Ok(n_right)
}

fn say_table(args: &CertifyArgs, certificates: &[Certificate], clean: f64) -> Result<()> {
    say!("radius  certified accuracy")?;
    for &r in &args.radii {
        say!("{r:>6}  {:>16.2} %", 100.0 * certify::certified_accuracy(certificates, r))?;
    }
    say!(
        "{} images, {:.2} % right without noise; abstained from {}; average certified radius {:.4}",
        certificates.len(),
        100.0 * clean,
        certify::n_abstained(certificates),
        certify::average_radius(certificates)
    )?;
    say!("{}", args.out.join(CERTIFICATES).display())?;
    Ok(())
}
