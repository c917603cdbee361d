// What tch does not offer of libtorch's accelerators. No exception leaves this file: each function says in its result
// whether it succeeded.

#include <ATen/DeviceAccelerator.h>

// Waits for all work on a device. Fails if an earlier error has made its context unusable: such errors stick.
extern "C" bool gristmill_synchronize(int index) noexcept {
  try {
    at::accelerator::synchronizeDevice(static_cast<c10::DeviceIndex>(index));
    return true;
  } catch (...) {
    return false;
  }
}

// Returns the memory that libtorch keeps for later to the device.
extern "C" bool gristmill_empty_cache() noexcept {
  try {
    at::accelerator::emptyCache();
    return true;
  } catch (...) {
    return false;
  }
}
