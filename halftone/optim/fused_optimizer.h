// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "halftone/core/state_dict.h"
#include "halftone/optim/adamw_options.h"
#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// Bytes of an optimizer's buffers, by kind; the weights themselves among them. Where processes
/// keep a part of a kind each: of this process's part.
struct OptimizerBytes {
  std::int64_t weights = 0;
  std::int64_t gradients = 0;  // 0 when they are released
  std::int64_t moments = 0;
  std::int64_t master = 0;  // what is kept beside the weights
  std::int64_t disk = 0;    // of moments and master: what lies in a file
  std::int64_t total() const { return weights + gradients + moments + master; }
  /// Of moments and master: what is in memory all the time.
  std::int64_t resident_states() const { return moments + master - disk; }
  bool operator==(const OptimizerBytes&) const = default;
};

/// How an optimizer was set up, as far as others must know.
struct OptimizerTraits {
  bool releases_gradients = false;              // they are applied one by one in the backward pass
  bool offloads_states = false;                 // they lie in a file
  bool stochastic_rounding = false;             // of weights of 16 bits
  bool fp32_gradients = false;                  // of weights of 16 bits
  MasterWeights master = MasterWeights::kNone;  // of bf16 weights
  MomentStorage moments = MomentStorage::kFloat32;
  bool shards_states = false;     // over processes
  bool shards_gradients = false;  // likewise: only this process's part of them is ever complete
  bool shards_weights = false;    // likewise: a step updates this process's part of them alone
};

/// An optimizer over a ParameterArena that unscales, clips and leaves steps out within its update:
/// what the scaler, the Trainer and checkpoints ask of it. As in torch.optim, a parameter without a
/// gradient takes no part in a step. LibTorch's optimizers are none; those that hold any ask
/// as_fused().
class FusedOptimizer : public torch::optim::Optimizer {
 public:
  using Optimizer::Optimizer;

  /// The parameters and their gradients. One that has a gradient takes part in the next step.
  virtual const ParameterArena& arena() const = 0;
  const std::vector<std::string>& parameter_names() const { return arena().names(); }
  /// The one called parameter_names()[index].
  const torch::Tensor& parameter(std::size_t index) const { return arena().parameter(index); }
  /// arena().stats(), over all processes where each has a part of the gradients: all call it then.
  virtual GradientStats gradient_stats() const { return arena().stats(); }
  virtual OptimizerTraits traits() const = 0;

  /// Sets the gradients to zero and keeps them where they are. Those of frozen parameters, and
  /// those that are to be released, become undefined.
  virtual void zero_grad() = 0;

  /// One pass: gradient * gradient_factor, moments, weights. Does nothing, not even count the step,
  /// where found_inf is not 0. Both are scalars of a floating dtype. Nothing waits.
  virtual void step_scaled(const torch::Tensor& gradient_factor,
                           const torch::Tensor& found_inf) = 0;

  /// A step in parts: once for each parameter, in any order and as soon as its gradient is whole,
  /// with the same two scalars; then finish_step(), which counts it. The bits are those of
  /// step_scaled(). A gradient that is to be released is undefined afterwards.
  virtual void step_parameter(std::size_t index, const torch::Tensor& gradient_factor,
                              const torch::Tensor& found_inf) = 0;
  virtual void finish_step(const torch::Tensor& found_inf) = 0;

  virtual OptimizerBytes bytes() const = 0;
  /// By name of parameter; load_state_dict() throws UserError for a state that does not fit, and
  /// leaves the optimizer as it was.
  virtual StateDict state_dict() const = 0;
  virtual void load_state_dict(const StateDict& state) = 0;
};

/// `optimizer` as one of these; nullptr where it is another's.
inline FusedOptimizer* as_fused(torch::optim::Optimizer& optimizer) {
  return dynamic_cast<FusedOptimizer*>(&optimizer);
}
inline const FusedOptimizer* as_fused(const torch::optim::Optimizer& optimizer) {
  return dynamic_cast<const FusedOptimizer*>(&optimizer);
}

}  // namespace halftone
