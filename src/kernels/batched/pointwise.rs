//! Changes through layers without parameters.

use candle_core::{DType, Result, Tensor};

use super::{
    Arg, Call, Change, Element, Operation, Stored, THREADS, by_type, channel_of, from_fn, grid_of, numbers,
    planes, run,
};

/// Sum (P, B, channels stored, H, W) of two changes of an activation with `n_channels`, or one of them alone, over
/// the channel `channels` (P), or over all.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn add_change(
    a: &Change,
    b: Option<&Change>,
    n_channels: usize,
    channels: Option<&Tensor>,
) -> Result<Tensor> {
    run(&Sum { a, b, n_channels, channels })
}

struct Sum<'a> {
    a: &'a Change,
    b: Option<&'a Change>,
    n_channels: usize,
    channels: Option<&'a Tensor>,
}

impl Sum<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let a = Stored::<T>::new(self.a)?;
        let b = self.b.map(Stored::<T>::new).transpose()?;
        let channels: Option<Vec<u32>> = self.channels.map(numbers).transpose()?;
        from_fn(&self.dims(), |probe, image, slot, pixel| {
            let channel = channel_of(&channels, probe, slot);
            let of = |stored: &Stored<T>| stored.at(probe, image, channel, pixel).unwrap_or(T::ZERO);
            of(&a) + b.as_ref().map_or(T::ZERO, of)
        })
    }
}

impl Operation for Sum<'_> {
    fn dims(&self) -> Vec<usize> {
        let mut dims = self.a.data.dims().to_vec();
        dims[2] = if self.channels.is_some() { 1 } else { self.n_channels };
        dims
    }

    fn dtype(&self) -> DType {
        self.a.data.dtype()
    }

    fn place(&self) -> &Tensor {
        &self.a.data
    }

    fn call(&self) -> Call<'_> {
        let dims = self.dims();
        let mut args = vec![Arg::In(&self.a.data), Arg::maybe(self.a.channels.as_ref())];
        args.extend([
            Arg::maybe(self.b.map(|b| &b.data)),
            Arg::maybe(self.b.and_then(|b| b.channels.as_ref())),
            Arg::maybe(self.channels),
            Arg::Out,
        ]);
        args.extend([dims[1], dims[2], self.n_channels, dims[3] * dims[4]].map(Arg::Int));
        let grid = grid_of(dims[1..].iter().product(), dims[0]);
        Call { kernel: "add_change", real: self.dtype(), grid, threads: THREADS, shared: 0, args }
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.dtype(), self.values)
    }
}

/// Change of max(z, 0) for a change of z (1, B, C, H, W).
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn relu_change(delta: &Change, z: &Tensor) -> Result<Tensor> {
    run(&ReluChange { delta, z })
}

struct ReluChange<'a> {
    delta: &'a Change,
    z: &'a Tensor,
}

impl ReluChange<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let [_, _, n_channels, plane] = planes(self.z)?;
        let z: Vec<T> = numbers(self.z)?;
        let channels: Option<Vec<u32>> = self.delta.channels.as_ref().map(numbers).transpose()?;
        let delta = Stored::<T>::new(self.delta)?;
        from_fn(&self.dims(), |probe, image, slot, pixel| {
            let channel = channel_of(&channels, probe, slot);
            let change = delta.at(probe, image, channel, pixel).unwrap_or(T::ZERO);
            super::relu_change_at(z[(image * n_channels + channel) * plane + pixel], change)
        })
    }
}

impl Operation for ReluChange<'_> {
    fn dims(&self) -> Vec<usize> {
        self.delta.data.dims().to_vec()
    }

    fn dtype(&self) -> DType {
        self.z.dtype()
    }

    fn place(&self) -> &Tensor {
        self.z
    }

    fn call(&self) -> Call<'_> {
        let dims = self.dims();
        let mut args = vec![
            Arg::In(&self.delta.data),
            Arg::maybe(self.delta.channels.as_ref()),
            Arg::In(self.z),
            Arg::Out,
        ];
        args.extend([dims[1], dims[2], self.z.dims()[2], dims[3] * dims[4]].map(Arg::Int));
        let grid = grid_of(dims[1..].iter().product(), dims[0]);
        Call { kernel: "relu_rule", real: self.dtype(), grid, threads: THREADS, shared: 0, args }
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.dtype(), self.values)
    }
}

/// Change (P, B, channels stored, H/2, W/2) of the maxima over 2 x 2 windows for a change of z (1, B, C, H, W): the
/// largest of δ − (maximum − z), which is δ itself, unrounded, where the largest stays the largest.
///
/// # Errors
/// If sizes or number types do not fit, or the device fails.
pub fn max_pool_change(delta: &Change, z: &Tensor) -> Result<Tensor> {
    run(&MaxPoolChange { delta, z })
}

struct MaxPoolChange<'a> {
    delta: &'a Change,
    z: &'a Tensor,
}

impl MaxPoolChange<'_> {
    fn values<T: Element>(&self) -> Result<Tensor> {
        let (_, _, n_channels, height, width) = self.z.dims5()?;
        let z: Vec<T> = numbers(self.z)?;
        let channels: Option<Vec<u32>> = self.delta.channels.as_ref().map(numbers).transpose()?;
        let delta = Stored::<T>::new(self.delta)?;
        from_fn(&self.dims(), |probe, image, slot, pixel| {
            let channel = channel_of(&channels, probe, slot);
            let corner = pixel / (width / 2) * 2 * width + pixel % (width / 2) * 2;
            let window = [corner, corner + 1, corner + width, corner + width + 1];
            let base = window.map(|at| z[(image * n_channels + channel) * height * width + at]);
            let larger = |a: T, b: T| if b > a || b.wide().is_nan() { b } else { a };
            let largest = base.into_iter().fold(base[0], larger);
            let moved = |i: usize| {
                delta.at(probe, image, channel, window[i]).unwrap_or(T::ZERO) - (largest - base[i])
            };
            [moved(1), moved(2), moved(3)].into_iter().fold(moved(0), larger)
        })
    }
}

impl Operation for MaxPoolChange<'_> {
    fn dims(&self) -> Vec<usize> {
        let mut dims = self.delta.data.dims().to_vec();
        dims[3] /= 2;
        dims[4] /= 2;
        dims
    }

    fn dtype(&self) -> DType {
        self.z.dtype()
    }

    fn place(&self) -> &Tensor {
        self.z
    }

    fn call(&self) -> Call<'_> {
        let dims = self.dims();
        let z = self.z.dims();
        let mut args = vec![
            Arg::In(&self.delta.data),
            Arg::maybe(self.delta.channels.as_ref()),
            Arg::In(self.z),
            Arg::Out,
        ];
        args.extend([dims[1], dims[2], z[2], z[3], z[4]].map(Arg::Int));
        let grid = grid_of(dims[1..].iter().product(), dims[0]);
        Call { kernel: "max_pool_change", real: self.dtype(), grid, threads: THREADS, shared: 0, args }
    }

    fn definition(&self) -> Result<Tensor> {
        by_type!(self.dtype(), self.values)
    }
}
