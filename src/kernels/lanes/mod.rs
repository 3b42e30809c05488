//! Activations with one image per lane of a register.
//!
//! An activation (B, C, H, W) is kept as blocks of as many images as a register has lanes: block,
//! channel, row, column, lane. All lanes then do the same arithmetic: no shuffles, no rests within
//! a register, and any number of channels, rows and columns at full speed. The operations work on
//! one block at a time, which fits the second-level cache where a batch does not.
//!
//! Lanes of the last block that hold no image compute along; only sums over images leave them out.

#![expect(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "index loops over constant ranges are what unrolls into registers reliably; iterator adapters are \
              not always inlined into vectorized code"
)]

pub mod conv;
pub mod conv_transpose;
pub mod finish;
pub mod geometry;
pub mod loss;
pub mod norm;
mod out;
pub mod pointwise;
pub mod position;
#[cfg(test)]
pub(super) mod reference;
mod scratch;
mod tile;
mod winograd;

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Element, Isa, Split};

pub use out::Out;
pub use scratch::Scratch;

/// Bytes of a cache line, and of the widest register.
const LINE: usize = 64;

/// Numbers that start at a cache line, so that no register-wide access crosses one.
#[derive(Debug, Default)]
pub struct Buffer<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Element> Buffer<T> {
    /// `len` zeros.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let data = vec![T::ZERO; len + LINE / size_of::<T>()];
        let start = data.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        Self { data, start, len }
    }

    /// Makes the buffer at least `len` numbers long; what it held is lost when it grows.
    pub fn reserve(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Self::zeroed(len);
        }
        &mut self[..len]
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..][..self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..][..self.len]
    }
}

/// Buffers to use again; there are few different lengths.
#[derive(Debug)]
pub struct Pool<T> {
    free: Vec<Buffer<T>>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { free: Vec::new() }
    }
}

impl<T: Element> Pool<T> {
    /// A buffer of `len` numbers with any content.
    #[must_use]
    pub fn take(&mut self, len: usize) -> Buffer<T> {
        match self.free.iter().rposition(|buffer| buffer.len() == len) {
            Some(at) => self.free.swap_remove(at),
            None => Buffer::zeroed(len),
        }
    }

    /// Gives a buffer back; an empty one is forgotten.
    pub fn give(&mut self, buffer: Buffer<T>) {
        if !buffer.is_empty() {
            self.free.push(buffer);
        }
    }
}

/// How a batch is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Images B.
    pub images: usize,
    /// Images per block.
    pub lanes: usize,
}

/// Numbers per image that are rearranged before the next image's are.
const REARRANGED: usize = 64;

struct LaneCount<T>(PhantomData<T>);

impl<T: Element> WithSimd for LaneCount<T> {
    type Output = usize;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        T::lanes::<S>()
    }
}

impl Blocks {
    /// Blocks of `images` images of numbers `T`, one per lane of the instruction set's registers.
    #[must_use]
    pub fn new<T: Element>(isa: Isa, images: usize) -> Self {
        Self { images, lanes: isa.dispatch(LaneCount::<T>(PhantomData)) }
    }

    /// Number of blocks.
    #[must_use]
    pub fn count(&self) -> usize {
        self.images.div_ceil(self.lanes)
    }

    /// Images in block `block`: fewer than lanes in the last one.
    #[must_use]
    pub fn images_in(&self, block: usize) -> usize {
        (self.images - block * self.lanes).min(self.lanes)
    }

    /// An activation (B, n) with `n` numbers per image, rearranged.
    #[must_use]
    pub fn rearrange<T: Element>(&self, split: Split, values: &[T], n: usize) -> Buffer<T> {
        let mut out = Buffer::zeroed(self.count() * n * self.lanes);
        let run = |(block, out): (usize, &mut [T])| self.rearrange_block(values, n, block, out);
        match split {
            Split::Serial => out.chunks_exact_mut(n * self.lanes).enumerate().for_each(run),
            Split::Threads => out.par_chunks_exact_mut(n * self.lanes).enumerate().for_each(run),
        }
        out
    }

    /// One block of it, in `out` (n, lane); lanes without an image become zero.
    pub fn rearrange_block<T: Element>(&self, values: &[T], n: usize, block: usize, out: &mut [T]) {
        let n_images = self.images_in(block);
        if n_images < self.lanes {
            out.fill(T::ZERO);
        }
        // A few lines of the output at a time, so that they stay in the first-level cache for all lanes.
        for (part, out) in out.chunks_mut(REARRANGED * self.lanes).enumerate() {
            for lane in 0..n_images {
                let image = &values[(block * self.lanes + lane) * n..][..n];
                let from = &image[part * REARRANGED..][..out.len() / self.lanes];
                for (out, &value) in out.chunks_exact_mut(self.lanes).zip(from) {
                    out[lane] = value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_at_a_line_and_blocks_cover_the_batch() {
        let mut buffer = Buffer::<f32>::zeroed(100);
        assert_eq!(buffer.as_ptr().align_offset(LINE), 0);
        assert_eq!(buffer.reserve(1000).len(), 1000);
        assert_eq!(buffer.as_ptr().align_offset(LINE), 0);
        let blocks = Blocks { images: 5, lanes: 4 };
        assert_eq!((blocks.count(), blocks.images_in(0), blocks.images_in(1)), (2, 4, 1));
        let values: Vec<f64> = (0..15).map(f64::from).collect();
        let out = blocks.rearrange(Split::Serial, &values, 3);
        assert_eq!(out[..12], [0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.]);
        assert_eq!(out[12..], [12., 0., 0., 0., 13., 0., 0., 0., 14., 0., 0., 0.]);
    }
}
