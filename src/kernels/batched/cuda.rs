//! Launching the kernels on CUDA devices. They are compiled when they are first needed, for the GPU at hand, by
//! NVRTC, the compiler that comes with the CUDA run-time libraries.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, sys};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Storage, Tensor, bail};

use super::{Arg, Call};
use crate::kernels::Rounding;

/// The kernels' source, in the order in which files need each other.
const SOURCE: &str = concat!(
    include_str!("cu/common.cu"),
    include_str!("cu/conv.cu"),
    include_str!("cu/norm.cu"),
    include_str!("cu/pointwise.cu"),
    include_str!("cu/loss.cu"),
);

/// First compute capability whose tensor cores multiply TF32 and bf16: Ampere.
const TENSOR_CORES: (i32, i32) = (8, 0);

/// The GPU number `ordinal`, with a stream of its own that any thread may use.
///
/// # Errors
/// If there is no such GPU, or no driver.
pub fn device(ordinal: usize) -> Result<Device> {
    // Without a driver, finding it panics deep inside the bindings.
    let found = std::panic::catch_unwind(|| Device::new_cuda_with_stream(ordinal));
    match found {
        Ok(device) => device,
        Err(_) => bail!("the CUDA driver cannot be loaded"),
    }
}

/// What a GPU is.
#[derive(Debug, Clone)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Clock of the multiprocessors, in Hz.
    pub clock: f64,
    /// Peak of reads from its memory, in bytes per second.
    pub bandwidth: f64,
    /// Free and total memory, in bytes.
    pub memory: (usize, usize),
    /// CUDA version that the driver supports, as (major, minor).
    pub driver: (i32, i32),
}

impl Gpu {
    /// Asks the driver.
    ///
    /// # Errors
    /// If the driver fails, or the device is not a GPU.
    pub fn of(device: &Device) -> Result<Self> {
        use sys::CUdevice_attribute as A;
        let stream = device.as_cuda_device()?.cuda_stream();
        let context = stream.context();
        let attribute = |attribute| context.attribute(attribute).w().map(f64::from);
        let mut version = 0;
        // SAFETY: the driver writes one int to the pointer.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().w()?;
        const KILO: f64 = 1e3;
        let memory_clock = attribute(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? * KILO;
        let bus_bits = attribute(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        Ok(Self {
            name: context.name().w()?,
            capability: context.compute_capability().w()?,
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            clock: attribute(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? * KILO,
            // Two words per clock and line of the bus.
            bandwidth: 2.0 * memory_clock * bus_bits / 8.0,
            memory: context.mem_get_info().w()?,
            driver: (version / 1000, version % 1000 / 10),
        })
    }

    /// Peak of fused multiply-adds on f32 outside tensor cores, in operations per second; none where the number
    /// of units per multiprocessor is not known.
    #[must_use]
    pub fn peak_flops(&self) -> Option<f64> {
        // CUDA C++ Programming Guide, table of arithmetic throughput: 32-bit multiply-adds per clock and
        // multiprocessor.
        let units = match self.capability {
            (7, _) | (8, 0) => 64.0,
            (6, 0) => 64.0,
            (6, _) | (8, _) | (9, _) | (10, _) | (12, _) => 128.0,
            _ => return None,
        };
        Some(2.0 * units * self.multiprocessors as f64 * self.clock)
    }

    /// Whether its tensor cores multiply with this rounding.
    #[must_use]
    pub fn has(&self, rounding: Rounding) -> bool {
        rounding == Rounding::None || self.capability >= TENSOR_CORES
    }
}

/// PTX of all kernels for a number type and a compute capability, compiled once per process.
fn ptx(real: DType, capability: (i32, i32)) -> Result<&'static str> {
    type Compiled = HashMap<(DType, (i32, i32)), &'static str>;
    static COMPILED: OnceLock<Mutex<Compiled>> = OnceLock::new();
    let mut compiled = COMPILED
        .get_or_init(Mutex::default)
        .lock()
        .map_err(|_| candle_core::Error::msg("a thread panicked while it compiled kernels"))?;
    if let Some(ptx) = compiled.get(&(real, capability)) {
        return Ok(ptx);
    }
    let ptx: &'static str = Box::leak(compile(real, capability)?.into_boxed_str());
    compiled.insert((real, capability), ptx);
    Ok(ptx)
}

/// Compiles the kernels; needs no GPU.
fn compile(real: DType, capability: (i32, i32)) -> Result<String> {
    let name = match real {
        DType::F32 => "float",
        DType::F64 => "double",
        other => bail!("{other:?}: only f32 and f64 are supported"),
    };
    let (major, minor) = capability;
    let mut options = vec![format!("-DREAL={name}"), format!("--gpu-architecture=compute_{major}{minor}")];
    if real == DType::F32 && capability >= TENSOR_CORES {
        options.push("-DTENSOR_CORES".to_owned());
    }
    let compile_options = CompileOptions { options, ..CompileOptions::default() };
    let ptx = compile_ptx_with_opts(SOURCE, compile_options)
        .map_err(|error| candle_core::Error::msg(format!("cannot compile kernels: {error:?}")))?;
    Ok(ptx.to_src())
}

/// A part of a tensor's memory, by its type.
enum View<'a> {
    F32(CudaView<'a, f32>),
    F64(CudaView<'a, f64>),
    U32(CudaView<'a, u32>),
    I32(CudaView<'a, i32>),
}

/// A number that a kernel takes.
enum Scalar {
    /// Also a null pointer.
    Wide(i64),
    Int(i32),
    Double(f64),
}

/// Launches a kernel on `device`; its output has sizes `dims`.
pub(super) fn launch(device: &CudaDevice, call: &Call, dims: &[usize], dtype: DType) -> Result<Tensor> {
    match dtype {
        DType::F64 => launch_as::<f64>(device, call, dims),
        _ => launch_as::<f32>(device, call, dims),
    }
}

fn launch_as<T: CudaDType + DeviceRepr>(device: &CudaDevice, call: &Call, dims: &[usize]) -> Result<Tensor> {
    let stream = device.cuda_stream();
    let capability = stream.context().compute_capability().w()?;
    let module = if call.real == DType::F64 { "deepzero-f64" } else { "deepzero-f32" };
    let function = device.get_or_load_custom_func(call.kernel, module, ptx(call.real, capability)?)?;
    // SAFETY: the memory is written by the kernel before anything reads it: every kernel writes all of its output.
    let out = unsafe { device.alloc(dims.iter().product()) };
    let mut out: CudaSlice<T> = out.map_err(|error| {
        let megabytes = (dims.iter().product::<usize>() * size_of::<T>()) >> 20;
        error.context(format!(
            "{}: no {megabytes} MiB more on the GPU; give --memory a smaller number, or the GPU fewer other tasks",
            call.kernel
        ))
    })?;
    let guards: Vec<_> = call
        .args
        .iter()
        .map(|arg| if let Arg::In(tensor) = arg { Some(tensor.storage_and_layout()) } else { None })
        .collect();
    let mut views = Vec::new();
    for guard in guards.iter().flatten() {
        let (storage, layout) = guard;
        let Storage::Cuda(storage) = &**storage else { bail!("{}: inputs on two devices", call.kernel) };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{}: an input with gaps", call.kernel)
        };
        views.push(match &storage.slice {
            CudaStorageSlice::F32(slice) => View::F32(slice.slice(start..end)),
            CudaStorageSlice::F64(slice) => View::F64(slice.slice(start..end)),
            CudaStorageSlice::U32(slice) => View::U32(slice.slice(start..end)),
            CudaStorageSlice::I32(slice) => View::I32(slice.slice(start..end)),
            _ => bail!("{}: no kernel reads such numbers", call.kernel),
        });
    }
    let scalars: Vec<Scalar> = call
        .args
        .iter()
        .filter_map(|arg| match arg {
            Arg::In(_) | Arg::Out => None,
            Arg::Missing => Some(Ok(Scalar::Wide(0))),
            Arg::Int(value) => Some(i32::try_from(*value).map(Scalar::Int)),
            Arg::Wide(value) => Some(i64::try_from(*value).map(Scalar::Wide)),
            Arg::Double(value) => Some(Ok(Scalar::Double(*value))),
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(candle_core::Error::wrap)?;
    let mut builder = function.builder();
    let (mut views, mut scalars) = (views.iter(), scalars.iter());
    let mut out_place = Some(&mut out);
    for arg in &call.args {
        match arg {
            Arg::In(_) => match views.next() {
                Some(View::F32(view)) => builder.arg(view),
                Some(View::F64(view)) => builder.arg(view),
                Some(View::U32(view)) => builder.arg(view),
                Some(View::I32(view)) => builder.arg(view),
                None => bail!("{}: inputs miscounted", call.kernel),
            },
            Arg::Out => match out_place.take() {
                Some(out) => builder.arg(out),
                None => bail!("{}: two outputs", call.kernel),
            },
            _ => match scalars.next() {
                Some(Scalar::Int(value)) => builder.arg(value),
                Some(Scalar::Wide(value)) => builder.arg(value),
                Some(Scalar::Double(value)) => builder.arg(value),
                None => bail!("{}: numbers miscounted", call.kernel),
            },
        };
    }
    let size = |n: usize| u32::try_from(n).map_err(candle_core::Error::wrap);
    let [x, y, z] = call.grid;
    let config = LaunchConfig {
        grid_dim: (size(x)?, size(y)?, size(z)?),
        block_dim: (size(call.threads)?, 1, 1),
        shared_mem_bytes: size(call.shared)?,
    };
    // SAFETY: arguments have the number, order and types of the kernel's declaration in `cu/` (the emulator checks the
    // number, tests on the host the rest), and inputs and output are as long as the sizes among them say.
    unsafe { builder.launch(config) }.w()?;
    drop(guards);
    let storage = CudaStorage::wrap_cuda_slice(out, device.clone());
    Ok(Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kernel compiles, for every generation of GPUs; it takes NVRTC but no GPU.
    #[test]
    fn kernels_compile() {
        for capability in [(7, 5), (8, 0), (8, 9), (9, 0)] {
            for real in [DType::F32, DType::F64] {
                let compiled = std::panic::catch_unwind(|| compile(real, capability));
                let Ok(ptx) = compiled else {
                    eprintln!("skipped: NVRTC cannot be loaded");
                    return;
                };
                let ptx = ptx.unwrap();
                for kernel in ["conv", "conv_seed", "moments", "normalize", "norm_affine", "norm_change"] {
                    assert!(ptx.contains(&format!(".entry {kernel}(")), "{kernel} {capability:?}");
                }
                let has_tensor_cores = real == DType::F32 && capability >= TENSOR_CORES;
                assert_eq!(ptx.contains(".entry conv_bf16("), has_tensor_cores, "{capability:?}");
            }
        }
    }
}
