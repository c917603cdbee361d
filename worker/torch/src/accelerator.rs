//! The device as a whole: whether it is still of use after a failure, and its memory. See `accelerator.cpp`.

use gristmill_engine::DeviceMemory;
use libc::c_int;
use tch::Device;

unsafe extern "C" {
    fn gristmill_synchronize(index: c_int) -> bool;
    fn gristmill_memory(index: c_int, used: *mut u64, cached: *mut u64) -> bool;
    fn gristmill_empty_cache() -> bool;
}

/// Whether the device can go on. A CPU can; a CUDA context that met an illegal access or a failed assertion cannot, and no
/// call on it will ever succeed again.
pub(crate) fn is_usable(device: Device) -> bool {
    let Device::Cuda(index) = device else { return true };
    // SAFETY: takes a number, throws nothing.
    unsafe { gristmill_synchronize(number(index)) }
}

/// Memory of the accelerator of this index, as libtorch accounts for it.
pub(crate) fn memory(index: usize) -> Option<DeviceMemory> {
    let (mut used, mut cached) = (0, 0);
    // SAFETY: takes a number and two places of ours, throws nothing.
    let is_known = unsafe { gristmill_memory(number(index), &raw mut used, &raw mut cached) };
    is_known.then_some(DeviceMemory { used, cached })
}

fn number(index: usize) -> c_int {
    c_int::try_from(index).expect("a device that exists has a small number")
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
