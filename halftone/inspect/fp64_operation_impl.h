// SPDX-License-Identifier: Apache-2.0
// One operation computed once more in fp64: what the result would be if no format ended.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <optional>
#include <string>
#include <vector>

#include "halftone/inspect/wider_operation_impl.h"

namespace halftone {

/// The tensors that the operation gives for floating arguments widened to fp64; the arguments stay
/// as they are, also where the operation writes to them. Nothing where it has no fp64, draws random
/// numbers, or is not one that may run twice.
std::optional<std::vector<torch::Tensor>> computed_in_fp64(
    const OperationName& operation, const std::vector<c10::IValue>& arguments);

/// The arguments' names in the operation's schema; empty where it has none.
std::vector<std::string> argument_names(const OperationName& operation);

}  // namespace halftone
