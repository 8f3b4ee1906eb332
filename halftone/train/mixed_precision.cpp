// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/mixed_precision.h"

#include <utility>

namespace halftone {
namespace {

GradScalerOptions scaler_for(const PrecisionPolicy& policy, GradScalerOptions options) {
  options.enabled = policy.loss_scaling;
  options.allow_fp16_gradients = policy.parameter == torch::kFloat16;
  return options;
}

}  // namespace

MixedPrecision::MixedPrecision(PrecisionPolicy policy, GradScalerOptions scaler,
                               torch::Device device)
    : policy_(std::move(policy)), device_(device), scaler_(scaler_for(policy_, scaler)) {}

void MixedPrecision::convert_module(torch::nn::Module& module) {
  module.to(device_, policy_.parameter);
  scaler_.name_parameters(module);
}

Autocast MixedPrecision::forward_context() const {
  const auto dtype = policy_.autocast ? std::optional(policy_.compute) : std::nullopt;
  return Autocast(device_.type(), dtype, policy_.autocast);
}

void MixedPrecision::backward(const torch::Tensor& loss) { scaler_.scale(loss).backward(); }

StepResult MixedPrecision::step(AdamW& optimizer, double clip_norm) {
  StepResult result = scaler_.step(optimizer, {.clip_norm = clip_norm});
  scaler_.update();
  return result;
}

std::optional<double> MixedPrecision::loss_scale() const {
  if (!scaler_.is_enabled()) return std::nullopt;
  return scaler_.get_scale();
}

}  // namespace halftone
