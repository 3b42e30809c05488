//! What the machine can do at best: multiply-adds per second, bytes read per second.
//!
//! Both are measured, not looked up, on all threads of rayon's pool with the widest instruction set of
//! the machine. Frequency limits and neighbors on the machine are thus part of the peak, as they are
//! part of everything that is compared with it.

use std::hint::black_box;
use std::time::Instant;

use candle_core::Device;
use pulp::{Simd, WithSimd};
use serde::Serialize;

use super::GIGA;
use crate::Result;
use crate::kernels::{Element, Isa};

/// The machine, as the kernels see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// What computed: `cpu`, or the GPU's name.
    pub device: String,
    /// Processor, as the system names it.
    pub cpu: String,
    /// Threads in use.
    pub threads: usize,
    /// Instruction set of the kernels.
    pub kernels: &'static str,
    /// Fused multiply-adds on registers in f32, 10⁹ operations per second: measured on the CPU, calculated from
    /// clock and units for a GPU, without tensor cores.
    pub peak_gflops: f64,
    /// Reads from the device's memory, 10⁹ bytes per second: measured on the CPU, calculated for a GPU.
    pub bandwidth_gb_s: f64,
}

impl Machine {
    /// This machine and what it can do on `device`; on the CPU that takes about a second and [`READ_BYTES`] of
    /// memory.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn measure(device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if !device.is_cpu() {
            let gpu = crate::kernels::batched::cuda::Gpu::of(device)?;
            return Ok(Self {
                device: gpu.name.clone(),
                cpu: crate::results::cpu_name(),
                threads: rayon::current_num_threads(),
                kernels: "cuda",
                peak_gflops: gpu.peak_flops().map_or(f64::NAN, |flops| flops / GIGA),
                bandwidth_gb_s: gpu.bandwidth / GIGA,
            });
        }
        debug_assert!(device.is_cpu());
        let widest = *Isa::available().last().expect("the reference is always available");
        Ok(Self {
            device: "cpu".to_owned(),
            cpu: crate::results::cpu_name(),
            threads: rayon::current_num_threads(),
            kernels: Isa::current().name(),
            // As many chains of dependent operations as fit into 16 registers beside two operands, and
            // into 32. More than fit are slow, fewer than latency times throughput too; which of the
            // two a core wants, it tells itself.
            peak_gflops: fma_gflops::<14>(widest).max(fma_gflops::<28>(widest)),
            bandwidth_gb_s: read_gb_s(widest),
        })
    }

    /// Part of the peak that `gflops` is.
    #[must_use]
    pub fn share_of_peak(&self, gflops: f64) -> f64 {
        gflops / self.peak_gflops
    }
}

/// The most memory that this process has held so far, in bytes, where the system tells.
#[must_use]
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kib)
}

/// Passes of which the fastest counts: a peak is what nothing disturbed.
const PASSES: usize = 5;
/// Seconds that a pass takes at least, so that starting the threads costs nothing beside it.
const PASS_S: f64 = 0.02;

/// 10⁹ operations per second of fused multiply-adds in `CHAINS` chains per thread.
fn fma_gflops<const CHAINS: usize>(isa: Isa) -> f64 {
    let pass = |n_rounds: u64| {
        let start = Instant::now();
        let flops: u64 = rayon::broadcast(|_| isa.dispatch(Fma::<CHAINS> { n_rounds })).into_iter().sum();
        (flops as f64, start.elapsed().as_secs_f64())
    };
    let mut n_rounds = 1 << 16;
    while pass(n_rounds).1 < PASS_S {
        n_rounds *= 2;
    }
    let speeds = (0..PASSES).map(|_| pass(n_rounds)).map(|(flops, seconds)| flops / seconds);
    speeds.fold(0.0, f64::max) / GIGA
}

/// x ← a x + b, `CHAINS` registers at a time; its output is the number of operations.
struct Fma<const CHAINS: usize> {
    n_rounds: u64,
}

#[expect(clippy::needless_range_loop, reason = "constant ranges unroll into registers reliably")]
impl<const CHAINS: usize> WithSimd for Fma<CHAINS> {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        // Converges to 2: neither overflow nor denormal numbers, which would be slow.
        let (a, b) = (f32::splat(simd, black_box(0.5)), f32::splat(simd, black_box(1.0)));
        // Different from each other, or the compiler would see that one chain is enough.
        let mut x = [f32::splat(simd, 0.0); CHAINS];
        for i in 0..CHAINS {
            x[i] = f32::splat(simd, black_box(i as f32));
        }
        for _ in 0..self.n_rounds {
            for i in 0..CHAINS {
                x[i] = <f32 as Element>::mul_add(simd, x[i], a, b);
            }
        }
        for i in 0..CHAINS {
            black_box(f32::reduce_sum(simd, x[i]));
        }
        2 * (CHAINS * f32::lanes::<S>()) as u64 * self.n_rounds
    }
}

/// Memory read in a pass, by all threads together: several times the largest caches that a machine's
/// threads share.
pub const READ_BYTES: usize = 512 << 20;

/// 10⁹ bytes per second read by all threads, each from a buffer of its own.
fn read_gb_s(isa: Isa) -> f64 {
    let len = READ_BYTES / rayon::current_num_threads() / size_of::<f32>();
    // Written by the thread that will read it, so that on a machine with several memories it lies in
    // the near one, and not zero, since the system need not store zeros.
    let buffers = rayon::broadcast(|_| vec![1f32; len]);
    let pass = || {
        let start = Instant::now();
        rayon::broadcast(|thread| isa.dispatch(Read { buffer: &buffers[thread.index()] }));
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    (buffers.len() * len * size_of::<f32>()) as f64 / fastest / GIGA
}

/// The sum of a buffer.
struct Read<'a> {
    buffer: &'a [f32],
}

/// Registers summed at a time, so that no addition waits for the one before.
const READ_CHAINS: usize = 8;

#[expect(clippy::needless_range_loop, reason = "as in Fma")]
impl WithSimd for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let one = f32::splat(simd, 1.0);
        let mut sums = [f32::splat(simd, 0.0); READ_CHAINS];
        let vectors = f32::vectors::<S>(self.buffer);
        let mut start = 0;
        while start + READ_CHAINS <= vectors.len() {
            for i in 0..READ_CHAINS {
                sums[i] = <f32 as Element>::mul_add(simd, vectors[start + i], one, sums[i]);
            }
            start += READ_CHAINS;
        }
        for i in 0..READ_CHAINS {
            black_box(f32::reduce_sum(simd, sums[i]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the operations of the loop by hand: two per lane, chain and round.
    #[test]
    fn operations_are_counted() {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            fn with_simd<S: Simd>(self, _: S) -> usize {
                f32::lanes::<S>()
            }
        }
        for isa in Isa::available() {
            let expected = 2 * 14 * 10 * isa.dispatch(Lanes) as u64;
            assert_eq!(isa.dispatch(Fma::<14> { n_rounds: 10 }), expected, "{}", isa.name());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_only_grows() {
        let before = peak_memory_bytes().unwrap();
        assert!(before > 1 << 20);
        drop(black_box(vec![1u8; 64 << 20]));
        assert!(peak_memory_bytes().unwrap() >= before);
    }
}
