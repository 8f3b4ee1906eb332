// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <vector>

namespace halftone {

struct ClipOptions {
  double norm_type = 2.0;  // infinity: the largest absolute value
  bool error_if_nonfinite = false;
};

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it, for a scalar `norm`:
/// gradients are multiplied by it. 1 where max_norm is inf.
torch::Tensor clip_factor(const torch::Tensor& norm, double max_norm);

/// Scales the gradients, in place, so that their common norm is at most `max_norm`; returns the
/// norm before that, an fp64 scalar on the first gradient's device. Squares are summed in fp64:
/// finite fp32, bf16 and fp16 gradients have a finite norm. Gradients stay as they are, bit for
/// bit, unless they are longer than `max_norm`, and also where their norm is not finite, so that a
/// later check still sees which of them overflowed. Waits for the device only when
/// error_if_nonfinite asks for a look at the norm.
torch::Tensor clip_grad_norm_(const std::vector<torch::Tensor>& parameters, double max_norm,
                              const ClipOptions& options = {});

/// Clamps each element of the gradients, in place, to -max_value..max_value. Elements that are not
/// finite stay as they are, so that a later check still sees them.
void clip_grad_value_(const std::vector<torch::Tensor>& parameters, double max_value);

}  // namespace halftone
