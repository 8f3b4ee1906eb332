// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <vector>

namespace halftone {

struct ClipOptions {
  double norm_type = 2.0;  // infinity: the largest absolute value
  bool error_if_nonfinite = false;
};

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it: what gradients of
/// such a norm, a scalar, are multiplied by.
torch::Tensor clip_factor(const torch::Tensor& norm, double max_norm);

/// Scales the gradients, in place, so that their common norm is at most `max_norm`; returns the
/// norm before that, an fp32 scalar on the first gradient's device. 16-bit gradients are summed in
/// fp32. Waits for the device only when error_if_nonfinite asks for a look at the norm.
torch::Tensor clip_grad_norm_(const std::vector<torch::Tensor>& parameters, double max_norm,
                              const ClipOptions& options = {});

/// Clamps each element of the gradients, in place, to -max_value..max_value. What is not
/// finite stays as it is, so that a later check still sees it.
void clip_grad_value_(const std::vector<torch::Tensor>& parameters, double max_value);

}  // namespace halftone
