//! The machine, as the system and the drivers tell.

use candle_core::Device;
use serde::Serialize;

use crate::Result;
use crate::kernels::Precision;
use crate::kernels::{Isa, Rounding};

/// The machine and the program on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct System {
    /// Version of the program.
    pub version: &'static str,
    /// Commit that it was built from.
    pub commit: &'static str,
    /// Optional parts that it was built with.
    pub features: Vec<&'static str>,
    /// Operating system and processor architecture.
    pub platform: String,
    /// Processor, as the system names it.
    pub cpu: String,
    /// Cores that the system offers this process.
    pub cores: usize,
    /// Threads in use.
    pub threads: usize,
    /// Instruction set of the kernels.
    pub kernels: &'static str,
    /// Those that this machine can run.
    pub kernels_available: Vec<&'static str>,
    /// Memory in bytes: all, and what is available; none where the system does not tell.
    pub memory: Option<(u64, u64)>,
    /// The GPU in use, if one is.
    pub gpu: Option<Gpu>,
    /// The MPI library, if the program is built with one.
    pub mpi: Option<String>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Memory in bytes: all, and what is free.
    pub memory: (u64, u64),
    /// CUDA version that the driver supports.
    pub driver: (i32, i32),
    /// Whether its tensor cores multiply TF32 and bf16.
    pub has_tensor_cores: bool,
}

impl System {
    /// This machine, with the GPU that `device` is, if it is one.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn of(device: &Device) -> Result<Self> {
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("DEEPZERO_COMMIT"),
            features: [("cuda", cfg!(feature = "cuda")), ("mpi", cfg!(feature = "mpi"))]
                .into_iter()
                .filter_map(|(name, is_on)| is_on.then_some(name))
                .collect(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: crate::results::cpu_name(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            kernels: Isa::current().name(),
            kernels_available: Isa::available().into_iter().map(Isa::name).collect(),
            memory: memory(),
            gpu: gpu(device)?,
            mpi: crate::ranks::library(),
        })
    }

    /// Whether the device multiplies in this precision: a GPU needs tensor cores, the CPU rounds by itself.
    #[must_use]
    pub fn can(&self, precision: Precision) -> bool {
        precision.rounding() == Rounding::None || self.gpu.as_ref().is_none_or(|gpu| gpu.has_tensor_cores)
    }
}

/// All memory and what is available, in bytes.
fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(1024 * kib)
    };
    Some((of("MemTotal")?, of("MemAvailable")?))
}

#[cfg(not(feature = "cuda"))]
#[expect(clippy::unnecessary_wraps, reason = "with CUDA a driver may fail")]
fn gpu(_: &Device) -> Result<Option<Gpu>> {
    Ok(None)
}

#[cfg(feature = "cuda")]
fn gpu(device: &Device) -> Result<Option<Gpu>> {
    use crate::kernels::batched::cuda;
    if device.is_cpu() {
        return Ok(None);
    }
    let gpu = cuda::Gpu::of(device)?;
    let (free, all) = gpu.memory;
    Ok(Some(Gpu {
        has_tensor_cores: gpu.has(Rounding::Tf32),
        name: gpu.name,
        capability: gpu.capability,
        multiprocessors: gpu.multiprocessors,
        memory: (all as u64, free as u64),
        driver: gpu.driver,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_described() {
        let system = System::of(&Device::Cpu).unwrap();
        assert!(system.gpu.is_none() && system.cores > 0 && !system.cpu.is_empty());
        assert!(system.kernels_available.contains(&system.kernels));
        assert!(system.can(Precision::Bf16) && system.can(Precision::F64));
        #[cfg(target_os = "linux")]
        {
            let (all, available) = system.memory.unwrap();
            assert!(available > 1 << 20 && all >= available);
        }
    }
}
