//! The heaps of the process: the C library's, which is libtorch's own on the CPU, and mimalloc, which is ours.

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// How long mimalloc keeps a page that is not used any more, in milliseconds; an arena, ten times as long.
const PURGE_DELAY_MS: std::ffi::c_long = 1000;

/// `mi_option_purge_delay`, which the bindings lack.
const PURGE_DELAY: mi_option_t = 15;

/// Has the heaps keep what is freed, for the next batch. Call once, before there are threads. Where the environment has its own
/// mind about one of them, that one is left alone.
pub fn keep_heap() {
    keep_libtorchs();
    keep_ours();
}

/// Messages of many kilobytes come and go all the time. mimalloc gives pages back within a tenth of a second, and each costs a
/// fault when it is fetched anew, and the other cores an interruption when it is given back: `contest --workloads rows` shows both.
fn keep_ours() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: takes two numbers, and may be called at any time.
        unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
    }
}

/// A forward pass makes and frees tensors of megabytes, the same ones each time. glibc gives such blocks back to the system and
/// fetches them anew, and each page costs a fault, which `contest --workloads image` shows. One arena, since those of threads other than the
/// first are of 64 MiB at most. Does nothing where the environment has its own mind about it (`MALLOC_*`, `GLIBC_TUNABLES`) or the
/// C library is another.
fn keep_libtorchs() {
    #[cfg(target_env = "gnu")]
    {
        let has_say = |name: &str| name.starts_with("MALLOC_") || name == "GLIBC_TUNABLES";
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

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: takes a number.
        let get = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(get(), 10, "mimalloc's default delay; another value is another option, or another version");
        keep_ours();
        assert_eq!(get(), PURGE_DELAY_MS);
    }
}
