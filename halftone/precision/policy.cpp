// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/policy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

const std::vector<PrecisionPolicy>& policies() {
  constexpr auto kF32 = torch::kFloat32;
  constexpr auto kF16 = torch::kHalf;
  constexpr auto kB16 = torch::kBFloat16;
  static const std::vector<PrecisionPolicy> table = {
      {.name = "32-true"},
      {.name = "16-true", .parameter = kF16, .compute = kF16, .loss_scaling = true},
      {.name = "bf16-true", .parameter = kB16, .compute = kB16, .stochastic_rounding = true},
      {.name = "16-mixed",
       .parameter = kF32,
       .compute = kF16,
       .autocast = true,
       .loss_scaling = true},
      {.name = "bf16-mixed", .parameter = kF32, .compute = kB16, .autocast = true},
      {.name = "int8-mixed", .int8_matmul = true},
  };
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
