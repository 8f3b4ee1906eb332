// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/diagnostics/compare/network_guard_impl.h"
#include "halftone/diagnostics/tune/format_solver.h"
#include "halftone/diagnostics/tune/layer_errors.h"
#include "halftone/diagnostics/tune/layer_patterns.h"
#include "halftone/diagnostics/tune/whole_step.h"
#include "halftone/nn/lm_head.h"
#include "halftone/train/layer_precision.h"

namespace halftone {
namespace {

using Formats = std::map<std::string, ComputeType>;

constexpr int kTimingRounds = 4;  // of a layer's formats
constexpr int kStepRounds = 3;    // of the reference and the choice, at least
constexpr int kMostStepRounds = 10;
constexpr double kAsPredicted = 0.03;  // of the reference's time
constexpr int kMostBackOffs = 6;
constexpr double kLeastStepGain = 0.01;  // of the step's time, for a choice to be worth it

PrecisionPolicy mixed_policy(const std::string& name) {
  PrecisionPolicy policy = parse_precision(name);
  if (!policy.is_mixed())
    throw UserError(fmt::format(
        "tune: layers are lowered from a mixed precision, but precision is {}; name one that ends "
        "in -mixed, such as bf16-mixed",
        name));
  return policy;
}

/// What may be lost, in squares, which add up over the layers.
struct Budget {
  double error = 0;
  double loss = 0;

  /// The part of it that a measurement uses up.
  double share_of(const FormatMeasurement& one, double reference_error) const {
    const double added = one.error * one.error - reference_error * reference_error;
    const auto part = [](double used, double all) {
      if (!(used < std::numeric_limits<double>::infinity()))
        return std::numeric_limits<double>::infinity();
      return used <= 0 ? 0.0 : all > 0 ? used / all : std::numeric_limits<double>::infinity();
    };
    return std::max(part(added, error), part(one.loss_change * one.loss_change, loss));
  }
};

/// The tuning of one step.
class Tuner {
 public:
  Tuner(const TrainingStep& step, const TuneOptions& options)
      : step_(step),
        options_(options),
        policy_(mixed_policy(options.precision)),
        precision_(precision_for_step(step, policy_, options.device, options.recompute_blocks)),
        exact_(exact_gradients(step, options.device, options.recompute_blocks)),
        trial_(step, *precision_, exact_) {
    result_.precision = policy_.name;
    result_.exact = {.name = "32-true", .seconds = exact_.seconds()};
  }

  TuneResult run(const TrainingStep& other) {
    measure_reference(other);
    measure_layers();
    measure_corners();
    choose();
    draw_line();
    finish();
    return std::move(result_);
  }

 private:
  void progress(const std::string& stage, double share) const {
    if (options_.progress) options_.progress(stage, share);
  }

  void measure_reference(const TrainingStep& other) {
    progress("measuring the reference", 0);
    trial_.measure("warms up", {});
    result_.reference = trial_.measure(policy_.name, {});
    result_.sampling_noise = sampling_noise(exact_, other, options_.device, options_.micro_batches);
    // What the reference is off itself is no fault of a choice.
    result_.error_bound =
        std::max(options_.error.value_or(TuneOptions::kNoiseShare * result_.sampling_noise),
                 result_.reference.error);
    result_.loss_bound = options_.loss_increase;
  }

  void measure_layers() {
    progress("timing the layers", 0);
    CostedLayers costed{.layers = tunable_layers(step_, *precision_)};
    std::vector<ComputeType> types;
    for (const ComputeType type : compute_types())
      if (can_stand_among(type, policy_.compute)) types.push_back(type);
    costed.times = layer_times(costed.layers, types, *precision_, kTimingRounds);
    result_.layers = grouped_layers(costed, *precision_, /*by_role=*/false);
    const double needed =
        result_.reference.seconds * static_cast<double>(measurement_count(result_.layers));
    if (needed > options_.max_seconds)
      result_.layers = grouped_layers(costed, *precision_, /*by_role=*/true);
    measure_errors(result_.layers, trial_, result_.reference, options_.max_seconds,
                   [&](double share) { progress("measuring each layer's error", share); });
  }

  /// All layers in each of the formats that gain somewhere.
  void measure_corners() {
    progress("measuring whole formats", 0);
    result_.exact.seconds =
        std::min(result_.exact.seconds,
                 exact_gradients(step_, options_.device, options_.recompute_blocks).seconds());
    for (const ComputeType type : compute_types()) {
      Formats all;
      bool gains = false;
      for (const TunedLayers& group : result_.layers) {
        for (const std::string& path : group.modules) all[path] = type;
        for (const FormatMeasurement& one : group.formats) gains = gains || one.format == type;
      }
      if (gains)
        result_.corners.push_back(trial_.measure(fmt::format("all in {}", to_string(type)), all));
    }
  }

  /// The fastest choice within `budget`: an index into each group's formats, or -1.
  std::vector<int> solve(const Budget& budget) const {
    std::vector<std::vector<FormatOption>> options;
    for (const TunedLayers& group : result_.layers) {
      std::vector<FormatOption> of_group{{.seconds = group.seconds}};
      for (const FormatMeasurement& one : group.formats)
        of_group.push_back(
            {.seconds = one.seconds, .share = budget.share_of(one, result_.reference.error)});
      options.push_back(std::move(of_group));
    }
    std::vector<int> choice;
    for (const std::size_t option : fastest_within_budget(options))
      choice.push_back(static_cast<int>(option) - 1);
    return choice;
  }

  const FormatMeasurement* chosen_of(const std::vector<int>& choice, std::size_t group) const {
    return choice[group] < 0
               ? nullptr
               : &result_.layers[group].formats[static_cast<std::size_t>(choice[group])];
  }

  TunePoint prediction(const std::vector<int>& choice, double error_bound) const {
    const double base = result_.reference.error * result_.reference.error;
    TunePoint point{.error_bound = error_bound, .seconds = result_.reference.seconds};
    double error = base, loss = 0;
    for (std::size_t i = 0; i < choice.size(); ++i) {
      const TunedLayers& group = result_.layers[i];
      const FormatMeasurement* const one = chosen_of(choice, i);
      point.modules_in[one != nullptr ? one->format : group.reference] +=
          static_cast<int>(group.modules.size());
      if (one == nullptr) continue;
      point.seconds += one->seconds - group.seconds;
      error += std::max(0.0, one->error * one->error - base);
      loss += one->loss_change * one->loss_change;
    }
    point.error = std::sqrt(error);
    point.loss_change = std::sqrt(loss);
    return point;
  }

  Budget budget_for(double error_bound, double loss_bound) const {
    const double base = result_.reference.error * result_.reference.error;
    return {.error = std::max(0.0, error_bound * error_bound - base),
            .loss = loss_bound * loss_bound};
  }

  /// Best choices from the reference on to all that is faster, by the error alone.
  void draw_line() {
    constexpr double kNone = std::numeric_limits<double>::infinity();
    constexpr std::array kParts{0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0};
    const double base = result_.reference.error * result_.reference.error;
    const double most = prediction(solve({.error = kNone, .loss = kNone}), 0).error;
    result_.line.push_back(prediction(nothing_lowered(), result_.reference.error));
    for (const double part : kParts) {
      const double bound = std::sqrt(base + 1.001 * part * (most * most - base));
      const TunePoint point = prediction(solve(budget_for(bound, kNone)), bound);
      if (point.modules_in != result_.line.back().modules_in) result_.line.push_back(point);
    }
  }

  Formats formats_of(const std::vector<int>& choice) const {
    Formats formats;
    for (std::size_t i = 0; i < choice.size(); ++i)
      if (const FormatMeasurement* const one = chosen_of(choice, i))
        for (const std::string& path : result_.layers[i].modules) formats[path] = one->format;
    return formats;
  }

  bool holds(const MeasuredStep& measured) const {
    return measured.error <= result_.error_bound &&
           std::abs(measured.loss_change - result_.reference.loss_change) <= result_.loss_bound;
  }

  /// The part of the budget that would have been enough of it, had all errors been as much larger
  /// than predicted as the sum of them.
  double tightened(const MeasuredStep& measured) const {
    const Budget all = budget_for(result_.error_bound, result_.loss_bound);
    const double used =
        all.share_of({.error = measured.error,
                      .loss_change = measured.loss_change - result_.reference.loss_change},
                     result_.reference.error);
    return std::isfinite(used) && used > 1 ? 1 / used : 0.5;
  }

  void choose() {
    progress("checking the choice", 0);
    double part = 1;
    for (result_.back_offs = 0; result_.back_offs < kMostBackOffs; ++result_.back_offs) {
      Budget budget = budget_for(result_.error_bound, result_.loss_bound);
      budget.error *= part;
      budget.loss *= part;
      const std::vector<int> choice = solve(budget);
      const Formats formats = formats_of(choice);
      if (formats.empty()) return keep_reference("no layer can be lowered within the bounds");
      const MeasuredStep measured = trial_.measure("the choice", formats);
      if (holds(measured)) return accept(choice, measured);
      part *= tightened(measured);
    }
    keep_reference("no choice held its bounds when it was measured as a whole");
  }

  /// Both steps in turns, each as fast as it ever was; more often where that is not what the
  /// layers' times say, since other programs disturb.
  void time_beside_reference(const std::vector<int>& choice, const Formats& formats,
                             MeasuredStep& measured) {
    const auto is_as_predicted = [&] {
      const double predicted = prediction(choice, result_.error_bound).seconds;
      return std::abs(measured.seconds - predicted) < kAsPredicted * result_.reference.seconds;
    };
    for (int round = 1; round < kMostStepRounds; ++round) {
      if (round >= kStepRounds && is_as_predicted()) return;
      progress("timing the choice", static_cast<double>(round) / kMostStepRounds);
      result_.reference.seconds =
          std::min(result_.reference.seconds, trial_.measure("", {}).seconds);
      measured.seconds = std::min(measured.seconds, trial_.measure("", formats).seconds);
    }
  }

  void accept(const std::vector<int>& choice, MeasuredStep measured) {
    const Formats formats = formats_of(choice);
    time_beside_reference(choice, formats, measured);
    result_.predicted = prediction(choice, result_.error_bound);
    if (measured.seconds > (1 - kLeastStepGain) * result_.reference.seconds)
      return keep_reference(
          fmt::format("the choice takes {:.2f} of the reference's time, which gains nothing",
                      measured.seconds / result_.reference.seconds));
    result_.chosen = std::move(measured);
    result_.formats = formats;
    for (std::size_t i = 0; i < choice.size(); ++i)
      if (const FormatMeasurement* const one = chosen_of(choice, i))
        result_.layers[i].choice = one->format;
    result_.verdict = fmt::format("{} of {} layers are lowered", formats.size(), [&] {
      std::size_t count = 0;
      for (const TunedLayers& group : result_.layers) count += group.modules.size();
      return count;
    }());
  }

  std::vector<int> nothing_lowered() const { return std::vector<int>(result_.layers.size(), -1); }

  void keep_reference(const std::string& why) {
    result_.predicted = prediction(nothing_lowered(), result_.error_bound);
    result_.chosen = result_.reference;
    result_.chosen.name = "the choice";
    result_.verdict = fmt::format("{} stays as it is: {}", policy_.name, why);
  }

  /// The choice as texts, which must give it back.
  void finish() {
    Formats all;
    step_.network->apply([&](const std::string& path, torch::nn::Module& module) {
      if (multiplied_weight(module).defined()) all[path] = policy_.compute;
    });
    for (const auto& [path, type] : result_.formats) all[path] = type;
    for (const bool by_parents : {true, false}) {
      result_.layer_precision = layer_precision_texts(all, policy_.compute, by_parents);
      if (are_the_choice(result_.layer_precision)) return;
    }
    HALFTONE_CHECK(false, "[tune] expected texts that name the layers of the choice");
  }

  bool are_the_choice(const std::vector<std::string>& texts) const {
    try {
      return layer_types(*step_.network, texts, policy_) == result_.formats;
    } catch (const UserError&) {  // a parent has layers of LibTorch's beside them
      return false;
    }
  }

  const TrainingStep& step_;
  const TuneOptions& options_;
  PrecisionPolicy policy_;
  std::unique_ptr<MixedPrecision> precision_;
  GradientReference exact_;
  FormatTrial trial_;
  TuneResult result_;
};

}  // namespace

TuneResult tune_layers(const TrainingStep& step, const TrainingStep& other,
                       const TuneOptions& options) {
  const NetworkGuard guard(*step.network);
  return Tuner(step, options).run(other);
}

}  // namespace halftone
