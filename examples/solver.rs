//! Trains a small network to correct a solver of which nothing but its step is known:
//! `cargo run --release --example solver`.

#![allow(clippy::print_stdout, reason = "a program for people to read")]

use deepzero::zo::estimator::Cge;
use deepzero::zo::evaluate::{self, EvaluatorKind};
use deepzero::zo::optimizer::{self, Optimizer};
use deepzero::zo::{self, Metered, Objective, QueryCount, Scheme};

/// The external solver: `n` of its steps take a pendulum, angle and speed, over 0.2 seconds. One is far too coarse.
fn external_step([mut angle, mut speed]: [f64; 2], n: usize) -> [f64; 2] {
    let dt = 0.2 / n as f64;
    for _ in 0..n {
        (angle, speed) = (angle + dt * speed, speed - dt * 9.81 * angle.sin());
    }
    [angle, speed]
}

const HIDDEN: usize = 8;

/// What the network adds to a state: 2 inputs, tanh, 2 outputs; 5 numbers a hidden unit.
fn correction(params: &[f64], [angle, speed]: [f64; 2]) -> [f64; 2] {
    params.chunks_exact(5).fold([0.0; 2], |[a, s], w| {
        let unit = (w[0] * angle + w[1] * speed / 3.0 + w[2]).tanh();
        [a + w[3] * unit, s + w[4] * unit]
    })
}

/// Squared distance of corrected rollouts from fine ones.
struct Rollouts {
    starts: Vec<[f64; 2]>,
    steps: usize,
}

impl Objective for Rollouts {
    fn n_coords(&self) -> usize {
        5 * HIDDEN
    }

    fn loss(&self, params: &[f64]) -> deepzero::Result<f64> {
        let mut sum = 0.0;
        for &start in &self.starts {
            let (mut coarse, mut fine) = (start, start);
            for _ in 0..self.steps {
                (coarse, fine) = (external_step(coarse, 1), external_step(fine, 1000));
                let added = correction(params, coarse);
                coarse = [coarse[0] + added[0], coarse[1] + added[1]];
                sum += (coarse[0] - fine[0]).powi(2) + (coarse[1] - fine[1]).powi(2);
            }
        }
        Ok(sum / (self.starts.len() * self.steps) as f64)
    }
}

fn main() -> deepzero::Result<()> {
    const STEPS: usize = 1500;
    let starts = |shift: f64| (0..6).map(|k| [0.2 * f64::from(k) + shift, 0.0]).collect();
    let (train, test) =
        (Rollouts { starts: starts(0.1), steps: 8 }, Rollouts { starts: starts(0.2), steps: 20 });
    let count = QueryCount::default();
    let metered = Metered::new(&train, &count);
    // Small and different weights, without a random number.
    let mut params: Vec<f64> = (0..5 * HIDDEN).map(|idx| 0.3 * (1.7 * idx as f64).sin()).collect();
    println!("the solver alone: {:.4} a step, unseen starts", test.loss(&vec![0.0; params.len()])?);
    let estimator = Cge::dense(params.len(), 1e-4, Scheme::Forward);
    let mut optimizer = Optimizer::new(&optimizer::Adam, 0.9, 0.0, params.len());
    let config = optimizer::Config { learning_rate: 0.02, warmup_epochs: 0, ..Default::default() };
    for step in 0..STEPS {
        let evaluator = evaluate::at(&metered, EvaluatorKind::Full, &params)?;
        let gradient = zo::estimate(&estimator, &evaluator)?.gradient;
        let rate = config.rate(step, STEPS, STEPS);
        optimizer.step(&mut params, &gradient, rate, None);
        if (step + 1) % 500 == 0 {
            println!(
                "step {}: {:.4}, unseen starts {:.4}",
                step + 1,
                train.loss(&params)?,
                test.loss(&params)?
            );
        }
    }
    println!("{} queries", count.queries());
    Ok(())
}
