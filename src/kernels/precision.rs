//! Arithmetic of networks: number types, and the rounding of what convolutions multiply.

use candle_core::DType;

use super::Rounding;

crate::choice! {
    /// Arithmetic of the forward pass.
    pub enum Precision {
        /// Single precision.
        F32 = "f32",
        /// Double precision.
        F64 = "f64",
        /// Single precision; where differences are propagated, convolutions multiply numbers rounded to TF32.
        Tf32 = "tf32",
        /// Single precision; where differences are propagated, convolutions multiply numbers rounded to bfloat16.
        Bf16 = "bf16",
    }
}

impl Precision {
    /// Number type of activations.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Tf32 | Self::Bf16 => DType::F32,
            Self::F64 => DType::F64,
        }
    }

    /// Unit roundoff of a loss.
    #[must_use]
    pub fn resolution(self) -> f64 {
        match self {
            Self::F64 => f64::EPSILON,
            Self::F32 | Self::Tf32 | Self::Bf16 => f64::from(f32::EPSILON),
        }
    }

    /// What is rounded where differences are propagated.
    #[must_use]
    pub fn rounding(self) -> Rounding {
        match self {
            Self::F32 | Self::F64 => Rounding::None,
            Self::Tf32 => Rounding::Tf32,
            Self::Bf16 => Rounding::Bf16,
        }
    }
}
