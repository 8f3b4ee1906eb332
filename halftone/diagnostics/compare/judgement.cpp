// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "halftone/diagnostics/compare/judgement_impl.h"

namespace halftone {
namespace {

// A scale that suits every gradient keeps so many powers of two free above the largest: gradients
// of later steps are larger.
constexpr double kHeadRoom = 8;
constexpr double kUsualScale = 65536;
// To try where gradients still underflow: those of many layers add up.
constexpr double kNextScale = 4;

double power_of_two_below(double x) { return std::exp2(std::ceil(std::log2(x)) - 1); }

bool has_trouble(const TensorComparison& tensor) {
  return tensor.verdict != TensorVerdict::kFine && tensor.verdict != TensorVerdict::kIncomparable;
}

bool is_of_range(const TensorComparison& tensor) {
  return tensor.kind != ComparedKind::kActivation && (tensor.verdict == TensorVerdict::kOverflow ||
                                                      tensor.verdict == TensorVerdict::kUnderflow);
}

bool has_underflow(const Comparison& comparison) {
  return std::any_of(comparison.tensors.begin(), comparison.tensors.end(),
                     [](const TensorComparison& tensor) {
                       return is_of_range(tensor) && tensor.verdict == TensorVerdict::kUnderflow;
                     });
}

bool has_module(const Mend& mend, const std::string& module) {
  return std::find(mend.modules.begin(), mend.modules.end(), module) != mend.modules.end();
}

bool add_module(Mend& mend, const std::string& module) {
  if (module.empty() || has_module(mend, module)) return false;
  mend.modules.push_back(module);
  return true;
}

/// The module that computes next in the forward pass, where the gradients of `module` come from,
/// or, if the network branches there, a bystander. Those of the mend are passed over; empty: none
/// is left.
std::string module_behind(const Comparison& comparison, const Mend& mend,
                          const std::string& module) {
  const auto& tensors = comparison.tensors;
  const auto is_activation = [](const TensorComparison& tensor) {
    return tensor.kind == ComparedKind::kActivation && !tensor.module.empty();
  };
  const auto last = std::find_if(tensors.rbegin(), tensors.rend(), [&](const auto& tensor) {
    return is_activation(tensor) && tensor.module == module;
  });
  if (last == tensors.rend()) return "";
  const auto next = std::find_if(last.base(), tensors.end(), [&](const auto& tensor) {
    return is_activation(tensor) && !has_module(mend, tensor.module);
  });
  return next == tensors.end() ? "" : next->module;
}

/// The first module whose gradients go wrong; where all of those stay in fp32 already, one behind
/// them, whose rounding comes back to them.
bool add_module_of_gradients(Mend& mend, const Comparison& comparison) {
  std::vector<std::string> modules;
  for (const TensorComparison& tensor : comparison.tensors)
    if (has_trouble(tensor) && !tensor.module.empty()) modules.push_back(tensor.module);
  for (const std::string& module : modules)
    if (add_module(mend, module)) return true;
  for (const std::string& module : modules)
    if (add_module(mend, module_behind(comparison, mend, module))) return true;
  return false;
}

/// The gradients that no common scale suits: those that need more than the others can have.
bool add_modules_out_of_range(Mend& mend, const std::vector<StoredGradient>& stored,
                              const NumberFormat& format, double most) {
  bool added = false;
  for (const StoredGradient& gradient : stored)
    if (scale_range(gradient, format).least > most) added |= add_module(mend, gradient.module);
  return added;
}

bool add_scale(Mend& mend, const ScaleRange& range, double present) {
  if (present >= range.least && present <= range.most) return false;
  const double roomy = std::max(range.least, range.most / kHeadRoom);
  mend.scale = std::clamp(kUsualScale, range.least, roomy);
  return *mend.scale != present;
}

}  // namespace

double allowed_tolerances(double samples) {
  constexpr double kZ = 3.0;  // of the normal distribution
  constexpr double kZ2 = kZ * kZ;
  const double first = kZ * (kZ2 + 1) / 4;
  const double second = kZ * ((5 * kZ2 + 16) * kZ2 + 3) / 96;
  const double third = kZ * (((3 * kZ2 + 19) * kZ2 + 17) * kZ2 - 15) / 384;
  return kZ + (first + (second + third / samples) / samples) / samples;
}

TensorVerdict verdict_of(const TensorComparison& tensor, double lost_norm) {
  const double tolerance = std::max(tensor.tolerance, kLeastTolerance);
  if (tensor.overflowed_share > 0) return TensorVerdict::kOverflow;
  if (tensor.relative_error <= tensor.limit) return TensorVerdict::kFine;
  return lost_norm > tolerance ? TensorVerdict::kUnderflow : TensorVerdict::kImprecise;
}

ScaleRange scale_range(const StoredGradient& gradient, const NumberFormat& format) {
  if (gradient.max_abs == 0) return {.least = 1, .most = std::numeric_limits<double>::infinity()};
  const double tolerance = std::max(gradient.tolerance, format.unit_roundoff());
  int scale = 0;
  while (gradient.spectrum.error_below_normal(format, scale) > tolerance) ++scale;
  return {.least = std::exp2(scale),
          .most = power_of_two_below(format.overflows_from() / gradient.max_abs)};
}

std::optional<ScaleRange> common_range(const std::vector<StoredGradient>& gradients,
                                       const NumberFormat& format) {
  if (gradients.empty()) return std::nullopt;
  ScaleRange common{.least = 1, .most = std::numeric_limits<double>::infinity()};
  for (const StoredGradient& gradient : gradients) {
    const ScaleRange range = scale_range(gradient, format);
    common.least = std::max(common.least, range.least);
    common.most = std::min(common.most, range.most);
  }
  return common;
}

double whole_tolerance(const Comparison& comparison) {
  double errors = 0, squares = 0;
  for (const TensorComparison& tensor : comparison.tensors) {
    if (tensor.kind != ComparedKind::kGradient) continue;
    errors += std::pow(tensor.tolerance * tensor.norm, 2);
    squares += std::pow(tensor.norm, 2);
  }
  return squares > 0 ? std::sqrt(errors / squares) : 0.0;
}

const TensorComparison* first_trouble(const Comparison& comparison) {
  const auto& tensors = comparison.tensors;
  const auto found = std::find_if(tensors.begin(), tensors.end(), has_trouble);
  return found == tensors.end() ? nullptr : &*found;
}

std::string pattern_of(const std::string& module) {
  std::string pattern = "^";
  for (const char c : module) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
  return pattern + "$";
}

bool is_fine(const Comparison& comparison) {
  return std::isfinite(comparison.loss) && first_trouble(comparison) == nullptr;
}

bool add_to_mend(Mend& mend, const Comparison& comparison, const NumberFormat& format,
                 const std::vector<StoredGradient>& stored) {
  const auto& tensors = comparison.tensors;
  // Of the forward pass first: what goes wrong there goes wrong behind it.
  const auto forward = std::find_if(tensors.begin(), tensors.end(), [](const auto& tensor) {
    return tensor.kind == ComparedKind::kActivation && has_trouble(tensor);
  });
  if (forward != tensors.end()) return add_module(mend, forward->module);
  if (const auto range = common_range(stored, format)) {
    if (range->least > range->most && add_modules_out_of_range(mend, stored, format, range->most))
      return true;
    if (range->least <= range->most && add_scale(mend, *range, comparison.loss_scale)) return true;
    const double next = comparison.loss_scale * kNextScale;
    if (has_underflow(comparison) && next <= range->most) {
      mend.scale = next;
      return true;
    }
  }
  return add_module_of_gradients(mend, comparison);
}

}  // namespace halftone
