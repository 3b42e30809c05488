//! Memory that is written and not read.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::Simd;

use crate::kernels::Element;
use crate::kernels::memory::prefetch;

/// Numbers, or registers of them, that can only be written. A kernel that takes its output so may be given fresh
/// memory, which need not be cleared first.
#[derive(Debug)]
pub struct Out<'a, V>(&'a mut [MaybeUninit<V>]);

impl<'a, V: Copy> From<&'a mut [V]> for Out<'a, V> {
    #[inline(always)]
    fn from(slice: &'a mut [V]) -> Self {
        // SAFETY: `MaybeUninit<V>` has the layout of `V`, and nothing but values is ever written to the slice, which
        // therefore holds values when it is seen as `V` again.
        Self(unsafe { &mut *(std::ptr::from_mut(slice) as *mut [MaybeUninit<V>]) })
    }
}

impl<'a, V: Copy> Out<'a, V> {
    /// Memory that may hold nothing yet.
    #[inline(always)]
    pub fn fresh(slice: &'a mut [MaybeUninit<V>]) -> Self {
        Self(slice)
    }

    /// Number of values.
    #[must_use]
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no room.
    #[must_use]
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes a value.
    ///
    /// # Panics
    /// If there is no such place.
    #[inline(always)]
    pub fn put(&mut self, at: usize, value: V) {
        self.0[at].write(value);
    }

    /// Changes a value that has been written.
    ///
    /// # Panics
    /// If there is no such place.
    ///
    /// # Safety
    /// The place must have been written since it was fresh.
    #[inline(always)]
    pub(super) unsafe fn update(&mut self, at: usize, map: impl FnOnce(V) -> V) {
        let place = &mut self.0[at];
        // SAFETY: the caller wrote it.
        let value = unsafe { place.assume_init() };
        place.write(map(value));
    }

    /// Writes one value everywhere.
    #[inline(always)]
    pub fn fill(&mut self, value: V) {
        for place in &mut *self.0 {
            place.write(value);
        }
    }

    /// The same memory, for a while.
    #[inline(always)]
    pub fn again(&mut self) -> Out<'_, V> {
        Out(self.0)
    }

    /// A part of it.
    ///
    /// # Panics
    /// If it is not inside.
    #[inline(always)]
    pub fn part(&mut self, range: Range<usize>) -> Out<'_, V> {
        Out(&mut self.0[range])
    }

    /// Parts of `n` values, one after the other; what does not fill one is left out.
    pub fn chunks_exact(self, n: usize) -> impl Iterator<Item = Out<'a, V>> {
        self.0.chunks_exact_mut(n).map(Out)
    }

    /// All of it, filled with `value`, to read and write.
    pub fn cleared(mut self, value: V) -> &'a mut [V] {
        self.fill(value);
        // SAFETY: every place was written above, and `MaybeUninit<V>` has the layout of `V`.
        unsafe { &mut *(std::ptr::from_mut(self.0) as *mut [V]) }
    }

    /// Asks for the cache line of a place, which may lie beyond the end.
    #[inline(always)]
    pub(super) fn prefetch(&self, at: usize) {
        prefetch(self.0, at);
    }
}

impl<'a, T: Element> Out<'a, T> {
    /// As registers; a remainder shorter than one is left out.
    #[inline(always)]
    pub(super) fn vectors<S: Simd>(self) -> Out<'a, T::Vector<S>> {
        Out(T::vectors_fresh::<S>(self.0))
    }

    /// Writes `value` to the lanes from `n_images` on, of `lanes`.
    pub fn fill_lanes(&mut self, lanes: usize, n_images: usize, value: T) {
        if n_images < lanes {
            for group in self.0.chunks_exact_mut(lanes) {
                for place in &mut group[n_images..] {
                    place.write(value);
                }
            }
        }
    }
}
