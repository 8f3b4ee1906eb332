// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/core/state_dict.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/layer_formats.h"
#include "halftone/optim/fused_optimizer.h"
#include "halftone/precision/grad_scaler.h"
#include "halftone/precision/memory_policy.h"
#include "halftone/precision/policy.h"
#include "halftone/train/batch_placement.h"

namespace halftone {

enum class ClipAlgorithm { kNorm, kValue };

struct GradientClip {
  double value = 0.0;  // 0: no clipping
  ClipAlgorithm algorithm = ClipAlgorithm::kNorm;
};

/// Around a forward pass and its loss; gone before backward().
struct ForwardContext {
  Autocast autocast;
  ComputeScope compute;
};

/// Adds another optimizer's step to the outcome of a training step: it stepped if all did, and its
/// norm is that of all gradients.
void add_step(StepResult& all, const StepResult& one);

using Optimizers = std::vector<std::shared_ptr<torch::optim::Optimizer>>;

/// A named precision put to work in a training step: the dtype of the weights, autocast around the
/// forward pass, the loss scale around the backward pass and the update. One class for all recipes;
/// what differs between them is the policy's values.
class MixedPrecision {
 public:
  /// `scaler` matters to policies with loss scaling only. Of `memory`, what concerns the optimizer
  /// is up to its options (MemoryPolicy::adamw()). `layer_precision`: formats of single layers
  /// (train/layer_precision.h), which convert_module() looks for. Throws UserError for states that
  /// are to be offloaded from another device than the CPU, and for formats that the policy can't
  /// have beside its own.
  MixedPrecision(PrecisionPolicy policy, GradScalerOptions scaler, torch::Device device,
                 MemoryPolicy memory = {}, std::vector<std::string> layer_precision = {});

  /// Gives floating parameters and buffers the policy's dtype, and moves all to the device.
  /// Integer, bool and complex tensors keep their dtype. Where the memory recipe has weights in
  /// bf16, those of two dimensions and 4096 elements or more that are not kept in fp32 become bf16.
  /// Call it before the optimizer exists. Throws UserError for a format that layers
  /// quantize to themselves, in a module without such a layer, and for single layers that the
  /// module does not have.
  void convert_module(torch::nn::Module& module);

  /// Formats of single layers in the regions that begin from now on, in the place of those of
  /// before; none: all layers multiply as the policy says.
  void set_layer_formats(std::shared_ptr<const LayerFormats> formats) {
    layer_formats_ = std::move(formats);
  }
  const std::shared_ptr<const LayerFormats>& layer_formats() const { return layer_formats_; }

  /// The region for the forward pass and the loss; end it before backward(). `pass` counts the
  /// run's passes that train: gradients are rounded by random numbers of their own in each,
  /// which `seed` fixes. `fused_grads`: whether backward() may add gradients to .grad as it
  /// computes them.
  ForwardContext forward_context(std::int64_t pass = 0, std::uint64_t seed = 0,
                                 bool fused_grads = true) const;

  /// loss * scale.
  torch::Tensor scaled(const torch::Tensor& loss) { return scaler_.scale(loss); }
  /// Back-propagates it.
  void backward(const torch::Tensor& loss, bool retain_graph = false);

  /// Unscales and clips the gradients of each optimizer, and updates unless one of them overflowed.
  /// Without a loss scale as well, gradients that are not finite skip the update. In the result
  /// `stepped` says that all have stepped; grad_norm is that of all gradients. Call update() next.
  StepResult step(const Optimizers& optimizers, const GradientClip& clip = {});
  /// The same of one optimizer.
  StepResult step(torch::optim::Optimizer& optimizer, const GradientClip& clip = {});
  /// backward() and step() in one, where the memory recipe releases gradients: they are applied as
  /// they come (optim/optimizer_in_backward.h). Of one optimizer, an AdamW whose options have
  /// release_gradients; clips by the norm, the recipe's. Where clip_mode is previous and no norm
  /// of a step before is known, this step is clipped exactly. A gradient that is not finite ends
  /// the update; parameters that had theirs before stay updated, unless clipping is exact.
  StepResult backward_and_step(const torch::Tensor& loss, const Optimizers& optimizers,
                               const GradientClip& clip = {});
  /// Moves the scale, once after each step() or backward_and_step(). The verdict says when no
  /// update was possible for too long (GradScalerOptions::max_skips_at_floor).
  ScalerVerdict update() { return scaler_.update(); }

  /// Nothing where the policy has no loss scale.
  std::optional<double> loss_scale() const;
  /// Share of the gradients' values that fp16 flushed to zero with the scale of the last step; only
  /// for a step that an adaptive scale measured. Waits for the device.
  std::optional<double> underflow_share();
  const PrecisionPolicy& policy() const { return policy_; }
  const MemoryPolicy& memory() const { return memory_; }
  const GradScalerOptions& scaler_options() const { return scaler_.options(); }
  const torch::Device& device() const { return device_; }
  BatchPlacement batch_placement() const { return {device_, policy_.input()}; }

  /// The state that the next step depends on: the scaler's, if there is one, and "previous_norm",
  /// if released gradients are clipped by it.
  StateDict state_dict() const;
  void load_state_dict(const StateDict& state);

 private:
  PrecisionPolicy policy_;
  MemoryPolicy memory_;
  torch::Device device_;
  std::vector<std::string> layer_precision_;
  std::shared_ptr<const LayerFormats> layer_formats_;
  std::int64_t measured_update_ = 0;     // the last one whose measurement was reported
  std::optional<double> previous_norm_;  // of the step before, if all of it was finite
  GradScaler scaler_;  // fixed at 1 where the policy has no loss scale: it still skips and names
};

}  // namespace halftone
