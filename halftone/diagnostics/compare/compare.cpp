// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/diagnostics/compare/judgement_impl.h"
#include "halftone/diagnostics/compare/precision_pass_impl.h"
#include "halftone/diagnostics/compare/tensor_measures_impl.h"
#include "halftone/train/layer_precision.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr double kDefaultScale = 65536;
constexpr int kMostMends = 8;
constexpr int kDraws = 2;            // of random rounding
constexpr int kRunsWithRouters = 4;  // times as many runs

/// In fp32, of gradients without the loss scale.
Tensor unscaled(const CapturedTensor& tensor, double scale) {
  const Tensor wide = tensor.values.to(torch::kFloat);
  return tensor.kind == ComparedKind::kActivation || scale == 1 ? wide : wide / scale;
}

/// At most so many elements, in whole rows that are spread evenly: a share of them is known to a
/// fifth of a point.
Tensor sample_of(const Tensor& values) {
  constexpr std::int64_t kMost = 1 << 16;
  if (values.numel() <= kMost || values.dim() < 2) return values;
  const Tensor rows = values.flatten(0, -2);
  const std::int64_t step = (values.numel() + kMost - 1) / kMost;
  return rows.slice(0, 0, rows.size(0), std::min(step, rows.size(0)));
}

std::string format_name(torch::ScalarType dtype) {
  const auto format = number_format_of(dtype);
  return format ? format->name : c10::toString(dtype);
}

bool names_int8(const CompareOptions& options) {
  const auto& texts = options.layer_precision;
  return std::any_of(texts.begin(), texts.end(), [](const std::string& text) {
    return parse_layer_precision(text).format == ComputeType::kInt8;
  });
}

class Comparer {
 public:
  Comparer(const TrainingStep& step, const CompareOptions& options);
  Comparison run();

 private:
  PassOptions judged_pass(double scale, const std::vector<std::string>& patterns,
                          std::uint64_t draw = 0) const {
    return {judged_, scale, patterns, options_.layer_precision, options_.device, draw};
  }
  PassOptions reference_pass() const { return {reference_, 1.0, {}, {}, options_.device}; }
  /// Whether its random rounding is measured, by drawing again.
  bool is_redrawn() const { return rounds_at_random_ && step_.redrawn_loss; }
  std::int64_t passes() const { return noise_runs_ + (is_redrawn() ? kDraws : 0) + 3; }
  void report(const std::string& stage, std::int64_t done) const;

  void measure_tolerances(const PrecisionPass& judged, const PrecisionPass& reference);
  void add_rounding_noise(const PrecisionPass& reference, const NoisePlan& plan);
  void add_random_rounding(const PrecisionPass& judged, const PrecisionPass& reference);
  Comparison compared(const PrecisionPass& judged, const PrecisionPass& reference);
  TensorComparison compared(const CapturedTensor& judged, const CapturedTensor& reference,
                            double scale);
  void add_what_if(Comparison& result, const PrecisionPass& reference) const;

  void judge(Comparison& result, const PrecisionPass& reference);
  void mend(Comparison& result, const PrecisionPass& reference);
  Comparison mended_by(const Mend& mend, const PrecisionPass& reference);
  void shorten(Mend& mend, const PrecisionPass& reference);
  void conclude(Comparison& result, const Mend& mend, bool mended) const;
  std::string config_of(const Mend& mend) const;

  const TrainingStep& step_;
  const CompareOptions& options_;
  PrecisionPolicy judged_;
  PrecisionPolicy reference_;
  NumberFormat format_;    // that the judged precision stores activations in
  std::string rounds_to_;  // "bf16"; "the formats of its layers"
  bool rounds_at_random_;
  double scale_;
  std::int64_t noise_runs_;
  std::map<TensorKey, double> squares_;  // of the tolerances
  double loss_tolerance_ = 0;
  std::vector<StoredGradient> stored_gradients_;  // of the last compared()
};

Comparer::Comparer(const TrainingStep& step, const CompareOptions& options)
    : step_(step),
      options_(options),
      judged_(parse_precision(options.precision)),
      reference_(parse_precision(options.against)),
      format_(number_format_of(judged_.compute_dtype()).value()),
      rounds_to_(options.layer_precision.empty() ? std::string(to_string(judged_.compute))
                                                 : "the formats of its layers"),
      rounds_at_random_(judged_.compute == ComputeType::kInt8 || names_int8(options)),
      scale_(options.loss_scale.value_or(judged_.loss_scaling ? kDefaultScale : 1.0)),
      noise_runs_(options.noise_runs) {
  HALFTONE_CHECK(step.network != nullptr && step.loss, "[compare] expected a step with a network");
  HALFTONE_CHECK(options.noise_runs >= 2, "[compare] expected noise_runs of at least 2, got ",
                 options.noise_runs);
  for (const std::string& name : options.what_if) number_format(name);
  if (!(scale_ > 0) || !std::isfinite(scale_))
    throw UserError(fmt::format("compare: expected a loss scale above 0, got {}", scale_));
  if (!options.keep_fp32.empty() && !judged_.is_mixed())
    throw UserError(fmt::format(
        "compare: keep_fp32 goes with a mixed precision, but precision is {}; name one that ends "
        "in -mixed",
        judged_.name));
}

void Comparer::report(const std::string& stage, std::int64_t done) const {
  if (options_.progress)
    options_.progress(stage, static_cast<double>(done) / static_cast<double>(passes()));
}

Comparison Comparer::run() {
  report("judged precision", 0);
  const PrecisionPass judged = compute_pass(step_, judged_pass(scale_, options_.keep_fp32));
  report("reference", 1);
  const PrecisionPass reference = compute_pass(step_, reference_pass());
  if (!std::isfinite(reference.loss))
    throw UserError(fmt::format(
        "compare: expected a finite loss in {}, got {}: the step is bad in the reference itself; "
        "find where with train --detect-anomaly first",
        reference_.name, reference.loss));
  measure_tolerances(judged, reference);
  report("measuring", passes() - 1);
  Comparison result = compared(judged, reference);
  add_what_if(result, reference);
  judge(result, reference);
  report("done", passes());
  return result;
}

// ---- figures

/// Whether rounding decides shapes, as it does where a router sends rows to experts.
bool has_other_shapes(const PrecisionPass& a, const PrecisionPass& b) {
  const auto of_b = b.by_key();
  return std::any_of(a.tensors.begin(), a.tensors.end(), [&](const CapturedTensor& tensor) {
    const auto found = of_b.find({tensor.kind, tensor.key});
    return found != of_b.end() && found->second->values.sizes() != tensor.values.sizes();
  });
}

/// Adds `weight` times the square of the relative error of each tensor of `pass`, over `length`, a
/// tensor of the same key.
void add_squares(std::map<TensorKey, double>& squares, const PrecisionPass& pass,
                 const PrecisionPass& from, const PrecisionPass& length, double weight) {
  const auto of_from = from.by_key(), of_length = length.by_key();
  for (const CapturedTensor& tensor : pass.tensors) {
    const TensorKey key{tensor.kind, tensor.key};
    const auto a = of_from.find(key), b = of_length.find(key);
    if (a == of_from.end() || b == of_length.end()) continue;
    const Tensor start = unscaled(*a->second, from.scale),
                 unit = unscaled(*b->second, length.scale);
    if (start.sizes() != tensor.values.sizes() || unit.sizes() != start.sizes()) continue;
    const Tensor moved = unit + (unscaled(tensor, pass.scale) - start);
    squares[key] += weight * std::pow(relative_error(moved, unit), 2);
  }
}

void Comparer::measure_tolerances(const PrecisionPass& judged, const PrecisionPass& reference) {
  // A row that goes to another expert is rare, and changes much: it takes more runs to see some.
  if (has_other_shapes(judged, reference)) noise_runs_ *= kRunsWithRouters;
  const NoisePlan plan =
      noise_plan(*step_.network, judged, judged_pass(scale_, options_.keep_fp32), !is_redrawn());
  add_rounding_noise(reference, plan);
  if (is_redrawn()) add_random_rounding(judged, reference);
}

void Comparer::add_rounding_noise(const PrecisionPass& reference, const NoisePlan& plan) {
  RoundingNoise noise(options_.noise_seed);
  const double weight = 1.0 / static_cast<double>(noise_runs_);
  double loss_square = 0;
  for (std::int64_t run = 0; run < noise_runs_; ++run) {
    report("rounding noise", 2 + run);
    const PrecisionPass noisy = compute_noisy_pass(step_, reference_pass(), plan, noise);
    loss_square += weight * std::pow(noisy.loss - reference.loss, 2);
    add_squares(squares_, noisy, reference, reference, weight);
  }
  loss_tolerance_ = std::sqrt(loss_square);
}

/// Two draws differ by twice the variance of one.
void Comparer::add_random_rounding(const PrecisionPass& judged, const PrecisionPass& reference) {
  for (std::uint64_t draw = 1; draw <= kDraws; ++draw) {
    report("random rounding", 1 + noise_runs_ + static_cast<std::int64_t>(draw));
    const PrecisionPass other = compute_pass(step_, judged_pass(scale_, options_.keep_fp32, draw));
    add_squares(squares_, other, judged, reference, 0.5 / kDraws);
  }
}

Comparison Comparer::compared(const PrecisionPass& judged, const PrecisionPass& reference) {
  Comparison result{.precision = judged_.name,
                    .against = reference_.name,
                    .format = format_.name,
                    .loss_scale = judged.scale,
                    .loss = judged.loss,
                    .reference_loss = reference.loss,
                    .loss_tolerance = loss_tolerance_};
  const auto of_judged = judged.by_key();
  stored_gradients_.clear();
  for (const CapturedTensor& tensor : reference.tensors)
    if (const auto found = of_judged.find({tensor.kind, tensor.key}); found != of_judged.end())
      result.tensors.push_back(compared(*found->second, tensor, judged.scale));
  return result;
}

TensorComparison Comparer::compared(const CapturedTensor& judged, const CapturedTensor& reference,
                                    double scale) {
  const bool is_gradient = reference.kind != ComparedKind::kActivation;
  const Tensor exact = unscaled(reference, 1.0);
  TensorComparison result{.kind = reference.kind,
                          .name = reference.key,
                          .module = reference.module,
                          .operation = reference.operation,
                          .shape = reference.values.sizes().vec(),
                          .dtype = format_name(judged.values.scalar_type())};
  const auto square = squares_.find({reference.kind, reference.key});
  if (square != squares_.end()) result.tolerance = std::sqrt(square->second);
  const auto samples = static_cast<double>(noise_runs_ * std::max<std::int64_t>(exact.numel(), 1));
  result.limit = allowed_tolerances(samples) * std::max(result.tolerance, kLeastTolerance);
  if (judged.values.sizes() != reference.values.sizes() ||
      (is_gradient && judged.node != reference.node)) {
    result.verdict = TensorVerdict::kIncomparable;
    result.exponents = exponents_of(exact);
    return result;
  }
  const double lost_norm =
      measure(result, unscaled(judged, scale), exact, format_, is_gradient ? scale : 1.0);
  result.verdict = verdict_of(result, lost_norm);
  if (is_gradient && needs_loss_scaling(judged_.compute) && result.dtype == format_.name)
    stored_gradients_.push_back({.module = result.module,
                                 .tolerance = result.tolerance,
                                 .max_abs = result.max_abs,
                                 .spectrum = magnitude_spectrum(exact)});
  return result;
}

void Comparer::add_what_if(Comparison& result, const PrecisionPass& reference) const {
  const auto exact = reference.by_key();
  for (TensorComparison& tensor : result.tensors) {
    const Tensor values = sample_of(exact.at({tensor.kind, tensor.name})->values);
    const double scale = tensor.kind == ComparedKind::kActivation ? 1.0 : scale_;
    for (const std::string& name : options_.what_if)
      tensor.what_if.push_back({name, storage_loss(number_format(name), values, scale)});
  }
}

// ---- judgement

void say(Judgement& judgement, Verdict verdict, std::string reason) {
  judgement.verdict = verdict;
  judgement.reason = std::move(reason);
}

std::string hopeless_reason(const Comparison& comparison) {
  const TensorComparison* const first = first_trouble(comparison);
  const std::string what =
      first == nullptr
          ? "the loss is not finite"
          : fmt::format("the {} '{}' is the first to go wrong ({})",
                        first->kind == ComparedKind::kActivation ? "result" : "gradient of",
                        first->name, to_string(first->verdict));
  return fmt::format("{}, and neither a loss scale nor up to {} modules in fp32 mend it", what,
                     kMostMends);
}

void Comparer::judge(Comparison& result, const PrecisionPass& reference) {
  Judgement& judgement = result.judgement;
  if (const auto range = common_range(stored_gradients_, format_)) {
    judgement.least_scale = range->least;
    judgement.most_scale = range->most;
  }
  if (const double tolerance = whole_tolerance(result); tolerance >= kUselessError)
    return say(
        judgement, Verdict::kDoNotUse,
        fmt::format("rounding to {} alone changes the gradient of the weights by {:.0f} % of "
                    "its length: the format is too coarse for this model",
                    rounds_to_, 100 * tolerance));
  if (!is_fine(result)) return mend(result, reference);
  judgement.verified = true;
  say(judgement, Verdict::kSafe,
      fmt::format("no tensor has more error than rounding to {} alone makes", rounds_to_));
}

/// Computes the step again with what the last one asked for, until all is fine.
void Comparer::mend(Comparison& result, const PrecisionPass& reference) {
  Mend mend;
  Comparison last = result;
  bool mended = false;
  for (int i = 0; i < kMostMends && !mended; ++i) {
    if (!add_to_mend(mend, last, format_, stored_gradients_)) break;
    if (!mend.modules.empty() && !judged_.is_mixed()) break;
    report(fmt::format("trying mend {}", i + 1), passes() - 1);
    last = mended_by(mend, reference);
    mended = is_fine(last);
  }
  if (mended) shorten(mend, reference);
  conclude(result, mend, mended);
}

Comparison Comparer::mended_by(const Mend& mend, const PrecisionPass& reference) {
  std::vector<std::string> patterns = options_.keep_fp32;
  for (const std::string& module : mend.modules) patterns.push_back(pattern_of(module));
  return compared(compute_pass(step_, judged_pass(mend.scale.value_or(scale_), patterns)),
                  reference);
}

/// Leaves out the modules that were tried before another one helped.
void Comparer::shorten(Mend& mend, const PrecisionPass& reference) {
  for (std::size_t i = 0; i + 1 < mend.modules.size();) {
    Mend shorter = mend;
    shorter.modules.erase(shorter.modules.begin() + static_cast<std::ptrdiff_t>(i));
    report(fmt::format("trying without {}", mend.modules[i]), passes() - 1);
    if (is_fine(mended_by(shorter, reference)))
      mend = std::move(shorter);
    else
      ++i;
  }
}

void Comparer::conclude(Comparison& result, const Mend& mend, bool mended) const {
  Judgement& judgement = result.judgement;
  judgement.verified = mended;
  if (!mended) return say(judgement, Verdict::kDoNotUse, hopeless_reason(result));
  for (const std::string& module : mend.modules) judgement.keep_fp32.push_back(pattern_of(module));
  judgement.config = config_of(mend);
  if (mend.modules.empty())
    return say(
        judgement, Verdict::kChangeScale,
        fmt::format("with a loss scale of {:g} every tensor is within its tolerance; {:g} {}",
                    *mend.scale, scale_,
                    scale_ < *mend.scale ? "flushes gradients to zero that count"
                                         : "makes gradients overflow"));
  say(judgement, Verdict::kKeepFp32,
      fmt::format("with {} in fp32{} every tensor is within its tolerance",
                  quoted_list(mend.modules),
                  mend.scale ? fmt::format(" and a loss scale of {:g}", *mend.scale) : ""));
}

std::string Comparer::config_of(const Mend& mend) const {
  std::string text = fmt::format("precision = \"{}\"\n", judged_.name);
  if (mend.scale) text += fmt::format("loss_scale = \"{:g}\"\n", *mend.scale);
  std::vector<std::string> patterns = options_.keep_fp32;
  for (const std::string& module : mend.modules) patterns.push_back(pattern_of(module));
  if (!options_.layer_precision.empty())
    text += fmt::format("layer_precision = ['{}']\n", fmt::join(options_.layer_precision, "', '"));
  if (!patterns.empty()) text += fmt::format("keep_fp32 = ['{}']\n", fmt::join(patterns, "', '"));
  return text;
}

}  // namespace

const char* to_string(ComparedKind kind) {
  constexpr std::array kNames = {"activation", "activation_gradient", "gradient"};
  return kNames.at(static_cast<std::size_t>(kind));
}

const char* to_string(TensorVerdict verdict) {
  constexpr std::array kNames = {"fine", "overflow", "underflow", "imprecise", "incomparable"};
  return kNames.at(static_cast<std::size_t>(verdict));
}

const char* to_string(Verdict verdict) {
  constexpr std::array kNames = {"safe", "change_scale", "keep_fp32", "do_not_use"};
  return kNames.at(static_cast<std::size_t>(verdict));
}

Comparison compare_precisions(const TrainingStep& step, const CompareOptions& options) {
  return Comparer(step, options).run();
}

}  // namespace halftone
