//! What the functions of our C++ say. See `caught.h`.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;

use tch::{TchError, Tensor};

/// The error in what a call said, if there is one.
pub(crate) fn done(said: *const c_char) -> Result<(), TchError> {
    if said.is_null() {
        return Ok(());
    }
    // SAFETY: it ends in NUL, and stays as it is until this thread's next call.
    Err(TchError::Torch(unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned()))
}

/// The tensor that a call made.
pub(crate) fn tensor(call: impl FnOnce(*mut *mut c_void) -> *const c_char) -> Result<Tensor, TchError> {
    let mut out = null_mut();
    done(call(&raw mut out))?;
    // SAFETY: a tensor made for us alone.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}
