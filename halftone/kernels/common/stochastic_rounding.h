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

/// The random 32-bit words of (seed, step, first_index + 0, 1, ...), (count) in int64, on the
/// device of `step`.
torch::Tensor step_words(std::uint64_t seed, const torch::Tensor& step, std::int64_t first_index,
                         std::int64_t count);

/// The same rounding by random bits of one's own: the low 16 of each word, int64.
torch::Tensor round_stochastically(const torch::Tensor& values, const torch::Tensor& words);

/// `count` random 32-bit words in int64: rounding_bits() (adamw_impl.h) of 0, 1, ... with the key
/// random_word(stream, 0).
torch::Tensor rounding_words(std::uint64_t stream, std::int64_t count, torch::Device device);

}  // namespace halftone
