// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/function_schema.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "halftone/inspect/non_finite_diagnosis_impl.h"
#include "halftone/inspect/operation_kinds_impl.h"
#include "halftone/inspect/parameter_memory_impl.h"
#include "halftone/inspect/recorder_impl.h"

namespace halftone {
namespace {

using torch::Tensor;
using OperationNames = std::set<std::string_view>;

/// A value of one argument at which the operation has no finite result.
struct Pole {
  NonFiniteCause cause;
  std::size_t argument;
  double at;
};

const std::multimap<std::string_view, Pole>& poles() {
  constexpr auto kDivision = NonFiniteCause::kDivisionByZero;
  constexpr auto kLog = NonFiniteCause::kLogOfZero;
  static const std::multimap<std::string_view, Pole> table = {
      {"div", {kDivision, 1, 0}},
      {"divide", {kDivision, 1, 0}},
      {"true_divide", {kDivision, 1, 0}},
      {"floor_divide", {kDivision, 1, 0}},
      {"remainder", {kDivision, 1, 0}},
      {"fmod", {kDivision, 1, 0}},
      {"addcdiv", {kDivision, 2, 0}},
      {"reciprocal", {kDivision, 0, 0}},
      {"rsqrt", {kDivision, 0, 0}},
      {"log", {kLog, 0, 0}},
      {"log2", {kLog, 0, 0}},
      {"log10", {kLog, 0, 0}},
      {"log1p", {kLog, 0, -1}},
      {"xlogy", {kLog, 1, 0}},
      {"special_xlogy", {kLog, 1, 0}},
      {"special_xlog1py", {kLog, 1, -1}},
      {"logit", {kLog, 0, 0}},
      {"logit", {kLog, 0, 1}},
      {"atanh", {kDivision, 0, 1}},
      {"atanh", {kDivision, 0, -1}},
  };
  return table;
}

/// Where the result is not finite in fp64 either, because a sum of weights, a variance or a number
/// of elements is zero.
const std::map<std::string_view, const char*>& normalisations() {
  constexpr const char* kVariance = "a variance of 0, to which it adds no epsilon";
  constexpr const char* kCount = "the mean of no element";
  constexpr const char* kFreedom = "no more elements than it subtracts from their number";
  constexpr const char* kTargets = "the mean over targets that weigh nothing";
  static const std::map<std::string_view, const char*> table = {
      {"native_layer_norm", kVariance},
      {"native_layer_norm_backward", kVariance},
      {"native_group_norm", kVariance},
      {"native_group_norm_backward", kVariance},
      {"native_batch_norm", kVariance},
      {"native_batch_norm_backward", kVariance},
      {"_native_batch_norm_legit", kVariance},
      {"cudnn_batch_norm", kVariance},
      {"_batch_norm_with_update", kVariance},
      {"batch_norm", kVariance},
      {"layer_norm", kVariance},
      {"group_norm", kVariance},
      {"rms_norm", kVariance},
      {"rms_norm_gradient", kVariance},
      {"_fused_rms_norm", kVariance},
      {"mean", kCount},
      {"nanmean", kCount},
      {"var", kFreedom},
      {"std", kFreedom},
      {"var_mean", kFreedom},
      {"std_mean", kFreedom},
      {"nll_loss_forward", kTargets},
      {"nll_loss2d_forward", kTargets},
      {"cross_entropy_loss", kTargets},
  };
  return table;
}

const char* invalid_detail(std::string_view operation) {
  static const std::map<std::string_view, const char*> table = {
      {"sqrt", "the root of a negative number"},
      {"rsqrt", "the root of a negative number"},
      {"log", "the logarithm of a negative number"},
      {"log2", "the logarithm of a negative number"},
      {"log10", "the logarithm of a negative number"},
      {"log1p", "the logarithm of a negative number"},
      {"xlogy", "the logarithm of a negative number"},
      {"logit", "the logarithm of a negative number"},
      {"pow", "a fractional power of a negative number"},
      {"acos", "the angle of a number outside of -1 .. 1"},
      {"asin", "the angle of a number outside of -1 .. 1"},
      {"acosh", "the angle of a number below 1"},
      {"atanh", "the angle of a number outside of -1 .. 1"},
  };
  const auto found = table.find(operation);
  return found != table.end() ? found->second : "an invalid operation";
}

/// Functions that are infinite at single numbers: a result beyond fp64 is no overflow.
bool has_poles(std::string_view operation) {
  static const OperationNames names = {
      "lgamma",        "digamma",      "polygamma",        "erfinv",
      "special_ndtri", "special_zeta", "special_log_ndtr", "tan"};
  return names.contains(operation);
}

Tensor argument_tensor(const FinishedOperation& finished, std::size_t i) {
  if (i >= finished.arguments.size()) return {};
  const c10::IValue& value = finished.arguments[i];
  if (value.isTensor()) return value.toTensor();
  if (!value.isScalar()) return {};
  const at::Scalar scalar = value.toScalar();
  return scalar.isComplex() ? Tensor() : torch::scalar_tensor(scalar.toDouble(), torch::kDouble);
}

/// Whether one of the results that `bad` marks is where `holds` does.
bool meets(const Tensor& holds, const Tensor& bad) {
  if (!holds.any().item<bool>()) return false;
  if (!at::is_expandable_to(holds.sizes(), bad.sizes())) return true;
  const Tensor here = holds.to(bad.device()).expand(bad.sizes());
  return here.logical_and(bad).any().item<bool>();
}

std::string counted(const Tensor& holds, const std::string& what, const std::string& name) {
  const std::string whose = name.empty() || name == "self" ? "the input" : "'" + name + "'";
  if (holds.dim() == 0) return fmt::format("{} is {}", whose, what);
  return fmt::format("{} of the {} values of {} {} {}", holds.sum().item<std::int64_t>(),
                     holds.numel(), whose, holds.sum().item<std::int64_t>() == 1 ? "is" : "are",
                     what);
}

std::string name_of(const FinishedOperation& finished, std::size_t i) {
  const std::vector<std::string> names = argument_names(finished.operation);
  return i < names.size() ? names[i] : "";
}

bool note_pole(const FinishedOperation& finished, std::string_view name, const Tensor& bad,
               NonFiniteDiagnosis& diagnosis) {
  const auto [begin, end] = poles().equal_range(name);
  for (auto pole = begin; pole != end; ++pole) {
    const auto& [cause, argument, at] = pole->second;
    const Tensor values = argument_tensor(finished, argument);
    if (!values.defined()) continue;
    const Tensor holds = values.eq(at);
    if (!meets(holds, bad)) continue;
    diagnosis.cause = cause;
    diagnosis.detail = counted(holds, fmt::format("{:g}", at), name_of(finished, argument));
    return true;
  }
  return false;
}

/// A negative power of zero.
bool note_power(const FinishedOperation& finished, std::string_view name, const Tensor& bad,
                NonFiniteDiagnosis& diagnosis) {
  if (name != "pow" && name != "float_power") return false;
  const Tensor base = argument_tensor(finished, 0), exponent = argument_tensor(finished, 1);
  if (!base.defined() || !exponent.defined()) return false;
  if (!meets(base.eq(0).logical_and(exponent.lt(0)), bad)) return false;
  diagnosis.cause = NonFiniteCause::kDivisionByZero;
  diagnosis.detail = "a negative power of " + counted(base.eq(0), "0", name_of(finished, 0));
  return true;
}

/// The numbers of `exact` where the result is not finite; all of them if it has another shape.
Tensor exact_numbers(const Tensor& exact, const Tensor& bad) {
  const Tensor magnitudes = exact.is_complex() ? exact.abs() : exact;
  if (magnitudes.sizes() != bad.sizes()) return magnitudes.reshape({-1});
  return magnitudes.masked_select(bad);
}

void note_overflow(const Tensor& exact, NonFiniteDiagnosis& diagnosis) {
  diagnosis.cause = NonFiniteCause::kOverflow;
  const Tensor known = exact.masked_select(exact.isnan().logical_not());
  diagnosis.largest = known.abs().max().item<double>();
}

/// By what the operation gives in fp64 where it gave inf or nan.
void note_exact(std::string_view name, const Tensor& exact, NonFiniteDiagnosis& diagnosis) {
  if (exact.isfinite().any().item<bool>()) return note_overflow(exact, diagnosis);
  if (const auto norm = normalisations().find(name); norm != normalisations().end()) {
    diagnosis.cause = NonFiniteCause::kDivisionByZero;
    diagnosis.detail = norm->second;
  } else if (exact.isnan().all().item<bool>()) {
    diagnosis.cause = NonFiniteCause::kInvalid;
    diagnosis.detail = invalid_detail(name);
  } else if (has_poles(name)) {
    diagnosis.cause = NonFiniteCause::kOther;
    diagnosis.detail = "the function is infinite at this number";
  } else {
    note_overflow(exact, diagnosis);
  }
}

/// Sums of products, whose nan is the sum of two that overflowed.
bool sums_products(std::string_view name) {
  constexpr std::array<std::string_view, 6> kParts = {"mm", "conv", "linear", "rnn", "lstm", "gru"};
  return std::any_of(kParts.begin(), kParts.end(), [&](std::string_view part) {
    return name.find(part) != std::string_view::npos;
  });
}

/// Nothing could be computed again, and all inputs are finite.
void guess(const FinishedOperation& finished, const Tensor& result, NonFiniteDiagnosis& diagnosis) {
  const std::string& name = finished.operation.name;
  const bool overflowed = is_own_operation(name) || sums_products(plain_operation(name)) ||
                          result.isinf().any().item<bool>();
  diagnosis.cause = overflowed ? NonFiniteCause::kOverflow : NonFiniteCause::kOther;
}

/// The first result that is not finite, and its place.
std::optional<std::pair<std::size_t, Tensor>> bad_result(const std::vector<Tensor>& results) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!is_readable(results[i])) continue;
    const Tensor bad = results[i].detach().isfinite().logical_not();
    if (bad.any().item<bool>()) return std::pair(i, bad);
  }
  return std::nullopt;
}

}  // namespace

std::vector<TensorFacts> input_facts(const FinishedOperation& finished,
                                     const std::vector<bool>& is_read) {
  std::vector<TensorFacts> all;
  for (std::size_t i = 0; i < finished.arguments.size(); ++i) {
    if (i < is_read.size() && !is_read[i]) continue;
    const std::vector<Tensor> tensors = tensors_in(finished.arguments[i]);
    for (std::size_t j = 0; j < tensors.size(); ++j) {
      if (!tensors[j].defined() || tensors[j].layout() != torch::kStrided) continue;
      TensorFacts facts = facts_of(tensors[j]);
      facts.name = name_of(finished, i);
      if (!finished.arguments[i].isTensor()) facts.name += fmt::format("[{}]", j);
      all.push_back(std::move(facts));
    }
  }
  return all;
}

bool find_cause(const FinishedOperation& finished, NonFiniteDiagnosis& diagnosis) {
  const auto found = bad_result(finished.results);
  if (!found) return false;
  const auto& [place, bad] = *found;
  const Tensor& result = finished.results[place];
  diagnosis.format = result.scalar_type();
  const std::string name = plain_operation(finished.operation.name);
  if (note_pole(finished, name, bad, diagnosis) || note_power(finished, name, bad, diagnosis))
    return true;
  const bool reads_bad = std::any_of(diagnosis.inputs.begin(), diagnosis.inputs.end(),
                                     [](const TensorFacts& in) { return in.non_finite > 0; });
  if (reads_bad) {
    diagnosis.cause = NonFiniteCause::kInvalid;
    diagnosis.detail = is_softmax(finished.operation.name)
                           ? "a row of it is -inf throughout: everything in it is masked"
                           : "inf - inf or 0 * inf";
    return true;
  }
  const auto exact = computed_in_fp64(finished.operation, finished.arguments);
  if (!exact || place >= exact->size() || !(*exact)[place].defined() ||
      (*exact)[place].numel() == 0) {
    guess(finished, result, diagnosis);
    return false;
  }
  note_exact(name, exact_numbers((*exact)[place].detach(), bad), diagnosis);
  return true;
}

}  // namespace halftone
