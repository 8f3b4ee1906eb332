// SPDX-License-Identifier: Apache-2.0
// For modules that step their optimizers themselves, within training_step(): two losses, two
// optimizers, several updates a batch, a penalty on gradients.
//
//   bool automatic_optimization() const override { return false; }
//   torch::Tensor training_step(const Batch& batch, std::int64_t index) override {
//     auto& critic = optimizer(0);
//     critic.zero_grad();
//     manual_backward(loss);
//     critic.step({.value = 1.0});  // clips by the norm
#pragma once

#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/step_hooks.h"

namespace halftone {

class ManualOptimization;

/// While it lives, parameters of other optimizers require no gradient; afterwards, those that did
/// before do again. A parameter that both optimizers have keeps its gradient.
class ToggledOptimizer {
 public:
  ToggledOptimizer(const torch::optim::Optimizer& kept, const Optimizers& all);
  ~ToggledOptimizer();
  ToggledOptimizer(const ToggledOptimizer&) = delete;
  ToggledOptimizer& operator=(const ToggledOptimizer&) = delete;

 private:
  std::vector<torch::Tensor> frozen_;
};

/// One of the module's optimizers, in the order of configure_optimizers().
class ManualOptimizer {
 public:
  ManualOptimizer(ManualOptimization& owner, std::size_t index) : owner_(&owner), index_(index) {}

  /// Forgets its gradients. Those that no step() has taken add up, over batches too, and over a run
  /// that is stopped and resumed. Those that one has taken are to be forgotten before the next
  /// manual_backward().
  void zero_grad();
  /// Unscales and clips its gradients, and updates unless one of them is not finite. Several steps
  /// within a batch are fine; gradients that wait meanwhile keep the loss scale's value right.
  StepResult step(const GradientClip& clip = {});
  /// For the part of a step in which it alone is trained:
  ///   const auto only = optimizer(0).toggled();
  ToggledOptimizer toggled() const;

  /// The learning rate of its first group. Schedules of its OptimizerSetup set it before each
  /// batch.
  double learning_rate() const;
  torch::optim::Optimizer& get() const;

 private:
  ManualOptimization* owner_;
  std::size_t index_;
};

/// The part of the loop in it: one for all optimizers of a run.
class ManualOptimization {
 public:
  /// What a batch's steps came to.
  struct Outcome {
    StepResult result;
    std::int64_t steps = 0;       // how many there were
    std::optional<double> scale;  // of the first one
    ScalerVerdict verdict;
  };

  /// `precision` must outlive it.
  ManualOptimization(MixedPrecision& precision, Optimizers optimizers);
  ManualOptimization(const ManualOptimization&) = delete;
  ManualOptimization& operator=(const ManualOptimization&) = delete;

  ManualOptimizer& optimizer(std::size_t index);
  const Optimizers& optimizers() const { return optimizers_; }

  /// Back-propagates scaled, outside of autocast and of the forward pass's context. Weights that
  /// autocast has converted are converted anew afterwards, as their graph may be gone.
  void backward(const torch::Tensor& loss, bool retain_graph);
  /// d output / d input of each input, in a graph of its own, without the loss scale: for a term of
  /// the loss that depends on gradients. Undefined for an input that `output` does not depend on.
  std::vector<torch::Tensor> gradients(const torch::Tensor& output,
                                       const std::vector<torch::Tensor>& inputs);
  void zero_grad(std::size_t index);
  StepResult step(std::size_t index, const GradientClip& clip);

  /// Before a batch, outside of its forward pass's context.
  void begin(StepHooks& hooks);
  /// After it: moves the loss scale if an optimizer stepped.
  Outcome end();

  /// Runs `pass`, of which backward() only collects losses and nothing moves. Returns the sum of
  /// the losses, scaled; undefined where there were none.
  torch::Tensor collect_losses(const std::function<void()>& pass);

  /// Gradients that wait for a step, by optimizer and number of the parameter.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  struct State {
    bool waiting = false;  // has gradients of a backward() that no step() has taken
    bool stepped = false;  // since the loss scale moved
  };

  void note_backward();
  void move_scale();
  void rescale_waiting(double factor);
  void note(const StepResult& result);

  MixedPrecision& precision_;
  Optimizers optimizers_;
  std::vector<ManualOptimizer> handles_;
  std::vector<State> states_;
  StepHooks* hooks_ = nullptr;
  ComputeContext outer_;  // of the loop, around the forward pass
  Outcome outcome_;       // of the present batch
  std::vector<torch::Tensor>* collected_ = nullptr;
};

}  // namespace halftone
