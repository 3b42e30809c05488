//! What the procedural images must be: reproducible, balanced, and hard in the right way.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::loss::cross_entropy;

use super::*;
use crate::data::{epoch_order, make_batch};
use crate::kernels::Split;
use crate::nn::model::Io;
use crate::nn::{Context, Mode, backprop, model};
use crate::zo::optimizer::{self, Optimizer};

/// Oracle: an earlier run. The images are part of every published synthetic result, so a change to
/// them must be a decision.
#[test]
fn images_never_change() {
    let splits = synthetic(40, 20);
    assert_eq!(splits.train.checksum(), "adbee39e4b6ac2b25718225417e0aa1ef767457a45f3a4ace36390b0ac7e1225");
    assert_eq!(splits.test.checksum(), "5976e932b381d3696abd7196c947107dcd2a45cf38218efb80f811456c971e05");
}

#[test]
fn a_smaller_set_is_a_prefix_and_balanced() {
    let (small, large) = (synthetic(30, 10), synthetic(50, 20));
    assert_eq!(small.train.images, large.train.images[..small.train.images.len()]);
    assert_eq!(small.test.labels, large.test.labels[..10]);
    assert_eq!(large.train.class_counts(), [5; 10]);
    assert_ne!(small.train.images[..3072], small.test.images[..3072]);
}

/// Mean and spread of the pixels are near those the normalization assumes, so that the network sees
/// inputs of the usual size.
#[test]
fn pixels_use_the_range() {
    let data = synthetic(500, 0).train;
    let n = data.images.len() as f64;
    let mean = data.images.iter().map(|&v| f64::from(v)).sum::<f64>() / n / 255.0;
    let square = data.images.iter().map(|&v| (f64::from(v) / 255.0).powi(2)).sum::<f64>() / n;
    let spread = (square - mean * mean).sqrt();
    assert!((0.42..0.58).contains(&mean) && (0.17..0.3).contains(&spread), "{mean} {spread}");
    let saturated = data.images.iter().filter(|&&v| v == 0 || v == 255).count() as f64 / n;
    assert!(saturated < 0.05, "{saturated}");
}

/// Normalised images (N, 3, 32, 32) and labels (N) of the given rows.
fn batch(data: &Dataset, rows: &[usize]) -> (Tensor, Tensor) {
    let batch = make_batch(data, rows, None, DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::from_vec(batch.labels, rows.len(), &Device::Cpu).unwrap();
    (batch.images, labels)
}

fn accuracy(logits: &Tensor, labels: &Tensor) -> f64 {
    let right = logits.argmax(1).unwrap().eq(labels).unwrap().to_dtype(DType::F64).unwrap();
    right.mean_all().unwrap().to_scalar().unwrap()
}

/// A variable of normal numbers with standard deviation `sqrt(2 / fan_in)`.
fn weights(shape: &[usize], fan_in: usize, seed: u64) -> Var {
    let mut values = vec![0.0; shape.iter().product()];
    Stream::new(seed, Purpose::Test, 0).fill_normal(&mut values);
    let scale = (2.0 / fan_in as f64).sqrt();
    let values = values.into_iter().map(|z| (scale * z) as f32).collect();
    Var::from_tensor(&Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// SGD with momentum 0.9 and a learning rate falling linearly to zero.
fn train(
    data: &Dataset,
    vars: &[&Var],
    n_steps: usize,
    batch_size: usize,
    peak: f64,
    forward: impl Fn(&Tensor) -> Result<Tensor>,
) {
    let mut velocities: Vec<Tensor> = vars.iter().map(|var| var.zeros_like().unwrap()).collect();
    let per_epoch = data.len() / batch_size;
    for step in 0..n_steps {
        let order = epoch_order(data.len(), 1, (step / per_epoch) as u32);
        let (images, labels) = batch(data, &order[step % per_epoch * batch_size..][..batch_size]);
        let loss = cross_entropy(&forward(&images).unwrap(), &labels).unwrap();
        let gradients = loss.backward().unwrap();
        let rate = peak * (1.0 - step as f64 / n_steps as f64);
        for (var, velocity) in vars.iter().zip(&mut velocities) {
            *velocity = ((&*velocity * 0.9).unwrap() + gradients.get(var).unwrap()).unwrap().detach();
            var.set(&(var.as_tensor() - (&*velocity * rate).unwrap()).unwrap().detach()).unwrap();
        }
    }
}

/// Oracle: chance is 0.1; a linear model must stay near it, since polarity, place and colour say
/// nothing about the class.
#[test]
fn a_linear_model_stays_low() {
    const CEILING: f64 = 0.35;
    let splits = synthetic(4_000, 1_000);
    let (weight, bias) = (weights(&[3072, 10], 3_072_000, 1), weights(&[10], 1_000_000, 2));
    let forward = |images: &Tensor| images.flatten_from(1)?.matmul(&weight)?.broadcast_add(&bias);
    train(&splits.train, &[&weight, &bias], 400, 64, 0.002, forward);
    let score = |data: &Dataset| {
        let (images, labels) = batch(data, &(0..1000).collect::<Vec<_>>());
        accuracy(&forward(&images).unwrap(), &labels)
    };
    println!("linear: train {:.3}, test {:.3}", score(&splits.train), score(&splits.test));
    assert!(score(&splits.test) < CEILING);
}

/// Test accuracy of the CNN of `depth` blocks with 18 channels, by batch statistics as in training. Its own
/// back-propagation is many times faster than candle's convolutions.
fn cnn_accuracy(depth: usize, n_steps: usize) -> f64 {
    let splits = synthetic(4_000, 1_000);
    let network = model::cnn(depth, 18, &Io::CIFAR).unwrap();
    let mut params = network.layout().initial_values(10);
    let mut sgd = Optimizer::new(&optimizer::Sgd, 0.9, 0.0, params.len());
    let (batch_size, peak) = (32, 0.1);
    let per_epoch = splits.train.len() / batch_size;
    for step in 0..n_steps {
        let order = epoch_order(splits.train.len(), 1, (step / per_epoch) as u32);
        let rows = &order[step % per_epoch * batch_size..][..batch_size];
        let batch = make_batch(&splits.train, rows, None, DType::F32, &Device::Cpu).unwrap();
        let found = backprop::gradient(&network, &params, &batch.images, &batch.labels, 1.0).unwrap();
        sgd.step(&mut params, &found.gradient, peak * (1.0 - step as f64 / n_steps as f64), None);
    }
    let (images, labels) = batch(&splits.test, &(0..1000).collect::<Vec<_>>());
    let tensors = network.tensors(&params, DType::F32, &Device::Cpu).unwrap();
    let context = Context { mode: Mode::Train, split: Split::Threads };
    accuracy(&network.forward(&context, &tensors, &images).unwrap(), &labels)
}

/// Oracle: the linear model's ceiling above; the floor leaves room below the measured accuracy.
#[test]
fn a_small_cnn_learns() {
    const FLOOR: f64 = 0.5;
    let score = cnn_accuracy(3, 200);
    println!("cnn: test {score:.3}");
    assert!(score > FLOOR && score < 1.0, "{score}");
}

/// A table for people: how depth and steps separate. Run with `--ignored --nocapture`.
#[test]
#[ignore = "slow; prints a table"]
fn depth_and_steps() {
    for depth in 1..=3 {
        for n_steps in [100, 300, 1000] {
            println!("depth {depth}, {n_steps} steps: {:.3}", cnn_accuracy(depth, n_steps));
        }
    }
}

/// A picture for people: twelve images of every class, one class a row, in the temporary folder.
#[test]
#[ignore = "writes a picture"]
fn contact_sheet() {
    const SCALE: u32 = 3;
    let data = synthetic(120, 0).train;
    let sheet = image::RgbImage::from_fn(12 * 34 * SCALE, 10 * 34 * SCALE, |x, y| {
        let (x, y) = (x / SCALE, y / SCALE);
        let (column, row) = ((x % 34) as usize, (y % 34) as usize);
        let pixels = data.image((x / 34 * 10 + y / 34) as usize);
        let at = |channel: usize| pixels[channel * 1024 + row * 32 + column];
        if column < 32 && row < 32 { image::Rgb([at(0), at(1), at(2)]) } else { image::Rgb([0; 3]) }
    });
    sheet.save(std::env::temp_dir().join("deepzero-synthetic.png")).unwrap();
}
