// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/optim/gradient_reducer.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/sharded_weights.h"

namespace halftone {

/// What each process of a run knows of a step, before all know the same.
struct StepShare {
  double loss = 0;  // of its batches, each by its weight: the step's loss is the sum
  std::int64_t tokens = 0;
  double seconds = 0;  // of process 0 in the end
};

/// One model on several processes, each with a share of the batches: all begin with the same
/// weights, and update them with the same gradients, the sums over all processes.
class DataParallel {
 public:
  /// Gives all processes process 0's parameters and buffers. `optimizers` and `group` must outlive
  /// it. Throws UserError for optimizers that apply gradients as they come.
  /// `tree`: as in GradientReducer.
  DataParallel(ProcessGroup& group, Optimizers optimizers, torch::nn::Module& network,
               GradientTransport transport = GradientTransport::kExact,
               GradientTree* tree = nullptr);

  ProcessGroup& group() const { return group_; }

  /// Where the optimizers share the weights as well; else null.
  const std::shared_ptr<ShardedWeights>& weights() const { return weights_; }

  /// Ends that: each process has all weights from now on.
  void complete_weights();

  /// Before the last backward pass of a step: gradients may leave while it runs.
  void begin_backward();
  /// After it: waits until all gradients are the sums over all processes.
  void finish_backward();

  /// Sums, and the time of process 0.
  StepShare all_of(const StepShare& own) const;
  /// Gives all processes the generators' states of process 0, so that loaders that shuffle with
  /// them give all the same order.
  void share_generators(torch::Device device) const;

 private:
  ProcessGroup& group_;
  GradientTransport transport_;
  Optimizers loose_;  // LibTorch's: their gradients are sent when all are there
  std::optional<GradientReducer> reducer_;
  std::shared_ptr<ShardedWeights> weights_;
};

}  // namespace halftone
