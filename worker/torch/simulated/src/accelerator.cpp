// libtorch's place for accelerators of others (PrivateUse1), filled with one that does nothing before it has to.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>

namespace {

constexpr auto TYPE = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(TYPE, 0);

// What memory holds that nobody has written: that of a tensor that was freed, too, since somebody else may have it.
constexpr int UNKNOWN = 0xFF;

std::atomic<bool> is_lost{false};
std::atomic<bool> lacks_pinned{false};
std::atomic<int64_t> pending{0};
std::atomic<int64_t> used{0};
std::atomic<int64_t> cached{0};
std::atomic<int64_t> pinned_cached{0};
std::atomic<int64_t> pinned_made{0};

void check() { TORCH_CHECK(!is_lost, "an illegal memory access was encountered"); }

// A device tells that it is lost where memory is freed that its streams may still use, and there is nobody to tell: libtorch frees in
// destructors. With CUDA the process ends there.
void free_of_lost_device() {
  if (is_lost) {
    std::fputs("memory in use by streams of a lost device was freed\n", stderr);
    std::abort();
  }
}

struct Work {
  std::function<void()> go;
  // Memory gets another user. That is done as soon as it may be, all else as late.
  bool is_reuse;
};

// What a stream was given, in order. Done is what somebody has waited for, and what that had to come after.
struct Queue {
  std::deque<Work> works;
  uint64_t given = 0;
  uint64_t done = 0;
};

struct Moment {
  c10::StreamId stream;
  uint64_t given;
};

// Of memory: who may use it.
struct Block {
  size_t bytes = 0;
  c10::StreamId stream = 0;
  std::set<c10::StreamId> others;
};

std::recursive_mutex mutex;
auto& queues = *new std::map<c10::StreamId, Queue>();
auto& memory = *new std::map<void*, Block>();
auto& pinned = *new std::map<const void*, Block>();
thread_local c10::StreamId current = 0;

void wait_for(Moment moment) {
  auto& queue = queues[moment.stream];
  while (queue.done < moment.given || (!queue.works.empty() && queue.works.front().is_reuse)) {
    const auto work = std::move(queue.works.front());
    queue.works.pop_front();
    ++queue.done;
    work.go();
  }
}

void give(c10::StreamId stream, std::function<void()> go, bool is_reuse = false) {
  auto& queue = queues[stream];
  queue.works.push_back({std::move(go), is_reuse});
  ++queue.given;
  wait_for({stream, queue.done});
}

Moment now(c10::StreamId stream) { return {stream, queues[stream].given}; }

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return TYPE; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  static c10::Stream stream(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, DEVICE, id); }
  c10::Stream getStream(c10::Device) const override { return stream(current); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override {
    static std::atomic<c10::StreamId> last{0};
    return stream(++last);
  }
  c10::Stream exchangeStream(c10::Stream next) const override { return stream(std::exchange(current, next.id())); }
  void synchronizeStream(const c10::Stream& which) const override {
    const std::lock_guard lock(mutex);
    wait_for(now(which.id()));
    check();
  }
  void synchronizeDevice(c10::DeviceIndex) const override {
    const std::lock_guard lock(mutex);
    for (auto& [id, queue] : queues) {
      wait_for(now(id));
    }
    check();
  }

  void record(void** event, const c10::Stream& which, c10::DeviceIndex, c10::EventFlag) const override {
    const std::lock_guard lock(mutex);
    check();
    *event = new Moment(now(which.id()));
  }
  void block(void* event, const c10::Stream& which) const override {
    const std::lock_guard lock(mutex);
    give(which.id(), [moment = *static_cast<Moment*>(event)] { wait_for(moment); });
  }
  void synchronizeEvent(void* event) const override {
    const std::lock_guard lock(mutex);
    wait_for(*static_cast<Moment*>(event));
    check();
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override { delete static_cast<Moment*>(event); }

  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& which) const override {
    const std::lock_guard lock(mutex);
    if (data.get() != nullptr) {
      memory.at(data.get()).others.insert(which.id());
    }
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// Its stream uses it again, in its own order, unless others are known to use it. Never given back to the heap: what reads it later is to
// find out.
void free_device(void* data) {
  const std::lock_guard lock(mutex);
  const auto block = memory.extract(data).mapped();
  used -= static_cast<int64_t>(block.bytes);
  cached += static_cast<int64_t>(block.bytes);
  const auto reuse = [data, bytes = block.bytes] { std::memset(data, UNKNOWN, bytes); };
  for (const auto stream : block.others) {
    free_of_lost_device();
    give(stream, reuse, true);
  }
  if (block.others.empty()) {
    give(block.stream, reuse, true);
  }
}

struct DeviceMemory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &c10::detail::deleteNothing, DEVICE};
    }
    const std::lock_guard lock(mutex);
    void* data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    std::memset(data, UNKNOWN, bytes);
    memory[data] = {bytes, current, {}};
    used += static_cast<int64_t>(bytes);
    return {data, data, &free_device, DEVICE};
  }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override { cached = 0; }
  void recordStream(const c10::DataPtr& data, c10::Stream which) override {
    Guard().recordDataPtrOnStream(data, which);
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].current = used;
    stats.reserved_bytes[0].current = used + cached;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
  c10::DeleterFnPtr raw_deleter() const override { return &free_device; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

// Kept for as long as the streams that copy from or to it.
void free_pinned(void* data) {
  const std::lock_guard lock(mutex);
  const auto block = pinned.extract(data).mapped();
  pinned_cached += 1;
  for (const auto stream : block.others) {
    free_of_lost_device();
    give(stream, [data, bytes = block.bytes] { std::memset(data, UNKNOWN, bytes); }, true);
  }
}

struct PinnedMemory final : at::HostAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    const std::lock_guard lock(mutex);
    TORCH_CHECK(!lacks_pinned, "no page-locked memory");
    void* data = std::aligned_alloc(64, (bytes + 64) / 64 * 64);
    std::memset(data, UNKNOWN, bytes);
    pinned[data] = {bytes, 0, {}};
    pinned_made += 1;
    return {data, data, &free_pinned, c10::Device(c10::kCPU)};
  }
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override { pinned_cached = 0; }
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

DeviceMemory device_memory;
PinnedMemory pinned_memory;

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  at::Device getDeviceFromPtr(void*) const override { return DEVICE; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  bool isPinnedPtr(const void* data) const override {
    const std::lock_guard lock(mutex);
    return pinned.count(data) > 0;
  }
};

at::Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &device_memory, keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &device_memory, keys, c10::dtype_or_default(dtype));
}

// A copy of the present stream's. The host waits for it where it takes part, unless it said it would not and its memory is page-locked.
at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  TORCH_CHECK(from.is_contiguous() && to.is_contiguous() && from.dtype() == to.dtype(), "it copies bytes only");
  const std::lock_guard lock(mutex);
  check();
  const auto host = from.device().is_cpu() ? from.data_ptr() : to.device().is_cpu() ? to.data_ptr() : nullptr;
  const auto found = pinned.find(host);
  if (found != pinned.end()) {
    found->second.others.insert(current);
  }
  ++pending;
  give(current, [source = from.data_ptr(), target = to.data_ptr(), bytes = from.nbytes()] {
    std::memcpy(target, source, bytes);
    --pending;
  });
  if (host != nullptr && (!non_blocking || found == pinned.end())) {
    wait_for(now(current));
    check();
  }
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  TORCH_CHECK(from.sizes() == to.sizes(), "it resizes nothing");
  return copy_from(from, to, false);
}

void on_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) { at::native::cpu_fallback(op, stack); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>());
}

} // namespace

extern "C" void simulated_register() {
  c10::register_privateuse1_backend("simulated");
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(TYPE, &device_memory);
  at::setHostAllocator(TYPE, &pinned_memory);
}

// The numbers are those of `lib.rs`.
extern "C" int64_t simulated_count(int what) {
  switch (what) {
    case 0:
      return pending;
    case 1:
      return pinned_cached;
    case 2:
      return pinned_made;
    default:
      return current;
  }
}

extern "C" void simulated_set(int what, bool value) { (what == 0 ? is_lost : lacks_pinned) = value; }

extern "C" void simulated_switch() { current = Guard().getStreamFromGlobalPool(DEVICE, false).id(); }
