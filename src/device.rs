//! Where tensors live: the CPU, or a GPU by its number.

use candle_core::Device;

use crate::nn::difference::DEFAULT_MEMORY;
use crate::{Error, Result};

/// The device that a user names `cpu`, `cuda` or `cuda:N`, and its name in results: `cpu`, or that of the GPU.
///
/// # Errors
/// [`Error::Device`] if there is no such device, or the program is not built for it.
pub fn open(name: &str) -> Result<(Device, String)> {
    let refuse = |reason: String| Error::Device { device: name.to_owned(), reason };
    let ordinal = match name {
        "cpu" => return Ok((Device::Cpu, "cpu".to_owned())),
        "cuda" => 0,
        other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(ordinal) => ordinal,
            None => return Err(refuse("expected cpu, cuda or cuda:N".to_owned())),
        },
    };
    open_cuda(ordinal).map_err(refuse)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: usize) -> std::result::Result<(Device, String), String> {
    Err("this program is built without CUDA; build it with `--features cuda`, or use --device cpu".to_owned())
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> std::result::Result<(Device, String), String> {
    use crate::kernels::batched::cuda;
    let why = |error: candle_core::Error| {
        // A backtrace may follow.
        let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
        format!(
            "no such GPU can be used ({first_line}); check that `nvidia-smi` lists it, or use --device cpu"
        )
    };
    let device = cuda::device(ordinal).map_err(why)?;
    let gpu = cuda::Gpu::of(&device).map_err(why)?;
    Ok((device, gpu.name))
}

/// Bytes that changes in flight may occupy if the user says nothing: 1 GiB on the CPU, on a GPU most of what is free.
///
/// # Errors
/// If the driver fails.
pub fn default_memory(device: &Device) -> Result<usize> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => {
            let (free, _) = crate::kernels::batched::cuda::Gpu::of(device)?.memory;
            Ok((FREE_SHARE * free as f64) as usize)
        }
        _ => Ok(DEFAULT_MEMORY),
    }
}

/// Part of a GPU's free memory that changes may occupy: base activations and candle's own buffers need the rest.
#[cfg(feature = "cuda")]
const FREE_SHARE: f64 = 0.7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(open("cpu").unwrap().1, "cpu");
        for wrong in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            let error = open(wrong).unwrap_err().to_string();
            assert!(error.contains("expected cpu, cuda or cuda:N"), "{error}");
        }
        #[cfg(not(feature = "cuda"))]
        assert!(open("cuda:1").unwrap_err().to_string().contains("built without CUDA"));
    }
}
