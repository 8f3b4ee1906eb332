// SPDX-License-Identifier: Apache-2.0
// An operation computed once more from arguments in a wider dtype.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <optional>
#include <string>
#include <vector>

namespace halftone {

/// An operation as the dispatcher has it: "aten::pow", "Tensor_Scalar".
struct OperationName {
  std::string name;
  std::string overload;
};

/// Nothing where the dispatcher has no schema of it.
std::optional<c10::OperatorHandle> find_operation(const OperationName& operation);

/// Whether the argument is of this type, or may be.
bool is_of_kind(const c10::Argument& argument, c10::TypeKind kind);

/// The tensors of an argument or a result, also those of lists.
std::vector<torch::Tensor> tensors_in(const c10::IValue& value);

/// The dtype that stands for `dtype` in tensors and in arguments that name one; nothing: leave it.
using WiderDtype = std::optional<torch::ScalarType> (*)(torch::ScalarType dtype);

/// The tensors that the operation gives, below autograd and without autocast. It works on copies of
/// tensors that have a wider dtype, be it their own, and of those that its schema says it writes
/// to; arguments that are left out have their default. Throws what the operation throws.
std::vector<torch::Tensor> computed_wider(const c10::OperatorHandle& operation,
                                          const std::vector<c10::IValue>& arguments,
                                          WiderDtype wider);

}  // namespace halftone
