// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// Mean cross entropy over the positions whose mask is not zero, in fp32 whatever the logits'
/// dtype: sum(ce * mask) / sum(mask). A batch without any such position gives exactly 0 and zero
/// gradients (MiniMind's own formula gives 0/0 there). logits (N, V) floating; targets (N) int64,
/// ignored where masked; mask (N) of any dtype, weights are allowed. Returns a scalar,
/// differentiable in `logits`.
torch::Tensor masked_cross_entropy(const torch::Tensor& logits, const torch::Tensor& targets,
                                   const torch::Tensor& mask);

/// masked_cross_entropy() of the logits linear(hidden, weight), which are never all in memory: on
/// the CPU, chunks of rows give loss and gradients in the forward pass. Differentiable once.
/// hidden (..., dim), weight (V, dim), targets (...) int64, mask (...).
torch::Tensor masked_linear_cross_entropy(const torch::Tensor& hidden, const torch::Tensor& weight,
                                          const torch::Tensor& targets, const torch::Tensor& mask);

}  // namespace halftone
