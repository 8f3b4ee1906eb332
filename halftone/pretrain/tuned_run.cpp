// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/tuned_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "halftone/core/stopwatch.h"
#include "halftone/core/text.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/pretrain/plan_request.h"

namespace halftone {
namespace {

constexpr double kMeasuringShare = 0.5;  // of the time, for the errors of single layers

TrainConfig without_layer_precision(TrainConfig config) {
  config.layer_precision.clear();
  return config;
}

/// Seconds of the shortest training of both that says something: a few steps, forward, backward and
/// update of each, and an evaluation.
double shortest_validation(const TuneResult& tuning, std::int64_t accumulate) {
  constexpr double kSteps = 4 * 1.2, kEvaluation = 3;
  const double pair = tuning.reference.seconds + tuning.chosen.seconds;
  return pair * (kSteps * static_cast<double>(accumulate) + kEvaluation);
}

/// Whether both trainings fit into memory beside each other.
bool fits_twice(const TrainConfig& config, const PretrainInputs& inputs) {
  if (!is_memory_limited(config, inputs.device)) return true;
  const PlanRequest request = plan_request(config, inputs.model);
  const std::uint64_t once = plan_memory(request, /*process=*/0).bytes.total();
  return process_bytes() + 2 * once <= request.budget_bytes;
}

class RunTuning {
 public:
  RunTuning(LoadedStep& loaded, const TrainingStart& start, const TunedRunOptions& options)
      : loaded_(loaded),
        start_(start),
        options_(options),
        reference_(without_layer_precision(loaded.config())) {}

  TunedRun run() {
    tune();
    result_.config = reference_;
    result_.config.layer_precision = result_.tuning.layer_precision;
    validate();
    if (!result_.holds) result_.config = reference_;
    result_.seconds = elapsed();
    return std::move(result_);
  }

 private:
  double elapsed() const { return options_.used_seconds + watch_.seconds(); }

  void tune() {
    keep_fp32(loaded_.module().network(), reference_.keep_fp32);
    const PrecisionPolicy policy = parse_precision(reference_.precision);
    const TuneOptions tuning{
        .precision = reference_.precision,
        .device = loaded_.inputs().device,
        .recompute_blocks = memory_policy(reference_.memory, policy).recompute_blocks,
        .error = options_.error,
        .loss_increase = options_.loss_increase,
        .max_seconds = kMeasuringShare * (options_.max_seconds - options_.used_seconds),
        .micro_batches = reference_.accumulate,
        .progress = options_.progress};
    const TrainingStep other =
        training_step_on(loaded_.module(), loaded_.loader().batch_at(another_batch()));
    result_.tuning = tune_layers(loaded_.step(), other, tuning);
  }

  /// The position of a batch that the step does not have.
  std::int64_t another_batch() const {
    return loaded_.optimizer_step() * reference_.accumulate +
           std::max<std::int64_t>(1, loaded_.loader().batches_per_epoch() / 2);
  }

  void validate() {
    if (result_.tuning.formats.empty()) {
      result_.no_validation = "the choice is the reference itself";
      return;
    }
    const double left = options_.max_seconds - elapsed();
    if (left < shortest_validation(result_.tuning, reference_.accumulate)) {
      result_.no_validation = fmt::format("{} are too short for it; raise --max-time",
                                          format_seconds(options_.max_seconds));
      return;
    }
    if (!fits_twice(reference_, loaded_.inputs())) {
      result_.no_validation = "two trainings beside each other do not fit into memory";
      return;
    }
    result_.validation = train_side_by_side(
        reference_, result_.config, loaded_.inputs(), start_, {.seconds = left}, [&](double share) {
          if (options_.progress) options_.progress("training beside the reference", share);
        });
    if (result_.validation.steps == 0) {
      result_.no_validation = "the run has reached its limits";
      return;
    }
    result_.holds =
        result_.validation.second_loss - result_.validation.first_loss <= options_.loss_increase;
  }

  LoadedStep& loaded_;
  const TrainingStart& start_;
  const TunedRunOptions& options_;
  TrainConfig reference_;
  Stopwatch watch_;
  TunedRun result_;
};

}  // namespace

TunedRun tune_run(LoadedStep& loaded, const TrainingStart& start, const TunedRunOptions& options) {
  return RunTuning(loaded, start, options).run();
}

}  // namespace halftone
