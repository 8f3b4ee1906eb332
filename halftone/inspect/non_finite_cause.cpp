// SPDX-License-Identifier: Apache-2.0
#include "halftone/inspect/non_finite_cause.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <limits>

#include "halftone/core/dtype.h"

namespace halftone {
namespace {

/// The index of element `position` in a dense tensor of this shape.
std::vector<std::int64_t> index_of(std::int64_t position, const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> index(shape.size());
  for (std::size_t d = shape.size(); d-- > 0;) {
    index[d] = position % shape[d];
    position /= shape[d];
  }
  return index;
}

std::string overflow_reason(const NonFiniteDiagnosis& diagnosis) {
  const double limit = largest_number(diagnosis.format);
  std::string text =
      fmt::format("it overflows {}, which ends at {:.6g}", dtype_name(diagnosis.format), limit);
  if (!diagnosis.largest) return text;
  if (std::isinf(*diagnosis.largest)) return text + ": the result is beyond fp64, too";
  if (*diagnosis.largest <= limit)
    return text +
           fmt::format(", on its way to a result of no more than {:.2g}", *diagnosis.largest);
  return text + fmt::format(": the largest result would be {:.2g}", *diagnosis.largest);
}

}  // namespace

std::string to_string(NonFiniteCause cause) {
  switch (cause) {
    case NonFiniteCause::kOverflow:
      return "overflow";
    case NonFiniteCause::kDivisionByZero:
      return "division by zero";
    case NonFiniteCause::kLogOfZero:
      return "log of zero";
    case NonFiniteCause::kInvalid:
      return "invalid operation";
    case NonFiniteCause::kBadData:
      return "bad data";
    case NonFiniteCause::kBadWeights:
      return "bad weights";
    case NonFiniteCause::kOther:
      break;
  }
  return "other";
}

double largest_number(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kHalf:
      return std::numeric_limits<c10::Half>::max();
    case torch::kBFloat16:
      return std::numeric_limits<c10::BFloat16>::max();
    case torch::kFloat8_e4m3fn:
      return std::numeric_limits<c10::Float8_e4m3fn>::max();
    case torch::kFloat8_e5m2:
      return std::numeric_limits<c10::Float8_e5m2>::max();
    case torch::kDouble:
    case torch::kComplexDouble:
      return std::numeric_limits<double>::max();
    default:
      return std::numeric_limits<float>::max();
  }
}

TensorFacts facts_of(const torch::Tensor& tensor) {
  TensorFacts facts{.dtype = tensor.scalar_type(), .shape = tensor.sizes().vec()};
  if (tensor.numel() == 0 || tensor.is_meta() || tensor.is_quantized()) return facts;
  const torch::NoGradGuard no_grad;
  // LibTorch computes little with 8-bit floats and nothing with bools.
  const bool is_plain = c10::isFloatingType(facts.dtype) || c10::isComplexType(facts.dtype);
  const bool is_wide = is_plain && tensor.element_size() > 1;
  const torch::Tensor values = is_wide ? tensor.detach() : tensor.detach().to(torch::kDouble);
  facts.zeros = values.eq(0).sum().item<std::int64_t>();
  const torch::Tensor bad = values.isfinite().logical_not();
  facts.non_finite = bad.sum().item<std::int64_t>();
  const torch::Tensor finite = facts.non_finite == 0 ? values : values.masked_fill(bad, 0);
  facts.max_abs = finite.abs().max().item<double>();
  if (facts.non_finite > 0)
    facts.first_non_finite =
        index_of(bad.reshape({-1}).to(torch::kByte).argmax().item<std::int64_t>(), facts.shape);
  return facts;
}

std::string to_string(const TensorFacts& facts) {
  std::string text = facts.parameter.empty() ? facts.name : "'" + facts.parameter + "'";
  if (text == "self") text = "input";
  if (!facts.parameter.empty() && facts.name == "gradient") text = "gradient of " + text;
  if (!facts.parameter.empty() && (facts.name == "before" || facts.name == "after"))
    text += " " + facts.name + " it";  // the update
  text += fmt::format(" {} [{}]", dtype_name(facts.dtype), fmt::join(facts.shape, ", "));
  std::int64_t count = 1;
  for (const std::int64_t size : facts.shape) count *= size;
  if (count > 0 && facts.non_finite == count) return text + ", none finite";
  text += fmt::format(" up to {:.2g}", facts.max_abs);
  if (facts.non_finite > 0)
    text += fmt::format(", {} not finite, the first at [{}]", facts.non_finite,
                        fmt::join(facts.first_non_finite, ", "));
  return text;
}

std::string reason_of(const NonFiniteDiagnosis& diagnosis) {
  switch (diagnosis.cause) {
    case NonFiniteCause::kOverflow:
      return overflow_reason(diagnosis);
    case NonFiniteCause::kDivisionByZero:
      return "it divides by zero: " + diagnosis.detail;
    case NonFiniteCause::kLogOfZero:
      return "it takes the logarithm of zero: " + diagnosis.detail;
    default:
      return diagnosis.detail;
  }
}

}  // namespace halftone
