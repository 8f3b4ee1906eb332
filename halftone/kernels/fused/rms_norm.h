// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// x / sqrt(mean(x^2) + eps) over the last dimension, in fp32 (double for double), rounded to x's
/// dtype (not under autocast with a weight marked by mark_keep_fp32()), times weight. Zhang and
/// Sennrich 2019.
/// x (..., dim), weight (dim); returns (..., dim) in the dtype of x times weight.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);

struct NormedSum {
  torch::Tensor sum;     // (..., dim), x + branch
  torch::Tensor normed;  // (..., dim), rms_norm of the sum
};

/// A residual branch joins its stream and the sum is normed, in one pass, and so is the backward.
/// Without a branch (undefined) the sum is x itself: so the stream's two gradients meet in one pass
/// as well.
/// `normed` is rounded to `dtype` where that is narrower than what rms_norm() gives: what a 16-bit
/// matmul does to its input, without a pass of its own.
/// x and branch (..., dim), weight (dim). Differentiable as often as its definition, which is what
/// runs where the operands are not dense, of one dtype (the branch may have 16 bits beside fp32)
/// and on a CPU with vector instructions.
NormedSum add_rms_norm(const torch::Tensor& x, const torch::Tensor& branch,
                       const torch::Tensor& weight, double eps,
                       torch::ScalarType dtype = torch::kFloat);

/// The definitions, in plain ATen operations.
torch::Tensor rms_norm_reference(const torch::Tensor& x, const torch::Tensor& weight, double eps);
NormedSum add_rms_norm_reference(const torch::Tensor& x, const torch::Tensor& branch,
                                 const torch::Tensor& weight, double eps,
                                 torch::ScalarType dtype = torch::kFloat);

}  // namespace halftone
