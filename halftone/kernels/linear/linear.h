// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <optional>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {

/// The dtype that matmuls with `x` have in this thread: autocast's, where it is on for x's
/// device and x is floating and not double, else x's own.
torch::ScalarType compute_dtype(const torch::Tensor& x);

/// The format that linear() of x multiplies in: that of the ComputeContext, where it quantizes
/// tensors of compute_dtype(x), else that dtype's own; nothing where no format has that dtype.
std::optional<ComputeType> linear_type(const torch::Tensor& x);

/// The dtype that matmuls with x and `weights` round x to: compute_dtype(x), or x's own where a
/// layer that multiplies in fp32 takes it as it is.
torch::ScalarType input_dtype(const torch::Tensor& x, const std::vector<torch::Tensor>& weights);

/// y = x W^T in the format linear_type(x), whose tensors are of compute_dtype(x); without autocast
/// x and W must agree. Formats that round are differentiable once. Matmuls are accumulated in fp32
/// or wider. 16-bit operands on the CPU are multiplied the way cpu_gemm_config() says, for each of
/// y, dX, dW; an fp32 weight gets its gradient without the detour through 16 bits where the path
/// allows. Under autocast, a weight marked by
/// mark_keep_fp32() makes it fp32: y = upcast(x) W^T, differentiable as often as at::linear. The
/// rounded x is kept for the gradient of W, except where swiglu() or a norm made x: then it is
/// computed again. x (..., in), weight (out, in); returns (..., out).
///
/// Weights that ComputeContext::stored_weights holds multiply as they are held, without gradients.
///
/// A weight that ComputeContext::layer_formats names multiplies in that format instead, unless it
/// is marked by mark_keep_fp32(). Beside 16-bit tensors, fp32 is computed as for a mark, with an
/// fp32 y; in all other formats x and W are rounded as they come, and y has compute_dtype(x).
torch::Tensor linear(const torch::Tensor& x, const torch::Tensor& weight);

/// linear(x, w) for each of `weights`, side by side, as one matmul where the weights lie one after
/// the other in memory (as AdamW's do) or are rounded to 16 bits anyway. x is rounded and kept
/// once, and its gradient is that of the whole matmul. Weights with formats of their own share a
/// matmul with those of the same format. Where fp32 meets others under autocast, the result is
/// fp32. x (..., in), weights (out_i, in); returns (..., sum of out_i).
torch::Tensor merged_linear(const torch::Tensor& x, const std::vector<torch::Tensor>& weights);

}  // namespace halftone
