// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// `values` (n), fp32, as bfloat16: up or down with the probabilities that keep the mean, by random
/// bits that are a function of (seed, step, first_index + position) alone. Inf and nan stay.
/// `step` is an int64 scalar on the same device; nothing waits for it.
torch::Tensor round_stochastically(const torch::Tensor& values, std::uint64_t seed,
                                   const torch::Tensor& step, std::int64_t first_index);

}  // namespace halftone
