//! A denoiser in front of a classifier that only answers: yours may be a process, a service, a library. Here it is a
//! function that tells bright images from dark ones, and the denoiser's last layer is trained through its losses.
//!
//! `cargo run --release --example defend`

#![allow(clippy::print_stdout, reason = "a program for people to read")]

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use deepzero::experiment::settings;
use deepzero::kernels::Precision;
use deepzero::metric::{self, Row};
use deepzero::nn::model::dncnn;
use deepzero::problem::defend::{BlackBox, Front};
use deepzero::problem::{Defend, Prepared, Problem, Resources, State};
use deepzero::train::{Observer, Run};
use deepzero::zo::QueryCount;
use deepzero::{Result, method, ranks};

/// It says how sure it is that an image's center is brighter than the rest.
struct Bright;

impl Bright {
    fn logits(&self, inputs: &Tensor) -> Result<Vec<f64>> {
        let rows = inputs.to_dtype(DType::F64)?.flatten_from(1)?.to_vec2::<f64>()?;
        let is_center = |at: usize| (8..24).contains(&(at / 32 % 32)) && (8..24).contains(&(at % 32));
        let of = |row: &Vec<f64>| {
            let center: f64 = row.iter().enumerate().filter(|(at, _)| is_center(*at)).map(|(_, v)| v).sum();
            center / 768.0 - (row.iter().sum::<f64>() - center) / 2304.0
        };
        Ok(rows.iter().map(|row| 40.0 * of(row)).collect())
    }
}

impl BlackBox for Bright {
    fn losses(&self, inputs: &Tensor, labels: &[u32]) -> Result<Vec<f64>> {
        let sign = |label: u32| if label == 1 { 1.0 } else { -1.0 };
        let logits = self.logits(inputs)?.into_iter().zip(labels.iter().cycle());
        Ok(logits.map(|(logit, &label)| (-sign(label) * logit).exp().ln_1p()).collect())
    }

    fn classes(&self, inputs: &Tensor) -> Result<Vec<u32>> {
        Ok(self.logits(inputs)?.iter().map(|&logit| u32::from(logit > 0.0)).collect())
    }
}

struct Say;

impl Observer for Say {
    fn epoch(&self, row: &Row) {
        let [loss, queries] = [&metric::TRAIN_LOSS, &metric::QUERIES].map(|metric| row.get(metric));
        println!("epoch {}: loss {loss:.4}, {queries} queries", row.epoch);
    }
}

fn main() -> Result<()> {
    let images = Prepared::procedural(100).with_unit_pixels();
    let network = dncnn(3, 8, [3, 32, 32])?;
    let start = State { params: network.layout().initial_values(1), stats: network.initial_stats() };
    let front = Front::tensor(&network, start, "dncnn.5.weight")?;
    let (count, interrupt) = (QueryCount::default(), AtomicBool::new(false));
    let resources = Resources {
        device: &Device::Cpu,
        memory: 1 << 30,
        ranks: &ranks::ALONE,
        interrupt: &interrupt,
        count: &count,
    };
    let problem = Defend::new(front, [&Bright, &Bright], &images, Precision::F32, (0.5, 1), resources);
    let settings = settings::from_pairs([
        ("method", "cge"),
        ("evaluator", "reuse"),
        ("sparsity", "0"),
        ("optimizer", "adam"),
        ("learning-rate", "0.01"),
        ("warmup-epochs", "0"),
        ("epochs", "5"),
        ("batch-size", "50"),
    ])?;
    let method::Config { method } = settings.read()?;
    let mut method = method.start(&settings, 1, problem.layout())?;
    let run = Run {
        config: settings.read()?,
        most_steps: None,
        seed: 1,
        resources,
        checkpoint: None,
        observer: &Say,
        began: Instant::now(),
    };
    run.train(&problem, method.as_mut())?;
    Ok(())
}
