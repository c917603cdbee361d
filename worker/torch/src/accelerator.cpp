// What tch does not offer of libtorch's accelerators. No exception leaves this file: each function says in its result
// whether it succeeded.

#include <ATen/DeviceAccelerator.h>
#include <ATen/core/CachingHostAllocator.h>

// Waits for all work on a device. Fails if an earlier error has made its context unusable: such errors stick.
extern "C" bool gristmill_synchronize(int index) noexcept {
  try {
    at::accelerator::synchronizeDevice(static_cast<c10::DeviceIndex>(index));
    return true;
  } catch (...) {
    return false;
  }
}

// Bytes in tensors on a device, and bytes that were freed and are kept.
extern "C" bool gristmill_memory(int index, uint64_t* used, uint64_t* cached) noexcept {
  try {
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto stats = at::accelerator::getDeviceStats(static_cast<c10::DeviceIndex>(index));
    const auto reserved = stats.reserved_bytes[all].current;
    *used = static_cast<uint64_t>(stats.allocated_bytes[all].current);
    *cached = static_cast<uint64_t>(reserved) - *used;
    return true;
  } catch (...) {
    return false;
  }
}

// Returns the memory that libtorch keeps for later to the device, and the page-locked memory to the host.
extern "C" bool gristmill_empty_cache() noexcept {
  try {
    // Where the first throws, the second is left out: the device is lost then.
    at::getHostAllocator(at::accelerator::getAccelerator(true).value())->empty_cache();
    at::accelerator::emptyCache();
    return true;
  } catch (...) {
    return false;
  }
}
