// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/policy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

const std::vector<PrecisionPolicy>& policies() {
  static const std::vector<PrecisionPolicy> table = [] {
    const auto narrow_weights = [](const char* name, ComputeType type) {
      return PrecisionPolicy{.name = name,
                             .parameter = tensor_dtype(type),
                             .compute = type,
                             .loss_scaling = needs_loss_scaling(type),
                             // fp16 weights are updated as PyTorch updates them.
                             .stochastic_rounding = type == ComputeType::kBFloat16};
    };
    const auto fp32_weights = [](ComputeType type) {
      return PrecisionPolicy{.name = fp32_weights_precision(type),
                             .compute = type,
                             .loss_scaling = needs_loss_scaling(type)};
    };
    return std::vector{fp32_weights(ComputeType::kFloat32),
                       narrow_weights("16-true", ComputeType::kFloat16),
                       narrow_weights("bf16-true", ComputeType::kBFloat16),
                       fp32_weights(ComputeType::kFloat16),
                       fp32_weights(ComputeType::kBFloat16),
                       fp32_weights(ComputeType::kInt8)};
  }();
  return table;
}

}  // namespace

const std::vector<std::string>& precision_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const PrecisionPolicy& policy : policies()) list.push_back(policy.name);
    return list;
  }();
  return names;
}

PrecisionPolicy parse_precision(std::string_view name) {
  for (const PrecisionPolicy& policy : policies())
    if (policy.name == name) return policy;
  const std::string known = fmt::format("{}", fmt::join(precision_names(), ", "));
  const std::optional<std::string> nearest = nearest_match(name, precision_names());
  throw UserError(fmt::format("expected a precision out of {}, got '{}'{}", known, name,
                              nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
}

}  // namespace halftone
