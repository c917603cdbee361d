//! Opening CUDA at run time. The executable needs only `libtorch_cpu.so`; libtorch learns of CUDA when
//! `libtorch_cuda.so` is opened, so one binary serves both kinds of machine and a CPU start loads no gigabytes.

use std::ffi::{CStr, CString};

/// Opens a library for good, its symbols visible to all. The error is the dynamic linker's own text.
fn open(name: &str) -> Result<(), String> {
    let name = CString::new(name).expect("library names here have no NUL");
    // SAFETY: `name` is NUL-terminated; the initialisers of these libraries are what linking them would run, too.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: after a failed dlopen, dlerror returns a NUL-terminated text, valid until the next dl call of this thread.
    let reason = unsafe { libc::dlerror() };
    if reason.is_null() {
        return Err(format!("{} cannot be opened", name.to_string_lossy()));
    }
    // SAFETY: as above, and it is not null.
    Err(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned())
}

/// Number of usable CUDA devices, or why there are none.
pub(crate) fn open_cuda() -> Result<usize, String> {
    // The driver first: it is small and its absence is the usual answer.
    open("libcuda.so.1").map_err(|reason| format!("no CUDA driver: {reason}"))?;
    open("libtorch_cuda.so").map_err(|reason| format!("no CUDA build of libtorch: {reason}"))?;
    match usize::try_from(tch::Cuda::device_count()).unwrap_or(0) {
        0 => Err("the CUDA driver shows no device".into()),
        count => Ok(count),
    }
}
