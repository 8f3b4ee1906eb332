// SPDX-License-Identifier: Apache-2.0
// A training step computed again: for the search of what went wrong in it, and for whatever looks
// at one step in several precisions.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/training_task.h"

namespace halftone {

/// What decides the bits of a step's losses and gradients beside the weights, the scale and the
/// module's buffers. With those of a checkpoint, next_step() of it is the step that a resumed run
/// takes.
struct StepReplay {
  struct MicroBatch {
    StateDict generators;  // LibTorch's, before it
    torch::Tensor loss;    // that it had; undefined where it was not computed yet
  };

  std::int64_t epoch = 0;       // of its first batch, from 0
  std::int64_t batch = 0;       // that batch's index in the epoch
  std::int64_t micro_step = 0;  // forward passes of the run before the step
  std::uint64_t seed = 0;       // of the random rounding
  std::vector<MicroBatch> micro_batches;
};

/// The step after a checkpoint, by its trainer's state; `task` takes the position in the data from
/// it, and its group is the step's first micro-batch.
StepReplay next_step(TrainingTask& task, const StateDict& trainer, std::uint64_t seed);

/// Computes `loss` as micro-batch `i` of the step was: in the precision's regions, with the
/// generators of then; they stand where they stood afterwards.
void replay_micro_batch(const StepReplay& replay, std::int64_t i, const MixedPrecision& precision,
                        bool fused_grads, const std::function<void()>& loss);

/// One micro-batch of a module, which can be computed as often as one likes, in any precision that
/// the network was converted to: each time with the same random numbers.
struct TrainingStep {
  torch::nn::Module* network = nullptr;
  /// The loss, unscaled, with its graph; gradients go where backward() takes them.
  std::function<torch::Tensor(const MixedPrecision& precision)> loss;
  /// The same with another draw of the precision's random rounding; draw 0 is loss(). Empty: the
  /// step has one draw only.
  std::function<torch::Tensor(const MixedPrecision& precision, std::uint64_t draw)> redrawn_loss;
};

/// That of the first batch of the group that `task` holds. `task` must outlive it.
TrainingStep first_micro_batch(TrainingTask& task, StepReplay replay);

/// That of one batch of a TrainingModule, as the first of a run. `module` must outlive it.
template <class Module, class Batch>
TrainingStep training_step_on(Module& module, const Batch& batch) {
  const auto data = std::make_shared<std::vector<Batch>>(1, batch);
  const auto task = std::make_shared<ModuleTrainingTask<Pointee<Module>, std::vector<Batch>>>(
      pointee(module), *data);
  task->load_group(1, LossAverage::kTokens);
  TrainingStep step =
      first_micro_batch(*task, {.micro_batches = std::vector<StepReplay::MicroBatch>(1)});
  // The step reads both.
  step.loss = [data, task, loss = std::move(step.loss)](const MixedPrecision& precision) {
    return loss(precision);
  };
  step.redrawn_loss = [data, task, loss = std::move(step.redrawn_loss)](
                          const MixedPrecision& precision, std::uint64_t draw) {
    return loss(precision, draw);
  };
  return step;
}

}  // namespace halftone
