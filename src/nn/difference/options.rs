//! How differences are propagated.

use crate::kernels::Rounding;
use crate::nn::loss::Loss;

/// Memory for changes in flight, beside the base activations: 1 GiB.
pub const DEFAULT_MEMORY: usize = 1 << 30;

/// How differences are propagated.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes that the changes of all threads occupy at most, however many probes there are; one probe at a time
    /// always runs.
    pub memory: usize,
    /// What the outputs are worth.
    pub loss: Loss,
    /// Rounding of what convolutions of dense changes multiply, as tensor cores round it. Everything else stays in
    /// the precision of the images.
    pub rounding: Rounding,
    /// Whether probes are batched on the CPU too, as they are on GPUs. It is slow there, and for tests.
    pub is_batched: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: DEFAULT_MEMORY, loss: Loss::default(), rounding: Rounding::None, is_batched: false }
    }
}
