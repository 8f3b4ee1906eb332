// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/profile/repeated_step.h"

#include <cstddef>
#include <memory>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/weight_cache.h"
#include "halftone/optim/lr_scheduler.h"
#include "halftone/train/optimizer_state.h"

namespace halftone {
namespace {

/// What FitLoop has in force around its micro-batches. A TrainingStep adds gradients up in place
/// where the context around it does.
ComputeContext training_context(std::int64_t micro_batches) {
  ComputeContext context = compute_context();
  context.fused_grad_accumulation = true;
  if (micro_batches > 1) context.weight_cache = std::make_shared<WeightCache>();
  return context;
}

}  // namespace

std::string_view to_string(StepPhase phase) {
  switch (phase) {
    case StepPhase::kForward:
      return "forward";
    case StepPhase::kRecompute:
      return "recompute";
    case StepPhase::kBackward:
      return "backward";
    case StepPhase::kUpdate:
      return "update";
  }
  return "";
}

RepeatedStep::RepeatedStep(TrainingStep step, MixedPrecision& precision, Optimizers optimizers,
                           const RepeatedStepOptions& options)
    : step_(std::move(step)),
      precision_(precision),
      optimizers_(std::move(optimizers)),
      options_(options) {
  HALFTONE_CHECK(step_.network != nullptr && step_.loss && !optimizers_.empty(),
                 "[profile] expected a step with a network and a loss, and an optimizer");
  HALFTONE_CHECK(options_.micro_batches >= 1, "[profile] expected 1 micro-batch or more, got ",
                 options_.micro_batches);
  HALFTONE_CHECK(!precision_.memory().release_gradients || options_.micro_batches == 1,
                 "[profile] expected 1 micro-batch where gradients are released, got ",
                 options_.micro_batches, "; join them to one");
  for (const auto& optimizer : optimizers_) {
    rates_.push_back(learning_rates(*optimizer));
    set_learning_rates(*optimizer, rates_.back(), [](double /*base*/) { return 0.0; });
  }
}

RepeatedStep::~RepeatedStep() {
  for (std::size_t i = 0; i < optimizers_.size(); ++i)
    set_learning_rates(*optimizers_[i], rates_[i], [](double base) { return base; });
}

StepResult RepeatedStep::take(const std::function<void(StepPhase)>& on_phase) {
  const auto begin = [&](StepPhase phase) {
    if (on_phase) on_phase(phase);
  };
  begin(StepPhase::kUpdate);
  for (const auto& optimizer : optimizers_) zero_grad(*optimizer);
  if (precision_.memory().release_gradients) return take_released(on_phase);
  {
    const ComputeScope scope(training_context(options_.micro_batches));
    for (std::int64_t i = 0; i < options_.micro_batches; ++i) {
      begin(StepPhase::kForward);
      const torch::Tensor loss =
          step_.loss(precision_) / static_cast<double>(options_.micro_batches);
      begin(StepPhase::kBackward);
      precision_.backward(loss);
    }
  }
  begin(StepPhase::kUpdate);
  const StepResult result = precision_.step(optimizers_, options_.clip);
  precision_.update();
  synchronize(precision_.device());
  return result;
}

StepResult RepeatedStep::take_released(const std::function<void(StepPhase)>& on_phase) {
  const ComputeScope scope(training_context(1));
  if (on_phase) on_phase(StepPhase::kForward);
  const torch::Tensor loss = step_.loss(precision_);
  if (on_phase) on_phase(StepPhase::kBackward);
  const StepResult result = precision_.backward_and_step(loss, optimizers_, options_.clip);
  precision_.update();
  synchronize(precision_.device());
  return result;
}

}  // namespace halftone
