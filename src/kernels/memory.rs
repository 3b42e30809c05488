//! How the process keeps its memory.

use std::alloc::{GlobalAlloc, Layout, System};

/// Tells glibc's allocator to keep what is freed and to use it again. By default it hands blocks the
/// size of an activation back to the system, and every operation pays for fresh pages: a third of a
/// training step. Elsewhere this does nothing. Call it first thing in a program, before threads start.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger blocks are mapped on their own; glibc takes no more.
        const LARGEST: libc::c_int = 32 << 20;
        // SAFETY: `mallopt` only sets parameters of the allocator, each by its documented name and
        // within its documented range.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            // Other arenas than the first give memory back whatever is set.
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Asks the processor to bring the number at an index into its nearest cache; an index beyond the end does no harm.
#[inline(always)]
pub(super) fn prefetch<V>(values: &[V], idx: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is a hint, which neither faults nor changes anything.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(idx).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, idx);
}

/// The system's allocator, with large blocks on cache lines: a register-wide access to a tensor that
/// starts anywhere else touches two lines each time. Install it in a program:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: deepzero::kernels::memory::CacheAligned = deepzero::kernels::memory::CacheAligned;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct CacheAligned;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Blocks from this size on are aligned.
const LARGE: usize = 4096;

impl CacheAligned {
    /// The layout that the system is asked for.
    fn widen(layout: Layout) -> Layout {
        if layout.size() < LARGE {
            return layout;
        }
        // A size that fits with its own alignment but not with a line's is refused by the system too.
        layout.align_to(LINE).unwrap_or(layout)
    }
}

// SAFETY: every call goes to the system's allocator with a layout of the same size and at least the
// alignment asked for. The layout follows from the caller's alone, so that freeing names the layout of
// the allocation; `realloc`, whose new size may widen differently, is the default one, which allocates,
// copies and frees.
unsafe impl GlobalAlloc for CacheAligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract, and see above.
        unsafe { System.alloc(Self::widen(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract, and see above.
        unsafe { System.alloc_zeroed(Self::widen(layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract, and see above.
        unsafe { System.dealloc(block, Self::widen(layout)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blocks_start_at_a_line() {
        for size in [1, 100, LARGE - 1, LARGE, 100_000, 40 << 20] {
            let layout = Layout::from_size_align(size, 4).expect("a valid layout");
            // SAFETY: the layout has a size; the block is freed with the same layout and not used after.
            unsafe {
                let block = CacheAligned.alloc(layout);
                assert!(!block.is_null());
                assert!(size < LARGE || block.align_offset(LINE) == 0, "{size}");
                block.write_bytes(1, size);
                CacheAligned.dealloc(block, layout);
                let block = CacheAligned.alloc_zeroed(layout);
                assert_eq!((*block, *block.add(size - 1)), (0, 0));
                let block = CacheAligned.realloc(block, layout, 2 * size);
                assert_eq!(*block.add(size - 1), 0);
                CacheAligned.dealloc(block, Layout::from_size_align(2 * size, 4).expect("a valid layout"));
            }
        }
    }
}
