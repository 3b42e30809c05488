//! The oracle of every kernel is its definition, a function of plain loops on the CPU. Here the kernels' source
//! runs on the host, and on a GPU where there is one; and the definitions themselves are held to the kernels of
//! [`crate::kernels::lanes`] through the networks of [`crate::nn::pass::batched`].

use candle_core::{DType, Device, Result, Tensor};

use super::*;
use crate::kernels::Rounding;
use crate::rng::{Purpose, Stream};

/// Random numbers.
struct Random {
    stream: Stream,
    next: u32,
    dtype: DType,
    device: Device,
}

impl Random {
    fn numbers(&mut self, dims: &[usize]) -> Result<Tensor> {
        self.next += 1;
        let mut values = vec![0.0; dims.iter().product()];
        self.stream.lane(self.next).fill_normal(&mut values);
        Tensor::from_vec(values, dims, &self.device)?.to_dtype(self.dtype)
    }

    fn below(&mut self, n: usize, len: usize) -> Result<Tensor> {
        self.next += 1;
        let stream = self.stream.lane(self.next);
        let values: Vec<u32> = (0..len).map(|i| stream.below_at(i as u64, n as u64) as u32).collect();
        Tensor::from_vec(values, len, &self.device)
    }

    fn dense(&mut self, dims: &[usize; 5]) -> Result<Change> {
        Ok(Change { data: self.numbers(dims)?, channels: None })
    }

    fn single(&mut self, [probes, images, channels, height, width]: [usize; 5]) -> Result<Change> {
        let data = self.numbers(&[probes, images, 1, height, width])?;
        Ok(Change { data, channels: Some(self.below(channels, probes)?) })
    }

    fn doubles(&mut self, dims: &[usize]) -> Result<Tensor> {
        self.numbers(dims)?.to_dtype(DType::F64)
    }
}

/// Outputs of operations on random inputs, each with its name and the relative error that it may have.
type Case = fn(&mut Random) -> Result<Vec<(&'static str, Tensor)>>;

/// Largest difference, over the largest number; infinite if one is NaN where the other is not.
fn error(found: &Tensor, expected: &Tensor) -> Result<f64> {
    assert_eq!(found.dims(), expected.dims());
    assert_eq!(found.dtype(), expected.dtype());
    let values = |x: &Tensor| x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
    let (found, expected) = (values(found)?, values(expected)?);
    let scale = expected.iter().filter(|x| !x.is_nan()).fold(0.0, |scale: f64, x| scale.max(x.abs()));
    let of = |(found, expected): (&f64, &f64)| match (found.is_nan(), expected.is_nan()) {
        (false, false) => (found - expected).abs() / scale.max(f64::MIN_POSITIVE),
        (true, true) => 0.0,
        _ => f64::INFINITY,
    };
    Ok(found.iter().zip(&expected).map(of).fold(0.0, f64::max))
}

/// Holds the kernels to the definitions. A few hundred products are added up in another order.
fn check(case: Case) -> Result<()> {
    for (dtype, tolerance) in [(DType::F32, 4e-6), (DType::F64, 1e-14)] {
        let run = |device: &Device| {
            let stream = Stream::new(7, Purpose::Test, 0);
            case(&mut Random { stream, next: 0, dtype, device: device.clone() })
        };
        let expected = run(&Device::Cpu)?;
        let compare = |found: Vec<(&str, Tensor)>, place: &str| {
            for ((name, found), (_, expected)) in found.into_iter().zip(&expected) {
                let error = error(&found.to_device(&Device::Cpu)?, expected)?;
                assert!(error < tolerance, "{name} of {dtype:?} {place}: {error:e}");
            }
            Ok::<(), candle_core::Error>(())
        };
        if let Some(found) = emulate::with_kernels(|| run(&Device::Cpu)) {
            compare(found?, "on the host")?;
        }
        match gpu() {
            Some(device) => compare(run(&device)?, "on the GPU")?,
            None => eprintln!("skipped: no GPU to run kernels on"),
        }
    }
    Ok(())
}

/// The first GPU, where the program is built for it and there is one.
fn gpu() -> Option<Device> {
    #[cfg(feature = "cuda")]
    return cuda::device(0).ok();
    #[cfg(not(feature = "cuda"))]
    None
}

const PLAIN: Convolution = Convolution { stride: 1, padding: 1, rounding: Rounding::None };

fn convolutions(random: &mut Random) -> Result<Vec<(&'static str, Tensor)>> {
    let strided = Convolution { stride: 2, ..PLAIN };
    let pointwise = Convolution { padding: 0, ..PLAIN };
    let x = random.numbers(&[3, 5, 9, 8, 8])?;
    let shared_x = x.narrow(0, 1, 1)?;
    let weight = random.numbers(&[3, 35, 9, 3, 3])?;
    let shared_weight = weight.narrow(0, 2, 1)?;
    let single = random.single([4, 3, 9, 7, 5])?;
    // More columns than a tile is wide, and rows that do not fill the last one.
    let long = random.numbers(&[1, 1, 2, 5, 131])?;
    let long_weight = random.numbers(&[2, 3, 2, 5, 5])?;
    let features = random.numbers(&[2, 130, 21, 1, 1])?;
    let linear = random.numbers(&[1, 10, 21, 1, 1])?;
    Ok(vec![
        ("all its own", conv(&x, &weight, None, PLAIN)?),
        ("shared weights", conv(&x, &shared_weight, None, strided)?),
        ("shared inputs", conv(&shared_x, &weight, None, strided)?),
        ("one channel", conv(&single.data, &shared_weight, single.channels.as_ref(), PLAIN)?),
        ("one channel, strided", conv(&single.data, &shared_weight, single.channels.as_ref(), strided)?),
        ("long rows", conv(&long, &long_weight, None, PLAIN)?),
        ("linear", conv(&features, &linear, None, pointwise)?),
    ])
}

#[test]
fn convolution() -> Result<()> {
    check(convolutions)
}

fn seeds(random: &mut Random) -> Result<Vec<(&'static str, Tensor)>> {
    let x = random.numbers(&[1, 3, 4, 7, 6])?;
    let (inputs, taps, steps) = ([0, 3, -1, 2], [0, 8, 0, 5], [0.5, -1.0, 2.0, 1e-3]);
    let strided = Convolution { stride: 2, ..PLAIN };
    Ok(vec![
        ("weights and a bias", conv_seed(&x, 3, PLAIN, &inputs, &taps, &steps)?),
        ("strided", conv_seed(&x, 3, strided, &inputs, &taps, &steps)?),
    ])
}

#[test]
fn seeds_of_convolutions() -> Result<()> {
    check(seeds)
}

fn base(random: &mut Random, dims: &[usize; 5]) -> Result<NormBase> {
    let z = random.numbers(dims)?;
    let moments = moments(&z)?.squeeze(0)?;
    let scales = random.doubles(&[dims[2]])?;
    let table = random.numbers(&[dims[2], 3])?;
    Ok(NormBase { z, moments, scales, table, epsilon: 1e-5 })
}

fn norms(random: &mut Random) -> Result<Vec<(&'static str, Tensor)>> {
    let x = random.numbers(&[3, 4, 5, 6, 7])?;
    let (scale, shift) = (random.numbers(&[3, 5])?, random.numbers(&[3, 5])?);
    let own = moments(&x)?;
    let shared = x.narrow(0, 0, 1)?;
    let first = |x: &Tensor| x.narrow(0, 0, 1);
    let plain = normalize(&shared, &first(&own)?, [&scale, &shift], 1e-5, None, false)?;
    let added = normalize(&x, &own, [&first(&scale)?, &first(&shift)?], 1e-5, Some(&shared), true)?;
    let mixed = normalize(&x, &first(&own)?, [&first(&scale)?, &shift], 1e-5, Some(&x), true)?;
    Ok(vec![("moved shifts", mixed), ("moments", own), ("shared input", plain), ("addition and relu", added)])
}

#[test]
fn batch_norm() -> Result<()> {
    check(norms)
}

/// Every pair of supports of the input's change and of the added one, with and without a ReLU.
fn norm_changes(random: &mut Random) -> Result<Vec<(&'static str, Tensor)>> {
    let dims = [1, 4, 5, 3, 6];
    let [_, images, channels, height, width] = dims;
    let many = [3, images, channels, height, width];
    let base = base(random, &dims)?;
    let other = random.numbers(&dims)?;
    let (dense, single) = (random.dense(&many)?, random.single(many)?);
    let added_single =
        Change { data: random.numbers(single.data.dims())?, channels: single.channels.clone() };
    let eval = random.numbers(&[1, channels, 4])?;
    let seed = random.numbers(&[3, 1, 4])?;
    let of = |delta, affine, added, channels, is_seed, other: Option<&Tensor>, is_relu| {
        let change = NormChange { delta, affine, is_seed, added, other, is_relu, channels, probes: 3 };
        norm_change(&change, &base)
    };
    let single_channels = single.channels.as_ref();
    let (of_dense, of_single) = (norm_affine(&dense, &base)?, norm_affine(&single, &base)?);
    let alone = |x: &Tensor| x.narrow(0, 1, 1)?.contiguous();
    let one =
        Change { data: alone(&single.data)?, channels: Some(alone(single_channels.expect("one channel"))?) };
    let lone = NormChange {
        delta: Some(&one),
        affine: Some(&norm_affine(&one, &base)?),
        is_seed: false,
        added: None,
        other: None,
        is_relu: true,
        channels: one.channels.as_ref(),
        probes: 1,
    };
    let (d, s, a, e) = (Some(&dense), Some(&single), Some(&added_single), Some(&other));
    Ok(vec![
        ("dense, relu", of(d, Some(&of_dense), None, None, false, None, true)?),
        ("dense plus one channel", of(d, Some(&of_dense), s, None, false, e, true)?),
        ("one channel", of(s, Some(&of_single), None, single_channels, false, None, false)?),
        ("one channel, relu", of(s, Some(&of_single), None, single_channels, false, None, true)?),
        ("one channel plus the same", of(s, Some(&of_single), a, single_channels, false, e, true)?),
        ("one channel plus dense", of(s, Some(&of_single), d, None, false, e, true)?),
        ("only the addition", of(None, None, d, None, false, e, true)?),
        ("eval mode, dense", of(d, Some(&eval), s, None, false, e, true)?),
        ("eval mode, one channel", of(s, Some(&eval), None, single_channels, false, None, true)?),
        ("a lone probe", norm_change(&lone, &base)?),
        ("seeds", of(None, Some(&seed), None, single_channels, true, e, true)?),
        ("affine, dense", of_dense),
        ("affine, one channel", of_single),
    ])
}

#[test]
fn changes_of_batch_norm() -> Result<()> {
    check(norm_changes)
}

fn pointwise_changes(random: &mut Random) -> Result<Vec<(&'static str, Tensor)>> {
    let z = random.numbers(&[1, 3, 4, 6, 5])?;
    let many = [3, 3, 4, 6, 5];
    let (dense, single) = (random.dense(&many)?, random.single(many)?);
    let broken = Change { data: (&single.data / 0.0)?, channels: single.channels.clone() };
    // One NaN per window is enough.
    let rows = Tensor::from_vec(vec![1.0, f64::NAN, 1.0, 1.0, 1.0, f64::NAN], (6, 1), z.device())?;
    let torn = Change { data: dense.data.broadcast_mul(&rows.to_dtype(z.dtype())?)?, channels: None };
    let channels = single.channels.as_ref();
    Ok(vec![
        ("pool of NaN", max_pool_change(&torn, &z)?),
        ("relu of NaN", relu_change(&torn, &z)?),
        ("both dense", add_change(&dense, Some(&dense), 4, None)?),
        ("dense and one channel", add_change(&single, Some(&dense), 4, None)?),
        ("one channel twice", add_change(&single, Some(&single), 4, channels)?),
        ("spread", add_change(&single, None, 4, None)?),
        ("relu", relu_change(&dense, &z)?),
        ("relu, one channel", relu_change(&single, &z)?),
        ("relu of infinities", relu_change(&broken, &z)?),
        ("pool", max_pool_change(&dense, &z)?),
        ("pool, one channel", max_pool_change(&single, &z)?),
    ])
}

#[test]
fn changes_without_parameters() -> Result<()> {
    check(pointwise_changes)
}

fn losses(random: &mut Random) -> Result<Vec<(&'static str, Tensor)>> {
    let (images, classes) = (300, 7);
    let logits = random.numbers(&[3, images, classes, 1, 1])?;
    let labels = random.below(classes, images)?;
    let scales = (random.doubles(&[3, 2])?.abs()? + 0.5)?;
    let base = logits.get(0)?.reshape((images, classes))?.to_dtype(DType::F64)?;
    let logs = base.broadcast_sub(&base.exp()?.sum_keepdim(1)?.log()?)?;
    let many = [3, images, classes, 1, 1];
    let (dense, single) = (random.dense(&many)?, random.single(many)?);
    let large = Change { data: (&dense.data * 400.0)?, channels: None };
    let small = Change { data: (&dense.data * 1e-6)?, channels: None };
    let first = scales.narrow(1, 0, 1)?.contiguous()?.squeeze(1)?;
    let plane = random.single([3, 5, 4, 6, 3])?;
    let planes = random.doubles(&[5, 4 * 6 * 3])?;
    Ok(vec![
        ("cross-entropy", cross_entropy(&logits, &labels, None)?),
        ("scaled cross-entropy", cross_entropy(&logits, &labels, Some(&first))?),
        ("change", cross_entropy_change(&dense, &logs, &labels, None)?),
        ("change of one class", cross_entropy_change(&single, &logs, &labels, None)?),
        ("large change", cross_entropy_change(&large, &logs, &labels, None)?),
        ("small change", cross_entropy_change(&small, &logs, &labels, None)?),
        ("rescaled change", cross_entropy_change(&dense, &logs, &labels, Some(&scales))?),
        ("squared error", squared_error(&logits, &base)?),
        ("its change", squared_error_change(&dense, &base)?),
        ("its change, one number", squared_error_change(&single, &base)?),
        ("its change, one channel", squared_error_change(&plane, &planes)?),
    ])
}

#[test]
fn losses_and_their_changes() -> Result<()> {
    check(losses)
}

/// Products of tensor cores, in single precision only.
fn rounded(random: &mut Random) -> Result<Vec<(&'static str, Tensor)>> {
    let mut found = Vec::new();
    if random.dtype == DType::F32 {
        let x = random.numbers(&[2, 3, 19, 8, 8])?;
        let weight = random.numbers(&[1, 70, 19, 3, 3])?;
        let linear = random.numbers(&[2, 10, 19, 1, 1])?;
        let features = random.numbers(&[2, 130, 19, 1, 1])?;
        for (name, rounding) in [("tf32", Rounding::Tf32), ("bf16", Rounding::Bf16)] {
            for stride in [1, 2] {
                found.push((name, conv(&x, &weight, None, Convolution { stride, padding: 1, rounding })?));
            }
            let how = Convolution { stride: 1, padding: 0, rounding };
            found.push((name, conv(&features, &linear, None, how)?));
        }
    }
    Ok(found)
}

#[test]
fn tensor_cores() -> Result<()> {
    check(rounded)
}
