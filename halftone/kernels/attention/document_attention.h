// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <functional>

namespace halftone {

/// Attention over rows that hold several documents, which must not know of each other: calls
/// `attend` for each document alone, at positions that begin with the first of `rotations`, and
/// puts the results together. The documents are those of compute_context().documents; without any,
/// it is attend(qkv, rotations). qkv (B, T, width), rotations (T, d / 2); `attend` gets a
/// (1, t, width) and the rotations of t positions, and returns (1, t, out). Returns (B, T, out).
torch::Tensor attend_documents(
    const torch::Tensor& qkv, const torch::Tensor& rotations,
    const std::function<torch::Tensor(const torch::Tensor& qkv, const torch::Tensor& rotations)>&
        attend);

}  // namespace halftone
