// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// y = x W^T, differentiable. The compute dtype is autocast's, where autocast is on and both are
/// floating and not double, else theirs (which must agree then). Products are accumulated in fp32
/// or wider.
/// 16-bit operands on the CPU are multiplied the way matmul_paths() says, for each of y, dX, dW;
/// an fp32 weight gets its gradient without the detour through 16 bits where the path allows.
/// x (..., in), weight (out, in); returns (..., out) in the compute dtype.
torch::Tensor linear(const torch::Tensor& x, const torch::Tensor& weight);

}  // namespace halftone
