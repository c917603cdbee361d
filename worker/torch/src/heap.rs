//! The C library's heap, which is libtorch's own on the CPU.

/// Has the heap keep what is freed, for the next batch. Call once, before there are threads.
///
/// A forward pass makes and frees tensors of megabytes, the same ones each time. glibc gives such blocks back to the system and
/// fetches them anew, and each page costs a fault, which `contest --workloads image` shows. One arena, since those of threads other than the
/// first are of 64 MiB at most. Does nothing where the environment has its own mind about it (`MALLOC_*`, `GLIBC_TUNABLES`) or the
/// C library is another.
pub fn keep_heap() {
    #[cfg(target_env = "gnu")]
    {
        // `MALLOC_CONF` is another allocator's.
        let has_say = |name: &str| (name.starts_with("MALLOC_") && name != "MALLOC_CONF") || name == "GLIBC_TUNABLES";
        if std::env::vars_os().any(|(name, _)| name.to_str().is_some_and(has_say)) {
            return;
        }
        let options =
            [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, 1 << 30), (libc::M_TRIM_THRESHOLD, libc::c_int::MAX)];
        for (option, value) in options {
            // SAFETY: takes two numbers; one that it does not like changes nothing.
            unsafe { libc::mallopt(option, value) };
        }
    }
}

/// Gives what the heap keeps back to the system.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0)
    };
}
