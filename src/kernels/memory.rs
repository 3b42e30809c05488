//! How the process keeps its memory.

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
