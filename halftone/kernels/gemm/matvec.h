// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <vector>

namespace halftone {

/// Whether the CPU's kernel of matvec() takes these operands and is the faster way: gradients are
/// off, 1 to 8 rows of fp32, bf16 or fp16, AVX2 or NEON, weights of `dtype` or fp32, or
/// any of the three where `dtype` is fp32, whose rows are dense.
bool takes_matvec(const torch::Tensor& x, const std::vector<torch::Tensor>& weights,
                  torch::ScalarType dtype);

/// merged_linear() for few rows: x W^T for each of `weights`, side by side; x and W rounded to
/// `dtype`, exact products, fp32 sums, rounded once to `dtype`. A row's result depends neither on
/// the other rows nor on the other weights nor on the number of threads. Not differentiable.
/// x (..., in), weights (out_i, in); returns (..., sum of out_i). On a CPU it REQUIRES
/// takes_matvec(); other devices compute its definition.
torch::Tensor matvec(const torch::Tensor& x, const std::vector<torch::Tensor>& weights,
                     torch::ScalarType dtype);

}  // namespace halftone
