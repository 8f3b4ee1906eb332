// SPDX-License-Identifier: Apache-2.0
// The training loop: there is one, for every model. MiniMind's recipe runs through it with the
// original's defects mended (docs/numerics.md lists them).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/inspect/non_finite_finder.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/step_metrics.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/training_length.h"
#include "halftone/train/training_task.h"

namespace halftone {

struct FitLoopOptions {
  RunLimits limits;
  std::int64_t accumulate = 1;  // micro-batches of one optimizer step
  LossAverage loss_average = LossAverage::kTokens;
  GradientClip clip;
  std::uint64_t seed = 0;  // of the random rounding in int8 matmuls
};

/// Trains one optimizer step at a time. Everything that decides the next step (weights, moments,
/// scale, random state, data position, counters) is in checkpoint(): a loop that loads it goes on
/// with the same bits.
class FitLoop {
 public:
  /// Converts the module to the precision's dtype, then asks it for its optimizers. Both arguments
  /// must outlive the loop.
  FitLoop(TrainingTask& task, MixedPrecision& precision, const FitLoopOptions& options);
  ~FitLoop() = default;
  FitLoop(const FitLoop&) = delete;
  FitLoop& operator=(const FitLoop&) = delete;

  /// One update from `accumulate` micro-batches: losses under autocast, scaled backward, then
  /// unscale, clip and step. The loss is the mean over what the batches' loss_weight() counts,
  /// however it is split. Where gradients are released, the micro-batches are one pass. Waits
  /// for the device once, for the returned numbers. `record` gets them first, and may add to them:
  /// before SystemError says that no update is possible any more.
  StepMetrics step(const std::function<void(StepMetrics&)>& record = {});

  /// Warns of a warm-up that the run doesn't end: of the steps that are planned when it begins, of
  /// those that were made when time has ended it.
  void warn_of_warmup() const;

  bool finished() const { return length_.finished(counters_); }
  double progress() const { return length_.progress(counters_); }
  const TrainingLength& length() const { return length_; }
  const RunCounters& counters() const { return counters_; }
  const std::vector<OptimizerSetup>& optimizers() const { return setups_; }

  Checkpoint checkpoint() const;
  /// Throws UserError when the checkpoint is of another model, data set or recipe.
  void load_checkpoint(const Checkpoint& checkpoint);

 private:
  struct Update {
    torch::Tensor loss;  // on the host
    StepResult result;
  };

  /// What a micro-batch is computed with once more, beside the batch and the weights.
  struct MicroBatch {
    StateDict generators;  // before it
    torch::Tensor loss;
  };

  torch::nn::Module& network() const { return task_.module().network(); }
  std::string origin_of_non_finite();
  std::optional<NonFiniteOrigin> replayed(std::size_t micro_batch);
  void set_learning_rates(std::int64_t group);
  void check_release() const;
  void check_offload() const;
  torch::Tensor loss_of(std::int64_t i);
  torch::Tensor accumulate_gradients(std::int64_t group);
  Update update(std::int64_t group);
  torch::Tensor start_reading(const torch::Tensor& loss);
  void finish_metrics(StepMetrics& metrics, double seconds);
  void note_memory_kinds(StepMetrics& metrics) const;

  TrainingTask& task_;
  MixedPrecision& precision_;
  FitLoopOptions options_;
  std::vector<OptimizerSetup> setups_;
  Optimizers optimizers_;
  std::vector<std::vector<double>> base_rates_;  // of each optimizer's groups
  TrainingLength length_;
  RunCounters counters_;
  std::vector<MicroBatch> micro_batches_;  // of the last step
};

}  // namespace halftone
