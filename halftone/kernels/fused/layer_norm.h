// SPDX-License-Identifier: Apache-2.0
// Norms that subtract a mean. Their statistics are fp32 (double for double) in every recipe, and
// everything up to the result is computed in fp32 and rounded once.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// (x - mean) / sqrt(variance + eps) over the last dimension, times weight, plus bias (Ba et al.
/// 2016). x (..., dim); weight and bias (dim), or undefined. Returns (..., dim) in the dtype of x
/// times weight: fp32 for a 16-bit x and an fp32 weight, x's without a weight. Under autocast a
/// weight marked by mark_keep_fp32() makes it fp32.
torch::Tensor layer_norm(const torch::Tensor& x, const torch::Tensor& weight,
                         const torch::Tensor& bias, double eps);

/// The same over the channels of a group and all places (Wu and He 2018). x (B, C, ...), C a
/// multiple of `groups`; weight and bias (C), or undefined.
torch::Tensor group_norm(const torch::Tensor& x, std::int64_t groups, const torch::Tensor& weight,
                         const torch::Tensor& bias, double eps);

/// The definitions, in elementary ATen operations.
torch::Tensor layer_norm_reference(const torch::Tensor& x, const torch::Tensor& weight,
                                   const torch::Tensor& bias, double eps);
torch::Tensor group_norm_reference(const torch::Tensor& x, std::int64_t groups,
                                   const torch::Tensor& weight, const torch::Tensor& bias,
                                   double eps);

}  // namespace halftone
