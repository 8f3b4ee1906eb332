// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "halftone/kernels/linear/unfold.h"

namespace halftone {

/// A convolution in two dimensions (LeCun et al. 1989) in the format linear_type(x): the matmul of
/// the unfolded windows of x with the weight as a matrix (out, C * height * width), with the
/// formats' rules for x, weight, gradients and result (linear.h).
///
/// Where kernel and stride are the same and nothing is padded, it is linear() of reshaped x. In
/// fp32, bf16 and fp16 everything else is LibTorch's own convolution: the same operands, fp32 sums,
/// each result rounded once; what cpu_gemm_config() says of 16-bit convolutions holds. int8 and fp8
/// unfold x in parts of a bounded size, forward and backward, and keep x alone; a part quantizes
/// like a linear layer's input, so fp8 has a scale for each part. Formats that round on the CPU are
/// differentiable once.
///
/// A weight marked by mark_keep_fp32(), or that ComputeContext::layer_formats names, is treated as
/// linear() does.
///
/// x (B, C, H, W), weight (out, C / groups, height, width), bias (out) or undefined; `grid.kernel`
/// is the weight's. Returns (B, out, places down, places across) in the memory format of x and the
/// dtype that linear() gives. Without autocast x and weight must agree. Throws UserError for groups
/// in int8 or fp8.
torch::Tensor conv2d(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias,
                     const WindowGrid& grid, std::int64_t groups = 1);

/// Numbers that a part of the unfolded windows holds at most, unless one line of windows has more.
std::int64_t unfolded_part_limit();
/// For tests: parts of at most `limit` numbers from now on.
void set_unfolded_part_limit(std::int64_t limit);

}  // namespace halftone
