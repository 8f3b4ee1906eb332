// SPDX-License-Identifier: Apache-2.0
// How the policy of an autocast kernel is found: the kernel is called with tensors that have a
// dtype and a device but no data, in a scope where every call that it makes in turn is caught.
// Casts are answered with a tensor of the new dtype; the first call that is no cast is the
// operation itself, and its arguments tell the policy.
#include <ATen/core/LegacyTypeDispatch.h>
#include <fmt/format.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "halftone/autocast/cast_kernel_impl.h"
#include "halftone/autocast/cast_policy.h"
#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::DeviceType;
using torch::ScalarType;
using torch::Tensor;
using torch::jit::Stack;

// A key that LibTorch sets aside for tests of such interception: nothing else listens to it.
constexpr auto kCatching = c10::DispatchKey::TESTING_ONLY_GenericMode;

/// What a kernel finally called.
struct CaughtCall {
  std::string op;
  std::vector<ScalarType> dtypes;  // of its tensors, in order
  bool asks_for_fp32 = false;      // by an argument that is a dtype
};

Tensor without_data(DeviceType device, ScalarType dtype) {
  const auto backend = device == torch::kCPU ? c10::DispatchKey::CPU : c10::DispatchKey::CUDA;
  return at::detail::make_tensor<c10::TensorImpl>(
      c10::DispatchKeySet(backend), c10::scalarTypeToTypeMeta(dtype), c10::Device(device, 0));
}

void catch_call(const c10::OperatorHandle& op, Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const std::size_t first = stack->size() - arguments.size();
  if (op.operator_name().name == "aten::to") {
    const Tensor x = (*stack)[first].toTensor();
    const ScalarType dtype = (*stack)[first + 1].toScalarType();
    torch::jit::drop(*stack, arguments.size());
    torch::jit::push(*stack, without_data(x.device().type(), dtype));
    return;
  }
  CaughtCall call{c10::toString(op.operator_name()), {}, false};
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const c10::IValue& value = (*stack)[first + i];
    if (value.isTensor() && value.toTensor().defined())
      call.dtypes.push_back(value.toTensor().scalar_type());
    if (value.isTensorList())
      for (const Tensor& tensor : value.toTensorVector())
        call.dtypes.push_back(tensor.scalar_type());
    if (arguments[i].name() == "dtype" && value.isInt())
      call.asks_for_fp32 = value.toScalarType() == torch::kFloat;
  }
  throw call;
}

/// Hands out fp32 or the low dtype for one tensor after the other.
class Dtypes {
 public:
  Dtypes(ScalarType first, ScalarType rest) : next_(first), rest_(rest) {}
  ScalarType next() { return std::exchange(next_, rest_); }

 private:
  ScalarType next_;
  ScalarType rest_;
};

c10::IValue made_up(const c10::Argument& argument, DeviceType device, Dtypes& dtypes) {
  const auto tensor = [&] { return without_data(device, dtypes.next()); };
  const c10::TypePtr& type = argument.type();
  if (type->isSubtypeOf(*c10::TensorType::get())) return tensor();
  if (type->isSubtypeOf(*c10::ListType::ofTensors()))
    return std::vector<Tensor>{tensor(), tensor()};
  if (argument.default_value()) return *argument.default_value();
  switch (type->kind()) {
    case c10::TypeKind::OptionalType:
      return {};
    case c10::TypeKind::BoolType:
      return false;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::NumberType:
      return 1.0;
    case c10::TypeKind::StringType:
      return "mean";
    case c10::TypeKind::ListType: {
      const c10::TypePtr element = type->castRaw<c10::ListType>()->getElementType();
      if (element->kind() == c10::TypeKind::OptionalType) return c10::List<std::optional<Tensor>>();
      if (element->kind() == c10::TypeKind::BoolType) return c10::List<bool>();
      if (element->kind() == c10::TypeKind::FloatType) return c10::List<double>();
      return c10::List<std::int64_t>({1});
    }
    default:
      return 1;
  }
}

/// What `op` calls under autocast when its first tensor is `first` and the others are `rest`;
/// nothing where it refuses.
std::optional<CaughtCall> call_under_autocast(const c10::OperatorHandle& op, DeviceType device,
                                              ScalarType first, ScalarType rest) {
  const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device);
  Dtypes dtypes(first, rest);
  Stack stack;
  for (const c10::Argument& argument : op.schema().arguments())
    stack.push_back(made_up(argument, device, dtypes));
  const c10::impl::IncludeDispatchKeyGuard catching(kCatching);
  try {
    op.getComputedKernelForDispatchKey(key).callBoxed(op, c10::DispatchKeySet(key), &stack);
  } catch (const CaughtCall& call) {
    return call;
  } catch (const c10::Error&) {
  }
  return {};
}

/// Nothing for a kernel that changes nothing.
std::optional<CastPolicy> policy_of(const c10::OperatorHandle& op, DeviceType device) {
  const ScalarType low = at::autocast::get_autocast_dtype(device);
  const auto wide_call = call_under_autocast(op, device, torch::kFloat, torch::kFloat);
  const auto low_call = call_under_autocast(op, device, low, low);
  const auto mixed_call = call_under_autocast(op, device, torch::kFloat, low);
  if (!wide_call || !low_call || !mixed_call) return CastPolicy::kRefused;
  const auto all_are = [](const CaughtCall& call, ScalarType dtype) {
    return std::all_of(call.dtypes.begin(), call.dtypes.end(),
                       [dtype](ScalarType d) { return d == dtype; });
  };
  if (all_are(*wide_call, low)) return CastPolicy::kLowerPrecision;
  if (all_are(*low_call, torch::kFloat)) return CastPolicy::kFp32;
  if (low_call->asks_for_fp32) return CastPolicy::kFp32Dtype;
  const bool several = mixed_call->dtypes.size() > 1;
  if (several && all_are(*mixed_call, torch::kFloat)) return CastPolicy::kWidest;
  return {};
}

}  // namespace

std::vector<AutocastEntry> autocast_policy(DeviceType device) {
  HALFTONE_CHECK(device == torch::kCPU || device == torch::kCUDA,
                 "[autocast_policy] expected the CPU or CUDA, got ", device);
  const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device);
  torch::Library catching(torch::Library::IMPL, "_", kCatching, __FILE__, __LINE__);
  catching.fallback(torch::CppFunction::makeFromBoxedFunction<&catch_call>());
  std::vector<AutocastEntry> entries;
  c10::Dispatcher& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getRegistrationsForDispatchKey(key)) {
    const auto op = dispatcher.findSchema(name);
    if (!op || op->isKernelFallthroughKernel(key) || only_keeps(*op, key)) continue;
    if (const auto policy = policy_of(*op, device))
      entries.push_back({c10::toString(name), *policy});
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.op < b.op; });
  return entries;
}

}  // namespace halftone
