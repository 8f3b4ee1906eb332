// SPDX-License-Identifier: Apache-2.0
// A whole optimizer step, as FitLoop takes it, that can be taken again and again.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "halftone/train/mixed_precision.h"
#include "halftone/train/step_replay.h"

namespace halftone {

/// What a training step is doing.
enum class StepPhase {
  kForward,
  kRecompute,  // within the backward pass: of blocks whose activations were not kept
  kBackward,
  kUpdate,  // gradients to zero; unscaling, clipping, the optimizer, the loss scale
};
/// "forward", "recompute", "backward", "update".
std::string_view to_string(StepPhase phase);

struct RepeatedStepOptions {
  std::int64_t micro_batches = 1;  // before the update; each is the step's own micro-batch again
  GradientClip clip;
};

/// Gradients are set to zero, the micro-batches go forward and backward, then come unscaling,
/// clipping, the update and the loss scale, with all casts and buffers of training. The learning
/// rate is 0 while it lives: weights stay as they are, and each time computes the same. Moments and
/// .grad change.
class RepeatedStep {
 public:
  /// `precision` has converted the step's network, and `optimizers` were made after that; a memory
  /// recipe that releases gradients takes one AdamW and one micro-batch. Both must outlive it.
  RepeatedStep(TrainingStep step, MixedPrecision& precision, Optimizers optimizers,
               const RepeatedStepOptions& options = {});
  ~RepeatedStep();
  RepeatedStep(const RepeatedStep&) = delete;
  RepeatedStep& operator=(const RepeatedStep&) = delete;

  /// Returns when the device has done all of it. `on_phase` hears when a phase begins, kRecompute
  /// excepted. In the result `stepped` is false where gradients were not finite: the optimizer did
  /// nothing then.
  StepResult take(const std::function<void(StepPhase)>& on_phase = {});

  torch::nn::Module& network() const { return *step_.network; }
  const MixedPrecision& precision() const { return precision_; }
  const Optimizers& optimizers() const { return optimizers_; }
  std::int64_t micro_batches() const { return options_.micro_batches; }

 private:
  StepResult take_released(const std::function<void(StepPhase)>& on_phase);

  TrainingStep step_;
  MixedPrecision& precision_;
  Optimizers optimizers_;
  RepeatedStepOptions options_;
  std::vector<std::vector<double>> rates_;  // of each optimizer's groups, before
};

}  // namespace halftone
