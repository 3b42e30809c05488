//! Fits a simulator of which nothing but function values is known:
//! `cargo run --release --example black_box`.

#![allow(clippy::print_stdout, reason = "a program for people to read")]

use deepzero::zo::Scheme;
use deepzero::zo::{
    self, Metered, Objective, QueryCount,
    estimator::Cge,
    evaluate::{self, Evaluator, EvaluatorKind},
    optimizer::{self, Optimizer},
};

/// Positions of x″ = −kx − cx′ over 8 seconds, released at rest, as read from a scale with marks
/// every 0.01. The rounding makes the derivative zero almost everywhere.
fn simulate(params: &[f64]) -> Vec<f64> {
    const STEP_S: f64 = 0.002;
    let &[stiffness, damping, start] = params else { panic!("three parameters") };
    let (mut position, mut velocity) = (start, 0.0);
    let mut advance = |_| {
        for _ in 0..20 {
            velocity -= STEP_S * (stiffness * position + damping * velocity);
            position += STEP_S * velocity;
        }
        (position * 100.0).round() / 100.0
    };
    (0..200).map(&mut advance).collect()
}

/// Mean absolute distance between a simulated trajectory and a recorded one.
struct Misfit {
    recorded: Vec<f64>,
}

impl Objective for Misfit {
    fn n_coords(&self) -> usize {
        3
    }

    fn loss(&self, params: &[f64]) -> deepzero::Result<f64> {
        let distances = simulate(params).into_iter().zip(&self.recorded).map(|(x, y)| (x - y).abs());
        Ok(distances.sum::<f64>() / self.recorded.len() as f64)
    }
}

fn main() -> deepzero::Result<()> {
    const STEPS: usize = 300;
    let count = QueryCount::default();
    let misfit = Misfit { recorded: simulate(&[4.0, 0.3, 1.0]) };
    let misfit = Metered::new(&misfit, &count);
    let mut params = vec![2.5, 0.8, 0.7];
    println!("start: loss {:.4} at {params:.3?}", misfit.loss(&params)?);

    // Probes must be longer than the marks are apart. Central differences: 6 queries and the base.
    let estimator = Cge::dense(params.len(), 0.05, Scheme::Central);
    let mut optimizer = Optimizer::new(&optimizer::Adam, 0.9, 0.0, params.len());
    let config = optimizer::Config { learning_rate: 0.05, warmup_epochs: 0, ..Default::default() };
    for step in 0..STEPS {
        let evaluator = evaluate::at(&misfit, EvaluatorKind::Full, &params)?;
        if step % 100 == 0 {
            println!("step {step}: loss {:.4}", evaluator.base_loss());
        }
        let gradient = zo::estimate(&estimator, &evaluator)?.gradient;
        let rate = config.rate(step, STEPS, STEPS);
        optimizer.step(&mut params, &gradient, rate, None);
    }
    println!("end: loss {:.4} at {params:.3?}", misfit.loss(&params)?);
    println!("{} queries; the recorded trajectory has [4.000, 0.300, 1.000]", count.queries());
    Ok(())
}
