// SPDX-License-Identifier: Apache-2.0
// Two trainings of one configuration that differ in their precision alone, step by step beside each
// other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/train_config.h"

namespace halftone {

/// Where both begin.
struct TrainingStart {
  std::string run;        // folder of a run, from its checkpoint of `step`; empty: a new run
  std::int64_t step = 0;  // of the checkpoint
};

/// What came of it, of the first configuration and of the second.
struct PairedTraining {
  std::int64_t steps = 0;
  std::int64_t validation_batches = 0;  // that neither has trained on in these steps
  double first_loss = 0;                // mean over them, in the training's own precision
  double second_loss = 0;
  double first_step_s = 0;  // of an optimizer step, median
  double second_step_s = 0;
};

/// When it ends: before `seconds` are over, the evaluation included, but not before a few steps.
struct PairedLimits {
  double seconds = 0;
  std::int64_t most_steps = 100;
};

/// Trains `first` and `second` in turns, a step each, from the same start on the same batches, and
/// evaluates both on the batches that come next. Their keys differ in precision, keep_fp32,
/// layer_precision and loss_scale only. Nothing is written. Both models and optimizers are in
/// memory at once. `progress` is told the share of the time. Where the run's limits are reached it
/// returns no steps. Throws UserError and SystemError as training does.
PairedTraining train_side_by_side(const TrainConfig& first, const TrainConfig& second,
                                  const PretrainInputs& inputs, const TrainingStart& start,
                                  const PairedLimits& limits,
                                  const std::function<void(double share)>& progress = {});

}  // namespace halftone
