// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/jit_type.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "halftone/inspect/wider_operation_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

bool has_kind(const c10::Type& type, c10::TypeKind kind) {
  if (type.kind() == c10::TypeKind::OptionalType)
    return has_kind(*type.expectRef<c10::OptionalType>().getElementType(), kind);
  return type.kind() == kind;
}

Tensor widened(const Tensor& tensor, bool is_written, WiderDtype wider) {
  if (!tensor.defined()) return tensor;
  // A copy also in its own dtype: some operations write to arguments without saying so.
  if (const auto dtype = wider(tensor.scalar_type()))
    return tensor.detach().to(*dtype, /*non_blocking=*/false, /*copy=*/true);
  return is_written ? tensor.clone() : tensor;
}

c10::IValue widened(const c10::IValue& value, const c10::Argument& argument, WiderDtype wider) {
  const bool is_written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
  if (value.isTensor()) return widened(value.toTensor(), is_written, wider);
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector())
      list.push_back(widened(tensor, is_written, wider));
    return list;
  }
  if (value.isInt() && is_of_kind(argument, c10::TypeKind::ScalarTypeType))
    if (const auto dtype = wider(static_cast<torch::ScalarType>(value.toInt())))
      return static_cast<std::int64_t>(*dtype);
  return value;
}

}  // namespace

std::optional<c10::OperatorHandle> find_operation(const OperationName& operation) {
  return c10::Dispatcher::singleton().findSchema({operation.name, operation.overload});
}

bool is_of_kind(const c10::Argument& argument, c10::TypeKind kind) {
  return has_kind(*argument.real_type(), kind);
}

std::vector<Tensor> tensors_in(const c10::IValue& value) {
  std::vector<Tensor> found;
  if (value.isTensor()) {
    found.push_back(value.toTensor());
  } else if (value.isTensorList()) {
    found = value.toTensorVector();
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef())
      for (Tensor& tensor : tensors_in(element)) found.push_back(std::move(tensor));
  }
  return found;
}

std::vector<Tensor> computed_wider(const c10::OperatorHandle& operation,
                                   const std::vector<c10::IValue>& arguments, WiderDtype wider) {
  const std::vector<c10::Argument>& schema = operation.schema().arguments();
  std::vector<c10::IValue> stack;
  for (std::size_t i = 0; i < arguments.size() && i < schema.size(); ++i)
    stack.push_back(widened(arguments[i], schema[i], wider));
  for (std::size_t i = stack.size(); i < schema.size(); ++i)
    stack.push_back(schema[i].default_value().value_or(c10::IValue()));
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  operation.callBoxed(stack);
  std::vector<Tensor> results;
  for (const c10::IValue& value : stack)
    for (Tensor& tensor : tensors_in(value)) results.push_back(std::move(tensor));
  return results;
}

}  // namespace halftone
