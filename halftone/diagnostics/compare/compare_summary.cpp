// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/compare_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "halftone/report/axis.h"

namespace halftone {
namespace {

/// How bad a verdict is; the order of the enumeration is another.
int severity(TensorVerdict verdict) {
  switch (verdict) {
    case TensorVerdict::kIncomparable:
      return 0;
    case TensorVerdict::kFine:
      return 1;
    case TensorVerdict::kImprecise:
      return 2;
    case TensorVerdict::kUnderflow:
      return 3;
    case TensorVerdict::kOverflow:
      return 4;
  }
  return 0;
}

std::string scale_range_words(const Judgement& judgement) {
  const bool has_most = judgement.most_scale && std::isfinite(*judgement.most_scale);
  if (!judgement.least_scale) return "";
  if (!has_most) return fmt::format(": at least {}", shown_scale(*judgement.least_scale));
  return fmt::format(": between {} and {}", shown_scale(*judgement.least_scale),
                     shown_scale(*judgement.most_scale));
}

constexpr const char* kNothing = "-";

bool is_incomparable(const TensorComparison& tensor) {
  return tensor.verdict == TensorVerdict::kIncomparable;
}

bool has_overflowed(const TensorComparison& tensor) { return tensor.overflowed_share >= 1; }

/// What overflows comes first, then the larger error.
bool is_worse(const StorageLoss& a, const StorageLoss& b) {
  return std::pair(a.overflowed_share, a.relative_error) >
         std::pair(b.overflowed_share, b.relative_error);
}

}  // namespace

double error_ratio(const TensorComparison& tensor) {
  if (!std::isfinite(tensor.relative_error) || has_overflowed(tensor))
    return std::numeric_limits<double>::infinity();
  if (tensor.relative_error == 0) return 0;
  return tensor.tolerance > 0 ? tensor.relative_error / tensor.tolerance
                              : std::numeric_limits<double>::infinity();
}

std::vector<const TensorComparison*> worst_first(const Comparison& comparison) {
  std::vector<const TensorComparison*> tensors;
  for (const TensorComparison& tensor : comparison.tensors) tensors.push_back(&tensor);
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto* a, const auto* b) {
    return std::tuple(severity(a->verdict), a->overflowed_share, error_ratio(*a)) >
           std::tuple(severity(b->verdict), b->overflowed_share, error_ratio(*b));
  });
  return tensors;
}

VerdictCounts count_verdicts(const Comparison& comparison) {
  VerdictCounts counts;
  for (const TensorComparison& tensor : comparison.tensors) {
    if (tensor.verdict == TensorVerdict::kFine)
      ++counts.fine;
    else
      ++(is_incomparable(tensor) ? counts.incomparable : counts.wrong);
  }
  return counts;
}

std::string verdict_sentence(const Comparison& comparison) {
  const std::string& name = comparison.precision;
  switch (comparison.judgement.verdict) {
    case Verdict::kSafe:
      return fmt::format("{} is safe on this step.", name);
    case Verdict::kChangeScale:
      return fmt::format("{} needs another loss scale on this step{}.", name,
                         scale_range_words(comparison.judgement));
    case Verdict::kKeepFp32:
      return fmt::format("{} is safe on this step if some layers stay in fp32.", name);
    case Verdict::kDoNotUse:
      return fmt::format("Do not use {} for this step.", name);
  }
  return "";
}

std::string verification_sentence(const Judgement& judgement) {
  return judgement.verified ? "The step was computed again with these lines: every tensor is fine."
                            : "The step was not computed with these lines.";
}

bool could_store(const WhatIf& what_if) {
  const NumberFormat& format = number_format(what_if.format);
  const double lost = format.scaling == NumberFormat::Scaling::kNone ? what_if.loss.relative_error
                                                                     : what_if.loss.flushed_norm;
  return what_if.loss.overflowed_share == 0 && lost <= format.unit_roundoff();
}

std::vector<WhatIfSummary> what_if_summaries(const Comparison& comparison) {
  std::vector<WhatIfSummary> summaries;
  for (const TensorComparison& tensor : comparison.tensors)
    for (const WhatIf& what_if : tensor.what_if) {
      auto found = std::find_if(summaries.begin(), summaries.end(), [&](const WhatIfSummary& one) {
        return one.format == what_if.format;
      });
      if (found == summaries.end())
        found = summaries.insert(summaries.end(), WhatIfSummary{.format = what_if.format});
      ++found->tensors;
      found->fitting += could_store(what_if) ? 1 : 0;
      if (found->worst != nullptr && !is_worse(what_if.loss, found->worst_loss)) continue;
      found->worst = &tensor;
      found->worst_loss = what_if.loss;
    }
  return summaries;
}

GradientShares largest_gradient_shares(const Comparison& comparison) {
  GradientShares shares;
  for (const TensorComparison& tensor : comparison.tensors) {
    if (tensor.kind == ComparedKind::kActivation) continue;
    shares.flushed = std::max(shares.flushed, tensor.flushed_share);
    shares.overflowed = std::max(shares.overflowed, tensor.overflowed_share);
  }
  return shares;
}

TensorWords words_of(const TensorComparison& tensor) {
  if (tensor.kind == ComparedKind::kGradient) return {.where = tensor.name, .what = ""};
  const std::string module = tensor.module + " ";
  if (!tensor.name.starts_with(module)) return {.where = tensor.name, .what = ""};
  return {.where = tensor.module.empty() ? "(root)" : tensor.module,
          .what = tensor.name.substr(module.size())};
}

std::string shown_share(double share) {
  constexpr double kLeast = 1e-4;
  if (!(share > 0)) return "0";
  if (share < kLeast) return "<0.01 %";
  if (share == 1) return "100 %";
  const double percent = 100 * share;
  if (percent >= 99.95) return ">99.9 %";
  return fmt::format("{:.{}f} %", percent, percent < 0.1 ? 2 : 1);
}

std::string shown_ratio(double ratio) {
  constexpr double kMost = 9999;
  if (!std::isfinite(ratio)) return "inf";
  if (ratio > kMost) return fmt::format(">{:g}x", kMost);
  return fmt::format("{:.{}f}x", ratio, ratio < 9.95 ? 1 : 0);
}

std::string shown_ratio(const TensorComparison& tensor) {
  return is_incomparable(tensor) ? kNothing : shown_ratio(error_ratio(tensor));
}

std::string shown_cosine(double cosine) {
  if (!std::isfinite(cosine)) return "nan";
  constexpr double kHalfOfLast = 5e-6;
  return cosine > 1 - kHalfOfLast ? "1" : fmt::format("{:.5f}", cosine);
}

std::string shown_cosine(const TensorComparison& tensor) {
  return is_incomparable(tensor) ? kNothing : shown_cosine(tensor.cosine);
}

std::string shown_error(double error) {
  if (error == 0) return "0";
  if (!std::isfinite(error)) return std::isnan(error) ? "nan" : "inf";
  constexpr double kLeast = 1e-3, kMost = 1e4;
  if (std::abs(error) < kLeast || std::abs(error) >= kMost) {
    const std::string text = fmt::format("{:.1e}", error);
    const std::size_t e = text.find('e');
    return text.substr(0, e) + fmt::format("e{}", std::stoi(text.substr(e + 1)));
  }
  return fmt::format("{:.3g}", error);
}

std::string shown_error(const TensorComparison& tensor) {
  if (is_incomparable(tensor)) return kNothing;
  return has_overflowed(tensor) ? "inf" : shown_error(tensor.relative_error);
}

std::string shown_scale(double scale) {
  int exponent = 0;
  return std::frexp(scale, &exponent) == 0.5 ? power_of_two(scale) : fmt::format("{:g}", scale);
}

}  // namespace halftone
