// SPDX-License-Identifier: Apache-2.0
// Random numbers whose every draw is a function of a seed and a position, so that nothing has to be
// replayed to resume.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "halftone/core/state_dict.h"

namespace halftone {

/// SplitMix64 (Steele, Lea, Flood 2014): the `index`-th 64-bit word of the stream called `seed`.
std::uint64_t random_word(std::uint64_t seed, std::uint64_t index);

/// The image of `index` (0..size-1) under the pseudo-random permutation `seed`: a four-round
/// Feistel network with cycle walking. A shuffle of any size needs no memory. REQUIRES index <
/// size.
std::uint64_t permuted_index(std::uint64_t seed, std::uint64_t index, std::uint64_t size);

/// Seeds LibTorch's default generators of all devices and the C library's rand(), and returns
/// `seed`: for TrainerOptions::seed and the seeds of loaders.
std::uint64_t seed_everything(std::uint64_t seed);

/// State of LibTorch's default generators: "cpu", and "cuda" when `device` is a GPU; uint8 tensors.
StateDict rng_state(torch::Device device);
/// Throws UserError when the state of one of them is missing.
void set_rng_state(torch::Device device, const StateDict& state);

/// In its scope, the default generators go on from `state`; behind it, from where they stood.
class GeneratorScope {
 public:
  GeneratorScope(torch::Device device, const StateDict& state);
  ~GeneratorScope();
  GeneratorScope(const GeneratorScope&) = delete;
  GeneratorScope& operator=(const GeneratorScope&) = delete;

 private:
  torch::Device device_;
  StateDict before_;
};

}  // namespace halftone
