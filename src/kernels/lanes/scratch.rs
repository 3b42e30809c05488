//! Memory that the operations on one block share.

use super::Buffer;

/// Memory that the operations on one block use in between; grows as needed.
#[derive(Debug, Default)]
pub struct Scratch<T> {
    /// A convolution's input with zeros around its planes.
    pub(super) padded: Buffer<T>,
    /// Transformed inputs of minimal filtering.
    pub(super) transformed: Buffer<T>,
    /// Transformed outputs of minimal filtering.
    pub(super) products: Buffer<T>,
}
