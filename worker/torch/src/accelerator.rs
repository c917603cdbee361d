//! The device after a failure: whether it is still of use, and memory given back to it. See `accelerator.cpp`.

use tch::Device;

unsafe extern "C" {
    fn gristmill_synchronize(index: libc::c_int) -> bool;
    fn gristmill_empty_cache() -> bool;
}

/// Whether the device can go on. A CPU can; a CUDA context that met an illegal access or a failed assertion cannot, and no
/// call on it will ever succeed again.
pub(crate) fn is_usable(device: Device) -> bool {
    let Device::Cuda(index) = device else { return true };
    let index = libc::c_int::try_from(index).expect("a device that exists has a small number");
    // SAFETY: takes a number, throws nothing.
    unsafe { gristmill_synchronize(index) }
}

/// Gives memory that is kept for later back to the device.
pub(crate) fn empty_cache(device: Device) {
    if device.is_cuda() {
        // SAFETY: takes nothing, throws nothing. A failure leaves the cache as it is.
        unsafe { gristmill_empty_cache() };
    } else {
        crate::heap::trim();
    }
}
