// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// Cross entropy of each row: log-sum-exp minus the target's logit, fp32 whatever the dtype of
/// `logits` (fp64 stays). A row of weight 0 has the loss 0, and its target may be anything; any
/// other target outside 0 .. V - 1 throws c10::Error. A row with nan or +inf, or of -inf alone,
/// gives nan. The same bits for any number of threads.
/// logits (N, V) floating, V > 0; targets (N) int64; weights (N), fp32. Returns (N). Not
/// differentiable.
torch::Tensor row_cross_entropy(const torch::Tensor& logits, const torch::Tensor& targets,
                                const torch::Tensor& weights);

/// The same, and overwrites `logits` (contiguous) by weight * (softmax - onehot), computed in fp32
/// and rounded once: the gradient of sum(weights * losses).
torch::Tensor row_cross_entropy_to_gradient(torch::Tensor& logits, const torch::Tensor& targets,
                                            const torch::Tensor& weights);

/// The definition, in plain ATen operations, differentiable in `logits`.
torch::Tensor row_cross_entropy_reference(const torch::Tensor& logits, const torch::Tensor& targets,
                                          const torch::Tensor& weights);

/// sum(weights * losses) / sum(weights), or 0 where the weights add up to 0.
torch::Tensor weighted_mean(const torch::Tensor& losses, const torch::Tensor& weights);

/// weighted_mean() of row_cross_entropy_reference(), `mask` (N) of any dtype being the weights;
/// autocast stays out of it. Differentiable in `logits`.
torch::Tensor masked_mean_cross_entropy(const torch::Tensor& logits, const torch::Tensor& targets,
                                        const torch::Tensor& mask);

}  // namespace halftone
