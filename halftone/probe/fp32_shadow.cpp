// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/jit_type.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <string_view>
#include <utility>

#include "halftone/inspect/fp64_operation_impl.h"
#include "halftone/inspect/parameter_memory_impl.h"
#include "halftone/probe/fp32_shadow_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

bool is_narrow(torch::ScalarType dtype) {
  return c10::isFloatingType(dtype) && c10::elementSize(dtype) < 4;
}

bool is_narrow(const Tensor& tensor) {
  return is_readable(tensor) && is_narrow(tensor.scalar_type());
}

bool is_of_kind(const c10::Type& type, c10::TypeKind kind) {
  if (type.kind() == c10::TypeKind::OptionalType)
    return is_of_kind(*type.expectRef<c10::OptionalType>().getElementType(), kind);
  return type.kind() == kind;
}

/// What moves numbers rounds none of them.
bool only_moves(std::string_view operation) {
  constexpr std::string_view kMoves[] = {
      "aten::clone",    "aten::cat",         "aten::stack",        "aten::index_select",
      "aten::gather",   "aten::repeat",      "aten::constant_pad", "aten::flip",
      "aten::roll",     "aten::unfold_copy", "aten::embedding",    "aten::fill_",
      "aten::zero_",    "aten::masked_fill", "aten::masked_fill_", "aten::index",
      "aten::where",    "aten::full",        "aten::empty_like",   "aten::zeros_like",
      "aten::ones_like"};
  return std::find(std::begin(kMoves), std::end(kMoves), operation) != std::end(kMoves);
}

bool is_fit(const c10::OperatorHandle& operation) {
  const c10::FunctionSchema& schema = operation.schema();
  if (operation.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd)) return false;
  if (operation.hasTag(at::Tag::nondeterministic_seeded) || only_moves(schema.name())) return false;
  if (schema.returns().empty() || schema.is_vararg()) return false;
  const auto is_view = [](const c10::Argument& result) {
    return result.alias_info() != nullptr && !result.alias_info()->isWrite();
  };
  const auto draws = [](const c10::Argument& argument) {
    return is_of_kind(*argument.type(), c10::TypeKind::GeneratorType);
  };
  return std::none_of(schema.returns().begin(), schema.returns().end(), is_view) &&
         std::none_of(schema.arguments().begin(), schema.arguments().end(), draws);
}

/// A copy also of what is wide already: some operations write to arguments without saying so.
Tensor widened(const Tensor& tensor) {
  if (!tensor.defined() || !c10::isFloatingType(tensor.scalar_type())) return tensor;
  const auto dtype = is_narrow(tensor.scalar_type()) ? torch::kFloat : tensor.scalar_type();
  return tensor.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true);
}

c10::IValue widened(const c10::IValue& value, const c10::Argument& argument) {
  if (value.isTensor()) return widened(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(widened(tensor));
    return list;
  }
  if (value.isInt() && is_of_kind(*argument.real_type(), c10::TypeKind::ScalarTypeType) &&
      is_narrow(static_cast<torch::ScalarType>(value.toInt())))
    return static_cast<std::int64_t>(torch::kFloat);
  return value;
}

std::vector<Tensor> computed_in_fp32(const c10::OperatorHandle& operation,
                                     const std::vector<c10::IValue>& arguments) {
  const std::vector<c10::Argument>& schema = operation.schema().arguments();
  std::vector<c10::IValue> stack;
  for (std::size_t i = 0; i < arguments.size(); ++i)
    stack.push_back(widened(arguments[i], schema.at(i)));
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  operation.callBoxed(stack);
  std::vector<Tensor> results;
  for (const c10::IValue& value : stack)
    for (Tensor& tensor : tensors_in(value)) results.push_back(std::move(tensor));
  return results;
}

std::optional<c10::OperatorHandle> handle_of(const OperationCall& call) {
  return c10::Dispatcher::singleton().findSchema({call.name, call.overload});
}

/// Also of what casts to a narrow format.
bool works_on_narrow(const OperationCall& call) {
  for (const OperationTensors& input : call.inputs)
    for (const Tensor& tensor : input.tensors)
      if (is_narrow(tensor)) return true;
  const auto names_narrow = [](const c10::IValue& value) {
    return value.isInt() && value.toInt() >= 0 &&
           value.toInt() < static_cast<std::int64_t>(c10::ScalarType::NumOptions) &&
           is_narrow(static_cast<torch::ScalarType>(value.toInt()));
  };
  return call.name == "aten::_to_copy" &&
         std::any_of(call.arguments.begin(), call.arguments.end(), names_narrow);
}

bool is_elsewhere(const OperationCall& call) {
  for (const OperationTensors& input : call.inputs)
    for (const Tensor& tensor : input.tensors)
      if (tensor.defined() && tensor.is_floating_point() && tensor.numel() > 0 &&
          !is_readable(tensor))
        return true;
  return false;
}

}  // namespace

bool Fp32Shadow::may_run_again(const OperationCall& call) {
  const auto [known, is_new] = may_run_again_.try_emplace({call.name, call.overload}, false);
  if (is_new && call.name.starts_with("aten::"))
    if (const auto handle = handle_of(call); handle && handle->hasSchema())
      known->second = is_fit(*handle);
  return known->second;
}

Fp32Shadow::Arguments Fp32Shadow::begin(const OperationCall& call) {
  Arguments kept;
  if (!works_on_narrow(call) || !may_run_again(call) || is_elsewhere(call) ||
      failed_.contains({call.name, call.overload}))
    return kept;
  kept.is_wanted = true;
  kept.values = call.arguments;
  for (std::size_t i = 0; i < call.inputs.size(); ++i)
    if (call.inputs[i].is_written && kept.values[i].isTensor())
      kept.values[i] = kept.values[i].toTensor().detach().clone();
  return kept;
}

void Fp32Shadow::end(const OperationCall& call, const Arguments& arguments, bool is_backward) {
  const auto makes_narrow = [](const OperationTensors& output) {
    return std::any_of(output.tensors.begin(), output.tensors.end(),
                       [](const Tensor& tensor) { return is_narrow(tensor); });
  };
  if (std::none_of(call.outputs.begin(), call.outputs.end(), makes_narrow)) return;
  std::vector<Tensor> exact;
  try {
    exact = computed_in_fp32(*handle_of(call), arguments.values);
  } catch (const std::exception&) {  // no kernel for fp32
    failed_.insert({call.name, call.overload});
    return;
  }
  std::size_t place = 0;
  std::set<torch::ScalarType> dtypes;
  for (const OperationTensors& output : call.outputs) {
    for (const Tensor& tensor : output.tensors) {
      const Tensor wide = place < exact.size() ? exact[place++] : Tensor();
      if (!is_narrow(tensor) || !is_readable(wide) || wide.sizes() != tensor.sizes()) continue;
      Entry& entry = entries_[{call.name, is_backward, tensor.scalar_type()}];
      entry.difference += difference(tensor, wide);
      if (dtypes.insert(tensor.scalar_type()).second) ++entry.calls;
    }
  }
}

std::vector<std::string> Fp32Shadow::failed() const {
  std::set<std::string> names;
  for (const Overload& overload : failed_) names.insert(overload.first);
  return {names.begin(), names.end()};
}

}  // namespace halftone
