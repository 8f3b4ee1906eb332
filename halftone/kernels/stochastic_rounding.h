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

/// `count` random 32-bit words in int64: rounding_bits() (adamw_impl.h) of 0, 1, ... with the key
/// random_word(stream, 0).
torch::Tensor rounding_words(std::uint64_t stream, std::int64_t count, torch::Device device);

}  // namespace halftone
