// SPDX-License-Identifier: Apache-2.0
// From an operation and what it read and made, why what it made is not finite.
#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <vector>

#include "halftone/inspect/fp64_operation_impl.h"
#include "halftone/inspect/non_finite_cause.h"

namespace halftone {

/// An operation that has ended. All of it is looked at with `results` in mind that are not finite.
struct FinishedOperation {
  OperationName operation;
  std::vector<c10::IValue> arguments;  // with the numbers from before it
  std::vector<torch::Tensor> results;
};

/// The tensors among the arguments that the operation reads; `is_read` tells of argument i.
std::vector<TensorFacts> input_facts(const FinishedOperation& finished,
                                     const std::vector<bool>& is_read);

/// Sets cause, format, largest and detail by `inputs` and by what the operation gives in fp64.
/// Returns false where that is not known and the cause is a guess: an operation around this one may
/// tell.
bool find_cause(const FinishedOperation& finished, NonFiniteDiagnosis& diagnosis);

}  // namespace halftone
