// SPDX-License-Identifier: Apache-2.0
// Random numbers whose every draw is a function of a seed and a position, so that nothing has to be
// replayed to resume.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// SplitMix64 (Steele, Lea, Flood 2014): the `index`-th 64-bit word of the stream called `seed`.
std::uint64_t random_word(std::uint64_t seed, std::uint64_t index);

/// Where `index` of 0..size-1 goes in the pseudo-random permutation called `seed`: a four-round
/// Feistel network with cycle walking, so a shuffle of any size needs no memory.
/// REQUIRES index < size.
std::uint64_t permuted_index(std::uint64_t seed, std::uint64_t index, std::uint64_t size);

/// State of LibTorch's default CPU generator: a uint8 tensor (n), for set_default_rng_state.
torch::Tensor default_rng_state();
void set_default_rng_state(const torch::Tensor& state);

}  // namespace halftone
