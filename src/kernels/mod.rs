//! The hot loops: convolution, batch normalization, pooling.
//!
//! A test holds each operation to its definition, written out as plain loops, or to the candle
//! expression for it. The kernels are written once against [`pulp`]'s vectors and compiled for every
//! instruction set; which one runs is decided at run time, or by the environment variable
//! `DEEPZERO_KERNELS` (`portable`, `avx2`, `avx512` or `neon`).

pub mod batched;
pub mod element;
pub mod lanes;
pub mod memory;
pub mod ops;
mod precision;
mod rounding;

use std::sync::OnceLock;

use pulp::{Simd, WithSimd};

pub use element::Element;
pub use precision::Precision;
pub use rounding::Rounding;

/// Instruction set that the fast kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// One number at a time, with whatever the compiler's baseline offers.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
    /// 128-bit vectors of aarch64.
    Neon,
}

impl Isa {
    /// Name as reported in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this machine can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => pulp::x86::V3::try_new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => pulp::x86::V4::try_new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => pulp::aarch64::Neon::try_new().is_some(),
            _ => false,
        }
    }

    /// The instruction sets that this machine can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// The one in use: `DEEPZERO_KERNELS` if it names one that is available, else the fastest.
    #[must_use]
    pub fn current() -> Self {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let available = Self::available();
            let fastest = *available.last().expect("the portable set is always available");
            let Ok(wanted) = std::env::var("DEEPZERO_KERNELS") else { return fastest };
            available.into_iter().find(|isa| isa.name() == wanted).unwrap_or_else(|| {
                tracing::warn!("DEEPZERO_KERNELS={wanted} is not available here; using {}", fastest.name());
                fastest
            })
        })
    }

    /// Runs `op` compiled for this instruction set.
    pub fn dispatch<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Simd::vectorize(pulp::x86::V4::try_new().expect("only an available set is current"), op)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                Simd::vectorize(pulp::x86::V3::try_new().expect("only an available set is current"), op)
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => {
                Simd::vectorize(pulp::aarch64::Neon::try_new().expect("only an available set is current"), op)
            }
            _ => Simd::vectorize(pulp::Scalar, op),
        }
    }
}

/// How one operation uses the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// On the calling thread alone: inside a probe, where probes already fill the threads.
    Serial,
    /// Over images and channels, with results that do not depend on the number of threads.
    Threads,
}
