//! Which lengths of parameters a network says the loss does not depend on.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::nn::graph::{Builder, Value};
use crate::nn::layer::{Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool2, Relu};
use crate::nn::{Network, backprop, model};
use crate::params::Init;
use crate::rng::{Purpose, Stream};

/// Far above what 1e-5 beside a variance does, far below what a length that matters does.
const SMALL: f64 = 1e-4;

fn images(network: &Network) -> Result<Tensor> {
    let [channels, height, width] = network.input();
    let mut pixels = vec![0.0; 4 * channels * height * width];
    Stream::new(6, Purpose::Test, 0).fill_normal(&mut pixels);
    Ok(Tensor::from_vec(pixels, (4, channels, height, width), &Device::Cpu)?)
}

/// Oracle: the loss with scales and shifts twice as long, and back-propagation, in f64. A length is free if, and only if,
/// the loss stays; the gradient is orthogonal to those that are.
#[test]
fn the_loss_does_not_depend_on_free_lengths_and_on_all_others() -> Result<()> {
    for (name, n_free, n_norms) in
        [("cnn-d3-w4", 2, 3), ("resnet8-w4", 3, 7), ("resnet-b10-w4", 4, 12), ("lenet", 0, 0)]
    {
        let network = model::from_name(name, &model::Io::CIFAR)?;
        let layout = network.layout();
        // Scales around one, so that no unit is always off.
        let mut params = layout.initial(Init::Kaiming, 3);
        let moves = layout.drawn(Init::Uniform, 3, Purpose::Test);
        params.iter_mut().zip(moves).for_each(|(param, by)| *param += 0.1 * by);
        let images = images(&network)?;
        let at = |params: &[f64]| backprop::gradient(&network, params, &images, &[1, 0, 9, 4], 1.0);
        let base = at(&params)?;
        let mut n_found = 0;
        for norm in network.norm_names() {
            let specs = layout.specs().iter().enumerate();
            let tensors: Vec<usize> = specs
                .filter(|(_, spec)| spec.name.starts_with(&format!("{norm}.")))
                .map(|(idx, _)| idx)
                .collect();
            let range = layout.range(tensors[0]).start..layout.range(tensors[1]).end;
            let mut longer = params.clone();
            longer[range.clone()].iter_mut().for_each(|param| *param *= 2.0);
            let change = (at(&longer)?.loss - base.loss).abs();
            let is_free = layout.free_lengths().contains(&range);
            assert_eq!(change < SMALL, is_free, "{name}: {norm}: {change:e}");
            if is_free {
                n_found += 1;
                let part = || range.clone().map(|coord| (params[coord], base.gradient[coord]));
                let along: f64 = part().map(|(param, slope)| param * slope).sum();
                let size = part().map(|(param, slope)| (param * slope).abs()).sum::<f64>();
                assert!(along.abs() < 1e-3 * size, "{name}: {norm}: {along} of {size}");
            }
        }
        let found = (n_found, layout.free_lengths().len(), network.norm_names().len());
        assert_eq!(found, (n_free, n_free, n_norms), "{name}");
    }
    Ok(())
}

/// Oracle: by hand. A constant per channel, which the next normalization would take away, is no constant any more
/// behind a ReLU or another convolution; without a normalization behind, nothing takes a factor away.
#[test]
fn a_constant_between_two_normalizations_counts() {
    let conv = |has_bias| Conv2d { c_in: 3, c_out: 3, kernel: 3, stride: 1, padding: 1, has_bias };
    let n_free = |between: &dyn Fn(&mut Builder, Value) -> Value| {
        let network = Builder::built([3, 8, 8], |builder, input| {
            let value = builder.push_norm("first", input);
            let value = between(builder, value);
            let value = builder.push("flatten", Flatten, &[value]);
            builder.push("fc", Linear { n_in: builder.channels(value), n_out: 2 }, &[value])
        });
        network.layout().free_lengths().len()
    };
    let normed = |layers: &dyn Fn(&mut Builder, Value) -> Value| {
        n_free(&|builder, value| {
            let value = layers(builder, value);
            builder.push_norm("second", value)
        })
    };
    assert_eq!(n_free(&|builder, value| builder.push("conv", conv(false), &[value])), 0);
    assert_eq!(normed(&|builder, value| builder.push("conv", conv(true), &[value])), 1);
    assert_eq!(normed(&|builder, value| builder.push("relu", Relu, &[value])), 1);
    assert_eq!(normed(&|builder, value| builder.push("pool", MaxPool2, &[value])), 1);
    assert_eq!(normed(&|builder, value| builder.push("pool", GlobalAvgPool, &[value])), 1);
    let two = |has_bias| {
        normed(&move |builder, value| {
            let value = builder.push("one", conv(has_bias), &[value]);
            builder.push("two", conv(false), &[value])
        })
    };
    assert_eq!((two(false), two(true)), (1, 0));
    let relu_behind = |has_bias| {
        normed(&move |builder, value| {
            let value = builder.push("conv", conv(has_bias), &[value]);
            builder.push("relu", Relu, &[value])
        })
    };
    assert_eq!((relu_behind(false), relu_behind(true)), (1, 0));
}
