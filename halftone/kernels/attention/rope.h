// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// Rotates adjacent pairs (2i, 2i+1) of the last dimension, in fp32, rounded to x's dtype.
/// x (B, T, H, head_dim), rotations (T, head_dim / 2) complex64; returns x's shape.
torch::Tensor apply_rope(const torch::Tensor& x, const torch::Tensor& rotations);

}  // namespace halftone
