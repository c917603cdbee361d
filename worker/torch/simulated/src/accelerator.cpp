// libtorch's place for accelerators of others (PrivateUse1), filled with one that is made of threads.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <queue>
#include <set>
#include <thread>

namespace {

constexpr auto TYPE = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(TYPE, 0);

// What freed memory is overwritten with: somebody else has it then.
constexpr int FREED = 0xFF;

// How late a copy is made. Inputs are later than what a run reads or gives, so that a run that does not wait for them reads too early.
constexpr std::chrono::milliseconds TO_DEVICE(40);
constexpr std::chrono::milliseconds TO_HOST(10);

std::atomic<uint64_t> pending{0};
std::promise<void> release;
std::atomic<bool> is_lost{false};

// Does what it is given, in order.
class Queue {
 public:
  Queue() {
    std::thread([this] {
      for (;;) {
        next()();
      }
    }).detach();
  }

  void push(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    works_.push(std::move(work));
    filled_.notify_one();
  }

  // A moment in its order: ready once all that was given before is done.
  std::shared_future<void> mark() {
    const auto done = std::make_shared<std::promise<void>>();
    push([done] { done->set_value(); });
    return done->get_future().share();
  }

 private:
  std::function<void()> next() {
    std::unique_lock lock(mutex_);
    filled_.wait(lock, [this] { return !works_.empty(); });
    auto work = std::move(works_.front());
    works_.pop();
    return work;
  }

  std::mutex mutex_;
  std::condition_variable filled_;
  std::queue<std::function<void()>> works_;
};

std::mutex mutex;
// Never emptied: threads of theirs look at them until the process ends.
auto& queues = *new std::map<c10::StreamId, Queue>();
// Memory of the device, the stream it was made for and those that were told of it.
auto& memory = *new std::map<void*, std::set<c10::StreamId>>();
auto& pinned = *new std::set<const void*>();
std::atomic<int64_t> used{0};
std::atomic<int64_t> cached{0};
std::atomic<int64_t> pinned_cached{0};
thread_local c10::StreamId current = 0;

Queue& queue(c10::StreamId id) {
  const std::lock_guard lock(mutex);
  return queues[id];
}

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
    queue(which.id()).mark().wait();
    check();
  }
  void synchronizeDevice(c10::DeviceIndex) const override { check(); }
  static void check() { TORCH_CHECK(!is_lost, "an illegal memory access was encountered"); }

  void record(void** event, const c10::Stream& which, c10::DeviceIndex, c10::EventFlag) const override {
    *event = new std::shared_future<void>(queue(which.id()).mark());
  }
  void block(void* event, const c10::Stream& which) const override {
    const auto recorded = *static_cast<std::shared_future<void>*>(event);
    queue(which.id()).push([recorded] { recorded.wait(); });
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<std::shared_future<void>*>(event);
  }

  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& which) const override {
    const std::lock_guard lock(mutex);
    memory.at(data.get()).insert(which.id());
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// Once freed, memory is used again when all the streams that are known to use it have come so far.
void free_device(void* data) {
  std::set<c10::StreamId> users;
  {
    const std::lock_guard lock(mutex);
    users = std::move(memory.extract(data).mapped());
  }
  std::vector<std::shared_future<void>> marks;
  for (const auto id : users) {
    marks.push_back(queue(id).mark());
  }
  const size_t bytes = *(static_cast<size_t*>(data) - 8);
  used -= bytes;
  cached += bytes;
  queue(-1).push([=] {
    for (const auto& mark : marks) {
      mark.wait();
    }
    // Not given back to the heap, which would use it for something else: what reads it later is to find this.
    std::memset(data, FREED, bytes);
  });
}

struct DeviceMemory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    // Its size stands in the 64 bytes before it.
    auto* block = static_cast<char*>(std::aligned_alloc(64, 64 + (bytes + 63) / 64 * 64));
    *reinterpret_cast<size_t*>(block) = bytes;
    void* data = block + 64;
    std::memset(data, FREED, bytes);
    const std::lock_guard lock(mutex);
    memory[data] = {current};
    used += bytes;
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

void free_pinned(void* data) {
  const std::lock_guard lock(mutex);
  pinned.erase(data);
  pinned_cached += 1;
  std::free(data);
}

struct PinnedMemory final : at::HostAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::aligned_alloc(64, (bytes + 64) / 64 * 64);
    const std::lock_guard lock(mutex);
    pinned.insert(data);
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

// A copy of the present stream's. The host waits for it, unless it said it would not and its memory is page-locked.
at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  TORCH_CHECK(from.is_contiguous() && to.is_contiguous() && from.dtype() == to.dtype(), "it copies bytes only");
  const auto& host = from.device().is_cpu() ? from : to;
  const auto late = to.device().is_cpu() ? TO_HOST : TO_DEVICE;
  const bool is_awaited = !non_blocking || !host.is_pinned();
  ++pending;
  // Memory of the host is kept until then, as libtorch keeps it. Memory of the device is its streams' affair.
  queue(current).push([host, late, source = from.data_ptr(), target = to.data_ptr(), bytes = from.nbytes()] {
    std::this_thread::sleep_for(late);
    std::memcpy(target, source, bytes);
    --pending;
  });
  if (is_awaited) {
    queue(current).mark().wait();
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

extern "C" uint64_t simulated_pending() { return pending; }

extern "C" void simulated_hold() {
  release = std::promise<void>();
  queue(current).push([released = release.get_future().share()] { released.wait(); });
}

extern "C" void simulated_release() { release.set_value(); }

extern "C" void simulated_lose(bool lost) { is_lost = lost; }

extern "C" int64_t simulated_pinned_cached() { return pinned_cached; }
