// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// Rows of `weight` (V, dim) by `ids` (...), integers in 0 .. V - 1, else c10::Error (on the CPU).
/// Returns (..., dim) in the weight's dtype, differentiable as at::embedding is.
torch::Tensor embedding(const torch::Tensor& weight, const torch::Tensor& ids);

/// Its gradient (classes, dim): for each id the sum of its rows of `gradient` (..., dim), in fp32
/// whatever their dtype, rounded once to it. Without atomics: the same bits for any number of
/// threads. Not differentiable.
torch::Tensor embedding_gradient(const torch::Tensor& gradient, const torch::Tensor& ids,
                                 std::int64_t classes);

/// The definition, in plain ATen operations; sums in fp32, too.
torch::Tensor embedding_gradient_reference(const torch::Tensor& gradient, const torch::Tensor& ids,
                                           std::int64_t classes);

}  // namespace halftone
