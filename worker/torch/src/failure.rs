//! Which of libtorch's errors are whose. Inside TorchScript they lose their types, so that only texts are left.

use gristmill_engine::RunError;
use tch::{Device, TchError};

use crate::accelerator::is_usable;
use crate::text::essence;

/// What libtorch's allocators say when memory is short: the caching allocator of CUDA, the allocator of the CPU, and C++.
const MEMORY: [&str; 4] = ["out of memory", "can't allocate memory", "not enough memory", "bad_alloc"];

/// Tells a job's fault from a lack of memory and from the end of the device.
pub(crate) fn run_error(error: &TchError, device: Device) -> RunError {
    let text = essence(error);
    if !is_usable(device) {
        RunError::DeviceLost(text)
    } else if is_memory(&error.to_string()) {
        RunError::OutOfMemory(text)
    } else {
        RunError::Failed(text)
    }
}

/// A false hit only makes batches smaller.
fn is_memory(text: &str) -> bool {
    MEMORY.iter().any(|says| text.contains(says))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_told_from_other_errors() {
        let torch = |text: &str| run_error(&TchError::Torch(text.into()), Device::Cpu);
        let memory = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to \
                      allocate 4611686018427387904 bytes. Error code 12 (Cannot allocate memory)";
        assert!(matches!(torch(memory), RunError::OutOfMemory(_)));
        assert!(matches!(torch("CUDA out of memory. Tried to allocate 20.00 GiB."), RunError::OutOfMemory(_)));
        assert!(matches!(torch("RuntimeError: mat1 and mat2 shapes cannot be multiplied"), RunError::Failed(_)));
    }
}
