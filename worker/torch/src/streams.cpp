// What tch does not offer of streams: the orders in which a device does its work while the host goes on. Only what all of
// libtorch's accelerators have in common is used, so that this links without any of their libraries.
//
// No exception leaves this file: each function returns a text to be freed, or nothing where it succeeded.

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>

namespace {

// What one thread has a device do.
struct Streams {
  c10::Stream run;
  // Inputs are fetched here, beside a run.
  c10::Stream copy;
};

template <typename Work>
char* caught(Work&& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception without a text");
  }
}

} // namespace

// Two streams of a device, of which the first becomes the present thread's own.
extern "C" char* gristmill_streams(int index, Streams** out) noexcept {
  return caught([&] {
    const auto type = at::accelerator::getAccelerator(/*checked=*/true).value();
    const c10::Device device(type, static_cast<c10::DeviceIndex>(index));
    const c10::impl::VirtualGuardImpl impl(type);
    at::accelerator::setDeviceIndex(device.index());
    auto* streams = new Streams{impl.getStreamFromGlobalPool(device), impl.getStreamFromGlobalPool(device)};
    *out = streams;
    at::accelerator::setCurrentStream(streams->run);
  });
}

extern "C" void gristmill_streams_free(Streams* streams) noexcept {
  delete streams;
}

// Host memory that the device reads by itself, of the elements of `like`.
extern "C" char* gristmill_host_memory(
    const at::Tensor* like, const int64_t* shape, size_t dims, at::Tensor** out) noexcept {
  return caught([&] {
    const auto options = like->options().device(at::kCPU).pinned_memory(true);
    *out = new at::Tensor(at::empty(at::IntArrayRef(shape, dims), options));
  });
}

// Begins to copy a tensor to the device. What is run after this call finds the copy complete; what runs now goes on.
extern "C" char* gristmill_upload(const Streams* streams, const at::Tensor* host, at::Tensor** out) noexcept {
  return caught([&] {
    const auto device = streams->run.device();
    at::Tensor uploaded;
    c10::Event copied(device.type());
    {
      const c10::StreamGuard guard(streams->copy);
      uploaded = host->to(at::TensorOptions(device), /*non_blocking=*/true);
      copied.record(streams->copy);
    }
    copied.block(streams->run);
    // The memory is the copy stream's: it may use it again when the run has let go of it, not when we have.
    const c10::impl::VirtualGuardImpl impl(device.type());
    impl.recordDataPtrOnStream(uploaded.storage().data_ptr(), streams->run);
    *out = new at::Tensor(std::move(uploaded));
  });
}

// Begins to copy a tensor to the host, contiguous, once what runs now has run.
extern "C" char* gristmill_download(const at::Tensor* tensor, at::Tensor** out) noexcept {
  return caught([&] {
    const auto source = tensor->detach().contiguous();
    const auto options = source.options().device(at::kCPU).pinned_memory(true);
    auto host = at::empty(source.sizes(), options);
    host.copy_(source, /*non_blocking=*/true);
    *out = new at::Tensor(std::move(host));
  });
}

// Waits until everything that was begun has been done. Errors of what ran show here.
extern "C" char* gristmill_wait(const Streams* streams) noexcept {
  return caught([&] { streams->run.synchronize(); });
}
