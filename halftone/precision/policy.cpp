// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/policy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

PrecisionPolicy narrow_weights(ComputeType type, std::string_view name) {
  return {.name = std::string(name),
          .parameter = tensor_dtype(type),
          .compute = type,
          .loss_scaling = needs_loss_scaling(type),
          // fp16 weights are updated as PyTorch updates them.
          .stochastic_rounding = tensor_dtype(type) == torch::kBFloat16};
}

PrecisionPolicy fp32_weights(ComputeType type) {
  return {.name = fp32_weights_precision(type),
          .compute = type,
          .loss_scaling = needs_loss_scaling(type)};
}

/// Every format has a precision of fp32 weights; 16-bit formats also have one of narrow weights.
const std::vector<PrecisionPolicy>& policies() {
  static const std::vector<PrecisionPolicy> table = [] {
    std::vector<PrecisionPolicy> all{
        fp32_weights(ComputeType::kFloat32), narrow_weights(ComputeType::kFloat16, "16-true"),
        narrow_weights(ComputeType::kBFloat16, "bf16-true"), fp32_weights(ComputeType::kFloat16),
        fp32_weights(ComputeType::kBFloat16)};
    for (const ComputeType type : compute_types())
      if (is_quantized(type)) all.push_back(fp32_weights(type));
    return all;
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
