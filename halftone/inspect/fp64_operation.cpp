// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/jit_type.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <array>
#include <exception>
#include <string_view>
#include <utility>

#include "halftone/core/random.h"
#include "halftone/inspect/fp64_gradients_impl.h"
#include "halftone/inspect/fp64_operation_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

std::optional<c10::OperatorHandle> handle_of(const OperationName& operation) {
  return c10::Dispatcher::singleton().findSchema({operation.name, operation.overload});
}

bool may_run_twice(std::string_view name) {
  // What talks to other processes, what is no operation at all, and what reads a workspace that
  // belongs to a dtype.
  constexpr std::array<std::string_view, 5> kForeign = {"c10d", "_c10d", "prim::", "profiler",
                                                        "aten::mkldnn_rnn_layer_backward"};
  constexpr std::array<std::string_view, 8> kRandom = {"dropout",     "rand",        "bernoulli",
                                                       "normal_",     "multinomial", "uniform",
                                                       "exponential", "poisson"};
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  return std::none_of(kForeign.begin(), kForeign.end(),
                      [&](std::string_view space) { return name.starts_with(space); }) &&
         std::none_of(kRandom.begin(), kRandom.end(), has);
}

std::optional<torch::ScalarType> wider(torch::ScalarType dtype) {
  if (c10::isFloatingType(dtype)) return torch::kDouble;
  if (c10::isComplexType(dtype)) return torch::kComplexDouble;
  return std::nullopt;
}

/// A copy, in fp64 if it is floating; `tensor` itself if it is neither floating nor written to.
Tensor widened(const Tensor& tensor, bool is_written) {
  if (!tensor.defined()) return tensor;
  const auto wide = wider(tensor.scalar_type());
  if (wide) return tensor.detach().to(*wide, /*non_blocking=*/false, /*copy=*/true);
  return is_written ? tensor.clone() : tensor;
}

bool is_dtype(const c10::Type& type) {
  if (type.kind() == c10::TypeKind::OptionalType)
    return is_dtype(*type.expectRef<c10::OptionalType>().getElementType());
  return type.kind() == c10::TypeKind::ScalarTypeType;
}

c10::IValue widened(const c10::IValue& value, const c10::Argument& argument) {
  const bool is_written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
  if (value.isTensor()) return widened(value.toTensor(), is_written);
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(widened(tensor, is_written));
    return list;
  }
  if (value.isInt() && is_dtype(*argument.real_type())) {
    const auto wide = wider(static_cast<torch::ScalarType>(value.toInt()));
    if (wide) return static_cast<std::int64_t>(*wide);
  }
  return value;
}

std::vector<Tensor> call(const c10::OperatorHandle& operation,
                         const std::vector<c10::IValue>& arguments) {
  const std::vector<c10::Argument>& schema = operation.schema().arguments();
  std::vector<c10::IValue> stack;
  for (std::size_t i = 0; i < arguments.size() && i < schema.size(); ++i)
    stack.push_back(widened(arguments[i], schema[i]));
  for (std::size_t i = stack.size(); i < schema.size(); ++i)
    stack.push_back(schema[i].default_value().value_or(c10::IValue()));
  const GeneratorScope generators(torch::kCPU, rng_state(torch::kCPU));  // a layer may have dropout
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  operation.callBoxed(stack);
  std::vector<Tensor> results;
  for (const c10::IValue& value : stack)
    for (const Tensor& tensor : tensors_in(value)) results.push_back(tensor);
  return results;
}

}  // namespace

std::vector<Tensor> tensors_in(const c10::IValue& value) {
  if (value.isTensor()) return {value.toTensor()};
  if (value.isTensorList()) return value.toTensorVector();
  std::vector<Tensor> found;
  if (value.isList())
    for (const c10::IValue& element : value.toListRef())
      for (const Tensor& tensor : tensors_in(element)) found.push_back(tensor);
  return found;
}

std::vector<std::string> argument_names(const OperationName& operation) {
  std::vector<std::string> names;
  if (const auto handle = handle_of(operation); handle && handle->hasSchema())
    for (const c10::Argument& argument : handle->schema().arguments())
      names.push_back(argument.name());
  return names;
}

std::optional<std::vector<Tensor>> computed_in_fp64(const OperationName& operation,
                                                    const std::vector<c10::IValue>& arguments) {
  const auto handle = handle_of(operation);
  if (!handle || !handle->hasSchema() || !may_run_twice(operation.name)) return std::nullopt;
  try {
    if (auto own = own_gradient_in_fp64(operation.name, arguments)) return own;
    return call(*handle, arguments);
  } catch (const std::exception&) {  // no kernel for fp64
    return std::nullopt;
  }
}

}  // namespace halftone
