//! A device's streams, as one thread uses them. See `streams.cpp`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;

use tch::{Device, Kind, TchError, Tensor};

unsafe extern "C" {
    fn gristmill_streams(index: c_int, out: *mut *mut c_void) -> *mut c_char;
    fn gristmill_streams_free(streams: *mut c_void);
    fn gristmill_host_memory(like: *const c_void, shape: *const i64, dims: usize, out: *mut *mut c_void)
    -> *mut c_char;
    fn gristmill_upload(streams: *const c_void, host: *const c_void, out: *mut *mut c_void) -> *mut c_char;
    fn gristmill_download(tensor: *const c_void, out: *mut *mut c_void) -> *mut c_char;
    fn gristmill_wait(streams: *const c_void) -> *mut c_char;
}

/// Two streams of a device: what runs, and what is copied to the device meanwhile. Not [`Send`]: the thread that made it is the one
/// whose work goes to the first.
pub(crate) struct Streams(*mut c_void);

impl Streams {
    /// Of the accelerator of this index.
    pub(crate) fn try_new(index: usize) -> Result<Self, TchError> {
        let index = c_int::try_from(index).map_err(|_| TchError::Torch(format!("device {index}: no such device")))?;
        // SAFETY: `out` is ours to be written to.
        made(|out| unsafe { gristmill_streams(index, out) }).map(Self)
    }

    /// Host memory that the device reads by itself, without the processor's help: page-locked. Libtorch keeps it for the next of its size.
    pub(crate) fn host_memory(&self, shape: &[i64], kind: Kind) -> Result<Tensor, TchError> {
        let like = Tensor::f_empty([0], (kind, Device::Cpu))?;
        // SAFETY: a tensor, a shape of so many dimensions, and a place for what is made.
        tensor(|out| unsafe { gristmill_host_memory(like.as_ptr().cast(), shape.as_ptr(), shape.len(), out) })
    }

    /// Begins to copy a tensor to the device, beside what runs there. What is run after this call finds it there.
    pub(crate) fn upload(&self, host: &Tensor) -> Result<Tensor, TchError> {
        // SAFETY: streams and a tensor that live; libtorch keeps the memory of both until the copy is done.
        tensor(|out| unsafe { gristmill_upload(self.0, host.as_ptr().cast(), out) })
    }

    /// Begins to copy what runs now to host memory, contiguous. It is there after [`Streams::wait`].
    pub(crate) fn download(&self, output: &Tensor) -> Result<Tensor, TchError> {
        // SAFETY: a tensor that lives; libtorch keeps its memory until the copy is done.
        tensor(|out| unsafe { gristmill_download(output.as_ptr().cast(), out) })
    }

    /// Waits until everything that was begun is done. Errors of what ran show here.
    pub(crate) fn wait(&self) -> Result<(), TchError> {
        // SAFETY: streams that live.
        done(unsafe { gristmill_wait(self.0) })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // SAFETY: made by `gristmill_streams`, and freed once.
        unsafe { gristmill_streams_free(self.0) };
    }
}

/// What a call made.
fn made(call: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Result<*mut c_void, TchError> {
    let mut out = null_mut();
    done(call(&raw mut out))?;
    // A text that found no memory is none.
    if out.is_null() { Err(TchError::Torch("out of memory".into())) } else { Ok(out) }
}

fn tensor(call: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Result<Tensor, TchError> {
    // SAFETY: a tensor made for us alone.
    made(call).map(|out| unsafe { Tensor::from_ptr(out.cast()) })
}

/// The error in the text of a call, if there is one.
fn done(text: *mut c_char) -> Result<(), TchError> {
    if text.is_null() {
        return Ok(());
    }
    // SAFETY: the text of a call ends in NUL, and is ours to free.
    let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: as above; it came from `strdup`.
    unsafe { libc::free(text.cast()) };
    Err(TchError::Torch(owned))
}
