// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/choose_precision.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/diagnostics/compare/network_guard_impl.h"
#include "halftone/diagnostics/tune/tune.h"
#include "halftone/diagnostics/tune/whole_step.h"

namespace halftone {
namespace {

constexpr int kRounds = 3;         // of the precisions in turns
constexpr double kHopeless = 1.5;  // times the fastest: more rounds would not change that
constexpr double kAsFast = 1.05;   // of the fastest passes for as fast

/// The precisions of one choice, with what they compute in.
class Contest {
 public:
  Contest(const TrainingStep& step, const PrecisionChoiceOptions& options)
      : step_(step),
        options_(options),
        exact_(exact_gradients(step, options.device, options.recompute_blocks)) {}

  std::vector<PrecisionTrial> run(double error_bound) {
    first_round(error_bound);
    const double fastest = fastest_seconds();
    for (int round = 1; round < kRounds; ++round)
      for (std::size_t i = 0; i < trials_.size(); ++i) {
        if (trials_[i].seconds > kHopeless * fastest) continue;
        progress(trials_[i].precision, round, i);
        trials_[i].seconds =
            std::min(trials_[i].seconds, step_gradients(step_, *precisions_[i]).seconds);
      }
    return trials_;
  }

  const GradientReference& exact() const { return exact_; }

 private:
  void progress(const std::string& precision, int round, std::size_t i) const {
    if (!options_.progress) return;
    const auto count = static_cast<double>(kRounds * options_.precisions.size());
    options_.progress(
        "measuring " + precision,
        (static_cast<double>(round) * static_cast<double>(options_.precisions.size()) +
         static_cast<double>(i)) /
            count);
  }

  void first_round(double error_bound) {
    for (const std::string& name : options_.precisions) {
      progress(name, 0, trials_.size());
      precisions_.push_back(precision_for_step(step_, parse_precision(name), options_.device,
                                               options_.recompute_blocks));
      step_gradients(step_, *precisions_.back());  // warms up
      StepGradients gradients = step_gradients(step_, *precisions_.back());
      PrecisionTrial trial{.precision = name,
                           .seconds = gradients.seconds,
                           .loss_change = gradients.loss - exact_.loss()};
      trial.error = exact_.error_of(std::move(gradients)).total;
      trial.passes =
          trial.error <= error_bound && std::abs(trial.loss_change) <= options_.loss_increase;
      trials_.push_back(std::move(trial));
    }
  }

  double fastest_seconds() const {
    double fastest = trials_.front().seconds;
    for (const PrecisionTrial& trial : trials_)
      if (trial.passes) fastest = std::min(fastest, trial.seconds);
    return fastest;
  }

  const TrainingStep& step_;
  const PrecisionChoiceOptions& options_;
  GradientReference exact_;
  std::vector<std::unique_ptr<MixedPrecision>> precisions_;
  std::vector<PrecisionTrial> trials_;
};

std::string figures_of(const PrecisionTrial& trial) {
  return fmt::format("{:.0f} ms, gradients {:.2g} off", 1e3 * trial.seconds, trial.error);
}

/// The fastest, or one as fast with finer numbers, which stand before it.
const PrecisionTrial& best_of(const std::vector<PrecisionTrial>& trials) {
  const PrecisionTrial* fastest = &trials.front();
  for (const PrecisionTrial& trial : trials)
    if (trial.passes && trial.seconds < fastest->seconds) fastest = &trial;
  for (const PrecisionTrial& trial : trials)
    if (trial.passes && trial.seconds <= kAsFast * fastest->seconds) return trial;
  return *fastest;
}

std::string reason_for(const PrecisionTrial& best, const PrecisionChoice& choice) {
  std::string reason = fmt::format(
      "a step takes {} ({:.2g} are allowed: a tenth of what the choice of the batch does)",
      figures_of(best), choice.error_bound);
  const PrecisionTrial* next = nullptr;
  for (const PrecisionTrial& trial : choice.trials)
    if (&trial != &best && trial.passes && (next == nullptr || trial.seconds < next->seconds))
      next = &trial;
  if (next != nullptr)
    reason += fmt::format("; the next is {} ({})", next->precision, figures_of(*next));
  for (const PrecisionTrial& trial : choice.trials)
    if (!trial.passes && trial.seconds < best.seconds)
      reason += fmt::format("; {} would be faster ({}), but its error is too large",
                            trial.precision, figures_of(trial));
  return reason;
}

}  // namespace

PrecisionChoice choose_precision(const TrainingStep& step, const TrainingStep& other,
                                 const PrecisionChoiceOptions& options) {
  HALFTONE_CHECK(!options.precisions.empty(), "[choose_precision] expected precisions, got none");
  const NetworkGuard guard(*step.network);
  Contest contest(step, options);
  PrecisionChoice choice;
  choice.sampling_noise =
      sampling_noise(contest.exact(), other, options.device, options.micro_batches);
  choice.error_bound = options.error.value_or(TuneOptions::kNoiseShare * choice.sampling_noise);
  choice.trials = contest.run(choice.error_bound);
  const PrecisionTrial& best = best_of(choice.trials);
  choice.precision = best.precision;
  choice.reason = reason_for(best, choice);
  return choice;
}

}  // namespace halftone
