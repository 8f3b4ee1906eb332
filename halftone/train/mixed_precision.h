// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <optional>

#include "halftone/core/autocast.h"
#include "halftone/core/state_dict.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/grad_scaler.h"
#include "halftone/precision/policy.h"

namespace halftone {

/// A named precision put to work in a training step: the dtype of the weights, autocast around the
/// forward pass, the loss scale around the backward pass and the update. One class for all recipes;
/// what differs between them is the policy's values.
class MixedPrecision {
 public:
  /// `scaler` matters to policies with loss scaling only.
  MixedPrecision(PrecisionPolicy policy, GradScalerOptions scaler, torch::Device device);

  /// Gives the parameters the policy's dtype, on the device. Call it before the optimizer exists.
  void convert_module(torch::nn::Module& module);

  /// The region for the forward pass and the loss; end it before backward().
  Autocast forward_context() const;

  /// Back-propagates loss * scale.
  void backward(const torch::Tensor& loss);

  /// Unscales, clips (0: not), updates unless a gradient overflowed, and moves the scale.
  StepResult step(AdamW& optimizer, double clip_norm);

  /// Nothing where the policy has no loss scale.
  std::optional<double> loss_scale() const;
  const PrecisionPolicy& policy() const { return policy_; }

  StateDict state_dict() const { return scaler_.state_dict(); }
  void load_state_dict(const StateDict& state) { scaler_.load_state_dict(state); }

 private:
  PrecisionPolicy policy_;
  torch::Device device_;
  GradScaler scaler_;
};

}  // namespace halftone
