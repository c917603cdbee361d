// TorchScript modules. tch has them, too, but never lets go of the inputs of a `forward` that throws (0.24): each bad job would cost
// their memory for good.

#include <ATen/DeviceAccelerator.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <memory>
#include <string_view>
#include <vector>

#include "caught.h"

namespace {

using Tensors = std::vector<at::Tensor>;

Tensors tensors_of(const c10::ArrayRef<c10::IValue> values) {
  Tensors tensors;
  for (const auto& value : values) {
    TORCH_CHECK(value.isTensor(), "the model returned ", value.tagKind(), " where a tensor was expected");
    tensors.push_back(value.toTensor());
  }
  return tensors;
}

Tensors outputs_of(const c10::IValue& value, const char* const* names, size_t count) {
  if (value.isTensor()) {
    return {value.toTensor()};
  }
  if (value.isTensorList()) {
    return value.toTensorVector();
  }
  if (value.isTuple()) {
    return tensors_of(value.toTupleRef().elements());
  }
  if (value.isList()) {
    return tensors_of(value.toListRef());
  }
  TORCH_CHECK(value.isGenericDict(), "the model returned ", value.tagKind(), ", not a tensor, tuple or dict of tensors");
  const auto dict = value.toGenericDict();
  Tensors tensors;
  for (size_t at = 0; at < count; ++at) {
    const auto found = dict.find(std::string(names[at]));
    TORCH_CHECK(found != dict.end(), "the model's dict has no key \"", names[at], "\", which the manifest names");
    TORCH_CHECK(found->value().isTensor(), "the model returned ", found->value().tagKind(), " where a tensor was expected");
    tensors.push_back(found->value().toTensor());
  }
  return tensors;
}

} // namespace

// Loads a module onto the CPU (-1) or an accelerator.
extern "C" const char* gristmill_code_load(const char* path, int index, torch::jit::Module** out) noexcept {
  return caught([&] {
    c10::Device device(c10::kCPU);
    if (index >= 0) {
      device = {at::accelerator::getAccelerator(/*checked=*/true).value(), static_cast<c10::DeviceIndex>(index)};
    }
    auto module = std::make_unique<torch::jit::Module>(torch::jit::load(path, device));
    module->eval();
    *out = module.release();
  });
}

extern "C" void gristmill_code_free(torch::jit::Module* module) noexcept {
  delete module;
}

// Calls `forward`. Names are the keys of its outputs where it returns a dict.
extern "C" const char* gristmill_code_forward(
    torch::jit::Module* module, const at::Tensor* const* inputs, size_t inputs_count, const char* const* names,
    size_t names_count, Tensors** out) noexcept {
  return caught([&] {
    const at::NoGradGuard no_grad;
    std::vector<c10::IValue> arguments;
    arguments.reserve(inputs_count);
    for (size_t at = 0; at < inputs_count; ++at) {
      arguments.emplace_back(*inputs[at]);
    }
    *out = new Tensors(outputs_of(module->forward(std::move(arguments)), names, names_count));
  });
}

extern "C" size_t gristmill_outputs_count(const Tensors* outputs) noexcept {
  return outputs->size();
}

// Takes one out.
extern "C" const char* gristmill_outputs_take(Tensors* outputs, size_t index, at::Tensor** out) noexcept {
  return caught([&] { *out = new at::Tensor(std::move(outputs->at(index))); });
}

extern "C" void gristmill_outputs_free(Tensors* outputs) noexcept {
  delete outputs;
}

// Whether the code in a TorchScript file forks, or cannot be read.
extern "C" bool gristmill_forks(const char* path) noexcept {
  bool forks = false;
  const auto* unread = caught([&] {
    caffe2::serialize::PyTorchStreamReader archive{std::string(path)};
    for (const auto& name : archive.getAllRecords()) {
      if (name.starts_with("code/") && name.ends_with(".py")) {
        const auto [data, size] = archive.getRecord(name);
        const std::string_view code(static_cast<const char*>(data.get()), size);
        forks = forks || code.find("fork(") != std::string_view::npos;
      }
    }
  });
  return forks || unread != nullptr;
}
