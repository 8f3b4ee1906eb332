// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "halftone/run/step_metrics.h"

namespace halftone {

/// What the loop calls within an optimizer step, in this order. Gradients carry the loss scale,
/// where the precision has one, in all of them. Where the memory recipe releases gradients, each is
/// applied and freed within the backward pass: no hook sees any, on_before_optimizer_step() comes
/// before that pass, and the batches of a step are one.
class StepHooks {
 public:
  virtual ~StepHooks() = default;

  virtual void on_before_zero_grad() {}
  /// `index` counts the batches of the epoch from 0.
  virtual void on_train_batch_start(std::int64_t /*index*/) {}
  /// `loss`: as it will be back-propagated, but without the loss scale.
  virtual void on_before_backward(const torch::Tensor& /*loss*/) {}
  virtual void on_after_backward() {}
  /// The gradients of all batches of the step are complete.
  virtual void on_before_optimizer_step() {}
  /// Of a step's last batch, after the update.
  virtual void on_train_batch_end(std::int64_t /*index*/) {}
  /// All numbers of the step are there, and none has been written: the place to add some.
  virtual void add_metrics(StepMetrics& /*metrics*/) {}
};

}  // namespace halftone
