// SPDX-License-Identifier: Apache-2.0
// The stand-in of a build without CUDA; stand_in_device_cuda.cpp is its counterpart.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <array>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#include "support/stand_in_device.h"

namespace halftone::test {
namespace {

using torch::Tensor;

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
const torch::Device kDevice(kType, 0);

/// All is computed at once: an event has happened when it is recorded.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<kType> {
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  void record(void** /*event*/, const c10::Stream& /*stream*/, c10::DeviceIndex /*index*/,
              c10::EventFlag /*flag*/) const override {}
  void block(void* /*event*/, const c10::Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// --- what is counted
// ------------------------------------------------------------------------------

struct Waits {
  std::mutex mutex;
  std::vector<std::string> seen;
  bool counts = false;
};

Waits& waits() {
  static Waits instance;
  return instance;
}

void note_wait(const std::string& what, const Tensor& tensor) {
  const std::lock_guard lock(waits().mutex);
  if (waits().counts)
    waits().seen.push_back(c10::str(what, " ", tensor.sizes(), " ", tensor.dtype()));
}

// --- memory
// ---------------------------------------------------------------------------------------

/// The CPU's memory under the device's name.
class DeviceMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    auto* const memory = new c10::DataPtr(c10::GetCPUAllocator()->allocate(bytes));
    return {memory->get(), memory,
            [](void* context) { delete static_cast<c10::DataPtr*>(context); }, kDevice};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

/// Page-locked memory is known by its address.
class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    c10::DataPtr memory = c10::GetCPUAllocator()->allocate(bytes);
    const std::lock_guard lock(mutex_);
    pinned_.insert(memory.get());
    return memory;
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool holds(const void* address) const {
    const std::lock_guard lock(mutex_);
    return pinned_.contains(address);
  }

 private:
  mutable std::mutex mutex_;
  std::set<const void*> pinned_;
};

DeviceMemory device_memory;
PinnedMemory pinned_memory;

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex /*index*/) const override {
    static const at::Generator generator = at::detail::createCPUGenerator();
    return generator;
  }
  bool isPinnedPtr(const void* data) const override { return pinned_memory.holds(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
};

// --- the same memory as a tensor of the other device
// ----------------------------------------------

bool is_ours(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == kType; }

Tensor on_cpu(const Tensor& tensor) {
  // Where an operation is to put its result, it may need room first.
  if (tensor.numel() == 0)
    return at::empty(tensor.sizes(), tensor.options().device(torch::kCPU).requires_grad(false));
  const Tensor alias = at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {},
      tensor.options().device(torch::kCPU).requires_grad(false));
  alias._set_conj(tensor.is_conj());
  alias._set_neg(tensor.is_neg());
  return alias;
}

Tensor on_device(const Tensor& tensor) {
  if (!tensor.defined() || tensor.device().type() == kType) return tensor;
  auto* const keeps = new Tensor(tensor);
  c10::DataPtr data(
      tensor.data_ptr(), keeps, [](void* context) { delete static_cast<Tensor*>(context); },
      kDevice);
  std::size_t bytes = tensor.numel() == 0 ? 0 : tensor.itemsize();
  for (std::int64_t i = 0; i < tensor.dim() && bytes > 0; ++i)
    bytes += static_cast<std::size_t>((tensor.size(i) - 1) * tensor.stride(i)) * tensor.itemsize();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), &device_memory,
                       false);
  Tensor made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), tensor.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  return made;
}

/// The arguments of one call, as the CPU's kernel takes them.
class Translated {
 public:
  c10::IValue argument(const c10::IValue& value) {
    if (value.isTensor()) return tensor(value.toTensor());
    if (value.isDevice()) return c10::Device(torch::kCPU);
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& one : value.toTensorVector()) list.push_back(tensor(one));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const std::optional<Tensor>& one : value.toOptionalTensorVector())
        list.push_back(one ? std::optional(tensor(*one)) : one);
      return list;
    }
    return value;
  }
  c10::IValue result(const c10::IValue& value) const {
    if (value.isTensor()) return original(value.toTensor());
    if (!value.isTensorList()) return value;
    c10::List<Tensor> list;
    for (const Tensor& one : value.toTensorVector()) list.push_back(original(one));
    return list;
  }
  /// Gives what an out= argument has become to the tensor it stands for.
  void hand_back() const {
    for (const auto& [cpu, ours] : pairs_)
      if (cpu.sizes() != ours.sizes())
        ours.unsafeGetTensorImpl()->shallow_copy_from(on_device(cpu).getIntrusivePtr());
  }

 private:
  Tensor tensor(const Tensor& value) {
    if (!is_ours(value)) return value;
    pairs_.emplace_back(on_cpu(value), value);
    return pairs_.back().first;
  }
  Tensor original(const Tensor& value) const {
    for (const auto& [cpu, ours] : pairs_)
      if (cpu.is_same(value)) return ours;
    return on_device(value);
  }

  std::vector<std::pair<Tensor, Tensor>> pairs_;
};

void compute_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Translated translated;
  const std::size_t count = op.schema().arguments().size();
  const std::size_t begin = stack->size() - count;
  torch::jit::Stack arguments;
  for (std::size_t i = 0; i < count; ++i)
    arguments.push_back(translated.argument((*stack)[begin + i]));
  stack->resize(begin);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &arguments);
  translated.hand_back();
  for (const c10::IValue& result : arguments) stack->push_back(translated.result(result));
}

// --- kernels
// --------------------------------------------------------------------------------------

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                     std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> /*layout*/,
                     std::optional<c10::Device> /*device*/, std::optional<bool> /*pin*/) {
  return on_device(at::empty_strided(size, stride, dtype.value_or(torch::kFloat)));
}

Tensor empty(at::IntArrayRef size, std::optional<c10::ScalarType> dtype,
             std::optional<c10::Layout> /*layout*/, std::optional<c10::Device> /*device*/,
             std::optional<bool> /*pin*/, std::optional<c10::MemoryFormat> format) {
  return on_device(at::empty(size, torch::dtype(dtype.value_or(torch::kFloat)), format));
}

Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  if (is_ours(self) != is_ours(source)) {
    const Tensor& host = is_ours(self) ? source : self;
    if (!non_blocking || !host.is_pinned())
      note_wait(is_ours(self) ? "copy to the device" : "copy to the host", source);
  }
  Tensor to = is_ours(self) ? on_cpu(self) : self;
  to.copy_(is_ours(source) ? on_cpu(source) : source);
  return self;
}

at::Scalar local_scalar(const Tensor& self) {
  note_wait("read", self);
  return on_cpu(self).item();
}

// LibTorch asks devices that it does not know for these two by name.
std::optional<Tensor> on_cpu(const std::optional<Tensor>& tensor) {
  return tensor && tensor->defined() ? std::optional(on_cpu(*tensor)) : std::nullopt;
}

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                   bool transposed, at::IntArrayRef output_padding, std::int64_t groups) {
  return on_device(at::convolution(on_cpu(x), on_cpu(weight), on_cpu(bias), stride, padding,
                                   dilation, transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& g, const Tensor& x, const Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, std::int64_t groups, std::array<bool, 3> wanted) {
  const auto [d_x, d_weight, d_bias] = at::convolution_backward(
      on_cpu(g), on_cpu(x), on_cpu(weight), at::IntArrayRef({weight.size(0)}), stride, padding,
      dilation, transposed, output_padding, groups, wanted);
  return {on_device(d_x), on_device(d_weight), on_device(d_bias)};
}

void register_kernels() {
  static torch::Library aten(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__,
                             __LINE__);
  aten.impl("empty.memory_format", TORCH_FN(empty));
  aten.impl("empty_strided", TORCH_FN(empty_strided));
  aten.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  aten.impl("view", TORCH_FN(at::native::view));
  aten.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  aten.impl("copy_", TORCH_FN(copy_));
  aten.impl("convolution_overrideable", TORCH_FN(convolution));
  aten.impl("convolution_backward_overrideable", TORCH_FN(convolution_backward));
  aten.impl("_local_scalar_dense", TORCH_FN(local_scalar));
  static torch::Library rest(torch::Library::IMPL, "_", c10::DispatchKey::PrivateUse1, __FILE__,
                             __LINE__);
  rest.fallback(torch::CppFunction::makeFromBoxedFunction<&compute_on_cpu>());
}

/// A few of the operations that a GPU's autocast rounds for.
void register_autocast() {
  constexpr auto kKey = c10::DispatchKey::AutocastPrivateUse1;
  static torch::Library rest(torch::Library::IMPL, "_", kKey, __FILE__, __LINE__);
  rest.fallback(torch::CppFunction::makeFallthrough());
  static torch::Library m(torch::Library::IMPL, "aten", kKey, __FILE__, __LINE__);
  KERNEL_PRIVATEUSEONE(linear, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(matmul, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(mm, lower_precision_fp)
}

bool made() {
  c10::register_privateuse1_backend("standin");
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(kType, &device_memory);
  register_kernels();
  register_autocast();
  return true;
}

}  // namespace

torch::Device stand_in_device() {
  [[maybe_unused]] static const bool once = made();
  return kDevice;
}

bool has_stand_in() { return true; }

void move_to_stand_in(torch::nn::Module& module) {
  const torch::NoGradGuard no_grad;
  for (const Tensor& parameter : module.parameters()) {
    const Tensor moved = parameter.detach().to(stand_in_device());
    parameter.unsafeGetTensorImpl()->shallow_copy_from(moved.getIntrusivePtr());
  }
}

HostWaits::HostWaits() {
  const std::lock_guard lock(waits().mutex);
  waits().seen.clear();
  waits().counts = true;
}

HostWaits::~HostWaits() {
  const std::lock_guard lock(waits().mutex);
  waits().counts = false;
}

std::vector<std::string> HostWaits::seen() const {
  const std::lock_guard lock(waits().mutex);
  return waits().seen;
}

}  // namespace halftone::test
