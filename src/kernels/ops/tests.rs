//! Every operation against candle's own on (B, C, H, W), forward and backward, in f64; batches that
//! fill no block, exactly one, and more.

use candle_core::{Device, Result, Tensor, Var};

use super::*;
use crate::kernels::lanes::geometry::Geometry;
use crate::kernels::lanes::reference;
use crate::rng::{Purpose, Stream};

fn draw(n: usize, lane: u32) -> Vec<f64> {
    let mut draws = vec![0.0; n];
    Stream::new(8, Purpose::Test, 0).lane(lane).fill_normal(&mut draws);
    draws
}

fn execution<T: Element>(isa: Isa, images: usize, split: Split) -> Execution {
    Execution { isa, blocks: Blocks::new::<T>(isa, images), split, is_exact: false }
}

/// An activation as (B, C, H, W).
fn to_images(x: &Tensor, blocks: Blocks) -> Result<Tensor> {
    let [channels, height, width] = sizes(x.dims())?;
    let rows = x.reshape((blocks.count(), channels * height * width, 1, 1, blocks.lanes))?;
    to_rows(&rows, blocks)?.reshape((blocks.images, channels, height, width))
}

fn assert_close(ours: &Tensor, theirs: &Tensor, what: &str) -> Result<()> {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let error = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f64>()?;
    let scale = theirs.abs()?.max_all()?.to_scalar::<f64>()?.max(1.0);
    assert!(error <= 1e-12 * scale, "{what}: {error} of {scale}");
    Ok(())
}

/// Runs `ours` on lanes and `theirs` on images, with the same `extra` leaves, and compares outputs and
/// the gradients of a weighted sum.
fn compare(
    what: &str,
    dims: [usize; 4],
    extra: &[Var],
    ours: impl Fn(Execution, &Tensor) -> Result<Tensor>,
    theirs: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    let images = Tensor::from_vec(draw(dims.iter().product(), 0), &dims, &Device::Cpu)?;
    let x = Var::from_tensor(&images)?;
    let out = theirs(&x)?;
    let weights = Tensor::from_vec(draw(out.elem_count(), 1), out.dims(), &Device::Cpu)?;
    let grads = (&out * &weights)?.sum_all()?.backward()?;
    for isa in Isa::available() {
        let mut by_split = Vec::new();
        for split in [Split::Serial, Split::Threads] {
            let execution = execution::<f64>(isa, dims[0], split);
            let lanes = Var::from_tensor(&to_lanes(&images, execution.blocks)?)?;
            let found = ours(execution, &lanes)?;
            let sized =
                if out.rank() == 2 { out.reshape((out.dim(0)?, out.dim(1)?, 1, 1))? } else { out.clone() };
            assert_close(&to_images(&found, execution.blocks)?, &sized, what)?;
            // Weights of zero where there is no image.
            let in_lanes = to_lanes(&weights.reshape(sized.shape())?, execution.blocks)?;
            let ours = (found * in_lanes)?.sum_all()?.backward()?;
            let grad = ours.get(&lanes).expect("a leaf");
            assert_close(&to_images(grad, execution.blocks)?, grads.get(&x).expect("a leaf"), what)?;
            for leaf in extra {
                assert_close(ours.get(leaf).expect("a leaf"), grads.get(leaf).expect("a leaf"), what)?;
            }
            by_split.push(grad.flatten_all()?.to_vec1::<f64>()?);
        }
        assert!(by_split[0] == by_split[1], "{what} {isa:?}: the split changes bits");
    }
    Ok(())
}

const SHAPES: [[usize; 4]; 4] = [[1, 2, 6, 6], [3, 4, 5, 7], [8, 3, 4, 4], [19, 2, 8, 8]];

#[test]
fn pointwise_operations_agree_with_candle() -> Result<()> {
    for dims in SHAPES {
        let channels = dims[1];
        compare("relu", dims, &[], pointwise::relu, Tensor::relu)?;
        compare("add", dims, &[], |s, x| pointwise::add(s, x, &pointwise::relu(s, x)?), |x| x + x.relu()?)?;
        let bias = Var::from_vec(draw(channels, 2), channels, &Device::Cpu)?;
        let theirs = |x: &Tensor| x.broadcast_add(&bias.reshape((1, channels, 1, 1))?);
        compare("bias", dims, std::slice::from_ref(&bias), |s, x| pointwise::add_bias(s, x, &bias), theirs)?;
        compare("means", dims, &[], pointwise::plane_means, |x| x.flatten_from(2)?.mean(2))?;
        let theirs = |x: &Tensor| {
            let [_, _, height, width] = dims;
            let x = x.pad_with_zeros(2, 0, height % 2)?.pad_with_zeros(3, 0, width % 2)?;
            let (half_h, half_w) = (height.div_ceil(2), width.div_ceil(2));
            let x = x.reshape((dims[0], channels, half_h, 2, half_w, 2))?;
            let x = x.narrow(3, 0, 1)?.narrow(5, 0, 1)?.contiguous()?;
            x.reshape((dims[0], channels, half_h, half_w))?.pad_with_zeros(1, 1, 2)
        };
        compare("shortcut", dims, &[], |s, x| pointwise::shortcut(s, x, 1, 2), theirs)?;
        // candle's own pooling loses a factor of four going backward; the maximum of windows does not.
        let theirs = |x: &Tensor| {
            let (half_h, half_w) = (dims[2] / 2, dims[3] / 2);
            let x = x.narrow(2, 0, 2 * half_h)?.narrow(3, 0, 2 * half_w)?.contiguous()?;
            x.reshape((dims[0], channels, half_h, 2, half_w, 2))?.max(5)?.max(3)
        };
        compare("flatten", dims, &[], |_, x| as_features(x), |x| x.flatten_from(1))?;
        compare("max pool", dims, &[], pointwise::max_pool2, theirs)?;
    }
    Ok(())
}

#[test]
fn batch_norm_agrees_with_its_composition() -> Result<()> {
    for dims in SHAPES {
        let channels = dims[1];
        let scale = Var::from_vec(draw(channels, 2), channels, &Device::Cpu)?;
        let shift = Var::from_vec(draw(channels, 3), channels, &Device::Cpu)?;
        let leaves = [scale.clone(), shift.clone()];
        for (is_added, is_relu) in [(false, false), (false, true), (true, false), (true, true)] {
            let ours = |s: Execution, x: &Tensor| {
                let other = if is_added { Some(pointwise::relu(s, x)?) } else { None };
                let params = stack(&scale, &shift)?;
                norm::batch_norm(s, x, &params, norm::Stats::Batch(None), 1e-5, other.as_ref(), is_relu)
            };
            let theirs = |x: &Tensor| {
                let mut out = norm::batch_norm_composed(x, &scale, &shift, 1e-5)?;
                if is_added {
                    out = (out + x.relu()?)?;
                }
                if is_relu { out.relu() } else { Ok(out) }
            };
            compare("batch norm", dims, &leaves, ours, theirs)?;
        }
    }
    Ok(())
}

/// Oracle: mean and variance in f64, by their definition.
#[test]
fn moments_leave_out_lanes_without_images() -> Result<()> {
    let x = Tensor::from_vec(draw(5 * 2 * 9, 0), (5, 2, 3, 3), &Device::Cpu)?;
    for isa in Isa::available() {
        let execution = execution::<f64>(isa, 5, Split::Threads);
        let found = norm::moments(execution, &to_lanes(&x, execution.blocks)?)?;
        for (channel, found) in found.iter().enumerate() {
            let values = x.narrow(1, channel, 1)?.flatten_all()?.to_vec1::<f64>()?;
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            assert!((found.mean - mean).abs() < 1e-14 && (found.variance - variance).abs() < 1e-14);
        }
    }
    Ok(())
}

#[test]
fn convolution_agrees_with_candle() -> Result<()> {
    for (dims, c_out, kernel, stride, padding) in [
        ([3, 3, 9, 7], 5, 3, 1, 1),
        ([3, 3, 9, 7], 5, 3, 2, 1),
        ([17, 8, 8, 8], 9, 3, 1, 1),
        ([2, 2, 6, 6], 4, 5, 1, 2),
        ([3, 2, 9, 8], 4, 5, 1, 0),
        ([9, 4, 5, 5], 3, 1, 2, 0),
        ([1, 5, 1, 1], 3, 1, 1, 0),
    ] {
        let weight = draw(c_out * dims[1] * kernel * kernel, 2);
        let weight = Var::from_vec(weight, (c_out, dims[1], kernel, kernel), &Device::Cpu)?;
        compare(
            "convolution",
            dims,
            std::slice::from_ref(&weight),
            |s, x| conv::conv2d(s, x, &weight, stride, padding),
            |x| x.conv2d(&weight, padding, stride, 1, 1),
        )?;
    }
    Ok(())
}

/// Oracle: the definition, for gradients in f32 on every instruction set. Inputs and weights are
/// rounded, sums have up to 2,000 terms.
#[test]
fn gradients_of_convolution_in_single_precision() -> Result<()> {
    for (batch, c_in, size, c_out, kernel, stride) in
        [(5, 8, 12, 16, 3, 1), (3, 4, 9, 6, 3, 2), (2, 6, 7, 5, 5, 2)]
    {
        let dims = [c_in, size, size];
        let weight_dims = [c_out, c_in, kernel, kernel];
        let g = Geometry::new(batch, dims, &weight_dims, stride, kernel / 2)?;
        let (input, weight) = (draw(batch * c_in * size * size, 0), draw(weight_dims.iter().product(), 1));
        let grad = draw(batch * c_out * g.out_height() * g.out_width(), 2);
        let mut expected_input = vec![0.0; input.len()];
        let mut expected_weight = vec![0.0; weight.len()];
        reference::grad_input(&g, &grad, &weight, &mut expected_input);
        reference::grad_weight(&g, &grad, &input, &mut expected_weight);
        let single = |values: &[f64], dims: &[usize]| {
            Tensor::from_vec(values.iter().map(|&v| v as f32).collect::<Vec<_>>(), dims, &Device::Cpu)
        };
        for isa in Isa::available() {
            let execution = execution::<f32>(isa, batch, Split::Threads);
            let grad_dims = [batch, c_out, g.out_height(), g.out_width()];
            let grad = to_lanes(&single(&grad, &grad_dims)?, execution.blocks)?;
            let input = to_lanes(&single(&input, &[batch, c_in, size, size])?, execution.blocks)?;
            let of_input = conv::grad_input(execution, g, &grad, &single(&weight, &weight_dims)?)?;
            let of_weight = conv::grad_weight(execution, g, &grad, &input)?;
            for (found, expected) in
                [(to_images(&of_input, execution.blocks)?, &expected_input), (of_weight, &expected_weight)]
            {
                let scale = expected.iter().fold(0.0, |max: f64, e| max.max(e.abs()));
                for (found, expected) in found.flatten_all()?.to_vec1::<f32>()?.iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < 3e-6 * scale, "{isa:?} {g:?}");
                }
            }
        }
    }
    Ok(())
}

/// Oracle: PyTorch's rule that the first maximum of a window takes the gradient.
#[test]
fn a_tie_goes_to_the_first() -> Result<()> {
    let execution = execution::<f64>(Isa::current(), 1, Split::Serial);
    let ones = Tensor::ones((1, 1, 2, 2), DType::F64, &Device::Cpu)?;
    let x = Var::from_tensor(&to_lanes(&ones, execution.blocks)?)?;
    let grads = pointwise::max_pool2(execution, &x)?.sum_all()?.backward()?;
    let grad = to_images(grads.get(&x).expect("a leaf"), execution.blocks)?;
    assert_eq!(grad.flatten_all()?.to_vec1::<f64>()?, [1.0, 0.0, 0.0, 0.0]);
    Ok(())
}

/// A residual block: convolutions, batch norms, an addition, a value that is read twice.
fn residual(execution: Execution, x: &Tensor, leaves: &[Tensor]) -> Result<Tensor> {
    let norm = |x: &Tensor, params, other, is_relu| {
        norm::batch_norm(execution, x, params, norm::Stats::Batch(None), 1e-5, other, is_relu)
    };
    let stem = norm(&conv::conv2d(execution, x, &leaves[0], 1, 1)?, &leaves[1], None, true)?;
    let inner = norm(&conv::conv2d(execution, &stem, &leaves[2], 1, 1)?, &leaves[3], None, true)?;
    let outer = norm(&conv::conv2d(execution, &inner, &leaves[4], 1, 1)?, &leaves[5], Some(&stem), true)?;
    let last = norm(&conv::conv2d(execution, &outer, &leaves[6], 2, 1)?, &leaves[7], None, false)?;
    pointwise::max_pool2(execution, &last)
}

/// Oracle: autograd, which finishes every gradient before it hands it on; to the bit, since the numbers are the same.
#[test]
fn gradients_that_travel_unfinished_have_the_same_bits() -> Result<()> {
    let (images, channels, size) = (21, 9, 12);
    let single = |dims: &[usize], lane: u32| {
        let values: Vec<f32> = draw(dims.iter().product(), lane).iter().map(|&v| v as f32).collect();
        Tensor::from_vec(values, dims, &Device::Cpu)
    };
    let mut values = Vec::new();
    for layer in 0..4 {
        let inputs = if layer == 0 { 3 } else { channels };
        values.push(single(&[channels, inputs, 3, 3], 2 * layer)?);
        values.push(single(&[2, channels], 2 * layer + 1)?);
    }
    let pixels = single(&[images, 3, size, size], 20)?;
    for isa in Isa::available() {
        for split in [Split::Serial, Split::Threads] {
            let execution = execution::<f32>(isa, images, split);
            let x = to_lanes(&pixels, execution.blocks)?;
            let vars = values.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
            let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
            let out = residual(execution, &x, &tracked)?;
            // Zeros in lanes without an image.
            let weights = to_lanes(&single(&[images, channels, size / 4, size / 4], 21)?, execution.blocks)?;
            let expected = (&out * &weights)?.sum_all()?.backward()?;
            let (taped, tape) = Tape::record(&values, || residual(execution, &x, &values))?;
            let found = tape.backward(&taped, weights)?;
            let numbers = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
            assert!(numbers(&taped)? == numbers(&out)?);
            for (idx, (value, var)) in values.iter().zip(&vars).enumerate() {
                let expected = numbers(expected.get(var).expect("a leaf"))?;
                let found = numbers(found.get(value).expect("a leaf"))?;
                assert!(found.iter().all(|number| number.is_finite()) && found.iter().any(|&n| n != 0.0));
                assert!(found == expected, "{isa:?} {split:?} leaf {idx}");
            }
        }
    }
    Ok(())
}
