//! Operations on batched probes: for GPUs, which want few large operations.
//!
//! Where the kernels of [`crate::kernels::lanes`] carry one probe through a layer at a time, these carry
//! many at once: an activation is (probe, image, channel, row, column), or (1, …) where all probes share it.
//! A [`Change`] that touches one channel per probe stores that channel alone.
//!
//! Every operation is written twice: a CUDA kernel (`cu/`), and a function of plain loops on the CPU that
//! says what it computes. On the CPU the function runs. It is slow, and exists so that everything above the
//! kernels can be tested on any machine; the kernels are held to it on a GPU, and their very source, compiled
//! for the host, where there is none.

#![cfg_attr(
    not(any(test, feature = "cuda")),
    expect(dead_code, reason = "how kernels are launched is of no use without them")
)]

mod conv;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
pub(crate) mod emulate;
mod loss;
mod norm;
mod pointwise;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Result, Tensor, WithDType, bail};
use rayon::prelude::*;

use super::Element;

pub use conv::{Convolution, conv, conv_seed};
pub use loss::{cross_entropy, cross_entropy_change, squared_error, squared_error_change};
pub use norm::{NormBase, NormChange, moments, norm_affine, norm_change, normalize};
pub use pointwise::{add_change, max_pool_change, relu_change};

/// Changes of an activation, one per probe.
#[derive(Debug, Clone)]
pub struct Change {
    /// (P, B, channels stored, H, W)
    pub data: Tensor,
    /// The one channel that is stored, by probe: (P), u32. Without it all are.
    pub channels: Option<Tensor>,
}

/// Kernels launched so far by this process.
static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// Operations of this module that ran so far, one kernel each where they run on a GPU.
#[must_use]
pub fn launches() -> u64 {
    LAUNCHES.load(Ordering::Relaxed)
}

/// Threads of a block where every thread computes a number or two.
const THREADS: usize = 256;

/// One operation, with its inputs.
trait Operation {
    /// Sizes of the output.
    fn dims(&self) -> Vec<usize>;

    /// Number type of the output.
    fn dtype(&self) -> DType;

    /// How a GPU computes it.
    fn call(&self) -> Call<'_>;

    /// How its definition computes it, on the CPU.
    fn definition(&self) -> Result<Tensor>;

    /// A tensor on the device where the operation runs.
    fn place(&self) -> &Tensor;
}

/// A launch of a kernel.
struct Call<'a> {
    /// Its name.
    kernel: &'static str,
    /// The number type it is compiled for.
    real: DType,
    grid: [usize; 3],
    threads: usize,
    /// Dynamic shared memory, in bytes.
    shared: usize,
    args: Vec<Arg<'a>>,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
enum Arg<'a> {
    /// Pointer to a tensor's first number.
    In(&'a Tensor),
    /// A null pointer.
    Missing,
    /// Pointer to the output.
    Out,
    /// `int`.
    Int(usize),
    /// `long long`.
    Wide(usize),
    /// `double`.
    Double(f64),
}

impl<'a> Arg<'a> {
    fn maybe(tensor: Option<&'a Tensor>) -> Self {
        tensor.map_or(Self::Missing, Self::In)
    }
}

/// Runs an operation where its inputs are.
fn run(operation: &impl Operation) -> Result<Tensor> {
    LAUNCHES.fetch_add(1, Ordering::Relaxed);
    let device = operation.place().device();
    #[cfg(test)]
    if device.is_cpu() && emulate::is_on() {
        return Ok(emulate::run(operation).expect("a test turns this on only where there is a compiler"));
    }
    match device {
        Device::Cpu => operation.definition(),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::launch(device, &operation.call(), &operation.dims(), operation.dtype()),
        _ => bail!("operations on batched probes run on the CPU and on CUDA devices, not on {device:?}"),
    }
}

/// A grid with one thread per number of `n` per probe.
fn grid_of(n: usize, probes: usize) -> [usize; 3] {
    [n.div_ceil(THREADS), 1, probes]
}

/// All numbers of a tensor on the CPU.
fn numbers<T: WithDType>(tensor: &Tensor) -> Result<Vec<T>> {
    tensor.flatten_all()?.to_vec1()
}

/// Distance between probes: zero where all share an activation.
fn stride_of(x: &Tensor) -> Result<usize> {
    Ok(if x.dim(0)? == 1 { 0 } else { x.elem_count() / x.dim(0)? })
}

/// Calls `$function::<T>($args)` for the number type of a tensor.
macro_rules! by_type {
    ($dtype:expr, $self:ident . $function:ident) => {
        match $dtype {
            DType::F32 => $self.$function::<f32>(),
            DType::F64 => $self.$function::<f64>(),
            other => candle_core::bail!("{other:?}: only f32 and f64 are supported"),
        }
    };
}
use by_type;

/// Sizes (P, B, C, H, W) as P, B, C and H · W.
fn planes(x: &Tensor) -> Result<[usize; 4]> {
    let (probes, images, channels, height, width) = x.dims5()?;
    Ok([probes, images, channels, height * width])
}

/// A stored change as the definitions read it.
struct Stored<T> {
    data: Vec<T>,
    channels: Option<Vec<u32>>,
    images: usize,
    n_stored: usize,
    plane: usize,
}

impl<T: Element> Stored<T> {
    fn new(change: &Change) -> Result<Self> {
        let [_, images, n_stored, plane] = planes(&change.data)?;
        let channels = change.channels.as_ref().map(numbers).transpose()?;
        Ok(Self { data: numbers(&change.data)?, channels, images, n_stored, plane })
    }

    /// The change of a channel at a place, if it is stored.
    fn at(&self, probe: usize, image: usize, channel: usize, pixel: usize) -> Option<T> {
        let slot = match &self.channels {
            None => channel,
            Some(channels) if channels[probe] as usize == channel => 0,
            Some(_) => return None,
        };
        Some(self.data[((probe * self.images + image) * self.n_stored + slot) * self.plane + pixel])
    }
}

/// The channel of the network that a stored channel is, by probe and place in store.
fn channel_of(channels: &Option<Vec<u32>>, probe: usize, slot: usize) -> usize {
    channels.as_ref().map_or(slot, |channels| channels[probe] as usize)
}

/// A tensor from a function of probe, image, stored channel and pixel.
fn from_fn<T: Element>(
    dims: &[usize],
    value: impl Fn(usize, usize, usize, usize) -> T + Sync,
) -> Result<Tensor> {
    let [probes, images, channels, height, width] = dims else { bail!("{dims:?} are not five sizes") };
    let plane = height * width;
    let mut values = vec![T::ZERO; probes * images * channels * plane];
    let fill = |(idx, plane): (usize, &mut [T])| {
        let (probe, image, channel) = (idx / channels / images, idx / channels % images, idx % channels);
        plane.iter_mut().enumerate().for_each(|(pixel, to)| *to = value(probe, image, channel, pixel));
    };
    values.par_chunks_mut(plane.max(1)).enumerate().for_each(fill);
    Tensor::from_vec(values, dims, &Device::Cpu)
}

/// Change of max(a, 0) when a changes by `change`.
fn relu_change_at<T: Element>(a: T, change: T) -> T {
    let moved = a + change;
    if a > T::ZERO {
        if moved > T::ZERO { change } else { T::ZERO - a }
    } else if moved > T::ZERO || moved.wide().is_nan() {
        moved
    } else {
        T::ZERO
    }
}
