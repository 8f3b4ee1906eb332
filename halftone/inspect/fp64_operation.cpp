// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <exception>
#include <string_view>

#include "halftone/core/random.h"
#include "halftone/inspect/fp64_gradients_impl.h"
#include "halftone/inspect/fp64_operation_impl.h"

namespace halftone {
namespace {

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

std::optional<torch::ScalarType> fp64_of(torch::ScalarType dtype) {
  if (c10::isFloatingType(dtype)) return torch::kDouble;
  if (c10::isComplexType(dtype)) return torch::kComplexDouble;
  return std::nullopt;
}

}  // namespace

std::vector<std::string> argument_names(const OperationName& operation) {
  std::vector<std::string> names;
  if (const auto handle = find_operation(operation))
    for (const c10::Argument& argument : handle->schema().arguments())
      names.push_back(argument.name());
  return names;
}

std::optional<std::vector<torch::Tensor>> computed_in_fp64(
    const OperationName& operation, const std::vector<c10::IValue>& arguments) {
  const auto handle = find_operation(operation);
  if (!handle || !may_run_twice(operation.name)) return std::nullopt;
  try {
    if (auto own = own_gradient_in_fp64(operation.name, arguments)) return own;
    // A layer may have dropout.
    const GeneratorScope generators(torch::kCPU, rng_state(torch::kCPU));
    return computed_wider(*handle, arguments, fp64_of);
  } catch (const std::exception&) {  // no kernel for fp64
    return std::nullopt;
  }
}

}  // namespace halftone
