// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/core/random.h"

namespace halftone {

/// Where the random numbers of one sample or batch come from: equal for equal loader seed, epoch
/// and place, whichever thread asks. A random transform draws from it, not from LibTorch's default
/// generator, whose numbers depend on what else the process does.
struct SampleSeed {
  std::uint64_t value = 0;

  /// The `i`-th 64-bit word of its stream.
  std::uint64_t word(std::uint64_t i) const { return random_word(value, i); }
  /// The `i`-th number of [0, 1), a multiple of 2^-53 from the upper bits of word(i).
  double uniform(std::uint64_t i) const { return static_cast<double>(word(i) >> 11U) * 0x1p-53; }
  /// A new generator for LibTorch's operations: torch::rand({3}, seed.generator()).
  torch::Generator generator() const { return at::make_generator<at::CPUGeneratorImpl>(value); }
};

}  // namespace halftone
