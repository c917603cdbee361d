// What tch does not offer of streams: the orders in which a device does its work while the host goes on. Only what all of
// libtorch's accelerators have in common is used, so that this links without any of their libraries.

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>
#include <optional>

#include "caught.h"

namespace {

// What one thread has a device do.
struct Streams {
  c10::Stream run;
  // Inputs are fetched here, beside a run.
  c10::Stream copy;
};

// Made once: what was freed on a stream is of use to that stream only, and a model that is loaded again is to find it.
thread_local std::optional<Streams> own;

at::Tensor view_of(const at::Tensor& buffer, at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::from_blob(buffer.data_ptr(), shape, options.device(at::kCPU));
}

} // namespace

// The present thread's streams of a device. It runs on a stream of its own, or on the one that all threads share.
extern "C" const char* gristmill_streams(int index, bool is_own, const Streams** out) noexcept {
  return caught([&] {
    const auto type = at::accelerator::getAccelerator(/*checked=*/true).value();
    const auto count = at::accelerator::deviceCount();
    TORCH_CHECK(index >= 0 && index < count, "device ", index, ": there are ", static_cast<int>(count));
    const c10::Device device(type, static_cast<c10::DeviceIndex>(index));
    const c10::impl::VirtualGuardImpl impl(type);
    at::accelerator::setDeviceIndex(device.index());
    if (!own || own->run.device() != device) {
      const auto run = is_own ? impl.getStreamFromGlobalPool(device) : impl.getDefaultStream(device);
      own.emplace(Streams{run, impl.getStreamFromGlobalPool(device)});
    }
    at::accelerator::setCurrentStream(own->run);
    *out = &*own;
  });
}

// Host memory that the device reads and writes by itself: page-locked. Ordinary memory where there is none of it: copies are slower
// then, and done when they return.
extern "C" const char* gristmill_buffer(size_t bytes, at::Tensor** out) noexcept {
  return caught([&] {
    const at::IntArrayRef::value_type shape[] = {static_cast<int64_t>(bytes)};
    try {
      *out = new at::Tensor(at::empty(shape, at::TensorOptions(at::kByte).pinned_memory(true)));
    } catch (const c10::Error&) {
      *out = new at::Tensor(at::empty(shape, at::TensorOptions(at::kByte)));
    }
  });
}

// Begins to copy a buffer to the device, as a tensor with elements like those of `like`.
extern "C" const char* gristmill_upload(
    const Streams* streams, const at::Tensor* buffer, const at::Tensor* like, const int64_t* shape, size_t dims,
    at::Tensor** out) noexcept {
  return caught([&] {
    const c10::StreamGuard guard(streams->copy);
    const auto from = view_of(*buffer, {shape, dims}, like->options());
    auto to = at::empty(from.sizes(), like->options().device(streams->run.device()));
    to.copy_(from, /*non_blocking=*/true);
    *out = new at::Tensor(std::move(to));
  });
}

// An output as the elements behind each other, in the order of what runs now. Returns how many bytes of it are to be downloaded: none
// where it is in the host's memory.
extern "C" const char* gristmill_output(
    const Streams* streams, const at::Tensor* tensor, at::Tensor** out, size_t* bytes) noexcept {
  return caught([&] {
    const c10::StreamGuard guard(streams->run);
    auto output = tensor->detach().resolve_conj().resolve_neg().contiguous();
    *bytes = output.device().is_cpu() ? 0 : output.nbytes();
    *out = new at::Tensor(std::move(output));
  });
}

// Begins to copy an output to a buffer, after what runs now.
extern "C" const char* gristmill_download(
    const Streams* streams, const at::Tensor* output, const at::Tensor* buffer) noexcept {
  return caught([&] {
    const c10::StreamGuard guard(streams->run);
    // Of another device's streams nobody here knows: its copy is awaited.
    const bool is_ours = output->device() == streams->run.device();
    view_of(*buffer, output->sizes(), output->options()).copy_(*output, /*non_blocking=*/is_ours);
  });
}

// A moment: when all is done that was begun on one of the streams.
extern "C" const char* gristmill_event(const Streams* streams, bool is_copy, c10::Event** out) noexcept {
  return caught([&] {
    const auto& stream = is_copy ? streams->copy : streams->run;
    auto event = std::make_unique<c10::Event>(stream.device_type());
    event->record(stream);
    *out = event.release();
  });
}

extern "C" void gristmill_event_free(c10::Event* event) noexcept {
  delete event;
}

// Waits for a moment. Errors of what was done until then show here.
extern "C" const char* gristmill_event_wait(const c10::Event* event) noexcept {
  return caught([&] { event->synchronize(); });
}

// From here on the present thread's work is a run, which begins at a moment.
extern "C" const char* gristmill_begin(const Streams* streams, const c10::Event* event) noexcept {
  return caught([&] {
    at::accelerator::setCurrentStream(streams->run);
    event->block(streams->run);
  });
}

// Ends what `gristmill_begin` began: had the model its work done on another stream, ours goes on behind that.
extern "C" const char* gristmill_end(const Streams* streams) noexcept {
  return caught([&] {
    const auto used = at::accelerator::getCurrentStream(streams->run.device_index());
    if (used != streams->run) {
      c10::Event ran(used.device_type());
      ran.record(used);
      ran.block(streams->run);
      at::accelerator::setCurrentStream(streams->run);
    }
  });
}

// An input after its run. Its memory is the copy stream's to use again once we let go of it; where the model has kept it, that is
// when what runs then is done.
extern "C" const char* gristmill_release(const Streams* streams, const at::Tensor* input) noexcept {
  return caught([&] {
    if (input->use_count() > 1 || input->storage().use_count() > 1) {
      const c10::impl::VirtualGuardImpl impl(streams->run.device_type());
      impl.recordDataPtrOnStream(input->storage().data_ptr(), streams->run);
    }
  });
}

// Waits for all that was begun.
extern "C" const char* gristmill_settle(const Streams* streams) noexcept {
  return caught([&] {
    streams->copy.synchronize();
    streams->run.synchronize();
  });
}
