// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <string>

#include "halftone/train/anomaly_remedy_impl.h"

namespace halftone {
namespace {

using Kind = NonFiniteOrigin::Kind;

/// A pattern of keep_fp32() that matches the module alone and what is below it.
std::string pattern_of(const std::string& module) {
  std::string pattern = "^";
  for (const char c : module) pattern += (c == '.' ? "\\" : "") + std::string(1, c);
  return pattern + "(\\.|$)";
}

std::string keep_fp32_remedy(const NonFiniteOrigin& origin, const PrecisionPolicy& policy) {
  if (!policy.is_mixed()) return "train in bf16-mixed, whose numbers reach as far as those of fp32";
  if (origin.site.module.empty()) return "compute it in fp32, or train in bf16-mixed";
  return fmt::format("--keep-fp32 '{}', or bf16-mixed", pattern_of(origin.site.module));
}

std::string overflow_remedy(const Anomaly& anomaly, const PrecisionPolicy& policy) {
  const NonFiniteOrigin& origin = *anomaly.origin;
  const bool is_fp16 = origin.diagnosis.format == torch::kHalf;
  if (!is_fp16)
    return "numbers of this size are no matter of the format: a lower --lr, --grad-clip, or "
           "weights "
           "from before they grew";
  if (origin.kind == Kind::kBackward && anomaly.scale.value_or(1.0) > 1.0)
    return fmt::format("a loss scale below {:g}, or bf16-mixed", *anomaly.scale);
  return keep_fp32_remedy(origin, policy);
}

std::string weights_remedy(const Anomaly& anomaly) {
  if (anomaly.step <= 1) return "start from other weights";
  return "go on from a checkpoint before they went bad: --resume RUN --detect-anomaly first skips "
         "the later ones and ends at the step that does it";
}

}  // namespace

std::string remedy_of(const Anomaly& anomaly, const PrecisionPolicy& policy) {
  if (!anomaly.origin) return "";
  if (anomaly.origin->kind == Kind::kUpdate)
    return "a lower --lr, a longer --warmup, or --grad-clip";
  switch (anomaly.origin->diagnosis.cause) {
    case NonFiniteCause::kOverflow:
      return overflow_remedy(anomaly, policy);
    case NonFiniteCause::kDivisionByZero:
      return "add a small number to what it divides by, larger than its format rounds to 0";
    case NonFiniteCause::kLogOfZero:
      return "clamp its input from below, or take log_softmax(), logsigmoid() or log1p()";
    case NonFiniteCause::kInvalid:
      return "keep its input where the function is defined, such as with clamp(); leave no row "
             "masked throughout";
    case NonFiniteCause::kBadData:
      return "look at this batch of the data";
    case NonFiniteCause::kBadWeights:
      return weights_remedy(anomaly);
    case NonFiniteCause::kOther:
      break;
  }
  return "";
}

}  // namespace halftone
